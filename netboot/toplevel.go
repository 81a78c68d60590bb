package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// toplevel is what a NixOS system says of how to boot it.
type toplevel struct {
	path       string // store path
	init       string // for the kernel's init=: a path in the store
	params     string // the kernel's command line without init=
	kernel     string // file on this machine
	kernelName string // base name of the kernel, for the output
	kernelInfo kernelInfo
	initrd     string // NixOS's own initrd on this machine, or empty
	modules    string // directory on this machine: lib/modules, or empty
}

// bootspec is the part we need of NixOS RFC 125's boot.json.
type bootspec struct {
	V1 *struct {
		Init         string   `json:"init"`
		Initrd       string   `json:"initrd"`
		Kernel       string   `json:"kernel"`
		KernelParams []string `json:"kernelParams"`
	} `json:"org.nixos.bootspec.v1"`
	NixosInit json.RawMessage `json:"org.nixos.nixos-init.v1"`
}

// readToplevel reads a system's boot.json or, where there is none or none of
// version 1, the files of its toplevel.
func readToplevel(s store, p string) (*toplevel, error) {
	if _, err := os.Stat(s.real(p)); err != nil {
		return nil, fmt.Errorf("toplevel: %w", err)
	}
	t := &toplevel{path: p, init: p + "/init"}
	kernel, initrd := p+"/kernel", p+"/initrd"
	spec, err := readBootspec(s, p)
	if err != nil {
		return nil, err
	}
	if v := spec.V1; v != nil {
		t.init, kernel, initrd = v.Init, v.Kernel, v.Initrd
		t.params = strings.Join(v.KernelParams, " ")
	} else {
		params, err := os.ReadFile(s.real(p + "/kernel-params"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		t.params = strings.TrimSpace(string(params))
	}
	if t.kernel, err = s.resolve(kernel); err != nil {
		return nil, fmt.Errorf("toplevel %s has no kernel: %w", p, err)
	}
	t.kernelName = filepath.Base(t.kernel)
	if t.kernelInfo, err = readKernel(t.kernel); err != nil {
		return nil, err
	}
	if initrd != "" {
		if t.initrd, err = s.resolve(initrd); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("initrd of toplevel %s: %w", p, err)
		}
	}
	if t.modules, err = s.resolve(p + "/kernel-modules/lib/modules"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("kernel modules of toplevel %s: %w", p, err)
	}
	return t, checkInit(s, t, spec)
}

func readBootspec(s store, p string) (*bootspec, error) {
	spec := &bootspec{}
	data, err := os.ReadFile(s.real(p + "/boot.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return spec, nil
	}
	if err != nil {
		return nil, err
	}
	if spec, err = parseBootspec(data); err != nil {
		return nil, fmt.Errorf("%s/boot.json: %w", p, err)
	}
	return spec, nil
}

// parseBootspec reads a boot.json. Where it has version 1, that names a kernel
// and an init.
func parseBootspec(data []byte) (*bootspec, error) {
	spec := &bootspec{}
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, err
	}
	v := spec.V1
	if v == nil {
		return spec, nil
	}
	for _, f := range []struct{ name, file string }{{"kernel", v.Kernel}, {"init", v.Init}} {
		if !path.IsAbs(f.file) {
			return nil, fmt.Errorf("org.nixos.bootspec.v1: %s is %q, not an absolute path", f.name, f.file)
		}
	}
	return spec, nil
}

// checkInit refuses a toplevel that stage 1 cannot start.
func checkInit(s store, t *toplevel, spec *bootspec) error {
	if _, err := s.resolve(t.path + "/prepare-root"); err == nil {
		return nil // made for a systemd initrd: stage 1 runs prepare-root
	}
	if spec.NixosInit != nil {
		return fmt.Errorf("toplevel %s is activated by nixos-init (boot.json has org.nixos.nixos-init.v1, and there is no prepare-root), which stage 1 cannot do: set system.nixos-init.enable = false", t.path)
	}
	init, err := s.resolve(t.init)
	if err != nil {
		return fmt.Errorf("toplevel %s: init: %w", t.path, err)
	}
	if filepath.Base(init) == "systemd" {
		return fmt.Errorf("toplevel %s: its init is systemd itself (%s) and there is no prepare-root: nothing would activate the system", t.path, init)
	}
	if err := unix.Access(init, unix.X_OK); err != nil {
		return fmt.Errorf("toplevel %s: init %s is not executable: %w", t.path, init, err)
	}
	return nil
}

// modulesDir returns the directory of the kernel's modules, and its version.
func (t *toplevel) modulesDir() (dir, version string, err error) {
	if t.modules == "" {
		return "", "", fmt.Errorf("toplevel %s has no kernel-modules/lib/modules", t.path)
	}
	list, err := os.ReadDir(t.modules)
	if err != nil {
		return "", "", err
	}
	var versions []string
	for _, d := range list {
		versions = append(versions, d.Name())
	}
	version = t.kernelInfo.version
	if version == "" && len(versions) == 1 {
		version = versions[0]
	}
	if version == "" {
		return "", "", fmt.Errorf("toplevel %s: kernel %s does not say its version, and there are modules for %q", t.path, t.kernel, versions)
	}
	if !slices.Contains(versions, version) {
		return "", "", fmt.Errorf("toplevel %s: kernel %s is version %q, its modules are for %q", t.path, t.kernel, version, versions)
	}
	return filepath.Join(t.modules, version), version, nil
}

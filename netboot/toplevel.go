package netboot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"stage1/bootspec"
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
	etcOverlay bool   // /etc is made of layers, which stage 1 mounts
}

// readToplevel reads a system's boot.json or, where there is none or none of
// version 1, the files of its toplevel.
func readToplevel(s store, p string) (*toplevel, error) {
	if _, err := os.Stat(s.real(p)); err != nil {
		return nil, fmt.Errorf("toplevel: %w", err)
	}
	t := &toplevel{path: p, init: p + "/init"}
	kernel, initrd := p+"/kernel", p+"/initrd"
	spec, err := bootspec.Read(s.open, p)
	if err != nil {
		return nil, fmt.Errorf("toplevel %s: %w", p, err)
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
	return t, checkInit(s, t)
}

// checkInit refuses a toplevel that stage 1 cannot start.
func checkInit(s store, t *toplevel) error {
	stage2, err := bootspec.FindStage2(s.open, t.init)
	if err != nil {
		return fmt.Errorf("toplevel %s: %w", t.path, err)
	}
	program, err := s.resolve(stage2.Program)
	if err != nil {
		return fmt.Errorf("toplevel %s: init: %w", t.path, err)
	}
	if err := unix.Access(program, unix.X_OK); err != nil {
		return fmt.Errorf("toplevel %s: %s is not executable: %w", t.path, stage2.Program, err)
	}
	t.etcOverlay = stage2.Etc != nil
	return nil
}

// checkEtcKernel refuses a kernel that cannot mount an /etc of layers: overlayfs
// takes a layer of data only since Linux 6.5.
func checkEtcKernel(version string) error {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("kernel version %q: %w", version, err)
	}
	if major < 6 || major == 6 && minor < 5 {
		return fmt.Errorf("its /etc is an overlay (system.etc.overlay.enable), which needs Linux 6.5 or later; its kernel is %s", version)
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

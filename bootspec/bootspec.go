// Package bootspec reads how a NixOS toplevel is to be booted: from its
// boot.json (NixOS RFC 125), and from its files where that says nothing.
//
// It looks only at the toplevel. What opens a file, on the machine that builds or
// in the root to be, is the caller's.
package bootspec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// Open opens a file by its path in the booted system. A symlink in it leads to
// where it will lead there. Its error is fs.ErrNotExist for a file that is not
// there.
type Open func(name string) (*os.File, error)

// Spec is the part of boot.json that is needed to boot.
type Spec struct {
	V1        *V1        `json:"org.nixos.bootspec.v1"`
	NixosInit *NixosInit `json:"org.nixos.nixos-init.v1"`
}

// V1 is the specification itself.
type V1 struct {
	Init         string   `json:"init"`
	Initrd       string   `json:"initrd"`
	Kernel       string   `json:"kernel"`
	KernelParams []string `json:"kernelParams"`
}

// NixosInit is what nixos-init reads to activate a system: nixpkgs
// pkgs/by-name/ni/nixos-init/src/config.rs. Every toplevel of NixOS 26.05 has it,
// whether nixos-init starts it or not (nixos/modules/system/activation/
// nixos-init.nix). A nil pointer is what the configuration does not manage.
type NixosInit struct {
	Firmware     *string  `json:"firmware"`             // where the kernel looks for firmware
	Modprobe     *string  `json:"modprobe_binary"`      // what the kernel runs to load a module
	StoreOptions []string `json:"nix_store_mount_opts"` // of the mount on /nix/store
	Env          *string  `json:"env_binary"`           // target of /usr/bin/env, "" for none
	Sh           *string  `json:"sh_binary"`            // target of /bin/sh, "" for none
	EtcImage     string   `json:"etc_metadata_image"`   // see Etc
	EtcBase      string   `json:"etc_basedir"`
}

// maxSpec bounds boot.json, in bytes. One of NixOS 26.05 has about 2,000.
const maxSpec = 1 << 20

// Read reads the boot.json of the toplevel in dir. Where there is none, so is
// everything in the result.
func Read(open Open, dir string) (*Spec, error) {
	spec := &Spec{}
	name := path.Join(dir, "boot.json")
	f, err := open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return spec, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err == nil && len(data) > maxSpec {
		err = fmt.Errorf("larger than %d bytes", maxSpec)
	}
	if err == nil {
		spec, err = parse(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return spec, nil
}

// parse reads a boot.json. Where it has version 1, that names a kernel and an
// init.
func parse(data []byte) (*Spec, error) {
	spec := &Spec{}
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

// Stage2 is what starts a system, and what has to be done for it before.
type Stage2 struct {
	Program   string     // to execute as PID 1, a path in the booted system
	Toplevel  string     // directory of the init that was asked for
	Etc       *Etc       // to be mounted on /etc first, or nil
	NixosInit *NixosInit // nil if Program activates the system itself
}

// Etc is an /etc made of two layers: an EROFS image of everything but the files'
// contents, and a directory with these (nixpkgs nixos/modules/system/etc/etc.nix,
// system.etc.overlay). NixOS mounts it in its own initrd.
type Etc struct {
	Image string // file
	Base  string // directory
}

// FindStage2 finds what to execute for init, the path in the booted system of a
// toplevel's init. nixpkgs nixos/modules/system/activation/top-level.nix makes
// three kinds of toplevel:
//   - init is the stage 2 script;
//   - init is a copy of systemd, and prepare-root is the stage 2 script: the
//     initrd has systemd, which runs it;
//   - init is a copy of systemd, and there is no script: nixos-init, a program of
//     the initrd, activates the system as boot.json says.
//
// Any other program, or an init that is not there, is executed as it is.
func FindStage2(open Open, init string) (*Stage2, error) {
	dir := path.Dir(init)
	s := &Stage2{Program: init, Toplevel: dir}
	script := path.Join(dir, "prepare-root")
	if path.Base(init) != "init" {
		return s, nil
	}
	if f, err := open(script); err == nil {
		f.Close()
		s.Program = script
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if same, err := sameContent(open, init, path.Join(dir, "systemd/lib/systemd/systemd")); err != nil {
		return nil, err
	} else if !same {
		return s, nil
	}
	spec, err := Read(open, dir)
	if err != nil {
		return nil, err
	}
	if s.Etc, err = findEtc(open, spec, dir); err != nil {
		return nil, err
	}
	if s.Program == script {
		return s, nil
	}
	if spec.NixosInit == nil {
		return nil, fmt.Errorf("%s is systemd itself, there is no prepare-root beside it, and boot.json has no org.nixos.nixos-init.v1: nothing would activate the system; with NixOS 25.11 or older set system.nixos-init.enable = false", init)
	}
	if s.Etc == nil {
		return nil, fmt.Errorf("%s is systemd itself and there is no prepare-root beside it, as nixos-init has it, but boot.json names no etc_metadata_image and etc_basedir: the system would have no /etc; set system.nixos-init.enable = false", init)
	}
	s.NixosInit = spec.NixosInit
	return s, nil
}

// findEtc returns the layers of /etc, or nil where it is none of layers.
func findEtc(open Open, spec *Spec, dir string) (*Etc, error) {
	if n := spec.NixosInit; n != nil {
		if n.EtcImage == "" || n.EtcBase == "" {
			return nil, nil
		}
		return &Etc{n.EtcImage, n.EtcBase}, nil
	}
	etc := &Etc{path.Join(dir, "etc-metadata-image"), path.Join(dir, "etc-basedir")}
	for _, name := range []string{etc.Image, etc.Base} {
		f, err := open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		f.Close()
	}
	return etc, nil
}

// sameContent says whether two files are one, or as good as one. A file that is
// not there is like no other.
func sameContent(open Open, a, b string) (bool, error) {
	var files [2]*os.File
	var infos [2]fs.FileInfo
	for i, name := range []string{a, b} {
		f, err := open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		defer f.Close()
		files[i] = f
		if infos[i], err = f.Stat(); err != nil {
			return false, err
		}
	}
	if os.SameFile(infos[0], infos[1]) {
		return true, nil
	}
	if infos[0].Size() != infos[1].Size() || !infos[0].Mode().IsRegular() || !infos[1].Mode().IsRegular() {
		return false, nil
	}
	return equal(files[0], files[1])
}

// equal compares what two readers give.
func equal(a, b io.Reader) (bool, error) {
	var bufA, bufB [32 << 10]byte
	for {
		n, errA := io.ReadFull(a, bufA[:])
		m, errB := io.ReadFull(b, bufB[:])
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if errA == io.EOF || errA == io.ErrUnexpectedEOF {
			return errB == errA, nil
		}
		if err := errors.Join(errA, errB); err != nil {
			return false, err
		}
	}
}

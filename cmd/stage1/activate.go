package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"stage1/bootspec"
	"stage1/manifest"
	"stage1/mount"
)

// etcMetadata is where NixOS's initrd mounts the metadata of /etc, and where
// switch-to-configuration looks for it: nixpkgs nixos/modules/system/etc/
// etc-activation.nix.
const etcMetadata = "/run/nixos-etc-metadata"

// activate does in the new root what NixOS's own initrd does there before stage 2
// starts, for toplevels that need it: the layers of /etc and, where no script
// does it, nixos-init's part (nixpkgs pkgs/by-name/ni/nixos-init/src/init.rs and
// activate.rs, in the state of NixOS 26.05). nixos-init itself can't be run: it
// belongs to the initrd that stage 1 replaces, and ends in systemctl switch-root.
func (b *boot) activate() error {
	s := b.next.stage2
	if s.Etc == nil {
		return nil
	}
	if err := checkDirectories(newRoot, "etc", ".rw-etc", "usr", "usr/bin", "bin"); err != nil {
		return err
	}
	if err := mountEtc(newRoot, s.Etc, b.opt.etcReadOnly); err != nil {
		return err
	}
	toplevel, err := mount.ResolveIn(newRoot, s.Toplevel)
	if err != nil {
		return err
	}
	// It also tells prepare-root's activation that this toplevel's /etc is
	// mounted already: etc.nix, system.build.etcActivationCommands.
	if err := replaceSymlink(toplevel, "/run/current-system"); err != nil {
		return err
	}
	if s.NixosInit == nil {
		return nil
	}
	if err := replaceSymlink(toplevel, "/run/booted-system"); err != nil {
		return err
	}
	if err := activateRoot(newRoot, s.NixosInit); err != nil {
		return err
	}
	if err := activateKernel("/", s.NixosInit); err != nil {
		return err
	}
	return b.protectStore(s.NixosInit.StoreOptions)
}

// checkDirectories refuses what is neither a directory nor absent in root, such as
// a symlink among the root files: it would lead out of the new root.
func checkDirectories(root string, names ...string) error {
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(root, name))
		if err == nil && !info.IsDir() {
			return fmt.Errorf("/%s in the new root is %s, want a directory: what does mknetboot --root-files put there?", name, info.Mode())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// mountEtc mounts the layers of /etc, with the options that NixOS mounts them
// with.
func mountEtc(root string, etc *bootspec.Etc, readOnly bool) error {
	image, err := openIn(root, etc.Image)
	if err != nil {
		return fmt.Errorf("metadata of /etc: %w", err)
	}
	defer image.Close()
	base, err := mount.ResolveIn(root, etc.Base)
	if err != nil {
		return fmt.Errorf("files of /etc: %w", err)
	}
	dev, err := mount.AttachLoop(image)
	if err != nil {
		return err
	}
	defer dev.Close()
	metadata := mount.Mount{Source: dev.Name(), Target: etcMetadata, Type: "erofs", Flags: unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID}
	if err := metadata.Do(); err != nil {
		if errors.Is(err, unix.ENODEV) {
			err = fmt.Errorf("%w: the kernel does not know erofs: mknetboot --module erofs", err)
		}
		return err
	}
	overlay := mount.Mount{
		Source: "overlay", Target: filepath.Join(root, "etc"), Type: "overlay", Flags: unix.MS_NODEV | unix.MS_NOSUID | unix.MS_RELATIME,
		Data: "redirect_dir=on,metacopy=on,lowerdir=" + etcMetadata + "::" + filepath.Join(root, base),
	}
	if readOnly {
		overlay.Flags |= unix.MS_RDONLY
	} else if err := makeEtcUpper(root); err != nil {
		return err
	} else {
		overlay.Data += ",upperdir=" + filepath.Join(root, etcUpper) + ",workdir=" + filepath.Join(root, etcWork)
	}
	if err := overlay.Do(); err != nil {
		// "::", a layer of data only, is new in Linux 6.5.
		return errors.Join(fmt.Errorf("%w (it needs Linux 6.5)", err), mount.Unmount(etcMetadata, true))
	}
	return nil
}

// Where the changes of /etc are, as in etc-activation.nix.
const (
	etcUpper = ".rw-etc/upper"
	etcWork  = ".rw-etc/work"
)

// makeEtcUpper makes the writable layer of /etc of what is in /etc so far: files
// that the builder has put there.
func makeEtcUpper(root string) error {
	if err := os.MkdirAll(filepath.Join(root, etcWork), 0o755); err != nil {
		return err
	}
	upper := filepath.Join(root, etcUpper)
	if _, err := os.Stat(upper); err == nil {
		return nil // the step is done again
	}
	err := os.Rename(filepath.Join(root, "etc"), upper)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Mkdir(upper, 0o755)
	}
	return err
}

// activateRoot makes the two programs outside the store that NixOS has. /usr/bin
// is there even without env: systemd takes an empty /usr for a broken system.
func activateRoot(root string, n *bootspec.NixosInit) error {
	for _, link := range []struct {
		name string
		to   *string
	}{
		{"usr/bin/env", n.Env},
		{"bin/sh", n.Sh},
	} {
		if link.to == nil {
			continue
		}
		name := filepath.Join(root, link.name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if *link.to == "" {
			continue
		}
		if err := replaceSymlink(*link.to, name); err != nil {
			return err
		}
	}
	return nil
}

// activateKernel tells the kernel, by the /proc and /sys in root, where the system
// keeps modprobe and firmware: Documentation/admin-guide/sysctl/kernel.rst and
// Documentation/driver-api/firmware/fw_search_path.rst.
func activateKernel(root string, n *bootspec.NixosInit) error {
	for _, setting := range []struct {
		file  string
		value *string
	}{
		{"proc/sys/kernel/modprobe", n.Modprobe},
		{"sys/module/firmware_class/parameters/path", n.Firmware},
	} {
		if setting.value == nil {
			continue
		}
		f, err := os.OpenFile(filepath.Join(root, setting.file), os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without modules, or without loadable firmware
		}
		if err != nil {
			return err
		}
		_, err = f.WriteString(*setting.value)
		f.Close()
		if err != nil {
			return fmt.Errorf("tell the kernel of %s: %w", *setting.value, err)
		}
	}
	return nil
}

// protectStore gives the store the owner, mode and mount options that nixos-init
// gives it. An option that mount.SetOptions does not know is left out.
func (b *boot) protectStore(options []string) error {
	store := newRoot + manifest.StoreDir
	if err := os.Chown(store, 0, 0); err != nil {
		return err
	}
	if err := os.Chmod(store, 0o775|fs.ModeSticky); err != nil {
		return err
	}
	if err := (mount.Mount{Source: store, Target: store, Flags: unix.MS_BIND}).Do(); err != nil {
		return err
	}
	unknown, err := mount.SetOptions(store, options)
	if len(unknown) > 0 {
		b.log.warningf("boot.json: nix_store_mount_opts: %q: left out", unknown)
	}
	return err
}

// replaceSymlink makes a symlink, also where there is one.
func replaceSymlink(to, name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(to, name)
}

package vmtests

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Closure is a store path of the test store with all that it refers to, in the
// shape of a NixOS system.
type Closure struct {
	Store    *Store
	Toplevel string   // as seen by Store.Command: /nix/store/…
	Paths    []string // of the whole closure, sorted
	Kernel   *Kernel
}

//go:embed all:recipes
var recipes embed.FS

// Debian returns a system of about 160 Debian packages, each a store path, of
// 380 MB. It boots to systemd's multi-user.target with sshd and a login of root
// on the serial console, and then runs the checks that the kernel command line
// names: vmtest=NAME[,NAME…], see recipes/debian/checks/run.
func (c *Cache) Debian(ctx context.Context, k *Kernel) (*Closure, error) {
	return c.DebianFlavour(ctx, k, "scripted")
}

// DebianFlavour is Debian with a toplevel of another kind: scripted, prepare-root
// (for a systemd in the initrd) or nixos-init.
func (c *Cache) DebianFlavour(ctx context.Context, k *Kernel, flavour string) (*Closure, error) {
	downloads, err := c.downloads(ctx, k.Arch)
	if err != nil {
		return nil, err
	}
	return c.closure(ctx, "debian.nix", k, map[string]string{"debs": filepath.Join(downloads, "debs"), "flavour": flavour}, nil)
}

// Tiny returns a system of a dozen small store paths of every kind. Its init
// records what it finds as [stage1/vmtests/facts] and powers off.
func (c *Cache) Tiny(ctx context.Context, k *Kernel) (*Closure, error) {
	busybox, err := c.busybox(ctx, k.Arch)
	if err != nil {
		return nil, err
	}
	return c.closure(ctx, "tiny.nix", k, map[string]string{"busybox": busybox, "arch": k.Arch}, oddities)
}

// Flavours returns toplevels of every kind that NixOS has, in the smallest of
// closures: one with an init script, and as its specialisations prepare-root, the
// same with layers of /etc, called layers, and nixos-init. Each stage records what
// it finds, and in place of systemd something shows that and powers off.
func (c *Cache) Flavours(ctx context.Context, k *Kernel) (*Closure, error) {
	busybox, err := c.busybox(ctx, k.Arch)
	if err != nil {
		return nil, err
	}
	return c.closure(ctx, "flavours.nix", k, map[string]string{"busybox": busybox}, nil)
}

// busybox returns the package of a static busybox for an architecture.
func (c *Cache) busybox(ctx context.Context, arch string) (string, error) {
	downloads, err := c.downloads(ctx, arch)
	if err != nil {
		return "", err
	}
	busybox, err := filepath.Glob(filepath.Join(downloads, "debs/busybox-static_*.deb"))
	if err != nil || len(busybox) != 1 {
		return "", fmt.Errorf("want one package busybox-static in %s, got %q", downloads, busybox)
	}
	return busybox[0], nil
}

// closure builds one of the recipes. Nix builds what has changed of it; finish
// is then run on the paths of a closure that has been built anew.
func (c *Cache) closure(ctx context.Context, recipe string, k *Kernel, args map[string]string, finish func(cl *Closure) error) (*Closure, error) {
	store, err := c.Store()
	if err != nil {
		return nil, err
	}
	programs, err := c.goBuildFor(ctx, k.Arch, "stage1/vmtests/facts/record", "stage1/vmtests/facts/standin")
	if err != nil {
		return nil, err
	}
	sources, err := digestFS(recipes)
	if err != nil {
		return nil, err
	}
	args["version"], args["image"], args["modules"], args["programs"] = k.Version, k.Image, k.Modules, programs
	key := []string{recipe, sources}
	for _, name := range slices.Sorted(maps.Keys(args)) {
		key = append(key, name, args[name])
	}
	cl := &Closure{Store: store, Kernel: k}
	dir, err := c.Make(strings.TrimSuffix(recipe, ".nix")+"-"+k.Version, key, func(dir string) error {
		if err := os.CopyFS(filepath.Join(dir, "source"), recipes); err != nil {
			return err
		}
		cl.Toplevel, err = store.build(ctx, filepath.Join(dir, "source/recipes", recipe), args)
		if err != nil {
			return err
		}
		if cl.Paths, err = store.closure(ctx, cl.Toplevel); err != nil {
			return err
		}
		if finish != nil {
			if err := finish(cl); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "paths"), []byte(strings.Join(cl.Paths, "\n")+"\n"), 0o644); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "toplevel"), []byte(cl.Toplevel), 0o644)
	})
	if err != nil {
		return nil, err
	}
	toplevel, err := os.ReadFile(filepath.Join(dir, "toplevel"))
	if err != nil {
		return nil, err
	}
	paths, err := os.ReadFile(filepath.Join(dir, "paths"))
	cl.Toplevel, cl.Paths = string(toplevel), sortedLines(string(paths))
	return cl, err
}

// oddities gives the tiny closure's files what Nix takes from all that it
// builds, and what its registration does not cover: modes, times, extended
// attributes. Of those, tmpfs has only trusted.* before Linux 6.6.
func oddities(cl *Closure) error {
	i := slices.IndexFunc(cl.Paths, func(p string) bool { return strings.HasSuffix(p, "-odd") })
	if i < 0 {
		return fmt.Errorf("no odd path in the closure of %s", cl.Toplevel)
	}
	odd := cl.Store.Path(cl.Paths[i])
	for name, mode := range map[string]fs.FileMode{"byte": 0o400, "empty": 0o640, "program": 0o711, "sticky": 0o777 | fs.ModeSticky, "a directory": 0o700} {
		if err := os.Chmod(filepath.Join(odd, name), mode); err != nil {
			return err
		}
	}
	for name, seconds := range map[string]int64{"byte": 0, "empty": 1<<32 - 1, "hard1": 1234567890, "a directory": 86400, "soft": 1000000000} {
		when := unix.NsecToTimespec(int64(time.Duration(seconds) * time.Second))
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(odd, name), []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "utimensat", Path: filepath.Join(odd, name), Err: err}
		}
	}
	for _, name := range []string{"program", "sticky", "soft"} {
		if err := unix.Lsetxattr(filepath.Join(odd, name), "trusted.vmtest", []byte("of "+name), 0); err != nil {
			return &fs.PathError{Op: "lsetxattr", Path: filepath.Join(odd, name), Err: err}
		}
	}
	return nil
}

package vmtests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Images are what a boot loader loads.
type Images struct {
	Kernel  string
	Initrds []string
	Cmdline string
}

// Seed makes what grahamc/netboot.nix makes of a closure, to be booted with the
// given initrd in front: an image per store path, compressed by gzip at level 9,
// all in one cpio, and the manifest in another.
func (cl *Closure) Seed(ctx context.Context, initrd string) (*Images, error) {
	script, err := recipes.ReadFile("recipes/seed.sh")
	if err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(filepath.Base(cl.Toplevel)[33:], "nixos-system-")
	dir, err := cl.Store.cache.Make("seed-"+name, append([]string{string(script)}, cl.Paths...), func(dir string) error {
		file := filepath.Join(dir, "seed.sh")
		if err := os.WriteFile(file, script, 0o644); err != nil {
			return err
		}
		cmd := cl.Store.Command(ctx, "sh", append([]string{"-eu", file}, cl.Paths...)...)
		cmd.Dir = dir
		return run(cmd)
	})
	if err != nil {
		return nil, err
	}
	params, err := cl.ReadFile("kernel-params")
	if err != nil {
		return nil, err
	}
	return &Images{
		Kernel:  cl.Kernel.Image,
		Initrds: []string{initrd, filepath.Join(dir, "nix-store"), filepath.Join(dir, "manifest")},
		Cmdline: fmt.Sprintf("init=%s/init %s", cl.Toplevel, params),
	}, nil
}

// ReadFile returns the content of a file of the toplevel, without white space
// around it.
func (cl *Closure) ReadFile(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(cl.Store.Path(cl.Toplevel), name))
	return strings.TrimSpace(string(data)), err
}

// ShellInitrd returns an initrd whose init is the seed's stage 1: a loop in
// busybox's shell. It has the kernel modules of the closure.
func (cl *Closure) ShellInitrd(ctx context.Context) (string, error) {
	init, err := recipes.ReadFile("recipes/shell/init")
	if err != nil {
		return "", err
	}
	const script = `
		mkdir -p root/bin root/dev
		cp "$(which busybox)" root/bin/
		mknod root/dev/console c 5 1
		cp -r "$1/lib" root/
		mv init root/init
		chmod -R u+w root
		(cd root && find . | sort | cpio --quiet -o -H newc -R +0:+0 --reproducible) | gzip -1 > initrd
		rm -r root`
	modules, err := os.Readlink(filepath.Join(cl.Store.Path(cl.Toplevel), "kernel-modules"))
	if err != nil {
		return "", err
	}
	dir, err := cl.Store.cache.Make("shell-initrd", []string{string(init), script, modules}, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "init"), init, 0o755); err != nil {
			return err
		}
		return shell(ctx, dir, script, cl.Store.Path(modules))
	})
	return filepath.Join(dir, "initrd"), err
}

package vmtests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// goBuild builds static programs of this module for amd64 and returns a directory
// with them, each under the last element of its package's path.
func (c *Cache) goBuild(ctx context.Context, packages ...string) (string, error) {
	return c.goBuildFor(ctx, amd64, packages...)
}

// goBuildFor is goBuild for any architecture.
func (c *Cache) goBuildFor(ctx context.Context, arch string, packages ...string) (string, error) {
	tmp, err := os.MkdirTemp(c.dir, ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", tmp + "/"}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if err := run(cmd); err != nil {
		return "", err
	}
	sum, err := digestFS(os.DirFS(tmp))
	if err != nil {
		return "", err
	}
	return c.Make(path.Base(packages[0]), []string{sum}, func(dir string) error {
		return os.CopyFS(dir, os.DirFS(tmp))
	})
}

// Netboot runs mknetboot, built from this module, on the closure: out becomes a
// directory that netboots it. It returns what mknetboot says.
func (cl *Closure) Netboot(ctx context.Context, out string, args ...string) (string, error) {
	c := cl.Store.cache
	bin, err := c.goBuild(ctx, "stage1/cmd/mknetboot")
	if err != nil {
		return "", err
	}
	init, err := c.goBuildFor(ctx, cl.Kernel.Arch, "stage1/cmd/stage1")
	if err != nil {
		return "", err
	}
	args = append([]string{"-o", out, "--cache", filepath.Join(c.dir, "images"), "--stage1", filepath.Join(init, "stage1"), cl.Toplevel}, args...)
	said, err := cl.Store.Command(ctx, filepath.Join(bin, "mknetboot"), args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mknetboot %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return string(said), nil
}

// KexecImages returns what the script kexec-boot, in a directory made by
// mknetboot, gives to kexec. The initrd is put into tmp.
func KexecImages(ctx context.Context, dir, tmp string) (*Images, error) {
	// A kexec that writes down its arguments, one a line.
	const kexec = `#!/bin/sh
for arg; do
	case $arg in
	--initrd=*) cp "${arg#--initrd=}" "$KEXEC_TMP/initrd" ;;
	--command-line=*) printf %s "${arg#--command-line=}" > "$KEXEC_TMP/cmdline" ;;
	-l) ;;
	*) readlink -f "$arg" | tr -d '\n' > "$KEXEC_TMP/kernel" ;;
	esac
done
`
	if err := os.WriteFile(filepath.Join(tmp, "kexec"), []byte(kexec), 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "kexec-boot"), "--load-only")
	cmd.Env = append(os.Environ(), "PATH="+tmp+":"+os.Getenv("PATH"), "KEXEC_TMP="+tmp)
	if err := run(cmd); err != nil {
		return nil, err
	}
	kernel, err := os.ReadFile(filepath.Join(tmp, "kernel"))
	if err != nil {
		return nil, err
	}
	cmdline, err := os.ReadFile(filepath.Join(tmp, "cmdline"))
	return &Images{Kernel: string(kernel), Initrds: []string{filepath.Join(tmp, "initrd")}, Cmdline: string(cmdline)}, err
}

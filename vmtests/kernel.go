package vmtests

import (
	"context"
	"fmt"
	"path/filepath"
)

// Architectures, as Go and Debian call them.
const (
	amd64 = "amd64"
	arm64 = "arm64"
)

// Kernel is a Debian kernel, unpacked.
type Kernel struct {
	Arch    string // "amd64" or "arm64"
	Version string // as in uname -r
	Image   string // the bzImage; of arm64, the Image
	Modules string // lib/modules/VERSION, with modules.dep
}

// Linux61 returns Debian 12's kernel.
func (c *Cache) Linux61(ctx context.Context) (*Kernel, error) { return c.kernel(ctx, amd64, release) }

// Linux612 returns the kernel of Debian 12's backports. Its modules are
// compressed by xz.
func (c *Cache) Linux612(ctx context.Context) (*Kernel, error) {
	return c.kernel(ctx, amd64, backports)
}

// LinuxARM64 returns Debian 12's kernel for arm64.
func (c *Cache) LinuxARM64(ctx context.Context) (*Kernel, error) {
	return c.kernel(ctx, arm64, release)
}

func (c *Cache) kernel(ctx context.Context, arch, suite string) (*Kernel, error) {
	downloads, err := c.downloads(ctx, arch)
	if err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(filepath.Join(downloads, "linux-"+suite, "*.deb"))
	if err != nil || len(debs) != 1 {
		return nil, fmt.Errorf("kernel of %s: want one package in %s, got %q", suite, downloads, debs)
	}
	const script = `
		dpkg-deb -x "$1" .
		if [ -d usr/lib/modules ] && [ ! -d lib ]; then mv usr/lib lib; fi
		depmod -b . "$(ls lib/modules)"`
	dir, err := c.Make("linux", []string{filepath.Base(debs[0]), script}, func(dir string) error {
		return shell(ctx, dir, script, debs[0])
	})
	if err != nil {
		return nil, err
	}
	modules, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil || len(modules) != 1 {
		return nil, fmt.Errorf("kernel of %s: want modules of one version in %s, got %q", suite, dir, modules)
	}
	version := filepath.Base(modules[0])
	return &Kernel{Arch: arch, Version: version, Image: filepath.Join(dir, "boot/vmlinuz-"+version), Modules: modules[0]}, nil
}

package vmtests

import (
	"context"
	"fmt"
	"path/filepath"
)

// Kernel is a Debian kernel, unpacked.
type Kernel struct {
	Version string // as in uname -r
	Image   string // the bzImage
	Modules string // lib/modules/VERSION, with modules.dep
}

// Linux61 returns Debian 12's kernel.
func (c *Cache) Linux61(ctx context.Context) (*Kernel, error) { return c.kernel(ctx, release) }

// Linux612 returns the kernel of Debian 12's backports. Its modules are
// compressed by xz.
func (c *Cache) Linux612(ctx context.Context) (*Kernel, error) { return c.kernel(ctx, backports) }

func (c *Cache) kernel(ctx context.Context, suite string) (*Kernel, error) {
	downloads, err := c.downloads(ctx)
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
	return &Kernel{Version: version, Image: filepath.Join(dir, "boot/vmlinuz-"+version), Modules: modules[0]}, nil
}

package netboot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
)

// initrd is what the first initrd is made of: everything but the store.
type initrd struct {
	early   string // file that may begin with CPU microcode, or empty
	stage1  string // file of /init
	tree    *moduleTree
	version string   // of the kernel
	modules []module // to put in
	extra   []ExtraFile
	busybox string   // file, or empty for no shell
	applets []string // of busybox
}

// write writes the initrd: the early archives, which the kernel reads
// uncompressed, and a gzip'ed cpio, since gzip is what every kernel takes.
func (in *initrd) write(w io.Writer) error {
	if in.early != "" {
		if err := copyEarly(w, in.early); err != nil {
			return err
		}
	}
	// The header has neither name nor time: the output is the same each time.
	// Level 9 takes five times as long as 7 for 0.4 % of the size.
	z, err := gzip.NewWriterLevel(w, 7)
	if err != nil {
		return err
	}
	c := newCPIOWriter(z)
	if err := in.members(c); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	return z.Close()
}

func (in *initrd) members(c *cpioWriter) error {
	// The kernel opens /dev/console for init before anything is mounted.
	if err := c.CharDevice("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := c.CharDevice("dev/null", 0o666, 1, 3); err != nil {
		return err
	}
	if err := addFile(c, "init", in.stage1, 0o755); err != nil {
		return fmt.Errorf("stage 1: %w", err)
	}
	if err := in.tree.write(c, in.version, in.modules); err != nil {
		return err
	}
	if in.busybox != "" {
		if err := in.addShell(c); err != nil {
			return fmt.Errorf("debug shell: %w", err)
		}
	}
	for _, x := range in.extra {
		if err := addTree(c, x); err != nil {
			return fmt.Errorf("extra file %s: %w", x.Source, err)
		}
	}
	return nil
}

// addShell adds busybox and a link to it for each of its applets.
func (in *initrd) addShell(c *cpioWriter) error {
	if err := addFile(c, "bin/busybox", in.busybox, 0o755); err != nil {
		return err
	}
	for _, applet := range in.applets {
		if applet == "busybox" {
			continue
		}
		if err := c.Symlink("bin/"+applet, "busybox"); err != nil {
			return err
		}
	}
	return nil
}

// walk calls add for a file or directory and what is in it, with the place of
// each. The source itself may be a symlink and is followed.
func (x ExtraFile) walk(add func(place, file string, d fs.DirEntry) error) error {
	source, err := filepath.EvalSymlinks(x.Source)
	if err != nil {
		return err
	}
	return filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		return add(path.Join(x.Dest, filepath.ToSlash(rel)), file, d)
	})
}

// addTree adds a file or directory and what is in it.
func addTree(c *cpioWriter, x ExtraFile) error {
	return x.walk(func(name, file string, d fs.DirEntry) error {
		switch d.Type() {
		case 0:
			info, err := d.Info()
			if err != nil {
				return err
			}
			// As in a Nix store: readable by all, executable by all or none.
			perm := uint32(0o644)
			if info.Mode()&0o100 != 0 {
				perm = 0o755
			}
			return addFile(c, name, file, perm)
		case fs.ModeDir:
			if name == "/" {
				return nil
			}
			return c.Dir(name)
		case fs.ModeSymlink:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			return c.Symlink(name, target)
		}
		return errors.New(file + " is neither file, directory nor symlink")
	})
}

func addFile(c *cpioWriter, name, file string, perm uint32) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return c.File(name, perm, info.Size(), f)
}

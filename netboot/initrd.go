package netboot

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

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
	busybox string // file, or empty for no shell
}

// write writes the initrd: the early archives, which the kernel reads
// uncompressed, and a gzip'ed cpio, since gzip is what every kernel takes.
func (in *initrd) write(ctx context.Context, w io.Writer) error {
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
	if err := in.members(ctx, c); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	return z.Close()
}

func (in *initrd) members(ctx context.Context, c *cpioWriter) error {
	// The kernel opens /dev/console for init before anything is mounted.
	if err := c.CharDevice("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := c.CharDevice("dev/null", 0o666, 1, 3); err != nil {
		return err
	}
	if err := addStatic(c, "init", in.stage1); err != nil {
		return fmt.Errorf("stage 1: %w", err)
	}
	if err := in.tree.write(c, in.version, in.modules); err != nil {
		return err
	}
	if in.busybox != "" {
		if err := addShell(ctx, c, in.busybox); err != nil {
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

// addStatic adds an executable that runs without any other file.
func addStatic(c *cpioWriter, name, file string) error {
	if err := checkStatic(file); err != nil {
		return err
	}
	return addFile(c, name, file, 0o755)
}

// checkStatic checks that file is an ELF program that needs no interpreter.
func checkStatic(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			interp, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
			if err != nil {
				return fmt.Errorf("%s: PT_INTERP: %w", file, err)
			}
			return fmt.Errorf("%s is dynamically linked (it needs %s) and the initrd has no libraries: give a static one", file, bytes.TrimRight(interp, "\x00"))
		}
	}
	return nil
}

// addShell adds busybox and a link to it for each of its applets.
func addShell(ctx context.Context, c *cpioWriter, busybox string) error {
	if err := addStatic(c, "bin/busybox", busybox); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("%s --list: %w", busybox, err)
	}
	hasShell := false
	for _, applet := range strings.Fields(string(out)) {
		hasShell = hasShell || applet == "sh"
		if applet == "busybox" {
			continue
		}
		if err := c.Symlink("bin/"+applet, "busybox"); err != nil {
			return err
		}
	}
	if !hasShell {
		return fmt.Errorf("%s has no applet sh", busybox)
	}
	return nil
}

// addTree adds a file or directory and what is in it. The source itself may be a
// symlink and is followed.
func addTree(c *cpioWriter, x ExtraFile) error {
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
		name := path.Join(x.Dest, filepath.ToSlash(rel))
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

package squashimport

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/mount"
	"stage1/registration"
	"stage1/squashfs"
)

// mounted is an image, mounted read-only.
type mounted struct {
	manifest.Image
	dir string // where it is mounted
}

// openImage opens an image's file and checks its superblock, of which the kernel
// says little when it refuses it.
func openImage(initrd string, image manifest.Image) (*os.File, *squashfs.Superblock, error) {
	f, err := openInitrd(initrd, "image", image.File, image.Size)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("image %s: %w", image.File, err)
	}
	sb, err := squashfs.ReadSuperblock(f, info.Size())
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("image %s: %w", image.File, err)
	}
	return f, sb, nil
}

// mountImage mounts an image at dir, which it makes. The loop device goes with
// the mount, and the image's file may be deleted.
func mountImage(initrd string, image manifest.Image, dir string) (*mounted, error) {
	f, sb, err := openImage(initrd, image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	loop, err := mount.AttachLoop(f)
	if err != nil {
		return nil, err
	}
	defer loop.Close()
	m := mount.Mount{
		Source: loop.Name(), Target: dir, Type: "squashfs",
		Flags: unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID,
	}
	// A kernel that lets the mount choose has one decompressor for all CPUs else
	// (SQUASHFS_CHOICE_DECOMP_BY_MOUNT, Linux 6.2). "multi" has as many as are
	// in use at once; "percpu" would take the RAM for all at once.
	err = unix.EINVAL
	if kernelAtLeast(6, 2) {
		m.Data = "threads=multi"
		err = m.Do()
	}
	// EINVAL: the kernel has no such choice, or refuses the image.
	if errors.Is(err, unix.EINVAL) {
		m.Data = ""
		err = m.Do()
	}
	if err != nil {
		os.Remove(dir) // best effort: what matters is the mount's error
		return nil, fmt.Errorf("image %s: %w%s", image.File, err, mountHint(err, sb))
	}
	return &mounted{Image: image, dir: dir}, nil
}

// mount is mountImage of one of the importer's images.
func (im *Importer) mount(image manifest.Image, dir string) (*mounted, error) {
	defer im.opt.Trace.begin("mount", image.File)()
	return mountImage(im.opt.Initrd, image, dir)
}

// kernelAtLeast says whether the kernel has at least that version.
func kernelAtLeast(major, minor int) bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var a, b int
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &a, &b); n < 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// mountHint says what a refused mount means, for one who reads it on a console.
func mountHint(err error, sb *squashfs.Superblock) string {
	switch {
	case errors.Is(err, unix.ENODEV):
		return " (the kernel has no squashfs: is the module in the initrd?)"
	case errors.Is(err, unix.EINVAL):
		return fmt.Sprintf(" (damaged, or the kernel's squashfs lacks %s: the kernel log says which)", sb.Compressor)
	case errors.Is(err, unix.EIO):
		return " (damaged: the kernel log says where)"
	}
	return ""
}

// entries are the names in the image's root directory: the store paths.
func (m *mounted) entries() ([]string, error) {
	d, err := os.Open(m.dir)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", m.File, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("image %s: read its root directory: %w", m.File, err)
	}
	if err := checkNames(names, &m.Image); err != nil {
		return nil, fmt.Errorf("image %s: %w", m.File, err)
	}
	return names, nil
}

// checkNames compares the names in an image's root directory with what the
// manifest says, and with what can be in a store.
func checkNames(names []string, image *manifest.Image) error {
	if len(names) != image.StorePaths {
		return fmt.Errorf("it holds %d store paths, the manifest says %d", len(names), image.StorePaths)
	}
	for _, name := range names {
		if image.Entry != "" && name != image.Entry {
			return fmt.Errorf("it holds %q, its name says %q", name, image.Entry)
		}
		if err := registration.CheckName(name); err != nil {
			return fmt.Errorf("it holds what can't be in a store: %w", err)
		}
	}
	return nil
}

// scratchDir is where the i-th image is mounted. The names are short since the
// options of an overlay of 500 layers must fit into a page.
func (im *Importer) scratchDir(i int) string {
	return filepath.Join(im.opt.Scratch, fmt.Sprint(i))
}

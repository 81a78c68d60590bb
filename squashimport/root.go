package squashimport

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"stage1/manifest"
)

// CopyRoot copies the tree of a root image into root, the new root, in which the
// store is already, and deletes the image. Directories that are there stay as
// they are, anything else that is there is an error. No link is followed, in the
// image or in root. What [manifest.CheckRootPath] refuses, what is neither file,
// directory nor symlink, and what has a set-user-ID or set-group-ID bit is not
// copied but an error.
//
// initrd is the directory in which the image's file name is looked up, scratch is
// where to mount it; it is made. On an error nothing of the tree is left in root.
func CopyRoot(initrd string, image manifest.Image, root, scratch string) (err error) {
	m, err := mountImage(initrd, image, scratch)
	if err != nil {
		return err
	}
	r := &rootCopier{source: &source{mounted: m}, buf: make([]byte, copySize)}
	err = r.copy(root)
	if err != nil {
		err = errors.Join(err, r.undo(root))
	}
	if err := errors.Join(err, m.unmount()); err != nil {
		return err
	}
	path := filepath.Join(initrd, image.File)
	if err := unix.Unlink(path); err != nil {
		return fmt.Errorf("delete image %s: %w", path, err)
	}
	return nil
}

// rootCopier copies one root image.
type rootCopier struct {
	*source
	buf  []byte
	made []string // paths in root, each after the directory that it is in
}

func (r *rootCopier) copy(root string) error {
	src, err := openDir(unix.AT_FDCWD, r.dir)
	if err != nil {
		return r.fail("open", "/", err)
	}
	defer src.Close()
	dst, err := openDir(unix.AT_FDCWD, root)
	if err != nil {
		return r.fail("open the new root's", "/", err)
	}
	defer dst.Close()
	return r.copyDir(src, dst, "/")
}

func (r *rootCopier) copyDir(src, dst *os.File, dir string) error {
	names, err := src.Readdirnames(-1)
	if err != nil {
		return r.fail("read", dir, err)
	}
	for _, name := range names {
		if err := r.copyEntry(src, dst, path.Join(dir, name), name); err != nil {
			return err
		}
	}
	return nil
}

func (r *rootCopier) copyEntry(src, dst *os.File, p, name string) error {
	if err := manifest.CheckRootPath(p); err != nil {
		return r.fail("copy", p, err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(src.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return r.fail("stat", p, err)
	}
	if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		return r.fail("copy", p, fmt.Errorf("its mode is %#o: a root image has no set-user-ID or set-group-ID bit", st.Mode&0o7777))
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return r.copySubdir(src, dst, p, name, &st)
	case unix.S_IFREG:
		_, err = copyFile(int(src.Fd()), int(dst.Fd()), name, &st, r.buf)
	case unix.S_IFLNK:
		err = copySymlink(int(src.Fd()), int(dst.Fd()), name, &st)
	default:
		err = fmt.Errorf("it has type %#o: a root image has only directories, files and symlinks", st.Mode&unix.S_IFMT)
	}
	if !errors.Is(err, unix.EEXIST) {
		r.made = append(r.made, p)
	}
	if err != nil {
		return r.fail("copy", p, err)
	}
	if err := r.setAttributes(int(src.Fd()), int(dst.Fd()), name, &st); err != nil {
		return r.fail("set attributes of", p, err)
	}
	return nil
}

// copySubdir copies a directory. One that is there already keeps its attributes.
func (r *rootCopier) copySubdir(src, dst *os.File, p, name string, st *unix.Stat_t) error {
	err := unix.Mkdirat(int(dst.Fd()), name, 0o700)
	isNew := err == nil
	if isNew {
		r.made = append(r.made, p)
	} else if !errors.Is(err, unix.EEXIST) {
		return r.fail("make directory", p, err)
	}
	from, err := openDir(int(src.Fd()), name)
	if err != nil {
		return r.fail("open", p, err)
	}
	defer from.Close()
	to, err := openDir(int(dst.Fd()), name)
	if err != nil {
		return r.fail("open the new root's", p, err)
	}
	defer to.Close()
	if err := r.copyDir(from, to, p); err != nil || !isNew {
		return err
	}
	if err := r.setAttributes(int(from.Fd()), int(to.Fd()), ".", st); err != nil {
		return r.fail("set attributes of", p, err)
	}
	return nil
}

// fail says which file of the image it was, and what to do about it.
func (r *rootCopier) fail(do, p string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOSPC):
		hint = " (the tmpfs is full: stage1.nix_size= sets the size of the one on /nix, stage1.root_size= of the one on /)"
	case errors.Is(err, unix.EIO):
		hint = " (the image is damaged: the kernel log says where)"
	}
	return fmt.Errorf("root image %s: %s %s: %w%s", r.File, do, p, err, hint)
}

// undo removes what was made.
func (r *rootCopier) undo(root string) (err error) {
	for i := len(r.made) - 1; i >= 0; i-- {
		removeErr := os.Remove(filepath.Join(root, r.made[i]))
		// ENOENT: its copy failed before it was made.
		if !errors.Is(removeErr, unix.ENOENT) {
			err = errors.Join(err, removeErr)
		}
	}
	return err
}

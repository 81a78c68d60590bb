package squashimport

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/squashfs"
)

// CopyRoot copies the tree of a root image into root, the new root, in which the
// store is already, and deletes the image. Directories that are there stay as
// they are, anything else that is there is an error. No link is followed, in the
// image or in root. What [manifest.CheckRootPath] refuses, what is neither file,
// directory nor symlink, and what has a set-user-ID or set-group-ID bit is not
// copied but an error.
//
// initrd is the directory in which the image's file name is looked up. On an error
// nothing of the tree is left in root.
func CopyRoot(initrd string, image manifest.Image, root string) error {
	s, dir, err := openSource(initrd, image)
	if err != nil {
		return err
	}
	defer s.file.Close()
	r := &rootCopier{source: s}
	if err := r.copy(dir, root); err != nil {
		return errors.Join(err, r.undo(root))
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
	decoder squashfs.Decoder
	made    []string // paths in root, each after the directory that it is in
}

func (r *rootCopier) copy(dir *squashfs.Inode, root string) error {
	dst, err := openDir(unix.AT_FDCWD, root)
	if err != nil {
		return r.fail("open the new root's", "/", err)
	}
	defer unix.Close(dst)
	return r.copyDir(dir, dst, "/")
}

func (r *rootCopier) copyDir(dir *squashfs.Inode, dst int, p string) error {
	entries, err := r.List(dir)
	if err != nil {
		return r.fail("read", p, err)
	}
	for _, e := range entries {
		if err := r.copyEntry(e, dst, path.Join(p, e.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (r *rootCopier) copyEntry(e squashfs.Entry, dst int, p string) error {
	if err := manifest.CheckRootPath(p); err != nil {
		return r.fail("copy", p, err)
	}
	in, err := r.Inode(e)
	if err != nil {
		return r.fail("stat", p, err)
	}
	if in.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		return r.fail("copy", p, fmt.Errorf("its mode is %#o: a root image has no set-user-ID or set-group-ID bit", in.Mode&0o7777))
	}
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return r.copySubdir(in, dst, p)
	case unix.S_IFREG:
		err = r.copyFile(in, dst, e.Name)
	case unix.S_IFLNK:
		err = unix.Symlinkat(in.Target, dst, e.Name)
	default:
		err = fmt.Errorf("it has type %#o: a root image has only directories, files and symlinks", in.Mode&unix.S_IFMT)
	}
	if !errors.Is(err, unix.EEXIST) {
		r.made = append(r.made, p)
	}
	if err != nil {
		return r.fail("copy", p, err)
	}
	if err := r.setAttributes(dst, e.Name, in); err != nil {
		return r.fail("set attributes of", p, err)
	}
	return nil
}

func (r *rootCopier) copyFile(in *squashfs.Inode, dst int, name string) error {
	out, err := createFile(dst, name, in)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	return r.write(out, in, 0, in.Size, &r.decoder)
}

// copySubdir copies a directory. One that is there already keeps its attributes.
func (r *rootCopier) copySubdir(dir *squashfs.Inode, dst int, p string) error {
	err := r.makeDir(dst, p, dir)
	isNew := err == nil
	if isNew {
		r.made = append(r.made, p)
	} else if !errors.Is(err, unix.EEXIST) {
		return r.fail("make directory", p, err)
	}
	to, err := openDir(dst, path.Base(p))
	if err != nil {
		return r.fail("open the new root's", p, err)
	}
	defer unix.Close(to)
	if err := r.copyDir(dir, to, p); err != nil || !isNew {
		return err
	}
	if err := r.setAttributes(to, ".", dir); err != nil {
		return r.fail("set attributes of", p, err)
	}
	return nil
}

// fail says which file of the image it was, and what to do about it.
func (r *rootCopier) fail(do, p string, err error) error {
	full := "the tmpfs is full: stage1.nix_size= sets the size of the one on /nix, stage1.root_size= of the one on /"
	return fmt.Errorf("root image %s: %s %s: %w%s", r.File, do, p, err, hint(err, full))
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

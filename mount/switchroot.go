package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SwitchRoot makes the mount at newRoot the root of the mount name space and of
// this process, and its working directory. It returns the old root, by which
// [FreeRoot] removes what is left in it.
//
// The old root must be the kernel's rootfs, which can neither be unmounted nor
// pivoted: Documentation/filesystems/ramfs-rootfs-initramfs.rst.
func SwitchRoot(newRoot string) (oldRoot *os.File, err error) {
	oldRoot, err = os.Open("/")
	if err != nil {
		return nil, fmt.Errorf("switch root to %s: %w", newRoot, err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"chdir " + newRoot, func() error { return unix.Chdir(newRoot) }},
		{"mount --move . /", func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") }},
		{"chroot .", func() error { return unix.Chroot(".") }},
		{"chdir /", func() error { return unix.Chdir("/") }},
	} {
		if err := step.do(); err != nil {
			oldRoot.Close()
			return nil, fmt.Errorf("switch root to %s: %s: %w", newRoot, step.name, err)
		}
	}
	return oldRoot, nil
}

// FreeRoot removes everything below root that is on the same file system, which
// on a rootfs gives its RAM back, and closes root. It refuses any other file
// system than a ramfs or tmpfs. It goes on after errors and returns them joined.
func FreeRoot(root *os.File) error {
	defer root.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &fs); err != nil {
		return fmt.Errorf("free the initrd: statfs: %w", err)
	}
	if fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("free the initrd: its file system has magic %#x: neither ramfs nor tmpfs, so nothing is removed", fs.Type)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("free the initrd: stat: %w", err)
	}
	return removeBelow(root, st.Dev)
}

func removeBelow(dir *os.File, dev uint64) error {
	names, err := dir.Readdirnames(-1)
	errs := []error{err}
	for _, name := range names {
		errs = append(errs, removeEntry(dir, name, dev))
	}
	return errors.Join(errs...)
}

func removeEntry(dir *os.File, name string, dev uint64) error {
	fd := int(dir.Fd())
	path := dir.Name() + "/" + name
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("free the initrd: stat %s: %w", path, err)
	}
	if st.Dev != dev {
		return nil
	}
	flags := 0
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("free the initrd: open %s: %w", path, err)
		}
		f := os.NewFile(uintptr(sub), path)
		err = removeBelow(f, dev)
		f.Close()
		if err != nil {
			return err
		}
		flags = unix.AT_REMOVEDIR
	}
	err := unix.Unlinkat(fd, name, flags)
	// EBUSY: a directory that carries a mount, which is the new root's business.
	if err != nil && !(flags != 0 && errors.Is(err, unix.EBUSY)) {
		return fmt.Errorf("free the initrd: remove %s: %w", path, err)
	}
	return nil
}

package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openTries bounds how often a file is opened again after EAGAIN.
const openTries = 1000

// OpenIn opens a file for reading as it would be found if the directory root were
// the root directory: no symlink and no ".." leads out of it. resolve adds
// RESOLVE_* flags of openat2(2), Linux 5.6. It does not wait for the other end
// of a fifo.
func OpenIn(root, name string, resolve uint64) (*os.File, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}
	for range openTries {
		var fd int
		fd, err = unix.Openat2(int(dir.Fd()), strings.TrimPrefix(name, "/"), how)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if errors.Is(err, unix.EXDEV) && resolve&unix.RESOLVE_NO_XDEV != 0 {
			err = fmt.Errorf("it is in another file system, or a link leads there: %w", err)
		}
		// EAGAIN: something was renamed or mounted anywhere on the machine while a
		// ".." was followed.
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

// FS is a directory whose files are opened by [OpenIn].
type FS struct {
	Root    string
	Resolve uint64 // RESOLVE_* flags of openat2(2)
}

// Open implements [fs.FS].
func (f FS) Open(name string) (fs.File, error) { return OpenIn(f.Root, name, f.Resolve) }

// ResolveIn returns the path, in the directory root as the root directory, of the
// file that [OpenIn] opens: one without symlinks.
func ResolveIn(root, name string) (string, error) {
	f, err := OpenIn(root, name, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return "", err
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	return filepath.Join("/", strings.TrimPrefix(path, root)), nil
}

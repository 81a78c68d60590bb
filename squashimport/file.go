package squashimport

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"stage1/squashfs"
)

// Of a file that is copied in parts, by all workers. Finding a part takes time that
// grows with its number.
const (
	minPart  = 4 << 20
	maxParts = 256
)

// partSize is how many bytes of a file of that size are one piece of work: a
// multiple of each block size.
func partSize(size int64) int64 {
	const maxBlock = 1 << 20
	return max(minPart, (size/maxParts+maxBlock)&^(maxBlock-1))
}

// fileCopy is a regular file that is being copied.
type fileCopy struct {
	*storePath
	path string // in the image, and in the store
	in   *squashfs.Inode
	part int64        // bytes
	left atomic.Int64 // parts that are not copied yet
}

// copyFile copies the regular file at path, of a directory open as dst. What it
// has beyond its first part is work for all.
func (c *copier) copyFile(p *storePath, dst int, path string, in *squashfs.Inode, d *squashfs.Decoder) error {
	out, err := createFile(dst, filepath.Base(path), in)
	if err != nil {
		return p.fail("copy", path, err)
	}
	defer unix.Close(out)
	f := &fileCopy{storePath: p, path: path, in: in, part: partSize(in.Size)}
	f.left.Store(max(1, (in.Size+f.part-1)/f.part))
	var parts []func(d *squashfs.Decoder) error
	for from := f.part; from < in.Size; from += f.part {
		parts = append(parts, func(d *squashfs.Decoder) error { return c.copyPart(f, from, d) })
	}
	c.later(p, parts...)
	return c.writePart(f, out, 0, d)
}

// createFile creates the copy of a regular file, with its holes.
func createFile(dst int, name string, in *squashfs.Inode) (fd int, err error) {
	fd, err = unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fmt.Errorf("create: %w", err)
	}
	if in.Holes {
		if err := unix.Ftruncate(fd, in.Size); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("set length %d: %w", in.Size, err)
		}
	}
	return fd, nil
}

// copyPart copies the part of a file that starts at byte from. No file is kept open
// for its next part: an error elsewhere would leave it so.
func (c *copier) copyPart(f *fileCopy, from int64, d *squashfs.Decoder) error {
	out, err := unix.Openat(c.store, f.path, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return f.fail("open the copy of", f.path, err)
	}
	defer unix.Close(out)
	return c.writePart(f, out, from, d)
}

// writePart writes a part of a file to its open copy. The last part to be written
// ends the file.
func (c *copier) writePart(f *fileCopy, out int, from int64, d *squashfs.Decoder) error {
	to := min(from+f.part, f.in.Size)
	if err := f.write(out, f.in, from, to, d); err != nil {
		return f.fail("copy", f.path, err)
	}
	c.im.bytes.Add((to - from + 4095) &^ 4095)
	if f.left.Add(-1) > 0 {
		return nil
	}
	if err := f.setAttributes(c.store, f.path, f.in); err != nil {
		return f.fail("set attributes of", f.path, err)
	}
	return nil
}

// write writes a file's content from byte from up to byte to to its open copy.
func (s *source) write(out int, in *squashfs.Inode, from, to int64, d *squashfs.Decoder) error {
	return s.Read(d, in, from, to, func(data []byte, off int64) error { return writeAt(out, data, off, in.Holes) })
}

// zeros is a page of a tmpfs.
var zeros [4096]byte

// writeAt writes all of data, with skipZeros less its pages of zeros.
func writeAt(fd int, data []byte, offset int64, skipZeros bool) error {
	for len(data) > 0 {
		part := data
		if skipZeros {
			part = data[:min(len(data), len(zeros))]
			if bytes.Equal(part, zeros[:len(part)]) {
				data, offset = data[len(part):], offset+int64(len(part))
				continue
			}
		}
		w, err := unix.Pwrite(fd, part, offset)
		if err != nil {
			return fmt.Errorf("write at %d: %w", offset, err)
		}
		data, offset = data[w:], offset+int64(w)
	}
	return nil
}

// setAttributes gives name in the directory dst the owner, mode, extended
// attributes and time of modification of its original, in an order in which none
// undoes another: a change of owner clears the set-user-ID bit.
func (s *source) setAttributes(dst int, name string, in *squashfs.Inode) error {
	if in.UID != 0 || in.GID != 0 {
		if err := unix.Fchownat(dst, name, int(in.UID), int(in.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("owner %d:%d: %w", in.UID, in.GID, err)
		}
	}
	if in.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(dst, name, in.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("mode %#o: %w", in.Mode&0o7777, err)
		}
	}
	xattrs, err := s.Xattrs(in)
	if err != nil {
		return err
	}
	if err := setXattrs(dst, name, xattrs); err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: in.Mtime}}
	if err := unix.UtimesNanoAt(dst, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("time of modification: %w", err)
	}
	return nil
}

// setXattrs sets extended attributes by way of /proc, since no kernel has the call
// for a name in a directory before 6.13.
func setXattrs(dst int, name string, xattrs []squashfs.Xattr) error {
	for _, x := range xattrs {
		err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dst, name), x.Name, x.Value, 0)
		// EOPNOTSUPP: a tmpfs has user.* from Linux 6.6. A NAR carries no extended
		// attributes, so the store path is whole without.
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("set extended attribute %s: %w", x.Name, err)
		}
	}
	return nil
}

package squashimport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// copyFile copies the content of the regular file name from directory src to dst
// and returns its length. Pages of zeros of a sparse file stay holes.
func copyFile(src, dst int, name string, st *unix.Stat_t, buf []byte) (int64, error) {
	in, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(in)
	out, err := unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("create: %w", err)
	}
	defer unix.Close(out)
	sparse := st.Blocks*512 < st.Size
	var n int64
	for n < st.Size {
		r, err := unix.Read(in, buf)
		if err == nil && r == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, fmt.Errorf("read at %d of %d: %w", n, st.Size, err)
		}
		if err := writeAt(out, buf[:r], n, sparse); err != nil {
			return n, fmt.Errorf("write at %d of %d: %w", n, st.Size, err)
		}
		n += int64(r)
	}
	if sparse {
		if err := unix.Ftruncate(out, n); err != nil {
			return n, fmt.Errorf("set length %d: %w", n, err)
		}
	}
	return n, nil
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
			return err
		}
		data, offset = data[w:], offset+int64(w)
	}
	return nil
}

func copySymlink(src, dst int, name string, st *unix.Stat_t) error {
	target := make([]byte, st.Size+1)
	n, err := unix.Readlinkat(src, name, target)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return unix.Symlinkat(string(target[:n]), dst, name)
}

// setAttributes gives name in the directory dst the owner, mode, extended
// attributes and time of modification of its original in src, in an order in
// which none undoes another: a change of owner clears the set-user-ID bit.
func (s *source) setAttributes(src, dst int, name string, st *unix.Stat_t) error {
	if st.Uid != 0 || st.Gid != 0 {
		if err := unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("owner %d:%d: %w", st.Uid, st.Gid, err)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(dst, name, st.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("mode %#o: %w", st.Mode&0o7777, err)
		}
	}
	if s.xattrs {
		if err := copyXattrs(src, dst, name); err != nil {
			return err
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	if err := unix.UtimesNanoAt(dst, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("time of modification: %w", err)
	}
	return nil
}

// maxXattr is the kernel's limit for a list of names and for a value:
// XATTR_LIST_MAX and XATTR_SIZE_MAX in linux/limits.h.
const maxXattr = 64 << 10

// copyXattrs copies extended attributes by way of /proc, since no kernel has the
// calls for a name in a directory before 6.13.
func copyXattrs(src, dst int, name string) error {
	from, to := fmt.Sprintf("/proc/self/fd/%d/%s", src, name), fmt.Sprintf("/proc/self/fd/%d/%s", dst, name)
	list := make([]byte, maxXattr)
	n, err := unix.Llistxattr(from, list)
	// EOPNOTSUPP: a kernel whose squashfs is built without SQUASHFS_XATTR.
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	value := make([]byte, maxXattr)
	for attr := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		v, err := unix.Lgetxattr(from, attr, value)
		if err != nil {
			return fmt.Errorf("read extended attribute %s: %w", attr, err)
		}
		err = unix.Lsetxattr(to, attr, value[:v], 0)
		// EOPNOTSUPP: a tmpfs has user.* from Linux 6.6. A NAR carries no extended
		// attributes, so the store path is whole without.
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("set extended attribute %s: %w", attr, err)
		}
	}
	return nil
}

package netboot

import (
	"fmt"
	"io"
	"path"
	"strings"
)

// Bits of a cpio member's mode (Linux, stat(2)).
const (
	modeFile    = 0o100000
	modeDir     = 0o040000
	modeSymlink = 0o120000
	modeChar    = 0o020000
)

// pageSize is what file data and whole initrds are aligned to, in bytes. A
// whole initrd must end on a multiple of 4: the kernel silently ignores an
// uncompressed cpio that starts elsewhere. With the data of a large member on
// file system blocks, copy_file_range can share them.
const pageSize = 4096

// maxMember is the size in bytes from which on the kernel cannot take a
// member: newc has 32 bits for it.
const maxMember = 1 << 32

// maxName is the largest namesize, in bytes, that the kernel takes (PATH_MAX,
// do_header in init/initramfs.c). The name's last NUL counts.
const maxName = 4096

// A cpioWriter writes a newc archive ("070701", Linux
// Documentation/driver-api/early-userspace/buffer-format.rst). All members
// belong to root and have the time 1, as everything in a Nix store has. The
// directories above a member are written before it. No name may be written
// twice.
//
// Its errors are those of the underlying writer, and name the member.
type cpioWriter struct {
	w    io.Writer
	off  int64           // bytes written
	ino  uint32          // of the last member
	seen map[string]bool // name → is a directory
}

// newCPIOWriter returns a writer of an archive that starts at w's offset 0, or
// at any other multiple of pageSize. w gets its content by [io.Copy], so an
// [os.File] gets that of another by copy_file_range.
func newCPIOWriter(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, seen: make(map[string]bool)}
}

// File writes a regular file of size bytes, read from r.
func (c *cpioWriter) File(name string, perm uint32, size int64, r io.Reader) error {
	return c.file(name, perm, size, r, false)
}

// AlignedFile is File with the data at a multiple of pageSize.
func (c *cpioWriter) AlignedFile(name string, perm uint32, size int64, r io.Reader) error {
	return c.file(name, perm, size, r, true)
}

func (c *cpioWriter) file(name string, perm uint32, size int64, r io.Reader, align bool) error {
	if err := c.enter(&name, false); err != nil {
		return err
	}
	if size >= maxMember {
		return fmt.Errorf("cpio member %s: %d bytes, the kernel takes less than 4 GiB", name, size)
	}
	nameSize := len(name) + 1
	if align {
		var err error
		if nameSize, err = c.alignName(nameSize); err != nil {
			return fmt.Errorf("cpio member %s: %w", name, err)
		}
	}
	if err := c.header(name, nameSize, modeFile|perm, size, 0, 0); err != nil {
		return err
	}
	n, err := io.Copy(c.w, r)
	c.off += n
	if err != nil {
		return fmt.Errorf("cpio member %s: %d of %d bytes: %w", name, n, size, err)
	}
	if n != size {
		return fmt.Errorf("cpio member %s: it has %d bytes, want %d", name, n, size)
	}
	return c.pad(4)
}

// Dir writes a directory, unless it is there already.
func (c *cpioWriter) Dir(name string) error {
	if isDir, ok := c.seen[strings.Trim(name, "/")]; ok && isDir {
		return nil
	}
	if err := c.enter(&name, true); err != nil {
		return err
	}
	return c.header(name, len(name)+1, modeDir|0o755, 0, 0, 0)
}

// Symlink writes a symbolic link.
func (c *cpioWriter) Symlink(name, target string) error {
	if err := c.enter(&name, false); err != nil {
		return err
	}
	if err := c.header(name, len(name)+1, modeSymlink|0o777, int64(len(target)), 0, 0); err != nil {
		return err
	}
	if err := c.write([]byte(target)); err != nil {
		return err
	}
	return c.pad(4)
}

// CharDevice writes a character device node.
func (c *cpioWriter) CharDevice(name string, perm, major, minor uint32) error {
	if err := c.enter(&name, false); err != nil {
		return err
	}
	return c.header(name, len(name)+1, modeChar|perm, 0, major, minor)
}

// trailer is the name of the last member.
const trailer = "TRAILER!!!"

// Close writes the trailer and zeros up to a multiple of pageSize.
func (c *cpioWriter) Close() error {
	if err := c.header(trailer, len(trailer)+1, 0, 0, 0, 0); err != nil {
		return err
	}
	return c.pad(pageSize)
}

// enter checks a new member's name, makes it relative, and writes the
// directories above it.
func (c *cpioWriter) enter(name *string, isDir bool) error {
	n := strings.Trim(*name, "/")
	if n == "" || n == "." || n == trailer || path.Clean(n) != n || n == ".." || strings.HasPrefix(n, "../") || strings.Contains(n, "\x00") || len(n) >= maxName {
		return fmt.Errorf("cpio member %q: not a clean path of less than %d bytes", *name, maxName)
	}
	if _, ok := c.seen[n]; ok {
		return fmt.Errorf("cpio member %s: written twice", n)
	}
	if dir := path.Dir(n); dir != "." {
		if isDir, ok := c.seen[dir]; ok && !isDir {
			return fmt.Errorf("cpio member %s: %s is not a directory", n, dir)
		}
		if err := c.Dir(dir); err != nil {
			return err
		}
	}
	c.seen[n] = isDir
	*name = n
	return nil
}

// alignName returns the namesize, at least min, that puts the data of the next
// member at a multiple of pageSize: a name may have NULs after its end, which
// namesize counts (so does gen_init_cpio -a, Linux 6.18). Where the name would
// have to be longer than maxName, it writes the directory "." until the member
// begins elsewhere.
func (c *cpioWriter) alignName(min int) (int, error) {
	// Each "." takes 112 bytes, so that up to here ten of them suffice.
	const most = 1024
	if min > most {
		return 0, fmt.Errorf("name of %d bytes, want at most %d to align the data", min, most)
	}
	for {
		size := pageSize - int((c.off+headerSize)%pageSize)
		if size >= min {
			return size, nil
		}
		if err := c.header(".", len(".")+1, modeDir|0o755, 0, 0, 0); err != nil {
			return 0, err
		}
	}
}

const headerSize = 110

func (c *cpioWriter) header(name string, nameSize int, mode uint32, size int64, major, minor uint32) error {
	c.ino++
	const uid, gid, nlink, mtime = 0, 0, 1, 1
	h := fmt.Appendf(make([]byte, 0, headerSize+nameSize), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, uid, gid, nlink, mtime, size, 0, 0, major, minor, nameSize, 0)
	h = append(h, name...)
	h = append(h, make([]byte, nameSize-len(name))...)
	if err := c.write(h); err != nil {
		return fmt.Errorf("cpio member %s: %w", name, err)
	}
	return c.pad(4)
}

func (c *cpioWriter) write(p []byte) error {
	n, err := c.w.Write(p)
	c.off += int64(n)
	return err
}

// pad writes zeros up to a multiple of n.
func (c *cpioWriter) pad(n int64) error {
	return c.write(make([]byte, (n-c.off%n)%n))
}

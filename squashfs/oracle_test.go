package squashfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stage1/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// runCommand runs a command and returns what it prints.
func runCommand(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mksquashfs makes an image of path, which is its root's entry, and returns the
// image's path.
func mksquashfs(tb testing.TB, path string, args ...string) string {
	tb.Helper()
	image := filepath.Join(tb.TempDir(), filepath.Base(path)+".squashfs")
	runCommand(tb, "mksquashfs", append([]string{path, image, "-keep-as-directory", "-noappend", "-quiet", "-no-progress"}, args...)...)
	return image
}

// open returns the images at paths as inputs.
func open(tb testing.TB, paths ...string) []Input {
	tb.Helper()
	var inputs []Input
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { f.Close() })
		info, err := f.Stat()
		if err != nil {
			tb.Fatal(err)
		}
		inputs = append(inputs, Input{filepath.Base(path), f, info.Size()})
	}
	return inputs
}

// link links the images at paths.
func link(tb testing.TB, paths ...string) *Layout {
	tb.Helper()
	l, err := Link(open(tb, paths...), Options{RootMode: 0o755})
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// readAll returns all of l.
func readAll(tb testing.TB, l *Layout) []byte {
	tb.Helper()
	b, err := io.ReadAll(io.NewSectionReader(l, 0, l.Size()))
	if err != nil || int64(len(b)) != l.Size() {
		tb.Fatalf("read layout: %d bytes of %d: %v", len(b), l.Size(), err)
	}
	return b
}

// write writes l to a file and returns its path.
func write(tb testing.TB, l *Layout) string {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "linked.squashfs"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if n, err := l.WriteTo(f); err != nil || n != l.Size() {
		tb.Fatalf("WriteTo() = %d, %v, want %d", n, err, l.Size())
	}
	return f.Name()
}

// mount has the kernel mount an image, and returns where.
func mount(tb testing.TB, image string) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	runCommand(tb, "mount", "-t", "squashfs", "-o", "loop,ro", image, dir)
	tb.Cleanup(func() { runCommand(tb, "umount", dir) })
	return dir
}

// tree returns a line for each file below dir: all that the kernel says of it.
func tree(tb testing.TB, dir string) []string {
	tb.Helper()
	var lines []string
	names := make(map[uint64]string) // of an inode: the first one
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := os.Lstat(path) // a lookup, where e.Info might come from readdir
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if _, ok := names[st.Ino]; !ok {
			names[st.Ino] = name
		}
		line := fmt.Sprintf("%s type=%v mode=%o uid=%d gid=%d mtime=%d nlink=%d rdev=%#x first=%s xattrs=%s",
			name, e.Type(), st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Nlink, st.Rdev, names[st.Ino], xattrs(tb, path))
		switch info.Mode().Type() {
		case 0:
			line += fmt.Sprintf(" size=%d content=%x", info.Size(), digest(tb, path))
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " target=" + target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return lines
}

// digest returns the hash of a file's content without its holes.
func digest(tb testing.TB, path string) []byte {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	zeros := make([]byte, 1<<20)
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		tb.Fatal(err)
	}
	for off := int64(0); off < size; {
		// Both file systems may tell of holes differently: skip to the next
		// data, then look at whole pieces.
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		} else if err == nil {
			off = max(off, data&^(1<<20-1))
		}
		n, err := f.ReadAt(buf, off)
		if err != nil && err != io.EOF {
			tb.Fatal(err)
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			fmt.Fprintln(h, off)
			h.Write(buf[:n])
		}
		off += int64(n)
	}
	return h.Sum(nil)[:8]
}

// xattrs returns the extended attributes of a file.
func xattrs(tb testing.TB, path string) string {
	tb.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err == unix.EOPNOTSUPP {
		n, err = 0, nil
	}
	if err != nil {
		tb.Fatalf("llistxattr %s: %v", path, err)
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	var all []string
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			tb.Fatalf("lgetxattr %s %s: %v", path, name, err)
		}
		all = append(all, fmt.Sprintf("%s:%d:%x", name, n, sha256.Sum256(buf[:n])))
	}
	return fmt.Sprint(all)
}

// checkTree checks that the kernel sees the same below got and below want.
func checkTree(tb testing.TB, got, want string) {
	tb.Helper()
	g, w := tree(tb, got), tree(tb, want)
	diff := 0
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			tb.Errorf("got  %s\nwant %s", a, b)
			if diff++; diff == 5 {
				tb.Fatal("and more")
			}
		}
	}
}

// check stops the test if any of errs is not nil.
func check(tb testing.TB, errs ...error) {
	tb.Helper()
	for _, err := range errs {
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// noise returns n bytes that do not compress, other ones for each seed.
func noise(seed, n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256(fmt.Append(nil, seed, i))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

// makeZoo makes a directory with a file of each kind.
func makeZoo(tb testing.TB, dir string) {
	tb.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	check(tb,
		os.MkdirAll(at("sub/deeper"), 0o755), os.Mkdir(at("empty"), 0o700),
		os.WriteFile(at("nothing"), nil, 0o444),
		os.WriteFile(at("small"), []byte("small\n"), 0o755),
		os.WriteFile(at("sub/small"), []byte("small too\n"), 0o600),
		os.WriteFile(at("sub/deeper/text"), bytes.Repeat([]byte("compresses well, "), 20000), 0o644),
		os.WriteFile(at("sub/deeper/same"), bytes.Repeat([]byte("compresses well, "), 20000), 0o644),
		os.WriteFile(at("noise"), noise(1, 9000), 0o4755),
		os.Symlink("sub/../small", at("symlink")),
		os.Symlink(strings.Repeat("long/", 200), at("sub/symlink")),
		os.Link(at("small"), at("sub/deeper/link")), os.Link(at("small"), at("zlink")),
		unix.Mknod(at("pipe"), unix.S_IFIFO|0o640, 0),
		os.Link(at("pipe"), at("sub/pipe")), // mksquashfs keeps no links to symlinks
		unix.Mknod(at("socket"), unix.S_IFSOCK|0o777, 0),
		unix.Mknod(at("char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))),
		os.Chown(at("small"), 1000, 100), os.Lchown(at("symlink"), 1000, 70000),
		// A hole, and a hole at the end.
		os.WriteFile(at("sparse"), noise(2, 5000), 0o644), os.Truncate(at("sparse"), 3<<20),
	)
	long := bytes.Repeat([]byte("value "), 200)
	for _, name := range []string{"small", "sub", "noise", "symlink", "char", "block", "pipe", "socket", "empty"} {
		check(tb, unix.Lsetxattr(at(name), "trusted.long", long, 0), unix.Lsetxattr(at(name), "trusted.own", []byte(name), 0))
	}
	check(tb, unix.Lsetxattr(at("sub/small"), "user.long", long, 0), unix.Lsetxattr(at("sub/small"), "security.empty", nil, 0),
		unix.Lsetxattr(at("sub/deeper"), "trusted.long", long, 0))
	setTimes(tb, dir)
}

// setTimes gives all files below dir times of their own, some of which 32 bits
// without sign can hold and with sign cannot.
func setTimes(tb testing.TB, dir string) {
	tb.Helper()
	i := int64(0)
	check(tb, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i++
		sec := i * 1000
		if i%3 == 0 {
			sec += 3 << 30
		}
		ts := unix.NsecToTimespec(time.Unix(sec, 0).UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

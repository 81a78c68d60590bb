// Package facts is what a closure's init finds when stage 1 has handed over to
// it, collected in the guest and compared by the tests.
package facts

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Facts is what Collect finds. Strings of the kernel are kept as it gives them.
type Facts struct {
	Args     []string          // of PID 1
	Environ  []string          // that PID 1 was started with
	FDs      map[int]string    // open in PID 1 → file, or its kind
	Mounts   []Mount           // of PID 1, in order
	Loops    []string          // backing files of loop devices in use
	Cmdline  string            // of the kernel
	Modprobe string            // kernel.modprobe
	Memory   map[string]int64  // /proc/meminfo, in bytes
	Files    map[string]string // content of the files asked for that are there
	Tree     []Entry           // of the directories asked for that are there
}

// Below returns the entries of dir and all that is in it.
func (f *Facts) Below(dir string) (out []Entry) {
	for _, e := range f.Tree {
		if e.Path == dir || strings.HasPrefix(e.Path, dir+"/") {
			out = append(out, e)
		}
	}
	return out
}

// Mount is one line of mountinfo (proc(5)).
type Mount struct {
	Target  string
	Type    string
	Source  string
	Options []string // of the mount and of its superblock
}

// Entry is one file of a tree.
type Entry struct {
	Path   string
	Mode   uint32 // type and permissions, as in stat(2)
	UID    uint32
	GID    uint32
	Mtime  int64             // nanoseconds
	Size   int64             `json:",omitempty"` // of a regular file
	SHA256 string            `json:",omitempty"` // of a regular file
	Target string            `json:",omitempty"` // of a symlink
	LinkTo string            `json:",omitempty"` // an earlier path that is a hard link to the same file
	Xattrs map[string]string `json:",omitempty"`
}

func (e Entry) String() string {
	return fmt.Sprintf("%s mode %o owner %d:%d mtime %d size %d sha256 %.8s target %q link to %q xattrs %q", e.Path, e.Mode, e.UID, e.GID, e.Mtime, e.Size, e.SHA256, e.Target, e.LinkTo, e.Xattrs)
}

// Collect looks at the machine that it runs on. What PID 1 is told about is
// what its first program was started with, provided that it is still that one.
func Collect(files, trees []string) (*Facts, error) {
	f := &Facts{FDs: map[int]string{}, Files: map[string]string{}}
	var errs []error
	read := func(name string) string {
		data, err := os.ReadFile(name)
		errs = append(errs, err)
		return string(data)
	}
	f.Args = nulTerminated(read("/proc/1/cmdline"))
	f.Environ = nulTerminated(read("/proc/1/environ"))
	f.Cmdline = strings.TrimSpace(read("/proc/cmdline"))
	f.Modprobe = strings.TrimSpace(read("/proc/sys/kernel/modprobe"))
	f.Mounts = mounts(read("/proc/1/mountinfo"))
	f.Memory = memory(read("/proc/meminfo"))
	for _, name := range files {
		if data, err := os.ReadFile(name); err == nil {
			f.Files[name] = string(data)
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	fds, err := os.ReadDir("/proc/1/fd")
	errs = append(errs, err)
	for _, fd := range fds {
		n, err := strconv.Atoi(fd.Name())
		errs = append(errs, err)
		f.FDs[n], err = os.Readlink("/proc/1/fd/" + fd.Name())
		errs = append(errs, err)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	errs = append(errs, err)
	for _, loop := range loops {
		f.Loops = append(f.Loops, strings.TrimSpace(read(loop)))
	}
	trees = slices.DeleteFunc(slices.Clone(trees), func(dir string) bool {
		_, err := os.Lstat(dir)
		return errors.Is(err, fs.ErrNotExist)
	})
	f.Tree, err = Tree(trees...)
	return f, errors.Join(append(errs, err)...)
}

func nulTerminated(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == 0 })
}

func mounts(mountinfo string) (out []Mount) {
	for line := range strings.Lines(mountinfo) {
		left, right, _ := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 6 || len(r) < 3 {
			continue
		}
		out = append(out, Mount{Target: l[4], Type: r[0], Source: r[1], Options: append(strings.Split(l[5], ","), strings.Split(r[2], ",")...)})
	}
	return out
}

func memory(meminfo string) map[string]int64 {
	out := map[string]int64{}
	for line := range strings.Lines(meminfo) {
		f := strings.Fields(line)
		if len(f) == 3 && f[2] == "kB" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			out[strings.TrimSuffix(f[0], ":")] = n << 10
		}
	}
	return out
}

// Tree lists every file in and below the paths given, in lexical order.
func Tree(paths ...string) ([]Entry, error) {
	var out []Entry
	type inode struct{ dev, ino uint64 }
	seen := map[inode]string{}
	for _, top := range paths {
		err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			e, st, err := entry(name)
			if err != nil {
				return err
			}
			if !d.IsDir() && st.Nlink > 1 {
				key := inode{st.Dev, st.Ino}
				e.LinkTo = seen[key]
				seen[key] = cmp.Or(seen[key], name)
			}
			out = append(out, e)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func entry(name string) (Entry, *syscall.Stat_t, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return Entry{}, nil, err
	}
	st := info.Sys().(*syscall.Stat_t)
	e := Entry{Path: name, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: info.ModTime().UnixNano()}
	if e.Xattrs, err = xattrs(name); err != nil {
		return e, st, err
	}
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		e.Target, err = os.Readlink(name)
	case 0:
		e.Size = st.Size
		e.SHA256, err = sum(name)
	}
	return e, st, err
}

func sum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func xattrs(name string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(name, buf)
	if err == unix.ENOTSUP { // a file system without xattrs has none
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "llistxattr", Path: name, Err: err}
	}
	var out map[string]string
	for _, attr := range nulTerminated(string(buf[:n])) {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(name, attr, value)
		if err != nil {
			return nil, &fs.PathError{Op: "lgetxattr " + attr, Path: name, Err: err}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[attr] = string(value[:n])
	}
	return out, nil
}

// Lines before and after facts on a console.
const (
	Begin = "-----BEGIN FACTS-----"
	End   = "-----END FACTS-----"
)

// Encode writes f for a serial console: JSON, compressed by gzip, in base 64,
// between [Begin] and [End].
func Encode(w io.Writer, f *Facts) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(f); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	lines := slices.Collect(slices.Chunk([]byte(base64.StdEncoding.EncodeToString(b.Bytes())), 76))
	_, err := fmt.Fprintf(w, "\n%s\n%s\n%s\n", Begin, bytes.Join(lines, []byte("\n")), End)
	return err
}

// Decode reads what Encode has written, out of a console's output.
func Decode(console string) (*Facts, error) {
	_, text, ok := strings.Cut(console, Begin)
	text, _, ok2 := strings.Cut(text, End)
	if !ok || !ok2 {
		return nil, errors.New("no facts on the console")
	}
	z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(strings.Join(strings.Fields(text), ""))))
	if err != nil {
		return nil, fmt.Errorf("facts: %w", err)
	}
	f := &Facts{}
	if err := json.NewDecoder(z).Decode(f); err != nil {
		return nil, fmt.Errorf("facts: %w", err)
	}
	return f, nil
}

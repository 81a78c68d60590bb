package squashfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReader reads images of each compressor, and of the least and the greatest
// block size, and finds what mksquashfs made them of.
func TestReader(t *testing.T) {
	src := filepath.Join(t.TempDir(), "zoo")
	makeZoo(t, src)
	check(t, os.WriteFile(filepath.Join(src, "large"), append(noise(3, 1<<20), make([]byte, 1<<20+5)...), 0o644))
	want := sourceTree(t, src)
	for _, args := range []string{
		"-comp gzip", "-comp lzma", "-comp lzo", "-comp xz -Xbcj x86", "-comp lz4", "-comp zstd", "-comp gzip -noD -noF",
		"-comp zstd -b 4K", "-comp zstd -b 1M", "-comp xz -b 1M", "-comp gzip -no-fragments", "-comp gzip -always-use-fragments",
	} {
		t.Run(args, func(t *testing.T) {
			in := open(t, mksquashfs(t, src, strings.Fields(args)...))[0]
			r, err := NewReader(in)
			check(t, err)
			got, err := readTree(r, 1<<40)
			check(t, err)
			for i := range max(len(got), len(want)) {
				if i >= len(got) || i >= len(want) || got[i] != want[i] {
					t.Fatalf("image has:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
		})
	}
}

// sourceTree returns a line for each file below dir.
func sourceTree(t *testing.T, dir string) (lines []string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(filepath.Dir(dir), path)
		i := &Inode{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Sec, Links: uint32(st.Nlink)}
		var content []byte
		switch info.Mode().Type() {
		case 0:
			i.Size = st.Size
			content, err = os.ReadFile(path)
		case fs.ModeSymlink:
			i.Target, err = os.Readlink(path)
		}
		lines = append(lines, line(name, i, content, xattrs(t, path)))
		return err
	}))
	slices.Sort(lines)
	return lines
}

// readTree returns a line for each file of an image, of which it reads at most
// limit bytes.
func readTree(r *Reader, limit int64) (lines []string, err error) {
	d := new(Decoder)
	seen := map[uint64]bool{}
	var walk func(path string, dir *Inode) error
	walk = func(path string, dir *Inode) error {
		if seen[dir.ID] {
			return fmt.Errorf("directory %s twice", path)
		}
		seen[dir.ID] = true
		entries, err := r.List(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			i, err := r.Inode(e)
			if err != nil {
				return err
			}
			var content []byte
			if limit -= i.Size; limit < 0 {
				return fmt.Errorf("more to read than wanted, at %s", e.Name)
			}
			if i.Mode&unix.S_IFMT == unix.S_IFREG {
				content = make([]byte, i.Size)
				write := func(p []byte, off int64) error { copy(content[off:], p); return nil }
				// In two parts, the last first.
				if err := r.Read(d, i, r.BlockSize(), i.Size, write); err != nil {
					return err
				}
				if err := r.Read(d, i, 0, r.BlockSize(), write); err != nil {
					return err
				}
			}
			list, err := r.Xattrs(i)
			if err != nil {
				return err
			}
			var attrs []string
			for _, x := range list {
				attrs = append(attrs, fmt.Sprintf("%s:%d:%x", x.Name, len(x.Value), sha256.Sum256(x.Value)))
			}
			slices.Sort(attrs)
			name := filepath.Join(path, e.Name)
			lines = append(lines, line(name, i, content, fmt.Sprint(attrs)))
			if i.Mode&unix.S_IFMT == unix.S_IFDIR {
				if err := walk(name, i); err != nil {
					return err
				}
			}
		}
		return nil
	}
	root, err := r.Root()
	if err == nil {
		err = walk("", root)
	}
	slices.Sort(lines)
	return lines, err
}

// line describes a file. Names of a symlink are counted by no mksquashfs, names of
// a directory otherwise by each file system.
func line(name string, i *Inode, content []byte, xattrs string) string {
	links := i.Links
	if typ := i.Mode & unix.S_IFMT; typ == unix.S_IFDIR || typ == unix.S_IFLNK {
		links = 1
	}
	return fmt.Sprintf("%s mode=%#o owner=%d:%d mtime=%d links=%d size=%d target=%s content=%x xattrs=%s",
		name, i.Mode, i.UID, i.GID, i.Mtime, links, i.Size, i.Target, sha256.Sum256(content), xattrs)
}

// TestReaderErrors changes a byte of an image. Wherever it is, reading ends: with an
// error or with other contents.
func TestReaderErrors(t *testing.T) {
	image := seedImages(t)[0]
	tried, failed := 0, 0
	for i := 0; i < len(image); i += 101 {
		tried++
		b := bytes.Clone(image)
		b[i] ^= 0xff
		r, err := NewReader(Input{"img", bytes.NewReader(b), int64(len(b))})
		if err == nil {
			_, err = readTree(r, 1<<24)
		}
		if err != nil {
			failed++
		}
	}
	// Data that is stored, padding, times and the like have no checksum.
	if failed < tried/10 {
		t.Errorf("%d of %d changed bytes were noticed", failed, tried)
	}
}

// FuzzReader reads all that an image has.
func FuzzReader(f *testing.F) {
	for _, b := range seedImages(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(Input{"img", bytes.NewReader(b), int64(len(b))})
		if err != nil {
			return
		}
		_, _ = readTree(r, 1<<24)
	})
}

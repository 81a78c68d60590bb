package netboot

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func TestCPIO(t *testing.T) {
	dir := t.TempDir()
	archive := filepath.Join(dir, "archive")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := newCPIOWriter(f)
	steps := []error{
		c.File("/a/b/file", 0o755, 5, strings.NewReader("12345")),
		c.AlignedFile("a/aligned", 0o644, 3, strings.NewReader("xyz")),
		c.Dir("a/dir"),
		c.Dir("a/dir"),
		c.Symlink("a/link", "b/file"),
		c.Close(),
	}
	for i, err := range steps {
		if err != nil {
			t.Fatalf("member %d: %v", i, err)
		}
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	extract(t, archive, out)
	got := run(t, "sh", "-c", "cd "+out+" && find * -printf '%p %y %m %l\\n' | sort && find * -type f -printf '%T@\\n' && cat a/b/file a/aligned")
	want := `a d 755 
a/aligned f 644 
a/b d 755 
a/b/file f 755 
a/dir d 755 
a/link l 777 b/file
1.0000000000
1.0000000000
12345xyz`
	if got != want {
		t.Errorf("cpio -i made\n%s\nwant\n%s", got, want)
	}
}

// extract unpacks an archive by GNU cpio.
func extract(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("cpio", "--extract", "--make-directories", "--preserve-modification-time", "--no-absolute-filenames")
	cmd.Dir, cmd.Stdin = dir, f
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
}

func TestCPIORefuses(t *testing.T) {
	for _, name := range []string{"", "/", ".", "..", "../x", "a//b", "a/./b", "a\x00b", trailer, strings.Repeat("x/", 2047) + "yy"} {
		c := newCPIOWriter(io.Discard)
		wantError(t, fmt.Sprintf("File(%.20q)", name), c.File(name, 0o644, 0, strings.NewReader("")), "clean path")
	}
	c := newCPIOWriter(io.Discard)
	if err := c.File("a", 0o644, 0, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a twice", c.Symlink("a", "b"), "cpio member a", "twice")
	wantError(t, "below a file", c.Dir("a/b"), "a is not a directory")
	wantError(t, "short", c.File("short", 0o644, 4, strings.NewReader("abc")), "short", "it has 3 bytes, want 4")
	wantError(t, "4 GiB", c.File("huge", 0o644, 1<<32, strings.NewReader("")), "huge", "4 GiB")
}

// TestCPIOAlignment puts the member that is to be aligned at each place that a
// header can have in a page, with a name of each sort of length.
func TestCPIOAlignment(t *testing.T) {
	for _, nameLen := range []int{1, 60, 111, 112, 250, 1023} {
		for before := 0; before < pageSize; before += 4 {
			c := newCPIOWriter(io.Discard)
			name := strings.Repeat("n", nameLen)
			c.off = int64(before)
			size, err := c.alignName(nameLen + 1)
			if err != nil {
				t.Fatal(err)
			}
			if c.off-int64(before) > 10*112 {
				t.Fatalf("alignName at %d took %d bytes", before, c.off-int64(before))
			}
			if size < len(name)+1 || size > maxName || (c.off+headerSize+int64(size))%pageSize != 0 {
				t.Fatalf("alignName at %d for %d bytes = %d, header at %d: data at %d", before, nameLen+1, size, c.off, c.off+headerSize+int64(size))
			}
		}
	}
}

// FuzzCPIO reads back what was written by another implementation.
func FuzzCPIO(f *testing.F) {
	f.Add("a", []byte("b"), true, "c")
	f.Add("nix-store-squashes/01234567/89abcdfghijklmnpqrsvwxyz-name", make([]byte, 5000), true, "x/y/z")
	f.Add("dir/"+strings.Repeat("n", 200), []byte{}, false, "dir/m")
	f.Fuzz(func(t *testing.T, name1 string, data []byte, align bool, name2 string) {
		var buf bytes.Buffer
		c := newCPIOWriter(&buf)
		write := c.File
		if align {
			write = c.AlignedFile
		}
		if write(name1, 0o644, int64(len(data)), bytes.NewReader(data)) != nil || c.Symlink(name2, name1+"x") != nil {
			return
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if buf.Len()%pageSize != 0 {
			t.Errorf("archive of %d bytes, want a multiple of %d", buf.Len(), pageSize)
		}
		records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(buf.Bytes())))
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, r := range records {
			text, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil {
				t.Fatal(err)
			}
			if r.Mode&0o170000 != modeDir {
				got[strings.TrimRight(r.Name, "\x00")] = string(text)
			}
		}
		name1, name2 = strings.Trim(name1, "/"), strings.Trim(name2, "/")
		if len(got) != 2 || got[name1] != string(data) {
			t.Errorf("read back %q, want %q and %q", got, name1, name2)
		}
		aligned := false
		for page := 0; page < buf.Len(); page += pageSize {
			aligned = aligned || bytes.HasPrefix(buf.Bytes()[page:], data)
		}
		if align && !aligned {
			t.Errorf("data of %d bytes is at no multiple of %d", len(data), pageSize)
		}
	})
}

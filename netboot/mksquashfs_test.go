package netboot

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"stage1/registration"
)

// TestImages compares, for each kind of store path, what unsquashfs gets out of
// the image with what is in the store.
func TestImages(t *testing.T) {
	// It would conflict with -mkfs-time.
	t.Setenv("SOURCE_DATE_EPOCH", "1234567890")
	s := newTestStore(t)
	for _, name := range []string{"zstd", "gzip", "xz", "lz4"} {
		c, err := newCompression(name, 0, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		m, err := findMksquashfs(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{s.tools, s.file, s.link} {
			dir := t.TempDir()
			image, out := filepath.Join(dir, "image"), filepath.Join(dir, "out")
			if err := m.make(t.Context(), []string{s.real(p)}, image, 0); err != nil {
				t.Fatal(err)
			}
			list := strings.Split(run(t, "unsquashfs", "-lls", "-UTC", image), "\n")
			if want := "drwxr-xr-x root/root "; !strings.HasPrefix(list[0], want) {
				t.Errorf("%s: root directory is %q, want %q", p, list[0], want)
			}
			for _, line := range list {
				if line != "" && !strings.Contains(line, " root/root ") && !strings.Contains(line, " 1970-01-01 00:00 ") {
					t.Errorf("%s: %q, want root's and time 1", p, line)
				}
			}
			run(t, "unsquashfs", "-quiet", "-no-progress", "-dest", out, image)
			if names, err := os.ReadDir(out); err != nil || len(names) != 1 || names[0].Name() != path.Base(p) {
				t.Errorf("%s: the image's root has %v, %v, want one entry", p, names, err)
			}
			run(t, "diff", "--recursive", "--no-dereference", s.real(p), filepath.Join(out, path.Base(p)))
			modes := func(dir string) string {
				return run(t, "sh", "-c", "cd "+dir+" && find "+path.Base(p)+" -printf '%p %y %m %l\\n' | sort")
			}
			if got, want := modes(out), modes(path.Dir(s.real(p))); got != want {
				t.Errorf("%s by %s holds\n%s\nwant\n%s", p, name, got, want)
			}
		}
	}
}

// TestImageIsFunctionOfNAR makes an image of two copies of a path that differ in
// what a NAR does not carry.
func TestImageIsFunctionOfNAR(t *testing.T) {
	m := testMksquashfs(t)
	files := []string{"d/a", "d/b", "d/c", "e", "f"}
	var sums []string
	for i := range 2 {
		dir := filepath.Join(t.TempDir(), "path")
		for j := range files {
			// In another order, so that directories are.
			name := files[(j*(1+3*i)+2*i)%len(files)]
			writeFile(t, filepath.Join(dir, name), strings.Repeat("same ", 50_000), 0o444)
		}
		if i == 1 {
			for _, name := range files[1:] {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				if err := os.Link(filepath.Join(dir, files[0]), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(filepath.Join(dir, "d"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		image := filepath.Join(t.TempDir(), "image")
		if err := m.make(t.Context(), []string{dir}, image, uint64(i)<<30); err != nil {
			t.Fatal(err)
		}
		_, sum, err := digest(image)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		t.Errorf("images of the same content have SHA-256 %q, want one", sums)
	}
}

func testMksquashfs(t *testing.T) *mksquashfs {
	t.Helper()
	c, err := newCompression("", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := findMksquashfs(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMksquashfsFails(t *testing.T) {
	m := testMksquashfs(t)
	dir := t.TempDir()
	err := m.make(t.Context(), []string{filepath.Join(dir, "absent")}, filepath.Join(dir, "image"), 0)
	wantError(t, "make of an absent path", err, "mksquashfs", filepath.Join(dir, "absent"), "exit status")
	err = m.make(t.Context(), []string{dir}, filepath.Join(dir, "no", "image"), 0)
	wantError(t, "make in an absent directory", err, filepath.Join(dir, "no", "image"), "exit status")
}

// TestKey checks that each thing that shapes an image is in its key.
func TestKey(t *testing.T) {
	base := registration.Entry{Path: testPath("a"), NarHash: strings.Repeat("0", 64)}
	otherPath, otherHash := base, base
	otherPath.Path = testPath("b")
	otherHash.NarHash = strings.Repeat("1", 64)
	keys := make(map[string]bool)
	for _, m := range []*mksquashfs{
		{version: "1", args: compression{"zstd", 15, 1 << 17}.args()},
		{version: "2", args: compression{"zstd", 15, 1 << 17}.args()},
		{version: "1", args: compression{"gzip", 9, 1 << 17}.args()},
		{version: "1", args: compression{"zstd", 16, 1 << 17}.args()},
		{version: "1", args: compression{"zstd", 15, 1 << 16}.args()},
	} {
		for _, e := range []*registration.Entry{&base, &otherPath, &otherHash} {
			keys[m.key(e)] = true
		}
	}
	if len(keys) != 15 {
		t.Errorf("%d different keys, want 15", len(keys))
	}
}

func TestCompression(t *testing.T) {
	for _, test := range []struct {
		name       string
		level      int
		block      int
		want, fail string
	}{
		{"", 0, 0, "-comp zstd -b 131072 -Xcompression-level 15", ""},
		{"gzip", 0, 4096, "-comp gzip -b 4096 -Xcompression-level 9", ""},
		{"xz", 0, 1 << 20, "-comp xz -b 1048576", ""},
		{"lz4", 0, 0, "-comp lz4 -b 131072 -Xhc", ""},
		{"zstd", 23, 0, "", "level 23"},
		{"gzip", -1, 0, "", "level -1"},
		{"xz", 3, 0, "", "no levels"},
		{"lzo", 0, 0, "", `compressor "lzo"`},
		{"", 0, 5000, "", "block size 5000"},
		{"", 0, 2 << 20, "", "block size 2097152"},
	} {
		c, err := newCompression(test.name, test.level, test.block)
		if test.fail != "" {
			wantError(t, "newCompression", err, test.fail)
			continue
		}
		if got := strings.Join(c.args(), " "); err != nil || !strings.HasSuffix(got, test.want) {
			t.Errorf("newCompression(%q, %d, %d) = %q, %v, want %q", test.name, test.level, test.block, got, err, test.want)
		}
	}
}

// TestUnpacked compares with what a copy takes on a real tmpfs.
func TestUnpacked(t *testing.T) {
	s := newTestStore(t)
	// /dev/shm is a tmpfs of Linux's own making everywhere.
	dir, err := os.MkdirTemp("/dev/shm", "stage1-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run(t, "sh", "-c", "chmod -R u+w "+dir+" && rm -r "+dir) })
	run(t, "cp", "--archive", "--no-preserve=links", "--sparse=never", s.real(s.tools), dir)
	size, inodes, err := unpacked(s.real(s.tools))
	if err != nil {
		t.Fatal(err)
	}
	// %b counts blocks of 512 bytes; it has none for symlinks, whose targets of
	// 128 bytes and more take a page.
	blocks := run(t, "sh", "-c", "find "+dir+"/* -type f -printf '%b\\n' | awk '{ n += $1 } END { print n * 512 + 4096 }'")
	count := run(t, "sh", "-c", "find "+dir+"/* | wc -l")
	if got := fmt.Sprint(size); got != strings.TrimSpace(blocks) {
		t.Errorf("unpacked size = %s, want %s", got, blocks)
	}
	if got := fmt.Sprint(inodes); got != strings.TrimSpace(count) {
		t.Errorf("inodes = %s, want %s", got, count)
	}
	if size, inodes, err := unpacked(s.real(s.link)); size != pageSize || inodes != 1 || err != nil {
		t.Errorf("unpacked of a symlink = %d, %d, %v, want %d, 1", size, inodes, err, pageSize)
	}
	if err := os.Remove(s.real(s.file)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfifo", s.real(s.file))
	_, _, err = unpacked(s.real(s.file))
	wantError(t, "unpacked of a fifo", err, path.Base(s.file))
}

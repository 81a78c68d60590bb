package squashfs

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// makeStorePath makes a directory of all that a store path can hold.
func makeStorePath(tb testing.TB, dir string) {
	tb.Helper()
	check(tb,
		os.MkdirAll(filepath.Join(dir, "lib/deeper"), 0o755),
		os.WriteFile(filepath.Join(dir, "lib/deeper/file"), noise(1, 9000), 0o444),
		os.WriteFile(filepath.Join(dir, "program"), []byte("#!/bin/sh\n"), 0o555),
		os.Symlink("/etc/passwd", filepath.Join(dir, "symlink")),
		os.Chmod(filepath.Join(dir, "lib/deeper"), 0o777|os.ModeSticky),
	)
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		add  func(dir string) error
		want string // what the error has
	}{
		{"plain", func(string) error { return nil }, ""},
		{"attribute", func(dir string) error {
			return unix.Lsetxattr(filepath.Join(dir, "program"), "trusted.x", []byte("y"), 0)
		}, ""},
		{"character device", func(dir string) error {
			return unix.Mknod(filepath.Join(dir, "lib/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
		}, "x/lib/null: it is a device node"},
		{"block device", func(dir string) error {
			return unix.Mknod(filepath.Join(dir, "lib/sda"), unix.S_IFBLK|0o666, int(unix.Mkdev(8, 0)))
		}, "x/lib/sda: it is a device node"},
		{"fifo", func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600) }, "x/fifo: it is a fifo"},
		{"set-user-ID", func(dir string) error { return unix.Chmod(filepath.Join(dir, "program"), 0o4755) }, "x/program: its mode 04755 has a set-user-ID"},
		{"set-group-ID", func(dir string) error { return unix.Chmod(filepath.Join(dir, "lib"), 0o2755) }, "x/lib: its mode 02755 has a set-user-ID"},
		{"capability", func(dir string) error {
			// VFS_CAP_REVISION_2, cap_net_raw: linux/capability.h.
			return unix.Lsetxattr(filepath.Join(dir, "program"), "security.capability", append([]byte{1, 0, 0, 2, 0, 0x20}, make([]byte, 14)...), 0)
		}, "x/program: it has capabilities"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "x")
			makeStorePath(t, dir)
			check(t, c.add(dir))
			image := mksquashfs(t, dir, "-keep-as-directory")
			in := open(t, image)[0]
			names, err := Check(in)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Check() = %v, want an error with %q", err, c.want)
				}
			} else if err != nil || !slices.Equal(names, []string{"x"}) {
				t.Errorf("Check() = %q, %v, want x", names, err)
			}
		})
	}
}

// FuzzCheck checks images of store paths. What it takes, Link takes.
func FuzzCheck(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "x")
	makeStorePath(f, dir)
	for _, args := range [][]string{{"-noI", "-noId", "-noX", "-b", "4K"}, {"-comp", "zstd"}} {
		b, err := os.ReadFile(mksquashfs(f, dir, args...))
		check(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := Input{"image", bytes.NewReader(b), int64(len(b))}
		names, err := Check(in)
		if err != nil {
			return
		}
		l, err := Link([]Input{in}, Options{})
		if err != nil {
			t.Fatalf("Check() = %q, Link() = %v", names, err)
		}
		again, err := Check(Input{"linked", l, l.Size()})
		if err != nil || !slices.Equal(names, again) {
			t.Errorf("Check(Link(image)) = %q, %v, want %q", again, err, names)
		}
	})
}

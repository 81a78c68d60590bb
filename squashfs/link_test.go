package squashfs

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLink links a directory, a file and a symlink, as store paths are, and
// checks what the kernel sees against the sources.
func TestLink(t *testing.T) {
	src := t.TempDir()
	makeZoo(t, filepath.Join(src, "zoo"))
	makeZoo(t, filepath.Join(src, "a-zoo"))
	check(t, os.WriteFile(filepath.Join(src, "file"), noise(3, 200_000), 0o755), os.Symlink("zoo/noise", filepath.Join(src, "link")))
	for _, args := range [][]string{
		{"-comp", "gzip"},
		{"-comp", "gzip", "-b", "4K", "-Xwindow-size", "8"},
		{"-comp", "gzip", "-b", "1M", "-noI", "-noId", "-noX", "-noD", "-noF"},
		{"-comp", "xz"},
		{"-comp", "xz", "-b", "4K", "-tailends"},
		{"-comp", "xz", "-b", "1M", "-Xbcj", "x86", "-Xdict-size", "50%"},
		{"-comp", "zstd"},
		{"-comp", "zstd", "-b", "4K", "-Xcompression-level", "19"},
		{"-comp", "zstd", "-b", "1M", "-tailends"},
		{"-comp", "lz4"},
		{"-comp", "lz4", "-b", "4K", "-Xhc"},
		{"-comp", "lz4", "-b", "1M", "-no-fragments"},
		{"-comp", "lzo"},
	} {
		t.Run(args[1], func(t *testing.T) {
			var images []string
			for _, name := range []string{"zoo", "link", "a-zoo", "file"} {
				images = append(images, mksquashfs(t, filepath.Join(src, name), args...))
			}
			checkTree(t, mount(t, write(t, link(t, images...))), src)
		})
	}
}

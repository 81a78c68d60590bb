package squashimport

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/mount"
)

// BenchmarkCopy copies an image of 4000 small files and one of two large ones, by
// one worker.
func BenchmarkCopy(b *testing.B) {
	for _, c := range []struct {
		name        string
		files, size int
	}{{"small files", 4000, 3000}, {"large files", 2, 20 << 20}} {
		for _, compressor := range []string{"gzip", "zstd"} {
			b.Run(c.name+"/"+compressor, func(b *testing.B) {
				image := benchImage(b, c.files, c.size, compressor)
				dir := b.TempDir()
				tmpfs := mount.Mount{Source: "tmpfs", Target: dir, Type: "tmpfs"}
				if err := tmpfs.Do(); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
				opt := Options{Initrd: dir, Store: dir + "/store", Mode: Copy, Jobs: 1}
				b.SetBytes(int64(c.files * c.size))
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					for _, err := range []error{os.RemoveAll(opt.Store), os.Mkdir(opt.Store, 0o755), os.WriteFile(dir+"/image", image, 0o644)} {
						if err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
					if err := New([]manifest.Image{{File: "/image", StorePaths: 1}}, opt).Run(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// benchImage is an image of one store path with files of text.
func benchImage(b *testing.B, files, size int, compressor string) []byte {
	b.Helper()
	dir := b.TempDir()
	path := filepath.Join(dir, strings.Repeat("0", 32)+"-files")
	var text bytes.Buffer
	for i := 0; text.Len() < size+files; i++ {
		fmt.Fprintf(&text, "%d is a number whose cube is %d.\n", i, i*i*i)
	}
	for i := range files {
		sub := filepath.Join(path, fmt.Sprint(i/100))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), text.Bytes()[i:i+size], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	image := filepath.Join(dir, "image")
	if out, err := exec.Command("mksquashfs", path, image, "-comp", compressor, "-keep-as-directory", "-quiet", "-no-progress").CombinedOutput(); err != nil {
		b.Fatalf("mksquashfs: %v\n%s", err, out)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

package squashfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkLink links 100 images of 200 files each.
func BenchmarkLink(b *testing.B) {
	src := b.TempDir()
	for i := range 100 {
		for j := range 200 {
			dir := filepath.Join(src, fmt.Sprint(i), fmt.Sprint("sub", j%10))
			check(b, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, fmt.Sprint("file", j)), noise(i+j, 100+j*10), 0o644))
		}
	}
	for _, comp := range []string{"gzip", "xz", "lz4", "zstd"} {
		b.Run(comp, func(b *testing.B) {
			var images []string
			for i := range 100 {
				images = append(images, mksquashfs(b, filepath.Join(src, fmt.Sprint(i)), "-comp", comp, "-no-exports"))
			}
			inputs := open(b, images...)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Link(inputs, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

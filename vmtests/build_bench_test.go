package vmtests

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkBuild makes netboot directories of the debian closure: as the seed
// does, and by mknetboot without images from earlier builds, with all of them,
// and with all but one path's, of 10 MB that no compressor makes smaller. It
// compares them with one mksquashfs of everything, with the same settings.
func BenchmarkBuild(b *testing.B) {
	c := check[*Cache](b)(openCache())
	cl := check[*Closure](b)(c.Debian(b.Context(), check[*Kernel](b)(c.Linux61(b.Context()))))
	bin := check[string](b)(c.goBuild(b.Context(), "stage1/cmd/mknetboot", "stage1/cmd/stage1"))
	dump := check[string](b)(output(cl.Store.Command(b.Context(), "nix-store", append([]string{"--dump-db"}, cl.Paths...)...)))
	seed := filepath.Join(b.TempDir(), "seed.sh")
	if err := os.WriteFile(seed, check[[]byte](b)(recipes.ReadFile("recipes/seed.sh")), 0o644); err != nil {
		b.Fatal(err)
	}
	r := newResults(b, "the seed's way", "one mksquashfs of everything, zstd 15", "mknetboot, cold", "mknetboot, nothing changed", "mknetboot, one path changed")
	for b.Loop() {
		for round := range *rounds {
			dir := b.TempDir()
			mknetboot := func(args ...string) *exec.Cmd {
				args = append([]string{"-o", filepath.Join(dir, "netboot"), "--cache", filepath.Join(dir, "cache"), cl.Toplevel}, args...)
				return cl.Store.Command(b.Context(), filepath.Join(bin, "mknetboot"), args...)
			}
			image := filepath.Join(dir, "netboot/nix-store")

			asSeed := cl.Store.Command(b.Context(), "sh", append([]string{"-eu", seed}, cl.Paths...)...)
			asSeed.Dir = dir
			r.add(0, measureBuild(b, asSeed, filepath.Join(dir, "nix-store")))

			whole := filepath.Join(dir, "whole")
			r.add(1, measureBuild(b, cl.Store.Command(b.Context(), "mksquashfs", wholeArgs(cl, whole)...), whole))
			r.add(2, measureBuild(b, mknetboot(), image))
			r.add(3, measureBuild(b, mknetboot(), image))
			info := syntheticClosure(b, cl, dump, dir, 10e6+int64(round))
			r.add(4, measureBuild(b, mknetboot("--closure-info", info), image))
			os.RemoveAll(dir)
		}
	}
	r.report(b, "time, s", "CPU, s", "image, MB")
}

// wholeArgs has mksquashfs make one image of a closure as mknetboot makes one of
// a path.
func wholeArgs(cl *Closure, image string) []string {
	return append(append([]string{}, cl.Paths...), image, "-comp", "zstd", "-Xcompression-level", "15", "-b", "131072",
		"-all-root", "-no-exports", "-no-xattrs", "-no-hardlinks", "-all-time", "1", "-quiet", "-no-progress")
}

// measureBuild runs a command that makes a file.
func measureBuild(b *testing.B, cmd *exec.Cmd, file string) map[string]float64 {
	b.Helper()
	begin := time.Now()
	if err := run(cmd); err != nil {
		b.Fatal(err)
	}
	return map[string]float64{
		"time, s":   time.Since(begin).Seconds(),
		"CPU, s":    (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(),
		"image, MB": float64(check[fs.FileInfo](b)(os.Stat(file)).Size()) / 1e6,
	}
}

// levels are compressors and levels for the default to be chosen from, the
// default first.
var levels = []imagesVariant{
	{"zstd", 15, 128},
	{"zstd", 3, 128},
	{"zstd", 9, 128},
	{"zstd", 19, 128},
	{"gzip", 9, 128},
	{"xz", 0, 128},
	{"lz4", 0, 128},
}

// BenchmarkLevels makes the debian closure's image by each compressor and level,
// once: sizes do not vary, and CPU time little.
func BenchmarkLevels(b *testing.B) {
	c := check[*Cache](b)(openCache())
	cl := check[*Closure](b)(c.Debian(b.Context(), check[*Kernel](b)(c.Linux61(b.Context()))))
	var names []string
	for _, v := range levels {
		names = append(names, v.String())
	}
	r := newResults(b, names...)
	for b.Loop() {
		for i, v := range levels {
			out := filepath.Join(b.TempDir(), "netboot")
			cpu := netbootCold(b, cl, out, v)
			info := check[fs.FileInfo](b)(os.Stat(filepath.Join(out, "nix-store")))
			r.add(i, map[string]float64{"CPU, s": cpu, "image, MB": float64(info.Size()) / 1e6})
			os.RemoveAll(out)
		}
	}
	r.report(b, "image, MB", "CPU, s")
}

package vmtests

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"stage1/manifest"
	"stage1/squashfs"
)

var synthetic = flag.String("paths", "100", "numbers of store paths, with commas between, that synthetic stores of benchmarks have")

// What a store is made with. Each script is run in a directory with the images in
// initrd/, each named as the store path that it holds, and an empty store/.
const (
	// The seed's loop, by the programs of $1, or by those of the machine. Others
	// that attach loop devices may be faster, of which mount -o loop knows nothing.
	shellLoop = `
		mkdir .squash
		for image in initrd/*; do
			name=${image#initrd/}
			$1 mkdir -p .squash/$name
			until $1 mount -t squashfs -o loop $image .squash/$name 2>/dev/null; do :; done
			$1 cp -ar .squash/$name/$name store/$name
			$1 umount .squash/$name
			$1 rmdir .squash/$name
			$1 rm $image
		done`
	unsquashEach     = `for image in initrd/*; do unsquashfs -quiet -no-progress -force -dest store $image >/dev/null; rm $image; done`
	unsquashParallel = `printf '%s\n' initrd/* | xargs -P "$(nproc)" -I {} unsquashfs -quiet -no-progress -force -processors 1 -dest store {} >/dev/null; rm initrd/*`
)

// BenchmarkNativeImport makes stores out of images on this machine, without a VM:
// with the seed's loop, by unsquashfs, and by package squashimport. The table's
// first row is the seed's loop. CPU is of processes, without what kernel threads do
// for loop devices; process is the resident memory of the largest one.
func BenchmarkNativeImport(b *testing.B) {
	c := check[*Cache](b)(openCache())
	bin := check[string](b)(c.goBuild(b.Context(), "stage1/vmtests/importer"))
	b.Run("debian", func(b *testing.B) {
		k := check[*Kernel](b)(c.Linux61(b.Context()))
		cl := check[*Closure](b)(c.Debian(b.Context(), k))
		out := filepath.Join(b.TempDir(), "netboot")
		check[string](b)(cl.Netboot(b.Context(), out))
		benchmarkImport(b, bin, seedImages(b, cl), imageOnly(b, filepath.Join(out, "nix-store")), len(cl.Paths))
	})
	for _, text := range strings.Split(*synthetic, ",") {
		paths := check[int](b)(strconv.Atoi(text))
		for _, k := range kinds {
			b.Run(fmt.Sprintf("%s-%d", k.name, paths), func(b *testing.B) {
				perPath := syntheticImages(b, c, paths, k)
				benchmarkImport(b, bin, perPath, linkAll(b, perPath), paths)
			})
		}
	}
}

// benchmarkImport compares what makes a store out of the images in the directories
// perPath, one of each store path, and linked, one of all.
func benchmarkImport(b *testing.B, bin, perPath, linked string, paths int) {
	b.Helper()
	variants := []struct {
		name   string
		images string
		args   []string
	}{
		{"shell loop, busybox", perPath, []string{"script", shellLoop, "busybox"}},
		{"shell loop, coreutils", perPath, []string{"script", shellLoop, ""}},
		{"unsquashfs, each image on all CPUs", perPath, []string{"script", unsquashEach}},
		{"unsquashfs, an image a CPU", perPath, []string{"script", unsquashParallel}},
		{"copy, 1 worker", perPath, []string{"copy", "1", "1"}},
		{"copy, a worker a CPU", perPath, []string{"copy", "0", "1"}},
		{"overlay", perPath, []string{"overlay", "0", "1"}},
		{"linked, unsquashfs", linked, []string{"script", unsquashEach}},
		{"linked, copy, 1 worker", linked, []string{"copy", "1", fmt.Sprint(paths)}},
		{"linked, copy, a worker a CPU", linked, []string{"copy", "0", fmt.Sprint(paths)}},
		{"linked, overlay", linked, []string{"overlay", "0", fmt.Sprint(paths)}},
	}
	var names []string
	for _, v := range variants {
		names = append(names, v.name)
	}
	r := newResults(b, names...)
	for b.Loop() {
		for range *rounds {
			for i, v := range variants {
				if v.args[0] == "overlay" && v.images == perPath && paths > 300 {
					continue // more than an overlay takes
				}
				r.add(i, measureImport(b, filepath.Join(bin, "importer"), v.images, v.args))
			}
		}
	}
	r.report(b, "time, s", "CPU, s", "tmpfs, MB", "process, MB")
}

func measureImport(b *testing.B, importer, images string, args []string) (values map[string]float64) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), importer, append([]string{images}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	if err := json.Unmarshal([]byte(check[string](b)(output(cmd))), &values); err != nil {
		b.Fatal(err)
	}
	return values
}

// seedImages returns a directory with the images of the closure that the seed
// makes, by the names of their store paths.
func seedImages(b *testing.B, cl *Closure) string {
	b.Helper()
	images := check[*Images](b)(cl.Seed(b.Context(), ""))
	const script = `
		mkdir tmp
		(cd tmp && zcat "$1" | cpio --quiet -id)
		find tmp -type f | while read -r file; do
			mv "$file" "$(basename "$(dirname "$file")")$(basename "$file")"
		done
		rm -r tmp`
	return check[string](b)(cl.Store.cache.Make("seed-images", []string{script, images.Initrds[1]}, func(dir string) error {
		return shell(b.Context(), dir, script, images.Initrds[1])
	}))
}

// imageOnly returns a directory that holds the linked image of an initrd
// nix-store, and nothing else.
func imageOnly(b *testing.B, initrd string) string {
	b.Helper()
	dir := b.TempDir()
	const script = `cpio --quiet -i --to-stdout "$1" < "$2" > image`
	if err := shell(b.Context(), dir, script, strings.TrimPrefix(manifest.Dir, "/")+"/store.squashfs", initrd); err != nil {
		b.Fatal(err)
	}
	return dir
}

// syntheticImages returns a directory with an image, made as the seed does, of each
// of a number of store paths, which have files of a size each. Their content is text
// that compresses to half.
func syntheticImages(b *testing.B, c *Cache, paths int, k kind) string {
	b.Helper()
	key := fmt.Sprintf("%d paths, each %d files of %d bytes", paths, k.files, k.size)
	return check[string](b)(c.Make("synthetic", []string{key}, func(dir string) error {
		group, ctx := errgroup.WithContext(b.Context())
		group.SetLimit(runtime.NumCPU())
		for i := range paths {
			group.Go(func() error {
				source := filepath.Join(b.TempDir(), fmt.Sprintf("%032d-synthetic", i))
				if err := k.write(source, uint64(i)); err != nil {
					return err
				}
				defer os.RemoveAll(source)
				return run(exec.CommandContext(ctx, "mksquashfs", source, filepath.Join(dir, filepath.Base(source)),
					"-comp", "gzip", "-keep-as-directory", "-all-root", "-no-progress", "-processors", "1"))
			})
		}
		return group.Wait()
	}))
}

// kind is what each store path of a synthetic store has.
type kind struct {
	name  string
	files int
	size  int // of each, in bytes
}

var kinds = []kind{{"small", 50, 4 << 10}, {"large", 1, 1 << 20}}

// write makes a store path, of content that depends on seed alone.
func (k kind) write(dir string, seed uint64) error {
	if err := os.MkdirAll(filepath.Join(dir, "dir"), 0o755); err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	bits := make([]byte, k.size/2)
	for i := range k.files {
		if _, err := random.Read(bits); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "dir", fmt.Sprint(i)), []byte(hex.EncodeToString(bits)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// linkAll returns a directory with one image, linked of those in dir.
func linkAll(b *testing.B, dir string) string {
	b.Helper()
	var inputs []squashfs.Input
	for _, entry := range check[[]os.DirEntry](b)(os.ReadDir(dir)) {
		f := check[*os.File](b)(os.Open(filepath.Join(dir, entry.Name())))
		b.Cleanup(func() { f.Close() })
		info := check[os.FileInfo](b)(f.Stat())
		inputs = append(inputs, squashfs.Input{Name: entry.Name(), R: f, Size: info.Size()})
	}
	layout := check[*squashfs.Layout](b)(squashfs.Link(inputs, squashfs.Options{RootMode: 0o755}))
	out := b.TempDir()
	f := check[*os.File](b)(os.Create(filepath.Join(out, "image")))
	check[int64](b)(layout.WriteTo(f))
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return out
}

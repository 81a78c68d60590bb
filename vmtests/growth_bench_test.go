package vmtests

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"stage1/registration"
)

// BenchmarkImport reports how long the step import takes in a machine, for stores
// of more and more bytes: the tiny closure and one more store path, of data that
// no compressor makes smaller.
func BenchmarkImport(b *testing.B) {
	c := check[*Cache](b)(openCache())
	k := check[*Kernel](b)(c.Linux61(b.Context()))
	accel := check[[]string](b)(c.Accel(b.Context(), k))
	cl := check[*Closure](b)(c.Tiny(b.Context(), k))
	dump := check[string](b)(output(cl.Store.Command(b.Context(), "nix-store", append([]string{"--dump-db"}, cl.Paths...)...)))
	for _, mb := range []int64{1, 130, 1300} {
		b.Run(fmt.Sprintf("%dMB", mb), func(b *testing.B) {
			dir := b.TempDir()
			info := syntheticClosure(b, cl, dump, dir, mb*1e6)
			out := filepath.Join(dir, "netboot")
			check[string](b)(cl.Netboot(b.Context(), out, "--closure-info", info, "--cache", filepath.Join(dir, "cache"), "--compressor", "lz4"))
			images := check[*Images](b)(KexecImages(b.Context(), out, dir))
			total := 0.0
			for b.Loop() {
				total += importMilliseconds(b, Machine{Images: images, Memory: 4096, Accel: accel, Append: "rd.systemd.break"})
			}
			b.ReportMetric(total/float64(b.N), "ms-import/op")
		})
	}
}

// syntheticClosure adds a store path of size bytes to the closure, and returns
// the directory that tells mknetboot so.
func syntheticClosure(b *testing.B, cl *Closure, dump, dir string, size int64) (closureInfo string) {
	b.Helper()
	path := fmt.Sprintf("/nix/store/%032d-synthetic", size)
	f := check[*os.File](b)(os.Create(cl.Store.Path(path)))
	b.Cleanup(func() { os.Remove(f.Name()) })
	check[int64](b)(io.CopyN(f, rand.Reader, size))
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	text.WriteString(dump)
	nar := strings.Fields(check[string](b)(output(cl.Store.Command(b.Context(), "sh", "-euc", `nix-hash --type sha256 "$1"; nix-store --dump "$1" | wc -c`, "sh", path))))
	entry := &registration.Entry{Path: path, NarHash: nar[0], NarSize: check[uint64](b)(strconv.ParseUint(nar[1], 10, 64))}
	if err := registration.Write(&text, entry); err != nil {
		b.Fatal(err)
	}
	paths := strings.Join(append([]string{path}, cl.Paths...), "\n") + "\n"
	for name, content := range map[string]string{"registration": text.String(), "store-paths": paths} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// importMilliseconds starts a machine that stops before switch root, and returns
// what its summary says of the import.
func importMilliseconds(b *testing.B, m Machine) float64 {
	b.Helper()
	vm := check[*VM](b)(m.Start(b.Context()))
	defer vm.Close()
	line := check[string](b)(vm.Expect(`[0-9.]+ ms  import$`, forever))
	number, _, _ := strings.Cut(line, " ")
	return check[float64](b)(strconv.ParseFloat(number, 64))
}

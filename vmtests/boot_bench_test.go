package vmtests

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bootScript is typed at a root shell when the machine is up. It prints lines
// "bench: KEY VALUE", times in seconds of the kernel's log. The last line of
// either init is written when it is about to execute stage 2.
var bootScript = strings.Join([]string{
	`systemctl is-system-running --wait >/dev/null`,
	`at() { dmesg | sed -nE "s/^\[ *([0-9.]+)\] $2.*/bench: $1 \1/p"; }`,
	`at init 'Run \/init as init process'; at stage2 'stage-1: (starting|shell: .* import ends)'`,
	`systemctl show -P ActiveEnterTimestampMonotonic multi-user.target | sed 's/^/bench: multi-user /'`,
	`sync; echo 3 > /proc/sys/vm/drop_caches; sed -nE 's/^(MemTotal|MemAvailable): +([0-9]+) kB/bench: \1 \2/p' /proc/meminfo`,
	`echo "bench: end $?"`,
}, "\n") + "\n"

// BenchmarkBoot boots the debian closure behind the seed's shell loop and behind
// stage 1 in each mode. docs/performance.md has its table and says what the
// columns are.
func BenchmarkBoot(b *testing.B) {
	c := check[*Cache](b)(openCache())
	k := check[*Kernel](b)(c.Linux61(b.Context()))
	cl := check[*Closure](b)(c.Debian(b.Context(), k))
	accel := check[[]string](b)(c.Accel(b.Context(), k))
	out := filepath.Join(b.TempDir(), "netboot")
	check[string](b)(cl.Netboot(b.Context(), out))
	linked := check[*Images](b)(KexecImages(b.Context(), out, b.TempDir()))
	seeds := check[*Images](b)(cl.Seed(b.Context(), check[string](b)(cl.ShellInitrd(b.Context()))))
	perPath := check[*Images](b)(cl.Seed(b.Context(), filepath.Join(out, "initrd")))

	variants := []struct {
		name   string
		images *Images
		append string
	}{
		{"the seed's images, shell loop", seeds, ""},
		{"the seed's images, stage 1 mounts", perPath, ""},
		{"linked image, stage 1 mounts", linked, ""},
		{"linked image, stage 1 mounts, `stage1.verify=off`", linked, "stage1.verify=off"},
		{"linked image, stage 1 copies", linked, "stage1.store=copy"},
	}
	var names []string
	for _, v := range variants {
		names = append(names, v.name)
	}
	r := newResults(b, names...)
	for b.Loop() {
		for range *rounds {
			for i, v := range variants {
				r.add(i, measureBoot(b, Machine{Images: v.images, Append: v.append, Memory: 2048, Accel: accel}))
			}
		}
	}
	r.report(b, "to load, MB", "stage 1, s", "kernel to stage 2, s", "kernel to multi-user, s", "RAM in use, MB")
}

// measureBoot boots a machine and returns what bootScript tells.
func measureBoot(b *testing.B, m Machine) map[string]float64 {
	b.Helper()
	g := askGuest(b, m, bootScript)
	var size int64 // of what the firmware loads
	for _, file := range append([]string{m.Images.Kernel}, m.Images.Initrds...) {
		size += check[fs.FileInfo](b)(os.Stat(file)).Size()
	}
	return map[string]float64{
		"to load, MB":             float64(size) / 1e6,
		"stage 1, s":              g.value("stage2") - g.value("init"),
		"kernel to stage 2, s":    g.value("stage2"),
		"kernel to multi-user, s": g.value("multi-user") / 1e6,
		"RAM in use, MB":          g.ram(),
	}
}

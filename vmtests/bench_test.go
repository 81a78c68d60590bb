package vmtests

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Of BenchmarkImages.
const (
	imagesRounds = 3
	imagesMemory = 448 // MiB: the largest image fits into it twice, as an initrd has to
)

// imagesVariants are what mknetboot can make of a closure, the default first.
var imagesVariants = []imagesVariant{
	{"zstd", 15, 128},
	{"zstd", 15, 64},
	{"zstd", 15, 32},
	{"zstd", 3, 128},
	{"zstd", 19, 128},
	{"gzip", 9, 128},
	{"lz4", 0, 128},
}

type imagesVariant struct {
	compressor string
	level      int // 0 where there is none
	block      int // KiB
}

func (v imagesVariant) args() []string {
	return []string{"--compressor", v.compressor, "--level", strconv.Itoa(v.level), "--block-size", strconv.Itoa(v.block << 10)}
}

func (v imagesVariant) String() string {
	if v.level == 0 {
		return fmt.Sprintf("%s, %d KiB", v.compressor, v.block)
	}
	return fmt.Sprintf("%s %d, %d KiB", v.compressor, v.level, v.block)
}

// BenchmarkImages compares block sizes and compressors: what the debian
// closure's images cost to make, and what a machine with little RAM does with
// them. It logs the table of docs/images.md. The rounds take turns between the
// variants, so that what else the machine does is shared among them.
func BenchmarkImages(b *testing.B) {
	c := check[*Cache](b)(openCache())
	k := check[*Kernel](b)(c.Linux61(b.Context()))
	cl := check[*Closure](b)(c.Debian(b.Context(), k))
	accel := check[[]string](b)(c.Accel(b.Context(), k))
	rows := make([]imagesRow, len(imagesVariants))
	images := make([]*Images, len(imagesVariants))
	for i, v := range imagesVariants {
		dir := b.TempDir()
		rows[i].variant = v
		rows[i].build = netbootCold(b, cl, filepath.Join(dir, "netboot"), v)
		info := check[os.FileInfo](b)(os.Stat(filepath.Join(dir, "netboot/nix-store")))
		rows[i].size = float64(info.Size()) / 1e6
		images[i] = check[*Images](b)(KexecImages(b.Context(), filepath.Join(dir, "netboot"), dir))
	}
	for b.Loop() {
		for range imagesRounds {
			for i := range rows {
				g := measureGuest(b, Machine{Images: images[i], Memory: imagesMemory, Accel: accel})
				g.cache -= rows[i].size // the initrd's ramfs counts as Cached
				rows[i].add(g)
				fmt.Fprintf(os.Stderr, "%s: %.1f\n", rows[i].variant, g)
			}
		}
	}
	b.Logf("medians (lowest to highest) of %d boots, ratios to %s:\n%s", len(rows[0].boot), rows[0].variant, imagesTable(rows))
}

// check is must for benchmarks.
func check[T any](b *testing.B) func(v T, err error) T {
	return func(v T, err error) T {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
}

// netbootCold makes a directory and returns the seconds of CPU that it takes
// without images from earlier builds. It makes them once for each closure and
// variant, and keeps the images with that number.
func netbootCold(b *testing.B, cl *Closure, out string, v imagesVariant) float64 {
	b.Helper()
	c := cl.Store.cache
	kept := check[string](b)(c.Make("bench-"+v.compressor, append(v.args(), cl.Toplevel), func(dir string) error {
		bin, err := c.goBuild(b.Context(), "stage1/cmd/mknetboot", "stage1/cmd/stage1")
		if err != nil {
			return err
		}
		args := append(v.args(), "-o", filepath.Join(dir, "netboot"), "--cache", filepath.Join(dir, "images"), cl.Toplevel)
		mknetboot := cl.Store.Command(b.Context(), filepath.Join(bin, "mknetboot"), args...)
		if err := run(mknetboot); err != nil {
			return err
		}
		used := mknetboot.ProcessState.UserTime() + mknetboot.ProcessState.SystemTime()
		return os.WriteFile(filepath.Join(dir, "seconds"), []byte(fmt.Sprint(used.Seconds())), 0o644)
	}))
	check[string](b)(cl.Netboot(b.Context(), out, append(v.args(), "--cache", filepath.Join(kept, "images"))...))
	seconds := check[[]byte](b)(os.ReadFile(filepath.Join(kept, "seconds")))
	return check[float64](b)(strconv.ParseFloat(string(seconds), 64))
}

// childrenCPU returns the seconds of CPU, user and system, that child processes
// that have ended took.
func childrenCPU() (float64, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &usage); err != nil {
		return 0, fmt.Errorf("getrusage of children: %w", err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9, nil
}

// guestScript is typed at a root shell of a machine that is booting. It prints
// lines "bench: KEY VALUE". The hot files that it reads, with cold caches, are
// those of systemd's and OpenSSH's programs, Nix and Perl.
var guestScript = strings.Join([]string{
	`systemctl is-system-running --wait >/dev/null`,
	`dmesg | sed -nE 's/^\[ *([0-9.]+)\] stage-1: starting.*/bench: stage2 \1/p'`,
	`systemctl show -P ActiveEnterTimestampMonotonic multi-user.target | sed 's/^/bench: multi-user /'`,
	`uptime() { sed -E "s/ .*//; s/^/bench: $1 /" /proc/uptime; }`,
	`sync; echo 3 > /proc/sys/vm/drop_caches; uptime cold`,
	`for p in /usr/bin/*ctl; do $p --version; done >/dev/null 2>&1; (sshd -t; ssh -V; nix-store --verify; perl -MPOSIX -e1) >/dev/null 2>&1`,
	`uptime hot; sed -nE 's/^(MemTotal|MemAvailable|Cached|Shmem): +([0-9]+) kB/bench: \1 \2/p' /proc/meminfo`,
	`sed -n 's/^workingset_refault_file /bench: refaults /p' /proc/vmstat`,
	`echo "bench: end $?"`,
}, "\n") + "\n"

var guestValue = regexp.MustCompile(`(?m)^bench: ([\w.-]+) ([\d.]+)$`)

// guest is what one boot showed.
type guest struct {
	boot    float64 // s from the start of stage 2 to multi-user.target
	hot     float64 // s to run programs whose files are not in the page cache
	cpu     float64 // s of CPU that QEMU took for all of it
	ram     float64 // MB of RAM that is not available after the hot files were read
	cache   float64 // MB of page cache at that time, without tmpfs
	refault float64 // pages read again because RAM was short
}

// measureGuest boots a machine and returns what guestScript tells.
func measureGuest(b *testing.B, m Machine) (g guest) {
	b.Helper()
	before := check[float64](b)(childrenCPU())
	a := askGuest(b, m, guestScript)
	g.cpu = check[float64](b)(childrenCPU()) - before
	g.boot = a.value("multi-user")/1e6 - a.value("stage2")
	g.hot = a.value("hot") - a.value("cold")
	g.ram = a.ram()
	g.cache = (a.value("Cached") - a.value("Shmem")) / kibPerMB
	g.refault = a.value("refaults")
	return g
}

// kibPerMB is how many KiB a MB has: /proc/meminfo counts in those.
const kibPerMB = 1e6 / 1024

// answers are what a script has told on the console of a machine.
type answers struct {
	b       *testing.B
	console string
	values  map[string]float64
}

// askGuest boots a machine, and types a script at its root shell that prints lines
// "bench: KEY VALUE", the last of them "bench: end 0".
func askGuest(b *testing.B, m Machine, script string) answers {
	b.Helper()
	vm := check[*VM](b)(m.Start(b.Context()))
	defer vm.Close()
	expect := func(pattern string) {
		b.Helper()
		if _, err := vm.Expect(pattern, forever); err != nil {
			b.Fatalf("%v; the console:\n%s", err, vm.Console())
		}
	}
	expect(`^-bash-5[.\d]*# $`)
	if err := vm.Send(script); err != nil {
		b.Fatal(err)
	}
	expect(`^bench: end 0\n`)
	a := answers{b, vm.Console(), map[string]float64{}}
	for _, match := range guestValue.FindAllStringSubmatch(a.console, -1) {
		a.values[match[1]] = check[float64](b)(strconv.ParseFloat(match[2], 64))
	}
	return a
}

func (a answers) value(key string) float64 {
	a.b.Helper()
	v, ok := a.values[key]
	if !ok {
		a.b.Fatalf("no %s on the console:\n%s", key, a.console)
	}
	return v
}

// ram is the RAM in use, in MB.
func (a answers) ram() float64 {
	a.b.Helper()
	return (a.value("MemTotal") - a.value("MemAvailable")) / kibPerMB
}

// imagesRow is what is known of a variant.
type imagesRow struct {
	variant                             imagesVariant
	size                                float64 // MB
	build                               float64 // s of CPU
	boot, hot, cpu, ram, cache, refault []float64
}

func (r *imagesRow) add(g guest) {
	r.boot, r.hot, r.cpu = append(r.boot, g.boot), append(r.hot, g.hot), append(r.cpu, g.cpu)
	r.ram, r.cache, r.refault = append(r.ram, g.ram), append(r.cache, g.cache), append(r.refault, g.refault)
}

// imagesTable is a table in Markdown. Ratios are to the first row.
func imagesTable(rows []imagesRow) string {
	var s strings.Builder
	s.WriteString("| compressor, block | image, MB | build, s CPU | boot, s | hot files, s | QEMU, s CPU | RAM, MB | page cache, MB | refaults |\n")
	s.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	base := &rows[0]
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(&s, "| %s | %.1f ×%.2f | %.0f ×%.2f | %s | %s | %s | %s | %s | %.0f |\n", r.variant,
			r.size, r.size/base.size, r.build, r.build/base.build,
			spread(r.boot, base.boot), spread(r.hot, base.hot), spread(r.cpu, base.cpu),
			spread(r.ram, base.ram), spread(r.cache, base.cache), median(r.refault))
	}
	return s.String()
}

func spread(values, base []float64) string {
	return fmt.Sprintf("%.1f (%.1f–%.1f) ×%.2f", median(values), slices.Min(values), slices.Max(values), median(values)/cmp.Or(median(base), 1))
}

// median is, of an even number of values, the lower of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}

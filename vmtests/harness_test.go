package vmtests

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"stage1/vmtests/facts"
)

// forever ends what hangs. It is far above what the slowest machine needs, so
// that no test measures time.
const forever = 5 * time.Minute

// openCache opens the cache once for all tests, for the sake of the accelerator's
// probe.
var openCache = sync.OnceValues(func() (*Cache, error) { return OpenCache(os.Stderr) })

func testCache(t *testing.T) *Cache {
	t.Helper()
	return must[*Cache](t)(openCache())
}

// must returns a function that passes a value on and fails the test on an error.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func linux61(t *testing.T) *Kernel {
	t.Helper()
	return must[*Kernel](t)(testCache(t).Linux61(t.Context()))
}

// tiny and debian return the closures, with Debian 12's kernel.
func tiny(t *testing.T) *Closure {
	t.Helper()
	return must[*Closure](t)(testCache(t).Tiny(t.Context(), linux61(t)))
}

func debian(t *testing.T) *Closure {
	t.Helper()
	return must[*Closure](t)(testCache(t).Debian(t.Context(), linux61(t)))
}

// artifact returns the beginning of the names of files that a test leaves, in
// $VMTESTS_ARTIFACTS or in the cache.
func artifact(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("VMTESTS_ARTIFACTS")
	if dir == "" {
		dir = filepath.Join(testCache(t).Dir(), "artifacts")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-"))
}

// tempDir is t.TempDir, but a test that fails leaves it, so that the same
// machine can be started again.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vmtests-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	})
	return dir
}

// netboot has mknetboot make a directory.
func netboot(t *testing.T, cl *Closure, args ...string) (dir string) {
	t.Helper()
	dir = filepath.Join(tempDir(t), "netboot")
	must[string](t)(cl.Netboot(t.Context(), dir, args...))
	return dir
}

// kexec returns what kexec would load from a directory that mknetboot has made.
func kexec(t *testing.T, dir string) *Images {
	t.Helper()
	return must[*Images](t)(KexecImages(t.Context(), dir, tempDir(t)))
}

// seed returns the closure as grahamc/netboot.nix has it, behind our initrd.
func seed(t *testing.T, cl *Closure) *Images {
	t.Helper()
	return must[*Images](t)(cl.Seed(t.Context(), filepath.Join(netboot(t, cl), "initrd")))
}

// testVM is a VM whose trouble is the test's.
type testVM struct {
	*VM
	t *testing.T
}

// start starts a machine for a test. What it shows on its console is kept in a
// file; if the test fails, the last lines are shown, with the commands that
// start the same machine.
func start(t *testing.T, m Machine) testVM {
	t.Helper()
	if m.Arch == "" {
		m.Accel = must[[]string](t)(testCache(t).Accel(t.Context(), linux61(t)))
	}
	log := must[*os.File](t)(os.Create(artifact(t) + ".log"))
	t.Cleanup(func() { log.Close() })
	m.Output = log
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		// Else tests that run out of time would leave QEMU behind.
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-10*time.Second))
		t.Cleanup(cancel)
	}
	begin := time.Now()
	vm := must[*VM](t)(m.Start(ctx))
	t.Cleanup(func() {
		vm.Close()
		t.Logf("the machine ran for %.1f s; its console is in %s", time.Since(begin).Seconds(), log.Name())
		if t.Failed() {
			shown := factsOnConsole.ReplaceAllString(vm.Console(), "(facts)")
			lines := strings.Split(strings.TrimSpace(shown), "\n")
			t.Logf("the console's last lines:\n%s\n\nto start the same machine:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"), vm.Repro())
		}
	})
	return testVM{vm, t}
}

var factsOnConsole = regexp.MustCompile("(?s)" + facts.Begin + ".*?(" + facts.End + "|$)")

// expect fails the test unless the console shows patterns, in order.
func (v testVM) expect(patterns ...string) {
	v.t.Helper()
	for _, p := range patterns {
		must[string](v.t)(v.Expect(p, forever))
	}
}

// ends fails the test unless the machine ends, by itself and as said.
func (v testVM) ends(want Exit) {
	v.t.Helper()
	got, err := v.Wait(forever)
	if err != nil || got != want {
		v.t.Fatalf("the machine's end: %v (error %v), want %v", got, err, want)
	}
}

// checks waits for checks that the kernel command line has named, in their
// order, and for the power-off after them.
func (v testVM) checks(names string) {
	v.t.Helper()
	for name := range strings.SplitSeq(names, ",") {
		if got := must[string](v.t)(v.Expect(`^vmtest: .*\n`, forever)); got != "vmtest: "+name+" ok\n" {
			v.t.Errorf("check %s: %s", name, got)
		}
	}
	v.expect("^vmtest: done")
	done := time.Now()
	v.ends(PowerOff)
	v.t.Logf("the power-off took %.1f s", time.Since(done).Seconds())
}

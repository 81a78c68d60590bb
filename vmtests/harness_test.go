package vmtests

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A slow machine must not fail a test: these only end what hangs.
const (
	second  = time.Second
	forever = 10 * time.Minute
)

// cache is opened once for all tests, for the probe of the accelerator's sake.
var cache = sync.OnceValues(func() (*Cache, error) { return OpenCache(os.Stderr) })

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
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
	c := must[*Cache](t)(cache())
	k := must[*Kernel](t)(c.Linux61(t.Context()))
	m.Accel = must[[]string](t)(c.Accel(t.Context(), k))
	dir := os.Getenv("VMTESTS_ARTIFACTS")
	if dir == "" {
		dir = filepath.Join(c.Dir(), "artifacts")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m.Log = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+".log")
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		// Else a test that runs out of time would leave QEMU behind.
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-10*second))
		t.Cleanup(cancel)
	}
	begin := time.Now()
	vm := must[*VM](t)(m.Start(ctx))
	t.Cleanup(func() {
		vm.Close()
		t.Logf("the machine ran %.1f s; its console: %s", time.Since(begin).Seconds(), m.Log)
		if t.Failed() {
			lines := strings.Split(strings.TrimSpace(vm.Console()), "\n")
			t.Logf("last lines of the console:\n%s\n\nto start the same machine:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"), vm.Repro())
		}
	})
	return testVM{vm, t}
}

// expect fails the test unless the console shows patterns, in order.
func (v testVM) expect(patterns ...string) {
	v.t.Helper()
	for _, p := range patterns {
		if err := v.Expect(p, forever); err != nil {
			v.t.Fatal(err)
		}
	}
}

// ends fails the test unless the machine ends, by itself and as said.
func (v testVM) ends(want Exit) {
	v.t.Helper()
	got, err := v.Wait(forever)
	if err != nil || got != want {
		v.t.Fatalf("the machine's end: %v, %v, want %v", got, err, want)
	}
}

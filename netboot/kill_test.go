package netboot

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

var killSeed = flag.Uint64("kill-seed", uint64(time.Now().UnixNano()), "seed of the moments at which TestKill kills mknetboot")

// command is a mknetboot that makes what Build does of o.
func command(t *testing.T, program string, o Options) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, "--quiet", "-o", o.Output, "--store", o.Store, "--cache", o.Cache, "--stage1", o.Stage1, "--append", o.Append, o.Toplevel)
	cmd.Stderr = &bytes.Buffer{}
	// A group of its own, to be killed with mksquashfs and nix.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func buildProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "mknetboot")
	run(t, "go", "build", "-o", program, "stage1/cmd/mknetboot")
	return program
}

// digestDir returns the name, mode and digest of each file of a directory, or
// nothing where there is none.
func digestDir(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return ""
	}
	var b strings.Builder
	for _, d := range must(list, err)(t) {
		_, sum, err := digest(filepath.Join(dir, d.Name()))
		fmt.Fprintln(&b, must(d.Info())(t).Mode(), d.Name(), sum, err)
	}
	return b.String()
}

// TestKill kills mknetboot at random moments. At each, the output is the old one
// or the new one, whole, or absent if it was; no image in the cache is a wrong
// one; and a build afterwards makes what a clean one does.
func TestKill(t *testing.T) {
	runs := 50
	if testing.Short() {
		runs = 10
	}
	t.Logf("-kill-seed %d", *killSeed)
	random := rand.New(rand.NewPCG(*killSeed, 0))
	program := buildProgram(t)
	s := newTestStore(t)
	// Two systems that differ, so that an output tells which it is.
	clean := []Options{s.options(), s.options()}
	var want []string
	var whole time.Duration // a build of all images
	for i := range clean {
		clean[i].Append = fmt.Sprint("system=", i)
		cmd := command(t, program, clean[i])
		start := time.Now()
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, cmd.Stderr)
		}
		whole = time.Since(start)
		want = append(want, digestDir(t, clean[i].Output))
	}
	right := readCache(t, clean[0].Cache)
	if len(right) != 5 || want[0] == want[1] {
		t.Fatalf("%d images in the cache, want 5; the systems are %q", len(right), want)
	}

	o := s.options()
	old := ""
	killed, changed := 0, 0
	for i := range runs {
		if i%5 == 0 {
			if err := os.RemoveAll(o.Output); err != nil {
				t.Fatal(err)
			}
			old = ""
		}
		for key, im := range readCache(t, o.Cache) {
			if i%4 == 0 || random.IntN(2) == 0 {
				run(t, "rm", filepath.Join(o.Cache, key+".json"), filepath.Join(o.Cache, im.SHA256+".squashfs"))
			}
		}
		o.Append = clean[i%2].Append
		cmd := command(t, program, o)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		group := -cmd.Process.Pid
		time.Sleep(time.Duration(random.Int64N(int64(whole + whole/4))))
		who := cmd.Process.Pid // or all of the group: mksquashfs goes on, or not
		if random.IntN(2) == 0 {
			who = group
		}
		if err := syscall.Kill(who, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			killed++
		}
		got := digestDir(t, o.Output)
		if got != old && got != want[i%2] {
			t.Errorf("run %d: the output is neither the old one nor the new one:\n%swant\n%sor\n%s", i, got, old, want[i%2])
		}
		if got != old {
			changed++
		}
		for key, im := range readCache(t, o.Cache) {
			if im != right[key] {
				t.Errorf("run %d: the cache has %+v for %s, want %+v", i, im, key, right[key])
			}
		}
		after := command(t, program, o)
		if err := after.Run(); err != nil {
			t.Errorf("run %d: the build afterwards: %v: %s", i, err, after.Stderr)
		}
		if old = digestDir(t, o.Output); old != want[i%2] {
			t.Errorf("run %d: the build afterwards made\n%swant\n%s", i, old, want[i%2])
		}
		syscall.Kill(group, syscall.SIGKILL) // what is left of it
	}
	t.Logf("%d of %d runs were killed before their end; the output was changed in %d", killed, runs, changed)
	if killed == 0 {
		t.Error("no run was killed")
	}
	// What the last run's orphans left goes with the next build.
	last := command(t, program, o)
	if err := last.Run(); err != nil {
		t.Errorf("the last build: %v: %s", err, last.Stderr)
	}
	checkNothingLeft(t, o)
}

// readCache returns all images of a cache, each read and verified, by key.
func readCache(t *testing.T, dir string) map[string]cachedImage {
	t.Helper()
	images := make(map[string]cachedImage)
	files := must(filepath.Glob(filepath.Join(dir, "*.json")))(t)
	for _, file := range files {
		key := strings.TrimSuffix(filepath.Base(file), ".json")
		im, ok, err := (&cache{dir: dir}).get(key)
		if err != nil || !ok {
			t.Errorf("the cache's %s is damaged: %v", key, err)
			continue
		}
		images[key] = im
	}
	return images
}

// TestTwoProcesses runs two builds at the same time, with one
// cache, into one output and into two.
func TestTwoProcesses(t *testing.T) {
	program := buildProgram(t)
	s := newTestStore(t)
	clean := s.options()
	if _, err := Build(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	want := digestDir(t, clean.Output)
	for _, second := range []string{"", "-second"} {
		o := s.options()
		outputs := []string{o.Output, o.Output + second}
		for range 3 {
			if err := os.RemoveAll(o.Cache); err != nil {
				t.Fatal(err)
			}
			var group errgroup.Group
			for _, out := range outputs {
				o.Output = out
				cmd := command(t, program, o)
				group.Go(func() error {
					if err := cmd.Run(); err != nil {
						return fmt.Errorf("%w: %s", err, cmd.Stderr)
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
			for _, out := range outputs {
				if got := digestDir(t, out); got != want {
					t.Errorf("%s has\n%swant\n%s", out, got, want)
				}
			}
			if got, want := readCache(t, o.Cache), readCache(t, clean.Cache); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("the cache has %v, want %v", got, want)
			}
			checkNothingLeft(t, o)
		}
	}
}

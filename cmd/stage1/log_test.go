package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLog shows that each line is on the console once, whether the kernel shows
// it or we do.
func TestLog(t *testing.T) {
	for _, c := range []struct {
		name          string
		show, kernel  level
		kmsg, console string
	}{
		{"as usual", levelInfo, 7, "<3>stage-1: a\n<3>stage-1: b\n<6>stage-1: info\n<7>stage-1: debug\n", ""},
		{"quiet", levelWarning, 4, "<3>stage-1: a\n<3>stage-1: b\n<6>stage-1: info\n<7>stage-1: debug\n", ""},
		{"kernel quieter than we", levelInfo, 1, "<3>stage-1: a\n<3>stage-1: b\n<6>stage-1: info\n<7>stage-1: debug\n", "stage-1: a\nstage-1: b\nstage-1: info\n"},
		{"debug", levelDebug, 7, "<3>stage-1: a\n<3>stage-1: b\n<6>stage-1: info\n<7>stage-1: debug\n", "stage-1: debug\n"},
		{"without a kernel log", levelInfo, 7, "", "stage-1: a\nstage-1: b\nstage-1: info\n"},
	} {
		var kmsg, console bytes.Buffer
		l := &logger{console: &console, show: c.show, kernel: c.kernel}
		if c.kmsg != "" {
			l.kmsg = &kmsg
		}
		l.errorf("a\nb\n")
		l.infof("info")
		l.debugf("debug")
		if kmsg.String() != c.kmsg || console.String() != c.console {
			t.Errorf("%s: kernel log %q, console %q, want %q and %q", c.name, kmsg.String(), console.String(), c.kmsg, c.console)
		}
	}
}

func TestConsoleLevel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "printk")
	for text, want := range map[string]level{"7\t4\t1\t7\n": 7, "4\t4\t1\t7\n": 4, "x\n": 0, "": 0} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := consoleLevel(file); got != want || (err == nil) != (want != 0) {
			t.Errorf("consoleLevel of %q = %d, %v, want %d", text, got, err, want)
		}
	}
}

// TestTry shows that a panic in a step is an error like any other.
func TestTry(t *testing.T) {
	s := step{do: func() error { panic("a bug") }}
	if err := s.try(); err == nil || !strings.Contains(err.Error(), "stage1 itself is wrong: a bug") {
		t.Errorf("try of a step that panics = %v, want an error that says so", err)
	}
}

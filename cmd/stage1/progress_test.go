package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProgress shows an import of seven seconds, and a warning in it, on machines
// with different consoles.
func TestProgress(t *testing.T) {
	const (
		live = "\r\x1b[?7lstage-1: %d s\x1b[K\x1b[?7h\r"
		off  = "\r\x1b[K"
	)
	lives := func(from, to int) (s string) {
		for i := from; i <= to; i++ {
			s += fmt.Sprintf(live, i)
		}
		return s
	}
	const plain = "stage-1: 1 s\nstage-1: mind\nstage-1: 6 s\n"
	for _, c := range []struct {
		name            string
		screen          bool // there is one
		screenIsConsole bool
		show            level
		console, onTTY  string
	}{
		{"serial", false, false, levelInfo, plain, ""},
		{"serial and screen", true, false, levelInfo, plain, lives(1, 3) + off + lives(4, 5) + off + lives(6, 7) + off},
		{"screen", true, true, levelInfo, "stage-1: mind\n", lives(1, 3) + off + lives(4, 5) + off + lives(6, 7) + off},
		{"quiet", true, true, levelWarning, "stage-1: mind\n", ""},
	} {
		var kmsg, console, tty bytes.Buffer
		l := &logger{kmsg: &kmsg, console: &console, show: c.show, kernel: levelError}
		if c.screen {
			l.screen = screen{Writer: &tty, console: c.screenIsConsole}
		}
		p := progress{log: l}
		for second := 1; second <= 7; second++ {
			p.show(fmt.Sprintf("%d s", second), time.Duration(second)*time.Second)
			if second == 3 {
				l.warningf("mind")
			}
		}
		l.debugf("end")
		if console.String() != c.console || tty.String() != c.onTTY {
			t.Errorf("%s: console %q, screen %q, want %q and %q", c.name, &console, &tty, c.console, c.onTTY)
		}
		if want := "<6>stage-1: 1 s\n<4>stage-1: mind\n<6>stage-1: 6 s\n<7>stage-1: end\n"; kmsg.String() != want {
			t.Errorf("%s: kernel log %q, want %q", c.name, &kmsg, want)
		}
	}
}

// TestOpenScreen has a pseudoterminal stand in for the virtual one.
func TestOpenScreen(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(fmt.Sprintf("/dev/pts/%d", n), filepath.Join(dir, "tty0")); err != nil {
		t.Fatal(err)
	}
	active := filepath.Join(dir, "active")
	for _, c := range []struct {
		consoles         string
		present, console bool
	}{
		{"ttyS0\n", false, false},
		{"hvc0 ttyAMA0\n", false, false},
		{"", false, false},
		{"tty0 ttyS0\n", true, false},
		{"ttyS0 tty0\n", true, true},
	} {
		if err := os.WriteFile(active, []byte(c.consoles), 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := openScreen(active, dir)
		if err != nil || (s.Writer != nil) != c.present || s.console != c.console {
			t.Errorf("openScreen of %q = %+v, %v, want one: %t, which is the console: %t", c.consoles, s, err, c.present, c.console)
			continue
		}
		if !c.present {
			continue
		}
		s.show("one")
		s.show("two")
		s.clear()
		const want = "\r\x1b[?7lone\x1b[K\x1b[?7h\r\r\x1b[?7ltwo\x1b[K\x1b[?7h\r\r\x1b[K"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(pty, got); err != nil || string(got) != want {
			t.Errorf("on the terminal is %q, %v, want %q", got, err, want)
		}
	}
	if err := os.WriteFile(active, []byte("tty7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := openScreen(active, dir); err == nil {
		t.Errorf("openScreen of a terminal that is not there = %+v, want an error", s)
	}
}

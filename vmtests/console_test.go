package vmtests

import (
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestConsoleText(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"a line\r\nanother\r\n", "a line\nanother\n"},
		{"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mdbus\x1b[0m\n", "[  OK  ] Started dbus\n"},
		{"\x1bc\x1b[?7l\x1b[2Jclear", "clear"},
		{"cut off \x1b[", "cut off "},
		{"\x1b\x1b[mtwice", "twice"},
	} {
		c := newConsole(io.Discard)
		// A byte at a time, as a serial line gives it.
		for i := range tc.in {
			if _, err := c.Write([]byte{tc.in[i]}); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.text(); got != tc.want {
			t.Errorf("text of %q = %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestConsoleExpect(t *testing.T) {
	c := newConsole(io.Discard)
	io.WriteString(c, "one two ")
	for _, want := range []string{"one", "two"} {
		if got, err := c.expect(regexp.MustCompile("[a-z]+"), 0); got != want || err != nil {
			t.Errorf("expect = %q, %v, want %q", got, err, want)
		}
	}
	for _, tc := range []struct{ name, write, want string }{
		{"time", "", `"three" not seen in`},
		{"panic", kernelPanic + ": VFS", `the kernel panicked before "three"`},
	} {
		io.WriteString(c, tc.write)
		if _, err := c.expect(regexp.MustCompile("three"), 0); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: expect = %v, want %q", tc.name, err, tc.want)
		}
	}
	go func() {
		io.WriteString(c, " thr")
		io.WriteString(c, "ee\n")
		c.Close()
	}()
	c.matched = len(c.out) // what comes after the panic
	if got, err := c.expect(regexp.MustCompile("three"), time.Minute); got != "three" || err != nil {
		t.Errorf("expect = %q, %v, want three", got, err)
	}
	if _, err := c.expect(regexp.MustCompile("four"), time.Minute); err == nil || !strings.Contains(err.Error(), "ended before") {
		t.Errorf("expect after the end = %v, want that the machine has ended", err)
	}
}

func TestQuote(t *testing.T) {
	got := quote([]string{"plain", "two words", "it's", "$HOME"})
	if want := `plain 'two words' 'it'\''s' '$HOME'`; got != want {
		t.Errorf("quote = %s, want %s", got, want)
	}
}

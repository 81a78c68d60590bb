package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// screen is the virtual terminal among the kernel's consoles. It is the only one
// that is known to rewrite a line; what is behind a serial line can't be told.
type screen struct {
	io.Writer      // nil where there is none
	console   bool // it is /dev/console too
	live      bool // a live line is on it, with the cursor at its beginning
}

// openScreen opens the virtual terminal that the kernel names in
// /sys/class/tty/console/active: its consoles, of which the last is /dev/console
// (Documentation/ABI/testing/sysfs-tty).
func openScreen(active, dev string) (screen, error) {
	text, err := os.ReadFile(active)
	if err != nil {
		return screen{}, err
	}
	names := strings.Fields(string(text))
	for i, name := range names {
		if isVirtualTerminal(name) {
			f, err := os.OpenFile(filepath.Join(dev, name), os.O_WRONLY|unix.O_NOCTTY, 0)
			if err != nil {
				return screen{}, err
			}
			return screen{Writer: f, console: i == len(names)-1}, nil
		}
	}
	return screen{}, nil
}

// isVirtualTerminal says whether a console's name is tty and a number.
func isVirtualTerminal(name string) bool {
	number, ok := strings.CutPrefix(name, "tty")
	_, err := strconv.ParseUint(number, 10, 8)
	return ok && err == nil
}

// show writes the live line over the one before. The cursor goes back to its
// beginning, so that what the kernel writes does not follow it. A line that is
// too long for the screen is cut off and not wrapped (DECAWM): only one line can
// be written over.
func (s *screen) show(line string) {
	if s.Writer != nil {
		fmt.Fprintf(s, "\r\x1b[?7l%s\x1b[K\x1b[?7h\r", line)
		s.live = true
	}
}

// clear makes room for other lines.
func (s *screen) clear() {
	if s.live {
		fmt.Fprint(s, "\r\x1b[K")
		s.live = false
	}
}

// plainInterval is how often progress is a line of the kernel log and of consoles
// that can't rewrite one, after the first.
const plainInterval = 5 * time.Second

// progress shows how far the import is.
type progress struct {
	log  *logger
	next time.Duration // when the next plain line is due
}

func (p *progress) show(text string, elapsed time.Duration) {
	plain := elapsed >= p.next
	if plain {
		p.next = elapsed + plainInterval
	}
	p.log.progress(text, plain)
}

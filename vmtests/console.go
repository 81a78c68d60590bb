package vmtests

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// kernelPanic is what the kernel says at its end, whatever its log level.
const kernelPanic = "Kernel panic - not syncing"

// console collects what a machine writes to its serial line. It is written to
// by QEMU's output and read by Expect at the same time.
type console struct {
	raw io.Writer // gets everything as it is

	mu      sync.Mutex
	out     []byte        // without carriage returns and control sequences
	matched int           // how much of out Expect has consumed
	escape  escape        // what of a control sequence has been seen
	ended   bool          // nothing more will come
	changed chan struct{} // closed, and made anew, on each change
}

// escape is the state of a reader of ECMA-48 control sequences.
type escape int

const (
	outside escape = iota
	escaped        // after ESC
	inside         // after ESC [, until a byte of @…~
)

func newConsole(raw io.Writer) *console {
	return &console{raw: raw, changed: make(chan struct{})}
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range p {
		switch {
		case b == '\x1b':
			c.escape = escaped
		case c.escape == escaped && b == '[':
			c.escape = inside
		case c.escape == escaped, c.escape == inside && b >= '@' && b <= '~':
			c.escape = outside
		case c.escape == outside && b != '\r':
			c.out = append(c.out, b)
		}
	}
	c.notify()
	return c.raw.Write(p)
}

func (c *console) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Close says that nothing more will be written.
func (c *console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.notify()
	return nil
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.out)
}

// expect waits as VM.Expect says.
func (c *console) expect(re *regexp.Regexp, timeout time.Duration) (string, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		match, changed, err := c.look(re)
		if changed == nil {
			return match, err
		}
		select {
		case <-changed:
		case <-timer.C:
			return "", fmt.Errorf("console: %q not seen in %v", re, timeout)
		}
	}
}

// look looks for re once. If it can still appear, look returns what is closed
// when there is more to look at.
func (c *console) look(re *regexp.Regexp) (match string, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := c.out[c.matched:]
	if m := re.FindIndex(rest); m != nil {
		c.matched += m[1]
		return string(rest[m[0]:m[1]]), nil, nil
	}
	switch {
	case c.ended:
		return "", nil, fmt.Errorf("console: the machine ended before %q was seen", re)
	case strings.Contains(string(rest), kernelPanic):
		return "", nil, fmt.Errorf("console: the kernel panicked before %q was seen", re)
	}
	return "", c.changed, nil
}

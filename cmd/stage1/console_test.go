package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestConsoleThatTakesNothing writes to what nobody reads from: a fifo in place of
// a serial line.
func TestConsoleThatTakesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.file.Close()
	const size = 1 << 20 // a fifo's buffer is 64 KiB
	n, err := c.Write(make([]byte, size))
	if n == 0 || n == size || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Write of %d bytes = %d, %v, want a part and %v", size, n, err, os.ErrDeadlineExceeded)
	}
	if c.wait != impatience {
		t.Errorf("after it the next write waits for %v, want %v", c.wait, impatience)
	}
	if _, err := reader.Read(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Write(bytes.Repeat([]byte("x"), 100)); n != 100 || err != nil || c.wait != patience {
		t.Errorf("Write after a read = %d, %v, and the next waits for %v, want 100, none, %v", n, err, c.wait, patience)
	}
}

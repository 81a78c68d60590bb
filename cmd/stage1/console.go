package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How long a write to a console may take: first, and after one took longer. At
// 9600 baud 1.9 kB are written in the first.
const (
	patience   = 2 * time.Second
	impatience = 10 * time.Millisecond
)

// console is /dev/console for what is only shown there. A terminal behind which
// nobody reads, as of a serial line with flow control or of a virtual machine,
// takes what its buffer holds, 4 KiB, and then nothing more. The boot goes on
// without it: what it does not take in time is lost.
type console struct {
	file *os.File
	wait time.Duration
}

// openConsole opens the console again: descriptors 0 to 2 are for stage 2, which
// does not expect them not to block.
func openConsole(path string) (*console, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &console{f, patience}, nil
}

func (c *console) Write(p []byte) (int, error) {
	// What has no deadlines, as a regular file, does not block.
	_ = c.file.SetWriteDeadline(time.Now().Add(c.wait))
	n, err := c.file.Write(p)
	c.wait = patience
	if err != nil {
		c.wait = impatience
	}
	return n, err
}

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// children reaps what PID 1 is handed, and knows the shells that we started.
type children struct {
	mu     sync.Mutex
	shells map[int]chan struct{} // by PID; closed when it has ended
}

// start takes all signals. PID 1 must not die of any, as a Go program would. To each
// it reaps, not to SIGCHLD alone: one that finds the channel full is dropped, and
// then those in it are what comes after.
func (c *children) start() {
	c.shells = map[int]chan struct{}{}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	go func() {
		for range signals {
			c.reap()
		}
	}()
}

// reap waits for every child that has ended: signals may be merged.
func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err != nil || pid <= 0 { // ECHILD: none left
			return
		}
		c.ended(pid)
	}
}

// shellEnv is the environment of our shells; the initrd has no other.
var shellEnv = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/", "TERM=linux", "PS1=stage-1# "}

const shellPath = "/bin/sh"

// startShell starts a shell that has the terminal as its controlling one. The
// channel is closed when it has ended.
func (c *children) startShell(tty string) (<-chan struct{}, error) {
	f, err := os.OpenFile(tty, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("shell on %s: %w", tty, err)
	}
	defer f.Close()
	c.mu.Lock() // until the PID is known, it must not be reaped
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(shellPath, []string{"sh"}, &syscall.ProcAttr{
		Env:   shellEnv,
		Files: []uintptr{f.Fd(), f.Fd(), f.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true},
	})
	if err != nil {
		return nil, fmt.Errorf("shell on %s: exec %s: %w", tty, shellPath, err)
	}
	done := make(chan struct{})
	c.shells[pid] = done
	return done, nil
}

// becomeShell makes this process a shell on the terminal. It returns on an error
// only.
func becomeShell(tty string) error {
	f, err := os.OpenFile(tty, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("shell on %s: %w", tty, err)
	}
	defer f.Close()
	// EPERM: PID 1 leads its session already, as it does on some kernels.
	_, _ = unix.Setsid()
	for fd := range 3 {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("shell on %s: descriptor %d: %w", tty, fd, err)
		}
	}
	// Without a controlling terminal it is still a shell, less job control.
	_ = unix.IoctlSetInt(0, unix.TIOCSCTTY, 1)
	return fmt.Errorf("exec %s: %w", shellPath, unix.Exec(shellPath, []string{"sh"}, shellEnv))
}

// killAll ends every other process, which are the shells and what they have left
// behind.
func (c *children) killAll() {
	_ = unix.Kill(-1, unix.SIGKILL) // ESRCH: there is none
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil { // ECHILD: none is left
			return
		}
		c.ended(pid)
	}
}

// ended notes that a child has been reaped. The caller holds c.mu.
func (c *children) ended(pid int) {
	if done, ok := c.shells[pid]; ok {
		close(done)
		delete(c.shells, pid)
	}
}

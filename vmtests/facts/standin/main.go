// Standin stands in for systemd in a toplevel: a program, not a script, that the
// kernel starts as PID 1. It has /run/current-system/observe look at it, and then
// becomes /run/current-system/go-on. It opens no file and needs none.
package main

import (
	"fmt"
	"os"
	"syscall"
)

const (
	observe = "/run/current-system/observe"
	goOn    = "/run/current-system/go-on"
)

func main() {
	fmt.Fprintln(os.Stderr, "standin:", run())
	os.Exit(1)
}

// run returns only where it fails. It starts the observer below package os, which
// would open files in this process.
func run() error {
	pid, err := syscall.ForkExec(observe, []string{observe}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		return fmt.Errorf("start %s: %w", observe, err)
	}
	if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
		return fmt.Errorf("wait for %s: %w", observe, err)
	}
	return fmt.Errorf("exec %s: %w", goOn, syscall.Exec(goOn, []string{goOn}, nil))
}

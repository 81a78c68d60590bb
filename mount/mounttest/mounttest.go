// Package mounttest runs tests that mount file systems where they can leave
// nothing behind.
package mounttest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Main runs a package's tests in a mount name space of their own, so that whatever
// they leave mounted goes with it. It is for TestMain, needs root, and does not
// return.
//
// A name space belongs to a thread, and Go moves goroutines between threads. So
// the whole program is started again, inside.
func Main(m *testing.M) {
	const inside = "MOUNTTEST_INSIDE"
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "make mounts private:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests of mounts, which need root:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

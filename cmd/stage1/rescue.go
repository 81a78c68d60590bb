package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// keys are what the menu answers to.
const (
	keyShell   = 'i'
	keyShellP1 = 'f'
	keyReboot  = 'r'
)

// rescue tells what went wrong and asks what to do. It returns true if the step
// is to be done again, and false if nobody wants that.
func (b *boot) rescue(err error) (again bool) {
	b.log.errorf("%v", err)
	if b.opt.panic {
		return false
	}
	b.keys.open()
	defer b.keys.close()
	timeout := b.opt.failDelay
	if b.opt.onFail == actionHang {
		timeout = forever
	}
	fmt.Fprint(b.log.console, "\nAn error occurred in stage 1 of the boot, which brings up the Nix store and starts\nthe toplevel's stage 2. The boot has stopped. Press one of these keys:\n\n")
	return b.menu("to try the step again that went wrong", string(b.opt.onFail), timeout)
}

// breakAt stops the boot at a breakpoint until a key is pressed.
func (b *boot) breakAt(p breakpoint) {
	b.log.infof("breakpoint %s", p)
	b.keys.open()
	defer b.keys.close()
	fmt.Fprintf(b.log.console, "\nBreakpoint %s. Press one of these keys:\n\n", p)
	b.menu("to go on", "", forever)
}

const forever = time.Duration(-1)

// menu is the menu of NixOS's stage 1 (nixos/modules/system/boot/stage-1-init.sh,
// fail). It returns true for any key without a meaning of its own, and false
// when the time is over. The caller opens b.keys before it writes anything to the
// console, so that a key that is pressed in answer is not lost.
func (b *boot) menu(goOn, onTimeout string, timeout time.Duration) bool {
	why := b.noShell()
	if why == "" {
		fmt.Fprint(b.log.console, "  i) to launch an interactive shell\n  f) to start an interactive shell as PID 1\n")
	} else {
		fmt.Fprintf(b.log.console, "     (no shell: %s)\n", why)
	}
	fmt.Fprintf(b.log.console, "  r) to reboot immediately\n  *) %s\n\n", goOn)
	if timeout >= 0 {
		fmt.Fprintf(b.log.console, "Without a key within %v: %s.\n", timeout, onTimeout)
	}
	for {
		key, ok := b.keys.read(timeout)
		if !ok {
			return false
		}
		switch {
		case key == keyReboot:
			b.end(actionReboot)
		case key == keyShell && why == "":
			b.keys.close()
			if err := b.shell(); err != nil {
				b.log.errorf("%v", err)
			}
			b.keys.open()
			fmt.Fprint(b.log.console, "\nPress i, f, r or any other key as above.\n")
			timeout = forever // somebody is there
		case key == keyShellP1 && why == "":
			b.keys.close()
			b.log.errorf("%v", becomeShell(b.shellTTY()))
			b.keys.open()
		case key == keyShell || key == keyShellP1:
			fmt.Fprintf(b.log.console, "No shell: %s.\n", why)
		default:
			return true
		}
	}
}

// noShell says why no shell is offered, or nothing if one is.
func (b *boot) noShell() string {
	if !b.opt.shell {
		return "no flag allows one: boot.shell_on_fail does"
	}
	if err := unix.Access(shellPath, unix.X_OK); err != nil {
		return "the initrd has no " + shellPath + ": mknetboot --debug-shell puts one there"
	}
	return ""
}

// shell runs a shell and waits for its end.
func (b *boot) shell() error {
	done, err := b.children.startShell(b.shellTTY())
	if err != nil {
		return err
	}
	<-done
	return nil
}

// shellTTY is the terminal behind /dev/console, which can't be the controlling
// one of anybody: the last console of the command line, or what the kernel says.
func (b *boot) shellTTY() string {
	if n := len(b.opt.consoles); n > 0 {
		if tty := filepath.Join("/dev", b.opt.consoles[n-1]); isTerminal(tty) {
			return tty
		}
	}
	active, err := os.ReadFile("/sys/class/tty/console/active")
	if names := strings.Fields(string(active)); err == nil && len(names) > 0 {
		return filepath.Join("/dev", names[len(names)-1])
	}
	return "/dev/console"
}

func isTerminal(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// startDebugShell starts the shell of rd.systemd.debug_shell, which is there
// until the switch.
func (b *boot) startDebugShell() error {
	if !b.opt.debugShell {
		return nil
	}
	_, err := b.children.startShell("/dev/tty9")
	return err
}

// keys reads single keys from standard input.
type keys struct {
	cooked *unix.Termios // how the terminal was, or nil
}

// open drops what was typed before, and has keys come one by one and without an
// echo. On what is no terminal it does nothing.
func (k *keys) open() {
	cooked, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return
	}
	raw := *cooked
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	// TCSETSF would do both, but wait until the terminal has taken all that was
	// written: for ever, where nobody reads.
	if unix.IoctlSetTermios(0, unix.TCSETS, &raw) == nil {
		k.cooked = cooked
		_ = unix.IoctlSetInt(0, unix.TCFLSH, unix.TCIFLUSH) // it is a terminal
	}
}

// close makes the terminal what it was.
func (k *keys) close() {
	if k.cooked != nil {
		_ = unix.IoctlSetTermios(0, unix.TCSETS, k.cooked) // it could be set before
		k.cooked = nil
	}
}

// read waits for one key. ok is false when the time is over.
func (k *keys) read(timeout time.Duration) (key byte, ok bool) {
	deadline := time.Now().Add(timeout)
	for {
		wait := -1
		if timeout >= 0 {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, false
			}
			wait = int(left.Milliseconds()) + 1
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: 0, Events: unix.POLLIN}}, wait)
		var b [1]byte
		if err == nil && n == 1 {
			n, err = unix.Read(0, b[:])
			if err == nil && n == 1 {
				return b[0], true
			}
			// There is no console, or it is gone: nobody will press a key.
			time.Sleep(time.Second)
		}
	}
}

// die ends stage 1 after a fatal error. It never returns.
func (b *boot) die(err error) {
	if b.opt.panic {
		b.log.errorf("panic, as boot.panic_on_fail says: %v", err)
		b.end(actionPanic)
	}
	b.log.errorf("stopped: %v", err)
	b.end(b.opt.onFail)
}

// end does an action and never returns.
func (b *boot) end(a action) {
	b.log.errorf("%s", a)
	unix.Sync()
	switch a {
	case actionReboot:
		b.log.errorf("reboot: %v", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
	case actionPoweroff:
		b.log.errorf("power off: %v", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	case actionPanic:
		// The kernel panics when PID 1 exits ("Attempted to kill init"), and does
		// what its panic= says.
		os.Exit(1)
	case actionShell:
		if why := b.noShell(); why != "" {
			b.log.errorf("no shell: %s", why)
			b.end(actionReboot)
		}
		b.log.errorf("%v", becomeShell(b.shellTTY()))
		b.end(actionReboot)
	}
	for { // hang, or the kernel refused
		time.Sleep(time.Hour)
	}
}

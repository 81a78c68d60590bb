package vmtests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/hugelgupf/vmtest/qemu"
)

// VM is a machine that has been started. Close must be called.
type VM struct {
	console *console
	qemu    *qemu.VM
	dir     string // for files that only this VM needs
	qmp     string // QEMU's QMP socket
	setup   string // shell commands that make what QEMU's arguments name
	cleanup []func()

	done    chan struct{} // closed when QEMU has ended
	waitErr error         // of QEMU, once done is closed

	mu     sync.Mutex
	reason string // of QMP's SHUTDOWN event
}

// Exit says how a machine ended.
type Exit string

// The ends of a machine.
const (
	PowerOff Exit = "power-off"
	Reset    Exit = "reset"
	Panic    Exit = "panic" // of the kernel, which then resets
	Running  Exit = "still running"
	Killed   Exit = "killed"
)

func (v *VM) onExit(f func()) { v.cleanup = append(v.cleanup, f) }

func (v *VM) cleanUp() {
	for i := len(v.cleanup) - 1; i >= 0; i-- {
		v.cleanup[i]()
	}
	v.cleanup = nil
}

func (v *VM) start(ctx context.Context, o *qemu.Options) error {
	o.Tasks = append(o.Tasks, qemu.WaitVMStarted(v.watch))
	o.SerialOutput = append(o.SerialOutput, v.console)
	vm, err := o.Start(ctx)
	if err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	v.qemu, v.done = vm, make(chan struct{})
	go func() {
		// Wait also keeps the console's terminal drained.
		v.waitErr = vm.Wait()
		close(v.done)
	}()
	return nil
}

// watch asks QEMU, by QMP (docs/interop/qmp-spec in QEMU), why it shuts down.
func (v *VM) watch(ctx context.Context, n *qemu.Notifications) error {
	conn, err := net.Dial("unix", v.qmp)
	for err != nil {
		select {
		case <-ctx.Done():
			return nil // QEMU has not even got so far; its own error tells more
		case <-n.VMExited:
			return nil
		case <-time.After(10 * time.Millisecond):
			conn, err = net.Dial("unix", v.qmp)
		}
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(`{"execute":"qmp_capabilities"}` + "\n")); err != nil {
		return fmt.Errorf("QMP: %w", err)
	}
	for dec := json.NewDecoder(conn); ; {
		var message struct {
			Event string
			Data  struct{ Reason string }
		}
		if err := dec.Decode(&message); err != nil {
			return nil // QEMU has ended
		}
		if message.Event == "SHUTDOWN" {
			v.mu.Lock()
			v.reason = message.Data.Reason
			v.mu.Unlock()
		}
	}
}

// Send types keys on the console.
func (v *VM) Send(keys string) error {
	_, err := v.qemu.Console.Send(keys)
	return err
}

// Expect waits until the console has shown what the regular expression matches,
// after what the last call of Expect has matched, and returns that. It returns
// an error when the machine ends before, when its kernel panics before (unless
// that is what is expected), or after a while.
func (v *VM) Expect(pattern string, timeout time.Duration) (string, error) {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return "", err
	}
	return v.console.expect(re, timeout)
}

// Wait waits until the machine ends and says how. If it is still running after
// a while, Wait returns [Running] and leaves it so.
func (v *VM) Wait(timeout time.Duration) (Exit, error) {
	select {
	case <-v.done:
	case <-time.After(timeout):
		return Running, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch v.reason {
	case "guest-shutdown":
		return PowerOff, v.waitErr
	case "guest-panic":
		return Panic, v.waitErr
	case "guest-reset":
		if strings.Contains(v.Console(), kernelPanic) {
			return Panic, v.waitErr
		}
		return Reset, v.waitErr
	}
	return Killed, errors.Join(v.waitErr, fmt.Errorf("QEMU's reason to end: %q", v.reason))
}

// Console returns what the console has shown, without control sequences.
func (v *VM) Console() string { return v.console.text() }

// Repro returns shell commands that start the same machine.
func (v *VM) Repro() string { return v.setup + "\n" + quote(v.qemu.Cmdline()) }

// Close ends the machine if it is still running, and removes what it needed.
func (v *VM) Close() {
	select {
	case <-v.done:
	default:
		v.qemu.Kill()
		<-v.done
	}
	v.cleanUp()
}

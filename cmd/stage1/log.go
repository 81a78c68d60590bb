package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// level is a message's level as the kernel numbers them: linux/kern_levels.h.
type level int

const (
	levelError   level = 3
	levelWarning level = 4
	levelInfo    level = 6
	levelDebug   level = 7
)

// logger writes lines "stage-1: …" to the kernel log, where dmesg and journald
// find them after the switch, and to the console.
//
// The kernel shows what it logs on its consoles itself, below its console log
// level. Such lines are not written to the console a second time.
type logger struct {
	kmsg    io.Writer // /dev/kmsg, or nil
	console io.Writer
	kernel  level // the kernel shows levels below this
	show    level // we show levels up to this

	mu     sync.Mutex // for what is written: an import tells its progress meanwhile
	screen screen
}

// newLogger returns a logger to the console alone, for the time before there is
// a /dev/kmsg.
func newLogger() *logger {
	return &logger{console: os.Stdout, show: levelInfo}
}

const devkmsgLimit = "/proc/sys/kernel/printk_devkmsg"

// openKmsg adds the kernel log. It lifts the kernel's limit of 10 lines in 5
// seconds for writers of /dev/kmsg, for the time of the boot.
func (l *logger) openKmsg() error {
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("kernel log: %w", err)
	}
	l.kmsg = kmsg
	l.kernel, err = consoleLevel("/proc/sys/kernel/printk")
	if err != nil {
		return err
	}
	// EINVAL: the command line has printk.devkmsg=, and that holds.
	if err := os.WriteFile(devkmsgLimit, []byte("on\n"), 0); err != nil {
		l.debugf("kernel log: some lines may be missing in it: %v", err)
	}
	return nil
}

// restoreKmsg puts the kernel's limit back.
func (l *logger) restoreKmsg() {
	os.WriteFile(devkmsgLimit, []byte("ratelimit\n"), 0) // EINVAL as above
}

// consoleLevel reads the kernel's console log level: the first of four numbers
// (Documentation/admin-guide/sysctl/kernel.rst, printk).
func consoleLevel(file string) (level, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("console log level: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\t")
	n, err := strconv.Atoi(first)
	if err != nil {
		return 0, fmt.Errorf("console log level: %s has %q", file, text)
	}
	return level(n), nil
}

func (l *logger) errorf(format string, args ...any)   { l.log(levelError, format, args...) }
func (l *logger) warningf(format string, args ...any) { l.log(levelWarning, format, args...) }
func (l *logger) infof(format string, args ...any)    { l.log(levelInfo, format, args...) }
func (l *logger) debugf(format string, args ...any)   { l.log(levelDebug, format, args...) }

// log writes each line of the message. What can't be written is lost: there is
// nobody left to tell.
func (l *logger) log(lv level, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.screen.clear()
	for line := range strings.SplitSeq(strings.TrimRight(fmt.Sprintf(format, args...), "\n"), "\n") {
		l.line(lv, line, true)
	}
}

// progress writes a line as a live one on the screen, and if it is to be plain
// also in the kernel log and on a console that is not the screen.
func (l *logger) progress(line string, plain bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if plain {
		l.screen.clear()
		l.line(levelInfo, line, !l.screen.console)
	}
	if levelInfo <= l.show {
		l.screen.show("stage-1: " + line)
	}
}

// line writes one line to the kernel log, and to the console if it is wanted
// there and the kernel does not show it.
func (l *logger) line(lv level, line string, console bool) {
	logged := false
	if l.kmsg != nil {
		_, err := fmt.Fprintf(l.kmsg, "<%d>stage-1: %s\n", lv, line)
		logged = err == nil
	}
	if console && lv <= l.show && !(logged && lv < l.kernel) {
		fmt.Fprintf(l.console, "stage-1: %s\n", line)
	}
}

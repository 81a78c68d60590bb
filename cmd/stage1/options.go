package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"stage1/squashimport"
)

// options is what the kernel command line asks for.
type options struct {
	init     string
	consoles []string // in order; the last is /dev/console
	quiet    bool
	debug    bool

	breaks     map[breakpoint]bool
	shell      bool // a shell may be offered
	debugShell bool // and one be started on tty9
	panic      bool // panic at once on a fatal error
	onFail     action
	failDelay  time.Duration

	manifestSHA256 *string // what the manifest is pinned to; nil: nothing
	skipDigests    bool    // do not verify digests of images

	store    squashimport.Mode
	jobs     int
	rootSize size
	nixSize  size

	etcReadOnly bool // where /etc is made of layers

	moduleParams map[string]string // "NAME=VALUE …" by module
	warnings     []string          // about the command line itself
}

// action is what happens after a fatal error when nobody presses a key.
type action string

const (
	actionReboot   action = "reboot"
	actionPoweroff action = "poweroff"
	actionPanic    action = "panic"
	actionShell    action = "shell"
	actionHang     action = "hang"
)

// breakpoint is a place to stop the boot at.
type breakpoint string

const (
	breakModules    breakpoint = "before the kernel modules"
	breakImport     breakpoint = "before mounts and import"
	breakMounts     breakpoint = "after mounts and import"
	breakSwitchRoot breakpoint = "before switch root"
)

// size is a number of bytes, or of hundredths of the RAM.
type size struct {
	bytes   int64
	percent int64
}

// of is s in bytes on a machine with that much RAM, or otherwise where it was
// not given.
func (s size) of(ram, otherwise int64) int64 {
	switch {
	case s.percent > 0:
		return ram / 100 * s.percent
	case s.bytes > 0:
		return s.bytes
	}
	return otherwise
}

// flag is a row of the table of flags, which docs/flags.md shows too.
type flag struct {
	names   string // as written on the command line, separated by spaces; "KEY=…" has a value
	meaning string
	def     string // what holds without it
	set     func(o *options, key, value string) error
}

// flags is every flag that stage 1 knows. Where one repeats, the last counts,
// unless the meaning says otherwise.
var flags = []flag{
	{"init=PATH", "program that becomes PID 1 after stage 1: a toplevel's init", "the manifest's", func(o *options, _, v string) error { o.init = v; return nil }},
	{"console=NAME[,OPTIONS]", "consoles of the kernel, may repeat; a shell is on the last one", "the kernel's", func(o *options, _, v string) error {
		name, _, _ := strings.Cut(v, ",")
		o.consoles = append(o.consoles, name)
		return nil
	}},
	{"quiet", "only warnings and errors on the console; the kernel log has all", "off", func(o *options, _, _ string) error { o.quiet = true; return nil }},
	{"boot.trace debugtrace rd.systemd.log_level=debug", "debug messages on the console", "off", func(o *options, k, v string) error {
		o.debug = o.debug || k != "rd.systemd.log_level" || v == "debug"
		return nil
	}},
	{"boot.debug1 debug1 rd.systemd.break=pre-udev", "stop before the kernel modules, with a shell", "off", setBreak(breakModules)},
	{"boot.debug1devices rd.systemd.break=pre-mount", "stop before mounts and import, with a shell", "off", setBreak(breakImport)},
	{"boot.debug1mounts", "stop after mounts and import, with a shell", "off", setBreak(breakMounts)},
	{"rd.systemd.break=pre-switch-root rd.systemd.break", "stop before switch root, with a shell", "off", setBreak(breakSwitchRoot)},
	{"boot.shell_on_fail SYSTEMD_SULOGIN_FORCE=1", "offer a shell after a fatal error, where the initrd has one", "off", func(o *options, k, v string) error {
		o.shell = o.shell || k == "boot.shell_on_fail" || v == "1"
		return nil
	}},
	{"rd.systemd.debug_shell", "start a shell on tty9, where the initrd has one", "off", func(o *options, _, v string) error {
		o.debugShell = v != "0" && v != "no"
		return nil
	}},
	{"boot.panic_on_fail stage1panic=1", "panic at once on a fatal error (and see the kernel's panic=)", "off", func(o *options, k, v string) error {
		o.panic = o.panic || k == "boot.panic_on_fail" || v == "1"
		return nil
	}},
	{"stage1.on_fail=reboot|poweroff|panic|shell|hang", "what to do after a fatal error when no key is pressed; shell allows one", "reboot", setOnFail},
	{"stage1.on_fail_delay=SECONDS", "how long to wait for a key before that", "10", func(o *options, _, v string) error {
		n, err := strconv.ParseUint(v, 10, 31)
		if err != nil {
			return errors.New("want a whole number of seconds")
		}
		o.failDelay = time.Duration(n) * time.Second
		return nil
	}},
	{"stage1.manifest_sha256=HEX", "SHA-256 of the manifest's file, which has those of all other files; stage 1 stops on any other manifest", "any manifest", func(o *options, _, v string) error {
		// What makes no sense is no pin of any manifest, and found out there.
		o.manifestSHA256 = &v
		return nil
	}},
	{"stage1.verify=on|off", "compare images and registration with the digests in the manifest before they are used", "on", func(o *options, _, v string) error {
		if v != "on" && v != "off" {
			return errors.New("want on or off")
		}
		o.skipDigests = v == "off"
		return nil
	}},
	{"stage1.store=auto|overlay|copy", "how images become the store: mounted below an overlay, or copied; auto mounts, and copies where that can't be or takes too much RAM", "auto", setStore},
	{"stage1.jobs=N", "workers that verify and copy the store", "number of CPUs", func(o *options, _, v string) error {
		n, err := strconv.ParseUint(v, 10, 10)
		if err != nil || n == 0 {
			return errors.New("want a number from 1 to 1023")
		}
		o.jobs = int(n)
		return nil
	}},
	{"stage1.root_size=SIZE", "size of the tmpfs on /: bytes, with K, M or G, or with % of RAM", "50%", func(o *options, _, v string) (err error) {
		o.rootSize, err = parseSize(v)
		return err
	}},
	{"stage1.nix_size=SIZE", "size of the tmpfs on /nix, likewise", "50%, or more if the store needs it", func(o *options, _, v string) (err error) {
		o.nixSize, err = parseSize(v)
		return err
	}},
	{"stage1.etc=rw|ro", "whether an /etc of layers (system.etc.overlay.enable) can be written; ro for system.etc.overlay.mutable = false, which a toplevel does not tell", "rw", func(o *options, _, v string) error {
		if v != "rw" && v != "ro" {
			return errors.New("want rw or ro")
		}
		o.etcReadOnly = v == "ro"
		return nil
	}},
	{"MODULE.PARAMETER=VALUE", "parameter of a kernel module that stage 1 loads", "none", nil},
}

// maxCommandLine is how many bytes of a command line a kernel keeps at most:
// COMMAND_LINE_SIZE less the NUL, on x86 and arm64.
const maxCommandLine = 2047

// newOptions makes options of a kernel command line. Nothing in it is an error:
// what stage 1 can't make sense of is told in warnings, and the default holds.
func newOptions(line string) *options {
	o := &options{
		breaks: map[breakpoint]bool{}, moduleParams: map[string]string{},
		onFail: actionReboot, failDelay: 10 * time.Second, store: squashimport.Auto,
	}
	if n := len(strings.TrimSuffix(line, "\n")); n >= maxCommandLine {
		o.warnings = append(o.warnings, fmt.Sprintf("it has %d bytes, as many as the kernel keeps: what came after them is lost", n))
	}
	for _, p := range parseCommandLine(line) {
		f := findFlag(p)
		switch {
		case f != nil:
			if err := f.set(o, p.key, p.value); err != nil {
				o.warnings = append(o.warnings, fmt.Sprintf("%s: %v: ignored", p, err))
			}
		case strings.HasPrefix(p.key, "stage1."), p.key == "rd.systemd.break":
			o.warnings = append(o.warnings, fmt.Sprintf("%s: no such flag: ignored", p))
		case p.hasValue:
			if module, name, ok := strings.Cut(p.key, "."); ok {
				module = strings.ReplaceAll(module, "-", "_")
				o.moduleParams[module] = strings.TrimSpace(o.moduleParams[module] + " " + name + "=" + quoteParam(p.value))
			}
		}
	}
	return o
}

// findFlag finds the row for a parameter. A name with '=' stands for the key
// with any value, except where several rows share a key: rd.systemd.break.
func findFlag(p param) *flag {
	for i := range flags {
		f := &flags[i]
		if f.set == nil {
			continue
		}
		for name := range strings.FieldsSeq(f.names) {
			key, value, _ := strings.Cut(name, "=")
			if key == p.key && (key != "rd.systemd.break" || value == p.value) {
				return f
			}
		}
	}
	return nil
}

func setBreak(b breakpoint) func(*options, string, string) error {
	return func(o *options, _, _ string) error {
		o.breaks[b] = true
		o.shell = true
		return nil
	}
}

func setOnFail(o *options, _, v string) error {
	switch a := action(v); a {
	case actionReboot, actionPoweroff, actionPanic, actionShell, actionHang:
		o.onFail = a
		o.shell = o.shell || a == actionShell
		return nil
	}
	return errors.New("want reboot, poweroff, panic, shell or hang")
}

func setStore(o *options, _, v string) error {
	switch m := squashimport.Mode(v); m {
	case squashimport.Auto, squashimport.Overlay, squashimport.Copy:
		o.store = m
		return nil
	}
	return errors.New("want auto, overlay or copy")
}

func parseSize(s string) (size, error) {
	bad := errors.New("want a size above 0, such as 300000000, 512M, 2G or 75%")
	if s == "" {
		return size{}, bad
	}
	unit := int64(1)
	digits := s[:len(s)-1]
	switch s[len(s)-1] {
	case '%':
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 1 || n > 1000 {
			return size{}, bad
		}
		return size{percent: n}, nil
	case 'k', 'K':
		unit = 1 << 10
	case 'm', 'M':
		unit = 1 << 20
	case 'g', 'G':
		unit = 1 << 30
	default:
		digits = s
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64/unit {
		return size{}, bad
	}
	return size{bytes: n * unit}, nil
}

// quoteParam quotes a module parameter's value for finit_module(2), which splits
// as the command line is split.
func quoteParam(v string) string {
	if strings.ContainsFunc(v, isSpace) {
		return `"` + v + `"`
	}
	return v
}

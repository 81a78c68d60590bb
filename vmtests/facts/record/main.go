// Record prints what it finds on the machine that it runs on, as
// [stage1/vmtests/facts.Encode] writes it. It is the tests' observer in a
// closure's stage 2.
//
//	record [-files NAME,…] [DIR…]
//
// Each DIR is listed with all that is in it, each NAME is included, where they are
// there. Kernel messages stay off the console meanwhile.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"stage1/vmtests/facts"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "record: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	files := flag.String("files", "", "comma-separated files to include")
	flag.Parse()
	f, err := facts.Collect(strings.FieldsFunc(*files, func(r rune) bool { return r == ',' }), flag.Args())
	if err != nil {
		return err
	}
	// A kernel message in the middle of a line would spoil it.
	if _, err := unix.Klogctl(unix.SYSLOG_ACTION_CONSOLE_OFF, nil); err != nil {
		return fmt.Errorf("kernel messages off the console: %w", err)
	}
	if err := facts.Encode(os.Stdout, f); err != nil {
		return err
	}
	if _, err := unix.Klogctl(unix.SYSLOG_ACTION_CONSOLE_ON, nil); err != nil {
		return fmt.Errorf("kernel messages on the console: %w", err)
	}
	return nil
}

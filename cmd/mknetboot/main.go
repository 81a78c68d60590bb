// Command mknetboot makes a directory from which iPXE or kexec boots a NixOS
// system whose store is in RAM.
//
//	mknetboot [flag]... TOPLEVEL
//	mknetboot prune [flag]...
//	mknetboot chart [flag]... BOOT.JSON
//
// TOPLEVEL is the store path of a system (config.system.build.toplevel), or a
// symlink to one. The flags are in flags.go, in --help and in docs/mknetboot.md.
// It runs nix, nix-store and mksquashfs, and busybox for --debug-shell. It writes
// the output directory and the cache, or the picture that chart is asked for,
// nothing else.
//
// The summary and errors go to standard error, --json to standard output. It
// exits with 0, with 1 when the build fails, with 2 for wrong usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"stage1/netboot"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command := buildCommand
	if len(args) > 0 {
		switch args[0] {
		case "prune":
			command, args = pruneCommand, args[1:]
		case "chart":
			command, args = chartCommand, args[1:]
		}
	}
	err := command(ctx, args, stdout, stderr)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "mknetboot: interrupted")
		return 1
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "mknetboot: %v\nTry mknetboot --help.\n", err)
		return 2
	}
	fmt.Fprintf(stderr, "mknetboot: %v\n", err)
	return 1
}

// usageError is an error in the command line.
type usageError struct{ error }

func buildCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o := newBuildFlags()
	if err := o.parse(args, stdout); err != nil {
		return err
	}
	ui := newUI(stderr, o.quiet)
	o.build.Progress, o.build.Warn = ui.progress, ui.warn
	res, err := netboot.Build(ctx, o.build)
	ui.endProgress()
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(stdout).Encode(res)
	}
	ui.summary(res)
	return nil
}

func pruneCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o := newPruneFlags()
	if err := o.parse(args, stdout); err != nil {
		return err
	}
	res, err := netboot.Prune(ctx, o.prune)
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(stdout).Encode(res)
	}
	fmt.Fprintf(stderr, "removed %d images, %s; kept %d, %s\n", res.Removed, bytesText(res.RemovedBytes), res.Kept, bytesText(res.KeptBytes))
	return nil
}

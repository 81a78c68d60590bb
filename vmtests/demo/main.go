// Demo builds a system of Debian packages in the shape of a NixOS one, makes a
// directory of it by mknetboot, and boots that by iPXE, over HTTP, in QEMU.
//
// On a terminal, the machine's console is that terminal, and ends at a shell of
// root: poweroff leaves it, as does Ctrl-A X. Otherwise the machine runs checks
// and powers itself off, and the exit status tells whether they hold. The
// directory is ./demo/netboot. What the boot took is in ./demo/boot.json, and
// drawn in ./demo/boot.svg.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stage1/bootreport"
	"stage1/bootreport/chart"
	"stage1/vmtests"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := demo(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// names are the checks that run where there is no terminal.
const names = "report,units,loaddb,verify"

func demo(ctx context.Context) error {
	cache, err := vmtests.OpenCache(os.Stderr)
	if err != nil {
		return err
	}
	kernel, err := cache.Linux61(ctx)
	if err != nil {
		return err
	}
	system, err := cache.Debian(ctx, kernel)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs("demo/netboot")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "mknetboot -o %s %s\n", dir, system.Toplevel)
	said, err := system.Netboot(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Fprint(os.Stderr, said)

	report := filepath.Join(filepath.Dir(dir), "boot.json")
	m := vmtests.Machine{Netboot: dir, Memory: 2048, Serial: report}
	if m.Accel, err = cache.Accel(ctx, kernel); err != nil {
		return err
	}
	if isTerminal(os.Stdin) && isTerminal(os.Stdout) {
		m.Append = "vmtest=report,stay"
		err = m.Run(ctx)
	} else {
		m.Append, m.Output = "vmtest="+names, os.Stdout
		err = check(ctx, m)
	}
	if err != nil {
		return err
	}
	return draw(report)
}

// draw makes a picture beside a report.
func draw(report string) error {
	f, err := os.Open(report)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := bootreport.Read(f)
	if err != nil {
		return fmt.Errorf("%s: %w (was the machine ended before multi-user.target?)", report, err)
	}
	picture := strings.TrimSuffix(report, ".json") + ".svg"
	fmt.Fprintf(os.Stderr, "what the boot took: %s\n", picture)
	return os.WriteFile(picture, chart.SVG(r), 0o644)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// check runs the machine until it powers itself off.
func check(ctx context.Context, m vmtests.Machine) error {
	vm, err := m.Start(ctx)
	if err != nil {
		return err
	}
	defer vm.Close()
	const limit = 15 * time.Minute
	if _, err := vm.Expect("^vmtest: done", limit); err != nil {
		return err
	}
	exit, err := vm.Wait(limit)
	if err != nil || exit != vmtests.PowerOff {
		return fmt.Errorf("the machine's end: %v (error %v), want %v", exit, err, vmtests.PowerOff)
	}
	for name := range strings.SplitSeq(names, ",") {
		if !strings.Contains(vm.Console(), "vmtest: "+name+" ok\n") {
			return fmt.Errorf("check %s does not hold", name)
		}
	}
	return nil
}

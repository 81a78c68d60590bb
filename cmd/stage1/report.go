package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stage1/bootreport"
	"stage1/squashimport"
)

// report is the boot's report while it is measured.
type report struct {
	bootreport.Report
	bytes int64 // what the step that runs has made

	mu sync.Mutex // for RAM, which is sampled while a step runs
}

// maxSamples is an hour of them.
const maxSamples = 3600

// add notes a step that ends now.
func (r *report) add(name string, start time.Time) {
	mem, _ := readMemory() // 0 before /proc is there
	r.Steps = append(r.Steps, bootreport.Step{Name: name, Span: spanOf(start, time.Now()), Bytes: r.bytes, RAMUsed: mem.used()})
	r.bytes = 0
}

// sample notes the RAM that is in use now.
func (r *report) sample() {
	mem, err := readMemory()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && len(r.RAM) < maxSamples {
		r.RAM = append(r.RAM, bootreport.Sample{At: milliseconds(sinceBoot()), RAMUsed: mem.used()})
	}
}

// writeReport completes the report, keeps it and shows it.
func (b *boot) writeReport() error {
	r := &b.report
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	mem, err := readMemory()
	if err != nil {
		return err
	}
	p := b.importer.Progress()
	r.Machine = machine("/sys")
	r.Kernel = unix.ByteSliceToString(name.Release[:])
	r.Firmware, r.Loader = firmware("/sys")
	r.Mode = string(b.importer.Mode())
	r.Images, r.ImageBytes = len(b.manifest.Images), b.manifest.Size()
	r.StorePaths, r.StoreBytes = p.Paths, p.Bytes
	r.RAMTotal, r.RAMUsed = mem.total, mem.used()
	r.Init = b.next.path
	spans, lost := b.trace.Spans()
	r.Work, r.WorkLost = work(spans), lost
	for line := range strings.SplitSeq(r.String(), "\n") {
		b.log.infof("%s", line)
	}
	return r.save()
}

// save writes the report where it is kept.
func (r *report) save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(bootreport.Path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(bootreport.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := r.Write(f); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return f.Close()
}

func work(spans []squashimport.Span) []bootreport.Work {
	var w []bootreport.Work
	for _, s := range spans {
		w = append(w, bootreport.Work{Lane: s.Lane, Name: s.Name, File: s.File, Span: spanOf(s.Start, s.End)})
	}
	return w
}

// machine is what the machine says it is, by DMI or a devicetree, and its CPUs.
// sys stands for /sys.
func machine(sys string) string {
	var words []string
	for _, file := range []string{"class/dmi/id/sys_vendor", "class/dmi/id/product_name", "firmware/devicetree/base/model"} {
		text, err := os.ReadFile(filepath.Join(sys, file))
		if err == nil { // a machine has one of them, or none
			words = append(words, strings.Fields(strings.TrimRight(string(text), "\x00"))...)
		}
	}
	if len(words) == 0 {
		words = []string{runtime.GOARCH}
	}
	return fmt.Sprintf("%s, CPUs: %d", strings.Join(words, " "), runtime.NumCPU())
}

// firmware is how long, in milliseconds, the firmware and then the boot loader
// took, by the firmware's own record (ACPI FPDT: Documentation/ABI/testing/
// sysfs-firmware-acpi; Linux 5.12 with CONFIG_ACPI_FPDT). It is 0, 0 where there
// is none, as on a BIOS, or one that makes no sense: systemd-analyze too leaves
// out what says that it took an hour.
func firmware(sys string) (firmware, loader float64) {
	at := func(file string) time.Duration {
		text, err := os.ReadFile(filepath.Join(sys, "firmware/acpi/fpdt/boot", file))
		if err != nil {
			return 0
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return 0
		}
		return time.Duration(n) // nanoseconds since the machine's reset
	}
	launch, end := at("bootloader_launch_ns"), at("exitbootservice_end_ns")
	if launch <= 0 || end < launch || end > time.Hour {
		return 0, 0
	}
	return milliseconds(launch), milliseconds(end - launch)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

// spanOf is a span in the time since the kernel's start.
func spanOf(start, end time.Time) bootreport.Span {
	now, boot := time.Now(), sinceBoot()
	return bootreport.Span{Start: milliseconds(boot - now.Sub(start)), End: milliseconds(boot - now.Sub(end))}
}

// sinceBoot is the time since the kernel's start.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

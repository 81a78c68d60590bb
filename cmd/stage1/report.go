package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reportPath is where the report of the boot is kept.
const reportPath = "/run/stage1/boot.json"

// report is what took how long. docs/formats.md describes its JSON.
type report struct {
	Kernel     string       `json:"kernel"`     // release, as uname -r
	Mode       string       `json:"mode"`       // how images became the store: overlay or copy
	Images     int          `json:"images"`     // number
	ImageBytes int64        `json:"imageBytes"` // size of all images; 0 where not known
	StorePaths int          `json:"storePaths"` // number
	StoreBytes int64        `json:"storeBytes"` // what was imported, unpacked, in pages; 0 where not known
	RAMTotal   int64        `json:"ramTotal"`   // bytes
	RAMUsed    int64        `json:"ramUsed"`    // bytes at the end: total less available
	Init       string       `json:"init"`       // what is executed
	Steps      []stepReport `json:"steps"`
}

// stepReport is one step of the boot.
type stepReport struct {
	Name    string  `json:"name"`
	Start   float64 `json:"start"`        // milliseconds since the kernel's start (CLOCK_BOOTTIME)
	Took    float64 `json:"milliseconds"` // until its end
	RAMUsed int64   `json:"ramUsed"`      // bytes at its end: total less available
}

// add notes a step that ends now.
func (r *report) add(name string, start time.Time) {
	took := time.Since(start)
	mem, _ := readMemory() // 0 before /proc is there
	r.Steps = append(r.Steps, stepReport{
		Name:    name,
		Start:   milliseconds(sinceBoot() - took),
		Took:    milliseconds(took),
		RAMUsed: mem.used(),
	})
}

// writeReport keeps the report as JSON and shows it.
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
	r.Kernel = unix.ByteSliceToString(name.Release[:])
	r.Mode = string(b.importer.Mode())
	r.Images, r.ImageBytes = len(b.manifest.Images), b.manifest.Size()
	r.StorePaths, r.StoreBytes = p.Paths, p.Bytes
	r.RAMTotal, r.RAMUsed = mem.total, mem.used()
	r.Init = b.next.path
	for line := range strings.SplitSeq(r.String(), "\n") {
		b.log.infof("%s", line)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(reportPath), 0o755); err != nil {
		return err
	}
	return os.WriteFile(reportPath, append(data, '\n'), 0o644)
}

// String is the report as a table for the console.
func (r *report) String() string {
	var s strings.Builder
	total := 0.0
	for _, step := range r.Steps {
		fmt.Fprintf(&s, "%9.1f ms  %s\n", step.Took, step.Name)
		total += step.Took
	}
	fmt.Fprintf(&s, "%9.1f ms  in all, %.1f s after the kernel's start\n", total, sinceBoot().Seconds())
	fmt.Fprintf(&s, "store paths: %d, %.1f MB; by %s; images: %d, %.1f MB; RAM in use: %.0f of %.0f MB",
		r.StorePaths, mb(r.StoreBytes), r.Mode, r.Images, mb(r.ImageBytes), mb(r.RAMUsed), mb(r.RAMTotal))
	return s.String()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

// sinceBoot is the time since the kernel's start.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// memory is what /proc/meminfo says, in bytes.
type memory struct {
	total     int64 // MemTotal: RAM less what the kernel itself keeps
	available int64 // MemAvailable: what can be used without swapping
}

func (m memory) used() int64 { return m.total - m.available }

func readMemory() (memory, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	var m memory
	for scan := bufio.NewScanner(f); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			m.total = kib << 10
		case "MemAvailable:":
			m.available = kib << 10
		}
	}
	if m.total == 0 {
		return m, fmt.Errorf("%s: no MemTotal", f.Name())
	}
	return m, nil
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"stage1/bootreport"
	"stage1/squashimport"
)

// sysTree makes files below a directory that stands for /sys.
func sysTree(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFirmware(t *testing.T) {
	const launch, end = "firmware/acpi/fpdt/boot/bootloader_launch_ns", "firmware/acpi/fpdt/boot/exitbootservice_end_ns"
	for _, c := range []struct {
		files            map[string]string
		firmware, loader float64
	}{
		{nil, 0, 0},
		{map[string]string{launch: "2500000000\n", end: "4000500000\n"}, 2500, 1500.5},
		{map[string]string{launch: "2500000000\n"}, 0, 0},
		{map[string]string{launch: "0\n", end: "0\n"}, 0, 0},
		{map[string]string{launch: "5\n", end: "4\n"}, 0, 0},
		{map[string]string{launch: "-5\n", end: "4\n"}, 0, 0},
		{map[string]string{launch: "5\n", end: "3600000000001\n"}, 0, 0},
		{map[string]string{launch: "x\n", end: "4\n"}, 0, 0},
	} {
		if f, l := firmware(sysTree(t, c.files)); f != c.firmware || l != c.loader {
			t.Errorf("firmware of %q = %g, %g ms, want %g, %g", c.files, f, l, c.firmware, c.loader)
		}
	}
}

func TestMachine(t *testing.T) {
	cpus := fmt.Sprintf(", CPUs: %d", runtime.NumCPU())
	dmi := map[string]string{"class/dmi/id/sys_vendor": "QEMU\n", "class/dmi/id/product_name": "Standard PC  (i440FX)\n"}
	for _, c := range []struct {
		files map[string]string
		want  string
	}{
		{dmi, "QEMU Standard PC (i440FX)" + cpus},
		{map[string]string{"firmware/devicetree/base/model": "linux,dummy-virt\x00"}, "linux,dummy-virt" + cpus},
		{nil, runtime.GOARCH + cpus},
	} {
		if got := machine(sysTree(t, c.files)); got != c.want {
			t.Errorf("machine of %q = %q, want %q", c.files, got, c.want)
		}
	}
}

// TestReport adds steps and the work of an import, which must be in one time.
func TestReport(t *testing.T) {
	var r report
	begin := time.Now()
	r.bytes = 7
	r.sample()
	r.add("import", begin)
	r.add("registration", time.Now())
	done := work([]squashimport.Span{{Lane: 1, Name: "copy", File: "/a", Start: begin, End: begin.Add(time.Millisecond)}})
	step, w := r.Steps[0], done[0]
	if step.Bytes != 7 || r.Steps[1].Bytes != 0 || step.RAMUsed <= 0 {
		t.Errorf("steps are %+v, want 7 bytes for the first alone, and RAM", r.Steps)
	}
	if w.Lane != 1 || w.Name != "copy" || w.File != "/a" || w.Took() < 0.99 || w.Took() > 1.01 {
		t.Errorf("work is %+v, want what was done for 1 ms", w)
	}
	// To what the clocks drift apart between two looks at them.
	if d := w.Start - step.Start; d < -5 || d > 5 {
		t.Errorf("import starts at %g ms, and its work at %g", step.Start, w.Start)
	}
	if len(r.RAM) != 1 || r.RAM[0].RAMUsed <= 0 || r.RAM[0].At < step.Start-5 || r.RAM[0].At > step.End+5 {
		t.Errorf("samples are %+v, want one from %g to %g ms", r.RAM, step.Start, step.End)
	}
	if r.Steps[1].Span == (bootreport.Span{}) || r.Steps[1].Start < step.Start {
		t.Errorf("the second step is at %+v, the first at %+v", r.Steps[1].Span, step.Span)
	}
}

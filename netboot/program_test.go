package netboot

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testProgram is an ELF header of a static program that does nothing.
func testProgram(machine elf.Machine) string {
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16], b[18], b[19], b[20] = 2, byte(machine), byte(machine>>8), 1 // ET_EXEC, the machine, EV_CURRENT
	b[52], b[58] = 64, 64                                              // sizes of this header and of a section's
	return string(b)
}

func TestFindStage1(t *testing.T) {
	dir := t.TempDir()
	stage1, arm64 := filepath.Join(dir, "stage1"), filepath.Join(dir, "arm64", "stage1")
	writeFile(t, stage1, testProgram(elf.EM_X86_64), 0o755)
	find := func(machine elf.Machine, want string, words ...string) {
		t.Helper()
		got, err := findStage1(stage1, machine)
		if got != want || (err == nil) != (len(words) == 0) {
			t.Errorf("findStage1 for %s = %q, %v, want %q", machine, got, err, want)
		}
		wantError(t, "findStage1", err, words...)
	}
	find(elf.EM_X86_64, stage1)
	find(elf.EM_NONE, stage1)
	find(elf.EM_AARCH64, "", stage1, "for EM_X86_64", "one for EM_AARCH64")
	writeFile(t, arm64, testProgram(elf.EM_X86_64), 0o755)
	find(elf.EM_AARCH64, "", stage1, "for EM_X86_64", "one for EM_AARCH64")
	writeFile(t, arm64, testProgram(elf.EM_AARCH64), 0o755)
	find(elf.EM_AARCH64, arm64)
	find(elf.EM_386, "", stage1, "for EM_X86_64", "one for EM_386")
}

// TestBuildForeign builds a system for arm64 with pages of 64 KiB.
func TestBuildForeign(t *testing.T) {
	s := newTestStore(t)
	s.write(s.kernel+"/Image", testImage(testVersion, 0xe), 0o444)
	if err := os.Remove(s.real(s.toplevel + "/kernel")); err != nil {
		t.Fatal(err)
	}
	s.symlink(s.toplevel+"/kernel", s.kernel+"/Image")
	s.register([]string{s.kernel}, []string{s.toplevel, s.tools, s.link, s.kernel, s.toplevel})

	// Without a segment it runs nowhere, and cannot be asked for its applets.
	dir := t.TempDir()
	stage1, busybox := filepath.Join(dir, "stage1"), filepath.Join(dir, "busybox")
	for _, file := range []string{stage1, busybox} {
		writeFile(t, file, testProgram(elf.EM_AARCH64), 0o755)
	}
	o := s.options()
	o.Stage1, o.DebugShell, o.Busybox = stage1, true, lookPath(t, "busybox")
	_, err := Build(t.Context(), o)
	wantError(t, "Build with a shell for another machine", err, "debug shell", o.Busybox, "EM_AARCH64")

	o.Busybox, o.BlockSize = busybox, 32<<10
	_, err = Build(t.Context(), o)
	wantError(t, "Build with blocks smaller than pages", err, "32768", "65536")

	var warnings []string
	o.BlockSize, o.Warn = 64<<10, func(text string) { warnings = append(warnings, text) }
	res, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Files[0].Name != "Image" || res.KernelVersion != testVersion {
		t.Errorf("Build = %+v, want the kernel Image of version %s", res, testVersion)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "busybox ls") {
		t.Errorf("warnings %q, want one of the applets", warnings)
	}
	data, err := os.ReadFile(filepath.Join(o.Output, initrdName))
	if err != nil {
		t.Fatal(err)
	}
	got := readArchive(t, gunzip(t, data))
	if got["init"] != testProgram(elf.EM_AARCH64) || got["bin/busybox"] != got["init"] || got["bin/sh"] != "busybox" {
		t.Errorf("init, busybox and sh in the initrd are %q, %q and %q", got["init"], got["bin/busybox"], got["bin/sh"])
	}
	script, err := os.ReadFile(filepath.Join(o.Output, ipxeName))
	if err != nil || !strings.Contains(string(script), "\nkernel Image initrd=initrd ") {
		t.Errorf("netboot.ipxe does not load Image: %s%v", script, err)
	}
}

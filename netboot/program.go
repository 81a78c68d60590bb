package netboot

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// goarch names machines as Go does.
var goarch = map[elf.Machine]string{elf.EM_386: "386", elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// checkProgram checks that file is an ELF program for the machine, if that is
// known, and needs no interpreter.
func checkProgram(file string, machine elf.Machine) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	if machine != elf.EM_NONE && f.Machine != machine {
		return fmt.Errorf("%s is a program for %s, and the kernel is one for %s: give a program for that", file, f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			interp, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
			if err != nil {
				return fmt.Errorf("%s: PT_INTERP: %w", file, err)
			}
			return fmt.Errorf("%s is dynamically linked (it needs %s) and the initrd has no libraries: give a static one", file, bytes.TrimRight(interp, "\x00"))
		}
	}
	return nil
}

// findStage1 returns the init for a machine: file or, where that will not do, its
// namesake in the directory beside it that has the machine's name, as the
// Makefile puts it there.
func findStage1(file string, machine elf.Machine) (string, error) {
	err := checkProgram(file, machine)
	if err == nil {
		return file, nil
	}
	beside := filepath.Join(filepath.Dir(file), goarch[machine], filepath.Base(file))
	if checkProgram(beside, machine) == nil {
		return beside, nil
	}
	return "", err
}

// busyboxApplets asks a busybox for the names of its applets. The error is
// [unix.ENOEXEC] if it is for a machine whose programs do not run on this one.
func busyboxApplets(ctx context.Context, busybox string) ([]string, error) {
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	applets := strings.Fields(string(out))
	if !slices.Contains(applets, "sh") {
		return nil, fmt.Errorf("%s has no applet sh", busybox)
	}
	return applets, nil
}

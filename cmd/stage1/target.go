package main

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"stage1/bootspec"
	"stage1/manifest"
	"stage1/mount"
)

// target is the program that stage 1 becomes at last.
type target struct {
	path   string // in the new root
	argv   []string
	stage2 *bootspec.Stage2
}

// findTarget finds what to execute for init=, in the new root: the stage 2 of the
// toplevel that it is in.
func findTarget(root, init string) (*target, error) {
	if init == "" {
		return nil, fmt.Errorf("neither the command line (init=) nor the manifest names an init%s", toplevelsHint(root))
	}
	if !path.IsAbs(init) {
		return nil, fmt.Errorf("init=%s is not an absolute path%s", init, toplevelsHint(root))
	}
	open := func(name string) (*os.File, error) { return openIn(root, name) }
	stage2, err := bootspec.FindStage2(open, path.Clean(init))
	if err != nil {
		return nil, fmt.Errorf("init=%s: %w", init, err)
	}
	if err := checkExecutable(root, stage2.Program, 0); err != nil {
		return nil, fmt.Errorf("init=%s: %w%s", init, err, toplevelsHint(root))
	}
	return &target{stage2.Program, []string{stage2.Program}, stage2}, nil
}

// openIn opens a file in root as it will be found after the switch.
func openIn(root, name string) (*os.File, error) { return mount.OpenIn(root, name, 0) }

// maxInterpreters is how deep a script may be interpreted by a script:
// BINPRM_MAX_RECURSION, exec_binprm in fs/exec.c.
const maxInterpreters = 5

// checkExecutable finds out why the kernel would not execute name, while there
// is still a menu to tell it in: not there, not executable, for another machine,
// or with an interpreter of which that is true.
func checkExecutable(root, name string, depth int) error {
	if depth > maxInterpreters {
		return fmt.Errorf("%s: an interpreter of an interpreter, %d deep", name, depth)
	}
	f, err := openIn(root, name)
	if err != nil {
		return explainOpen(root, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file but %s", name, info.Mode())
	}
	if info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not executable: its mode is %s", name, info.Mode())
	}
	interpreter, err := interpreterOf(f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if interpreter == "" {
		return nil
	}
	if err := checkExecutable(root, interpreter, depth+1); err != nil {
		return fmt.Errorf("%s: its interpreter: %w", name, err)
	}
	return nil
}

// explainOpen tells a dangling symlink from a file that is not there.
func explainOpen(root string, err error) error {
	var pathErr *fs.PathError
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &pathErr) {
		return err
	}
	if to, linkErr := os.Readlink(filepath.Join(root, pathErr.Path)); linkErr == nil {
		return fmt.Errorf("%s is a symlink to %s, which does not exist: %w", pathErr.Path, to, pathErr.Err)
	}
	return fmt.Errorf("%s does not exist: %w", pathErr.Path, pathErr.Err)
}

// interpreterOf is the program that the kernel runs a program by: of a script
// what is behind "#!", of an ELF executable its dynamic loader, or none.
func interpreterOf(f *os.File) (string, error) {
	r := bufio.NewReader(io.NewSectionReader(f, 0, 256)) // BINPRM_BUF_SIZE
	magic, err := r.Peek(4)
	if err != nil {
		return "", fmt.Errorf("neither a script nor a program: %w", err)
	}
	if string(magic[:2]) == "#!" {
		line, err := r.ReadString('\n')
		if err != nil && err != io.EOF {
			return "", err
		}
		fields := strings.Fields(line[2:])
		if len(fields) == 0 || !path.IsAbs(fields[0]) {
			return "", fmt.Errorf("a script whose first line names no interpreter: %q", line)
		}
		return fields[0], nil
	}
	if string(magic) != elf.ELFMAG {
		return "", fmt.Errorf("neither a script (#!) nor an ELF program: it starts with %q", magic)
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return "", err
	}
	machines := map[string][]elf.Machine{"amd64": {elf.EM_X86_64, elf.EM_386}, "arm64": {elf.EM_AARCH64, elf.EM_ARM}}
	if can := machines[runtime.GOARCH]; len(can) > 0 && !slices.Contains(can, e.Machine) {
		return "", fmt.Errorf("a program for another machine: %v, this one is %s", e.Machine, runtime.GOARCH)
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, min(p.Filesz, unix.PathMax))
			if _, err := p.ReadAt(name, 0); err != nil {
				return "", fmt.Errorf("read its interpreter's name: %w", err)
			}
			return strings.TrimRight(string(name), "\x00"), nil
		}
	}
	return "", nil
}

// toplevelsHint lists the toplevels in the store, for a message.
func toplevelsHint(root string) string {
	dir := filepath.Join(root, manifest.StoreDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Sprintf("; the store can't be read: %v", err)
	}
	var found []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		_, initErr := os.Lstat(filepath.Join(dir, e.Name(), "init"))
		_, kernelErr := os.Lstat(filepath.Join(dir, e.Name(), "kernel"))
		if initErr == nil && kernelErr == nil {
			found = append(found, "init="+path.Join(manifest.StoreDir, e.Name(), "init"))
		}
	}
	if len(found) == 0 {
		return "; the store has no toplevel (a path with init and kernel)"
	}
	return "; the store has " + strings.Join(found, ", ")
}

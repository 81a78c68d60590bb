// Package kmod loads kernel modules with their dependencies, by depmod's
// modules.dep (modules.dep(5)) and finit_module(2).
//
// It loads by name only: there are no aliases, no modprobe.d, and no
// decompression: a module in the initrd is a plain .ko, as mknetboot puts it
// there.
package kmod

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is one kernel's modules: /lib/modules/VERSION.
type Tree struct {
	dir     string
	modules map[string]module
	builtin map[string]bool
}

// module is one line of modules.dep.
type module struct {
	file string   // relative to the tree
	deps []string // files it needs, the last one needs no other and is loaded first
}

// maxLine bounds a line of modules.dep, in bytes. The longest of Debian's 6.1 has
// 1.9 kB.
const maxLine = 1 << 20

// ErrNotFound is what [Tree.Load] wraps when the tree has no such module.
var ErrNotFound = errors.New("no such module")

// Open reads modules.dep and modules.builtin of the tree at dir. Where one does
// not exist the tree is taken to have no such modules, as that of a kernel with
// all built in.
func Open(dir string) (*Tree, error) {
	t := &Tree{dir: dir, modules: map[string]module{}, builtin: map[string]bool{}}
	for _, part := range []struct {
		file  string
		parse func(io.Reader) error
	}{{"modules.dep", t.parseDep}, {"modules.builtin", t.parseBuiltin}} {
		f, err := os.Open(filepath.Join(dir, part.file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("modules: %w", err)
		}
		err = part.parse(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("modules: %s: %w", f.Name(), err)
		}
	}
	return t, nil
}

// parseDep reads modules.dep: "FILE: FILE FILE …", relative to the tree.
func (t *Tree) parseDep(r io.Reader) error {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, maxLine)
	for line := 1; scan.Scan(); line++ {
		text := strings.TrimSpace(scan.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		file, deps, ok := strings.Cut(text, ":")
		if !ok {
			return fmt.Errorf("line %d: no colon in %q", line, text)
		}
		t.modules[Name(file)] = module{file, strings.Fields(deps)}
	}
	return scan.Err()
}

// parseBuiltin reads modules.builtin: the file that each module would have.
func (t *Tree) parseBuiltin(r io.Reader) error {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, maxLine)
	for scan.Scan() {
		t.builtin[Name(scan.Text())] = true
	}
	return scan.Err()
}

// Name is the name by which the kernel knows the module in file: no directory,
// no suffix, and '_' for '-'.
func Name(file string) string {
	base, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(base, "-", "_")
}

// Load loads the module and, before it, what it depends on. A module that is
// built in or already loaded is not loaded again. params gives the parameters,
// "NAME=VALUE NAME=VALUE", of each module that is loaded.
func (t *Tree) Load(name string, params func(module string) string) error {
	name = Name(name)
	if t.builtin[name] || loaded(name) {
		return nil
	}
	m, ok := t.modules[name]
	if !ok {
		return fmt.Errorf("load %s: %w: neither in %s/modules.dep nor built into the kernel (was the initrd built for this kernel?)", name, ErrNotFound, t.dir)
	}
	for i := len(m.deps) - 1; i >= 0; i-- {
		if err := t.insert(m.deps[i], params(Name(m.deps[i]))); err != nil {
			return fmt.Errorf("load %s: dependency %w", name, err)
		}
	}
	if err := t.insert(m.file, params(name)); err != nil {
		return fmt.Errorf("load %w", err)
	}
	return nil
}

// insert loads the module in file alone.
func (t *Tree) insert(file, params string) error {
	path := file
	if !filepath.IsAbs(file) {
		path = filepath.Join(t.dir, file)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), params, 0)
	// EEXIST: it is loaded, or was while we looked.
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	hint := ""
	if errors.Is(err, unix.ENOEXEC) {
		hint = " (not a module of this kernel, or a compressed one)"
	}
	return fmt.Errorf("module %s with parameters %q: %w%s", path, params, err, hint)
}

// loaded says whether the module is in the kernel, whether as a file or built in
// with parameters.
func loaded(name string) bool {
	_, err := os.Stat("/sys/module/" + name)
	return err == nil
}

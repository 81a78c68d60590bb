package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const toplevel = "/nix/store/00000000000000000000000000000000-nixos-system"

// newRootWith makes a root with files: by path, text to write or, behind "->",
// the target of a symlink. A text with "#!" or ELF is executable.
func newRootWith(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(to, path)
		} else if strings.HasPrefix(text, "#!") || strings.HasPrefix(text, "\x7fELF") {
			err = os.WriteFile(path, []byte(text), 0o755)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// self is a static or dynamic program of this machine: the test itself.
func self(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFindTarget(t *testing.T) {
	program := self(t)
	interpreter := "/nix/store/11111111111111111111111111111111-bash/bin/sh"
	systemd := "/nix/store/22222222222222222222222222222222-systemd"
	script := "#!" + interpreter + " -e\n"
	// e_machine, at byte 18: 0xf3, RISC-V.
	foreign := program[:18] + "\xf3\x00" + program[20:]
	for _, c := range []struct {
		name  string
		init  string
		files map[string]string
		want  string // path, or with a "!" part of the error
	}{
		{"scripted", toplevel + "/init", map[string]string{"init": script}, toplevel + "/init"},
		{"systemd in the initrd", toplevel + "/init", map[string]string{"init": "->" + interpreter, "prepare-root": script}, toplevel + "/prepare-root"},
		{"another program of the toplevel", toplevel + "/other", map[string]string{"other": script, "prepare-root": script}, toplevel + "/other"},
		{"a symlink, absolute", toplevel + "/init", map[string]string{"init": "->" + interpreter}, toplevel + "/init"},
		{"a symlink that would leave the root", toplevel + "/init", map[string]string{"init": "->../../../../../../.." + interpreter}, toplevel + "/init"},
		{"nixos-init", toplevel + "/init", map[string]string{"init": program, "systemd": "->" + systemd, "boot.json": `{"org.nixos.nixos-init.v1": {"etc_metadata_image": "/i", "etc_basedir": "/b"}}`}, toplevel + "/init"},
		{"nixos-init without its /etc", toplevel + "/init", map[string]string{"init": program, "systemd": "->" + systemd, "boot.json": `{"org.nixos.nixos-init.v1": {}}`}, "!the system would have no /etc"},
		{"nobody to activate", toplevel + "/init", map[string]string{"init": "->systemd/lib/systemd/systemd", "systemd": "->" + systemd}, "!nothing would activate the system"},
		{"bootspec of a scripted one", toplevel + "/init", map[string]string{"init": script, "boot.json": `{"org.nixos.bootspec.v1": {}, "org.nixos.nixos-init.v1": {}}`}, toplevel + "/init"},
		{"a specialisation", toplevel + "/specialisation/x/init", map[string]string{"specialisation/x": "->" + toplevel, "init": script, "prepare-root": script}, toplevel + "/specialisation/x/prepare-root"},
		{"none given", "", map[string]string{"init": script, "kernel": ""}, "!neither the command line (init=) nor the manifest"},
		{"relative", "init", map[string]string{"init": script}, "!not an absolute path"},
		{"absent", toplevel + "/init", nil, "!" + toplevel + "/init does not exist"},
		{"absent, with another toplevel", "/nix/store/gone/init", map[string]string{"init": script, "kernel": ""}, "!the store has init=" + toplevel + "/init"},
		{"dangling", toplevel + "/init", map[string]string{"init": "->/nix/store/gone"}, "!symlink to /nix/store/gone, which does not exist"},
		{"a loop", toplevel + "/init", map[string]string{"init": "->init"}, "!too many levels of symbolic links"},
		{"a directory", toplevel, map[string]string{"init": script}, "!is not a file"},
		{"not executable", toplevel + "/init", map[string]string{"init": "echo"}, "!is not executable: its mode is -rw-r--r--"},
		{"not a program", toplevel + "/init", map[string]string{"init": "#"}, "!not executable"},
		{"without an interpreter's name", toplevel + "/init", map[string]string{"init": "#! \n"}, "!names no interpreter"},
		{"without its interpreter", toplevel + "/init", map[string]string{"init": "#!/bin/sh\n"}, "!its interpreter: /bin/sh does not exist"},
		{"its own interpreter", toplevel + "/init", map[string]string{"init": "#!" + toplevel + "/init\n"}, "!interpreter of an interpreter"},
		{"for another machine", toplevel + "/init", map[string]string{"init": foreign}, "!for another machine"},
		{"a damaged program", toplevel + "/init", map[string]string{"init": program[:30]}, "!" + toplevel + "/init: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{interpreter: program, systemd + "/lib/systemd/systemd": program}
			// What the test's own program needs to run, if it is dynamic.
			if ld, err := filepath.Glob("/lib64/ld-linux*"); err == nil {
				for _, f := range ld {
					files[f] = program
				}
			}
			for name, text := range c.files {
				files[filepath.Join(toplevel, name)] = text
			}
			root := newRootWith(t, files)
			got, err := findTarget(root, c.init)
			if want, isErr := strings.CutPrefix(c.want, "!"); isErr {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("findTarget = %v, %v, want an error with %q", got, err, want)
				}
				return
			}
			if err != nil || got.path != c.want {
				t.Errorf("findTarget = %v, %v, want %s", got, err, c.want)
			}
		})
	}
}

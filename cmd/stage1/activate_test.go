package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stage1/bootspec"
)

// TestActivateRoot does it twice, as after a key that was pressed at the menu.
func TestActivateRoot(t *testing.T) {
	program, none := "/nix/store/x-tools/bin/tool", ""
	for _, c := range []struct {
		name    string
		env, sh *string
		want    map[string]string // file → target of the symlink, or "" for a file that must not be there
	}{
		{"both", &program, &program, map[string]string{"usr/bin/env": program, "bin/sh": program}},
		{"none wanted", &none, &none, map[string]string{"usr/bin/env": "", "bin/sh": ""}},
		{"not managed", nil, nil, map[string]string{"usr": "", "bin": ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for range 2 {
				if err := activateRoot(root, &bootspec.NixosInit{Env: c.env, Sh: c.sh}); err != nil {
					t.Fatal(err)
				}
			}
			for name, want := range c.want {
				if got, err := os.Readlink(filepath.Join(root, name)); got != want || (err != nil) != (want == "") {
					t.Errorf("%s is a symlink to %q (%v), want %q", name, got, err, want)
				}
			}
			if info, err := os.Stat(filepath.Join(root, "usr/bin")); (c.env != nil) != (err == nil && info.IsDir()) {
				t.Errorf("usr/bin: %v, %v", info, err)
			}
		})
	}
}

// TestActivateKernel has files for the kernel's, of which one is not there.
func TestActivateKernel(t *testing.T) {
	root := newRootWith(t, map[string]string{"proc/sys/kernel/modprobe": "/sbin/mod"})
	modprobe, firmware := "/nix/store/x-kmod/bin/modprobe", "/nix/store/x-firmware/lib/firmware"
	for _, n := range []*bootspec.NixosInit{{}, {Modprobe: &modprobe, Firmware: &firmware}} {
		want := "/sbin/mod"
		if n.Modprobe != nil {
			want = modprobe
		}
		if err := activateKernel(root, n); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/modprobe")); err != nil || string(got) != want {
			t.Errorf("modprobe is %q (%v), want %q", got, err, want)
		}
	}
}

func TestMakeEtcUpper(t *testing.T) {
	for _, files := range []map[string]string{{}, {"etc/NIXOS": "x"}} {
		root := newRootWith(t, files)
		for range 2 {
			if err := makeEtcUpper(root); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(filepath.Join(root, etcUpper, "NIXOS")); string(got) != files["etc/NIXOS"] {
			t.Errorf("etc/NIXOS in the upper layer: %q (%v), want %q", got, err, files["etc/NIXOS"])
		}
	}
}

func TestCheckDirectories(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		want  string // what the error has
	}{
		{nil, ""},
		{map[string]string{"/etc/passwd": ""}, ""},
		{map[string]string{"/etc": "->/tmp"}, "/etc in the new root is Lrwxrwxrwx"},
		{map[string]string{"/usr/bin": "->../../outside"}, "/usr/bin in the new root is Lrwxrwxrwx"},
		{map[string]string{"/usr": ""}, "/usr in the new root is -rw"},
	} {
		err := checkDirectories(newRootWith(t, c.files), "etc", "usr", "usr/bin")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("checkDirectories of %q = %v, want %q", c.files, err, c.want)
		}
	}
}

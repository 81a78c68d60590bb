package netboot

import (
	"debug/elf"
	"encoding/json"
	"os"
	"testing"
)

func TestToplevelFromFiles(t *testing.T) {
	s := newTestStore(t)
	top, err := readToplevel(s.store, s.toplevel)
	if err != nil {
		t.Fatal(err)
	}
	want := toplevel{
		path: s.toplevel, init: s.toplevel + "/init", params: "console=ttyS0 loglevel=4",
		kernel: s.real(s.kernel + "/bzImage"), kernelName: "bzImage", kernelInfo: kernelInfo{machine: elf.EM_X86_64, version: testVersion},
		modules: s.real(s.kernel + "/lib/modules"),
	}
	if *top != want {
		t.Errorf("readToplevel = %+v, want %+v", *top, want)
	}
}

func TestToplevelFromBootspec(t *testing.T) {
	s := newTestStore(t)
	s.write(s.kernel+"/vmlinuz-other", testKernel("6.6.6"), 0o444)
	s.write(s.toplevel+"/real-init", "#!/bin/sh\n", 0o555)
	s.write(s.kernel+"/initrd", "initrd", 0o444)
	s.writeBootspec(map[string]any{"org.nixos.bootspec.v1": map[string]any{
		"init": s.toplevel + "/real-init", "kernel": s.kernel + "/vmlinuz-other", "initrd": s.kernel + "/initrd",
		"kernelParams": []string{"quiet", `foo="a b"`},
	}})
	top, err := readToplevel(s.store, s.toplevel)
	if err != nil {
		t.Fatal(err)
	}
	want := toplevel{
		path: s.toplevel, init: s.toplevel + "/real-init", params: `quiet foo="a b"`,
		kernel: s.real(s.kernel + "/vmlinuz-other"), kernelName: "vmlinuz-other", kernelInfo: kernelInfo{machine: elf.EM_X86_64, version: "6.6.6"},
		initrd: s.real(s.kernel + "/initrd"), modules: s.real(s.kernel + "/lib/modules"),
	}
	if *top != want {
		t.Errorf("readToplevel = %+v, want %+v", *top, want)
	}
	_, _, err = top.modulesDir()
	wantError(t, "modulesDir of another kernel", err, `version "6.6.6"`, testVersion)
}

func (s *testStore) writeBootspec(spec map[string]any) {
	s.t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(s.toplevel+"/boot.json", string(text), 0o444)
}

func TestToplevelFlavours(t *testing.T) {
	s := newTestStore(t)
	check := func(what string, words ...string) {
		t.Helper()
		_, err := readToplevel(s.store, s.toplevel)
		if len(words) == 0 && err != nil {
			t.Errorf("readToplevel of %s: %v", what, err)
		}
		wantError(t, "readToplevel of "+what, err, words...)
	}
	init := s.real(s.toplevel + "/init")
	remove := func(file string) {
		t.Helper()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	check("a scripted toplevel")
	s.write(s.toplevel+"/init", "#!/bin/sh\n", 0o444)
	check("an init that is not executable", s.toplevel+"/init", "not executable")
	remove(init)
	check("no init", init, "no such file")
	s.symlink(s.toplevel+"/init", "/nowhere")
	check("a dangling init", init, "no such file")
	remove(init)
	s.write(s.toplevel+"/init", elfStub, 0o555)
	s.write(s.tools+"/lib/systemd/systemd", elfStub, 0o555)
	s.symlink(s.toplevel+"/systemd", s.tools)
	check("systemd alone", "systemd itself", "prepare-root")
	s.writeBootspec(map[string]any{"org.nixos.nixos-init.v1": map[string]any{}})
	check("nixos-init without an /etc", "nixos-init", "boot.json")
	s.writeBootspec(map[string]any{"org.nixos.nixos-init.v1": map[string]any{"etc_metadata_image": s.file, "etc_basedir": s.tools}})
	check("nixos-init")
	s.write(s.toplevel+"/prepare-root", "#!/bin/sh\n", 0o555)
	check("a toplevel for a systemd initrd")
	s.write(s.toplevel+"/boot.json", "{", 0o444)
	check("a broken boot.json", "boot.json")
	remove(s.real(s.toplevel + "/boot.json"))
	remove(s.real(s.toplevel + "/kernel"))
	check("no kernel", "no kernel")
}

func TestCheckEtcKernel(t *testing.T) {
	for version, ok := range map[string]bool{"6.5": true, "6.12.95+deb12-amd64": true, "7.0.1": true, "6.4.16": false, "5.15.0": false, "x": false} {
		if err := checkEtcKernel(version); (err == nil) != ok {
			t.Errorf("checkEtcKernel(%q) = %v, want ok %v", version, err, ok)
		}
	}
}

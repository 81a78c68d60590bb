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
	check("an init that is not executable", init, "not executable")
	remove(init)
	check("no init", init, "no such file")
	s.symlink(s.toplevel+"/init", "/nowhere")
	check("a dangling init", init, "no such file")
	remove(init)
	s.write(s.tools+"/lib/systemd/systemd", elfStub, 0o555)
	s.symlink(s.toplevel+"/init", s.tools+"/lib/systemd/systemd")
	check("systemd alone", "systemd itself", "prepare-root")
	s.writeBootspec(map[string]any{"org.nixos.nixos-init.v1": map[string]any{}})
	check("nixos-init", "nixos-init", "boot.json")
	s.write(s.toplevel+"/prepare-root", "#!/bin/sh\n", 0o555)
	check("a toplevel for a systemd initrd")
	s.write(s.toplevel+"/boot.json", "{", 0o444)
	check("a broken boot.json", "boot.json")
	remove(s.real(s.toplevel + "/boot.json"))
	remove(s.real(s.toplevel + "/kernel"))
	check("no kernel", "no kernel")
}

// nixosBootspec is like what NixOS writes (nixos/modules/system/activation/bootspec.nix).
const nixosBootspec = `{"org.nixos.bootspec.v1":{"init":"/nix/store/0c2xpmvf-nixos-system-x/init",
"initrd":"/nix/store/1c2xpmvf-initrd/initrd","initrdSecrets":"/nix/store/2c2xpmvf-append-initrd-secrets/bin/append-initrd-secrets",
"kernel":"/nix/store/3c2xpmvf-linux-6.12.8/bzImage","kernelParams":["loglevel=4","dyndbg=\"file a.c +p\""],
"label":"NixOS 25.05 (Linux 6.12.8)","system":"x86_64-linux","toplevel":"/nix/store/0c2xpmvf-nixos-system-x"},
"org.nixos.specialisation.v1":{}}`

func TestParseBootspec(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`{"org.nixos.bootspec.v1":{"kernel":"/k"}}`, `init is ""`},
		{`{"org.nixos.bootspec.v1":{"init":"/i","kernel":"k"}}`, `kernel is "k"`},
		{`{"org.nixos.bootspec.v1":[]}`, "cannot unmarshal array"},
		{``, "unexpected end"},
	} {
		_, err := parseBootspec([]byte(test.text))
		wantError(t, "parseBootspec of "+test.text, err, test.want)
	}
	for _, text := range []string{nixosBootspec, `{"org.nixos.bootspec.v2":{}}`, `{"org.nixos.bootspec.v1":null}`} {
		if _, err := parseBootspec([]byte(text)); err != nil {
			t.Errorf("parseBootspec of %s: %v", text, err)
		}
	}
}

func FuzzBootspec(f *testing.F) {
	f.Add([]byte(nixosBootspec))
	f.Add([]byte(`{"org.nixos.nixos-init.v1":{"firmware":"/f"}}`))
	f.Add([]byte(`{"org.nixos.bootspec.v1":{"init":"/i","kernel":"/k","kernelParams":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := parseBootspec(data)
		if err == nil && spec.V1 != nil && (spec.V1.Init == "" || spec.V1.Kernel == "") {
			t.Errorf("parseBootspec(%q) = %+v, want a kernel and an init", data, spec.V1)
		}
	})
}

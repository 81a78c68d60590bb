package bootspec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	script      = "#!/bin/sh\n"
	systemd     = "\x7fELF systemd"
	systemdFile = "systemd/lib/systemd/systemd"
	v1          = `"org.nixos.bootspec.v1": {"init": "/t/init", "kernel": "/k", "kernelParams": ["a", "b"]}`
	native      = `"org.nixos.nixos-init.v1": {"nix_store_mount_opts": ["ro"]}`
	layered     = `"org.nixos.nixos-init.v1": {"nix_store_mount_opts": ["ro"], "etc_metadata_image": "/i", "etc_basedir": "/b", "sh_binary": "/sh", "env_binary": null}`
)

// toplevel writes files of a toplevel at /t and returns an Open for them.
func toplevel(t *testing.T, files map[string]string) Open {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, "t", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return func(name string) (*os.File, error) { return os.Open(filepath.Join(root, name)) }
}

func TestFindStage2(t *testing.T) {
	for _, c := range []struct {
		name  string
		init  string // in /t
		files map[string]string
		want  string // program, or with a "!" part of the error
		etc   Etc
		byUs  bool // NixosInit is for stage 1 to do
	}{
		{"scripted", "init", map[string]string{"init": script, systemdFile: systemd}, "/t/init", Etc{}, false},
		{"scripted, of 26.05", "init", map[string]string{"init": script, systemdFile: systemd, "boot.json": "{" + v1 + "," + native + "}"}, "/t/init", Etc{}, false},
		{"a program of somebody else's", "init", map[string]string{"init": systemd + "!", systemdFile: systemd, "boot.json": "{" + native + "}"}, "/t/init", Etc{}, false},
		{"one of the same size", "init", map[string]string{"init": strings.ToUpper(systemd), systemdFile: systemd}, "/t/init", Etc{}, false},
		{"no init", "init", nil, "/t/init", Etc{}, false},
		{"not called init", "other", map[string]string{"other": script, "prepare-root": script}, "/t/other", Etc{}, false},
		{"systemd in the initrd", "init", map[string]string{"init": systemd, systemdFile: systemd, "prepare-root": script}, "/t/prepare-root", Etc{}, false},
		{"the same of 26.05", "init", map[string]string{"init": systemd, systemdFile: systemd, "prepare-root": script, "boot.json": "{" + native + "}"}, "/t/prepare-root", Etc{}, false},
		{"the same with layers", "init", map[string]string{"init": systemd, systemdFile: systemd, "prepare-root": script, "boot.json": "{" + layered + "}"}, "/t/prepare-root", Etc{"/i", "/b"}, false},
		{"the same of 25.05", "init", map[string]string{"init": systemd, systemdFile: systemd, "prepare-root": script, "etc-metadata-image": "", "etc-basedir/x": ""}, "/t/prepare-root", Etc{"/t/etc-metadata-image", "/t/etc-basedir"}, false},
		{"nixos-init", "init", map[string]string{"init": systemd, systemdFile: systemd, "boot.json": "{" + v1 + "," + layered + "}"}, "/t/init", Etc{"/i", "/b"}, true},
		{"nixos-init without layers", "init", map[string]string{"init": systemd, systemdFile: systemd, "boot.json": "{" + native + "}"}, "!no /etc", Etc{}, false},
		{"nixos-init of 25.11", "init", map[string]string{"init": systemd, systemdFile: systemd, "etc-metadata-image": "", "etc-basedir/x": ""}, "!nothing would activate the system", Etc{}, false},
		{"a damaged boot.json", "init", map[string]string{"init": systemd, systemdFile: systemd, "boot.json": "{"}, "!/t/boot.json: unexpected end", Etc{}, false},
		{"a large boot.json", "init", map[string]string{"init": systemd, systemdFile: systemd, "boot.json": strings.Repeat(" ", maxSpec+1)}, "!larger than 1048576 bytes", Etc{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := FindStage2(toplevel(t, c.files), "/t/"+c.init)
			if want, isErr := strings.CutPrefix(c.want, "!"); isErr {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("FindStage2 = %v, %v, want an error with %q", got, err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var etc Etc
			if got.Etc != nil {
				etc = *got.Etc
			}
			if got.Program != c.want || etc != c.etc || (got.NixosInit != nil) != c.byUs || got.Toplevel != "/t" {
				t.Errorf("FindStage2 = %+v with etc %+v, want %s, %+v, nixos-init %v", got, etc, c.want, c.etc, c.byUs)
			}
		})
	}
}

func TestRead(t *testing.T) {
	spec, err := Read(toplevel(t, map[string]string{"boot.json": "{" + v1 + "," + layered + "}"}), "/t")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(spec.V1.KernelParams, " "); got != "a b" || spec.V1.Kernel != "/k" {
		t.Errorf("Read: parameters %q of kernel %q, want a b of /k", got, spec.V1.Kernel)
	}
	if n := spec.NixosInit; n.Sh == nil || *n.Sh != "/sh" || n.Env != nil || n.Modprobe != nil {
		t.Errorf("Read: %+v, want a shell, and neither env nor modprobe", n)
	}
	if spec, err = Read(toplevel(t, nil), "/t"); err != nil || spec.V1 != nil || spec.NixosInit != nil {
		t.Errorf("Read without a boot.json = %+v, %v, want nothing", spec, err)
	}
}

// nixosBootspec is like what NixOS writes (nixos/modules/system/activation/bootspec.nix).
const nixosBootspec = `{"org.nixos.bootspec.v1":{"init":"/nix/store/0c2xpmvf-nixos-system-x/init",
"initrd":"/nix/store/1c2xpmvf-initrd/initrd","initrdSecrets":"/nix/store/2c2xpmvf-append-initrd-secrets/bin/append-initrd-secrets",
"kernel":"/nix/store/3c2xpmvf-linux-6.12.8/bzImage","kernelParams":["loglevel=4","dyndbg=\"file a.c +p\""],
"label":"NixOS 25.05 (Linux 6.12.8)","system":"x86_64-linux","toplevel":"/nix/store/0c2xpmvf-nixos-system-x"},
"org.nixos.specialisation.v1":{}}`

func TestParse(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`{"org.nixos.bootspec.v1":{"kernel":"/k"}}`, `init is ""`},
		{`{"org.nixos.bootspec.v1":{"init":"/i","kernel":"k"}}`, `kernel is "k"`},
		{`{"org.nixos.bootspec.v1":[]}`, "cannot unmarshal array"},
		{``, "unexpected end"},
	} {
		_, err := parse([]byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("parse of %s: %v, want an error with %q", test.text, err, test.want)
		}
	}
	for _, text := range []string{nixosBootspec, `{"org.nixos.bootspec.v2":{}}`, `{"org.nixos.bootspec.v1":null}`} {
		if _, err := parse([]byte(text)); err != nil {
			t.Errorf("parse of %s: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(nixosBootspec))
	f.Add([]byte("{" + v1 + "," + layered + "}"))
	f.Add([]byte(`{"org.nixos.bootspec.v1":{"init":"/i","kernel":"/k","kernelParams":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := parse(data)
		if err == nil && spec.V1 != nil && (spec.V1.Init == "" || spec.V1.Kernel == "") {
			t.Errorf("parse(%q) = %+v, want a kernel and an init", data, spec.V1)
		}
	})
}

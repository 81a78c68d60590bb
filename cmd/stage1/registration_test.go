package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stage1/manifest"
)

const entry = toplevel + "\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n120\n\n1\n" + toplevel + "\n"

func TestImportRegistration(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	fmt.Fprint(z, entry)
	z.Close()
	gz := packed.String()
	elsewhere := strings.Replace(entry, "/nix/store/", "/gnu/store/", 1)
	absent := strings.ReplaceAll(entry, "nixos-system", "absent")
	if _, err := importRegistration(t.TempDir(), &manifest.Registration{File: "/r"}, t.TempDir()); err == nil || !strings.Contains(err.Error(), "/r: no such file") {
		t.Errorf("importRegistration without the file = %v, want an error that names it", err)
	}
	for _, c := range []struct {
		name, file string
		size       int64 // unpacked
		want       string
	}{
		{"plain", entry, int64(len(entry)), ""},
		{"gzip", gz, int64(len(entry)), ""},
		{"of the seed, of unknown size", gz, 0, ""},
		{"larger than it should be", gz, int64(len(entry)) - 1, "it unpacks to more than the"},
		{"trailing garbage", gz + "x", 0, "unexpected EOF"},
		{"truncated", gz[:len(gz)-9], 0, "unexpected EOF"},
		{"truncated entry", entry[:len(entry)-60], 0, "registration line"},
		{"a path that is not in the store", absent, 0, "names /nix/store/00000000000000000000000000000000-absent, which no image holds"},
		{"a reference to a path that is not in the store", strings.TrimSuffix(entry, toplevel+"\n") + "/nix/store/00000000000000000000000000000000-absent\n", 0, "refers to /nix/store/00000000000000000000000000000000-absent, which no image holds"},
		{"a path of another store", elsewhere, 0, "is not in /nix/store"},
	} {
		t.Run(c.name, func(t *testing.T) {
			initrd := newRootWith(t, map[string]string{"/r": c.file})
			root := newRootWith(t, map[string]string{toplevel + "/init": ""})
			n, err := importRegistration(initrd, &manifest.Registration{File: "/r", UnpackedSize: c.size}, root)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/r: ") {
					t.Errorf("importRegistration = %v, want an error with the file and %q", err, c.want)
				}
				return
			}
			if err != nil || n != 1 {
				t.Fatalf("importRegistration = %d, %v, want 1 path", n, err)
			}
			got, err := os.ReadFile(filepath.Join(root, "nix/registration"))
			if err != nil || string(got) != entry {
				t.Errorf("/nix/registration = %q, %v, want %q", got, err, entry)
			}
		})
	}
}

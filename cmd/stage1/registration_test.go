package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
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
		name, file, sum, want string
	}{
		{"plain", entry, digestOf(entry), ""},
		{"gzip", gz, digestOf(gz), ""},
		{"of the seed, without a digest", gz, "", ""},
		{"another digest", gz, digestOf(entry), "the manifest says"},
		{"trailing garbage", gz + "x", "", "unexpected EOF"},
		{"truncated", gz[:len(gz)-9], "", "unexpected EOF"},
		{"truncated entry", entry[:len(entry)-60], "", "registration line"},
		{"a path that is not in the store", absent, "", "names /nix/store/00000000000000000000000000000000-absent, which no image holds"},
		{"a path of another store", elsewhere, "", "is not in /nix/store"},
	} {
		t.Run(c.name, func(t *testing.T) {
			initrd := newRootWith(t, map[string]string{"/r": c.file})
			root := newRootWith(t, map[string]string{toplevel + "/init": ""})
			n, err := importRegistration(initrd, &manifest.Registration{File: "/r", SHA256: c.sum}, root)
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

func digestOf(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

func TestNixSize(t *testing.T) {
	const ram = 1 << 30
	images := []manifest.Image{{Size: 1 << 20, UnpackedSize: 600 << 20, Inodes: 1e6}}
	root := &manifest.Image{UnpackedSize: 80 << 20}
	for _, c := range []struct {
		name         string
		line         string
		images       []manifest.Image
		root         *manifest.Image
		size, inodes int64
	}{
		{"small store", "", []manifest.Image{{Size: 1, UnpackedSize: 1 << 20, Inodes: 5}}, nil, ram / 2, ram / 2 / 4096},
		{"large store", "", images, nil, 675 << 20, 2e6},
		{"large store and root", "", images, root, 765 << 20, 2e6},
		{"as told", "stage1.nix_size=100M", images, nil, 100 << 20, 2e6},
		{"seed", "", []manifest.Image{{}}, nil, ram - spare, ram / 2 / 4096},
		{"seed, mounted", "stage1.store=overlay", []manifest.Image{{}}, nil, ram / 2, ram / 2 / 4096},
	} {
		b := newBoot()
		b.opt = newOptions(c.line)
		b.manifest = &manifest.Manifest{Images: c.images, Root: c.root}
		if size, inodes := b.nixSize(memory{total: ram}); size != c.size || inodes != c.inodes {
			t.Errorf("%s: nixSize = %d, %d, want %d, %d", c.name, size, inodes, c.size, c.inodes)
		}
	}
}

func TestCheckMemory(t *testing.T) {
	b := newBoot()
	b.manifest = &manifest.Manifest{Images: []manifest.Image{{Size: 1, UnpackedSize: 1 << 20}}}
	if err := b.checkMemory(); err != nil {
		t.Errorf("checkMemory for 1 MB = %v, want none", err)
	}
	b.manifest.Images[0].UnpackedSize = 1 << 45
	if err := b.checkMemory(); err == nil || !strings.Contains(err.Error(), "stage1.store=overlay") {
		t.Errorf("checkMemory for 35 TB = %v, want an error that says what would do", err)
	}
}

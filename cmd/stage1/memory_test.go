package main

import (
	"slices"
	"strings"
	"testing"

	"stage1/manifest"
	"stage1/squashimport"
)

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
		m := &manifest.Manifest{Images: c.images, Root: c.root}
		if size, inodes := nixSize(m, newOptions(c.line), memory{total: ram}); size != c.size || inodes != c.inodes {
			t.Errorf("%s: nixSize = %d, %d, want %d, %d", c.name, size, inodes, c.size, c.inodes)
		}
	}
}

func TestFittingMode(t *testing.T) {
	const mib = 1 << 20
	linked := []manifest.Image{{Size: 100 * mib, UnpackedSize: 400 * mib, StorePaths: 900}}
	// 400 small images take less RAM as a copy.
	small := slices.Repeat([]manifest.Image{{Size: 8192, UnpackedSize: 4096}}, 400)
	many := slices.Repeat([]manifest.Image{{Size: 8192, UnpackedSize: 4096}}, 501)
	registration := &manifest.Registration{UnpackedSize: 10 * mib}
	for _, c := range []struct {
		name, line   string
		images       []manifest.Image
		registration *manifest.Registration
		free         int64 // MiB
		want         squashimport.Mode
		err          string
	}{
		{"auto", "", linked, nil, 60, squashimport.Auto, ""},
		{"auto without RAM", "", linked, nil, 40, "", "by overlay it needs 50.8 MB, by copy it needs 486.5 MB, and 41.9 of 1073.7 MB are free (50 MB are for the system): use a machine with 10 MB more"},
		{"registration", "", linked, registration, 50, "", "by overlay it needs 61.2 MB"},
		{"overlay", "stage1.store=overlay", linked, nil, 60, squashimport.Overlay, ""},
		{"overlay without RAM", "stage1.store=overlay", linked, nil, 40, "", "by overlay it needs 50.8 MB, and 41.9"},
		{"copy", "stage1.store=copy", linked, nil, 500, squashimport.Copy, ""},
		{"copy without RAM", "stage1.store=copy", linked, nil, 400, "", "use stage1.store=overlay, which needs 50.8 MB, or a machine with"},
		{"auto, when a copy takes less", "stage1.jobs=1", small, nil, 60, squashimport.Copy, ""},
		{"auto, when both do", "stage1.jobs=1", small, nil, 300, squashimport.Auto, ""},
		{"auto of too many images", "", many, nil, 300, squashimport.Copy, ""},
		{"overlay of too many images", "stage1.store=overlay", many, nil, 300, "", "an overlay takes 500 images, the manifest names 501"},
		{"copy of a seed", "stage1.store=copy", []manifest.Image{{}}, nil, 60, squashimport.Copy, ""},
		{"small tmpfs", "stage1.store=copy stage1.nix_size=10M", linked, nil, 500, "", "stage1.nix_size= makes the tmpfs on /nix 10.5 MB large, and with stage1.store=copy it must hold 419.4 MB"},
		{"small tmpfs, mounted", "stage1.nix_size=10M", linked, registration, 500, "", "with stage1.store=auto it must hold 11.5 MB"},
	} {
		m := &manifest.Manifest{Images: c.images, Registration: c.registration}
		got, err := fittingMode(m, newOptions(c.line), memory{total: 1 << 30, available: c.free * mib})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: fittingMode = %v, want an error with %q", c.name, err, c.err)
			}
		} else if got != c.want || err != nil {
			t.Errorf("%s: fittingMode = %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}

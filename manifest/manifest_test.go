package manifest

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	init0  = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos/init"
	seed0  = "/nix/store/012345678 9abcdfghijklmnpqrsvwxyz-bash-squash/zyxwvsrq/pnmlkjihgfdcba9876543210-bash"
)

func good() *Manifest {
	return &Manifest{
		Version: Version,
		Init:    init0,
		Modules: []string{"virtio_net"},
		Images: []Image{
			{File: ImageFile("0123456789abcdfghijklmnpqrsvwxyz-bash"), Size: 4096, SHA256: digest, StorePaths: 1, UnpackedSize: 8192, Inodes: 7},
			{File: Dir + "/store", Size: 8192, SHA256: digest, StorePaths: 3, UnpackedSize: 16384, Inodes: 9},
		},
		Root:         &Image{File: Dir + "/root.squashfs", Size: 4096, SHA256: digest, UnpackedSize: 4096, Inodes: 3},
		Registration: &Registration{File: Dir + "/registration.zst", Size: 10, SHA256: digest, UnpackedSize: 100},
	}
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	want := good()
	if err := want.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"0123456789abcdfghijklmnpqrsvwxyz"} {
		if strings.Contains(b.String(), ref) {
			t.Errorf("Write has the reference %s, want it split:\n%s", ref, b.String())
		}
	}
	got, err := Parse(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Parse = %+v, want %+v", got, want)
	}
}

func TestSums(t *testing.T) {
	m := good()
	for name, c := range map[string][2]int64{
		"StorePaths":   {int64(m.StorePaths()), 4},
		"Size":         {m.Size(), 12288},
		"UnpackedSize": {m.UnpackedSize(), 24576},
		"Inodes":       {m.Inodes(), 16},
	} {
		if c[0] != c[1] {
			t.Errorf("%s() = %d, want %d", name, c[0], c[1])
		}
	}
	m.Images[0].UnpackedSize = 0
	if got := m.UnpackedSize(); got != 0 {
		t.Errorf("UnpackedSize() with one unknown = %d, want 0", got)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		want string
		harm func(*Manifest)
	}{
		{"names no image", func(m *Manifest) { m.Images = nil }},
		{"named twice", func(m *Manifest) { m.Images[1].File = m.Images[0].File }},
		{"not a clean absolute path", func(m *Manifest) { m.Images[0].File = "relative" }},
		{"not a clean absolute path", func(m *Manifest) { m.Images[0].File = "/nix-store-squashes/../proc/kcore" }},
		{"not a clean absolute path", func(m *Manifest) { m.Images[0].File = "/a\x00b" }},
		{"not a file of the initrd", func(m *Manifest) { m.Images[0].File = "/proc/kcore" }},
		{"size 0 is out of range", func(m *Manifest) { m.Images[0].Size = 0 }},
		{"size -1 is out of range", func(m *Manifest) { m.Images[0].Size = -1 }},
		{"not 64 hexadecimal digits", func(m *Manifest) { m.Images[0].SHA256 = "abc" }},
		{"not 64 hexadecimal digits", func(m *Manifest) { m.Registration.SHA256 = "" }},
		{"out of range", func(m *Manifest) { m.Images[0].StorePaths = 0 }},
		{"out of range", func(m *Manifest) { m.Images[0].UnpackedSize = -1 }},
		{"larger than", func(m *Manifest) { m.Images[0].Size, m.Images[1].Size = maxTotal, maxTotal }},
		{"root image \"x\" is not a clean absolute path", func(m *Manifest) { m.Root.File = "x" }},
		{"named as an image of the store too", func(m *Manifest) { m.Root.File = m.Images[1].File }},
		{"size 0 is out of range", func(m *Manifest) { m.Root.Size = 0 }},
		{"not 64 hexadecimal digits", func(m *Manifest) { m.Root.SHA256 = "" }},
		{"holds 1 store paths, want none", func(m *Manifest) { m.Root.StorePaths = 1 }},
		{"out of range", func(m *Manifest) { m.Root.Inodes = -1 }},
		{"is not a clean absolute path", func(m *Manifest) { m.Init = "init" }},
		{"not a module's name", func(m *Manifest) { m.Modules = []string{"../x"} }},
		{"out of range", func(m *Manifest) { m.Registration.UnpackedSize = -1 }},
	} {
		m := good()
		c.harm(m)
		if err := m.Write(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Write = %v, want an error with %q", err, c.want)
		}
	}
}

func TestCheckRootPath(t *testing.T) {
	for p, want := range map[string]bool{
		"/etc/NIXOS": true, "/nix": true, "/nix/var/nix/db/db.sqlite": true, "/nix/storehouse": true, "/devices": true,
		"/nix/store": false, "/nix/store/x": false, "/nix/.store/x": false, "/nix/registration": false,
		"/proc": false, "/sys/x": false, "/dev/null": false, "/run/secrets": false,
	} {
		if err := CheckRootPath(p); (err == nil) != want {
			t.Errorf("CheckRootPath(%s) = %v, want it allowed: %t", p, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "not JSON",
		"not json":                        "not JSON",
		`{"version": 2, "images": "new"}`: "format version 2, want 1",
		`{"version": 1, "images": 3}`:     "not a manifest",
		`{"version": 1}`:                  "names no image",
		strings.Repeat(" ", MaxSize+1):    "larger than",
	} {
		if _, err := Parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.40q) = %v, want an error with %q", text, err, want)
		}
	}
}

func TestParseSeed(t *testing.T) {
	m, err := ParseSeed(strings.NewReader(seed0 + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Image{File: strings.Replace(seed0, " ", "", 1), StorePaths: 1, Entry: "zyxwvsrqpnmlkjihgfdcba9876543210-bash"}
	if len(m.Images) != 1 || m.Images[0] != want {
		t.Errorf("ParseSeed = %+v, want %+v", m.Images, want)
	}
	if got := m.Registration.File; got != SeedRegistration {
		t.Errorf("registration = %s, want %s", got, SeedRegistration)
	}
	for text, want := range map[string]string{
		"":                         "names no image",
		"\n\n":                     "names no image",
		"relative\n":               "line 1",
		seed0 + "\r\n":             "line 1",
		seed0 + "\n/proc/ kcore\n": "line 2",
		seed0 + "\n" + seed0:       "named twice",
		"/a\x00/b":                 "line 1",
	} {
		if _, err := ParseSeed(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSeed(%q) = %v, want an error with %q", text, err, want)
		}
	}
}

func TestOpen(t *testing.T) {
	var own bytes.Buffer
	if err := good().Write(&own); err != nil {
		t.Fatal(err)
	}
	ownFile, seedFile := &fstest.MapFile{Data: own.Bytes()}, &fstest.MapFile{Data: []byte(seed0)}
	for _, c := range []struct {
		name string
		fs   fstest.MapFS
		want int // images
		err  error
	}{
		{"own", fstest.MapFS{Path[1:]: ownFile}, 2, nil},
		{"seed", fstest.MapFS{SeedPath[1:]: seedFile}, 1, nil},
		{"both", fstest.MapFS{Path[1:]: ownFile, SeedPath[1:]: seedFile}, 2, nil},
		{"none", fstest.MapFS{}, 0, ErrNoManifest},
	} {
		m, err := Open(c.fs)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: Open = %v, want %v", c.name, err, c.err)
		} else if err == nil && len(m.Images) != c.want {
			t.Errorf("%s: Open = %d images, want %d", c.name, len(m.Images), c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	var b bytes.Buffer
	if err := good().Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"version":1,"images":[{"file":"/a b","size":1,"sha256":"` + digest + `","storePaths":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(bytes.NewReader(data))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := m.Write(&b); err != nil {
			t.Fatalf("Write of what Parse took: %v", err)
		}
		again, err := Parse(&b)
		if err != nil {
			t.Fatalf("Parse of what Write gave: %v", err)
		}
		// An empty list and none are the same.
		if len(m.Modules) == 0 {
			m.Modules, again.Modules = nil, nil
		}
		if !reflect.DeepEqual(m, again) {
			t.Errorf("Parse, Write, Parse = %+v, want %+v", again, m)
		}
	})
}

func FuzzParseSeed(f *testing.F) {
	f.Add([]byte(seed0 + "\n"))
	f.Add([]byte("/x /y/z\n\n/a/b/c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseSeed(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, im := range m.Images {
			if !isClean(im.File) || im.StorePaths != 1 || im.Entry == "" || strings.Contains(im.Entry, "/") {
				t.Errorf("image %+v", im)
			}
		}
	})
}

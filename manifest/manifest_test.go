package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
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
			{File: Dir + "/store", Size: PieceSize + 4096, SHA256: digest, Pieces: []string{digest, digest}, StorePaths: 3, UnpackedSize: 16384, Inodes: 9},
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
		"Size":         {m.Size(), PieceSize + 8192},
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

func TestInPages(t *testing.T) {
	m := &Manifest{
		Images: []Image{{UnpackedSize: 8192, Inodes: 3}, {UnpackedSize: 4096, Inodes: 1}},
		Root:   &Image{UnpackedSize: 4096, Inodes: 2},
	}
	for _, test := range []struct{ page, store, root int64 }{
		{4 << 10, 12 << 10, 4 << 10},
		{16 << 10, (12 + 4*12) << 10, (4 + 2*12) << 10},
		{64 << 10, (12 + 4*60) << 10, (4 + 2*60) << 10},
	} {
		got := m.InPages(test.page)
		if got.UnpackedSize() != test.store || got.Root.UnpackedSize != test.root {
			t.Errorf("in pages of %d: %d and %d bytes, want %d and %d", test.page, got.UnpackedSize(), got.Root.UnpackedSize, test.store, test.root)
		}
	}
	if m.UnpackedSize() != 12<<10 || m.Root.UnpackedSize != 4<<10 {
		t.Errorf("InPages changed what it was called on: %+v", m)
	}
	seed := &Manifest{Images: []Image{{}}}
	if got := seed.InPages(64 << 10).UnpackedSize(); got != 0 {
		t.Errorf("a seed's size in larger pages is %d, want 0 for unknown", got)
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
		{"digests of 1 pieces do not fit its size", func(m *Manifest) { m.Images[1].Pieces = m.Images[1].Pieces[1:] }},
		{"digests of 2 pieces do not fit its size", func(m *Manifest) { m.Images[1].Size = PieceSize }},
		{"of a piece is not 64 hexadecimal digits", func(m *Manifest) { m.Images[1].Pieces[1] = "abc" }},
		{"is also an image", func(m *Manifest) { m.Registration.File = m.Images[0].File }},
		{"out of range", func(m *Manifest) { m.Images[0].StorePaths = 0 }},
		{"out of range", func(m *Manifest) { m.Images[0].UnpackedSize = -1 }},
		{"larger than", func(m *Manifest) {
			m.Images[0].Size, m.Images[1].Size, m.Images[1].Pieces = maxTotal, maxTotal, nil
		}},
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
		"{\"version\": 1, \"\xff\": 1}":   "not UTF-8",
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
	if len(m.Images) != 1 || !reflect.DeepEqual(m.Images[0], want) {
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
	sum := sha256.Sum256(own.Bytes())
	pin := hex.EncodeToString(sum[:])
	ownFile, seedFile := &fstest.MapFile{Data: own.Bytes()}, &fstest.MapFile{Data: []byte(seed0)}
	for _, c := range []struct {
		name string
		fs   fstest.MapFS
		pin  string
		want int    // images
		err  string // what the error has
	}{
		{"own", fstest.MapFS{Path[1:]: ownFile}, "", 2, ""},
		{"seed", fstest.MapFS{SeedPath[1:]: seedFile}, "", 1, ""},
		{"both", fstest.MapFS{Path[1:]: ownFile, SeedPath[1:]: seedFile}, "", 2, ""},
		{"none", fstest.MapFS{}, "", 0, ErrNoManifest.Error()},
		{"pinned", fstest.MapFS{Path[1:]: ownFile}, pin, 2, ""},
		{"pinned in upper case", fstest.MapFS{Path[1:]: ownFile}, strings.ToUpper(pin), 2, ""},
		{"pinned to another", fstest.MapFS{Path[1:]: ownFile}, digest, 0, "its SHA-256 is " + pin + ", it is pinned to " + digest},
		{"pinned to nonsense", fstest.MapFS{Path[1:]: ownFile}, pin[1:], 0, "is not 64 hexadecimal digits"},
		{"pinned seed", fstest.MapFS{SeedPath[1:]: seedFile}, pin, 0, "it has no digests"},
	} {
		m, err := Open(c.fs, c.pin)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: Open = %v, want an error with %q", c.name, err, c.err)
			}
		} else if err != nil || len(m.Images) != c.want {
			t.Errorf("%s: Open = %+v, %v, want %d images", c.name, m, err, c.want)
		}
	}
}

func TestParts(t *testing.T) {
	files := good().Files()
	if len(files) != 4 {
		t.Fatalf("Files() = %+v, want two images, the root image and the registration", files)
	}
	for i, want := range [][]Part{
		{{0, 4096, digest}},
		{{0, PieceSize, digest}, {PieceSize, 4096, digest}},
		{{0, 4096, digest}},
		{{0, 10, digest}},
	} {
		if got := files[i].Parts(); !reflect.DeepEqual(got, want) {
			t.Errorf("Parts() of %s = %+v, want %+v", files[i].Path, got, want)
		}
	}
	if got := (&File{Path: "/seed"}).Parts(); got != nil {
		t.Errorf("Parts() of a file without digest = %+v, want none", got)
	}
}

func TestSum(t *testing.T) {
	text := strings.NewReader("abcabcabc")
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, B.1
	if got, err := Sum(text, 3, 3, make([]byte, 2)); err != nil || got != want {
		t.Errorf("Sum(3, 3) = %s, %v, want %s", got, err, want)
	}
	if got, err := Sum(text, 7, 3, make([]byte, 2)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Sum(7, 3) of 9 bytes = %s, %v, want %v", got, err, io.ErrUnexpectedEOF)
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
		for i := range m.Images {
			if len(m.Images[i].Pieces) == 0 {
				m.Images[i].Pieces, again.Images[i].Pieces = nil, nil
			}
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

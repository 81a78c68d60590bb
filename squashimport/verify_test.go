package squashimport

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"stage1/manifest"
)

// verified is an initrd with a small image, one of several pieces (for the most
// part padding), and a registration, and the manifest that has their digests.
func verified(t *testing.T) (initrd string, m *manifest.Manifest) {
	t.Helper()
	fx := newFixture(t, Overlay)
	fx.sh("echo a > " + pathFile + "; ln -s b " + pathLink)
	fx.image(pathFile)
	fx.image(pathLink)
	initrd = fx.opt.Initrd
	sum := func(b []byte) string {
		d := sha256.Sum256(b)
		return hex.EncodeToString(d[:])
	}
	m = &manifest.Manifest{Images: fx.images}
	for i, padding := range []int{0, 2 * manifest.PieceSize} {
		im := &m.Images[i]
		b, err := os.ReadFile(initrd + im.File)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, make([]byte, padding)...)
		im.File, im.Size, im.SHA256 = manifest.Dir+"/"+string(rune('a'+i)), int64(len(b)), sum(b)
		writeFile(t, initrd+im.File, b)
		for piece := range slices.Chunk(b, manifest.PieceSize) {
			if padding > 0 {
				im.Pieces = append(im.Pieces, sum(piece))
			}
		}
	}
	root := m.Images[0]
	root.File, root.StorePaths = manifest.Dir+"/root", 0
	b, err := os.ReadFile(initrd + m.Images[0].File)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, initrd+root.File, b)
	m.Root = &root
	m.Registration = &manifest.Registration{File: manifest.Dir + "/sub/registration", Size: 5, SHA256: sum([]byte("12345"))}
	writeFile(t, initrd+m.Registration.File, []byte("12345"))
	writeFile(t, initrd+manifest.Path, []byte("{}"))
	return initrd, m
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestVerify(t *testing.T) {
	const a, b = manifest.Dir + "/a", manifest.Dir + "/b"
	flip := func(t *testing.T, path string, at int64) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[at] ^= 1
		writeFile(t, path, data)
	}
	for _, c := range []struct {
		name string
		harm func(t *testing.T, initrd string, m *manifest.Manifest)
		want []string // what the error has; no error where empty
	}{
		{"nothing", func(*testing.T, string, *manifest.Manifest) {}, nil},
		{"missing", func(t *testing.T, initrd string, _ *manifest.Manifest) { _ = os.Remove(initrd + a) }, []string{"image: open " + a + ": no such file"}},
		{"short", func(t *testing.T, initrd string, _ *manifest.Manifest) { _ = os.Truncate(initrd+a, 4095) }, []string{"image " + a + ": it has 4095 bytes, the manifest says 4096"}},
		{"long", func(t *testing.T, initrd string, _ *manifest.Manifest) { _ = os.Truncate(initrd+a, 4097) }, []string{"image " + a + ": it has 4097 bytes, the manifest says 4096"}},
		{"altered", func(t *testing.T, initrd string, _ *manifest.Manifest) { flip(t, initrd+a, 99) }, []string{"image " + a + ": its SHA-256 is "}},
		{"altered piece", func(t *testing.T, initrd string, _ *manifest.Manifest) { flip(t, initrd+b, manifest.PieceSize) }, []string{"image " + b + ": the SHA-256 of its 4194304 bytes at byte 4194304 is "}},
		{"altered last piece", func(t *testing.T, initrd string, _ *manifest.Manifest) { flip(t, initrd+b, 2*manifest.PieceSize+4000) }, []string{"image " + b + ": the SHA-256 of its "}},
		{"altered registration", func(t *testing.T, initrd string, m *manifest.Manifest) { flip(t, initrd+m.Registration.File, 0) }, []string{"registration " + manifest.Dir + "/sub/registration: its SHA-256 is "}},
		{"extra", func(t *testing.T, initrd string, _ *manifest.Manifest) {
			writeFile(t, initrd+manifest.Dir+"/sub/c", nil)
		}, []string{"extra file " + manifest.Dir + "/sub/c: "}},
		{"extra symlink", func(t *testing.T, initrd string, _ *manifest.Manifest) {
			_ = os.Symlink("/etc", initrd+manifest.Dir+"/etc")
		}, []string{"extra file " + manifest.Dir + "/etc: "}},
		{"several", func(t *testing.T, initrd string, m *manifest.Manifest) {
			flip(t, initrd+b, 0)
			_ = os.Remove(initrd + a)
			_ = os.Truncate(initrd+m.Registration.File, 0)
		}, []string{a, b, "it has 0 bytes"}},
		{"a link out of the initrd", func(t *testing.T, initrd string, _ *manifest.Manifest) {
			_ = os.Rename(initrd+a, initrd+"/../a-outside")
			_ = os.Remove(initrd + a)
			_ = os.Symlink("../../a-outside", initrd+a)
		}, []string{a + ": no such file"}},
		{"without digests", func(t *testing.T, _ string, m *manifest.Manifest) {
			for i := range m.Images {
				m.Images[i].SHA256, m.Images[i].Pieces = "", nil
			}
			m.Registration, m.Root = nil, nil
		}, nil},
		{"altered root image", func(t *testing.T, initrd string, m *manifest.Manifest) { flip(t, initrd+m.Root.File, 0) }, []string{"root image " + manifest.Dir + "/root: its SHA-256 is "}},
		{"no root image", func(t *testing.T, initrd string, m *manifest.Manifest) {
			m.Root.SHA256 = ""
			flip(t, initrd+m.Root.File, 0)
		}, []string{manifest.Dir + "/root: not a squashfs image"}},
		{"no image, and without digests", func(t *testing.T, initrd string, m *manifest.Manifest) {
			m.Images[0].SHA256 = ""
			flip(t, initrd+a, 0)
		}, []string{"image " + a + ": not a squashfs image"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			initrd, m := verified(t)
			c.harm(t, initrd, m)
			n, err := Verify(initrd, m, true, 3, nil)
			if len(c.want) == 0 {
				want := int64(0)
				for _, f := range m.Files() {
					if f.SHA256 != "" {
						want += f.Size
					}
				}
				if n != want || err != nil {
					t.Errorf("Verify = %d, %v, want %d", n, err, want)
				}
				return
			}
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("Verify = %v, want an error with %q", err, want)
				}
			}
		})
	}
}

// TestVerifyWithoutDigests shows what is looked at nevertheless.
func TestVerifyWithoutDigests(t *testing.T) {
	initrd, m := verified(t)
	m.Images[1].Pieces[2] = m.Images[1].Pieces[0]
	if n, err := Verify(initrd, m, false, 0, nil); n != 0 || err != nil {
		t.Errorf("Verify of a wrong digest = %d, %v, want 0, nil", n, err)
	}
	if err := os.Truncate(initrd+m.Images[0].File, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(initrd, m, false, 0, nil); err == nil || !strings.Contains(err.Error(), "it has 0 bytes") {
		t.Errorf("Verify of an empty image = %v, want an error with its size", err)
	}
}

// TestForbidden shows that no image passes that holds what a store can't have.
func TestForbidden(t *testing.T) {
	for _, c := range []struct{ name, script, entry, want string }{
		{"device node", "mknod " + pathDir + "/null c 1 3", pathDir, pathDir + "/null: it is a device node"},
		{"set-user-ID", "chmod 4755 " + pathDir + "/zeros", pathDir, pathDir + "/zeros: its mode 04755"},
		{"no store path's name", "mkdir etc", "etc", `it holds what can't be in a store: "etc" is not HASH-NAME`},
	} {
		t.Run(c.name, func(t *testing.T) {
			fx := newFixture(t, Overlay)
			fx.makeStore()
			fx.sh(c.script)
			fx.images = nil
			fx.image(c.entry)
			if _, err := Verify(fx.opt.Initrd, &manifest.Manifest{Images: fx.images}, true, 0, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Verify = %v, want an error with %q", err, c.want)
			}
		})
	}
}

// BenchmarkVerify computes digests of 64 MiB in pieces.
func BenchmarkVerify(b *testing.B) {
	v := &verifier{jobs: runtime.NumCPU(), files: map[string]*os.File{}}
	f, err := os.Create(filepath.Join(b.TempDir(), "zeros"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 64<<20)); err != nil {
		b.Fatal(err)
	}
	v.files["zeros"] = f
	zeros := sha256.Sum256(make([]byte, manifest.PieceSize))
	file := manifest.File{Path: "zeros", Size: 64 << 20}
	for off := int64(0); off < file.Size; off += manifest.PieceSize {
		v.parts = append(v.parts, part{manifest.Part{Offset: off, Size: manifest.PieceSize, SHA256: hex.EncodeToString(zeros[:])}, file, nil})
	}
	b.SetBytes(file.Size)
	b.ReportAllocs()
	for b.Loop() {
		v.parallel(len(v.parts), v.readPart)
		if errs := v.altered(); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

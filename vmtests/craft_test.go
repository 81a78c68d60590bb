package vmtests

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"stage1/manifest"
)

// crafted is the name of a store path that only crafted images hold.
const crafted = "00000000000000000000000000000000-crafted"

// craft returns an image that mksquashfs makes of the directory source, or of an
// empty one, and of definitions of files (mksquashfs -p). Nothing in it is
// compressed.
func craft(t *testing.T, source string, definitions ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	if source == "" {
		source = filepath.Join(dir, "empty")
		must[struct{}](t)(struct{}{}, os.Mkdir(source, 0o755))
	}
	args := []string{source, filepath.Join(dir, "image"), "-noI", "-noD", "-noF", "-noX", "-no-progress"}
	for _, d := range definitions {
		args = append(args, "-p", d)
	}
	must[struct{}](t)(struct{}{}, run(exec.Command("mksquashfs", args...)))
	return must[[]byte](t)(os.ReadFile(filepath.Join(dir, "image")))
}

// craftPath is craft of one store path, a directory with files by definitions that
// begin with the name in it.
func craftPath(t *testing.T, files ...string) []byte {
	t.Helper()
	definitions := []string{crafted + " d 755 0 0"}
	for _, f := range files {
		definitions = append(definitions, crafted+"/"+f)
	}
	return craft(t, "", definitions...)
}

// rename returns an image that is not compressed with a name in it replaced by
// another as long, which mksquashfs would not write.
func rename(t *testing.T, image []byte, from, to string) []byte {
	t.Helper()
	if n := bytes.Count(image, []byte(from)); n != 1 || len(from) != len(to) {
		t.Fatalf("the image has %q %d times; the new name is %q", from, n, to)
	}
	return bytes.Replace(image, []byte(from), []byte(to), 1)
}

// damage returns content with n bytes from at on inverted.
func damage(content []byte, at, n int) []byte {
	damaged := bytes.Clone(content)
	for i := at; i < at+n; i++ {
		damaged[i] ^= 0xff
	}
	return damaged
}

// vouch writes an image's file, and has its entry in a manifest agree.
func vouch(t *testing.T, root string, image *manifest.Image, content []byte) {
	t.Helper()
	sum := sha256.Sum256(content)
	image.Size, image.SHA256, image.Pieces = int64(len(content)), hex.EncodeToString(sum[:]), nil
	write(t, filepath.Join(root, image.File), content)
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	must[struct{}](t)(struct{}{}, os.MkdirAll(filepath.Dir(path), 0o755))
	must[struct{}](t)(struct{}{}, os.WriteFile(path, data, 0o644))
}

// save writes a manifest.
func save(t *testing.T, root string, m *manifest.Manifest) {
	t.Helper()
	var b bytes.Buffer
	must[struct{}](t)(struct{}{}, m.Write(&b))
	write(t, filepath.Join(root, manifest.Path), b.Bytes())
}

// alone returns what writes an image of one store path, and a manifest that names
// nothing else.
func alone(content []byte) func(t *testing.T, root string) {
	return func(t *testing.T, root string) {
		m := &manifest.Manifest{Images: []manifest.Image{{File: manifest.Dir + "/crafted", StorePaths: 1}}}
		vouch(t, root, &m.Images[0], content)
		save(t, root, m)
	}
}

// text returns what writes a file.
func text(name string, content []byte) func(t *testing.T, root string) {
	return func(t *testing.T, root string) { write(t, filepath.Join(root, name), content) }
}

// link returns what makes a symlink.
func link(to, name string) func(t *testing.T, root string) {
	return func(t *testing.T, root string) {
		must[struct{}](t)(struct{}{}, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		must[struct{}](t)(struct{}{}, os.Symlink(to, filepath.Join(root, name)))
	}
}

// seedImage is where the seed's builder would put an image of the crafted path.
const seedImage = "/nix/store/00000000000000000000000000000000-crafted-squash/" + "00000000/000000000000000000000000-crafted"

// seedLine is a line of the seed's manifest.
func seedLine(file string) string { return file[:20] + " " + file[20:] + "\n" }

// bomb is a registration of a few megabytes that gunzips to 2 GiB: that of a path
// that refers to itself 100,000 times, again and again.
func bomb(t *testing.T, path string) []byte {
	t.Helper()
	one := registered(path, 100000, path)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	must[int](t)(io.WriteString(z, one))
	must[struct{}](t)(struct{}{}, z.Close())
	// Members of a gzip file follow each other (RFC 1952, section 2.2).
	return bytes.Repeat(b.Bytes(), 2<<30/len(one))
}

package squashfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
)

// TestLayout checks that all ways to read a linked image give the same.
func TestLayout(t *testing.T) {
	var images []string
	for _, name := range []string{"a", "b"} {
		dir := filepath.Join(t.TempDir(), name)
		makeZoo(t, dir)
		images = append(images, mksquashfs(t, dir))
	}
	l := link(t, images...)
	want := readAll(t, l)
	if err := iotest.TestReader(io.NewSectionReader(l, 0, l.Size()), want); err != nil {
		t.Errorf("ReadAt: %v", err)
	}

	var buf bytes.Buffer
	if n, err := l.WriteTo(&buf); err != nil || n != l.Size() || !bytes.Equal(buf.Bytes(), want) {
		t.Errorf("WriteTo(buffer) = %d, %v, want %d bytes, the same as ReadAt's", n, err, l.Size())
	}

	r, w, err := os.Pipe()
	check(t, err)
	go func() {
		l.WriteTo(w)
		w.Close()
	}()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("WriteTo(pipe): %d bytes, %v, want %d, the same as ReadAt's", len(got), err, len(want))
	}

	// A file that has something already, and is appended to.
	for _, flags := range []int{os.O_WRONLY, os.O_WRONLY | os.O_APPEND} {
		name := filepath.Join(t.TempDir(), "linked")
		check(t, os.WriteFile(name, []byte("before"), 0o644))
		f, err := os.OpenFile(name, flags, 0)
		check(t, err)
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		n, err := l.WriteTo(f)
		check(t, err, f.Close())
		if got, err := os.ReadFile(name); err != nil || n != l.Size() || string(got) != "before"+string(want) {
			t.Errorf("WriteTo(file opened with %#x) = %d, %v, want %d bytes, the same as ReadAt's", flags, n, err, l.Size())
		}
	}
}

// TestLayoutTruncated checks that an input that was cut off since is an error.
func TestLayoutTruncated(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "zoo")
	makeZoo(t, dir)
	image := mksquashfs(t, dir)
	l := link(t, image)
	check(t, os.Truncate(image, 1000))
	if _, err := l.WriteTo(io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("WriteTo() = %v, want %v", err, io.ErrUnexpectedEOF)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "linked"))
	check(t, err)
	defer f.Close()
	if _, err := l.WriteTo(f); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("WriteTo(file) = %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if _, err := l.ReadAt(make([]byte, l.Size()), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadAt() = %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

package squashfs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// seedImages returns small images of all kinds of inodes: one for each
// compressor, and one whose metadata is stored, in which a fuzzer gets far.
func seedImages(tb testing.TB) [][]byte {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "seed")
	makeZoo(tb, dir)
	var images [][]byte
	for _, args := range [][]string{
		{"-comp", "gzip", "-noI", "-noId", "-noX", "-b", "4K"},
		{"-comp", "gzip", "-noI", "-noId", "-noX", "-b", "4K", "-no-exports", "-no-xattrs", "-no-fragments"},
		{"-comp", "gzip"}, {"-comp", "lzma"}, {"-comp", "lzo"}, {"-comp", "xz", "-Xbcj", "x86"}, {"-comp", "lz4"}, {"-comp", "zstd"},
	} {
		b, err := os.ReadFile(mksquashfs(tb, dir, args...))
		if err != nil {
			tb.Fatal(err)
		}
		images = append(images, b)
	}
	return images
}

// FuzzLink links an image, and checks that linking what came of it changes
// nothing: the linked image can be read, and says the same.
func FuzzLink(f *testing.F) {
	for _, b := range seedImages(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := Link([]Input{{"once", bytes.NewReader(b), int64(len(b))}}, Options{})
		if err != nil {
			return
		}
		twice, err := Link([]Input{{"twice", once, once.Size()}}, Options{})
		if err != nil {
			t.Fatalf("Link(Link(image)): %v", err)
		}
		if !bytes.Equal(readAll(t, once), readAll(t, twice)) {
			t.Error("Link(Link(image)) differs from Link(image)")
		}
	})
}

func FuzzSuperblock(f *testing.F) {
	for _, b := range seedImages(f) {
		f.Add(b[:SuperblockSize], int64(len(b)))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		s, err := ReadSuperblock(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		if got := s.encode(); !bytes.Equal(got, b[:SuperblockSize]) {
			t.Errorf("encode() = %x, want %x", got, b[:SuperblockSize])
		}
		if s.BytesUsed > uint64(size) {
			t.Errorf("BytesUsed = %d, want at most %d", s.BytesUsed, size)
		}
	})
}

// FuzzDecompress unpacks what may be a block, into room for a metadata block.
func FuzzDecompress(f *testing.F) {
	block := bytes.Repeat([]byte("metadata, "), 800)
	for c := Gzip; c <= Zstd; c++ {
		if compress := newCompressor(c); compress != nil {
			f.Add(uint16(c), compress(nil, block))
		}
	}
	// What mksquashfs writes, of the compressors that this package does not.
	for _, image := range seedImages(f) {
		s, err := ReadSuperblock(bytes.NewReader(image), int64(len(image)))
		check(f, err)
		if s.Flags&flagStoredInodes == 0 {
			f.Add(uint16(s.Compressor), image[s.InodeStart+metadataHeader:s.DirStart])
		}
	}
	f.Fuzz(func(t *testing.T, c uint16, b []byte) {
		if Compressor(c) < Gzip || Compressor(c) > Zstd || len(b) > metadataSize {
			return
		}
		got := make([]byte, metadataSize)
		n, err := newDecompressor(Compressor(c))(got, b)
		if err != nil {
			return
		}
		got = got[:n]
		if compress := newCompressor(Compressor(c)); compress != nil && n > 0 {
			again := make([]byte, n)
			if m, err := newDecompressor(Compressor(c))(again, compress(nil, got)); err != nil || !bytes.Equal(again[:m], got) {
				t.Fatalf("%v: packed and unpacked: %d bytes, %v, want %d, the same", Compressor(c), m, err, n)
			}
		}
	})
}

package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// PieceSize is the length in bytes of what [Image].Pieces has digests of.
const PieceSize = 4 << 20

// File is a file of the initrd that the manifest vouches for.
type File struct {
	Kind   string // what it is, for messages: "image", "root image" or "registration"
	Path   string // in the initrd
	Size   int64  // bytes, or 0 where it is not known (seed)
	SHA256 string // in base 16, or empty (seed)
	Pieces []string
}

// Files returns every file that m names, in no order.
func (m *Manifest) Files() []File {
	var files []File
	for _, im := range m.Images {
		files = append(files, File{"image", im.File, im.Size, im.SHA256, im.Pieces})
	}
	if im := m.Root; im != nil {
		files = append(files, File{"root image", im.File, im.Size, im.SHA256, im.Pieces})
	}
	if r := m.Registration; r != nil {
		files = append(files, File{"registration", r.File, r.Size, r.SHA256, nil})
	}
	return files
}

// Part is a part of a file, and the digest that it ought to have.
type Part struct {
	Offset, Size int64 // bytes
	SHA256       string
}

// Parts returns what a file is verified by: its pieces, or all of it as one; none
// where it has no digest.
func (f *File) Parts() []Part {
	if f.SHA256 == "" {
		return nil
	}
	if len(f.Pieces) == 0 {
		return []Part{{0, f.Size, f.SHA256}}
	}
	parts := make([]Part, len(f.Pieces))
	for i, sum := range f.Pieces {
		offset := int64(i) * PieceSize
		parts[i] = Part{offset, min(PieceSize, f.Size-offset), sum}
	}
	return parts
}

// Sum returns the SHA-256 in base 16 of size bytes of r from offset on. It reads
// by way of buf.
func Sum(r io.ReaderAt, offset, size int64, buf []byte) (string, error) {
	digest := sha256.New()
	n, err := io.CopyBuffer(digest, io.NewSectionReader(r, offset, size), buf)
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", fmt.Errorf("read %d bytes at byte %d: %w", size, offset, err)
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

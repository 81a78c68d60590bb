// Package registration reads and writes the text that `nix-store --load-db`
// takes and `nix-store --dump-db` gives: what a Nix database knows of each store
// path.
//
// Per store path, one item a line: path, NAR hash, NAR size in bytes, deriver
// (may be empty), number of references, then one reference a line. The source is
// decodeValidPathInfo in Nix's libstore, and closureInfo in nixpkgs, whose hash
// has the prefix "sha256:" and is in base 32.
//
// It does not know whether a store path exists.
package registration

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Entry is the registration of one store path.
type Entry struct {
	Path       string   // absolute, directly below the store directory
	NarHash    string   // SHA-256 of the path's NAR: base 16, or with a prefix as in [CheckHash]
	NarSize    uint64   // of the path's NAR, bytes
	Deriver    string   // the .drv that built it, or empty
	References []string // store paths, the path itself among them where it refers to itself
}

// MaxLine is the longest line, in bytes, that a [Reader] takes: Nix's own limit
// for a store path's name is 211 bytes, and no other item is as long.
const MaxLine = 4096

// maxReferences bounds the references of one store path, and so the memory of a
// [Reader], to about 10 MB. The system-path of a large NixOS has 2,000.
const maxReferences = 100_000

// Reader reads entries one by one. Its memory does not grow with the input.
type Reader struct {
	scan *bufio.Scanner
	line int
}

// NewReader returns a reader of the plain (decompressed) registration r.
func NewReader(r io.Reader) *Reader {
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, MaxLine), MaxLine)
	return &Reader{scan: scan}
}

// Next returns the next entry, or io.EOF where the input ends after a whole one.
// Any other error names the line, and quotes 240 characters of it: more than a store
// path has, and no more garbage than a console can take.
func (r *Reader) Next() (*Entry, error) {
	first, err := r.next("path")
	// `nix-store --load-db` takes an empty line before a path as the end.
	if err == nil && first == "" {
		return nil, r.end()
	}
	if errors.Is(err, errEnd) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	e := &Entry{Path: first}
	if err := CheckPath(e.Path); err != nil {
		return nil, r.at(err)
	}
	if e.NarHash, err = r.next("NAR hash"); err != nil {
		return nil, err
	}
	if err := CheckHash(e.NarHash); err != nil {
		return nil, r.at(err)
	}
	if e.NarSize, err = r.number("NAR size"); err != nil {
		return nil, err
	}
	if e.Deriver, err = r.next("deriver"); err != nil {
		return nil, err
	}
	if e.Deriver != "" {
		if err := CheckPath(e.Deriver); err != nil {
			return nil, r.at(fmt.Errorf("deriver: %w", err))
		}
	}
	n, err := r.number("number of references")
	if err != nil {
		return nil, err
	}
	if n > maxReferences {
		return nil, r.at(fmt.Errorf("number of references: %d, want at most %d", n, maxReferences))
	}
	if n > 0 {
		e.References = make([]string, 0, min(n, 64)) // n is only what the text says
	}
	for range n {
		ref, err := r.next("reference")
		if err != nil {
			return nil, err
		}
		if err := CheckPath(ref); err != nil {
			return nil, r.at(fmt.Errorf("reference: %w", err))
		}
		e.References = append(e.References, ref)
	}
	return e, nil
}

// end checks that nothing but empty lines follows.
func (r *Reader) end() error {
	for {
		line, err := r.next("path")
		if errors.Is(err, errEnd) {
			return io.EOF
		}
		if err != nil {
			return err
		}
		if line != "" {
			return r.at(errors.New("an entry follows an empty line"))
		}
	}
}

// errEnd is the end of the input, which is an error within an entry. It is not
// io.ErrUnexpectedEOF, which is what a decompressor returns for an input that is
// truncated.
var errEnd = errors.New("the input ends here")

// next reads one line; its errors name the item that was wanted.
func (r *Reader) next(item string) (string, error) {
	r.line++
	if !r.scan.Scan() {
		err := r.scan.Err()
		if err == nil {
			err = errEnd
		}
		return "", r.at(fmt.Errorf("%s: %w", item, err))
	}
	return r.scan.Text(), nil
}

func (r *Reader) number(item string) (uint64, error) {
	s, err := r.next(item)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, r.at(fmt.Errorf("%s: %.240q is not a number", item, s))
	}
	return n, nil
}

func (r *Reader) at(err error) error {
	return fmt.Errorf("registration line %d: %w", r.line, err)
}

// Write writes e in the form that [Reader] reads.
func Write(w io.Writer, e *Entry) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s\n%d\n%s\n%d\n", e.Path, e.NarHash, e.NarSize, e.Deriver, len(e.References))
	for _, ref := range e.References {
		b.WriteString(ref)
		b.WriteByte('\n')
	}
	_, err := w.Write(b.Bytes())
	return err
}

// CheckPath checks that p is a store path: absolute, "HASH-NAME" as its last
// element with a hash part of 32 characters, and of the characters that Nix
// allows in a name (checkName in Nix's libstore).
func CheckPath(p string) error {
	dir, base := path.Split(p)
	if !path.IsAbs(p) || path.Clean(p) != p || dir == "/" {
		return fmt.Errorf("%.240q is not a store path", p)
	}
	if err := CheckName(base); err != nil {
		return fmt.Errorf("%.240q is not a store path: %w", p, err)
	}
	return nil
}

// CheckName checks that base is the base name of a store path.
func CheckName(base string) error {
	const hashLen = 32
	if len(base) < hashLen+2 || len(base) > hashLen+1+211 || base[hashLen] != '-' {
		return fmt.Errorf("%.240q is not HASH-NAME with a hash of %d characters and a name of 1 to 211", base, hashLen)
	}
	for _, c := range []byte(base[:hashLen]) {
		if strings.IndexByte(base32, c) < 0 {
			return fmt.Errorf("%q: the hash part has a %q", base, c)
		}
	}
	for _, c := range []byte(base[hashLen+1:]) {
		if !isAlnum(c) && strings.IndexByte("+-._?=", c) < 0 {
			return fmt.Errorf("%q: the name has a %q", base, c)
		}
	}
	return nil
}

// base32 is Nix's alphabet: no e, o, t, u.
const base32 = "0123456789abcdfghijklmnpqrsvwxyz"

// CheckHash checks the form of a SHA-256 as Nix writes it: base 16 with or
// without the prefix "sha256:", base 32 or base 64 with it, or SRI ("sha256-"
// and base 64).
func CheckHash(s string) error {
	digits, colon := strings.CutPrefix(s, "sha256:")
	digits, dash := strings.CutPrefix(digits, "sha256-")
	switch {
	case !dash && len(digits) == 64 && only(digits, func(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }):
	case !dash && colon && len(digits) == 52 && only(digits, func(c byte) bool { return strings.IndexByte(base32, c) >= 0 }):
	case colon != dash && len(digits) == 44 && digits[43] == '=' && only(digits[:43], func(c byte) bool { return isAlnum(c) || c == '+' || c == '/' }):
	default:
		return fmt.Errorf("%.240q is not a SHA-256 in base 16, 32 or 64", s)
	}
	return nil
}

func only(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// maxWindow bounds what a zstd stream can make its reader allocate, in bytes: 8
// MiB is the window of level 19 and what RFC 8878 asks decoders to support.
const maxWindow = 8 << 20

// Decompress returns the plain text of r, which is compressed by gzip (RFC
// 1952), by zstd (RFC 8878) or not at all: the magic number tells. The caller
// closes it; r stays open.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReader(r)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("registration: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("registration, gzip: %w", err)
		}
		return z, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("registration, zstd: %w", err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

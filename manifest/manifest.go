// Package manifest is what the builder and the init share: one file in the
// initrd that says which squashfs images make up the Nix store, where the
// registration of their store paths is, and what to start in them.
//
// It reads two formats, and writes the first:
//
//   - stage1's own, JSON, at [Path]: see [Manifest];
//   - that of grahamc/netboot.nix, lines of image paths, at [SeedPath]: see
//     [ParseSeed].
//
// It looks at names and numbers only. Whether the files are there and are what
// the manifest says is for the reader of the images to find out.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"unicode/utf8"
)

// Places in the initrd's file system.
const (
	// Dir holds the manifest, the registration and our images.
	Dir = "/nix-store-squashes"
	// Path is where the builder puts the manifest.
	Path = Dir + "/manifest.json"
	// SeedPath is where grahamc/netboot.nix puts its manifest.
	SeedPath = Dir + "/squashes"
	// SeedRegistration is where grahamc/netboot.nix puts the registration.
	SeedRegistration = Dir + "/registration.gz"
)

// Version is the format this package writes, and the only one it reads.
const Version = 1

// MaxSize is the size in bytes above which a manifest is refused unread. A
// manifest of 5,000 images, one a store path, is about 1.5 MB.
const MaxSize = 16 << 20

// StoreDir is the only store directory that NixOS supports.
const StoreDir = "/nix/store"

// Manifest describes the Nix store that an initrd carries.
type Manifest struct {
	// Version is the format's version.
	Version int `json:"version"`
	// Init is the program to start in the new root when the kernel command
	// line has no init=: an absolute path, or empty.
	Init string `json:"init,omitempty"`
	// Modules are kernel modules to load before the import, by name, in
	// addition to those that the import itself needs.
	Modules []string `json:"modules,omitempty"`
	// Images are the squashfs images. Together they hold each store path of
	// the closure once.
	Images []Image `json:"images"`
	// Root is the root image, or nil: the tree in it is copied into the new
	// root, beside the store. It holds no store paths: see [CheckRootPath].
	Root *Image `json:"root,omitempty"`
	// Registration is the registration of the store paths, or nil.
	Registration *Registration `json:"registration,omitempty"`
}

// Image is one squashfs image. The entries of its root directory are store
// paths, by base name, unless it is the root image.
type Image struct {
	// File is the image's path in the initrd.
	File string `json:"file"`
	// Size is the image file's size in bytes, or 0 where it is not known (seed).
	Size int64 `json:"size"`
	// SHA256 is the image file's digest in base 16, or empty (seed).
	SHA256 string `json:"sha256"`
	// Pieces are the digests of the file's pieces of [PieceSize] bytes, the last
	// of which may be shorter, so that several CPUs can verify one file. Empty
	// where SHA256 has to do.
	Pieces []string `json:"pieces,omitempty"`
	// StorePaths is the number of entries in the image's root directory, and 0
	// in the root image.
	StorePaths int `json:"storePaths,omitempty"`
	// UnpackedSize is what a copy of the image takes on a tmpfs, in bytes:
	// the sizes of its files, each rounded up to pages of 4096 bytes. 0 where
	// it is not known (seed).
	UnpackedSize int64 `json:"unpackedSize"`
	// Inodes is the number of inodes below the image's root directory, or 0
	// where it is not known (seed).
	Inodes int64 `json:"inodes"`
	// Entry is the only name that the image's root directory may hold, or
	// empty for any (set by [ParseSeed] alone).
	Entry string `json:"-"`
}

// Registration is the file that `nix-store --load-db` reads.
type Registration struct {
	// File is the registration's path in the initrd.
	File string `json:"file"`
	// Size is the file's size in bytes, or 0 where it is not known (seed).
	Size int64 `json:"size"`
	// SHA256 is the file's digest in base 16, or empty (seed).
	SHA256 string `json:"sha256"`
	// UnpackedSize is the registration's size in bytes when decompressed, or
	// 0 where it is not known (seed).
	UnpackedSize int64 `json:"unpackedSize"`
}

// ErrNoManifest is what [Open] wraps when the initrd has neither manifest.
var ErrNoManifest = errors.New("no manifest")

// Open reads the manifest from fsys, the initrd's file system: [Path] if it is
// there, else [SeedPath].
//
// A pin that is not empty is the SHA-256 in base 16 that the manifest must have.
// Since a manifest of ours has digests of all that it names, the pin vouches for
// it all; the seed's has none and is refused.
func Open(fsys fs.FS, pin string) (*Manifest, error) {
	f, err := fsys.Open(strings.TrimPrefix(Path, "/"))
	if err == nil {
		defer f.Close()
		m, err := parsePinned(f, pin)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", Path, err)
		}
		return m, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	f, err = fsys.Open(strings.TrimPrefix(SeedPath, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the initrd has neither %s nor %s: was the manifest's initrd loaded, and whole?", ErrNoManifest, Path, SeedPath)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	defer f.Close()
	if pin != "" {
		return nil, fmt.Errorf("manifest %s: it has no digests, and so can't be what the pin %s vouches for: is %s missing?", SeedPath, pin, Path)
	}
	m, err := ParseSeed(f)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", SeedPath, err)
	}
	return m, nil
}

// parsePinned is Parse of what the pin vouches for, if there is one.
func parsePinned(r io.Reader, pin string) (*Manifest, error) {
	data, err := readAll(r)
	if err != nil {
		return nil, err
	}
	if pin != "" {
		if !isSHA256(pin) {
			return nil, fmt.Errorf("the pin %q is not 64 hexadecimal digits", pin)
		}
		sum := sha256.Sum256(data)
		if got := hex.EncodeToString(sum[:]); !strings.EqualFold(got, pin) {
			return nil, fmt.Errorf("its SHA-256 is %s, it is pinned to %s: it is of another build than the boot script, or was tampered with", got, pin)
		}
	}
	return Parse(bytes.NewReader(data))
}

// Parse reads a manifest of our own format and checks it.
func Parse(r io.Reader) (*Manifest, error) {
	data, err := readAll(r)
	if err != nil {
		return nil, err
	}
	// The version is read first, so that a manifest of another version is
	// refused for its version and not for a field that version has.
	var v struct{ Version int }
	// encoding/json would replace such bytes, and so change names.
	if !utf8.Valid(data) {
		return nil, errors.New("not JSON: it is not UTF-8")
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if v.Version != Version {
		return nil, fmt.Errorf("format version %d, want %d: build init and images with the same release", v.Version, Version)
	}
	m := &Manifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("not a manifest: %w", err)
	}
	if len(m.Init) > splitAt && m.Init[splitAt] == ' ' {
		m.Init = m.Init[:splitAt] + m.Init[splitAt+1:]
	}
	if err := m.check(false); err != nil {
		return nil, err
	}
	return m, nil
}

// Write checks m and writes it as JSON. The version is set by Write.
func (m *Manifest) Write(w io.Writer) error {
	out := *m
	out.Version = Version
	if err := out.check(false); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if len(out.Init) > splitAt {
		out.Init = out.Init[:splitAt] + " " + out.Init[splitAt:]
	}
	data, err := json.MarshalIndent(&out, "", "  ")
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// ParseSeed reads the manifest of grahamc/netboot.nix: an image's path a line,
// with one space put into it. The store path that the image holds is named by
// the last two elements of its path, put together.
func ParseSeed(r io.Reader) (*Manifest, error) {
	data, err := readAll(r)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Version: Version, Registration: &Registration{File: SeedRegistration}}
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		if line == "" {
			continue
		}
		file := strings.Replace(line, " ", "", 1)
		m.Images = append(m.Images, Image{
			File:       file,
			StorePaths: 1,
			Entry:      path.Base(path.Dir(file)) + path.Base(file),
		})
		if err := m.Images[len(m.Images)-1].check(true); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if err := m.check(true); err != nil {
		return nil, err
	}
	return m, nil
}

// StorePaths is the number of store paths in all images.
func (m *Manifest) StorePaths() int {
	n := 0
	for _, im := range m.Images {
		n += im.StorePaths
	}
	return n
}

// Size is the size in bytes of all image files, or 0 where one is not known.
func (m *Manifest) Size() int64 {
	return m.sum(func(im Image) int64 { return im.Size })
}

// UnpackedSize is what a copy of all images takes on a tmpfs, in bytes, or 0
// where it is not known for one.
func (m *Manifest) UnpackedSize() int64 {
	return m.sum(func(im Image) int64 { return im.UnpackedSize })
}

// InPages returns a manifest whose UnpackedSizes hold for a tmpfs with pages of a
// size in bytes, at most: in pages of more than 4096, each file takes up to the
// difference more. Kernels of arm64 may have pages of 16 or 64 KiB.
func (m *Manifest) InPages(size int64) *Manifest {
	larger := func(im Image) Image {
		if im.UnpackedSize > 0 {
			im.UnpackedSize += im.Inodes * (size - 4096)
		}
		return im
	}
	out := *m
	out.Images = make([]Image, len(m.Images))
	for i, im := range m.Images {
		out.Images[i] = larger(im)
	}
	if m.Root != nil {
		root := larger(*m.Root)
		out.Root = &root
	}
	return &out
}

// Inodes is the number of inodes in all images, or 0 where it is not known for
// one.
func (m *Manifest) Inodes() int64 {
	return m.sum(func(im Image) int64 { return im.Inodes })
}

func (m *Manifest) sum(of func(Image) int64) int64 {
	var n int64
	for _, im := range m.Images {
		v := of(im)
		if v == 0 {
			return 0
		}
		n += v
	}
	return n
}

// ImageFile is the place in the initrd for an image of a single store path or,
// with any other name of at least nine bytes, of several. The name is cut after
// eight bytes, as the seed does, so that Nix sees no reference in it.
func ImageFile(name string) string {
	return Dir + "/" + name[:8] + "/" + name[8:]
}

func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("larger than %d bytes", MaxSize)
	}
	return data, nil
}

// maxTotal bounds every size in a manifest, so that sums of them cannot
// overflow: 5,000 times 2^48 is far below 2^63.
const maxTotal = 1 << 48

// check looks for what no reader should have to deal with. The seed's manifest
// has neither sizes nor digests; ours must have both.
func (m *Manifest) check(seed bool) error {
	if len(m.Images) == 0 {
		return errors.New("it names no image")
	}
	if m.Init != "" && !isClean(m.Init) {
		return fmt.Errorf("init %.240q is not a clean absolute path", m.Init)
	}
	for _, name := range m.Modules {
		if name == "" || strings.ContainsAny(name, "/ \x00") {
			return fmt.Errorf("module %.240q is not a module's name", name)
		}
	}
	seen := make(map[string]bool, len(m.Images))
	var size, unpacked int64
	for _, im := range m.Images {
		if err := im.check(seed); err != nil {
			return err
		}
		if seen[im.File] {
			return fmt.Errorf("image %s is named twice", im.File)
		}
		seen[im.File] = true
		size += im.Size
		unpacked += im.UnpackedSize
		if size > maxTotal || unpacked > maxTotal {
			return fmt.Errorf("the images are larger than %d bytes in all", int64(maxTotal))
		}
	}
	if m.Root != nil {
		if err := m.Root.checkRoot(); err != nil {
			return err
		}
		if seen[m.Root.File] {
			return fmt.Errorf("root image %s is named as an image of the store too", m.Root.File)
		}
		seen[m.Root.File] = true
	}
	if r := m.Registration; r != nil {
		if err := checkFile("registration", r.File, r.Size, r.SHA256, seed); err != nil {
			return err
		}
		if seen[r.File] {
			return fmt.Errorf("registration %s is also an image", r.File)
		}
		if r.UnpackedSize < 0 || r.UnpackedSize > maxTotal {
			return fmt.Errorf("registration %s: unpacked size %d is out of range", r.File, r.UnpackedSize)
		}
	}
	return nil
}

func (im *Image) check(seed bool) error {
	if err := checkFile("image", im.File, im.Size, im.SHA256, seed); err != nil {
		return err
	}
	if im.StorePaths < 1 || im.StorePaths > 1<<24 || !im.hasUnpacked() {
		return fmt.Errorf("image %s: store paths %d, unpacked size %d or inodes %d out of range", im.File, im.StorePaths, im.UnpackedSize, im.Inodes)
	}
	if err := im.checkPieces(); err != nil {
		return fmt.Errorf("image %s: %w", im.File, err)
	}
	if strings.Contains(im.Entry, "/") {
		return fmt.Errorf("image %s: no store path's name can be made of it", im.File)
	}
	return nil
}

// checkPieces looks at the digests of pieces, if there are any.
func (im *Image) checkPieces() error {
	if n := (im.Size + PieceSize - 1) / PieceSize; len(im.Pieces) > 0 && int64(len(im.Pieces)) != n {
		return fmt.Errorf("digests of %d pieces do not fit its size %d", len(im.Pieces), im.Size)
	}
	for _, sum := range im.Pieces {
		if !isSHA256(sum) {
			return fmt.Errorf("sha256 %.240q of a piece is not 64 hexadecimal digits", sum)
		}
	}
	return nil
}

func (im *Image) checkRoot() error {
	if err := checkFile("root image", im.File, im.Size, im.SHA256, false); err != nil {
		return err
	}
	if im.StorePaths != 0 {
		return fmt.Errorf("root image %s: it holds %d store paths, want none", im.File, im.StorePaths)
	}
	if !im.hasUnpacked() {
		return fmt.Errorf("root image %s: unpacked size %d or inodes %d out of range", im.File, im.UnpackedSize, im.Inodes)
	}
	if err := im.checkPieces(); err != nil {
		return fmt.Errorf("root image %s: %w", im.File, err)
	}
	return nil
}

// hasUnpacked says whether the sizes of what the image holds are in range.
func (im *Image) hasUnpacked() bool {
	return im.UnpackedSize >= 0 && im.UnpackedSize <= maxTotal && im.Inodes >= 0 && im.Inodes <= 1<<32
}

// CheckRootPath refuses a place in the new root, absolute and clean, that a root
// image must not hold: what stage 1 makes there itself, and where other file
// systems are mounted over what it would hold.
func CheckRootPath(p string) error {
	for _, taken := range []string{StoreDir, "/nix/.store", "/nix/registration", "/proc", "/sys", "/dev", "/run"} {
		if p == taken || strings.HasPrefix(p, taken+"/") {
			return fmt.Errorf("%s is at or below %s, which stage 1 makes itself", p, taken)
		}
	}
	return nil
}

func checkFile(kind, file string, size int64, sum string, seed bool) error {
	if !isClean(file) || file == "/" {
		return fmt.Errorf("%s %.240q is not a clean absolute path", kind, file)
	}
	for _, dir := range []string{"/proc/", "/sys/", "/dev/", "/run/"} {
		if strings.HasPrefix(file, dir) {
			return fmt.Errorf("%s %s is not a file of the initrd", kind, file)
		}
	}
	if seed {
		return nil
	}
	if size < 1 || size > maxTotal {
		return fmt.Errorf("%s %s: size %d is out of range", kind, file, size)
	}
	if !isSHA256(sum) {
		return fmt.Errorf("%s %s: sha256 %.240q is not 64 hexadecimal digits", kind, file, sum)
	}
	return nil
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

// isClean says whether p is absolute, in its shortest form, and fit for a
// syscall and a line of text.
func isClean(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && len(p) < 4096 && !strings.ContainsAny(p, "\x00\n\r")
}

// splitAt is where a path that names a store path gets one space, so that Nix,
// which scans build results for hash parts, sees no reference in the manifest.
// It is where the seed puts it: 9 characters into the hash part.
const splitAt = 20

package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Input is an image to link.
type Input struct {
	Name string      // of the image in errors, such as its file's
	R    io.ReaderAt // the image; needed as long as the [Layout] is. An *os.File is copied fastest.
	Size int64       // of R in bytes; may be more than the image's, which may be padded
}

// image is an input with its metadata unpacked.
type image struct {
	Input
	content // as scan finds it
	moved   // as a linker puts it

	super     *Superblock
	options   []byte // compressor options; nil: none
	dataStart int64  // offset of the first byte where a data block may be
	inodes    *table
	dirs      *table
	fragments []fragment
	ids       []byte      // the ID table, unpacked
	xattrs    *xattrTable // nil: none
}

// openImage reads the superblock and the compressor options of an image.
func openImage(in Input) (*image, error) {
	s, err := ReadSuperblock(in.R, in.Size)
	if err != nil {
		return nil, err
	}
	img := &image{Input: in, super: s, dataStart: SuperblockSize}
	if s.Flags&flagCompressorOptions != 0 {
		// The kernel reads this block before it has a decompressor: it is stored.
		stored := func(_, _ []byte) (int, error) { return 0, errors.New("it is not stored") }
		t := &tableReader{r: in.R, end: int64(s.BytesUsed), decompress: stored}
		if img.options, img.dataStart, err = t.block(nil, SuperblockSize, int64(s.InodeStart)); err != nil {
			return nil, fmt.Errorf("compressor options: %w", err)
		}
	}
	if err := checkOptions(s.Compressor, img.options); err != nil {
		return nil, fmt.Errorf("compressor options: %w", err)
	}
	return img, nil
}

// load reads all tables of the image but the export table, which says nothing
// that the others do not.
func (img *image) load(decompress decompressor) error {
	s := img.super
	t := &tableReader{r: img.R, end: int64(s.BytesUsed), decompress: decompress}
	ids, dirsEnd, err := t.indexed(int64(s.IDStart), uint32(s.IDs), idSize)
	if err != nil {
		return fmt.Errorf("ID table: %w", err)
	}
	img.ids = ids
	if s.XattrStart != noTable {
		if img.xattrs, err = t.readXattrs(s); err != nil {
			return fmt.Errorf("xattr table: %w", err)
		}
	}
	if s.ExportStart != noTable {
		if dirsEnd, err = t.first(int64(s.ExportStart), s.Inodes); err != nil {
			return fmt.Errorf("export table: %w", err)
		}
	}
	if s.Fragments > 0 {
		var b []byte
		if b, dirsEnd, err = t.indexed(int64(s.FragStart), s.Fragments, fragmentSize); err != nil {
			return fmt.Errorf("fragment table: %w", err)
		}
		for f := range slices.Chunk(b, fragmentSize) {
			img.fragments = append(img.fragments, parseFragment(f))
		}
	}
	if img.inodes, err = t.chain(int64(s.InodeStart), int64(s.DirStart)); err != nil {
		return fmt.Errorf("inode table: %w", err)
	}
	if img.dirs, err = t.chain(int64(s.DirStart), dirsEnd); err != nil {
		return fmt.Errorf("directory table: %w", err)
	}
	return nil
}

// inode returns the inode at r, and its place in the unpacked table.
func (img *image) inode(r ref) (in inode, pos uint32, size int, err error) {
	if pos, err = img.inodes.pos(r); err == nil {
		in, size, err = parseInode(img.inodes.data[pos:], img.super)
	}
	if err != nil {
		return in, 0, 0, fmt.Errorf("inode table: inode at %d+%d: %w", r.block(), r.offset(), err)
	}
	return in, pos, size, nil
}

// list returns the entries of a directory.
func (img *image) list(l listing) ([]entry, error) {
	if l.size <= listingExtra {
		return nil, nil
	}
	entries, err := func() ([]entry, error) {
		b, err := img.dirs.from(l.at)
		if err != nil {
			return nil, err
		}
		size := l.size - listingExtra
		if uint64(size) > uint64(len(b)) {
			return nil, fmt.Errorf("it has %d bytes, %d are left in the table", size, len(b))
		}
		return parseListing(b[:size])
	}()
	if err != nil {
		return nil, fmt.Errorf("directory table: listing at %d+%d: %w", l.at.block(), l.at.offset(), err)
	}
	for i := range entries {
		entries[i].image = img
	}
	return entries, nil
}

// id returns entry i of the ID table.
func (img *image) id(i uint16) (uint32, error) {
	if int(i) >= len(img.ids)/idSize {
		return 0, fmt.Errorf("ID table: no entry %d, there are %d", i, len(img.ids)/idSize)
	}
	return binary.LittleEndian.Uint32(img.ids[int(i)*idSize:]), nil
}

package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// SuperblockSize is the size of an encoded [Superblock] in bytes.
const SuperblockSize = 96

// magic is "hsqs" (SQUASHFS_MAGIC).
const magic = 0x73717368

// noTable is the start of a table that an image does not have
// (SQUASHFS_INVALID_BLK).
const noTable = ^uint64(0)

// Limits of the block size in bytes (SQUASHFS_FILE_MAX_SIZE; the kernel also
// refuses what is smaller than a page).
const (
	minBlockSize = 4 << 10
	maxBlockSize = 1 << 20
)

// Flags of the superblock. The kernel heeds flagExports' table and
// flagCompressorOptions; the others are notes of mksquashfs to itself, for when
// it appends to an image.
const (
	flagStoredInodes      = 1 << 0  // inode and directory tables are not compressed
	flagStoredData        = 1 << 1  // data blocks are not compressed
	flagStoredFragments   = 1 << 3  // fragments are not compressed
	flagNoFragments       = 1 << 4  // made without fragments
	flagAlwaysFragments   = 1 << 5  // tail ends of large files are in fragments
	flagDuplicates        = 1 << 6  // duplicate files are stored once
	flagExports           = 1 << 7  // has an export table
	flagStoredXattrs      = 1 << 8  // the xattr table is not compressed
	flagNoXattrs          = 1 << 9  // made without extended attributes
	flagCompressorOptions = 1 << 10 // has a compressor options block
	flagStoredIDs         = 1 << 11 // the ID table is not compressed
)

// Compressor is the algorithm that an image is compressed by.
type Compressor uint16

// The compressors of squashfs 4.0, by their number in the superblock.
const (
	Gzip Compressor = iota + 1 // zlib streams, in fact
	LZMA                       // not in the mainline kernel
	LZO
	XZ
	LZ4
	Zstd
)

// String returns the compressor's name as mksquashfs -comp takes it.
func (c Compressor) String() string {
	names := [...]string{Gzip: "gzip", LZMA: "lzma", LZO: "lzo", XZ: "xz", LZ4: "lz4", Zstd: "zstd"}
	if c < Gzip || c > Zstd {
		return fmt.Sprintf("compressor %d", uint16(c))
	}
	return names[c]
}

// Superblock is the first SuperblockSize bytes of an image: struct
// squashfs_super_block, in field order. All offsets are in bytes, from the
// image's start.
type Superblock struct {
	Magic       uint32     // "hsqs"
	Inodes      uint32     // number of inodes, and the greatest inode number
	MkfsTime    uint32     // when the image was made, in seconds since 1970
	BlockSize   uint32     // bytes in an unpacked data block: a power of 2, 4 KiB to 1 MiB
	Fragments   uint32     // number of fragments; 0: no fragment table
	Compressor  Compressor // of data and metadata
	BlockLog    uint16     // log2 of BlockSize
	Flags       uint16     //
	IDs         uint16     // number of entries in the ID table; never 0
	Major       uint16     // 4
	Minor       uint16     // 0
	RootInode   uint64     // reference to the root directory's inode, as in a directory
	BytesUsed   uint64     // size of the image in bytes, without padding
	IDStart     uint64     // the ID table's index
	XattrStart  uint64     // the xattr ID table; ^0: none
	InodeStart  uint64     // the inode table's first block
	DirStart    uint64     // the directory table's first block
	FragStart   uint64     // the fragment table's index; unused if Fragments is 0
	ExportStart uint64     // the export table's index; ^0: none
}

// ErrNotSquashfs is what [ReadSuperblock] wraps when there is no squashfs at all.
var ErrNotSquashfs = errors.New("not a squashfs image")

// ReadSuperblock reads and checks the superblock of the image in the first size
// bytes of r. The image may be followed by padding, but has to be whole.
func ReadSuperblock(r io.ReaderAt, size int64) (*Superblock, error) {
	if size < SuperblockSize {
		return nil, fmt.Errorf("%w: %d bytes are less than a superblock", ErrNotSquashfs, size)
	}
	b := make([]byte, SuperblockSize)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	s := new(Superblock)
	// Decode fails on a short buffer only.
	if _, err := binary.Decode(b, binary.LittleEndian, s); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	return s, s.check(b, size)
}

// check returns an error for a superblock, encoded as b, which the kernel would
// refuse too, or whose tables lie outside of the image of size bytes.
func (s *Superblock) check(b []byte, size int64) error {
	switch {
	case s.Magic != magic:
		return fmt.Errorf("%w: it starts with %q, want %q", ErrNotSquashfs, b[:4], "hsqs")
	case s.Major != 4 || s.Minor != 0:
		return fmt.Errorf("superblock: squashfs version %d.%d, want 4.0", s.Major, s.Minor)
	case s.Compressor < Gzip || s.Compressor > Zstd:
		return fmt.Errorf("superblock: unknown %v", s.Compressor)
	case s.BlockSize < minBlockSize || s.BlockSize > maxBlockSize || bits.OnesCount32(s.BlockSize) != 1:
		return fmt.Errorf("superblock: block size %d, want a power of 2 from %d to %d", s.BlockSize, minBlockSize, maxBlockSize)
	case int(s.BlockLog) != bits.TrailingZeros32(s.BlockSize):
		return fmt.Errorf("superblock: block size %d with logarithm %d", s.BlockSize, s.BlockLog)
	case s.BytesUsed > uint64(size):
		return fmt.Errorf("image is truncated: its superblock says %d bytes, the file has %d", s.BytesUsed, size)
	case s.IDs == 0:
		return errors.New("superblock: no IDs, want at least 1")
	}
	// The kernel, too, insists on this order (squashfs_fill_super).
	type place struct {
		name  string
		start uint64
	}
	order := []place{{"superblock", SuperblockSize}, {"inode table", s.InodeStart}, {"directory table", s.DirStart}}
	if s.Fragments > 0 {
		order = append(order, place{"fragment table", s.FragStart})
	}
	if s.ExportStart != noTable {
		order = append(order, place{"export table", s.ExportStart})
	}
	order = append(order, place{"ID table", s.IDStart})
	if s.XattrStart != noTable {
		order = append(order, place{"xattr table", s.XattrStart})
	}
	order = append(order, place{"end", s.BytesUsed})
	for i, p := range order[1:] {
		if before := order[i]; p.start < before.start {
			return fmt.Errorf("superblock: %s at byte %d lies before %s at byte %d", p.name, p.start, before.name, before.start)
		}
	}
	return nil
}

// encode returns the superblock as it is on disk.
func (s *Superblock) encode() []byte {
	var b bytes.Buffer
	// Write fails where Superblock has a field of no fixed size, or b fails: never.
	if err := binary.Write(&b, binary.LittleEndian, s); err != nil {
		panic(err)
	}
	return b.Bytes()
}

package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Metadata (squashfs.rst, "Metadata") is packed in blocks. Each has a header, a
// uint16: the length of the block in bytes as it follows (1 to metadataSize),
// and storedBlock if it is not compressed. A block unpacks to metadataSize bytes,
// the last of a table to as many or fewer.
const (
	metadataSize   = 8 << 10
	metadataHeader = 2
	storedBlock    = 1 << 15
)

// maxTable is the size in bytes of an unpacked table above which an image is
// refused. It fits 20 million inodes; a crafted image of 4 MiB can claim it.
const maxTable = 1 << 30

// ref is a reference into a table of metadata blocks: the on-disk offset of the
// block from the table's start in bytes, shifted left by 16, plus the offset in
// the unpacked block (squashfs_fs.h, SQUASHFS_INODE_BLK). As a ref's block has
// 32 bits in directories, tables here are less than 4 GiB.
type ref uint64

func makeRef(block uint32, offset uint16) ref { return ref(block)<<16 | ref(offset) }

func (r ref) block() uint64  { return uint64(r) >> 16 }
func (r ref) offset() uint16 { return uint16(r) }

// table is an unpacked table of metadata blocks.
type table struct {
	data   []byte
	starts []uint32 // the on-disk offset of each block from the table's start
}

// from returns what is unpacked from r on.
func (t *table) from(r ref) ([]byte, error) {
	pos, err := t.pos(r)
	if err != nil {
		return nil, err
	}
	return t.data[pos:], nil
}

// pos returns r's place in t.data.
func (t *table) pos(r ref) (uint32, error) {
	if r.block() < uint64(noBlock) {
		if i, ok := slices.BinarySearch(t.starts, uint32(r.block())); ok {
			if pos := i*metadataSize + int(r.offset()); r.offset() < metadataSize && pos < len(t.data) {
				return uint32(pos), nil
			}
		}
	}
	return 0, fmt.Errorf("no byte %d in a block at %d", r.offset(), r.block())
}

// tableReader reads the tables of one image. Its errors do not name the table.
type tableReader struct {
	r          io.ReaderAt
	end        int64 // the image's size
	decompress decompressor
	buf        [metadataHeader + metadataSize]byte
}

// block appends the unpacked block at byte off of the image, which ends at byte
// end at the latest, to dst. next is where the block ends.
func (t *tableReader) block(dst []byte, off, end int64) (_ []byte, next int64, err error) {
	if end-off < metadataHeader {
		return dst, 0, fmt.Errorf("block at byte %d: truncated", off)
	}
	b := t.buf[:min(int64(len(t.buf)), end-off)]
	if n, err := t.r.ReadAt(b, off); n < len(b) {
		return dst, 0, fmt.Errorf("read %d bytes at byte %d: %w", len(b), off, err)
	}
	header := binary.LittleEndian.Uint16(b)
	b = b[metadataHeader:]
	size := int(header &^ storedBlock)
	if size == 0 || size > metadataSize || size > len(b) {
		return dst, 0, fmt.Errorf("block at byte %d: %d bytes long, want 1 to %d", off, size, min(metadataSize, len(b)))
	}
	b = b[:size]
	next = off + metadataHeader + int64(size)
	if header&storedBlock != 0 {
		return append(dst, b...), next, nil
	}
	dst = slices.Grow(dst, metadataSize)
	n, err := t.decompress(dst[len(dst):len(dst)+metadataSize], b)
	if err == nil && n == 0 {
		err = errors.New("it unpacks to nothing")
	}
	if err != nil {
		return dst, 0, fmt.Errorf("decompress block at byte %d: %w", off, err)
	}
	return dst[:len(dst)+n], next, nil
}

// chain reads the table whose blocks follow each other from byte start up to end.
func (t *tableReader) chain(start, end int64) (*table, error) {
	if start > end {
		return nil, fmt.Errorf("it starts at byte %d, after its end at byte %d", start, end)
	}
	tab := new(table)
	for off := start; off < end; {
		if off-start >= int64(noBlock) {
			return nil, errors.New("it is larger than 4 GiB")
		}
		tab.starts = append(tab.starts, uint32(off-start))
		full := len(tab.data)%metadataSize == 0
		var err error
		tab.data, off, err = t.block(tab.data, off, end)
		if err != nil {
			return nil, err
		}
		if !full {
			return nil, fmt.Errorf("the block before byte %d does not unpack to %d bytes", off, metadataSize)
		}
		if len(tab.data) > maxTable {
			return nil, fmt.Errorf("it unpacks to more than %d bytes", maxTable)
		}
	}
	return tab, nil
}

// indexed reads a table of count entries of size bytes each. Its blocks are found
// by an index of their offsets in the image, uint64 each, which is at byte index
// (squashfs.rst, "Fragment lookup table"). first is the first block's offset, or
// index if there is none.
func (t *tableReader) indexed(index int64, count uint32, size int) (data []byte, first int64, err error) {
	total := int64(count) * int64(size)
	blocks := (total + metadataSize - 1) / metadataSize
	if total > maxTable {
		return nil, 0, fmt.Errorf("%d entries are more than %d bytes", count, maxTable)
	}
	if blocks*8 > t.end-index {
		return nil, 0, fmt.Errorf("%d entries: their index at byte %d would leave the image", count, index)
	}
	offsets := make([]byte, blocks*8)
	if n, err := t.r.ReadAt(offsets, index); n < len(offsets) {
		return nil, 0, fmt.Errorf("read index at byte %d: %w", index, err)
	}
	first = index
	for i, next := int64(0), int64(SuperblockSize); i < blocks; i++ {
		off := binary.LittleEndian.Uint64(offsets[i*8:])
		if off < uint64(next) || off >= uint64(index) {
			return nil, 0, fmt.Errorf("block %d at byte %d, want it from byte %d to the index at %d", i, off, next, index)
		}
		first = min(first, int64(off))
		if data, next, err = t.block(data, int64(off), index); err != nil {
			return nil, 0, err
		}
		if int64(len(data)) != min((i+1)*metadataSize, total) {
			return nil, 0, fmt.Errorf("block %d unpacks to %d bytes in all, want %d", i, len(data), min((i+1)*metadataSize, total))
		}
	}
	return data, first, nil
}

// first returns the offset of the first block of a table of count entries that is
// indexed at byte index.
func (t *tableReader) first(index int64, count uint32) (int64, error) {
	if count == 0 {
		return index, nil
	}
	if t.end-index < 8 {
		return 0, fmt.Errorf("index at byte %d: truncated", index)
	}
	var b [8]byte
	if n, err := t.r.ReadAt(b[:], index); n < len(b) {
		return 0, fmt.Errorf("read index at byte %d: %w", index, err)
	}
	off := binary.LittleEndian.Uint64(b[:])
	if off > uint64(index) {
		return 0, fmt.Errorf("its first block is at byte %d, after the index at byte %d", off, index)
	}
	return int64(off), nil
}

// noBlock is the first offset of a block in its table that no ref can hold.
const noBlock = ^uint32(0)

// tableWriter packs a table of metadata blocks.
type tableWriter struct {
	compress compressor // nil: store
	out      []byte     // full blocks, with their headers
	buf      []byte     // the unpacked content of the last block
	starts   []int      // the offset of each block in out
}

// pos returns a reference to what is written next.
func (w *tableWriter) pos() (ref, error) {
	if uint64(len(w.out)) >= uint64(noBlock) {
		return 0, errors.New("it grows larger than 4 GiB")
	}
	return makeRef(uint32(len(w.out)), uint16(len(w.buf))), nil
}

// write appends p to the table.
func (w *tableWriter) write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), metadataSize-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		if len(w.buf) == metadataSize {
			w.flush()
		}
	}
}

// flush ends the block begun, if any. Only a table's last block may be short.
func (w *tableWriter) flush() {
	if len(w.buf) == 0 {
		return
	}
	start := len(w.out)
	w.starts = append(w.starts, start)
	w.out = append(w.out, 0, 0)
	header := uint16(0)
	if w.compress != nil {
		w.out = w.compress(w.out, w.buf)
	}
	if n := len(w.out) - start - metadataHeader; n == 0 || n >= len(w.buf) {
		w.out = append(w.out[:start+metadataHeader], w.buf...)
		header = storedBlock
	}
	header |= uint16(len(w.out) - start - metadataHeader)
	binary.LittleEndian.PutUint16(w.out[start:], header)
	w.buf = w.buf[:0]
}

// finish returns the table's blocks. They will be at byte start of the image; if
// the table is an indexed one, index holds the bytes of its index.
func (w *tableWriter) finish(start int64) (blocks, index []byte) {
	w.flush()
	for _, s := range w.starts {
		index = binary.LittleEndian.AppendUint64(index, uint64(start)+uint64(s))
	}
	return w.out, index
}

// Entries of the indexed tables, in bytes.
const (
	idSize       = 4  // a user or group ID, uint32
	exportSize   = 8  // the ref, uint64, of the inode whose number is the entry's, from 1
	fragmentSize = 16 // struct squashfs_fragment_entry: see fragment
)

// fragment is a block that holds the ends of files, or small files whole (struct
// squashfs_fragment_entry).
type fragment struct {
	start uint64 // offset in the image, in bytes
	size  uint32 // as that of a data block: see blockSize
	_     uint32 // unused, 0
}

// parseFragment parses an entry of the fragment table.
func parseFragment(b []byte) fragment {
	return fragment{start: binary.LittleEndian.Uint64(b), size: binary.LittleEndian.Uint32(b[8:])}
}

// encode appends the entry to b.
func (f fragment) encode(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, f.start)
	b = binary.LittleEndian.AppendUint32(b, f.size)
	return binary.LittleEndian.AppendUint32(b, 0)
}

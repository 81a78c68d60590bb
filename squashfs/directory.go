package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A directory's listing in the directory table (squashfs.rst, "Directories") is
// a sequence of runs. A run is a header (struct squashfs_dir_header)
//
//	count uint32        entries that follow, less 1; at most 255
//	block uint32        the block of the inode table that their inodes are in
//	number uint32       an inode number
//
// and entries (struct squashfs_dir_entry), in order of their names:
//
//	offset uint16       the inode's offset in its unpacked block
//	delta int16         its number less that of the header
//	kind uint16         its basic type
//	size uint16         length of the name, less 1; at most 255
//	name
const (
	runHeaderSize   = 12
	entryHeaderSize = 8
	maxRun          = 256
	maxName         = 256
)

// listingExtra is what a listing's size is greater by than its bytes: readdir
// counts "." and ".." there.
const listingExtra = 3

// listing is a directory's list of entries.
type listing struct {
	at    ref    // where it starts in the directory table
	size  uint32 // its length in bytes, plus listingExtra
	index []indexEntry
}

// indexEntry says where a reader may start in a listing of more than one metadata
// block to find a name (struct squashfs_dir_index):
//
//	offset uint32, block uint32, size uint32 (of the name, less 1), name
type indexEntry struct {
	offset uint32 // of a run's header in the listing, in bytes
	block  uint32 // of the directory table, that the header is in
	name   string // of the run's first entry
}

func (x indexEntry) encode(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, x.offset)
	b = binary.LittleEndian.AppendUint32(b, x.block)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.name)-1))
	return append(b, x.name...)
}

// entry is a directory's entry.
type entry struct {
	name  string
	inode ref

	// For writing.
	number uint32 // inode number
	kind   uint16 // basic type
	image  *image // that the entry is of
}

// parseListing parses the listing in b, in which nothing else follows. The
// entries come in order of their names; their inodes are not looked at.
func parseListing(b []byte) ([]entry, error) {
	var entries []entry
	f := &fields{b: b}
	for len(f.b) > 0 {
		count := f.u32()
		block := f.u32()
		f.u32() // inode number
		if count >= maxRun {
			return nil, fmt.Errorf("a header of %d entries, want at most %d", uint64(count)+1, maxRun)
		}
		for range count + 1 {
			offset := f.u16()
			f.u32() // delta and kind
			name := string(f.bytes(uint64(f.u16()) + 1))
			if f.short {
				return nil, errors.New("its last entry is cut off")
			}
			if err := checkName(name); err != nil {
				return nil, err
			}
			entries = append(entries, entry{name: name, inode: makeRef(block, offset)})
		}
	}
	// mksquashfs writes them in order, other tools were seen not to.
	byName := func(a, b entry) int { return strings.Compare(a.name, b.name) }
	if !slices.IsSortedFunc(entries, byName) {
		slices.SortFunc(entries, byName)
	}
	for i := 1; i < len(entries); i++ {
		if entries[i].name == entries[i-1].name {
			return nil, fmt.Errorf("two entries %q", entries[i].name)
		}
	}
	return entries, nil
}

// checkName returns an error for a name that no directory can hold.
func checkName(name string) error {
	if name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("invalid name %q", name)
	}
	return nil
}

// writeListing appends the listing of entries, which are in order of their names
// and whose inodes were written, to the directory table w.
func writeListing(w *tableWriter, entries []entry) (listing, error) {
	at, err := w.pos()
	if err != nil {
		return listing{}, err
	}
	l := listing{at: at}
	var b []byte
	size := 0      // bytes of the listing written
	lastIndex := 0 // where an index entry points to, or the listing's start
	for len(entries) > 0 {
		// As mksquashfs does, an index entry points to the last run that
		// starts within a metadata block's size from where the entry before
		// points to, and runs end there.
		first := entries[0]
		if size+runHeaderSize+entryHeaderSize+len(first.name)-lastIndex > metadataSize && len(l.index) < math.MaxUint16 {
			here, err := w.pos()
			if err != nil {
				return listing{}, err
			}
			l.index = append(l.index, indexEntry{offset: uint32(size), block: uint32(here.block()), name: first.name})
			lastIndex = size
		}
		var n int
		b, n = encodeRun(b[:0], entries, metadataSize-(size-lastIndex))
		w.write(b)
		size += len(b)
		entries = entries[n:]
		if size > math.MaxUint32-listingExtra {
			return listing{}, errors.New("its listing is larger than 4 GiB")
		}
	}
	l.size = uint32(size + listingExtra)
	return l, nil
}

// encodeRun appends a run of entries to b: the first of them, and as many more
// as a run can hold and as fit in limit bytes. It returns how many they are.
func encodeRun(b []byte, entries []entry, limit int) (_ []byte, n int) {
	le := binary.LittleEndian
	first := entries[0]
	b = le.AppendUint32(b, 0) // count, below
	b = le.AppendUint32(b, uint32(first.inode.block()))
	b = le.AppendUint32(b, first.number)
	for _, e := range entries {
		delta := int64(e.number) - int64(first.number)
		if n > 0 && (n == maxRun || e.inode.block() != first.inode.block() ||
			delta != int64(int16(delta)) || len(b)+entryHeaderSize+len(e.name) > limit) {
			break
		}
		b = le.AppendUint16(b, e.inode.offset())
		b = le.AppendUint16(b, uint16(delta))
		b = le.AppendUint16(b, e.kind)
		b = le.AppendUint16(b, uint16(len(e.name)-1))
		b = append(b, e.name...)
		n++
	}
	le.PutUint32(b, uint32(n-1))
	return b, n
}

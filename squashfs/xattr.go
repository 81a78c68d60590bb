package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Extended attributes (squashfs.rst, "Xattr table") are kept in sets; an inode
// has the index of its set in the xattr ID table. The index of that table has a
// header of its own (struct squashfs_xattr_id_table):
//
//	start uint64        offset of the xattr key and value table in the image
//	count uint32        number of sets
//	unused uint32
//
// An entry of the table is (struct squashfs_xattr_id)
//
//	at uint64           reference into the key and value table
//	count uint32        number of attributes
//	size uint32         bytes that listxattr(2) and getxattr(2) would return in all
//
// and in the key and value table there are, for each attribute of a set,
//
//	type uint16         of the prefix (user., trusted., security.), and outOfLine
//	size uint16         length of the name in bytes
//	name                without its prefix
//	size uint32         length of the value in bytes
//	value               if outOfLine: a ref, uint64, of another value's size field
const (
	xattrHeaderSize = 16
	xattrIDSize     = 16
	outOfLine       = 1 << 8 // SQUASHFS_XATTR_VALUE_OOL
	refSize         = 8
)

// maxXattrValue is the kernel's limit of a value in bytes (XATTR_SIZE_MAX).
const maxXattrValue = 64 << 10

// attribute is an extended attribute.
type attribute struct {
	prefix uint16 // type, without outOfLine
	name   []byte
	value  []byte
}

// xattrSet is a set of attributes.
type xattrSet struct {
	attributes []attribute
	size       uint32 // as in the xattr ID table
}

// xattrTable is the xattr table of an image.
type xattrTable struct {
	values *table // keys and values
	ids    []byte // xattr ID table
	// What sets and values take in the table, added up over all that were read
	// once. mksquashfs lets none overlap; in a crafted image they could be many
	// times what they take.
	spent int
	seen  map[ref]bool
}

// readXattrs reads the xattr table of the image with superblock s.
func (t *tableReader) readXattrs(s *Superblock) (*xattrTable, error) {
	index := int64(s.XattrStart)
	if t.end-index < xattrHeaderSize {
		return nil, fmt.Errorf("no header at byte %d: truncated", index)
	}
	var header [xattrHeaderSize]byte
	if n, err := t.r.ReadAt(header[:], index); n < len(header) {
		return nil, fmt.Errorf("read header at byte %d: %w", index, err)
	}
	start := binary.LittleEndian.Uint64(header[:])
	count := binary.LittleEndian.Uint32(header[8:])
	ids, first, err := t.indexed(index+xattrHeaderSize, count, xattrIDSize)
	if err != nil {
		return nil, err
	}
	if count == 0 {
		first = index
	}
	if start < SuperblockSize || start > uint64(first) {
		return nil, fmt.Errorf("its keys and values start at byte %d, after their end at %d", start, first)
	}
	values, err := t.chain(int64(start), first)
	if err != nil {
		return nil, err
	}
	return &xattrTable{values: values, ids: ids, seen: make(map[ref]bool)}, nil
}

// set returns the attributes of set id. They are parts of the table.
func (t *xattrTable) set(id uint32) (xattrSet, error) {
	if uint64(id) >= uint64(len(t.ids)/xattrIDSize) {
		return xattrSet{}, fmt.Errorf("no set %d, there are %d", id, len(t.ids)/xattrIDSize)
	}
	f := &fields{b: t.ids[int(id)*xattrIDSize:]}
	at := ref(f.u64())
	count := f.u32()
	set := xattrSet{size: f.u32()}
	b, err := t.values.from(at)
	if err != nil {
		return xattrSet{}, fmt.Errorf("set %d: %w", id, err)
	}
	f = &fields{b: b}
	for range count {
		a := attribute{prefix: f.u16()}
		a.name = f.bytes(uint64(f.u16()))
		a.value = f.bytes(uint64(f.u32()))
		if f.short {
			return xattrSet{}, fmt.Errorf("set %d: it is cut off at the end of the table", id)
		}
		if a.prefix&outOfLine != 0 {
			a.prefix &^= outOfLine
			if a.value, err = t.outOfLine(a.value); err != nil {
				return xattrSet{}, fmt.Errorf("set %d: attribute %q: %w", id, a.name, err)
			}
		}
		if len(a.value) > maxXattrValue {
			return xattrSet{}, fmt.Errorf("set %d: attribute %q of %d bytes, want at most %d", id, a.name, len(a.value), maxXattrValue)
		}
		set.attributes = append(set.attributes, a)
	}
	return set, t.spend(f.taken)
}

// outOfLine returns the value that the value of an attribute, which is a ref,
// refers to.
func (t *xattrTable) outOfLine(value []byte) ([]byte, error) {
	if len(value) != refSize {
		return nil, fmt.Errorf("a reference of %d bytes, want %d", len(value), refSize)
	}
	at := ref(binary.LittleEndian.Uint64(value))
	b, err := t.values.from(at)
	if err != nil {
		return nil, err
	}
	f := &fields{b: b}
	value = f.bytes(uint64(f.u32()))
	if f.short {
		return nil, errors.New("its value is cut off at the end of the table")
	}
	if !t.seen[at] {
		t.seen[at] = true
		// A value may be in line elsewhere, and so be counted twice.
		return value, t.spend(len(value))
	}
	return value, nil
}

// spend counts n bytes of the table as read.
func (t *xattrTable) spend(n int) error {
	t.spent += n
	if t.spent > 2*len(t.values.data) {
		return errors.New("its sets overlap")
	}
	return nil
}

// xattrWriter writes an xattr table, each set and each longer value once.
type xattrWriter struct {
	values tableWriter
	ids    []byte
	sets   map[string]uint32 // key of a set, see key, to its index
	places map[string]ref    // value to where its size field is
}

func newXattrWriter(compress compressor) *xattrWriter {
	return &xattrWriter{
		values: tableWriter{compress: compress},
		sets:   make(map[string]uint32),
		places: make(map[string]ref),
	}
}

// add returns the index of the set, which it writes if it is not there yet.
func (w *xattrWriter) add(set xattrSet) (uint32, error) {
	if id, ok := w.sets[w.key(set)]; ok {
		return id, nil
	}
	at, err := w.values.pos()
	if err != nil {
		return 0, err
	}
	for _, a := range set.attributes {
		if err := w.write(a); err != nil {
			return 0, err
		}
	}
	id := uint32(len(w.ids) / xattrIDSize)
	le := binary.LittleEndian
	w.ids = le.AppendUint64(w.ids, uint64(at))
	w.ids = le.AppendUint32(w.ids, uint32(len(set.attributes)))
	w.ids = le.AppendUint32(w.ids, set.size)
	w.sets[w.key(set)] = id // another key than above: values have a place now
	return id, nil
}

// key returns a string that only equal sets have. It stands for the set as long
// as all of the set's longer values are written.
func (w *xattrWriter) key(set xattrSet) string {
	le := binary.LittleEndian
	key := le.AppendUint32(nil, set.size)
	for _, a := range set.attributes {
		key = le.AppendUint16(key, a.prefix)
		key = le.AppendUint16(key, uint16(len(a.name)))
		key = append(key, a.name...)
		if len(a.value) <= refSize {
			key = append(key, byte(len(a.value)))
			key = append(key, a.value...)
			continue
		}
		place, ok := w.places[string(a.value)]
		if !ok {
			place = ^ref(0)
		}
		key = append(key, 0xff)
		key = le.AppendUint64(key, uint64(place))
	}
	return string(key)
}

// write appends an attribute to the table of keys and values.
func (w *xattrWriter) write(a attribute) error {
	le := binary.LittleEndian
	place, again := w.places[string(a.value)]
	if again {
		a.prefix |= outOfLine
	}
	b := le.AppendUint16(nil, a.prefix)
	b = le.AppendUint16(b, uint16(len(a.name)))
	w.values.write(append(b, a.name...))
	if again {
		b = le.AppendUint32(b[:0], refSize)
		w.values.write(le.AppendUint64(b, uint64(place)))
		return nil
	}
	place, err := w.values.pos()
	if err != nil {
		return err
	}
	if len(a.value) > refSize {
		w.places[string(a.value)] = place
	}
	b = le.AppendUint32(b[:0], uint32(len(a.value)))
	w.values.write(append(b, a.value...))
	return nil
}

package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
)

// Options says what a linked image cannot have from its inputs.
type Options struct {
	RootMode uint16 // permission bits of the root directory
	RootUID  uint32
	RootGID  uint32
	RootTime uint32 // the root directory's time, in seconds since 1970
	MkfsTime uint32 // when the image was made, in seconds since 1970
}

// Stats says what a linked image holds.
type Stats struct {
	Entries int   // of the root directory
	Inodes  int64 // below the root directory
	Shared  int64 // bytes of compressed data that the inputs have again and the linked image has once
	// UnpackedSize is the size of all files in bytes, each rounded up to
	// pages of 4096 bytes: what a copy of the image takes on a tmpfs.
	UnpackedSize int64
}

// Link makes one image out of the inputs: its root directory has the entries of
// all of theirs. What else the inputs say of their root directories (owner, mode,
// time, extended attributes) is dropped, and so is data that no file has. The
// linked image depends on the inputs, their order, and opt alone.
//
// Inputs have to agree in block size and compressor, and no two may have an entry
// of the same name. Memory use is in proportion to the inputs' metadata. The
// linked image has an export table if any input has one.
//
// Errors name the input, and the table that is wrong.
func Link(inputs []Input, opt Options) (*Layout, error) {
	images, options, err := openImages(inputs)
	if err != nil {
		return nil, err
	}
	if err := scanImages(images); err != nil {
		return nil, err
	}
	root, err := mergeRoots(images)
	if err != nil {
		return nil, err
	}
	if err := findSame(images); err != nil {
		return nil, err
	}
	block := encodeOptions(options)
	extents, dataBefore := layRuns(images, SuperblockSize+int64(len(block)))
	l := newLinker(images)
	at, err := l.link(root, opt)
	if err != nil {
		return nil, err
	}
	if options != nil {
		l.flags |= flagCompressorOptions
	}
	first := images[0].super
	layout := l.assemble(&Superblock{
		Magic: magic, Major: 4, Minor: 0,
		Inodes: uint32(l.total) + 1, MkfsTime: opt.MkfsTime, Flags: l.flags, RootInode: uint64(at),
		BlockSize: first.BlockSize, BlockLog: first.BlockLog, Compressor: first.Compressor,
	}, block, extents)
	layout.stats = Stats{Entries: len(root), Inodes: int64(l.total), Shared: dataBefore}
	for _, e := range extents {
		layout.stats.Shared -= e.size
	}
	for _, img := range images {
		layout.stats.UnpackedSize += img.unpacked
	}
	return layout, nil
}

// openImages opens all inputs and checks that they can be one image, whose
// compressor options it returns.
func openImages(inputs []Input) (images []*image, options []byte, err error) {
	if len(inputs) == 0 {
		return nil, nil, errors.New("no images to link")
	}
	for _, in := range inputs {
		img, err := openImage(in)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", in.Name, err)
		}
		images = append(images, img)
		first := images[0]
		switch {
		case img.super.Compressor != first.super.Compressor:
			return nil, nil, fmt.Errorf("%s is compressed by %v, %s by %v: want one compressor", first.Name, first.super.Compressor, img.Name, img.super.Compressor)
		case img.super.BlockSize != first.super.BlockSize:
			return nil, nil, fmt.Errorf("%s has blocks of %d bytes, %s of %d: want one block size", first.Name, first.super.BlockSize, img.Name, img.super.BlockSize)
		case img == first:
			options = img.options
		default:
			options = mergeOptions(first.super, options, img.options)
		}
	}
	return images, options, nil
}

// scanImages loads and scans all images.
func scanImages(images []*image) error {
	newState := func() decompressor { return newDecompressor(images[0].super.Compressor) }
	seed := maphash.MakeSeed()
	return parallel(len(images), newState, func(decompress decompressor, i int) error {
		err := images[i].load(decompress)
		if err == nil {
			err = images[i].scan(seed, nil)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", images[i].Name, err)
		}
		return nil
	})
}

// mergeRoots returns the entries of all root directories in order of their names.
func mergeRoots(images []*image) ([]entry, error) {
	var root []entry
	for _, img := range images {
		root = append(root, img.root...)
	}
	slices.SortStableFunc(root, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(root); i++ {
		if a, b := root[i-1], root[i]; a.name == b.name {
			return nil, fmt.Errorf("both %s and %s have an entry %q", a.image.Name, b.image.Name, a.name)
		}
	}
	return root, nil
}

// linker writes the tables of the linked image.
type linker struct {
	flags    uint16 // of the superblock
	compress compressor
	total    uint64 // inodes without the root directory
	last     uint32 // inode number given last

	inodes, dirs tableWriter
	xattrs       *xattrWriter
	ids          []byte            // the ID table
	idIndex      map[uint32]uint16 // ID to its index in ids
	fragments    []byte            // the fragment table
	fragIndex    map[fragment]uint32
	exports      []ref // of inodes by their numbers, less 1; nil: none wanted

	buf []byte // an encoded inode
}

// moved says where what an image has is in the linked image.
type moved struct {
	newInodes []movedInode      // in the order of content.positions
	newXattrs map[uint32]uint32 // index of a set in the image to that in the linked one
}

type movedInode struct {
	at      ref
	number  uint32 // 0: not visited yet
	written bool
}

func newLinker(images []*image) *linker {
	// What mksquashfs was told for all images holds for the linked one.
	const common = flagStoredInodes | flagStoredData | flagStoredFragments | flagNoFragments | flagAlwaysFragments |
		flagDuplicates | flagStoredXattrs | flagNoXattrs | flagStoredIDs
	l := &linker{
		flags:     common,
		idIndex:   make(map[uint32]uint16),
		fragIndex: make(map[fragment]uint32),
	}
	exports := false
	for _, img := range images {
		l.flags &= img.super.Flags
		exports = exports || img.super.ExportStart != noTable
		l.total += uint64(len(img.positions))
		img.newInodes = make([]movedInode, len(img.positions))
		img.newXattrs = make(map[uint32]uint32)
	}
	if l.flags&flagStoredInodes == 0 {
		l.compress = newCompressor(images[0].super.Compressor)
	}
	if l.compress == nil {
		l.flags |= flagStoredInodes | flagStoredXattrs | flagStoredIDs
	}
	l.inodes.compress, l.dirs.compress = l.compress, l.compress
	l.xattrs = newXattrWriter(l.compress)
	if exports {
		l.flags |= flagExports
	}
	return l
}

// link writes everything below the root directory, and its inode, to which it
// returns the reference. It is the last inode, and has the greatest number.
func (l *linker) link(root []entry, opt Options) (ref, error) {
	if l.total >= math.MaxUint32 {
		return 0, fmt.Errorf("%d inodes in all, want at most %d", l.total, uint32(math.MaxUint32-1))
	}
	if l.flags&flagExports != 0 {
		l.exports = make([]ref, l.total+1)
	}
	in := inode{
		kind: kindDirectory, mode: opt.RootMode & 0o7777, mtime: opt.RootTime, nlink: 2, xattr: noXattr,
		number: uint32(l.total) + 1,
		parent: uint32(l.total) + 2, // that of no inode, as mksquashfs has it
	}
	var err error
	if in.uid, err = l.id(opt.RootUID); err != nil {
		return 0, err
	}
	if in.gid, err = l.id(opt.RootGID); err != nil {
		return 0, err
	}
	if in.list, err = l.directory(root, in.number); err != nil {
		return 0, err
	}
	for _, e := range root {
		if e.kind == kindDirectory {
			in.nlink++
		}
	}
	return l.write(&in)
}

// directory writes the listing of entries, which are those of the directory whose
// inode number is given, and before it all that is below that directory. The
// inodes of the entries are written together, after those below them.
func (l *linker) directory(entries []entry, number uint32) (listing, error) {
	// Numbers first: what is in a subdirectory needs that of the subdirectory.
	inodes := make([]inode, len(entries))
	places := make([]*movedInode, len(entries))
	for i := range entries {
		var err error
		if inodes[i], places[i], err = l.visit(&entries[i]); err != nil {
			return listing{}, fmt.Errorf("%s: %w", entries[i].image.Name, err)
		}
	}
	for i, e := range entries {
		if e.kind != kindDirectory {
			continue
		}
		below, err := e.image.list(inodes[i].list)
		if err != nil {
			return listing{}, fmt.Errorf("%s: %w", e.image.Name, err)
		}
		inodes[i].parent = number
		if inodes[i].list, err = l.directory(below, e.number); err != nil {
			return listing{}, err
		}
	}
	for i := range entries {
		e, to := &entries[i], places[i]
		if !to.written { // not by another name
			if err := l.move(e.image, &inodes[i], to); err != nil {
				return listing{}, fmt.Errorf("%s: %w (entry %q)", e.image.Name, err, e.name)
			}
		}
		e.inode = to.at
	}
	list, err := writeListing(&l.dirs, entries)
	if err != nil {
		return listing{}, fmt.Errorf("directory table: %w", err)
	}
	return list, nil
}

// visit reads the inode of an entry, finds where it goes, and gives it a number.
func (l *linker) visit(e *entry) (inode, *movedInode, error) {
	in, pos, _, err := e.image.inode(e.inode)
	if err != nil {
		return inode{}, nil, err
	}
	i, ok := slices.BinarySearch(e.image.positions, pos)
	if !ok {
		panic(fmt.Sprintf("squashfs: %s: entry %q was not scanned", e.image.Name, e.name))
	}
	to := &e.image.newInodes[i]
	if to.number == 0 {
		l.last++
		to.number = l.last
	}
	in.number = to.number
	e.number, e.kind = to.number, in.kind
	return in, to, nil
}

// move writes an inode of img whose number and listing are those in the linked
// image already.
func (l *linker) move(img *image, in *inode, to *movedInode) error {
	for _, id := range []*uint16{&in.uid, &in.gid} {
		value, err := img.id(*id)
		if err != nil {
			return err
		}
		if *id, err = l.id(value); err != nil {
			return err
		}
	}
	if in.xattr != noXattr {
		var err error
		if in.xattr, err = l.xattr(img, in.xattr); err != nil {
			return fmt.Errorf("xattr table: %w", err)
		}
	}
	if in.kind == kindFile {
		in.start = uint64(img.find(int64(in.start), blocksSize(in.blocks)))
		if in.fragment != noFragment {
			in.fragment = l.fragment(img, img.fragments[in.fragment])
		}
	}
	var err error
	to.at, err = l.write(in)
	to.written = true
	return err
}

// id returns the index in the ID table of a user or group ID.
func (l *linker) id(id uint32) (uint16, error) {
	i, ok := l.idIndex[id]
	if !ok {
		if len(l.idIndex) == math.MaxUint16 {
			return 0, fmt.Errorf("ID table: more than %d different user and group IDs", math.MaxUint16)
		}
		i = uint16(len(l.idIndex))
		l.idIndex[id] = i
		l.ids = binary.LittleEndian.AppendUint32(l.ids, id)
	}
	return i, nil
}

// xattr returns the index in the xattr ID table of set id of an image.
func (l *linker) xattr(img *image, id uint32) (uint32, error) {
	if img.xattrs == nil {
		return noXattr, nil // as the kernel has it
	}
	if to, ok := img.newXattrs[id]; ok {
		return to, nil
	}
	set, err := img.xattrs.set(id)
	if err != nil {
		return 0, err
	}
	to, err := l.xattrs.add(set)
	img.newXattrs[id] = to
	return to, err
}

// fragment returns the index in the fragment table of a fragment of an image.
func (l *linker) fragment(img *image, f fragment) uint32 {
	f.start = uint64(img.find(int64(f.start), blocksSize(binary.LittleEndian.AppendUint32(nil, f.size))))
	i, ok := l.fragIndex[f]
	if !ok {
		i = uint32(len(l.fragIndex))
		l.fragIndex[f] = i
		l.fragments = f.encode(l.fragments)
	}
	return i
}

// write appends an inode to the inode table and returns the reference to it.
func (l *linker) write(in *inode) (ref, error) {
	at, err := l.inodes.pos()
	if err != nil {
		return 0, fmt.Errorf("inode table: %w", err)
	}
	l.buf = in.encode(l.buf[:0])
	l.inodes.write(l.buf)
	if l.exports != nil {
		l.exports[in.number-1] = at
	}
	return at, nil
}

// assemble puts the parts of the linked image in their places and returns it.
// options is the compressor options block; extents are the data.
func (l *linker) assemble(s *Superblock, options []byte, extents []extent) *Layout {
	tail := appender(nil)
	start := int64(SuperblockSize + len(options))
	if len(extents) > 0 {
		last := extents[len(extents)-1]
		start = last.to + last.size
	}
	// add appends p to the tail, and returns where in the image it is.
	add := func(p []byte) uint64 {
		at := start + int64(len(tail))
		tail = append(tail, p...)
		return uint64(at)
	}
	// addIndexed appends the table of the given entries and, after header, its
	// index, and returns where header is.
	addIndexed := func(entries, header []byte) uint64 {
		w := &tableWriter{compress: l.compress}
		w.write(entries)
		blocks, index := w.finish(start + int64(len(tail)))
		add(blocks)
		return add(append(header, index...))
	}
	blocks, _ := l.inodes.finish(0)
	s.InodeStart = add(blocks)
	blocks, _ = l.dirs.finish(0)
	s.DirStart = add(blocks)
	// From here on, each table's index has to end where the next table starts
	// (squashfs_read_id_index_table and the like).
	s.FragStart, s.ExportStart, s.XattrStart = noTable, noTable, noTable
	if len(l.fragments) > 0 {
		s.Fragments = uint32(len(l.fragments) / fragmentSize)
		s.FragStart = addIndexed(l.fragments, nil)
	}
	if l.exports != nil {
		s.ExportStart = addIndexed(l.encodeExports(), nil)
	}
	s.IDs = uint16(len(l.ids) / idSize)
	s.IDStart = addIndexed(l.ids, nil)
	if len(l.xattrs.ids) > 0 {
		blocks, _ := l.xattrs.values.finish(0)
		header := binary.LittleEndian.AppendUint64(nil, add(blocks))
		header = binary.LittleEndian.AppendUint32(header, uint32(len(l.xattrs.ids)/xattrIDSize))
		header = binary.LittleEndian.AppendUint32(header, 0)
		s.XattrStart = addIndexed(l.xattrs.ids, header)
	}
	s.BytesUsed = uint64(start) + uint64(len(tail))
	// The kernel reads block devices by the page (mksquashfs pads, too).
	tail = append(tail, make([]byte, -s.BytesUsed%padding)...)
	return newLayout(append(s.encode(), options...), extents, tail)
}

// encodeExports returns the export table.
func (l *linker) encodeExports() []byte {
	b := make([]byte, 0, len(l.exports)*exportSize)
	for _, at := range l.exports {
		b = binary.LittleEndian.AppendUint64(b, uint64(at))
	}
	return b
}

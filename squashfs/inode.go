package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Kinds of inodes: the basic types. A directory entry has these, too. Where the
// fields of a basic inode do not fit, its type is kind + extended.
const (
	kindDirectory = iota + 1
	kindFile
	kindSymlink
	kindBlockDevice
	kindCharDevice
	kindFifo
	kindSocket

	extended = 7
)

// Values that stand for nothing.
const (
	noFragment = math.MaxUint32 // SQUASHFS_INVALID_FRAG
	noXattr    = math.MaxUint32 // SQUASHFS_INVALID_XATTR
)

// storedData is set in the size of a data block that is not compressed
// (SQUASHFS_COMPRESSED_BIT_BLOCK).
const storedData = 1 << 24

// inode is an inode of any type (squashfs.rst, "Inodes"; squashfs_fs.h, struct
// squashfs_base_inode and following). On disk, all begin with
//
//	type uint16, mode uint16, uid uint16, gid uint16, mtime uint32, number uint32
//
// and go on by type:
//
//	directory          block uint32, nlink uint32, size uint16, offset uint16, parent uint32
//	file               start uint32, fragment uint32, fragOffset uint32, size uint32, blocks
//	symlink            nlink uint32, length uint32, target
//	device             nlink uint32, rdev uint32
//	fifo, socket       nlink uint32
//	extended directory nlink uint32, size uint32, block uint32, parent uint32, indexCount uint16, offset uint16, xattr uint32, index
//	extended file      start uint64, size uint64, sparse uint64, nlink uint32, fragment uint32, fragOffset uint32, xattr uint32, blocks
//	others, extended   as the basic ones, then xattr uint32
type inode struct {
	kind   uint16 // basic type
	mode   uint16 // permission bits, setuid, setgid, sticky
	uid    uint16 // index in the ID table
	gid    uint16 // index in the ID table
	mtime  uint32 // seconds since 1970
	number uint32 // 1 up to the superblock's Inodes
	nlink  uint32 // names of the inode; for a directory, 2 + subdirectories
	xattr  uint32 // index in the xattr ID table; noXattr: none

	// Directories.
	list   listing
	parent uint32 // inode number of the directory that it is in

	// Files.
	size       uint64 // bytes; for a directory see listing
	start      uint64 // offset of the first data block in the image, in bytes
	sparse     uint64 // bytes of size that are holes
	fragment   uint32 // index in the fragment table; noFragment: none
	fragOffset uint32 // offset in the unpacked fragment, in bytes
	blocks     []byte // sizes of the data blocks, uint32 each: see blockSize

	target []byte // of symlinks

	// Block and character devices.
	rdev uint32 // as the kernel's new_encode_dev: minor low, major in bits 8 to 19
}

// blockSize returns how many bytes the block with the given size field takes in
// the image: 0 for a hole.
func blockSize(field, max uint32) (int64, error) {
	if size := field &^ storedData; size <= max {
		return int64(size), nil
	}
	return 0, fmt.Errorf("data block of size %#x, want at most %#x", field, max)
}

// errShortInode says that an inode goes on past the table's end.
var errShortInode = errors.New("it is cut off at the end of the inode table")

// fields reads little-endian fields off the front of a slice. Past its end they
// are 0, and short is set.
type fields struct {
	b     []byte
	taken int
	short bool
}

func (f *fields) bytes(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.short = true
		f.b = nil
		return nil
	}
	b := f.b[:n]
	f.b = f.b[n:]
	f.taken += int(n)
	return b
}

func (f *fields) u16() uint16 {
	if b := f.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (f *fields) u32() uint32 {
	if b := f.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (f *fields) u64() uint64 {
	if b := f.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// parseInode parses the inode at b's front. size is how many bytes it takes at
// least: an index of a directory is neither read nor counted. The inode holds
// parts of b.
func parseInode(b []byte, s *Superblock) (in inode, size int, err error) {
	f := &fields{b: b}
	typ := f.u16()
	in = inode{
		kind: typ, mode: f.u16(), uid: f.u16(), gid: f.u16(), mtime: f.u32(), number: f.u32(),
		nlink: 1, xattr: noXattr,
	}
	ext := typ > extended
	if ext {
		in.kind -= extended
	}
	switch {
	case f.short:
		return in, 0, errShortInode
	case in.kind == kindDirectory:
		in.parseDirectory(f, ext)
	case in.kind == kindFile:
		in.parseFile(f, ext, s)
	case in.kind == kindSymlink:
		in.nlink = f.u32()
		in.target = f.bytes(uint64(f.u32()))
	case in.kind == kindBlockDevice || in.kind == kindCharDevice:
		in.nlink, in.rdev = f.u32(), f.u32()
	case in.kind == kindFifo || in.kind == kindSocket:
		in.nlink = f.u32()
	default:
		return in, 0, fmt.Errorf("unknown type %d", typ)
	}
	if ext && in.kind != kindDirectory && in.kind != kindFile {
		in.xattr = f.u32()
	}
	if f.short {
		return in, 0, errShortInode
	}
	return in, f.taken, nil
}

func (in *inode) parseDirectory(f *fields, ext bool) {
	if !ext {
		block := f.u32()
		in.nlink, in.list.size = f.u32(), uint32(f.u16())
		in.list.at = makeRef(block, f.u16())
		in.parent = f.u32()
		return
	}
	in.nlink, in.list.size = f.u32(), f.u32()
	block := f.u32()
	in.parent = f.u32()
	f.u16() // number of index entries
	in.list.at = makeRef(block, f.u16())
	in.xattr = f.u32()
}

func (in *inode) parseFile(f *fields, ext bool, s *Superblock) {
	if ext {
		in.start, in.size, in.sparse = f.u64(), f.u64(), f.u64()
		in.nlink, in.fragment, in.fragOffset, in.xattr = f.u32(), f.u32(), f.u32(), f.u32()
	} else {
		in.start, in.fragment, in.fragOffset, in.size = uint64(f.u32()), f.u32(), f.u32(), uint64(f.u32())
	}
	blocks := in.size >> s.BlockLog
	if in.fragment == noFragment && in.size%uint64(s.BlockSize) != 0 {
		blocks++
	}
	in.blocks = f.bytes(4 * blocks)
}

// encode appends the inode to b, in its shortest form.
func (in *inode) encode(b []byte) []byte {
	le := binary.LittleEndian
	ext := in.extended()
	typ := in.kind
	if ext {
		typ += extended
	}
	for _, v := range []uint16{typ, in.mode, in.uid, in.gid} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, in.mtime)
	b = le.AppendUint32(b, in.number)
	switch in.kind {
	case kindDirectory:
		return in.encodeDirectory(b, ext)
	case kindFile:
		return in.encodeFile(b, ext)
	case kindSymlink:
		b = le.AppendUint32(b, in.nlink)
		b = le.AppendUint32(b, uint32(len(in.target)))
		b = append(b, in.target...)
	case kindBlockDevice, kindCharDevice:
		b = le.AppendUint32(b, in.nlink)
		b = le.AppendUint32(b, in.rdev)
	default:
		b = le.AppendUint32(b, in.nlink)
	}
	if ext {
		b = le.AppendUint32(b, in.xattr)
	}
	return b
}

// extended reports whether the inode does not fit a basic one.
func (in *inode) extended() bool {
	switch {
	case in.xattr != noXattr:
		return true
	case in.kind == kindDirectory:
		return in.list.size > math.MaxUint16 || len(in.list.index) > 0
	case in.kind == kindFile:
		return in.start > math.MaxUint32 || in.size > math.MaxUint32 || in.sparse > 0 || in.nlink != 1
	}
	return false
}

func (in *inode) encodeDirectory(b []byte, ext bool) []byte {
	le := binary.LittleEndian
	block, offset := uint32(in.list.at.block()), in.list.at.offset()
	if !ext {
		b = le.AppendUint32(b, block)
		b = le.AppendUint32(b, in.nlink)
		b = le.AppendUint16(b, uint16(in.list.size))
		b = le.AppendUint16(b, offset)
		return le.AppendUint32(b, in.parent)
	}
	b = le.AppendUint32(b, in.nlink)
	b = le.AppendUint32(b, in.list.size)
	b = le.AppendUint32(b, block)
	b = le.AppendUint32(b, in.parent)
	b = le.AppendUint16(b, uint16(len(in.list.index)))
	b = le.AppendUint16(b, offset)
	b = le.AppendUint32(b, in.xattr)
	for _, x := range in.list.index {
		b = x.encode(b)
	}
	return b
}

func (in *inode) encodeFile(b []byte, ext bool) []byte {
	le := binary.LittleEndian
	if ext {
		b = le.AppendUint64(b, in.start)
		b = le.AppendUint64(b, in.size)
		b = le.AppendUint64(b, in.sparse)
		b = le.AppendUint32(b, in.nlink)
		b = le.AppendUint32(b, in.fragment)
		b = le.AppendUint32(b, in.fragOffset)
		b = le.AppendUint32(b, in.xattr)
	} else {
		b = le.AppendUint32(b, uint32(in.start))
		b = le.AppendUint32(b, in.fragment)
		b = le.AppendUint32(b, in.fragOffset)
		b = le.AppendUint32(b, uint32(in.size))
	}
	return append(b, in.blocks...)
}

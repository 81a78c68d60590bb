package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Reader reads the files of an image. Its methods may be called concurrently.
//
// In memory it has the image's tables, unpacked: about 60 bytes a file, never more
// than the image's metadata unpacks to. Of data it keeps two fragments more than
// there are CPUs.
type Reader struct {
	image     *image
	fragments fragmentCache

	xattrMu sync.Mutex
	xattrs  map[uint32][]Xattr // sets that were read
}

// Inode is a file, or another kind of thing that a directory has an entry of.
type Inode struct {
	ID       uint64 // the same for the names of one inode, its hard links
	Mode     uint32 // as st_mode of stat(2): type and permission bits
	UID, GID uint32
	Mtime    int64  // seconds since 1970
	Links    uint32 // names
	Size     int64  // of a regular file, in bytes
	Holes    bool   // whether a regular file has holes
	Target   string // of a symlink
	in       inode
}

// Entry is a directory's entry.
type Entry struct {
	Name string
	at   ref
}

// Xattr is an extended attribute, by its full name.
type Xattr struct {
	Name  string
	Value []byte
}

// NewReader reads the image's tables.
func NewReader(in Input) (*Reader, error) {
	img, err := openImage(in)
	if err != nil {
		return nil, err
	}
	if err := img.load(newDecompressor(img.super.Compressor)); err != nil {
		return nil, err
	}
	return &Reader{
		image:     img,
		fragments: fragmentCache{slots: make([]*cachedFragment, runtime.GOMAXPROCS(0)+2)},
		xattrs:    make(map[uint32][]Xattr),
	}, nil
}

// Root returns the root directory's inode.
func (r *Reader) Root() (*Inode, error) { return r.Inode(Entry{at: ref(r.image.super.RootInode)}) }

// List returns the entries of a directory, sorted by name. It does not see that an
// image was crafted so that a directory contains itself.
func (r *Reader) List(dir *Inode) ([]Entry, error) {
	if dir.in.kind != kindDirectory {
		return nil, fs.ErrInvalid
	}
	list, err := r.image.list(dir.in.list)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(list))
	for i, e := range list {
		entries[i] = Entry{e.name, e.inode}
	}
	return entries, nil
}

// fileTypes are the types of inodes in st_mode, by their kinds.
var fileTypes = [...]uint32{
	kindDirectory: unix.S_IFDIR, kindFile: unix.S_IFREG, kindSymlink: unix.S_IFLNK,
	kindBlockDevice: unix.S_IFBLK, kindCharDevice: unix.S_IFCHR, kindFifo: unix.S_IFIFO, kindSocket: unix.S_IFSOCK,
}

// Inode returns the inode of an entry.
func (r *Reader) Inode(e Entry) (*Inode, error) {
	in, _, _, err := r.image.inode(e.at)
	if err != nil {
		return nil, err
	}
	const maxSize = 1<<63 - 1 - maxBlockSize
	if in.size > maxSize {
		return nil, fmt.Errorf("inode table: a file of %d bytes, want at most %d", in.size, uint64(maxSize))
	}
	i := &Inode{
		ID: uint64(e.at), Mode: fileTypes[in.kind] | uint32(in.mode&0o7777), Mtime: int64(in.mtime),
		Links: in.nlink, Size: int64(in.size), Target: string(in.target), in: in,
	}
	for b := range slices.Chunk(in.blocks, 4) {
		i.Holes = i.Holes || isHole(binary.LittleEndian.Uint32(b))
	}
	if i.UID, err = r.image.id(in.uid); err != nil {
		return nil, err
	}
	i.GID, err = r.image.id(in.gid)
	return i, err
}

// xattrPrefixes are the prefixes of names by their numbers: SQUASHFS_XATTR_USER
// and following.
var xattrPrefixes = [...]string{"user.", "trusted.", "security."}

// Xattrs returns the extended attributes of an inode.
func (r *Reader) Xattrs(i *Inode) ([]Xattr, error) {
	id := i.in.xattr
	if id == noXattr || r.image.xattrs == nil {
		return nil, nil
	}
	r.xattrMu.Lock()
	defer r.xattrMu.Unlock()
	if list, ok := r.xattrs[id]; ok {
		return list, nil
	}
	set, err := r.image.xattrs.set(id)
	if err != nil {
		return nil, fmt.Errorf("xattr table: %w", err)
	}
	var list []Xattr
	for _, a := range set.attributes {
		if int(a.prefix) >= len(xattrPrefixes) {
			return nil, fmt.Errorf("xattr table: attribute %q with unknown prefix %d", a.name, a.prefix)
		}
		list = append(list, Xattr{xattrPrefixes[a.prefix] + string(a.name), a.value})
	}
	r.xattrs[id] = list
	return list, nil
}

// BlockSize is the size in bytes of a block of a file, unpacked.
func (r *Reader) BlockSize() int64 { return int64(r.image.super.BlockSize) }

// Read hands the content of a regular file from byte from, a multiple of
// [Reader.BlockSize], up to byte to, or to its end, to write, block by block and
// without its holes. write must not keep p; its errors are returned as they are.
func (r *Reader) Read(d *Decoder, file *Inode, from, to int64, write func(p []byte, off int64) error) error {
	d.prepare(r.image.super)
	in, size := &file.in, r.BlockSize()
	first := from / size
	start := in.start + uint64(blocksSize(in.blocks[:min(4*first, int64(len(in.blocks)))]))
	for off := from; off < min(to, file.Size); off += size {
		want := int(min(size, file.Size-off))
		p, n, err := r.block(d, in, off/size, start, want)
		if err != nil {
			return err
		}
		start += uint64(n)
		if p == nil {
			continue
		}
		if err := write(p, off); err != nil {
			return err
		}
	}
	return nil
}

// block returns the i-th block of a file, of want bytes, and how many it takes at
// byte start of the image. A hole is nil.
func (r *Reader) block(d *Decoder, in *inode, i int64, start uint64, want int) (p []byte, packed int64, err error) {
	if 4*i >= int64(len(in.blocks)) {
		p, err := r.tail(d, in, want)
		return p, 0, err
	}
	field := binary.LittleEndian.Uint32(in.blocks[4*i:])
	if isHole(field) {
		return nil, 0, nil
	}
	p, err = r.unpack(d, start, field, d.block)
	if err == nil && len(p) != want {
		err = fmt.Errorf("data block at byte %d unpacks to %d bytes, want %d", start, len(p), want)
	}
	return p, int64(field &^ storedData), err
}

// tail returns the end of a file, which is in a fragment.
func (r *Reader) tail(d *Decoder, in *inode, want int) ([]byte, error) {
	if uint64(in.fragment) >= uint64(len(r.image.fragments)) {
		return nil, fmt.Errorf("no fragment %d, there are %d", in.fragment, len(r.image.fragments))
	}
	f := r.fragments.get(in.fragment)
	f.once.Do(func() {
		at := r.image.fragments[in.fragment]
		f.data, f.err = r.unpack(d, at.start, at.size, make([]byte, 0, r.BlockSize()+overrun))
	})
	switch end := uint64(in.fragOffset) + uint64(want); {
	case f.err != nil:
		return nil, fmt.Errorf("fragment %d: %w", in.fragment, f.err)
	case end > uint64(len(f.data)):
		return nil, fmt.Errorf("fragment %d: it has %d bytes, no %d at byte %d", in.fragment, len(f.data), want, in.fragOffset)
	default:
		return f.data[in.fragOffset:end], nil
	}
}

// unpack reads the data block at byte start of the image with that size field,
// into dst's room.
func (r *Reader) unpack(d *Decoder, start uint64, field uint32, dst []byte) ([]byte, error) {
	s := r.image.super
	size, err := blockSize(field, s.BlockSize)
	if err != nil {
		return nil, err
	}
	if end := s.InodeStart; start < uint64(r.image.dataStart) || start > end || uint64(size) > end-start {
		return nil, fmt.Errorf("a data block of %d bytes at byte %d is not between byte %d and the inode table at %d", size, start, r.image.dataStart, end)
	}
	packed := d.packed[:size]
	if field&storedData != 0 {
		packed = dst[:size]
	}
	if n, err := r.image.R.ReadAt(packed, int64(start)); n < len(packed) {
		return nil, fmt.Errorf("read data block of %d bytes at byte %d: %w", size, start, err)
	}
	if field&storedData != 0 {
		return packed, nil
	}
	n, err := d.decompress[s.Compressor](dst[:s.BlockSize], packed)
	if err == nil && n == 0 {
		err = errors.New("it unpacks to nothing")
	}
	if err != nil {
		return nil, fmt.Errorf("decompress data block of %d bytes at byte %d: %w", size, start, err)
	}
	return dst[:n], nil
}

// isHole says whether a block with that size field is not there, since it is all
// zeros.
func isHole(field uint32) bool { return field&^storedData == 0 }

// overrun is how many bytes behind a block's end zstd's decoder likes to write to.
const overrun = 32

// Decoder is what unpacking data takes: two blocks, and the decompressors'
// memory. Its zero value is ready. It serves one goroutine, and any images.
type Decoder struct {
	decompress    [Zstd + 1]decompressor
	packed, block []byte
}

// prepare makes the decoder ready for an image.
func (d *Decoder) prepare(s *Superblock) {
	if d.decompress[s.Compressor] == nil {
		d.decompress[s.Compressor] = newDecompressor(s.Compressor)
	}
	if uint32(len(d.packed)) < s.BlockSize {
		d.packed = make([]byte, s.BlockSize)
		d.block = make([]byte, 0, s.BlockSize+overrun)
	}
}

// fragmentCache holds the fragments used last: files that are read one after the
// other are mostly in the same.
type fragmentCache struct {
	mu    sync.Mutex
	slots []*cachedFragment // the latest used last
}

// cachedFragment is a fragment that the first to need it unpacks.
type cachedFragment struct {
	index uint32
	once  sync.Once
	data  []byte
	err   error
}

// get returns a fragment, which takes the place of the one that was not used for
// the longest time.
func (c *fragmentCache) get(index uint32) *cachedFragment {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, f := 0, (*cachedFragment)(nil)
	for i, s := range c.slots {
		if s != nil && s.index == index {
			at, f = i, s
		}
	}
	if f == nil {
		f = &cachedFragment{index: index}
	}
	copy(c.slots[at:], c.slots[at+1:])
	c.slots[len(c.slots)-1] = f
	return f
}

package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
)

// maxDepth is how deep directories may be nested. The kernel takes paths of up to
// 4096 bytes (PATH_MAX), so mksquashfs makes no more; a crafted image could make
// us run out of stack.
const maxDepth = 4096

// pageSize is what a file's size is rounded up to in [Stats].UnpackedSize.
const pageSize = 4 << 10

// content is what is reachable from an image's root directory.
type content struct {
	root      []entry  // of the root directory
	positions []uint32 // of all inodes but the root's in the unpacked inode table, sorted
	runs      []run    // of data blocks, sorted
	used      []bool   // whether a fragment is, by its index
	unpacked  int64    // see Stats.UnpackedSize
}

// scanner walks an image's directories.
type scanner struct {
	*image
	sizesSeed maphash.Seed
	accept    func(*inode) error  // what else is wrong with an inode; nil: nothing is
	path      []string            // of the inode that is looked at
	seen      map[uint32]struct{} // positions of inodes
	// Bytes of tables that were walked, none twice: mksquashfs lets no two
	// inodes and no two listings overlap. In a crafted image they could be many
	// times what they take.
	inodeBytes, dirBytes int
}

// scan sets the content of the image, which is loaded. All that a linker relies on
// is checked here, and, if accept is not nil, each inode by it.
func (img *image) scan(sizesSeed maphash.Seed, accept func(*inode) error) error {
	s := &scanner{image: img, sizesSeed: sizesSeed, accept: accept, seen: make(map[uint32]struct{})}
	s.used = make([]bool, len(s.fragments))
	root, pos, _, err := img.inode(ref(img.super.RootInode))
	if err == nil && root.kind != kindDirectory {
		err = errors.New("inode table: the root inode is no directory")
	}
	if err != nil {
		return err
	}
	s.seen[pos] = struct{}{}
	if s.root, err = s.directory(root.list, 1); err != nil {
		return err
	}
	delete(s.seen, pos)
	s.positions = slices.Sorted(maps.Keys(s.seen))
	if err := s.fragmentRuns(); err != nil {
		return err
	}
	slices.SortFunc(s.runs, compareRuns)
	s.runs = slices.CompactFunc(s.runs, func(a, b run) bool { return compareRuns(a, b) == 0 })
	return nil
}

// directory scans the directory with listing l and all below it.
func (s *scanner) directory(l listing, depth int) ([]entry, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("directory table: directories are nested more than %d deep", maxDepth)
	}
	if l.size > listingExtra {
		s.dirBytes += int(l.size - listingExtra)
	}
	if s.dirBytes > len(s.dirs.data) {
		return nil, errors.New("directory table: listings overlap")
	}
	entries, err := s.list(l)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := s.entry(e, depth); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// entry scans the inode of a directory's entry.
func (s *scanner) entry(e entry, depth int) error {
	in, pos, size, err := s.inode(e.inode)
	if err != nil {
		return fmt.Errorf("%w (entry %q)", err, e.name)
	}
	if _, ok := s.seen[pos]; ok {
		if in.kind == kindDirectory {
			return fmt.Errorf("directory table: directory %q has another name, or contains itself", e.name)
		}
		return nil // a hard link
	}
	s.seen[pos] = struct{}{}
	if s.inodeBytes += size; s.inodeBytes > len(s.inodes.data) {
		return errors.New("inode table: inodes overlap")
	}
	s.path = append(s.path, e.name)
	defer func() { s.path = s.path[:len(s.path)-1] }()
	if s.accept != nil {
		if err := s.accept(&in); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(s.path, "/"), err)
		}
	}
	switch in.kind {
	case kindDirectory:
		_, err = s.directory(in.list, depth+1)
		return err
	case kindFile:
		err = s.file(&in)
	}
	if err != nil {
		return fmt.Errorf("inode table: file %q: %w", e.name, err)
	}
	return nil
}

// file notes which blocks of the image a file is in.
func (s *scanner) file(in *inode) error {
	const maxSize = 1<<63 - 1 - maxBlockSize
	if in.size > maxSize {
		return fmt.Errorf("size %d, want at most %d", in.size, uint64(maxSize))
	}
	s.unpacked += int64(in.size+pageSize-1) &^ (pageSize - 1)
	if in.fragment != noFragment {
		if uint64(in.fragment) >= uint64(len(s.fragments)) {
			return fmt.Errorf("fragment %d, there are %d", in.fragment, len(s.fragments))
		}
		s.used[in.fragment] = true
		tail := in.size % uint64(s.super.BlockSize)
		if uint64(in.fragOffset)+tail > uint64(s.super.BlockSize) {
			return fmt.Errorf("its tail of %d bytes at offset %d leaves the fragment", tail, in.fragOffset)
		}
	}
	r, err := s.run(in.start, in.blocks)
	if err != nil {
		return err
	}
	if r.size > 0 {
		s.runs = append(s.runs, r)
	}
	return nil
}

// fragmentRuns adds the fragments that are used to the runs.
func (s *scanner) fragmentRuns() error {
	for i, f := range s.fragments {
		if !s.used[i] {
			continue
		}
		r, err := s.run(f.start, binary.LittleEndian.AppendUint32(nil, f.size))
		if err == nil && r.size == 0 {
			err = errors.New("it has no bytes")
		}
		if err != nil {
			return fmt.Errorf("fragment table: fragment %d: %w", i, err)
		}
		s.runs = append(s.runs, r)
	}
	return nil
}

// run returns the run of blocks with the given sizes, uint32 each, at byte start.
func (s *scanner) run(start uint64, sizes []byte) (run, error) {
	r := run{off: int64(start)}
	for b := range slices.Chunk(sizes, 4) {
		n, err := blockSize(binary.LittleEndian.Uint32(b), s.super.BlockSize)
		if err != nil {
			return run{}, err
		}
		r.size += n
	}
	if r.size == 0 {
		return run{}, nil
	}
	if end := s.super.InodeStart; start < uint64(s.dataStart) || start > end || uint64(r.size) > end-start {
		return run{}, fmt.Errorf("its %d bytes at byte %d are not between byte %d and the inode table at %d", r.size, start, s.dataStart, end)
	}
	r.sizes = maphash.Bytes(s.sizesSeed, sizes)
	return r, nil
}

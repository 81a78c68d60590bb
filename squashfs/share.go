package squashfs

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// Data blocks (squashfs.rst, "Data blocks") follow each other without gaps
// within a file. Nothing but the inodes and the fragment table says where they
// are. So they can be moved, and files whose blocks are the same bytes can have
// the same ones, as long as each file's, a run, stay together.

// run is a sequence of blocks: those of a file, without the tail that is in a
// fragment, or a fragment.
type run struct {
	off   int64  // in its image, in bytes
	size  int64  // bytes in the image
	sizes uint64 // hash of the blocks' sizes
	to    int64  // offset in the linked image
	same  *run   // an earlier run with the same bytes, which is used instead
}

func compareRuns(a, b run) int {
	return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.size, b.size))
}

// extent is a part of the linked image that is taken from an input.
type extent struct {
	from io.ReaderAt
	off  int64 // in from
	size int64
	to   int64 // offset in the linked image
}

// findSame sets same for all runs of which an earlier one has the same bytes.
// Only runs that have as many bytes, in blocks of the same sizes, are read: of
// files, these are hardly ever different ones.
func findSame(images []*image) error {
	type key struct {
		size  int64
		sizes uint64
	}
	type candidate struct {
		image  *image
		run    *run
		digest [sha256.Size]byte
	}
	count := make(map[key]int)
	for _, img := range images {
		for _, r := range img.runs {
			count[key{r.size, r.sizes}]++
		}
	}
	var candidates []candidate
	for _, img := range images {
		// Where runs overlap there could be no end of reading. mksquashfs lets
		// none overlap; to leave one out costs no more than its bytes.
		budget := int64(img.super.InodeStart)
		for i := range img.runs {
			r := &img.runs[i]
			if count[key{r.size, r.sizes}] > 1 && r.size <= budget {
				budget -= r.size
				candidates = append(candidates, candidate{image: img, run: r})
			}
		}
	}
	newBuffer := func() []byte { return make([]byte, 256<<10) }
	err := parallel(len(candidates), newBuffer, func(buf []byte, i int) error {
		c := &candidates[i]
		h := sha256.New()
		if n, err := io.CopyBuffer(h, io.NewSectionReader(c.image.R, c.run.off, c.run.size), buf); err != nil || n < c.run.size {
			return fmt.Errorf("%s: read %d bytes of data at byte %d: got %d: %w", c.image.Name, c.run.size, c.run.off, n, cmp.Or(err, io.ErrUnexpectedEOF))
		}
		h.Sum(c.digest[:0])
		return nil
	})
	if err != nil {
		return err
	}
	type identity struct {
		size   int64
		digest [sha256.Size]byte
	}
	first := make(map[identity]*run)
	for _, c := range candidates {
		id := identity{c.run.size, c.digest}
		if r, ok := first[id]; ok {
			c.run.same = r
		} else {
			first[id] = c.run
		}
	}
	return nil
}

// layRuns decides where runs go in the linked image, from byte start on: in order of
// images and of their place in them, without what no run needs. It returns the
// extents that they make up, and how many bytes of runs there were before.
func layRuns(images []*image, start int64) (extents []extent, before int64) {
	to := start
	for _, img := range images {
		first := len(extents)
		seen := int64(0) // end of the runs so far
		for i := range img.runs {
			r := &img.runs[i]
			before += max(0, r.off+r.size-max(seen, r.off))
			seen = max(seen, r.off+r.size)
			if r.same != nil {
				continue
			}
			if last := len(extents) - 1; last >= first && r.off <= extents[last].off+extents[last].size {
				extents[last].size = max(extents[last].size, r.off+r.size-extents[last].off)
			} else {
				extents = append(extents, extent{from: img.R, off: r.off, size: r.size})
			}
		}
		for i := range extents[first:] {
			e := &extents[first+i]
			if e.size >= alignSize {
				to += (e.off - to) & (alignTo - 1)
			}
			e.to = to
			to += e.size
		}
		img.placeRuns(extents[first:])
	}
	return extents, before
}

// File systems share blocks of two files (a reflink) where both have them at
// multiples of alignTo bytes. An extent of alignSize bytes or more is put where it
// can be shared but for its ends; for smaller ones the gap is not worth it.
const (
	alignTo   = 4 << 10
	alignSize = 1 << 20
)

// placeRuns sets the places of the image's runs, which are in the given extents.
func (img *image) placeRuns(extents []extent) {
	for i := range img.runs {
		r := &img.runs[i]
		if r.same != nil {
			continue
		}
		for r.off >= extents[0].off+extents[0].size {
			extents = extents[1:]
		}
		r.to = extents[0].to + r.off - extents[0].off
	}
}

// find returns where in the linked image the run at off, size bytes long, is.
func (img *image) find(off, size int64) int64 {
	if size == 0 {
		return 0 // all holes: there is nothing to find
	}
	i, ok := slices.BinarySearchFunc(img.runs, run{off: off, size: size}, compareRuns)
	if !ok {
		panic(fmt.Sprintf("squashfs: no run of %d bytes at byte %d", size, off))
	}
	r := &img.runs[i]
	if r.same != nil {
		r = r.same
	}
	return r.to
}

// blocksSize returns how many bytes blocks with the given sizes, uint32 each, take.
// The sizes were checked.
func blocksSize(sizes []byte) (total int64) {
	for b := range slices.Chunk(sizes, 4) {
		total += int64(binary.LittleEndian.Uint32(b) &^ storedData)
	}
	return total
}

package squashimport

import (
	"cmp"
	"slices"

	"stage1/manifest"
	"stage1/mount"
)

// layerRAM is the RAM in bytes that a mounted image takes beside its file: loop
// device, superblock, caches of the decompressor. It was 670 less 544 MB for 300
// images on Linux 6.1.
const layerRAM = 420 << 10

// workerRAM is the RAM in bytes that a worker takes that copies: the tables of the
// image that it reads, decompressors, blocks, and what the garbage collector has not
// found yet.
const workerRAM = 8 << 20

// RAM is what an import in a mode, not [Auto], takes at most beyond what the
// images' files have taken before, in bytes; 0 where the sizes are not known
// (seed), -1 where the mode can't do it. Jobs is as in [Options].
func RAM(mode Mode, images []manifest.Image, jobs int) int64 {
	n := int64(len(images))
	if mode == Overlay {
		if n > mount.MaxLayers {
			return -1
		}
		return n * layerRAM
	}
	m := manifest.Manifest{Images: images}
	unpacked := m.UnpackedSize()
	if unpacked == 0 {
		return 0
	}
	// Files of images are deleted as soon as they are copied; those in work, in
	// the worst case the largest, are there beside their copies.
	sizes := make([]int64, 0, n)
	for _, im := range images {
		sizes = append(sizes, im.Size)
	}
	slices.SortFunc(sizes, func(a, b int64) int { return cmp.Compare(b, a) })
	need := unpacked
	for _, size := range sizes[min(len(sizes), workers(jobs)):] {
		need -= size
	}
	return max(need, 0) + workerRAM*int64(workers(jobs))
}

package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"stage1/squashimport"
)

// spare is RAM that the import leaves to the kernel and to stage 2, in bytes.
const spare = 48 << 20

// nixSize is the size in bytes and the number of inodes of the tmpfs on /nix.
// They are the kernel's default, half of the RAM (Documentation/filesystems/
// tmpfs.rst), or more where a copy of the store needs it. Of a seed's manifest,
// which has no sizes, a copy may take all of the RAM less what must be spared.
func (b *boot) nixSize(mem memory) (size, inodes int64) {
	size = mem.total / 2
	inodes = size / int64(unix.Getpagesize())
	if need := b.copySize(); need > 0 {
		// An eighth more, for what is written to the store and the database.
		size = max(size, need+need/8)
		inodes = max(inodes, 2*b.manifest.Inodes())
	} else if b.opt.store != squashimport.Overlay {
		size = max(size, mem.total-spare)
	}
	return b.opt.nixSize.of(mem.total, size), inodes
}

// copySize is what a copy of the store takes on a tmpfs, in bytes, with all that
// is put beside it, or 0 where the manifest does not say.
func (b *boot) copySize() int64 {
	size := b.manifest.UnpackedSize()
	if size == 0 {
		return 0
	}
	if r := b.manifest.Registration; r != nil {
		size += r.UnpackedSize
	}
	if r := b.manifest.Root; r != nil {
		size += r.UnpackedSize
	}
	return size
}

// checkMemory stops the boot before a copy that would not fit into RAM. At its
// end the images are gone, so what it needs is the difference.
func (b *boot) checkMemory() error {
	need := b.copySize()
	if need == 0 {
		return nil
	}
	mem, err := readMemory()
	if err != nil {
		return err
	}
	if has := mem.available + b.manifest.Size() - spare; need > has {
		return fmt.Errorf("too little RAM to copy the store: it needs %.1f MB, and %.1f of %.1f MB can be had with the images deleted: "+
			"use stage1.store=overlay, which needs only the images, or a machine with %.0f MB more",
			mb(need), mb(has), mb(mem.total), mb(need-has)+1)
	}
	return nil
}

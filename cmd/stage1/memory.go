package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/squashimport"
)

// spare is RAM that the import leaves to the kernel and to stage 2, in bytes.
const spare = 48 << 20

// chooseMode finds the mode of the import that fits into RAM, or stops the boot
// while it still can say why.
func (b *boot) chooseMode() error {
	mem, err := readMemory()
	if err != nil {
		return err
	}
	mode, err := fittingMode(b.manifestInPages(), b.opt, mem)
	if err != nil {
		return err
	}
	if b.opt.store == squashimport.Auto && mode == squashimport.Copy {
		b.log.warningf("the store is copied: mounting %d images takes more RAM", len(b.manifest.Images))
	}
	b.mode = mode
	return nil
}

// manifestInPages is the manifest with sizes for the kernel's pages.
func (b *boot) manifestInPages() *manifest.Manifest {
	return b.manifest.InPages(int64(unix.Getpagesize()))
}

// fittingMode is the mode that the flags ask for, if it fits: for auto, overlay or
// else copy. Auto stays auto with an overlay that fits, which the kernel may refuse.
func fittingMode(m *manifest.Manifest, o *options, mem memory) (squashimport.Mode, error) {
	modes := []squashimport.Mode{o.store}
	if o.store == squashimport.Auto {
		modes = []squashimport.Mode{squashimport.Overlay, squashimport.Copy}
	}
	var short []string
	more := int64(-1)
	for _, mode := range modes {
		need := needs(m, o, mode)
		if need < 0 {
			continue
		}
		if need <= mem.available {
			if mode == squashimport.Overlay {
				mode = o.store
			}
			return mode, checkNixSize(m, o, mode, mem)
		}
		short = append(short, fmt.Sprintf("by %s it needs %.1f MB", mode, mb(need)))
		if lack := need - mem.available; more < 0 || lack < more {
			more = lack
		}
	}
	if more < 0 {
		return "", fmt.Errorf("an overlay takes 500 images, the manifest names %d: use stage1.store=copy, or link them (mknetboot does)", len(m.Images))
	}
	help := fmt.Sprintf("use a machine with %.0f MB more", mb(more)+1)
	if need := needs(m, o, squashimport.Overlay); o.store == squashimport.Copy && need >= 0 && need <= mem.available {
		help = fmt.Sprintf("use stage1.store=overlay, which needs %.1f MB, or a machine with %.0f MB more", mb(need), mb(more)+1)
	}
	return "", fmt.Errorf("too little RAM for the store: %s, and %.1f of %.1f MB are free (%.0f MB are for the system): %s",
		strings.Join(short, ", "), mb(mem.available), mb(mem.total), mb(spare), help)
}

// needs is the RAM in bytes that must be free for an import in the mode and for
// what comes after it, or -1 where the mode can't do it. It is too little for a
// copy of a seed's images, whose sizes are not known.
func needs(m *manifest.Manifest, o *options, mode squashimport.Mode) int64 {
	ram := squashimport.RAM(mode, m.Images, o.jobs)
	if ram < 0 {
		return -1
	}
	return ram + besideStore(m) + spare
}

// besideStore is what a tmpfs on /nix holds beside the store, in bytes.
func besideStore(m *manifest.Manifest) int64 {
	size := int64(0)
	if r := m.Registration; r != nil {
		size += r.UnpackedSize
	}
	if r := m.Root; r != nil {
		size += r.UnpackedSize
	}
	return size
}

// copySize is what a copy of the store takes on the tmpfs on /nix, in bytes, or 0
// where the manifest does not say.
func copySize(m *manifest.Manifest) int64 {
	if size := m.UnpackedSize(); size > 0 {
		return size + besideStore(m)
	}
	return 0
}

// checkNixSize compares the size that a flag gives the tmpfs on /nix with what
// goes there.
func checkNixSize(m *manifest.Manifest, o *options, mode squashimport.Mode, mem memory) error {
	need := besideStore(m) + 1<<20 // and directories
	if mode == squashimport.Copy {
		need = copySize(m)
	}
	if size, _ := nixSize(m, o, mem); size < need {
		return fmt.Errorf("stage1.nix_size= makes the tmpfs on /nix %.1f MB large, and with stage1.store=%s it must hold %.1f MB: make it larger, or leave the flag out", mb(size), mode, mb(need))
	}
	return nil
}

// nixSize is the size in bytes and the number of inodes of the tmpfs on /nix.
// They are the kernel's default, half of the RAM (Documentation/filesystems/
// tmpfs.rst), or more where a copy of the store needs it. Of a seed's manifest,
// which has no sizes, a copy may take all of the RAM less what must be spared. The
// kernel has an inode a page by default; here it is one for 4096 bytes even where
// pages are larger, which would be too few for a store.
func nixSize(m *manifest.Manifest, o *options, mem memory) (size, inodes int64) {
	size = mem.total / 2
	inodes = size / 4096
	if need := copySize(m); need > 0 {
		// An eighth more, for what is written to the store and the database.
		size = max(size, need+need/8)
		inodes = max(inodes, 2*m.Inodes())
	} else if o.store != squashimport.Overlay {
		size = max(size, mem.total-spare)
	}
	return o.nixSize.of(mem.total, size), inodes
}

// mayCopy stops a copy that would not fit, which auto turns to when the kernel
// refuses an overlay.
func (b *boot) mayCopy() error {
	mem, err := readMemory()
	if err != nil {
		return err
	}
	o := *b.opt
	o.store = squashimport.Copy
	_, err = fittingMode(b.manifestInPages(), &o, mem)
	return err
}

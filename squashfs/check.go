package squashfs

import (
	"errors"
	"fmt"
	"hash/maphash"
)

// setID are the permission bits by which a program runs as its owner or group.
const setID = 0o6000

// prefixSecurity is the type of attributes security.*: SQUASHFS_XATTR_SECURITY.
const prefixSecurity = 2

// Check reads all metadata of an image and returns the names in its root
// directory, sorted. It returns an error unless the image may be a part of a Nix
// store: its tables are sound, and all below its root directory are directories,
// files and symlinks that give nobody another's rights. This is what a NAR can
// hold (E. Dolstra, The Purely Functional Software Deployment Model, section 5.2).
//
// It spares the kernel, whose own checks are few, what is damaged. It is no guard
// against an image that was crafted to look otherwise to the kernel, by way of the
// index of a directory for example: that takes a digest, and a mount with nodev
// and nosuid. The data of files is not read.
func Check(in Input) (names []string, err error) {
	img, err := openImage(in)
	if err != nil {
		return nil, err
	}
	if err := img.load(newDecompressor(img.super.Compressor)); err != nil {
		return nil, err
	}
	c := &storeChecker{image: img, sets: map[uint32]bool{}}
	if err := img.scan(maphash.MakeSeed(), c.check); err != nil {
		return nil, err
	}
	for _, e := range img.root {
		names = append(names, e.name)
	}
	return names, nil
}

// storeChecker checks inodes of an image.
type storeChecker struct {
	*image
	sets map[uint32]bool // of attributes, that were checked
}

// check returns an error for an inode that no store path has.
func (c *storeChecker) check(in *inode) error {
	switch in.kind {
	case kindDirectory, kindFile, kindSymlink:
	case kindBlockDevice, kindCharDevice:
		return errors.New("it is a device node: a store path has only directories, files and symlinks")
	default:
		return errors.New("it is a fifo or a socket: a store path has only directories, files and symlinks")
	}
	if in.mode&setID != 0 {
		return fmt.Errorf("its mode %#o has a set-user-ID or set-group-ID bit: nothing in a store path has", in.mode)
	}
	if in.xattr == noXattr || c.xattrs == nil || c.sets[in.xattr] {
		return nil
	}
	c.sets[in.xattr] = true
	set, err := c.xattrs.set(in.xattr)
	if err != nil {
		return fmt.Errorf("xattr table: %w", err)
	}
	for _, a := range set.attributes {
		if a.prefix == prefixSecurity && string(a.name) == "capability" {
			return errors.New("it has capabilities (security.capability): nothing in a store path has")
		}
	}
	return nil
}

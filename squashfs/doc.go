// Package squashfs links squashfs 4.0 images, and reads them: [Link] makes one
// image out of many without unpacking them, and a [Reader] has the files of one.
//
// It does not make an image out of files: that is mksquashfs's job. It knows
// squashfs 4.0 only, with each of its compressors.
//
// Data and fragment blocks, which are nearly all of an image, are taken over
// verbatim, those that are byte-identical once. Everything that says where they
// are (the inode, directory, fragment, ID, extended attribute and export
// tables) is written anew. So a link costs what its inputs' metadata cost:
// milliseconds for an image that mksquashfs works on for seconds. The result is a
// [Layout], which refers to the inputs until it is written.
//
// An image is laid out so (each part is described where it is read):
//
//	superblock           superblock.go
//	compressor options   compressor.go
//	data and fragments   share.go; with gaps where alignment calls for one
//	inode table          inode.go
//	directory table      directory.go
//	fragment table       table.go
//	export table         table.go
//	ID table             table.go
//	xattr table          xattr.go
//
// All integers are little-endian. The format is described by the Linux kernel's
// Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h, which
// comments here refer to by section and by name.
package squashfs

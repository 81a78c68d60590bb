package squashfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLink links a directory, a file and a symlink, as store paths are, and
// checks what the kernel sees against the sources.
func TestLink(t *testing.T) {
	src := t.TempDir()
	makeZoo(t, filepath.Join(src, "zoo"))
	makeZoo(t, filepath.Join(src, "a-zoo"))
	check(t, os.WriteFile(filepath.Join(src, "file"), noise(3, 200_000), 0o755), os.Symlink("zoo/noise", filepath.Join(src, "link")))
	for _, args := range []string{
		"-comp gzip",
		"-comp gzip -b 4K -Xwindow-size 8",
		"-comp gzip -b 1M -noI -noId -noX -noD -noF",
		"-comp xz",
		"-comp xz -b 4K -tailends",
		"-comp xz -b 1M -Xbcj x86 -Xdict-size 50%",
		"-comp zstd",
		"-comp zstd -b 4K -Xcompression-level 19",
		"-comp zstd -b 1M -tailends",
		"-comp lz4",
		"-comp lz4 -b 4K -Xhc",
		"-comp lz4 -b 1M -no-fragments",
		"-comp lzo",
	} {
		t.Run(args, func(t *testing.T) {
			var images []string
			for _, name := range []string{"zoo", "link", "a-zoo", "file"} {
				images = append(images, mksquashfs(t, filepath.Join(src, name), strings.Fields(args)...))
			}
			checkTree(t, mount(t, write(t, link(t, images...))), src)
		})
	}
}

// TestOptions links images made with different options of their compressor.
func TestOptions(t *testing.T) {
	src := t.TempDir()
	makeZoo(t, filepath.Join(src, "a"))
	makeZoo(t, filepath.Join(src, "b"))
	for _, test := range []struct{ a, b string }{
		{"-comp xz -Xdict-size 8K", "-comp xz"},
		{"-comp xz", "-comp xz -Xdict-size 12K -Xbcj x86"},
		{"-comp zstd -Xcompression-level 1", "-comp zstd"},
		{"-comp gzip", "-comp gzip -Xcompression-level 1"},
		{"-comp lz4 -Xhc", "-comp lz4"},
	} {
		a := mksquashfs(t, filepath.Join(src, "a"), strings.Fields(test.a)...)
		b := mksquashfs(t, filepath.Join(src, "b"), strings.Fields(test.b)...)
		checkTree(t, mount(t, write(t, link(t, a, b))), src)
	}
}

// TestUnsquashfs has unsquashfs read linked images; the kernel cannot read lzma.
func TestUnsquashfs(t *testing.T) {
	src := t.TempDir()
	zoo, other := filepath.Join(src, "zoo"), filepath.Join(src, "zoo2")
	makeZoo(t, zoo)
	makeZoo(t, other)
	for _, c := range []string{"gzip", "lzma", "lzo", "xz", "lz4", "zstd"} {
		t.Run(c, func(t *testing.T) {
			image := mksquashfs(t, zoo, "-comp", c)
			linked := write(t, link(t, image, mksquashfs(t, other, "-comp", c)))
			list := func(image string) string {
				// Its heading names the compressor's decoder threads.
				return runCommand(t, "unsquashfs", "-lls", image, "zoo")
			}
			root := regexp.MustCompile(`(?m)^.* squashfs-root$`)
			if got, want := root.ReplaceAllString(list(linked), ""), root.ReplaceAllString(list(image), ""); got != want {
				t.Errorf("unsquashfs -lls = %s\nwant %s", got, want)
			}
			for _, name := range []string{"small", "noise", "sub/deeper/text", "sparse"} {
				want, err := os.ReadFile(filepath.Join(zoo, name))
				if err != nil {
					t.Fatal(err)
				}
				if got := runCommand(t, "unsquashfs", "-cat", linked, "zoo/"+name); got != string(want) {
					t.Errorf("unsquashfs -cat %s = %d bytes, not those of the source, %d bytes", name, len(got), len(want))
				}
			}
		})
	}
}

// TestDirectorySizes has directories with numbers of entries around the limits of
// a run, of a metadata block and of a basic inode.
func TestDirectorySizes(t *testing.T) {
	src := t.TempDir()
	var images []string
	for _, n := range []int{0, 1, 2, 255, 256, 257, 400, 5000, 70000} {
		dir := filepath.Join(src, fmt.Sprintf("dir%05d", n))
		check(t, os.Mkdir(dir, 0o755))
		for i := range n {
			name := filepath.Join(dir, fmt.Sprint(i))
			if n == 5000 {
				name += strings.Repeat("x", i%200)
			}
			if i%50 == 0 {
				check(t, os.MkdirAll(filepath.Join(name, "below"), 0o755))
			} else {
				check(t, os.Symlink("target", name))
			}
		}
		images = append(images, mksquashfs(t, dir, "-comp", "zstd"))
	}
	linked := write(t, link(t, images...))
	checkTree(t, mount(t, linked), src)
	if want, err := os.ReadFile(linked); err != nil || !bytes.Equal(readAll(t, link(t, linked)), want) {
		t.Errorf("the link of the linked image differs from it (%v)", err)
	}
}

// TestFileSizes has files around the limits of blocks and fragments, with holes
// at each place.
func TestFileSizes(t *testing.T) {
	src := t.TempDir()
	const block = 4096
	dir := filepath.Join(src, "dir")
	check(t, os.Mkdir(dir, 0o755))
	for i, n := range []int{0, 1, block - 1, block, block + 1, 2*block - 1, 2 * block, 2*block + 1, 100 * block, 100*block + 17} {
		name := filepath.Join(dir, fmt.Sprint(n))
		check(t, os.WriteFile(name, noise(i, n), 0o644), os.WriteFile(name+"-text", bytes.Repeat([]byte("x"), n), 0o644),
			os.WriteFile(name+"-hole", noise(-i, n), 0o644), os.Truncate(name+"-hole", int64(n+5*block+1)),
			os.WriteFile(name+"-all-hole", nil, 0o644), os.Truncate(name+"-all-hole", int64(n)))
	}
	small := filepath.Join(src, "small")
	check(t, os.WriteFile(small, []byte("small"), 0o644))
	for _, args := range []string{"-b 4K", "-b 4K -tailends", "-b 4K -no-fragments", "-b 128K -tailends"} {
		t.Run(args, func(t *testing.T) {
			// Not lz4: mksquashfs 4.5.1 now and then packs a fragment of tail
			// ends by it that nobody can unpack.
			a := append(strings.Fields(args), "-comp", "zstd")
			checkTree(t, mount(t, write(t, link(t, mksquashfs(t, dir, a...), mksquashfs(t, small, a...)))), src)
		})
	}
}

// TestLargeFile has a file whose size takes more than 32 bits.
func TestLargeFile(t *testing.T) {
	src, err := os.Create(filepath.Join(t.TempDir(), "large"))
	check(t, err)
	defer src.Close()
	places := []int64{5000, 3<<30 + 1, 4<<30 + 17}
	for i, off := range places {
		_, err := src.WriteAt(noise(i, 10000), off)
		check(t, err)
	}
	got, err := os.Open(filepath.Join(mount(t, write(t, link(t, mksquashfs(t, src.Name(), "-b", "1M", "-comp", "lz4")))), "large"))
	check(t, err)
	defer got.Close()
	var a, b unix.Stat_t
	check(t, unix.Fstat(int(got.Fd()), &a), unix.Fstat(int(src.Fd()), &b))
	if a.Size != b.Size || a.Blocks > 1<<20 {
		t.Errorf("size = %d in %d sectors, want %d with holes", a.Size, a.Blocks, b.Size)
	}
	for _, off := range append(places, 1<<30) {
		// As far as the file goes, from before the noise to behind it.
		a, b := make([]byte, 20000), make([]byte, 20000)
		n, _ := got.ReadAt(a, off-3000)
		m, _ := src.ReadAt(b, off-3000)
		if n != m || !bytes.Equal(a, b) {
			t.Errorf("%d bytes at byte %d differ from the source's %d", n, off-3000, m)
		}
	}
}

// zeros is an endless io.ReaderAt.
type zeros struct{}

func (zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	return len(p), nil
}

// craft returns an image of what write writes: the inodes below the root directory,
// of which it returns the number and the root's entries.
func craft(t *testing.T, data []extent, write func(l *linker) (uint32, []entry)) *Layout {
	t.Helper()
	l := newLinker(nil)
	_, err := l.id(0)
	check(t, err)
	n, entries := write(l)
	l.total = uint64(n)
	list, err := writeListing(&l.dirs, entries)
	check(t, err)
	at, err := l.write(&inode{kind: kindDirectory, mode: 0o755, number: n + 1, nlink: 2, xattr: noXattr, list: list})
	check(t, err)
	return l.assemble(&Superblock{
		Magic: magic, Major: 4, Inodes: n + 1, Compressor: Gzip, BlockSize: 1 << 20, BlockLog: 20, RootInode: uint64(at),
	}, nil, data)
}

// TestLoops checks that directories that are no tree are refused.
func TestLoops(t *testing.T) {
	dir := func(name string, at ref, number uint32) entry {
		return entry{name: name, inode: at, number: number, kind: kindDirectory}
	}
	for _, test := range []struct {
		name, want string
		write      func(l *linker) (uint32, []entry)
	}{
		{"root in itself", `directory table: directory "self" has another name, or contains itself`, func(l *linker) (uint32, []entry) {
			return 0, []entry{dir("self", 0, 1)} // the only inode, so the root's
		}},
		{"directory of two names", `directory table: directory "b" has another name, or contains itself`, func(l *linker) (uint32, []entry) {
			at, err := l.write(&inode{kind: kindDirectory, number: 1, xattr: noXattr})
			check(t, err)
			return 1, []entry{dir("a", at, 1), dir("b", at, 1)}
		}},
		{"deep", "directory table: directories are nested more than 4096 deep", func(l *linker) (uint32, []entry) {
			var entries []entry
			for i := range uint32(5000) {
				list, err := writeListing(&l.dirs, entries)
				check(t, err)
				at, err := l.write(&inode{kind: kindDirectory, number: i + 1, xattr: noXattr, list: list})
				check(t, err)
				entries = []entry{dir("d", at, i+1)}
			}
			return 5000, entries
		}},
	} {
		image := craft(t, nil, test.write)
		_, err := Link([]Input{{"img", image, image.Size()}}, Options{})
		if want := "img: " + test.want; err == nil || err.Error() != want {
			t.Errorf("%s: Link() = %v, want %s", test.name, err, want)
		}
	}
}

// TestFarData links an image behind one with more than 4 GiB of data, so that
// files with a basic inode need an extended one.
func TestFarData(t *testing.T) {
	const blocks = 4<<10 + 1
	data := []extent{{from: zeros{}, size: blocks << 20, to: SuperblockSize}}
	image := craft(t, data, func(l *linker) (uint32, []entry) {
		big := inode{kind: kindFile, mode: 0o644, number: 1, nlink: 1, xattr: noXattr, start: SuperblockSize, size: blocks << 20, fragment: noFragment}
		for range blocks {
			big.blocks = binary.LittleEndian.AppendUint32(big.blocks, 1<<20|storedData)
		}
		at, err := l.write(&big)
		check(t, err)
		return 1, []entry{{name: "big", inode: at, number: 1, kind: kindFile}}
	})

	src := t.TempDir()
	makeZoo(t, filepath.Join(src, "zoo"))
	inputs := append([]Input{{"big", image, image.Size()}}, open(t, mksquashfs(t, filepath.Join(src, "zoo"), "-comp", "gzip", "-b", "1M"))...)
	linked, err := Link(inputs, Options{RootMode: 0o755})
	check(t, err)
	f, err := os.Create(filepath.Join(t.TempDir(), "linked"))
	check(t, err)
	defer f.Close()
	// What is between is a hole.
	for _, part := range [][2]int64{{0, SuperblockSize}, {blocks << 20, linked.Size()}} {
		_, err := io.Copy(io.NewOffsetWriter(f, part[0]), io.NewSectionReader(linked, part[0], part[1]-part[0]))
		check(t, err)
	}
	dir := mount(t, f.Name())
	checkTree(t, filepath.Join(dir, "zoo"), filepath.Join(src, "zoo"))
	info, err := os.Stat(filepath.Join(dir, "big"))
	check(t, err)
	if info.Size() != blocks<<20 {
		t.Errorf("size of big = %d, want %d", info.Size(), int64(blocks)<<20)
	}
}

// TestIDs links images that have many user IDs, some of them in common.
func TestIDs(t *testing.T) {
	// With a pseudo file, mksquashfs makes directories of any owner.
	users := func(name string, first, n int) string {
		dir := filepath.Join(t.TempDir(), name)
		check(t, os.Mkdir(dir, 0o755))
		var pseudo strings.Builder
		for i := first; i < first+n; i++ {
			fmt.Fprintf(&pseudo, "%s/%d d 755 %d %d\n", name, i, i, i/2)
		}
		file := dir + ".pseudo"
		check(t, os.WriteFile(file, []byte(pseudo.String()), 0o644))
		return mksquashfs(t, dir, "-pf", file, "-comp", "lz4")
	}
	a, b := users("a", 1000, 3000), users("b", 3000, 3000)
	got := mount(t, write(t, link(t, a, b)))
	checkTree(t, filepath.Join(got, "a"), filepath.Join(mount(t, a), "a"))
	checkTree(t, filepath.Join(got, "b"), filepath.Join(mount(t, b), "b"))

	l := newLinker(nil)
	for i := range uint32(1 << 16) {
		if _, err := l.id(i); (err != nil) != (i == 1<<16-1) {
			t.Fatalf("ID %d: %v, want room for 65535", i, err)
		}
	}
}

// TestShared checks that data that two images have is stored once.
func TestShared(t *testing.T) {
	src := t.TempDir()
	for i, name := range []string{"one", "two"} {
		dir := filepath.Join(src, name)
		check(t, os.Mkdir(dir, 0o755),
			os.WriteFile(filepath.Join(dir, name), noise(i, 300_000), 0o644),
			os.WriteFile(filepath.Join(dir, "same"), noise(7, 600_000), 0o644),                           // 4 blocks and a short one
			os.WriteFile(filepath.Join(dir, "same-but-tail"), append(noise(8, 256<<10), name...), 0o644), // 2 blocks and a fragment
		)
	}
	zoo := filepath.Join(src, "zoo") // in all its image the same as its copy
	makeZoo(t, zoo)
	runCommand(t, "cp", "-a", zoo, filepath.Join(src, "zoo-copy"))
	var images []string
	for _, name := range []string{"one", "two", "zoo", "zoo-copy"} {
		images = append(images, mksquashfs(t, filepath.Join(src, name), "-comp", "zstd", "-tailends"))
	}
	all := link(t, images...)
	checkTree(t, mount(t, write(t, all)), src)

	data := func(name string) int64 {
		s, err := ReadSuperblock(open(t, name)[0].R, 1<<40)
		check(t, err)
		// Data starts behind the superblock and its options: zstd's level is
		// there only if it is not the default.
		return int64(s.InodeStart) - SuperblockSize
	}
	// Noise does not compress: its blocks are as large as in the file. The
	// tail of "same" is in a fragment with others.
	want := data(images[3]) + 600_000/(128<<10)*(128<<10) + 256<<10
	if got := all.Stats().Shared; got != want {
		t.Errorf("Stats().Shared = %d, want %d", got, want)
	}
	if got := all.Stats(); got.Entries != 4 || got.Inodes != int64(len(tree(t, src))-2*3) {
		t.Errorf("Stats() = %+v, want 4 entries, %d inodes", got, len(tree(t, src))-2*3) // 3 hard links in each zoo
	}
}

// TestRelink checks that a linked image can be linked, with others, or alone
// without any change.
func TestRelink(t *testing.T) {
	src := t.TempDir()
	var images []string
	for _, name := range []string{"b", "c", "a", "d"} {
		makeZoo(t, filepath.Join(src, name))
		check(t, os.WriteFile(filepath.Join(src, name, "own"), noise(int(name[0]), 100_000), 0o644))
		images = append(images, mksquashfs(t, filepath.Join(src, name), "-comp", "xz"))
	}
	three := write(t, link(t, images[:3]...))
	if !bytes.Equal(readAll(t, link(t, three)), readAll(t, link(t, images[:3]...))) {
		t.Error("the link of a linked image differs from it")
	}
	checkTree(t, mount(t, write(t, link(t, three, images[3]))), src)
}

// TestExports checks the export table by having the kernel open files by their
// inode numbers.
func TestExports(t *testing.T) {
	src := t.TempDir()
	var images []string
	for _, name := range []string{"a", "b"} {
		makeZoo(t, filepath.Join(src, name))
		images = append(images, mksquashfs(t, filepath.Join(src, name), "-comp", "gzip"))
	}
	linked := write(t, link(t, images...))
	handles := make(map[string]unix.FileHandle)
	t.Run("name", func(t *testing.T) {
		dir := mount(t, linked)
		for _, line := range tree(t, dir) {
			name, _, _ := strings.Cut(line, " ")
			handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(dir, name), 0)
			check(t, err)
			handles[name] = handle
		}
	})
	// Mounted anew, so that the kernel knows no inodes.
	dir := mount(t, linked)
	mnt, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	check(t, err)
	defer unix.Close(mnt)
	for name, handle := range handles {
		fd, err := unix.OpenByHandleAt(mnt, handle, unix.O_PATH)
		if err != nil {
			t.Errorf("open %s by its handle: %v", name, err)
			continue
		}
		var got, want unix.Stat_t
		check(t, unix.Fstat(fd, &got), unix.Lstat(filepath.Join(dir, name), &want), unix.Close(fd))
		if got.Ino != want.Ino || got.Mode != want.Mode {
			t.Errorf("handle of %s opens inode %d, mode %o, want inode %d, mode %o", name, got.Ino, got.Mode, want.Ino, want.Mode)
		}
	}
}

// TestRoot checks that the root directory is as the options say.
func TestRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "zoo")
	makeZoo(t, dir)
	image := mksquashfs(t, dir)
	l, err := Link(open(t, image), Options{RootMode: 0o1775, RootUID: 70000, RootGID: 30000, RootTime: 1234567890, MkfsTime: 42})
	check(t, err)
	var st unix.Stat_t
	check(t, unix.Stat(mount(t, write(t, l)), &st))
	if st.Mode&0o7777 != 0o1775 || st.Uid != 70000 || st.Gid != 30000 || st.Mtim.Sec != 1234567890 || st.Nlink != 3 {
		t.Errorf("root: mode %o, owner %d:%d, time %d, nlink %d, want 1775, 70000:30000, 1234567890, 3", st.Mode&0o7777, st.Uid, st.Gid, st.Mtim.Sec, st.Nlink)
	}
	if s, err := ReadSuperblock(l, l.Size()); err != nil || s.MkfsTime != 42 {
		t.Errorf("MkfsTime = %d, %v, want 42", s.MkfsTime, err)
	}
}

// TestConflicts checks that what cannot be one image is refused by name.
func TestConflicts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "zoo")
	makeZoo(t, dir)
	a := open(t, mksquashfs(t, dir, "-comp", "gzip"))[0]
	for _, test := range []struct{ args, want string }{
		{"-comp gzip", `both A and B have an entry "zoo"`},
		{"-comp zstd", "A is compressed by gzip, B by zstd: want one compressor"},
		{"-comp gzip -b 64K", "A has blocks of 131072 bytes, B of 65536: want one block size"},
	} {
		b := open(t, mksquashfs(t, dir, strings.Fields(test.args)...))[0]
		a.Name, b.Name = "A", "B"
		if _, err := Link([]Input{a, b}, Options{}); err == nil || err.Error() != test.want {
			t.Errorf("Link(gzip, %s) = %v, want %s", test.args, err, test.want)
		}
	}
	if _, err := Link(nil, Options{}); err == nil {
		t.Error("Link(nothing) succeeded")
	}
}

// TestDeterministic checks that the same inputs give the same image.
func TestDeterministic(t *testing.T) {
	src := t.TempDir()
	var images []string
	for i := range 20 {
		dir := filepath.Join(src, fmt.Sprint(i))
		makeZoo(t, dir)
		images = append(images, mksquashfs(t, dir, "-comp", "zstd"))
	}
	want := sha256.Sum256(readAll(t, link(t, images...)))
	for range 5 {
		if sha256.Sum256(readAll(t, link(t, images...))) != want {
			t.Fatal("two links of the same images differ")
		}
	}
	slices.Reverse(images)
	checkTree(t, mount(t, write(t, link(t, images...))), src)
}

// TestCorrupt changes each byte of an image's metadata: there may be an error that
// names the image, and a linked image otherwise, but nothing else.
func TestCorrupt(t *testing.T) {
	for _, image := range seedImages(t)[:2] {
		s, err := ReadSuperblock(bytes.NewReader(image), int64(len(image)))
		check(t, err)
		for i := range image {
			if i >= SuperblockSize+2 && uint64(i) < s.InodeStart {
				continue
			}
			for _, x := range []byte{0x01, 0x80, 0xff, image[i]} {
				b := bytes.Clone(image)
				b[i] ^= x
				_, err := Link([]Input{{"img", bytes.NewReader(b), int64(len(b))}}, Options{})
				if err != nil && !strings.HasPrefix(err.Error(), "img: ") {
					t.Fatalf("byte %d ^ %#x: Link() = %v, want it to name the image", i, x, err)
				}
			}
		}
	}
}

// TestTruncated cuts an image off at each place.
func TestTruncated(t *testing.T) {
	image := seedImages(t)[0]
	s, err := ReadSuperblock(bytes.NewReader(image), int64(len(image)))
	check(t, err)
	for n := range s.BytesUsed {
		b := bytes.NewReader(image[:n])
		if _, err := Link([]Input{{"img", b, b.Size()}}, Options{}); err == nil {
			t.Fatalf("Link(%d bytes of %d) succeeded", n, s.BytesUsed)
		}
		// As if it were cut off while it is read.
		if _, err := Link([]Input{{"img", b, int64(len(image))}}, Options{}); err == nil && n <= s.IDStart {
			t.Fatalf("Link(%d bytes of %d, said to be all) succeeded", n, s.BytesUsed)
		}
	}
	if _, err := ReadSuperblock(strings.NewReader("#!/bin/sh"+strings.Repeat(" ", 100)), 109); !errors.Is(err, ErrNotSquashfs) {
		t.Errorf("ReadSuperblock(script) = %v, want %v", err, ErrNotSquashfs)
	}
}

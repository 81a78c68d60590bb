package squashimport

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/squashfs"
)

// copier copies images into a store. Workers take pieces of work, the newest
// first, and a new image only when there is no piece to take, so that few images
// are in work at once and a large one occupies all workers.
//
// Images are read by package squashfs, not mounted. A mount would cost two waits
// for the kernel's RCU, tens of milliseconds, each file's data would go through
// the page cache, and on a kernel with one decompressor a mount
// (SQUASHFS_DECOMP_SINGLE) the workers would wait for each other.
type copier struct {
	im    *Importer
	store int // open directory

	mu      sync.Mutex
	change  sync.Cond
	next    int     // the next image of im.pending
	stack   []piece // of work, to be done
	working int     // workers that may add to stack
	err     error   // the first error, which ends all
	inWork  map[*source]bool
	done    map[int]bool // images of im.pending that are copied and deleted
}

// source is an image that is being copied.
type source struct {
	manifest.Image
	*squashfs.Reader
	index int // in im.pending
	file  *os.File
	names []string
	left  atomic.Int64 // store paths that are not whole yet

	dirMu sync.Mutex
	dirs  map[uint64]string // inode → name

	linkMu sync.Mutex        // held until the first name of an inode is there
	links  map[uint64]string // inode → its first name, for files with several
}

// storePath is an entry of an image's root directory that is being copied.
type storePath struct {
	*source
	left atomic.Int64 // its pieces that are not done yet
}

// piece is a part of a store path's work.
type piece struct {
	*storePath
	do func(d *squashfs.Decoder) error
}

// damaged says what it means that the kernel is not the one who complains.
const damaged = " (the image is damaged)"

func (im *Importer) copy() error {
	if err := im.opt.MayCopy(); err != nil {
		return err
	}
	im.mode = Copy
	store, err := unix.Open(im.opt.Store, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("import: open store %s: %w", im.opt.Store, err)
	}
	defer unix.Close(store)
	c := &copier{im: im, store: store, inWork: map[*source]bool{}, done: map[int]bool{}}
	c.change.L = &c.mu
	var workers sync.WaitGroup
	for range im.opt.Jobs {
		workers.Go(c.work)
	}
	workers.Wait()
	for s := range c.inWork {
		c.err = errors.Join(c.err, c.undo(s))
	}
	var left []manifest.Image
	for i, image := range im.pending {
		if !c.done[i] {
			left = append(left, image)
		}
	}
	im.pending = left
	return c.err
}

// work takes work until there is none, or an error.
func (c *copier) work() {
	decoder := new(squashfs.Decoder)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil {
		var do func() error
		if n := len(c.stack); n > 0 {
			p := c.stack[n-1]
			c.stack = c.stack[:n-1]
			do = func() error {
				defer c.im.opt.Trace.begin("copy", p.File)()
				if err := p.do(decoder); err != nil {
					return err
				}
				return c.finish(p.storePath)
			}
		} else if i := c.next; i < len(c.im.pending) {
			c.next++
			do = func() error { return c.copyImage(i, decoder) }
		} else if c.working == 0 {
			return
		} else {
			c.change.Wait()
			continue
		}
		c.working++
		c.mu.Unlock()
		err := do()
		c.mu.Lock()
		c.working--
		if c.err == nil {
			c.err = err
		}
		c.change.Broadcast()
	}
}

// later puts work on the stack, of which the first is done first.
func (c *copier) later(p *storePath, work ...func(d *squashfs.Decoder) error) {
	if len(work) == 0 {
		return
	}
	p.left.Add(int64(len(work)))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, do := range slices.Backward(work) {
		c.stack = append(c.stack, piece{p, do})
	}
	c.change.Broadcast()
}

// copyImage opens an image and copies its root directory's entries: files and
// symlinks at once, directories as work for all.
func (c *copier) copyImage(index int, d *squashfs.Decoder) error {
	s, entries, err := c.openSource(index)
	if err != nil {
		return err
	}
	defer c.im.opt.Trace.begin("copy", s.File)()
	for _, e := range entries {
		p := &storePath{source: s}
		p.left.Store(1)
		dir, err := c.copyEntry(p, c.store, "", e, d)
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("image %s: store path %s is in another image too", s.File, e.Name)
		}
		s.names = append(s.names, e.Name)
		if err != nil {
			return err
		}
		if dir != nil {
			c.later(p, dir)
		}
		if err := c.finish(p); err != nil {
			return err
		}
	}
	return nil
}

// openSource opens an image of the store, and returns its root directory's entries.
func (c *copier) openSource(index int) (*source, []squashfs.Entry, error) {
	image := c.im.pending[index]
	defer c.im.opt.Trace.begin("open", image.File)()
	s, root, err := openSource(c.im.opt.Initrd, image)
	if err != nil {
		return nil, nil, err
	}
	s.index = index
	c.mu.Lock()
	c.inWork[s] = true
	c.mu.Unlock()
	entries, err := s.List(root)
	if err != nil {
		return nil, nil, s.fail("read", "/", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	if err := checkNames(names, &image); err != nil {
		return nil, nil, fmt.Errorf("image %s: %w", image.File, err)
	}
	s.left.Store(int64(len(names)))
	return s, entries, nil
}

// openSource opens an image, and returns its root directory.
func openSource(initrd string, image manifest.Image) (*source, *squashfs.Inode, error) {
	f, _, err := openImage(initrd, image)
	if err != nil {
		return nil, nil, err
	}
	s := &source{Image: image, file: f, dirs: map[uint64]string{}, links: map[uint64]string{}}
	root, err := s.open()
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("image %s: %w%s", image.File, err, damaged)
	}
	return s, root, nil
}

// open reads the image's tables.
func (s *source) open() (*squashfs.Inode, error) {
	info, err := s.file.Stat()
	if err != nil {
		return nil, err
	}
	s.Reader, err = squashfs.NewReader(squashfs.Input{Name: s.File, R: s.file, Size: info.Size()})
	if err != nil {
		return nil, err
	}
	return s.Root()
}

// finish counts one piece of a store path as done. The last piece of the last path
// deletes the image.
func (c *copier) finish(p *storePath) error {
	if p.left.Add(-1) > 0 {
		return nil
	}
	c.im.paths.Add(1)
	if p.source.left.Add(-1) > 0 {
		return nil
	}
	p.file.Close()
	err := c.im.removeFile(p.File)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inWork, p.source)
	c.done[p.index] = true
	return err
}

// undo removes from the store what was copied of an image that is not whole.
func (c *copier) undo(s *source) (err error) {
	s.file.Close()
	for _, name := range s.names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(c.im.opt.Store, name)))
	}
	return err
}

// copyDir copies the entries of a directory that exists in the store, empty, then
// its attributes: what is made in its subdirectories later does not change them.
func (c *copier) copyDir(p *storePath, path string, dir *squashfs.Inode, d *squashfs.Decoder) error {
	entries, err := p.List(dir)
	if err != nil {
		return p.fail("read", path, err)
	}
	dst, err := openDir(c.store, path)
	if err != nil {
		return p.fail("open the copy of", path, err)
	}
	defer unix.Close(dst)
	// Data is in the order of directories walked depth first, mostly: so the
	// subdirectories' files are likely to need the same fragments.
	var dirs []func(d *squashfs.Decoder) error
	for _, e := range entries {
		dir, err := c.copyEntry(p, dst, path, e, d)
		if err != nil {
			return err
		}
		if dir != nil {
			dirs = append(dirs, dir)
		}
	}
	if err := p.setAttributes(dst, ".", dir); err != nil {
		return p.fail("set attributes of", path, err)
	}
	c.later(p, dirs...)
	return nil
}

// copyEntry copies one entry of the directory at path. Of a directory it only makes
// it, and returns what is left to do.
func (c *copier) copyEntry(p *storePath, dst int, path string, e squashfs.Entry, d *squashfs.Decoder) (dir func(d *squashfs.Decoder) error, err error) {
	path = filepath.Join(path, e.Name)
	in, err := p.Inode(e)
	if err != nil {
		return nil, p.fail("stat", path, err)
	}
	if in.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := p.makeDir(dst, path, in); err != nil {
			return nil, p.fail("make directory", path, err)
		}
		return func(d *squashfs.Decoder) error { return c.copyDir(p, path, in, d) }, nil
	}
	if in.Links > 1 {
		p.linkMu.Lock()
		defer p.linkMu.Unlock()
		if first, ok := p.links[in.ID]; ok {
			if err := unix.Linkat(c.store, first, dst, e.Name, 0); err != nil {
				return nil, p.fail("link to "+first, path, err)
			}
			return nil, nil
		}
		p.links[in.ID] = path
	}
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil, c.copyFile(p, dst, path, in, d)
	case unix.S_IFLNK:
		if err := unix.Symlinkat(in.Target, dst, e.Name); err != nil {
			return nil, p.fail("copy symlink", path, err)
		}
		if err := p.setAttributes(dst, e.Name, in); err != nil {
			return nil, p.fail("set attributes of", path, err)
		}
		return nil, nil
	}
	return nil, fmt.Errorf("image %s: %s has type %#o, a store path has only directories, files and symlinks", p.File, path, in.Mode&unix.S_IFMT)
}

// makeDir makes the directory at path, in a directory open as dst. In an image that
// was crafted so, it could contain itself.
func (s *source) makeDir(dst int, path string, in *squashfs.Inode) error {
	s.dirMu.Lock()
	first, again := s.dirs[in.ID]
	s.dirs[in.ID] = path
	s.dirMu.Unlock()
	if again {
		return fmt.Errorf("it is the directory %s too", first)
	}
	return unix.Mkdirat(dst, filepath.Base(path), 0o700)
}

// fail adds what failed on which file of which image, and what to do about it.
func (s *source) fail(do, path string, err error) error {
	return fmt.Errorf("import %s: %s %s: %w%s", s.File, do, path, err, hint(err, "the store's tmpfs is full: stage1.nix_size= sets its size, or the machine needs more RAM"))
}

// hint says what to do about an error of a copy; full is what to do where no space
// is left.
func hint(err error, full string) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return " (" + full + ")"
	case !errors.As(err, new(unix.Errno)):
		return damaged
	}
	return ""
}

func openDir(at int, path string) (fd int, err error) {
	return unix.Openat(at, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

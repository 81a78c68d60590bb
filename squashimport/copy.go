package squashimport

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"stage1/manifest"
)

// copySize is how much of a file is read and written at once: squashfs's default
// block.
const copySize = 128 << 10

// releases is how many images may be waiting for their unmount while others are
// copied. An unmount waits for an RCU grace period, tens of milliseconds, in
// which a worker can copy thousands of files.
const releases = 8

// copier copies images into a store. Workers take directories, the newest first,
// and a new image only when there is no directory to take, so that few images
// are in work at once and a large one occupies all workers.
type copier struct {
	im    *Importer
	store int // open directory

	mu      sync.Mutex
	change  sync.Cond
	next    int          // the next image of im.pending
	stack   []*directory // to be copied
	working int          // workers that may add to stack
	err     error        // the first error, which ends all
	inWork  map[*source]bool
	done    map[int]bool // images of im.pending that are copied and released

	release chan struct{} // a slot each for images that are being released
	waiting sync.WaitGroup
}

// source is an image that is being copied.
type source struct {
	*mounted
	index int // in im.pending
	root  int // open directory
	names []string
	left  atomic.Int64 // store paths that are not whole yet

	linkMu sync.Mutex
	links  map[uint64]string // inode → its first name, for those with several
}

// storePath is an entry of an image's root directory that is being copied.
type storePath struct {
	*source
	left atomic.Int64 // its directories that are not copied yet, and 1 for its root
}

// directory is one to be copied: it exists in the store, empty.
type directory struct {
	*storePath
	path string // in the image, and in the store
	stat unix.Stat_t
}

func (im *Importer) copy() error {
	if err := im.opt.MayCopy(); err != nil {
		return err
	}
	im.mode = Copy
	defer os.Remove(im.opt.Scratch) // best effort: an empty directory is in nobody's way
	store, err := unix.Open(im.opt.Store, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("import: open store %s: %w", im.opt.Store, err)
	}
	defer unix.Close(store)
	c := &copier{im: im, store: store, inWork: map[*source]bool{}, done: map[int]bool{}, release: make(chan struct{}, releases)}
	c.change.L = &c.mu
	var workers sync.WaitGroup
	for range im.opt.Jobs {
		workers.Go(c.work)
	}
	workers.Wait()
	c.waiting.Wait()
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
	buf := make([]byte, copySize)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil {
		var do func() error
		if n := len(c.stack); n > 0 {
			dir := c.stack[n-1]
			c.stack = c.stack[:n-1]
			do = func() error {
				defer c.im.opt.Trace.begin("copy", dir.File)()
				if err := c.copyDir(dir, buf); err != nil {
					return err
				}
				return c.finish(dir.storePath)
			}
		} else if i := c.next; i < len(c.im.pending) {
			c.next++
			do = func() error { return c.copyImage(i, buf) }
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

// copyImage mounts an image and copies its root directory's entries: files and
// symlinks at once, directories as work for all.
func (c *copier) copyImage(index int, buf []byte) error {
	m, err := c.im.mount(c.im.pending[index], c.im.scratchDir(index))
	if err != nil {
		return err
	}
	defer c.im.opt.Trace.begin("copy", m.File)()
	s := &source{mounted: m, index: index, root: -1, links: map[uint64]string{}}
	c.mu.Lock()
	c.inWork[s] = true
	c.mu.Unlock()
	names, err := m.entries()
	if err != nil {
		return err
	}
	if s.root, err = unix.Open(m.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("image %s: open its root directory: %w", m.File, err)
	}
	s.left.Store(int64(len(names)))
	for _, name := range names {
		p := &storePath{source: s}
		p.left.Store(1)
		err := c.copyEntry(p, s.root, c.store, "", name, buf)
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("image %s: store path %s is in another image too", m.File, name)
		}
		s.names = append(s.names, name)
		if err != nil {
			return err
		}
		if err := c.finish(p); err != nil {
			return err
		}
	}
	return nil
}

// finish counts one piece of a store path as copied. The last piece of the last
// path releases the image, of which no file may be open then.
func (c *copier) finish(p *storePath) error {
	if p.left.Add(-1) > 0 {
		return nil
	}
	c.im.paths.Add(1)
	if p.source.left.Add(-1) > 0 {
		return nil
	}
	c.release <- struct{}{}
	c.waiting.Go(func() {
		defer func() { <-c.release }()
		defer c.im.opt.Trace.begin("release", p.File)()
		err := p.source.close()
		if err == nil {
			err = c.im.removeFile(p.File)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.inWork, p.source)
		c.done[p.index] = true
		if c.err == nil {
			c.err = err
		}
	})
	return nil
}

func (s *source) close() error {
	if s.root >= 0 {
		unix.Close(s.root)
	}
	return s.unmount()
}

// undo removes from the store what was copied of an image that is not whole.
func (c *copier) undo(s *source) error {
	err := s.close()
	for _, name := range s.names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(c.im.opt.Store, name)))
	}
	return err
}

// copyDir copies the entries of a directory, then its attributes: what is made
// in its subdirectories later does not change them.
func (c *copier) copyDir(d *directory, buf []byte) error {
	src, err := openDir(d.root, d.path)
	if err != nil {
		return d.fail("open", d.path, err)
	}
	defer src.Close()
	dst, err := openDir(c.store, d.path)
	if err != nil {
		return d.fail("open the copy of", d.path, err)
	}
	defer dst.Close()
	names, err := src.Readdirnames(-1)
	if err != nil {
		return d.fail("read", d.path, err)
	}
	for _, name := range names {
		if err := c.copyEntry(d.storePath, int(src.Fd()), int(dst.Fd()), d.path, name, buf); err != nil {
			return err
		}
	}
	if err := d.setAttributes(int(src.Fd()), int(dst.Fd()), ".", &d.stat); err != nil {
		return d.fail("set attributes of", d.path, err)
	}
	return nil
}

// copyEntry copies one entry of the directory at path. A directory is only made
// here, and put on the stack.
func (c *copier) copyEntry(p *storePath, src, dst int, path, name string, buf []byte) error {
	path = filepath.Join(path, name)
	var st unix.Stat_t
	if err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return p.fail("stat", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := unix.Mkdirat(dst, name, 0o700); err != nil {
			return p.fail("make directory", path, err)
		}
		p.left.Add(1)
		c.mu.Lock()
		c.stack = append(c.stack, &directory{p, path, st})
		c.mu.Unlock()
		c.change.Signal()
		return nil
	}
	if st.Nlink > 1 {
		p.linkMu.Lock()
		defer p.linkMu.Unlock()
		if first, ok := p.links[st.Ino]; ok {
			if err := unix.Linkat(c.store, first, dst, name, 0); err != nil {
				return p.fail("link to "+first, path, err)
			}
			return nil
		}
		p.links[st.Ino] = path
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n, err := copyFile(src, dst, name, &st, buf)
		if err != nil {
			return p.fail("copy", path, err)
		}
		c.im.bytes.Add((n + 4095) &^ 4095)
	case unix.S_IFLNK:
		if err := copySymlink(src, dst, name, &st); err != nil {
			return p.fail("copy symlink", path, err)
		}
	default:
		return fmt.Errorf("image %s: %s has type %#o, a store path has only directories, files and symlinks", p.File, path, st.Mode&unix.S_IFMT)
	}
	if err := p.setAttributes(src, dst, name, &st); err != nil {
		return p.fail("set attributes of", path, err)
	}
	return nil
}

// fail adds what failed on which file of which image, and what to do about it.
func (s *source) fail(do, path string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOSPC):
		hint = " (the store's tmpfs is full: stage1.nix_size= sets its size, or the machine needs more RAM)"
	case errors.Is(err, unix.EIO):
		hint = " (the image is damaged: the kernel log says where)"
	}
	return fmt.Errorf("import %s: %s %s: %w%s", s.File, do, path, err, hint)
}

func openDir(at int, path string) (*os.File, error) {
	fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

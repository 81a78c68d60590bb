// Package squashimport makes /nix/store out of the squashfs images that a
// manifest names: the entries of each image's root directory become store paths.
//
// There are two ways, both writable afterwards:
//
//   - [Copy]: the store is a copy on the file system that holds it. Each image is
//     read by package squashfs, not mounted, and deleted.
//   - [Overlay]: the store is an overlay whose lower layers are the images, which
//     stay in RAM as they are. It takes no time and the least RAM.
//
// An image's file is deleted as soon as it is not needed. The peak of RAM of a
// copy is therefore the store, the images not yet done and the few in work.
//
// It does not decide where images come from, and it does not know which store
// paths ought to be there: the registration tells (package registration).
package squashimport

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"stage1/manifest"
)

// Mode is how images become the store.
type Mode string

// The modes. Auto is Overlay where the kernel and the number of images allow it,
// else Copy.
const (
	Auto    Mode = "auto"
	Overlay Mode = "overlay"
	Copy    Mode = "copy"
)

// Options say where an import works, and how.
type Options struct {
	Initrd  string // directory in which the manifest's file names are looked up
	Store   string // existing, empty directory that becomes the store
	State   string // overlay: directory for what is written to the store; made
	Scratch string // overlay: directory to mount images below; made. Short, see mount.Overlay
	Mode    Mode
	Jobs    int                  // workers that copy; 0 means one a CPU
	MayCopy func() error         // asked before a copy, whose error it can be; or nil
	Each    func(Progress)       // called every second while an import runs, or nil
	Warn    func(message string) // told what went another way than asked for, or nil
	Trace   *Trace               // what is done when, or nil
}

// Progress is how far an import is.
type Progress struct {
	Paths, TotalPaths int   // store paths
	Bytes, TotalBytes int64 // of files, in pages of 4096 bytes; TotalBytes 0 where not known
	Elapsed           time.Duration
}

// String is p as a line for the console.
func (p Progress) String() string {
	const mb = 1e6
	rate := 0.0
	if s := p.Elapsed.Seconds(); s > 0 {
		rate = float64(p.Bytes) / mb / s
	}
	total := ""
	if p.TotalBytes > 0 {
		total = fmt.Sprintf(" of %.1f", float64(p.TotalBytes)/mb)
	}
	return fmt.Sprintf("%d of %d store paths, %.1f%s MB, %.1f MB/s", p.Paths, p.TotalPaths, float64(p.Bytes)/mb, total, rate)
}

// Importer imports images. It is made by [New] and used by one goroutine.
type Importer struct {
	opt     Options
	pending []manifest.Image // not imported yet
	total   Progress         // the totals
	start   time.Time
	paths   atomic.Int64
	bytes   atomic.Int64
	mode    Mode // what was done
}

// workers is how many workers the option Jobs asks for.
func workers(jobs int) int {
	if jobs <= 0 {
		return runtime.NumCPU()
	}
	return jobs
}

// New returns an importer of the images.
func New(images []manifest.Image, opt Options) *Importer {
	opt.Jobs = workers(opt.Jobs)
	if opt.Warn == nil {
		opt.Warn = func(string) {}
	}
	if opt.MayCopy == nil {
		opt.MayCopy = func() error { return nil }
	}
	m := manifest.Manifest{Images: images}
	return &Importer{
		opt:     opt,
		pending: images,
		total:   Progress{TotalPaths: m.StorePaths(), TotalBytes: m.UnpackedSize()},
	}
}

// Run imports the images. On an error the store holds whole store paths only, of
// images that were done; what caused it may be mended and Run be called again to
// do the rest.
func (im *Importer) Run() error {
	im.start = time.Now()
	im.rewind()
	stop := im.report()
	defer stop()
	switch im.opt.Mode {
	case Copy:
		return im.copy()
	case Overlay:
		return im.overlay()
	case Auto:
		err := im.overlay()
		if !errors.Is(err, errNoOverlay) {
			return err
		}
		im.opt.Warn(fmt.Sprintf("the store is copied, since it can't be mounted: %v", err))
		im.rewind()
		return im.copy()
	}
	return fmt.Errorf("import: no such mode: %q", im.opt.Mode)
}

// rewind sets the progress to what images that are not pending any more have.
func (im *Importer) rewind() {
	left := manifest.Manifest{Images: im.pending}
	im.paths.Store(int64(im.total.TotalPaths - left.StorePaths()))
	im.bytes.Store(im.total.TotalBytes - left.UnpackedSize())
}

// Mode says how the images were imported, after Run: [Copy] or [Overlay].
func (im *Importer) Mode() Mode { return im.mode }

// Progress says how far Run is. It may be called from any goroutine.
func (im *Importer) Progress() Progress {
	p := im.total
	p.Paths, p.Bytes, p.Elapsed = int(im.paths.Load()), im.bytes.Load(), time.Since(im.start)
	return p
}

// report calls opt.Each every second until stop is called.
func (im *Importer) report() (stop func()) {
	if im.opt.Each == nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				im.opt.Each(im.Progress())
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}

// removeFile deletes an image's file, which gives back its RAM unless it is
// mounted.
func (im *Importer) removeFile(file string) error {
	path := filepath.Join(im.opt.Initrd, file)
	if err := unix.Unlink(path); err != nil {
		return fmt.Errorf("delete image %s: %w", path, err)
	}
	return nil
}

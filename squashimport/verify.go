package squashimport

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/mount"
	"stage1/squashfs"
)

// verifyBuffer is how much of a file is read and hashed at a time, in bytes: it
// stays in a CPU's second-level cache.
const verifyBuffer = 256 << 10

// Verify looks at the files that a manifest names before a kernel or anything else
// reads them:
//
//   - they are there, and as long as the manifest says;
//   - with digests, they have the digests that the manifest says, and there are no
//     files in [manifest.Dir] that it does not name;
//   - images are sound and hold what a store may: see [squashfs.Check]. Those of
//     the store have store paths in their root directories.
//
// Digests are of SHA-256. They are not computed of files for which the manifest
// has none, as the seed's, nor without digests. Several CPUs share the work: jobs
// of them, or all where that is 0. Verify returns how many bytes it has read for
// digests; trace, which may be nil, has what was done when. The error names every file that is wrong, up to eight.
func Verify(initrd string, m *manifest.Manifest, digests bool, jobs int, trace *Trace) (int64, error) {
	v := &verifier{initrd: initrd, trace: trace, jobs: workers(jobs), named: map[string]bool{}, files: map[string]*os.File{}}
	defer v.close()
	var errs []error
	for _, f := range m.Files() {
		errs = append(errs, v.open(f, digests))
	}
	if digests {
		errs = append(errs, v.extra()...)
		v.parallel(len(v.parts), v.readPart)
		errs = append(errs, v.altered()...)
	}
	// Images are not parsed before it is known that they are what was built.
	if err := joinSome(errs); err != nil {
		return v.read.Load(), err
	}
	images := m.Images
	if m.Root != nil {
		images = append(slices.Clip(images), *m.Root)
	}
	errs = make([]error, len(images))
	v.parallel(len(images), func(i int, _ []byte) {
		defer trace.begin("check", images[i].File)()
		errs[i] = checkImage(v.files[images[i].File], &images[i])
	})
	return v.read.Load(), joinSome(errs)
}

// verifier verifies files.
type verifier struct {
	initrd string
	jobs   int
	trace  *Trace
	named  map[string]bool     // files that the manifest names, by path in the initrd
	files  map[string]*os.File // those that are open
	parts  []part
	read   atomic.Int64 // bytes
}

// part is a part of an open file.
type part struct {
	manifest.Part
	of  manifest.File
	err error // of reading it, or that it is altered
}

// checkImage checks an image and what it holds.
func checkImage(f *os.File, image *manifest.Image) error {
	names, err := func() ([]string, error) {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		return squashfs.Check(squashfs.Input{Name: image.File, R: f, Size: info.Size()})
	}()
	if err == nil && image.StorePaths > 0 { // it is not the root image
		err = checkNames(names, image)
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", image.File, err)
	}
	return nil
}

// open opens a file and plans what of it to read.
func (v *verifier) open(f manifest.File, digests bool) error {
	v.named[f.Path] = true
	file, err := openInitrd(v.initrd, f.Kind, f.Path, f.Size)
	if err != nil {
		return err
	}
	v.files[f.Path] = file
	if digests {
		for _, p := range f.Parts() {
			v.parts = append(v.parts, part{p, f, nil})
		}
	}
	return nil
}

func (v *verifier) close() {
	for _, f := range v.files {
		f.Close()
	}
}

// parallel calls do for 0 to n-1, with a buffer that nobody else uses meanwhile.
func (v *verifier) parallel(n int, do func(i int, buf []byte)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(v.jobs, n) {
		workers.Go(func() {
			buf := make([]byte, verifyBuffer)
			for i := int(next.Add(1) - 1); i < n; i = int(next.Add(1) - 1) {
				do(i, buf)
			}
		})
	}
	workers.Wait()
}

// readPart reads part i and compares its digest.
func (v *verifier) readPart(i int, buf []byte) {
	p := &v.parts[i]
	defer v.trace.begin("verify", p.of.Path)()
	sum, err := manifest.Sum(v.files[p.of.Path], p.Offset, p.Size, buf)
	v.read.Add(p.Size)
	switch {
	case err != nil:
		p.err = fmt.Errorf("%s %s: %w", p.of.Kind, p.of.Path, err)
	case strings.EqualFold(sum, p.SHA256):
	case p.Size == p.of.Size:
		p.err = fmt.Errorf("%s %s: its SHA-256 is %s, the manifest says %s: it is damaged, or of another build, or the RAM did not suffice to unpack it", p.of.Kind, p.of.Path, sum, p.SHA256)
	default:
		p.err = fmt.Errorf("%s %s: the SHA-256 of its %d bytes at byte %d is %s, the manifest says %s: it is damaged, or of another build, or the RAM did not suffice to unpack it",
			p.of.Kind, p.of.Path, p.Size, p.Offset, sum, p.SHA256)
	}
}

// altered returns the first error of each file that was read.
func (v *verifier) altered() (errs []error) {
	last := ""
	for _, p := range v.parts {
		if p.err != nil && p.of.Path != last {
			last = p.of.Path
			errs = append(errs, p.err)
		}
	}
	return errs
}

// extra returns an error for each file in the manifest's directory that is not
// named by it. A manifest without digests, the seed's, has a directory of its own
// kind.
func (v *verifier) extra() (errs []error) {
	if len(v.parts) == 0 {
		return nil
	}
	err := filepath.WalkDir(filepath.Join(v.initrd, manifest.Dir), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name = "/" + strings.TrimPrefix(strings.TrimPrefix(name, v.initrd), "/")
		if !v.named[name] && name != manifest.Path {
			errs = append(errs, fmt.Errorf("extra file %s: the manifest does not name it: are initrds of several builds loaded?", name))
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errs
}

// maxErrors bounds how many errors are shown: a console has few lines.
const maxErrors = 8

// joinSome joins errors, the first few of them.
func joinSome(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if n := len(errs) - maxErrors; n > 0 {
		errs = append(errs[:maxErrors:maxErrors], fmt.Errorf("and %d more", n))
	}
	return errors.Join(errs...)
}

// openInitrd opens a file that the manifest names, of the given size in bytes
// unless that is 0. It follows no link out of the initrd and enters no other file
// system.
func openInitrd(initrd, kind, name string, size int64) (*os.File, error) {
	f, err := mount.OpenIn(initrd, name, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (the manifest names it: was the initrd that holds it loaded, and whole?)", kind, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("it is %s, want a regular file", info.Mode())
	case size != 0 && info.Size() != size:
		err = fmt.Errorf("it has %d bytes, the manifest says %d: the initrd is not whole (did the RAM suffice to unpack it?), or of another build", info.Size(), size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s %s: %w", kind, name, err)
	}
	return f, nil
}

package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/registration"
)

// output is the directory that a build makes. It is written beside where it
// belongs and put there as a whole.
type output struct {
	dir  string   // where it belongs
	tmp  string   // where it is written
	lock *os.File // of the directory at tmp: it is somebody's, see removeStale
}

// newOutput checks that dir may be replaced and starts a directory beside it.
func newOutput(dir string) (*output, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if target, err := filepath.EvalSymlinks(dir); err == nil {
		dir = target
	}
	if err := checkOurs(dir); err != nil {
		return nil, err
	}
	if err := removeStale(dir); err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	o := &output{dir: dir}
	if err := o.makeTemp(); err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	// MkdirTemp keeps it to its owner; a web server is to read it.
	if err := o.lock.Chmod(0o755); err != nil {
		o.discard()
		return nil, fmt.Errorf("output: %w", err)
	}
	return o, nil
}

// tempPrefix is how the names begin of what is written beside dir.
func tempPrefix(dir string) string { return "." + filepath.Base(dir) + ".tmp-" }

// makeTemp makes the directory at tmp and locks it. A file system without locks
// has nothing that is stale, either.
func (o *output) makeTemp() (err error) {
	for {
		if o.tmp, err = os.MkdirTemp(filepath.Dir(o.dir), tempPrefix(o.dir)+"*"); err != nil {
			return err
		}
		if o.lock, err = os.Open(o.tmp); errors.Is(err, fs.ErrNotExist) {
			continue // taken for stale, and removed
		}
		if err != nil {
			os.Remove(o.tmp)
			return err
		}
		locked := unix.Flock(int(o.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if _, err := os.Lstat(o.tmp); err == nil && !errors.Is(locked, unix.EWOULDBLOCK) {
			return nil
		}
		o.lock.Close()
	}
}

// removeStale removes what builds that were killed left beside dir. What another
// build writes is locked. What another user left costs room only.
func removeStale(dir string) error {
	parent := filepath.Dir(dir)
	list, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, d := range list {
		random, ok := strings.CutPrefix(d.Name(), tempPrefix(dir))
		if _, err := strconv.ParseUint(random, 10, 32); !ok || err != nil || !d.IsDir() {
			continue
		}
		tmp := filepath.Join(parent, d.Name())
		f, err := os.Open(tmp)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = os.RemoveAll(tmp)
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

// checkOurs refuses to replace a directory that holds anything but what a build
// puts there.
func checkOurs(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	script, err := os.ReadFile(filepath.Join(dir, ipxeName))
	if err != nil || !bytes.HasPrefix(script, []byte(scriptMark)) {
		return fmt.Errorf("output: %s was not made by mknetboot (it has no %s of ours): remove it, or choose another place", dir, ipxeName)
	}
	// One more is the kernel, whose name may have been another.
	ours := append(slices.Clone(loadOrder), ipxeName, kexecName)
	var others []string
	for _, d := range list {
		if !slices.Contains(ours, d.Name()) {
			others = append(others, d.Name())
		}
	}
	if len(others) > 1 {
		return fmt.Errorf("output: %s also has files that are not mknetboot's among %q: move them, or choose another place", dir, others)
	}
	return nil
}

// file writes one file of the directory and returns its size in bytes.
func (o *output) file(name string, perm fs.FileMode, write func(*os.File) error) (int64, error) {
	f, err := os.OpenFile(filepath.Join(o.tmp, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return 0, fmt.Errorf("output: %w", err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		return 0, fmt.Errorf("write %s: %w", name, err)
	}
	// The umask does not decide who may boot.
	if err := f.Chmod(perm); err != nil {
		return 0, fmt.Errorf("output: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("output: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("output: %w", err)
	}
	return info.Size(), f.Close()
}

// commit puts the directory in its place: whoever looks there sees the old one or
// the new one, each whole.
func (o *output) commit() error {
	err := os.Rename(o.tmp, o.dir) // where there is none, or an empty one
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		err = unix.Renameat2(unix.AT_FDCWD, o.tmp, unix.AT_FDCWD, o.dir, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return fmt.Errorf("output: put %s in the place of %s: %w%s", o.tmp, o.dir, err, commitHint(err))
	}
	o.discard() // of the old one, now at tmp
	return nil
}

// commitHint says what to do about an error of rename(2) or renameat2(2).
func commitHint(err error) string {
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return ": its file system cannot exchange two directories at once (RENAME_EXCHANGE): remove the old one first, or choose a place on another file system"
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EXDEV):
		return ": is it a mount point? choose a directory in it"
	}
	return ""
}

// discard removes what is at tmp, if anything is.
func (o *output) discard() {
	os.RemoveAll(o.tmp)
	o.lock.Close()
}

// padFile fills f with zeros up to a multiple of pageSize,
// which the kernel skips.
func padFile(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return f.Truncate((size + pageSize - 1) / pageSize * pageSize)
}

// writeInitrd writes the first initrd.
func writeInitrd(f *os.File, in *initrd) error {
	if err := in.write(f); err != nil {
		return err
	}
	return padFile(f)
}

// writeManifest writes the initrd with the manifest and the registration. It
// returns the manifest's SHA-256 in base 16.
func writeManifest(f *os.File, m *manifest.Manifest, entries []*registration.Entry) (string, error) {
	var plain, text bytes.Buffer
	for _, e := range entries {
		if err := registration.Write(&plain, e); err != nil {
			return "", err
		}
	}
	// One goroutine, so that the output does not depend on the number of CPUs.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return "", err
	}
	packed := z.EncodeAll(plain.Bytes(), nil)
	m.Registration = &manifest.Registration{
		File:         manifest.Dir + "/registration.zst",
		Size:         int64(len(packed)),
		SHA256:       sum(packed),
		UnpackedSize: int64(plain.Len()),
	}
	if err := m.Write(&text); err != nil {
		return "", err
	}
	digest := sum(text.Bytes())
	c := newCPIOWriter(f)
	if err := c.File(manifest.Path, 0o644, int64(text.Len()), &text); err != nil {
		return "", err
	}
	if err := c.File(m.Registration.File, 0o644, m.Registration.Size, bytes.NewReader(packed)); err != nil {
		return "", err
	}
	return digest, c.Close()
}

// writeStore writes the initrd with the images.
func writeStore(ctx context.Context, f *os.File, images []storeImage) error {
	c := newCPIOWriter(f)
	for _, im := range images {
		if err := ctx.Err(); err != nil {
			return err
		}
		src, err := im.open()
		if err != nil {
			return err
		}
		err = c.AlignedFile(im.File, 0o644, im.Size, src)
		src.Close()
		if err != nil {
			return err
		}
	}
	return c.Close()
}

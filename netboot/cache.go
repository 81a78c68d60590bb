package netboot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cache keeps squashfs images between builds. It is a directory of
//
//	lock            flock(2): shared by builders, exclusive for prune
//	KEY.json        a cachedImage: what was built for a [imageKey]
//	SHA256.squashfs the image, named by its digest; its mtime is its last use
//	tmp-*           files and directories in use by a build
//
// An image is never changed under its name. An entry that is damaged, as after a
// power cut, does not match its digest and counts as absent: nothing needs to be
// synced to disk. A cache that cannot be written to serves what it has.
type cache struct {
	dir      string
	lock     *os.File
	readOnly bool
}

// cachedImage says what the image of one store path is.
type cachedImage struct {
	Size         int64  `json:"size"`         // of the image file, bytes
	SHA256       string `json:"sha256"`       // of the image file, base 16
	UnpackedSize int64  `json:"unpackedSize"` // see manifest.Image
	Inodes       int64  `json:"inodes"`
}

// openCache opens the cache at dir, makes it if need be, and locks it by how:
// LOCK_SH to build, LOCK_EX to prune. It removes what was left by builds that
// were killed, unless others use the cache.
func openCache(ctx context.Context, dir string, how int) (*cache, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &cache{dir: dir}
	file := filepath.Join(dir, "lock")
	var err error
	c.lock, err = os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if isReadOnly(err) {
		if f, openErr := os.Open(file); openErr == nil {
			c.lock, c.readOnly, err = f, true, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if !c.readOnly && c.tryLock(unix.LOCK_EX) == nil {
		// What another user left costs room only; prune says what it is.
		if err = c.removeTemp(); how == unix.LOCK_SH && errors.Is(err, fs.ErrPermission) {
			err = nil
		}
	}
	if err == nil {
		err = c.waitLock(ctx, how)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("cache: %w", err)
	}
	return c, nil
}

// isReadOnly reports whether err comes of a place that we may not write to.
func isReadOnly(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission)
}

func (c *cache) tryLock(how int) error { return unix.Flock(int(c.lock.Fd()), how|unix.LOCK_NB) }

// waitLock does not block in flock, which ctx could not end.
func (c *cache) waitLock(ctx context.Context, how int) error {
	for {
		err := c.tryLock(how)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", c.lock.Name(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s, which another process holds: %w", c.lock.Name(), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// removeTemp removes what was being written. Nobody else may use the cache.
func (c *cache) removeTemp() error {
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, d := range list {
		if !strings.HasPrefix(d.Name(), "tmp-") {
			continue
		}
		// ENOTEMPTY: a child of the killed build still writes there.
		if err := os.RemoveAll(filepath.Join(c.dir, d.Name())); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

func (c *cache) close() { c.lock.Close() }

func (c *cache) imageFile(sum string) string { return filepath.Join(c.dir, sum+".squashfs") }

// get returns the image for key and marks it as used. It reads the whole image
// to verify it. ok is false where there is none, or a damaged one.
func (c *cache) get(key string) (im cachedImage, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(c.dir, key+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return im, false, nil
	}
	if err != nil {
		return im, false, fmt.Errorf("cache: %w", err)
	}
	if json.Unmarshal(data, &im) != nil || len(im.SHA256) != 2*sha256.Size {
		return im, false, nil
	}
	size, sum, err := digest(c.imageFile(im.SHA256))
	if errors.Is(err, fs.ErrNotExist) {
		return im, false, nil
	}
	if err != nil {
		return im, false, fmt.Errorf("cache: %w", err)
	}
	if size != im.Size || sum != im.SHA256 {
		return im, false, nil
	}
	now := time.Now()
	// Where it cannot be written to, it is not pruned from here either.
	if err := os.Chtimes(c.imageFile(sum), now, now); err != nil && !c.readOnly {
		return im, false, fmt.Errorf("cache: %w", err)
	}
	return im, true, nil
}

// put takes over the image in tmp, a file made by temp, as the one for key. It
// fills in size and digest.
func (c *cache) put(key, tmp string, im cachedImage) (cachedImage, error) {
	var err error
	if im.Size, im.SHA256, err = digest(tmp); err != nil {
		return im, fmt.Errorf("cache: %w", err)
	}
	if err := os.Rename(tmp, c.imageFile(im.SHA256)); err != nil {
		return im, fmt.Errorf("cache: %w", err)
	}
	data, err := json.Marshal(im)
	if err != nil {
		return im, fmt.Errorf("cache: %w", err)
	}
	info, err := c.temp()
	if err != nil {
		return im, err
	}
	defer os.Remove(info)
	if err := os.WriteFile(info, data, 0o644); err != nil {
		return im, fmt.Errorf("cache: %w", err)
	}
	if err := os.Rename(info, filepath.Join(c.dir, key+".json")); err != nil {
		return im, fmt.Errorf("cache: %w", err)
	}
	return im, nil
}

// temp makes an empty file in the cache.
func (c *cache) temp() (string, error) {
	f, err := os.CreateTemp(c.dir, "tmp-")
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	defer f.Close()
	// CreateTemp keeps it to its owner; a Nix store is for everybody.
	if err := f.Chmod(0o644); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	return f.Name(), nil
}

// tempDir makes an empty directory in the cache, or elsewhere if that cannot be
// written to, and returns its path without symlinks.
func (c *cache) tempDir() (string, error) {
	in := c.dir
	if c.readOnly {
		in = os.TempDir()
	}
	dir, err := os.MkdirTemp(in, "tmp-")
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	return filepath.EvalSymlinks(dir)
}

// digest returns a file's size in bytes and its SHA-256 in base 16.
func digest(file string) (int64, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", file, err)
	}
	return n, hex.EncodeToString(h.Sum(nil)), nil
}

// PruneOptions say which images [Prune] removes.
type PruneOptions struct {
	Cache   string        // directory, DefaultCache() if empty
	MaxAge  time.Duration // removed if not used for longer; 0: at any age
	MaxSize int64         // removed, least recently used first, until they have no more bytes in all; 0: no limit
	Now     time.Time     // time.Now() if zero
}

// PruneResult says what [Prune] did.
type PruneResult struct {
	Removed      int   `json:"removed"` // images
	RemovedBytes int64 `json:"removedBytes"`
	Kept         int   `json:"kept"` // images
	KeptBytes    int64 `json:"keptBytes"`
}

// Prune removes images from the cache that were not used for long, or are too
// many, and whatever builds that were killed left behind. It waits until no
// build uses the cache.
func Prune(ctx context.Context, o PruneOptions) (*PruneResult, error) {
	dir, err := cacheDir(o.Cache)
	if err != nil {
		return nil, err
	}
	c, err := openCache(ctx, dir, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	var images []fs.FileInfo
	for _, d := range list {
		if !strings.HasSuffix(d.Name(), ".squashfs") {
			continue
		}
		info, err := d.Info()
		if err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		images = append(images, info)
	}
	res, err := c.pruneImages(images, o)
	if err != nil {
		return nil, err
	}
	return res, c.pruneKeys(list)
}

// pruneImages removes images by age, then by size.
func (c *cache) pruneImages(images []fs.FileInfo, o PruneOptions) (*PruneResult, error) {
	slices.SortFunc(images, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	res := &PruneResult{}
	full := false
	for _, im := range images {
		old := o.MaxAge > 0 && o.Now.Sub(im.ModTime()) > o.MaxAge
		full = full || o.MaxSize > 0 && res.KeptBytes+im.Size() > o.MaxSize
		if !old && !full {
			res.Kept++
			res.KeptBytes += im.Size()
			continue
		}
		if err := os.Remove(filepath.Join(c.dir, im.Name())); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		res.Removed++
		res.RemovedBytes += im.Size()
	}
	return res, nil
}

// pruneKeys removes the entries whose image is gone, or that cannot be read.
func (c *cache) pruneKeys(list []fs.DirEntry) error {
	for _, d := range list {
		if !strings.HasSuffix(d.Name(), ".json") {
			continue
		}
		file := filepath.Join(c.dir, d.Name())
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		var im cachedImage
		if json.Unmarshal(data, &im) == nil {
			if _, err := os.Stat(c.imageFile(im.SHA256)); err == nil {
				continue
			}
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
	}
	return nil
}

// DefaultCache is the directory that keeps images between builds:
// $XDG_CACHE_HOME/stage1, by default ~/.cache/stage1.
func DefaultCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the cache: %w: set XDG_CACHE_HOME, or give one by --cache", err)
	}
	return filepath.Join(dir, "stage1"), nil
}

func cacheDir(dir string) (string, error) {
	if dir == "" {
		return DefaultCache()
	}
	return filepath.Abs(dir)
}

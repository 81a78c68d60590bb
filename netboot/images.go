package netboot

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"stage1/manifest"
	"stage1/registration"
	"stage1/squashfs"
)

// storeImage is a squashfs image that goes into the nix-store initrd.
type storeImage struct {
	manifest.Image
	of     string           // store path, for errors
	file   string           // where its bytes are on this machine
	layout *squashfs.Layout // or, of a linked image, where to take them from
}

// imageBuilder turns store paths into images, by way of the cache.
type imageBuilder struct {
	store    store
	cache    *cache
	squash   *mksquashfs
	jobs     int
	progress func(Progress)

	mu            sync.Mutex // guards what follows
	cached, built int
	state         Progress
}

// images returns an image for each entry, in their order. They are made in
// parallel, the largest first.
func (b *imageBuilder) images(ctx context.Context, entries []*registration.Entry) ([]storeImage, error) {
	images := make([]storeImage, len(entries))
	order := make([]int, len(entries))
	b.state = Progress{Total: len(entries)}
	for i, e := range entries {
		order[i] = i
		b.state.TotalBytes += int64(e.NarSize)
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(entries[j].NarSize, entries[i].NarSize) })
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.jobs)
	for _, i := range order {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			im, built, err := b.image(ctx, entries[i])
			if err != nil {
				return fmt.Errorf("image of %s: %w", entries[i].Path, err)
			}
			images[i] = im
			b.done(entries[i], built)
			return nil
		})
	}
	return images, group.Wait()
}

// image returns the image of one store path from the cache, or makes it.
func (b *imageBuilder) image(ctx context.Context, e *registration.Entry) (im storeImage, built bool, err error) {
	key := b.squash.key(e)
	c, ok, err := b.cache.get(key)
	if err != nil {
		return im, false, err
	}
	if !ok {
		if c, err = b.build(ctx, key, e); err != nil {
			return im, false, err
		}
	}
	return storeImage{
		of: e.Path,
		Image: manifest.Image{
			File:         manifest.ImageFile(path.Base(e.Path)),
			Size:         c.Size,
			SHA256:       c.SHA256,
			StorePaths:   1,
			UnpackedSize: c.UnpackedSize,
			Inodes:       c.Inodes,
		},
		file: b.cache.imageFile(c.SHA256),
	}, !ok, nil
}

func (b *imageBuilder) build(ctx context.Context, key string, e *registration.Entry) (c cachedImage, err error) {
	src := b.store.real(e.Path)
	if c.UnpackedSize, c.Inodes, err = unpacked(src); err != nil {
		return c, err
	}
	tmp, err := b.cache.temp()
	if err != nil {
		return c, fmt.Errorf("there is none, and none can be made: %w", err)
	}
	defer os.Remove(tmp)
	if err := b.squash.make(ctx, []string{src}, tmp, e.NarSize); err != nil {
		return c, err
	}
	if err := checkMade(tmp, path.Base(e.Path)); err != nil {
		return c, fmt.Errorf("mksquashfs made a bad one of %s: %w", src, err)
	}
	// The image stands for this hash from now on, so this is the time to see that
	// the store path has it: not before it was read for the image.
	hash, err := narHash(ctx, src)
	if err != nil {
		return c, err
	}
	if hash != e.NarHash {
		return c, fmt.Errorf("%s is not what was registered: the SHA-256 of its NAR is %s, that of the registration %s: try nix-store --repair-path", src, hash, e.NarHash)
	}
	return b.cache.put(key, tmp, c)
}

// checkMade checks what mksquashfs has made of a store path as stage 1 will, which
// refuses what no store path has: a device node or a set-user-ID bit.
func checkMade(file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	names, err := squashfs.Check(squashfs.Input{Name: name, R: f, Size: info.Size()})
	if err == nil && !slices.Equal(names, []string{name}) {
		err = fmt.Errorf("mksquashfs put %q into its root directory, want %q", names, name)
	}
	return err
}

func (b *imageBuilder) done(e *registration.Entry, built bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if built {
		b.built++
	} else {
		b.cached++
	}
	b.state.Done++
	b.state.DoneBytes += int64(e.NarSize)
	b.progress(b.state)
}

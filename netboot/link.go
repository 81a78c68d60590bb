package netboot

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"stage1/manifest"
	"stage1/squashfs"
)

// linkedFile is where the linked image is in the initrd.
const linkedFile = manifest.Dir + "/store.squashfs"

// linkImages makes one image of those of the store paths. It is not written
// here: its data is taken from the cache when the output is.
func (b *build) linkImages(ctx context.Context) error {
	if b.NoLink {
		return nil
	}
	inputs := make([]squashfs.Input, len(b.images))
	image := manifest.Image{File: linkedFile}
	for i, im := range b.images {
		f, err := os.Open(im.file)
		if err != nil {
			return fmt.Errorf("link images: %w", err)
		}
		b.opened = append(b.opened, f)
		inputs[i] = squashfs.Input{Name: fmt.Sprintf("image of %s (%s)", im.of, im.file), R: f, Size: im.Size}
		image.StorePaths += im.StorePaths
		image.UnpackedSize += im.UnpackedSize
		image.Inodes += im.Inodes
	}
	// As Nix has /nix/store's paths: root's, and of the time 1.
	layout, err := squashfs.Link(inputs, squashfs.Options{RootMode: 0o755, RootTime: 1, MkfsTime: 1})
	if err != nil {
		return fmt.Errorf("link images: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	image.Size = layout.Size()
	if image.SHA256, image.Pieces, err = digests(ctx, layout, image.Size); err != nil {
		return fmt.Errorf("link images: %w", err)
	}
	b.images = []storeImage{{Image: image, of: "all store paths", layout: layout}}
	b.res.Shared = layout.Stats().Shared
	return nil
}

// digests returns the SHA-256 of size bytes of r, and of its pieces where it has
// more than one. Each is read on its own, so that all CPUs have work.
func digests(ctx context.Context, r io.ReaderAt, size int64) (whole string, pieces []string, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	sum := func(offset, size int64, to *string) {
		group.Go(func() (err error) {
			if err = ctx.Err(); err == nil {
				*to, err = manifest.Sum(r, offset, size, make([]byte, 256<<10))
			}
			return err
		})
	}
	sum(0, size, &whole)
	if size > manifest.PieceSize {
		pieces = make([]string, (size+manifest.PieceSize-1)/manifest.PieceSize)
		for i := range pieces {
			offset := int64(i) * manifest.PieceSize
			sum(offset, min(manifest.PieceSize, size-offset), &pieces[i])
		}
	}
	return whole, pieces, group.Wait()
}

// open opens the image's content. Copied to a file, it goes by copy_file_range.
func (im *storeImage) open() (io.ReadCloser, error) {
	if im.layout == nil {
		return os.Open(im.file)
	}
	return linkedReader{im.layout, io.NewSectionReader(im.layout, 0, im.layout.Size())}, nil
}

// linkedReader reads a linked image from its start, by Read or by WriteTo.
type linkedReader struct {
	io.WriterTo
	io.Reader
}

func (linkedReader) Close() error { return nil }

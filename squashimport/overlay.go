package squashimport

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"stage1/mount"
)

// errNoOverlay is wrapped by errors that a copy does not meet.
var errNoOverlay = errors.New("no overlay")

// overlay mounts all images as lower layers of one writable overlay on the store.
func (im *Importer) overlay() (err error) {
	im.mode = Overlay
	if n := len(im.pending); n > mount.MaxLayers {
		return fmt.Errorf("%w: %d images are more than the %d layers that it takes: link them into one", errNoOverlay, n, mount.MaxLayers)
	}
	var layers []string
	defer func() { err = errors.Join(err, im.hideLayers(layers)) }()
	seen := map[string]string{}
	for i, image := range im.pending {
		m, err := mountImage(im.opt.Initrd, image, im.scratchDir(i))
		if err != nil {
			return err
		}
		layers = append(layers, m.dir)
		names, err := m.entries()
		if err != nil {
			return err
		}
		for _, name := range names {
			if other, ok := seen[name]; ok {
				return fmt.Errorf("image %s: store path %s is in image %s too", image.File, name, other)
			}
			seen[name] = image.File
		}
	}
	if err := mount.Overlay(im.opt.Store, layers, im.opt.State, unix.MS_NODEV|unix.MS_NOSUID); err != nil {
		return fmt.Errorf("%w: %w", errNoOverlay, err)
	}
	for _, image := range im.pending {
		if err := im.removeFile(image.File); err != nil {
			return err
		}
		im.paths.Add(int64(image.StorePaths))
		im.bytes.Add(image.UnpackedSize)
	}
	im.pending = nil
	return nil
}

// hideLayers takes the images' mounts out of the name space. The overlay holds
// clones of them, and systemd need not unmount what it cannot see.
func (im *Importer) hideLayers(layers []string) error {
	var errs []error
	for _, dir := range layers {
		errs = append(errs, mount.Unmount(dir, true), os.Remove(dir))
	}
	return errors.Join(errs...)
}

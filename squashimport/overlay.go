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
//
// The overlay holds clones of the images' mounts. So these are taken out of the
// name space again: what systemd cannot see, it need not unmount at shutdown.
// They are all below one tmpfs, since each unmount takes tens of milliseconds,
// an RCU grace period, however much goes with it.
func (im *Importer) overlay() (err error) {
	im.mode = Overlay
	if n := len(im.pending); n > mount.MaxLayers {
		return fmt.Errorf("%w: %d images are more than the %d layers that it takes: link them into one", errNoOverlay, n, mount.MaxLayers)
	}
	layers := mount.Mount{Source: "tmpfs", Target: im.opt.Scratch, Type: "tmpfs", Data: "mode=0700"}
	if err := layers.Do(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, mount.Unmount(im.opt.Scratch, true), os.Remove(im.opt.Scratch))
	}()
	lower, err := im.mountLayers()
	if err != nil {
		return err
	}
	defer im.opt.Trace.begin("overlay", "")()
	if err := mount.Overlay(im.opt.Store, lower, im.opt.State, unix.MS_NODEV|unix.MS_NOSUID); err != nil {
		return fmt.Errorf("%w: %w", errNoOverlay, err)
	}
	for _, image := range im.pending {
		if err := im.removeFile(image.File); err != nil {
			return err
		}
	}
	im.pending = nil
	return nil
}

// mountLayers mounts the images below the scratch directory, and returns where.
func (im *Importer) mountLayers() (dirs []string, err error) {
	seen := map[string]string{} // store path → image
	for i, image := range im.pending {
		m, err := im.mount(image, im.scratchDir(i))
		if err != nil {
			return nil, err
		}
		names, err := m.entries()
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if other, ok := seen[name]; ok {
				return nil, fmt.Errorf("image %s: store path %s is in image %s too", image.File, name, other)
			}
			seen[name] = image.File
		}
		dirs = append(dirs, m.dir)
		im.paths.Add(int64(image.StorePaths))
		im.bytes.Add(image.UnpackedSize)
	}
	return dirs, nil
}

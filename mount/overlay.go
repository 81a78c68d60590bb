package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxLayers is the number of lower layers that overlayfs takes: OVL_MAX_STACK in
// fs/overlayfs (Linux 4.0 and later).
const MaxLayers = 500

// Overlay mounts a writable overlay of the lower directories, the uppermost
// first, on target. The changes go below state, a directory on a file system
// that can hold them; it is made where it does not exist.
//
// The overlay keeps its own clones of the lower directories' mounts (Linux 3.18
// and later), so these may be unmounted afterwards.
//
// The lower directories are told in the options of mount(2), which end at a page
// of 4096 bytes: choose short names for many.
func Overlay(target string, lower []string, state string, flags uintptr) error {
	if len(lower) == 0 || len(lower) > MaxLayers {
		return fmt.Errorf("overlay on %s: %d lower layers, the kernel takes 1 to %d", target, len(lower), MaxLayers)
	}
	upper, work := filepath.Join(state, "upper"), filepath.Join(state, "work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("overlay on %s: %w", target, err)
		}
	}
	for _, dir := range append([]string{upper, work}, lower...) {
		if strings.ContainsAny(dir, `:,\`) {
			return fmt.Errorf("overlay on %s: directory %q has a character with a meaning in mount options", target, dir)
		}
	}
	m := Mount{
		Source: "overlay", Target: target, Type: "overlay", Flags: flags,
		// redirect_dir=on: without it rename(2) of a directory from a lower layer
		// is EXDEV.
		Data: "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work + ",redirect_dir=on",
	}
	if len(m.Data) >= unix.Getpagesize() {
		return fmt.Errorf("overlay on %s: the names of %d lower layers do not fit into mount options of one page", target, len(lower))
	}
	return m.Do()
}

package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"stage1/manifest"
)

// rootFile is where the root image is in the initrd.
const rootFile = manifest.Dir + "/root.squashfs"

// makeRoot makes the root image: what Nix knows of the store, and files that were
// asked for. Where there is neither, there is no image.
func (b *build) makeRoot(ctx context.Context) (err error) {
	if b.scratch, err = b.cache.tempDir(); err != nil {
		return err
	}
	tree := &rootTree{dir: filepath.Join(b.scratch, "root")}
	if err := os.Mkdir(tree.dir, 0o755); err != nil {
		return err
	}
	if !b.NoDatabase {
		if err := b.addNixState(ctx, tree); err != nil {
			return fmt.Errorf("database for Nix: %w (--no-database leaves it out)", err)
		}
	}
	for _, x := range b.RootFiles {
		if err := x.walk(tree.add); err != nil {
			return fmt.Errorf("root file %s: %w", x.Source, err)
		}
	}
	entries, err := os.ReadDir(tree.dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	image := storeImage{of: "the new root's files", file: filepath.Join(b.scratch, "root.squashfs")}
	image.File = rootFile
	if err := b.squashRoot(ctx, tree, entries, &image); err != nil {
		return fmt.Errorf("root image: %w", err)
	}
	b.root, b.res.RootSize = &image, image.Size
	return nil
}

// squashRoot makes the image of a tree that has entries.
func (b *build) squashRoot(ctx context.Context, tree *rootTree, entries []fs.DirEntry, image *storeImage) (err error) {
	var sources []string
	for _, e := range entries {
		sources = append(sources, filepath.Join(tree.dir, e.Name()))
	}
	if image.UnpackedSize, image.Inodes, err = unpacked(tree.dir); err != nil {
		return err
	}
	image.Inodes-- // the root directory's
	if err := tree.setModes(); err != nil {
		return err
	}
	err = b.squash.make(ctx, sources, image.file, uint64(image.UnpackedSize))
	if err := errors.Join(err, tree.resetModes()); err != nil {
		return err
	}
	image.Size, image.SHA256, err = digest(image.file)
	return err
}

// addNixState adds what the seed's postBootCommands make in the booted system:
// the database, the first generation of the system's profile, and the mark of a
// NixOS. What is in use as /run/current-system and /run/booted-system is for the
// system itself to root.
func (b *build) addNixState(ctx context.Context, tree *rootTree) error {
	program, err := exec.LookPath("nix-store")
	if err != nil {
		b.Warn("no Nix here to make its database with (" + err.Error() + "): the booted system's will know no store path until nix-store --load-db < /nix/registration; --no-database is to have it so")
		return nil
	}
	scratch := filepath.Join(b.scratch, "nix")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		return err
	}
	db, err := loadDatabase(ctx, program, scratch, b.store, b.entries)
	if err != nil {
		return err
	}
	const state = "/nix/var/nix"
	return errors.Join(
		tree.file(state+"/db/db.sqlite", 0o644, bytes.NewReader(db.sqlite)),
		tree.file(state+"/db/schema", 0o644, bytes.NewReader(db.schema)),
		tree.symlink(state+"/profiles/system-1-link", b.toplevel.path),
		tree.symlink(state+"/profiles/system", "system-1-link"),
		// Nix makes it with the directory, and only then.
		tree.symlink(state+"/gcroots/profiles", state+"/profiles"),
		tree.file("/etc/NIXOS", 0o644, strings.NewReader("")),
	)
}

// rootTree is the tree of a root image, in a directory on this machine. Places in
// it are absolute paths in the new root. No symlink in it is followed.
type rootTree struct {
	dir  string
	dirs []rootDir // each after the one that it is in
}

// rootDir is a directory of a rootTree. It gets its mode last: what cannot be
// written to cannot be filled.
type rootDir struct {
	file string // on this machine
	mode fs.FileMode
}

// add adds a file of this machine, with its mode.
func (t *rootTree) add(place, file string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return fmt.Errorf("%s has mode %s: a set-user-ID or set-group-ID bit is not for a file system that anyone may read over the network", file, info.Mode())
	}
	mode := info.Mode() & (fs.ModePerm | fs.ModeSticky)
	switch d.Type() {
	case 0:
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		return t.file(place, mode, f)
	case fs.ModeDir:
		return t.directory(place, mode)
	case fs.ModeSymlink:
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		return t.symlink(place, target)
	}
	return errors.New(file + " is neither file, directory nor symlink")
}

func (t *rootTree) file(place string, mode fs.FileMode, content io.Reader) error {
	file, err := t.place(place)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return t.fail(place, err)
	}
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Close()
}

func (t *rootTree) symlink(place, target string) error {
	file, err := t.place(place)
	if err != nil {
		return err
	}
	return t.fail(place, os.Symlink(target, file))
}

// directory makes a directory. One that is there already stays as it is.
func (t *rootTree) directory(place string, mode fs.FileMode) error {
	if place == "/" {
		return nil
	}
	file, err := t.place(place)
	if err != nil {
		return err
	}
	err = os.Mkdir(file, 0o700)
	if err == nil {
		t.dirs = append(t.dirs, rootDir{file, mode})
		return nil
	}
	if info, statErr := os.Lstat(file); statErr == nil && info.IsDir() {
		return nil
	}
	return t.fail(place, err)
}

// place says where a place in the new root is on this machine. It refuses what
// stage 1 would, and makes the directories above.
func (t *rootTree) place(place string) (string, error) {
	if err := manifest.CheckRootPath(place); err != nil {
		return "", err
	}
	return filepath.Join(t.dir, place), t.directory(path.Dir(place), 0o755)
}

func (t *rootTree) fail(place string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is among the new root's files already", place)
	}
	return err
}

// setModes gives the directories their modes, the inner ones first.
func (t *rootTree) setModes() error {
	for _, d := range slices.Backward(t.dirs) {
		if err := os.Chmod(d.file, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// resetModes makes it possible to remove the tree.
func (t *rootTree) resetModes() error {
	for _, d := range t.dirs {
		if err := os.Chmod(d.file, 0o700); err != nil {
			return err
		}
	}
	return nil
}

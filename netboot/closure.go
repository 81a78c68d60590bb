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

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/registration"
)

// A store is a Nix store on this machine: at / or, as Nix has it with `--store
// DIR`, with /nix below another directory. Store paths are named as they are
// inside.
type store struct {
	root string // "/" or a clean absolute path
}

// real returns where the store path p, or a file below it, is on this machine.
// Symlinks are not followed.
func (s store) real(p string) string {
	return filepath.Join(s.root, p)
}

// resolve returns where p is on this machine with all symlinks followed, which
// stay inside the store's root.
func (s store) resolve(p string) (string, error) {
	root, err := unix.Open(s.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", s.root, err)
	}
	defer unix.Close(root)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(root, p, how)
	// EAGAIN: something was renamed or mounted somewhere while a ".." was
	// followed (openat2(2)).
	for tries := 0; errors.Is(err, unix.EAGAIN) && tries < 100; tries++ {
		fd, err = unix.Openat2(root, p, how)
	}
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: s.real(p), Err: err}
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// open opens p as resolve finds it.
func (s store) open(p string) (*os.File, error) {
	name, err := s.resolve(p)
	if err != nil {
		return nil, err
	}
	return os.Open(name)
}

// path returns the store path that name is, or is a symlink to: a "result" of
// nix-build, a profile, /run/current-system.
func (s store) path(name string) (string, error) {
	p, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	// 40 is the number of symlinks that Linux follows in one path.
	for range 40 {
		if dir, base := filepath.Split(p); dir == manifest.StoreDir+"/" || dir == s.real(manifest.StoreDir)+"/" {
			p = manifest.StoreDir + "/" + base
			return p, registration.CheckPath(p)
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(p))
		if err != nil {
			return "", err
		}
		target, err := os.Readlink(filepath.Join(dir, filepath.Base(p)))
		if errors.Is(err, unix.EINVAL) {
			break // not a symlink
		}
		if err != nil {
			return "", err
		}
		if p = target; !filepath.IsAbs(p) {
			p = filepath.Join(dir, target)
		}
		p = filepath.Clean(p)
	}
	return "", fmt.Errorf("%s is neither a path directly below %s nor a symlink to one", name, manifest.StoreDir)
}

// closureFromNix asks Nix for the closure of a store path.
func closureFromNix(ctx context.Context, s store, toplevel string) ([]*registration.Entry, error) {
	args := []string{"--option", "experimental-features", "nix-command"}
	if s.root != "/" {
		args = append(args, "--store", s.root)
	}
	args = append(args, "path-info", "--json", "--recursive", toplevel)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "nix", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("closure of %s: %w: install Nix, or give the closure by --closure-info", toplevel, err)
	}
	if err != nil {
		return nil, fmt.Errorf("nix path-info --recursive %s: %w%s", toplevel, err, tail(stderr.Bytes()))
	}
	return parsePathInfo(out, manifest.StoreDir)
}

// closureFromInfo reads a closure from what nixpkgs' closureInfo makes: a
// directory with store-paths (a path a line) and registration.
func closureFromInfo(dir string) ([]*registration.Entry, error) {
	list, err := os.ReadFile(filepath.Join(dir, "store-paths"))
	if err != nil {
		return nil, fmt.Errorf("closure: %w", err)
	}
	f, err := os.Open(filepath.Join(dir, "registration"))
	if err != nil {
		return nil, fmt.Errorf("closure: %w", err)
	}
	defer f.Close()
	var entries []*registration.Entry
	registered := make(map[string]bool)
	for r := registration.NewReader(f); ; {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		if e.NarHash, err = base16Hash(e.NarHash); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", f.Name(), e.Path, err)
		}
		registered[e.Path] = true
		entries = append(entries, e)
	}
	listed := make(map[string]bool)
	for _, p := range strings.Fields(string(list)) {
		if !registered[p] {
			return nil, fmt.Errorf("%s: %s has no registration", dir, p)
		}
		listed[p] = true
	}
	for _, e := range entries {
		if !listed[e.Path] {
			return nil, fmt.Errorf("%s: %s is registered and not in store-paths", dir, e.Path)
		}
	}
	sortEntries(entries)
	return entries, nil
}

// sortEntries sorts entries by path, and the references of each, so that the
// registration is the same wherever it comes from.
func sortEntries(entries []*registration.Entry) {
	for _, e := range entries {
		slices.Sort(e.References)
	}
	slices.SortFunc(entries, func(a, b *registration.Entry) int { return strings.Compare(a.Path, b.Path) })
}

// checkClosure checks that entries, sorted, are the whole closure of toplevel
// and that all of it is in the store.
func checkClosure(s store, toplevel string, entries []*registration.Entry) error {
	registered := make(map[string]bool, len(entries))
	for _, e := range entries {
		if err := registration.CheckPath(e.Path); err != nil {
			return fmt.Errorf("closure: %w", err)
		}
		if path.Dir(e.Path) != manifest.StoreDir {
			return fmt.Errorf("closure: %s is not in %s, the only store directory that NixOS boots from", e.Path, manifest.StoreDir)
		}
		if registered[e.Path] {
			return fmt.Errorf("closure: %s is registered twice", e.Path)
		}
		registered[e.Path] = true
		if _, err := os.Lstat(s.real(e.Path)); err != nil {
			return fmt.Errorf("closure: %s is registered and not there: %w: try nix-store --verify --repair", e.Path, err)
		}
	}
	if !registered[toplevel] {
		return fmt.Errorf("closure: the toplevel %s is not in it", toplevel)
	}
	for _, e := range entries {
		for _, ref := range e.References {
			if !registered[ref] {
				return fmt.Errorf("closure: %s refers to %s, which is not in it", e.Path, ref)
			}
		}
	}
	return nil
}

// tail formats the end of a program's standard error for an error message.
func tail(stderr []byte) string {
	s := strings.TrimSpace(string(stderr))
	const most = 2000 // bytes
	if len(s) > most {
		s = "… " + s[len(s)-most:]
	}
	if s == "" {
		return ""
	}
	return ":\n" + s
}

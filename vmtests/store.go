package vmtests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Store is a Nix store of our own. Its place in the file system is in the cache;
// what runs by [Store.Command] sees it at /nix.
type Store struct {
	cache *Cache
	dir   string // holds nix/
}

// Store returns the cache's Nix store.
func (c *Cache) Store() (*Store, error) {
	s := &Store{cache: c, dir: c.dir}
	if err := os.MkdirAll(filepath.Join(s.dir, "nix/store"), 0o755); err != nil {
		return nil, err
	}
	// The mount point for all mount namespaces.
	if err := os.MkdirAll("/nix", 0o755); err != nil {
		return nil, err
	}
	return s, nil
}

// Path returns where a path below /nix is for programs that do not run by
// [Store.Command].
func (s *Store) Path(p string) string { return filepath.Join(s.dir, p) }

// nixConfig is a nix.conf(5) for a store that nobody else uses, in which nothing
// is fetched from a binary cache and builders may use the machine's programs.
const nixConfig = `
substitute = false
sandbox = false
filter-syscalls = false
build-users-group =
experimental-features = nix-command
`

// Command returns a command that sees the store at /nix. It needs root.
func (s *Store) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	const script = `mount --bind "$0" /nix && exec "$@"`
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", script, s.Path("nix"), name}, args...)...)
	// Unshareflags also makes all mounts private, so that none gets out.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.Env = append(os.Environ(), "NIX_CONFIG="+nixConfig, "NIX_REMOTE=local", "NIX_PATH=", "HOME="+s.dir)
	return cmd
}

// build builds a file of Nix expressions and returns the store path it makes.
// Nix itself sees what of it has been built before.
func (s *Store) build(ctx context.Context, file string, args map[string]string) (string, error) {
	unlock, err := s.cache.lock("nix")
	if err != nil {
		return "", err
	}
	defer unlock()
	argv := []string{"--no-out-link", "--quiet", "--cores", "0", "--max-jobs", "auto", file}
	for name, value := range args {
		argv = append(argv, "--argstr", name, value)
	}
	out, err := output(s.Command(ctx, "nix-build", argv...))
	return strings.TrimSpace(out), err
}

// closure returns the store paths of a path's closure, sorted.
func (s *Store) closure(ctx context.Context, path string) ([]string, error) {
	out, err := output(s.Command(ctx, "nix-store", "--query", "--requisites", path))
	if err != nil {
		return nil, err
	}
	return sortedLines(out), nil
}

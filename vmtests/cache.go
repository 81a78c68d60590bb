package vmtests

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Cache is a directory of fixtures. Each is made once, under a name that holds
// a digest of everything that shapes it, so an edited recipe is built anew.
// Several processes may use one cache.
type Cache struct {
	dir string
	log io.Writer

	accelOnce sync.Once
	accel     []string
	accelErr  error
}

// OpenCache opens the cache in $VMTESTS_CACHE, or else in stage1-vmtests in the
// user's cache directory. What takes long is announced on log, a line each.
func OpenCache(log io.Writer) (*Cache, error) {
	dir := os.Getenv("VMTESTS_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no place for the fixtures (set VMTESTS_CACHE): %w", err)
		}
		dir = filepath.Join(user, "stage1-vmtests")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache of fixtures: %w", err)
	}
	return &Cache{dir: dir, log: log}, nil
}

// Dir is the cache's own directory.
func (c *Cache) Dir() string { return c.dir }

// Make returns the directory NAME-DIGEST in the cache, where DIGEST is over key.
// If it is not there, build fills it first.
func (c *Cache) Make(name string, key []string, build func(dir string) error) (string, error) {
	final := filepath.Join(c.dir, name+"-"+digest(key...))
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	unlock, err := c.lock(name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	fmt.Fprintf(c.log, "fixture %s: building\n", filepath.Base(final))
	tmp, err := os.MkdirTemp(c.dir, "."+name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := build(tmp); err != nil {
		return "", fmt.Errorf("fixture %s: %w", name, err)
	}
	return final, os.Rename(tmp, final)
}

// lock waits until no other process holds the lock of that name.
func (c *Cache) lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// digest is a short digest over strings, each with its length.
func digest(items ...string) string {
	h := sha256.New()
	for _, s := range items {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// digestFS is a digest over every file of fsys, by name and content.
func digestFS(fsys fs.FS) (string, error) {
	var items []string
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(fsys, name)
		items = append(items, name, string(data))
		return err
	})
	return digest(items...), err
}

// output runs a command and returns what it prints. Its error has the command
// and what the command said on stderr.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return string(out), nil
}

// run is output for a command whose output does not matter.
func run(cmd *exec.Cmd) error {
	_, err := output(cmd)
	return err
}

// sortedLines returns the lines of s that are not empty, sorted.
func sortedLines(s string) []string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
	slices.Sort(lines)
	return lines
}

// shell runs a script, with set -e and arguments $1…, in dir.
func shell(ctx context.Context, dir, script string, args ...string) error {
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Dir = dir
	return run(cmd)
}

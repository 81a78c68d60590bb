package netboot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testCache(t *testing.T, dir string, how int) *cache {
	t.Helper()
	c, err := openCache(t.Context(), dir, how)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// add puts an image with this content into the cache.
func (c *cache) add(t *testing.T, key, content string) cachedImage {
	t.Helper()
	tmp, err := c.temp()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, tmp, content, 0o644)
	im, err := c.put(key, tmp, cachedImage{UnpackedSize: pageSize, Inodes: 7})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func TestCache(t *testing.T) {
	c := testCache(t, filepath.Join(t.TempDir(), "a", "b"), unix.LOCK_SH)
	if im, ok, err := c.get("k"); ok || err != nil {
		t.Errorf("get from an empty cache = %v, %v, %v, want none", im, ok, err)
	}
	want := cachedImage{Size: 3, SHA256: sum([]byte("abc")), UnpackedSize: pageSize, Inodes: 7}
	if got := c.add(t, "k", "abc"); got != want {
		t.Errorf("put = %+v, want %+v", got, want)
	}
	if got, ok, err := c.get("k"); got != want || !ok || err != nil {
		t.Errorf("get = %+v, %v, %v, want %+v", got, ok, err, want)
	}
	left, err := filepath.Glob(filepath.Join(c.dir, "tmp-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files %q, %v, want none", left, err)
	}
}

// TestCacheOrphans opens a cache in which a child of a killed build still writes.
func TestCacheOrphans(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan bool)
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				os.Mkdir(filepath.Join(dir, "tmp-1"), 0o755)
				os.WriteFile(filepath.Join(dir, "tmp-1", strconv.Itoa(i)), nil, 0o644)
			}
		}
	})
	for range 5000 {
		testCache(t, dir, unix.LOCK_SH).close()
	}
	close(stop)
	writer.Wait()
	testCache(t, dir, unix.LOCK_SH)
	if left, err := filepath.Glob(filepath.Join(dir, "tmp-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestCacheDamage checks that nothing damaged is ever used, and that it can be
// replaced.
func TestCacheDamage(t *testing.T) {
	c := testCache(t, t.TempDir(), unix.LOCK_SH)
	im := c.add(t, "k", "an image")
	for what, damage := range map[string]func() error{
		"truncated image": func() error { return os.Truncate(c.imageFile(im.SHA256), 4) },
		"flipped byte":    func() error { return os.WriteFile(c.imageFile(im.SHA256), []byte("an imagE"), 0o644) },
		"no image":        func() error { return os.Remove(c.imageFile(im.SHA256)) },
		"empty entry":     func() error { return os.Truncate(filepath.Join(c.dir, "k.json"), 0) },
		"entry of an escaping name": func() error {
			return os.WriteFile(filepath.Join(c.dir, "k.json"), []byte(`{"sha256": "../x"}`), 0o644)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if got, ok, err := c.get("k"); ok || err != nil {
			t.Errorf("%s: get = %+v, %v, %v, want none", what, got, ok, err)
		}
		c.add(t, "k", "an image")
		if _, ok, err := c.get("k"); !ok || err != nil {
			t.Errorf("%s: get after put = %v, %v, want the image", what, ok, err)
		}
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	c := testCache(t, dir, unix.LOCK_SH)
	for i, days := range []int{0, 10, 20, 40} {
		key := string(rune('a' + i))
		im := c.add(t, key, strings.Repeat(key, 100))
		used := now.Add(-time.Duration(days) * 24 * time.Hour)
		if err := os.Chtimes(c.imageFile(im.SHA256), used, used); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(dir, "tmp-left"), "x", 0o644)
	prune := func(o PruneOptions, want PruneResult, keys string) {
		t.Helper()
		o.Cache, o.Now = dir, now
		got, err := Prune(t.Context(), o)
		if err != nil || *got != want {
			t.Errorf("Prune(%+v) = %+v, %v, want %+v", o, got, err, want)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil || len(left) != len(keys) {
			t.Errorf("entries %q, %v, want %q", left, err, keys)
		}
	}

	// A build has the cache: nothing is removed under it.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Prune(ctx, PruneOptions{Cache: dir, MaxSize: 1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Prune during a build = %v, want %v", err, context.DeadlineExceeded)
	}
	c.close()

	prune(PruneOptions{}, PruneResult{Kept: 4, KeptBytes: 400}, "abcd")
	prune(PruneOptions{MaxAge: 30 * 24 * time.Hour}, PruneResult{1, 100, 3, 300}, "abc")
	prune(PruneOptions{MaxSize: 250}, PruneResult{1, 100, 2, 200}, "ab")
	prune(PruneOptions{MaxSize: 1}, PruneResult{2, 200, 0, 0}, "")
	if _, err := os.Stat(filepath.Join(dir, "tmp-left")); err == nil {
		t.Error("tmp-left is still there, want it removed")
	}
}

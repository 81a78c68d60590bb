package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"stage1/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

func TestString(t *testing.T) {
	for want, m := range map[string]Mount{
		"mount -t tmpfs tmpfs /nix -o mode=0755":                        {"tmpfs", "/nix", "tmpfs", 0, "mode=0755"},
		"mount -t proc proc /proc":                                      {"proc", "/proc", "proc", 0, ""},
		"mount -t squashfs /dev/loop0 /l/0 -o ro,nosuid,nodev,0x800000": {"/dev/loop0", "/l/0", "squashfs", unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_I_VERSION, ""},
	} {
		if got := m.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}

// TestSpecial mounts below a scratch directory what NixOS's stage 2 finds at /,
// and has the kernel say that it took the options.
func TestSpecial(t *testing.T) {
	root := t.TempDir()
	for _, m := range Special() {
		m.Target = root + m.Target
		if err := m.Do(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		for _, m := range slices.Backward(Special()) {
			if err := Unmount(root+m.Target, true); err != nil {
				t.Error(err)
			}
		}
	})
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"/proc": "rw,nosuid,nodev,noexec", "/sys": "rw,nosuid,nodev,noexec", "/dev": "rw,nosuid", "/dev/pts": "rw,nosuid,noexec",
		"/dev/shm": "rw,nosuid,nodev", "/run": "rw,nosuid,nodev", "/run/keys": "rw,nosuid,nodev",
	} {
		if !strings.Contains(string(info), " "+root+target+" "+want) {
			t.Errorf("mountinfo has no %s with %s:\n%s", root+target, want, info)
		}
	}
}

func TestMountError(t *testing.T) {
	m := Mount{"none", filepath.Join(t.TempDir(), "x"), "no-such-fs", 0, "a=b"}
	err := m.Do()
	if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), m.String()) {
		t.Errorf("Do = %v, want no such device and %q", err, m)
	}
}

// TestAttachLoop attaches more files at once than a kernel has loop devices at
// first, and finds each file's bytes on its device after the file is gone.
func TestAttachLoop(t *testing.T) {
	dir := t.TempDir()
	content := func(i int) string { return fmt.Sprintf("%-4096d", i) }
	devices := make([]*os.File, 20)
	var all sync.WaitGroup
	for i := range devices {
		all.Go(func() {
			path := filepath.Join(dir, fmt.Sprint(i))
			if err := os.WriteFile(path, []byte(content(i)), 0o644); err != nil {
				t.Error(err)
				return
			}
			f, err := os.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if devices[i], err = AttachLoop(f); err != nil {
				t.Error(err)
			}
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i, dev := range devices {
		if dev == nil {
			continue
		}
		got := make([]byte, len(content(i)))
		if _, err := dev.ReadAt(got, 0); err != nil || string(got) != content(i) {
			t.Errorf("%s has %.10q…, %v, want %.10q…", dev.Name(), got, err, content(i))
		}
		if err := os.WriteFile(dev.Name(), []byte("x"), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("write to %s = %v, want it not permitted", dev.Name(), err)
		}
		dev.Close()
	}
}

func TestAttachLoopRefuses(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := AttachLoop(f); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "/dev/null") {
		t.Errorf("AttachLoop of /dev/null = %v, want invalid argument, and its name", err)
	}
}

func TestOverlay(t *testing.T) {
	dir := t.TempDir()
	tmpfs := Mount{Source: "tmpfs", Target: dir, Type: "tmpfs"}
	if err := tmpfs.Do(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := Unmount(dir, true); err != nil {
			t.Error(err)
		}
	}()
	var lower []string
	for _, name := range []string{"a", "b"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(path, "in-"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		lower = append(lower, path)
	}
	target := filepath.Join(dir, "merged")
	if err := Overlay(target, lower, filepath.Join(dir, "state"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(target, "in-a"), filepath.Join(target, "renamed")); err != nil {
		t.Errorf("rename of a directory of a lower layer: %v", err)
	}
	got, _ := filepath.Glob(target + "/*")
	if want := []string{target + "/in-b", target + "/renamed"}; !slices.Equal(got, want) {
		t.Errorf("overlay has %q, want %q", got, want)
	}
}

func TestOverlayRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		lower []string
		want  string
	}{
		{nil, "0 lower layers"},
		{make([]string, MaxLayers+1), "501 lower layers, the kernel takes 1 to 500"},
		{[]string{"/a:b"}, `"/a:b" has a character`},
		{[]string{"/" + strings.Repeat("x", 4096)}, "do not fit into mount options"},
	} {
		err := Overlay(dir+"/merged", c.lower, dir+"/state", 0)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Overlay of %d layers = %v, want an error with %q", len(c.lower), err, c.want)
		}
	}
}

// TestFreeRoot shows that what is on the file system goes, and what is mounted
// on it stays.
func TestFreeRoot(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "keep")
	for _, target := range []string{dir, inner} {
		m := Mount{Source: "tmpfs", Target: target, Type: "tmpfs"}
		if err := m.Do(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := Unmount(target, true); err != nil {
				t.Error(err)
			}
		}()
	}
	for _, path := range []string{"a/b/c/file", "file", "keep/file"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("keep", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := FreeRoot(root); err != nil {
		t.Error(err)
	}
	var left []string
	if err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		left = append(left, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{".", "keep", "keep/file"}; !slices.Equal(left, want) {
		t.Errorf("FreeRoot left %q, want %q", left, want)
	}
}

func TestFreeRootRefuses(t *testing.T) {
	root, err := os.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	if err := FreeRoot(root); err == nil || !strings.Contains(err.Error(), "neither ramfs nor tmpfs") {
		t.Errorf("FreeRoot of /proc = %v, want a refusal", err)
	}
}

// TestOpenIn follows ".." while mounts come and go, which makes the kernel ask
// for another try.
func TestOpenIn(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{"file": "inside", "a/b/c": ""} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"absolute": "/file", "upward": "../../../../../../../../file", "magic": "/proc/self/exe"} {
		if err := os.Symlink(to, filepath.Join(root, "a/b", name)); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		m := Mount{Source: "tmpfs", Target: t.TempDir(), Type: "tmpfs"}
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := errors.Join(m.Do(), Unmount(m.Target, false)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 2000 {
		for _, name := range []string{"/file", "/a/b/absolute", "/a/b/upward", "/a/../../../file"} {
			f, err := OpenIn(root, name, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	close(stop)
	busy.Wait()
	for _, name := range []string{"/a/b/magic", "/absent"} {
		if f, err := OpenIn(root, name, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("OpenIn(%s) = %v, %v, want that it does not exist", name, f, err)
		}
	}
}

package squashimport

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/mount"
	"stage1/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// Store paths of the tests.
const (
	pathDir  = "00000000000000000000000000000000-dir"
	pathFile = "11111111111111111111111111111111-file"
	pathLink = "22222222222222222222222222222222-link"
)

// fixture is an initrd with images, and a tmpfs for the store.
type fixture struct {
	t      *testing.T
	source string // what the images were made of
	opt    Options
	images []manifest.Image
}

func newFixture(t *testing.T, mode Mode) *fixture {
	t.Helper()
	dir := t.TempDir()
	fx := &fixture{t: t, source: filepath.Join(dir, "source")}
	tmpfs := filepath.Join(dir, "nix")
	m := mount.Mount{Source: "tmpfs", Target: tmpfs, Type: "tmpfs", Data: "size=64M"}
	if err := m.Do(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(tmpfs, unix.MNT_DETACH) })
	fx.opt = Options{
		Initrd: filepath.Join(dir, "initrd"), Store: filepath.Join(tmpfs, "store"), State: filepath.Join(tmpfs, ".store"),
		Scratch: filepath.Join(dir, "l"), Mode: mode, Jobs: 3,
		Warn: func(message string) { t.Errorf("warning: %s", message) },
	}
	for _, d := range []string{fx.source, fx.opt.Store, fx.opt.Initrd} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(fx.opt.Store, unix.MNT_DETACH) })
	return fx
}

func (fx *fixture) sh(script string) {
	fx.t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = fx.source
	if out, err := cmd.CombinedOutput(); err != nil {
		fx.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// image makes an image of the named entries of the source.
func (fx *fixture) image(names ...string) string {
	fx.t.Helper()
	file := fmt.Sprintf("/images/%d", len(fx.images))
	path := fx.opt.Initrd + file
	args := append(append([]string{}, names...), path, "-comp", "gzip", "-noappend", "-no-exports", "-keep-as-directory", "-quiet", "-no-progress")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		fx.t.Fatal(err)
	}
	cmd := exec.Command("mksquashfs", args...)
	cmd.Dir = fx.source
	if out, err := cmd.CombinedOutput(); err != nil {
		fx.t.Fatalf("mksquashfs %q: %v\n%s", args, err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		fx.t.Fatal(err)
	}
	fx.images = append(fx.images, manifest.Image{File: file, Size: info.Size(), StorePaths: len(names)})
	return path
}

// makeStore makes a source with all that a store path can have, and images of it:
// a directory, and a file and a symlink together.
func (fx *fixture) makeStore() {
	fx.t.Helper()
	fx.sh(`
		mkdir -p ` + pathDir + `/bin "` + pathDir + `/a name" ` + pathDir + `/empty ` + pathDir + `/many
		cd ` + pathDir + `
		head -c 300000 /dev/urandom > bin/program; chmod 0555 bin/program
		: > empty-file; head -c 4096 /dev/zero > zeros; truncate -s 5M sparse; printf x | dd of=sparse bs=1 seek=3000000 conv=notrunc status=none
		ln bin/program "a name/hard link"; ln -s ../../elsewhere dangling; ln -s bin/program relative
		echo secret > mode-0400; chmod 0400 mode-0400; chown 12:34 mode-0400; chmod 0700 empty; chown -h 5:6 dangling
		for i in $(seq 500); do echo $i > many/$i; done
		find . -exec touch -h -d @1 {} +
		cd ..; echo content > ` + pathFile + `; ln -s ` + pathDir + `/bin ` + pathLink + `
		touch -h -d @86400 ` + pathFile + ` ` + pathLink)
	if err := unix.Lsetxattr(filepath.Join(fx.source, pathDir, "bin/program"), "trusted.stage1", []byte("value"), 0); err != nil {
		fx.t.Fatal(err)
	}
	fx.image(pathDir)
	fx.image(pathFile, pathLink)
}

// listing describes every file of a tree: what a copy must have.
func listing(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	names := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%s mode %o owner %d:%d time %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch d.Type() {
		case 0:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d sum %x", len(data), sha256.Sum256(data))
			if first, ok := names[st.Ino]; ok {
				line += " link to " + first
			}
			names[st.Ino] = rel
		case fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " to " + to
		}
		value := make([]byte, 100)
		if n, err := unix.Lgetxattr(path, "trusted.stage1", value); err == nil {
			line += fmt.Sprintf(" xattr %q", value[:n])
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("store has  %s", l)
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("store lacks %s", l)
		}
	}
}

func TestRun(t *testing.T) {
	for _, mode := range []Mode{Copy, Overlay, Auto} {
		t.Run(string(mode), func(t *testing.T) {
			fx := newFixture(t, mode)
			fx.makeStore()
			im := New(fx.images, fx.opt)
			if err := im.Run(); err != nil {
				t.Fatal(err)
			}
			compare(t, listing(t, fx.opt.Store), listing(t, fx.source))
			if p := im.Progress(); p.Paths != 3 || p.TotalPaths != 3 {
				t.Errorf("Progress = %+v, want 3 of 3 store paths", p)
			}
			if want := map[Mode]Mode{Copy: Copy, Overlay: Overlay, Auto: Overlay}[mode]; im.Mode() != want {
				t.Errorf("Mode = %s, want %s", im.Mode(), want)
			}
			if left, _ := filepath.Glob(fx.opt.Initrd + "/images/*"); len(left) > 0 {
				t.Errorf("images left in the initrd: %q", left)
			}
			if _, err := os.Stat(fx.opt.Scratch); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("scratch directory: %v, want it gone", err)
			}
			fx.mountsLeft()
			writable(t, fx.opt.Store)
			if mode == Copy {
				sparseKept(t, filepath.Join(fx.opt.Store, pathDir, "sparse"))
			}
		})
	}
}

// mountsLeft fails the test if an image of it is still mounted.
func (fx *fixture) mountsLeft() {
	fx.t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		fx.t.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		if strings.Contains(line, " "+fx.opt.Scratch) {
			fx.t.Errorf("mountinfo has %s", line)
		}
	}
}

// writable does with a store what Nix does: add, rename and remove paths.
func writable(t *testing.T, store string) {
	t.Helper()
	added := filepath.Join(store, "33333333333333333333333333333333-added")
	if err := os.WriteFile(added, []byte("added"), 0o444); err != nil {
		t.Error(err)
	}
	trash := filepath.Join(store, "trash")
	if err := os.Rename(filepath.Join(store, pathDir), trash); err != nil {
		t.Error(err)
	}
	for _, path := range []string{added, trash, filepath.Join(store, pathFile), filepath.Join(store, pathLink)} {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	}
	if left := listing(t, store); len(left) > 0 {
		t.Errorf("store after removal of all: %q", left)
	}
}

func sparseKept(t *testing.T, path string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil && st.Blocks*512 > 1<<20 {
		t.Errorf("%s takes %d bytes, want holes", path, st.Blocks*512)
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(fx *fixture)
		want string
	}{
		{"missing", func(fx *fixture) { fx.remove(0) }, "/images/0: no such file"},
		{"short", func(fx *fixture) { fx.truncate(0, fx.images[0].Size-1) }, "the manifest says"},
		{"short of unknown size", func(fx *fixture) { fx.truncate(0, fx.images[0].Size-8192); fx.images[0].Size = 0 }, "truncated"},
		{"empty", func(fx *fixture) { fx.truncate(0, 0); fx.images[0].Size = 0 }, "not a squashfs image"},
		{"garbage", func(fx *fixture) { fx.write(0, 0, strings.Repeat("garbage!", 12)) }, "not a squashfs image"},
		{"damaged root inode", func(fx *fixture) { fx.write(0, 32, "\xff\xff\xff\xff\xff") }, "/images/0"},
		{"a directory", func(fx *fixture) {
			fx.remove(0)
			_ = os.Mkdir(fx.opt.Initrd+"/images/0", 0o755)
		}, "want a regular file"},
		{"a fifo", func(fx *fixture) { fx.remove(0); _ = unix.Mkfifo(fx.opt.Initrd+"/images/0", 0o644) }, "want a regular file"},
		{"a link out of the initrd", func(fx *fixture) {
			fx.remove(0)
			_ = os.Symlink("/proc/self/exe", fx.opt.Initrd+"/images/0")
		}, "/images/0: no such file"},
		{"another number of store paths", func(fx *fixture) { fx.images[1].StorePaths = 3 }, "it holds 2 store paths, the manifest says 3"},
		{"another name", func(fx *fixture) { fx.images[0].Entry = pathFile }, "its name says"},
		{"a store path twice", func(fx *fixture) { fx.image(pathFile) }, "in "},
	} {
		for _, mode := range []Mode{Copy, Overlay, Auto} {
			t.Run(c.name+"/"+string(mode), func(t *testing.T) {
				fx := newFixture(t, mode)
				fx.makeStore()
				c.harm(fx)
				err := New(fx.images, fx.opt).Run()
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Run = %v, want an error with %q", err, c.want)
				}
				fx.mountsLeft()
				wholeOrAbsent(t, fx)
			})
		}
	}
}

func (fx *fixture) remove(i int) {
	if err := os.Remove(fx.opt.Initrd + fx.images[i].File); err != nil {
		fx.t.Fatal(err)
	}
}

func (fx *fixture) truncate(i int, size int64) {
	if err := os.Truncate(fx.opt.Initrd+fx.images[i].File, size); err != nil {
		fx.t.Fatal(err)
	}
}

func (fx *fixture) write(i int, offset int64, data string) {
	f, err := os.OpenFile(fx.opt.Initrd+fx.images[i].File, os.O_WRONLY, 0)
	if err != nil {
		fx.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(data), offset); err != nil {
		fx.t.Fatal(err)
	}
}

// wholeOrAbsent checks that each store path is as in the source, or not there.
func wholeOrAbsent(t *testing.T, fx *fixture) {
	t.Helper()
	got, all := listing(t, fx.opt.Store), listing(t, fx.source)
	var want []string
	for _, l := range all {
		top, _, _ := strings.Cut(strings.Fields(l)[0], "/")
		if _, err := os.Lstat(filepath.Join(fx.opt.Store, top)); err == nil {
			want = append(want, l)
		}
	}
	compare(t, got, want)
}

// TestDeviceNode shows that nothing but files, directories and symlinks comes
// out of an image that is copied.
func TestDeviceNode(t *testing.T) {
	fx := newFixture(t, Copy)
	fx.makeStore()
	fx.sh("mknod " + pathDir + "/null c 1 3")
	fx.images = nil
	fx.image(pathDir)
	err := New(fx.images, fx.opt).Run()
	if err == nil || !strings.Contains(err.Error(), pathDir+"/null") {
		t.Errorf("Run = %v, want an error that names the device node", err)
	}
	if left := listing(t, fx.opt.Store); len(left) > 0 {
		t.Errorf("store after the error: %q, want it empty", left)
	}
}

// TestRunAgain shows that an import goes on where it stopped, once its cause is
// mended.
func TestRunAgain(t *testing.T) {
	for _, mode := range []Mode{Copy, Overlay} {
		t.Run(string(mode), func(t *testing.T) {
			fx := newFixture(t, mode)
			fx.makeStore()
			path := fx.opt.Initrd + fx.images[1].File
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			im := New(fx.images, fx.opt)
			if err := im.Run(); err == nil {
				t.Fatal("Run without an image = nil, want an error")
			}
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
			if err := im.Run(); err != nil {
				t.Fatalf("Run again: %v", err)
			}
			compare(t, listing(t, fx.opt.Store), listing(t, fx.source))
		})
	}
}

// TestLargeFile copies a file in more parts than there are workers, some of them
// holes, and the last one short.
func TestLargeFile(t *testing.T) {
	fx := newFixture(t, Copy)
	fx.sh("mkdir " + pathDir + "; cd " + pathDir + `
		head -c 9000000 /dev/urandom > large; truncate -s 25000000 large; head -c 5000003 /dev/urandom >> large; ln large link; touch -d @1 large .`)
	fx.image(pathDir)
	if err := New(fx.images, fx.opt).Run(); err != nil {
		t.Fatal(err)
	}
	compare(t, listing(t, fx.opt.Store), listing(t, fx.source))
}

func TestPartSize(t *testing.T) {
	for size, want := range map[int64]int64{0: 4 << 20, 1 << 30: 5 << 20, 1<<30 - 1: 4 << 20, 100 << 30: 401 << 20} {
		if got := partSize(size); got != want {
			t.Errorf("partSize(%d) = %d, want %d", size, got, want)
		}
	}
}

// TestFull shows the error of a store that is larger than its file system.
func TestFull(t *testing.T) {
	fx := newFixture(t, Copy)
	fx.sh("mkdir " + pathDir + "; head -c 80M /dev/zero | tr '\\0' x > " + pathDir + "/large")
	fx.image(pathDir)
	err := New(fx.images, fx.opt).Run()
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), pathDir+"/large") || !strings.Contains(err.Error(), "stage1.nix_size=") {
		t.Errorf("Run = %v, want no space for %s/large, and the flag that helps", err, pathDir)
	}
	if left := listing(t, fx.opt.Store); len(left) > 0 {
		t.Errorf("store after the error: %q, want it empty", left)
	}
}

// TestManyImages shows what more images do than an overlay takes.
func TestManyImages(t *testing.T) {
	for _, mode := range []Mode{Overlay, Auto} {
		t.Run(string(mode), func(t *testing.T) {
			fx := newFixture(t, mode)
			warned := ""
			fx.opt.Warn = func(message string) { warned += message }
			for i := range mount.MaxLayers + 1 {
				name := fmt.Sprintf("%032d-x", i)
				fx.sh("echo " + name + " > " + name)
			}
			names, _ := filepath.Glob(fx.source + "/*")
			fx.image(filepath.Base(names[0]))
			one, err := os.ReadFile(fx.opt.Initrd + fx.images[0].File)
			if err != nil {
				t.Fatal(err)
			}
			for len(fx.images) <= mount.MaxLayers {
				file := fmt.Sprintf("/images/%d", len(fx.images))
				if err := os.WriteFile(fx.opt.Initrd+file, one, 0o644); err != nil {
					t.Fatal(err)
				}
				fx.images = append(fx.images, manifest.Image{File: file, Size: int64(len(one)), StorePaths: 1})
			}
			err = New(fx.images, fx.opt).Run()
			if mode == Overlay && (err == nil || !strings.Contains(err.Error(), "501 images are more than the 500 layers")) {
				t.Errorf("Run = %v, want too many layers", err)
			}
			// The images are all the same, which ends the copy that auto tries.
			if mode == Auto && (!strings.Contains(warned, "the store is copied") || err == nil) {
				t.Errorf("Run = %v with the warning %q, want a copy", err, warned)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	p := Progress{Paths: 1, TotalPaths: 3, Bytes: 5e6, TotalBytes: 2e7, Elapsed: 2e9}
	if got, want := p.String(), "1 of 3 store paths, 5.0 of 20.0 MB, 2.5 MB/s"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	p.TotalBytes, p.Elapsed = 0, 0
	if got, want := p.String(), "1 of 3 store paths, 5.0 MB, 0.0 MB/s"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

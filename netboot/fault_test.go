package netboot

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stage1/mount"
	"stage1/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// mountOn mounts for the rest of the test.
func mountOn(t *testing.T, m mount.Mount) {
	t.Helper()
	if err := m.Do(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(m.Target, true); err != nil {
			t.Error(err)
		}
	})
}

// mountReadOnly makes a directory read-only for the rest of the test.
func mountReadOnly(t *testing.T, dir string) {
	t.Helper()
	mountOn(t, mount.Mount{Source: dir, Target: dir, Flags: unix.MS_BIND})
	if err := (mount.Mount{Target: dir, Flags: unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY}).Do(); err != nil {
		t.Fatal(err)
	}
}

// fakeProgram puts a shell script into $PATH in the place of a program, which it
// finds in $REAL.
func fakeProgram(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("REAL", lookPath(t, name))
	writeFile(t, filepath.Join(dir, name), "#!/bin/sh\n"+script+"\n", 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// onlyProgram leaves one program in $PATH.
func onlyProgram(t *testing.T, name string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(lookPath(t, name), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
}

// TestBuildFaults checks for each fault that the message names the cause, that
// the older output stays, that nothing is left behind, and that a build without
// the fault then makes with the same cache what a clean one does.
func TestBuildFaults(t *testing.T) {
	s := newTestStore(t)
	clean := s.options()
	clean.NoDatabase = true // it takes longer than all else
	if _, err := Build(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	// The script of mksquashfs does this for one store path.
	mksquashfs := func(script string) func(*testing.T, *Options) {
		return func(t *testing.T, _ *Options) {
			fakeProgram(t, "mksquashfs", `[ "$1" = `+s.real(s.file)+` ] || exec "$REAL" "$@"`+"\n"+script)
		}
	}
	nix := func(script string) func(*testing.T, *Options) {
		return func(t *testing.T, _ *Options) { fakeProgram(t, "nix", script) }
	}
	for _, test := range []struct {
		what  string
		fault func(*testing.T, *Options)
		words []string
	}{
		{"mksquashfs is missing", func(t *testing.T, _ *Options) { onlyProgram(t, "nix") }, []string{`"mksquashfs": executable file not found`, "install squashfs-tools"}},
		{"mksquashfs is something else", func(t *testing.T, _ *Options) { fakeProgram(t, "mksquashfs", "echo hello") }, []string{"/mksquashfs -version", "hello"}},
		{"mksquashfs fails", mksquashfs("echo it is broken; exit 3"), []string{s.file, "exit status 3", "it is broken"}},
		{"mksquashfs is killed", mksquashfs(`"$REAL" "$@"; kill -KILL $$`), []string{s.file, "signal: killed"}},
		{"mksquashfs writes nothing", mksquashfs("exit 0"), []string{s.file, "mksquashfs made a bad one", "not a squashfs image"}},
		{"mksquashfs writes a short image", mksquashfs(`"$REAL" "$@"; truncate -s 150 "$2"`), []string{s.file, "truncated"}},
		{"mksquashfs leaves a hole", mksquashfs(`"$REAL" "$@"; dd if=/dev/zero of="$2" bs=1 seek=96 count=150 conv=notrunc status=none`), []string{s.file, "mksquashfs made a bad one"}},
		{"mksquashfs takes another path", mksquashfs("shift; exec \"$REAL\" " + s.real(s.tools) + ` "$@"`), []string{s.file, "into its root directory"}},
		{"a store path disappears", mksquashfs("rm -f " + s.real(s.file) + `; exec "$REAL" "$@"`), []string{s.file, "Cannot stat"}},
		{"a store path disappears late", mksquashfs(`"$REAL" "$@"; rm -f ` + s.real(s.file)), []string{s.file, "no such file"}},
		{"a store path changes", mksquashfs(`"$REAL" "$@"; echo more >> ` + s.real(s.file)), []string{s.file, "not what was registered", "--repair-path"}},
		{"a store path is damaged", func(t *testing.T, _ *Options) { s.write(s.file, "Content\n", 0o444) }, []string{s.file, "not what was registered"}},
		{"a store path is absent", func(t *testing.T, _ *Options) { run(t, "rm", "-f", s.real(s.file)) }, []string{s.file, "registered and not there"}},
		{"nix is missing", func(t *testing.T, _ *Options) { onlyProgram(t, "mksquashfs") }, []string{`"nix": executable file not found`, "install Nix", "--closure-info"}},
		{"nix fails", nix("echo error: no daemon >&2; exit 1"), []string{"nix path-info", s.toplevel, "exit status 1", "no daemon"}},
		{"nix is killed", nix("kill -KILL $$"), []string{"nix path-info", "signal: killed"}},
		{"nix says half", nix(`"$REAL" "$@" | head -c 300`), []string{"nix path-info --json", "unexpected end"}},
		{"nix says nothing", nix("exit 0"), []string{"nix path-info --json", "unexpected end"}},
		{"the cache is a file", func(t *testing.T, o *Options) { o.Cache = writeTemp(t, "cache") }, []string{"cache: ", "/cache: not a directory"}},
		{"the cache cannot be made", func(t *testing.T, o *Options) { mountReadOnly(t, filepath.Dir(o.Cache)) }, []string{"cache: mkdir ", "/cache: read-only file system"}},
		{"the output's place is read-only", func(t *testing.T, o *Options) {
			o.Cache = t.TempDir()
			mountReadOnly(t, filepath.Dir(o.Output))
		}, []string{"output: mkdir ", "read-only file system"}},
		{"the output is a mount point", func(t *testing.T, o *Options) {
			mountOn(t, mount.Mount{Source: o.Output, Target: o.Output, Flags: unix.MS_BIND})
		}, []string{"output: put ", "is it a mount point?"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			o := s.options()
			run(t, "cp", "-a", clean.Output, o.Output)
			t.Run("faulty", func(t *testing.T) {
				faulty := o
				faulty.Append, faulty.NoDatabase = "faulty", true
				test.fault(t, &faulty)
				_, err := Build(t.Context(), faulty)
				wantError(t, "Build", err, test.words...)
				checkNothingLeft(t, faulty)
			})
			run(t, "diff", "-r", clean.Output, o.Output)
			s.write(s.file, "content\n", 0o444)
			again := o
			again.NoDatabase = true
			again.Output += "-again"
			if _, err := Build(t.Context(), again); err != nil {
				t.Errorf("Build without the fault: %v", err)
			}
			run(t, "diff", "-r", clean.Output, again.Output)
		})
	}
}

var diskFull = regexp.MustCompile(`(?i)no space left on device|disk is full|is the disk full|disk I/O error`)

// TestDiskFull builds with less and less room for the cache, and for the output.
func TestDiskFull(t *testing.T) {
	s := newTestStore(t)
	clean := s.options()
	if _, err := Build(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	old := clean
	old.Append, old.Output = "old", clean.Output+"-old"
	if _, err := Build(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	size := func(dir string) (n int64) {
		for _, f := range must(os.ReadDir(dir))(t) {
			n += (must(f.Info())(t).Size() + pageSize - 1) / pageSize * pageSize
		}
		return n
	}
	for _, full := range []string{"cache", "output"} {
		used := map[string]int64{"cache": 0, "output": size(old.Output)}[full]
		needs := map[string]int64{"cache": size(clean.Cache), "output": size(clean.Output)}[full]
		failed := 0
		for i := range int64(5) {
			o := s.options()
			dir := t.TempDir()
			// From nothing to plenty: all of it, and some for directories and what is
			// made on the way.
			limit := used + needs*i/4 + pageSize*(1+i*i*16)
			mountOn(t, mount.Mount{Source: "tmpfs", Target: dir, Type: "tmpfs", Data: fmt.Sprintf("size=%d", limit)})
			if full == "cache" {
				o.Cache = filepath.Join(dir, "cache")
			} else {
				o.Output = filepath.Join(dir, "netboot")
				o.Cache = clean.Cache
			}
			run(t, "cp", "-a", old.Output, o.Output)
			want := clean.Output
			if _, err := Build(t.Context(), o); err != nil {
				failed++
				want = old.Output
				// In the words of Linux, mksquashfs, SQLite and ours.
				if !diskFull.MatchString(err.Error()) || !strings.Contains(err.Error(), dir) {
					t.Errorf("Build with a full %s = %v, want it to say so and where", full, err)
				}
			}
			run(t, "diff", "-r", want, o.Output)
			checkNothingLeft(t, o)
			if err := (mount.Mount{Target: dir, Flags: unix.MS_REMOUNT, Data: "size=100M"}).Do(); err != nil {
				t.Fatal(err)
			}
			if _, err := Build(t.Context(), o); err != nil {
				t.Errorf("Build when the %s has room again: %v", full, err)
			}
			run(t, "diff", "-r", clean.Output, o.Output)
		}
		if failed == 0 || failed == 5 {
			t.Errorf("%d of 5 builds ran out of room for the %s, want some", failed, full)
		}
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestReadOnlyCache takes images from a cache that it cannot write to.
func TestReadOnlyCache(t *testing.T) {
	s := newTestStore(t)
	o := s.options()
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	again := o
	again.Output += "-again"
	mountReadOnly(t, o.Cache)
	if res, err := Build(t.Context(), again); err != nil || res.Cached != 5 {
		t.Errorf("Build from a read-only cache = %+v, %v, want all images from it", res, err)
	}
	run(t, "diff", "-r", o.Output, again.Output)
	s.write(s.toplevel+"/kernel-params", "quiet", 0o444)
	s.register([]string{s.toplevel, s.tools, s.link, s.kernel, s.toplevel})
	_, err := Build(t.Context(), again)
	wantError(t, "Build with a read-only cache that lacks an image", err, "image of "+s.toplevel, "none can be made", o.Cache, "read-only file system")
	_, err = Prune(t.Context(), PruneOptions{Cache: o.Cache, MaxSize: 1})
	wantError(t, "Prune of a read-only cache", err, o.Cache, "read-only file system")
}

// TestOddNames builds with names that need quoting, of everything that may have
// one.
func TestOddNames(t *testing.T) {
	s := newTestStore(t)
	for i, name := range oddNames {
		s.write(s.tools+"/odd/"+name, name, 0o444)
		s.symlink(fmt.Sprintf("%s/odd/link%d", s.tools, i), name)
	}
	s.register([]string{s.tools}, []string{s.toplevel, s.tools, s.link, s.kernel, s.toplevel})
	clean := s.options()
	for _, name := range oddNames {
		clean.ExtraFiles = append(clean.ExtraFiles, ExtraFile{writeTemp(t, name), "/extra/" + name})
	}
	if _, err := Build(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	old := clean
	old.Output += "-old"
	old.NoDatabase = true
	if _, err := Build(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	checkContent(t, s, clean.Output)
	checkImages(t, s, clean.Output)
	initrd := readArchive(t, gunzip(t, must(os.ReadFile(filepath.Join(clean.Output, initrdName)))(t)))
	for _, name := range oddNames {
		dir := filepath.Join(t.TempDir(), name)
		if got := initrd["extra/"+name]; got != "extra" {
			t.Errorf("extra file %q is %q in the initrd", name, got)
		}
		o := clean
		o.Output, o.Cache = filepath.Join(dir, name), filepath.Join(dir, name+"cache")
		o.Stage1 = writeTemp(t, name)
		run(t, "cp", clean.Stage1, o.Stage1)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		stale := filepath.Join(dir, "."+name+".tmp-1")
		writeFile(t, filepath.Join(stale, "x"), "", 0o644)
		run(t, "cp", "-a", old.Output, o.Output) // to be replaced
		if _, err := Build(t.Context(), o); err != nil {
			t.Errorf("Build with names like %q: %v", name, err)
		}
		run(t, "diff", "-r", clean.Output, o.Output)
		if left := must(os.ReadDir(dir))(t); len(left) != 2 {
			t.Errorf("%q has %v, want output and cache", dir, left)
		}
	}
}

func writeTemp(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	writeFile(t, file, "extra", 0o644)
	return file
}

// TestStaleOutput removes what killed builds left, and nothing else.
func TestStaleOutput(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "netboot")
	other, err := newOutput(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.discard()
	for _, name := range []string{".netboot.tmp-1234/initrd", ".netboot.tmp-mine/x", ".netboot2.tmp-1/x", ".netboot.tmp-5"} {
		writeFile(t, filepath.Join(filepath.Dir(dir), name), "", 0o644)
	}
	o, err := newOutput(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer o.discard()
	want := []string{filepath.Base(other.tmp), filepath.Base(o.tmp), ".netboot.tmp-mine", ".netboot2.tmp-1", ".netboot.tmp-5"}
	list := must(os.ReadDir(filepath.Dir(dir)))(t)
	for _, d := range list {
		if !strings.Contains(strings.Join(want, " ")+" ", d.Name()+" ") {
			t.Errorf("%s is still there", d.Name())
		}
	}
	if len(list) != len(want) {
		t.Errorf("%v is there, want %q", list, want)
	}
}

func TestCommitHint(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{unix.EINVAL, "RENAME_EXCHANGE"},
		{unix.ENOSYS, "RENAME_EXCHANGE"},
		{&os.LinkError{Op: "rename", Old: "a", New: "b", Err: unix.EBUSY}, "mount point"},
	} {
		if got := commitHint(test.err); !strings.Contains(got, test.want) {
			t.Errorf("commitHint(%v) = %q, want %q", test.err, got, test.want)
		}
	}
	if got := commitHint(unix.ENOSPC); got != "" {
		t.Errorf("commitHint(%v) = %q, want none", unix.ENOSPC, got)
	}
}

package netboot

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sync/errgroup"

	"stage1/manifest"
	"stage1/registration"
)

// TestBuild builds a system, reads all of the directory back, and builds again.
func TestBuild(t *testing.T) {
	s := newTestStore(t)
	o := s.options()
	res, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.StorePaths != 5 || res.Built != 5 || res.Cached != 0 || res.KernelVersion != testVersion {
		t.Errorf("Build = %+v, want 5 store paths, all built", res)
	}
	var names []string
	for _, f := range res.Files {
		names = append(names, f.Name)
		info, err := os.Stat(filepath.Join(o.Output, f.Name))
		if err != nil || info.Size() != f.Size {
			t.Errorf("file %s: %v, want %d bytes", f.Name, err, f.Size)
		}
		if slices.Contains(loadOrder, f.Name) && f.Size%pageSize != 0 {
			t.Errorf("file %s has %d bytes, want a multiple of %d", f.Name, f.Size, pageSize)
		}
	}
	if want := []string{"bzImage", "initrd", "manifest", "nix-store", "netboot.ipxe", "kexec-boot"}; !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
	checkContent(t, s, o.Output)

	again := o
	again.Output = filepath.Join(t.TempDir(), "again")
	res, err = Build(t.Context(), again)
	if err != nil || res.Cached != 5 || res.Built != 0 {
		t.Errorf("second Build = %+v, %v, want all from the cache", res, err)
	}
	run(t, "diff", "--recursive", o.Output, again.Output)

	fresh := s.options()
	fresh.ClosureInfo = s.closureInfo()
	fresh.Jobs = 1
	if _, err := Build(t.Context(), fresh); err != nil {
		t.Fatal(err)
	}
	run(t, "diff", "--recursive", o.Output, fresh.Output)
}

// checkContent checks what the kernel would unpack against the store.
func checkContent(t *testing.T, s *testStore, dir string) {
	t.Helper()
	initrds := fstest.MapFS{}
	for _, name := range loadOrder {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == initrdName {
			data = gunzip(t, data)
		}
		for file, text := range readArchive(t, data) {
			initrds[file] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	m, err := manifest.Open(initrds, "")
	if err != nil {
		t.Fatal(err)
	}
	if m.Init != s.toplevel+"/init" || m.StorePaths() != 5 || m.UnpackedSize() == 0 || m.Inodes() == 0 {
		t.Errorf("manifest = %+v, want the init and 5 store paths", m)
	}
	for _, name := range []string{ipxeName, kexecName} {
		script, err := os.ReadFile(filepath.Join(dir, name))
		if want := "init=" + m.Init + " stage1.manifest_sha256=" + sum(initrds[manifest.Path[1:]].Data) + " "; err != nil || !strings.Contains(string(script), want) {
			t.Errorf("%s is\n%s%v\nwant %q in it", name, script, err, want)
		}
	}
	check := func(file string, size int64, sha256 string) []byte {
		t.Helper()
		f, ok := initrds[strings.TrimPrefix(file, "/")]
		if !ok || int64(len(f.Data)) != size || sum(f.Data) != sha256 {
			t.Fatalf("%s is not in the initrds as the manifest has it", file)
		}
		return f.Data
	}
	for _, im := range m.Images {
		check(im.File, im.Size, im.SHA256)
	}
	reg := m.Registration
	r, err := registration.Decompress(bytes.NewReader(check(reg.File, reg.Size, reg.SHA256)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := closureFromNix(t.Context(), s.store, s.toplevel)
	if err != nil {
		t.Fatal(err)
	}
	if want := registrationText(t, entries); string(got) != want || reg.UnpackedSize != int64(len(want)) {
		t.Errorf("registration\n%s\nwant\n%s", got, want)
	}
	if string(initrds["init"].Data) == "" || initrds["lib/modules/"+testVersion+"/kernel/loop.ko"] == nil {
		t.Error("the initrd has no init or no module loop")
	}
}

func gunzip(t *testing.T, data []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false) // zeros follow
	data, err = io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestBuildOneChange changes one store path: one image is made.
func TestBuildOneChange(t *testing.T) {
	s := newTestStore(t)
	o := s.options()
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	s.write(s.toplevel+"/kernel-params", "quiet", 0o444)
	s.register([]string{s.toplevel, s.tools, s.link, s.kernel, s.toplevel})
	res, err := Build(t.Context(), o)
	if err != nil || res.Built != 1 || res.Cached != 4 {
		t.Errorf("Build = %+v, %v, want one image built", res, err)
	}
	script, err := os.ReadFile(filepath.Join(o.Output, ipxeName))
	if err != nil || !bytes.Contains(script, []byte(" quiet root=tmpfs ${cmdline}\n")) {
		t.Errorf("netboot.ipxe was not replaced: %s%v", script, err)
	}
}

// TestBuildLinked looks into the image or images.
func TestBuildLinked(t *testing.T) {
	s := newTestStore(t)
	for _, c := range []struct {
		noLink bool
		images int
	}{{false, 1}, {true, 5}} {
		o := s.options()
		o.NoLink, o.NoDatabase = c.noLink, true
		if _, err := Build(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if n := checkImages(t, s, o.Output); n != c.images {
			t.Errorf("NoLink %v: %d images, want %d", c.noLink, n, c.images)
		}
	}
}

// checkImages compares what unsquashfs gets out of the images with the store. It
// returns their number.
func checkImages(t *testing.T, s *testStore, output string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(output, storeName))
	if err != nil {
		t.Fatal(err)
	}
	archive := readArchive(t, data)
	dir := filepath.Join(t.TempDir(), "store")
	for _, image := range archive {
		file := filepath.Join(t.TempDir(), "image")
		writeFile(t, file, image, 0o644)
		run(t, "unsquashfs", "-quiet", "-no-progress", "-force", "-dest", dir, file)
	}
	for _, p := range []string{s.tools, s.file, s.link, s.kernel, s.toplevel} {
		run(t, "diff", "--recursive", "--no-dereference", s.real(p), filepath.Join(dir, filepath.Base(p)))
	}
	return len(archive)
}

// TestBuildDamagedCache checks that a damaged image does not get into the output.
func TestBuildDamagedCache(t *testing.T) {
	s := newTestStore(t)
	o := s.options()
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	images, err := filepath.Glob(filepath.Join(o.Cache, "*.squashfs"))
	if err != nil || len(images) != 5 {
		t.Fatalf("images in the cache: %q, %v, want 5", images, err)
	}
	f, err := os.OpenFile(images[2], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 200); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, 200); err != nil {
		t.Fatal(err)
	}
	again := o
	again.Output += "-again"
	res, err := Build(t.Context(), again)
	if err != nil || res.Built != 1 {
		t.Errorf("Build = %+v, %v, want one image built", res, err)
	}
	run(t, "diff", "--recursive", o.Output, again.Output)
}

// TestBuildTogether runs builds with one cache at the same time.
func TestBuildTogether(t *testing.T) {
	s := newTestStore(t)
	o := s.options()
	var group errgroup.Group
	outputs := []string{o.Output, o.Output + "2", o.Output + "3"}
	for _, out := range outputs {
		o := o
		o.Output = out
		group.Go(func() error {
			_, err := Build(t.Context(), o)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	run(t, "diff", "--recursive", outputs[0], outputs[1])
	run(t, "diff", "--recursive", outputs[0], outputs[2])
}

func TestBuildOptions(t *testing.T) {
	s := newTestStore(t)
	ucode := archive(t, "kernel/x86/microcode/GenuineIntel.bin")
	s.write(s.kernel+"/initrd", string(ucode)+"\x1f\x8bthe rest", 0o444)
	s.symlink(s.toplevel+"/initrd", s.kernel+"/initrd")
	s.register([]string{s.kernel}, []string{s.toplevel, s.tools, s.link, s.kernel, s.toplevel})
	o := s.options()
	o.Modules = []string{"nic"}
	o.DebugShell = true
	o.Append = "stage1.on_fail=hang"
	o.Compressor, o.Level, o.BlockSize = "gzip", 1, 4096
	extra := t.TempDir()
	writeFile(t, filepath.Join(extra, "etc", "file"), "extra", 0o640)
	writeFile(t, filepath.Join(extra, "etc", "script"), "script", 0o700)
	o.ExtraFiles = []ExtraFile{{extra, "/"}, {filepath.Join(extra, "etc", "file"), "/a/b"}}
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(o.Output, initrdName))
	if err != nil {
		t.Fatal(err)
	}
	rest, ok := bytes.CutPrefix(data, ucode)
	if !ok {
		t.Fatal("the initrd does not begin with the microcode")
	}
	got := readArchive(t, gunzip(t, rest))
	for name, want := range map[string]string{
		"etc/file": "extra", "etc/script": "script", "a/b": "extra", "bin/sh": "busybox",
		"lib/modules/" + testVersion + "/kernel/nic.ko": elfStub,
	} {
		if got[name] != want {
			t.Errorf("%s in the initrd is %q, want %q", name, got[name], want)
		}
	}
	store, err := os.ReadFile(filepath.Join(o.Output, storeName))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range readArchive(t, store) {
		if at := bytes.Index(store, []byte(text)); at%pageSize != 0 {
			t.Errorf("%s is at %d, want a multiple of %d", name, at, pageSize)
		}
		// Compressor and block size in the superblock, little-endian.
		if got := hex.EncodeToString([]byte(text[12:16])) + hex.EncodeToString([]byte(text[20:22])); got != "00100000"+"0100" {
			t.Errorf("%s has block size and compressor %s, want 4096 and gzip", name, got)
		}
	}
	script, err := os.ReadFile(filepath.Join(o.Output, ipxeName))
	if err != nil || !bytes.Contains(script, []byte("stage1.on_fail=hang")) {
		t.Errorf("netboot.ipxe has no appended argument: %s%v", script, err)
	}
}

// TestBuildRefuses checks that what cannot boot is refused, by a message that
// says why, and that nothing is left behind.
func TestBuildRefuses(t *testing.T) {
	s := newTestStore(t)
	dynamic := lookPath(t, "ls")
	for _, test := range []struct {
		what  string
		alter func(*Options)
		words []string
	}{
		{"a path that is no store path", func(o *Options) { o.Toplevel = t.TempDir() }, []string{"neither a path directly below /nix/store"}},
		{"an absent toplevel", func(o *Options) { o.Toplevel = testPath("absent") }, []string{testPath("absent"), "no such file"}},
		{"an unknown module", func(o *Options) { o.Modules = []string{"nonesuch"} }, []string{"module nonesuch"}},
		{"a dynamic stage 1", func(o *Options) { o.Stage1 = dynamic }, []string{"stage 1", dynamic, "dynamically linked"}},
		{"no stage 1", func(o *Options) { o.Stage1 = "/absent" }, []string{"stage 1", "/absent"}},
		{"a dynamic shell", func(o *Options) { o.DebugShell, o.Busybox = true, dynamic }, []string{"debug shell", dynamic, "dynamically linked"}},
		{"an extra file over /init", func(o *Options) { o.ExtraFiles = []ExtraFile{{dynamic, "/init"}} }, []string{dynamic, "twice"}},
		{"an extra file at a relative place", func(o *Options) { o.ExtraFiles = []ExtraFile{{dynamic, "x"}} }, []string{dynamic, "not absolute"}},
		{"an absent extra file", func(o *Options) { o.ExtraFiles = []ExtraFile{{"/absent", "/x"}} }, []string{"/absent"}},
		{"negative jobs", func(o *Options) { o.Jobs = -1 }, []string{"-1 jobs"}},
		{"a foreign output", func(o *Options) { writeFile(t, o.Output+"/thesis.tex", "", 0o644) }, []string{"not made by mknetboot"}},
		{"a file as output", func(o *Options) { writeFile(t, o.Output, "", 0o644) }, []string{"not a directory"}},
		{"a long command line", func(o *Options) { o.Append = strings.Repeat("x", 2000) }, []string{"command line", "2047"}},
		{"an absent closure", func(o *Options) { o.ClosureInfo = "/absent" }, []string{"/absent/store-paths"}},
	} {
		o := s.options()
		test.alter(&o)
		_, err := Build(t.Context(), o)
		wantError(t, "Build with "+test.what, err, test.words...)
		checkNothingLeft(t, o)
	}
}

// checkNothingLeft looks for temporary files beside the output and in the cache.
func checkNothingLeft(t *testing.T, o Options) {
	t.Helper()
	for _, pattern := range []string{filepath.Dir(o.Output) + "/.*tmp*", o.Cache + "/tmp-*"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	}
}

// TestBuildKeepsOldOutput checks that a build that fails, or is stopped, leaves the
// output of the one before.
func TestBuildKeepsOldOutput(t *testing.T) {
	s := newTestStore(t)
	o := s.options()
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "--recursive", o.Output, copied)

	bad := o
	bad.ExtraFiles = []ExtraFile{{"/absent", "/x"}}
	_, err := Build(t.Context(), bad)
	wantError(t, "Build", err, "/absent")
	run(t, "diff", "--recursive", copied, o.Output)
	checkNothingLeft(t, o)

	ctx, cancel := context.WithCancel(t.Context())
	stopped := o
	stopped.Cache = filepath.Join(t.TempDir(), "cache")
	stopped.Jobs = 1
	stopped.Progress = func(p Progress) { cancel() }
	if _, err := Build(ctx, stopped); !errors.Is(err, context.Canceled) {
		t.Errorf("Build that is stopped = %v, want %v", err, context.Canceled)
	}
	run(t, "diff", "--recursive", copied, o.Output)
	checkNothingLeft(t, stopped)

	// Through a symlink, as of a web server's root.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(o.Output, link); err != nil {
		t.Fatal(err)
	}
	o.Output = link
	o.Append = "new"
	res, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink || res.Output == link {
		t.Errorf("the symlink was replaced: %v, %v", info, err)
	}
	writeFile(t, filepath.Join(link, "mine"), "", 0o644)
	_, err = Build(t.Context(), o)
	wantError(t, "Build over a file that is not ours", err, "mine")
}

func TestCheckSizes(t *testing.T) {
	sized := func(sizes ...int64) *build {
		b := &build{Options: Options{Warn: func(string) {}}}
		for i, n := range sizes {
			b.images = append(b.images, storeImage{Image: manifest.Image{Size: n}, of: testPath(string(rune('a' + i)))})
		}
		return b
	}
	wantError(t, "an image of 4 GiB", sized(1, 4<<30).checkSizes(), testPath("b"), "4 GiB")
	wantError(t, "4 GiB in all", sized(2<<30, 2<<30).checkSizes(), "4294967296 bytes in all")
	var warning string
	b := sized(1<<30, 1<<30)
	b.Warn = func(text string) { warning = text }
	if err := b.checkSizes(); err != nil || !strings.Contains(warning, "2147483648 bytes") {
		t.Errorf("checkSizes of 2 GiB = %v with warning %q, want a warning", err, warning)
	}
}

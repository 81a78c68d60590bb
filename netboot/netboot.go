// Package netboot makes a directory from which iPXE, or kexec, boots a NixOS
// system whose store is in RAM: kernel, initrds and scripts, from the system's
// toplevel store path.
//
// It does not build the system and does not serve the directory. It runs nix, to
// ask for the closure, nix-store, to make its database, and mksquashfs. The same input gives the
// same output, bit for bit.
package netboot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/registration"
)

// Options say what to build. Only Toplevel, Output and Stage1 must be set.
type Options struct {
	Toplevel    string // store path of a NixOS system, or a symlink to one
	Output      string // directory to make; one that Build made is replaced
	Stage1      string // file of the init, a static executable; for other machines, GOARCH/NAME beside it
	Store       string // root of the Nix store, as Nix's --store; "" is /
	ClosureInfo string // directory made by closureInfo; "" asks nix
	Cache       string // directory of the images; "" is DefaultCache()

	Compressor string // zstd, gzip, xz or lz4; "" is zstd
	Level      int    // of compression; 0 is 15 for zstd, 9 for gzip
	BlockSize  int    // of the images, bytes; 0 is 131072
	Jobs       int    // images made at a time; 0 is one per CPU
	NoLink     bool   // keep an image per store path, do not link them into one

	Modules    []string    // kernel modules to load before the import
	ExtraFiles []ExtraFile // to put into the initrd
	RootFiles  []ExtraFile // to put into the new root
	NoDatabase bool        // leave the Nix database to the booted system
	DebugShell bool        // put a busybox into the initrd
	Busybox    string      // static busybox for it; "" is the one in $PATH
	Append     string      // at the end of the kernel's command line

	// Progress, if set, is called after each image, never twice at a time.
	Progress func(Progress)
	// Warn, if set, gets what is wrong and does not stop the build.
	Warn func(string)
}

// ExtraFile is a file or directory to put into the initrd or the new root.
type ExtraFile struct {
	Source string // on this machine
	Dest   string // absolute, in the initrd or the new root
}

// Progress is how far the images are.
type Progress struct {
	Done, Total           int   // store paths
	DoneBytes, TotalBytes int64 // of their NARs
}

// Result says what was built.
type Result struct {
	Output         string   `json:"output"`         // absolute
	Toplevel       string   `json:"toplevel"`       // store path
	KernelVersion  string   `json:"kernelVersion"`  // as in /lib/modules/VERSION
	KernelParams   string   `json:"kernelParams"`   // without the initrd= of UEFI
	ManifestSHA256 string   `json:"manifestSHA256"` // of manifest.json, base 16; KernelParams have it
	Modules        []string `json:"modules"`        // files below /lib/modules/VERSION
	StorePaths     int      `json:"storePaths"`
	Cached         int      `json:"cached"`       // images taken from the cache
	Built          int      `json:"built"`        // images made
	Shared         int64    `json:"shared"`       // bytes that the linked image has once and its inputs more often
	NarSize        int64    `json:"narSize"`      // of all store paths, bytes
	UnpackedSize   int64    `json:"unpackedSize"` // what a copy of the store takes in RAM, bytes
	RootSize       int64    `json:"rootSize"`     // of the root image, bytes; 0 where there is none
	Files          []File   `json:"files"`        // in the order in which they are loaded, then the scripts
	Steps          []Step   `json:"steps"`
}

// File is a file of the output directory.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
}

// Step is a part of the build.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Build makes the directory. On an error, or when ctx ends, it leaves an older
// one as it was, no temporary files, and in the cache the images that are done.
// Errors name the store path or file and what is wrong with it.
func Build(ctx context.Context, o Options) (*Result, error) {
	b, err := newBuild(ctx, o)
	if err != nil {
		return nil, err
	}
	defer b.close()
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"toplevel", b.readToplevel},
		{"closure", b.readClosure},
		{"images", b.makeImages},
		{"link", b.linkImages},
		{"root", b.makeRoot},
		{"output", b.writeOutput},
	} {
		start := time.Now()
		if err := step.run(ctx); err != nil {
			return nil, err
		}
		b.res.Steps = append(b.res.Steps, Step{step.name, time.Since(start).Seconds()})
	}
	return b.res, nil
}

// build is a build under way: each step fills in what the next ones use.
type build struct {
	Options
	store  store
	squash *mksquashfs
	res    *Result

	toplevel *toplevel             // readToplevel
	initrd   *initrd               //
	scripts  scripts               //
	entries  []*registration.Entry // readClosure, sorted by path
	cache    *cache                // makeImages, locked until the images are copied
	images   []storeImage          //
	opened   []*os.File            // linkImages, images that the linked one is made of
	scratch  string                // makeRoot, a temporary directory
	root     *storeImage           // makeRoot, or nil
}

func (b *build) close() {
	for _, f := range b.opened {
		f.Close()
	}
	if b.scratch != "" {
		os.RemoveAll(b.scratch)
	}
	if b.cache != nil {
		b.cache.close()
	}
}

// newBuild checks the options and fills in the defaults.
func newBuild(ctx context.Context, o Options) (*build, error) {
	c, err := newCompression(o.Compressor, o.Level, o.BlockSize)
	if err != nil {
		return nil, err
	}
	squash, err := findMksquashfs(ctx, c)
	if err != nil {
		return nil, err
	}
	if o.Cache, err = cacheDir(o.Cache); err != nil {
		return nil, err
	}
	if err := checkOurs(o.Output); err != nil {
		return nil, err
	}
	if o.Store == "" {
		o.Store = "/"
	}
	if o.Store, err = filepath.Abs(o.Store); err != nil {
		return nil, err
	}
	if o.Jobs == 0 {
		o.Jobs = runtime.NumCPU()
	}
	if o.Jobs < 0 {
		return nil, fmt.Errorf("%d jobs: want at least one", o.Jobs)
	}
	if o.DebugShell && o.Busybox == "" {
		if o.Busybox, err = exec.LookPath("busybox"); err != nil {
			return nil, fmt.Errorf("debug shell: %w: install a static busybox, or name one", err)
		}
	}
	for _, x := range o.ExtraFiles {
		if !filepath.IsAbs(x.Dest) {
			return nil, fmt.Errorf("extra file %s: its place in the initrd, %q, is not absolute", x.Source, x.Dest)
		}
	}
	for _, x := range o.RootFiles {
		if !filepath.IsAbs(x.Dest) {
			return nil, fmt.Errorf("root file %s: its place in the new root, %q, is not absolute", x.Source, x.Dest)
		}
		if err := manifest.CheckRootPath(filepath.Clean(x.Dest)); err != nil {
			return nil, fmt.Errorf("root file %s: %w", x.Source, err)
		}
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	return &build{Options: o, store: store{o.Store}, squash: squash, res: &Result{}}, nil
}

// readToplevel finds out how to boot the system and refuses one that cannot be
// booted, before anything takes time.
func (b *build) readToplevel(ctx context.Context) error {
	p, err := b.store.path(b.Options.Toplevel)
	if err != nil {
		return fmt.Errorf("toplevel: %w", err)
	}
	if b.toplevel, err = readToplevel(b.store, p); err != nil {
		return err
	}
	warnings, err := diskWarnings(b.store, p)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		b.Warn(w)
	}
	dir, version, err := b.toplevel.modulesDir()
	if err != nil {
		return err
	}
	if b.toplevel.etcOverlay {
		b.Modules = append(slices.Clone(b.Modules), "erofs")
		if err := checkEtcKernel(version); err != nil {
			return fmt.Errorf("toplevel %s: %w", p, err)
		}
	}
	tree, err := readModuleTree(dir)
	if err != nil {
		return err
	}
	modules, err := tree.closure(append(slices.Clone(importModules), b.Modules...))
	if err != nil {
		return err
	}
	kernel := b.toplevel.kernelInfo
	stage1, err := findStage1(b.Stage1, kernel.machine)
	if err != nil {
		return fmt.Errorf("stage 1: %w", err)
	}
	b.initrd = &initrd{
		early: b.toplevel.initrd, stage1: stage1,
		tree: tree, version: version, modules: modules,
		extra: b.ExtraFiles,
	}
	if b.DebugShell {
		if err := b.addShell(ctx); err != nil {
			return fmt.Errorf("debug shell: %w", err)
		}
	}
	if b.BlockSize != 0 && b.BlockSize < kernel.pageSize {
		return fmt.Errorf("blocks of %d bytes: kernel %s has pages of %d, and mounts no squashfs with smaller blocks: ask for larger ones", b.BlockSize, b.toplevel.kernel, kernel.pageSize)
	}
	if slices.Contains(loadOrder, b.toplevel.kernelName) {
		return fmt.Errorf("kernel %s: its name is that of one of the initrds", b.toplevel.kernel)
	}
	b.res.Toplevel, b.res.KernelVersion = p, version
	for _, m := range modules {
		b.res.Modules = append(b.res.Modules, plainName(m.file))
	}
	b.pin(strings.Repeat("0", 2*sha256.Size)) // as long as what comes later
	return b.scripts.check()
}

// addShell puts a busybox into the initrd.
func (b *build) addShell(ctx context.Context) error {
	if err := checkProgram(b.Busybox, b.toplevel.kernelInfo.machine); err != nil {
		return err
	}
	applets, err := busyboxApplets(ctx, b.Busybox)
	if errors.Is(err, unix.ENOEXEC) {
		b.Warn(b.Busybox + " does not run on this machine, which so does not know its applets: the initrd has /bin/sh; others are called as in \"busybox ls\"")
		applets, err = []string{"sh"}, nil
	}
	b.initrd.busybox, b.initrd.applets = b.Busybox, applets
	return err
}

// pin makes the scripts ones that boot with this manifest only.
func (b *build) pin(manifestSHA256 string) {
	b.scripts = scripts{b.toplevel.kernelName, kernelParams(b.toplevel, manifestSHA256, b.Append)}
	b.res.ManifestSHA256, b.res.KernelParams = manifestSHA256, b.scripts.params
}

// readClosure gets the store paths that the system needs.
func (b *build) readClosure(ctx context.Context) (err error) {
	if b.ClosureInfo != "" {
		b.entries, err = closureFromInfo(b.ClosureInfo)
	} else {
		b.entries, err = closureFromNix(ctx, b.store, b.toplevel.path)
	}
	if err != nil {
		return err
	}
	b.res.StorePaths = len(b.entries)
	for _, e := range b.entries {
		b.res.NarSize += int64(e.NarSize)
	}
	return checkClosure(b.store, b.toplevel.path, b.entries)
}

// makeImages gets an image for each store path, from the cache or mksquashfs.
func (b *build) makeImages(ctx context.Context) (err error) {
	if b.cache, err = openCache(ctx, b.Options.Cache, unix.LOCK_SH); err != nil {
		return err
	}
	ib := &imageBuilder{store: b.store, cache: b.cache, squash: b.squash, jobs: b.Jobs, progress: b.Progress}
	b.images, err = ib.images(ctx, b.entries)
	b.res.Cached, b.res.Built = ib.cached, ib.built
	return err
}

// writeOutput writes the directory.
func (b *build) writeOutput(ctx context.Context) error {
	if err := b.checkSizes(); err != nil {
		return err
	}
	out, err := newOutput(b.Output)
	if err != nil {
		return err
	}
	defer out.discard()
	m := &manifest.Manifest{Init: b.toplevel.init, Modules: b.Modules}
	for _, im := range b.images {
		m.Images = append(m.Images, im.Image)
	}
	if b.root != nil {
		m.Root = &b.root.Image
	}
	b.res.Output, b.res.UnpackedSize = out.dir, m.UnpackedSize()
	for _, f := range []struct {
		name  string
		perm  os.FileMode
		write func(*os.File) error
	}{
		{b.toplevel.kernelName, 0o644, func(f *os.File) error { return copyFile(f, b.toplevel.kernel) }},
		{initrdName, 0o644, func(f *os.File) error { return writeInitrd(f, b.initrd) }},
		{manifestName, 0o644, func(f *os.File) error {
			digest, err := writeManifest(f, m, b.entries)
			b.pin(digest)
			return err
		}},
		{storeName, 0o644, func(f *os.File) error { return writeStore(ctx, f, b.allImages()) }},
		{ipxeName, 0o644, func(f *os.File) error { return b.scripts.writeIPXE(f) }},
		{kexecName, 0o755, func(f *os.File) error { return b.scripts.writeKexec(f) }},
	} {
		size, err := out.file(f.name, f.perm, f.write)
		if err != nil {
			return err
		}
		b.res.Files = append(b.res.Files, File{f.name, size})
	}
	return out.commit()
}

const (
	// warnTotal is near what iPXE takes in all on BIOS and some UEFI machines,
	// in bytes.
	warnTotal = 2 << 30
	// maxTotal cannot be told to an x86 kernel: ramdisk_size in its setup header
	// has 32 bits.
	maxTotal = 4 << 30
)

// checkSizes refuses images that no kernel would unpack.
func (b *build) checkSizes() error {
	var total int64
	for _, im := range b.allImages() {
		if im.Size >= maxMember {
			return fmt.Errorf("image of %s has %d bytes: the kernel drops a file of 4 GiB or more from an initrd: make the system smaller, or compress it harder", im.of, im.Size)
		}
		total += im.Size
	}
	if total >= maxTotal {
		return fmt.Errorf("the images have %d bytes in all: iPXE and x86 kernels take less than 4 GiB: make the system smaller, or compress it harder", total)
	}
	if total >= warnTotal {
		b.Warn(fmt.Sprintf("the images have %d bytes in all: iPXE on BIOS, and on some UEFI, fails near 2 GiB", total))
	}
	return nil
}

// allImages are the images of the store and, last, the root image.
func (b *build) allImages() []storeImage {
	if b.root == nil {
		return b.images
	}
	return append(slices.Clone(b.images), *b.root)
}

func copyFile(dst *os.File, file string) error {
	src, err := os.Open(file)
	if err != nil {
		return err
	}
	defer src.Close()
	_, err = io.Copy(dst, src)
	return err
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

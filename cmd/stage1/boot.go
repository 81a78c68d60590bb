package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"stage1/kmod"
	"stage1/manifest"
	"stage1/mount"
	"stage1/registration"
	"stage1/squashimport"
)

// boot is one boot: what is known so far.
type boot struct {
	log      *logger
	opt      *options
	children children
	keys     keys
	report   report
	trace    squashimport.Trace // of verification and import

	manifest *manifest.Manifest
	mode     squashimport.Mode // of the import
	importer *squashimport.Importer
	next     *target  // what to execute at the end
	moved    int      // special file systems that are in the new root
	oldRoot  *os.File // the initrd, after the switch
}

// Places of the new root while it is not the root yet, and of images while they
// are imported. The names are short: see mount.Overlay.
const (
	newRoot = "/mnt-root"
	scratch = "/l"
)

func newBoot() *boot {
	return &boot{log: newLogger(), opt: newOptions("")}
}

// step is one step of the boot. A step that is fatal ends it with an error; one
// that is best effort leaves a warning.
type step struct {
	name  string
	fatal bool
	do    func() error
	stop  breakpoint // where to stop before the step, if a flag says so
}

const (
	fatal      = true
	bestEffort = false
)

// boot is the whole boot. It returns only on an error of a step that is fatal
// and was not mended: the last step executes what comes after stage 1.
func (b *boot) boot() error {
	for _, s := range []step{
		{"special file systems", fatal, b.mountSpecial, ""},
		{"console and kernel log", bestEffort, b.openConsole, ""},
		{"kernel command line", fatal, b.readCommandLine, ""},
		{"debug shell", bestEffort, b.startDebugShell, ""},
		{"manifest", fatal, b.readManifest, ""},
		{"verify", fatal, b.verify, ""},
		{"memory", fatal, b.chooseMode, ""},
		{"kernel modules", fatal, b.loadModules, breakModules},
		{"root and /nix", fatal, b.mountRoot, breakImport},
		{"import", fatal, b.importStore, ""},
		{"registration", fatal, b.importRegistration, ""},
		{"root files", fatal, b.copyRoot, ""},
		{"init", fatal, b.findInit, breakMounts},
		{"activation", fatal, b.activate, ""},
		{"shutdown", bestEffort, b.prepareShutdown, ""},
		{"summary", bestEffort, b.writeReport, ""},
		{"switch root", fatal, b.switchRoot, breakSwitchRoot},
		{"free the initrd", bestEffort, b.freeInitrd, ""},
		{"hand over", fatal, b.handOver, ""},
	} {
		if err := b.do(s); err != nil {
			return err
		}
	}
	return errors.New("the last step came back: it never should")
}

// do does a step, until it works or nobody wants it to be tried again.
func (b *boot) do(s step) error {
	if s.stop != "" && b.opt.breaks[s.stop] {
		b.breakAt(s.stop)
	}
	for {
		b.log.debugf("%s", s.name)
		start := time.Now()
		err := s.try()
		b.report.add(s.name, start)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%s: %w", s.name, err)
		if !s.fatal {
			b.log.warningf("%v", err)
			return nil
		}
		if !b.rescue(err) {
			return err
		}
	}
}

// try does the step once and makes an error of a panic, so that the menu comes up
// and not the kernel's "Attempted to kill init".
func (s step) try() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("stage1 itself is wrong: %v\n%s", p, debug.Stack())
		}
	}()
	return s.do()
}

func (b *boot) mountSpecial() error {
	for _, m := range mount.Special() {
		if err := m.Do(); err != nil {
			return err
		}
	}
	return nil
}

// openConsole puts /dev/console on descriptors 0 to 2. The kernel has done so
// already if the initrd has that device node. Without a console there is
// /dev/null on them, so that no file of ours is taken for one.
func (b *boot) openConsole() error {
	console, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		err = fmt.Errorf("%w: going on without a console", err)
		null, nullErr := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if nullErr != nil {
			return errors.Join(err, nullErr)
		}
		console = null
	}
	for fd := range 3 {
		if dupErr := unix.Dup3(int(console.Fd()), fd, 0); dupErr != nil {
			return errors.Join(err, fmt.Errorf("console on descriptor %d: %w", fd, dupErr))
		}
	}
	console.Close()
	if again, againErr := openConsole("/dev/console"); againErr == nil {
		b.log.console = again
	}
	var screenErr error
	b.log.screen, screenErr = openScreen("/sys/class/tty/console/active", "/dev")
	return errors.Join(err, screenErr, b.log.openKmsg())
}

func (b *boot) readCommandLine() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	b.opt = newOptions(string(line))
	if b.opt.quiet {
		b.log.show = levelWarning
	}
	if b.opt.debug {
		b.log.show = levelDebug
	}
	for _, w := range b.opt.warnings {
		b.log.warningf("kernel command line: %s", w)
	}
	return nil
}

func (b *boot) readManifest() (err error) {
	pin := ""
	if p := b.opt.manifestSHA256; p != nil {
		if pin = *p; pin == "" {
			return errors.New("stage1.manifest_sha256= has no value: leave it out, or give it the SHA-256 of the manifest's file")
		}
	}
	// No link leads out of the initrd, to what nobody has loaded.
	b.manifest, err = manifest.Open(mount.FS{Root: "/", Resolve: unix.RESOLVE_NO_XDEV}, pin)
	if err != nil {
		return err
	}
	if b.opt.init == "" {
		b.opt.init = b.manifest.Init
	}
	b.log.infof("store paths: %d, images: %d, %.1f MB", b.manifest.StorePaths(), len(b.manifest.Images), mb(b.manifest.Size()))
	return nil
}

// verify looks at every file that the manifest names before one is used.
func (b *boot) verify() error {
	if b.opt.skipDigests {
		b.log.warningf("stage1.verify=off: nobody knows that the images are what was built")
	}
	start := time.Now()
	n, err := squashimport.Verify("/", b.manifest, !b.opt.skipDigests, b.opt.jobs, &b.trace)
	if err != nil {
		return err
	}
	took := time.Since(start)
	b.report.bytes = n
	b.log.infof("verified: %.1f MB in %.1f ms, %.0f MB/s", mb(n), milliseconds(took), mb(n)/took.Seconds())
	return nil
}

// loadModules loads what the import needs and what the builder listed.
func (b *boot) loadModules() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	tree, err := kmod.Open("/lib/modules/" + unix.ByteSliceToString(name.Release[:]))
	if err != nil {
		return err
	}
	params := func(module string) string { return b.opt.moduleParams[module] }
	for _, name := range []string{"loop", "squashfs", "overlay"} {
		if err := tree.Load(name, params); err != nil {
			// Only overlay can be done without.
			if name == "overlay" && b.opt.store != squashimport.Overlay {
				b.log.warningf("%v", err)
				continue
			}
			return err
		}
	}
	for _, name := range b.manifest.Modules {
		if err := tree.Load(name, params); err != nil {
			return err
		}
	}
	return nil
}

// mountRoot mounts the file systems that the import fills.
func (b *boot) mountRoot() error {
	mem, err := readMemory()
	if err != nil {
		return err
	}
	size, inodes := nixSize(b.manifestInPages(), b.opt, mem)
	for _, m := range []mount.Mount{
		{Source: "tmpfs", Target: newRoot, Type: "tmpfs", Data: fmt.Sprintf("mode=0755,size=%d", b.opt.rootSize.of(mem.total, mem.total/2))},
		{Source: "tmpfs", Target: newRoot + "/nix", Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: fmt.Sprintf("mode=0755,size=%d,nr_inodes=%d", size, inodes)},
	} {
		if err := m.Do(); err != nil {
			return err
		}
	}
	return os.MkdirAll(newRoot+manifest.StoreDir, 0o755)
}

// importStore makes the store. What was imported stays when it is called again.
func (b *boot) importStore() error {
	if b.importer == nil {
		shown := progress{log: b.log}
		b.importer = squashimport.New(b.manifest.Images, squashimport.Options{
			Initrd:  "/",
			Store:   newRoot + manifest.StoreDir,
			State:   newRoot + "/nix/.store",
			Scratch: scratch,
			Mode:    b.mode,
			Jobs:    b.opt.jobs,
			MayCopy: b.mayCopy,
			Each: func(p squashimport.Progress) {
				shown.show(fmt.Sprintf("import: %s", p), p.Elapsed)
				b.report.sample()
			},
			Trace: &b.trace,
			Warn:  func(message string) { b.log.warningf("import: %s", message) },
		})
	}
	err := b.importer.Run()
	b.report.bytes = b.importer.Progress().Bytes
	return err
}

// importRegistration puts the registration at /nix/registration, decompressed,
// and makes sure that the store has every path that it names.
func (b *boot) importRegistration() error {
	r := b.manifest.Registration
	if r == nil {
		b.log.warningf("the manifest names no registration: Nix will not know the store's paths")
		return nil
	}
	n, err := importRegistration("/", r, newRoot)
	if err != nil {
		return err
	}
	b.report.bytes = r.UnpackedSize
	b.log.debugf("%d store paths are registered", n)
	return nil
}

// importRegistration is the step less its context: initrd and root are the
// directories that stand for "/" before and after the switch. It returns the
// number of store paths.
func importRegistration(initrd string, r *manifest.Registration, root string) (int, error) {
	in, err := openIn(initrd, r.File)
	if err != nil {
		return 0, fmt.Errorf("%w (the manifest names it: was the initrd that holds it loaded, and whole?)", err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(root, "nix/registration"))
	if err != nil {
		return 0, err
	}
	defer out.Close()
	text, err := registration.Decompress(in)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", r.File, err)
	}
	defer text.Close()
	limit := r.UnpackedSize
	if limit == 0 {
		limit = maxSeedRegistration
	}
	bounded := &io.LimitedReader{R: text, N: limit + 1}
	n, err := copyRegistration(out, bounded, root)
	if bounded.N == 0 {
		err = fmt.Errorf("it unpacks to more than the %d bytes that it may have", limit)
	}
	if err != nil {
		return n, fmt.Errorf("%s: %w", r.File, err)
	}
	return n, out.Close()
}

// maxSeedRegistration is what a registration may unpack to whose manifest does not
// say, in bytes. One of 100,000 store paths has about 60 MB.
const maxSeedRegistration = 256 << 20

// copyRegistration copies the plain registration, entry by entry. Nix takes none
// whose paths or references are not all there.
func copyRegistration(out io.Writer, text io.Reader, root string) (n int, err error) {
	entries, err := os.ReadDir(root + manifest.StoreDir)
	if err != nil {
		return 0, err
	}
	store := make(map[string]bool, len(entries))
	for _, e := range entries {
		store[path.Join(manifest.StoreDir, e.Name())] = true
	}
	w := bufio.NewWriter(out)
	reader := registration.NewReader(io.TeeReader(text, w))
	for {
		e, err := reader.Next()
		if err == io.EOF {
			return n, w.Flush()
		}
		if err != nil {
			return n, err
		}
		n++
		if dir := filepath.Dir(e.Path); dir != manifest.StoreDir {
			return n, fmt.Errorf("it names %s, which is not in %s", e.Path, manifest.StoreDir)
		}
		if !store[e.Path] {
			return n, fmt.Errorf("it names %s, which no image holds", e.Path)
		}
		for _, ref := range e.References {
			if !store[ref] {
				return n, fmt.Errorf("it says that %s refers to %s, which no image holds", e.Path, ref)
			}
		}
	}
}

// copyRoot puts beside the store what the builder has for the new root: the Nix
// database, and files that were asked for.
func (b *boot) copyRoot() error {
	if b.manifest.Root == nil {
		return nil
	}
	return squashimport.CopyRoot("/", *b.manifest.Root, newRoot)
}

func (b *boot) findInit() (err error) {
	b.next, err = findTarget(newRoot, b.opt.init)
	return err
}

// prepareShutdown has systemd leave /nix and /nix/store alone at shutdown. It can
// unmount neither, since it runs from there itself, and reports each as failed.
// NixOS's systemd is patched to know this (nixpkgs, pkgs/os-specific/linux/
// systemd, "Don't try to unmount /nix or /nix/store"); for any other, a drop-in
// takes away the dependency that stops a mount unit: systemd.mount(5), Default
// Dependencies.
func (b *boot) prepareShutdown() error {
	for _, unit := range []string{"nix.mount", "nix-store.mount"} {
		dir := filepath.Join("/run/systemd/system", unit+".d")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		const text = "# Written by stage1: /nix holds the running system.\n[Unit]\nDefaultDependencies=no\n"
		if err := os.WriteFile(filepath.Join(dir, "stage1.conf"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// switchRoot moves the special file systems and makes the new root the root.
func (b *boot) switchRoot() error {
	b.children.killAll()
	b.log.restoreKmsg()
	// Where the step is tried again, some are moved already.
	for roots := mount.SpecialRoots(); b.moved < len(roots); b.moved++ {
		dir := roots[b.moved]
		if err := mount.Move(dir, newRoot+dir); err != nil {
			return err
		}
	}
	old, err := mount.SwitchRoot(newRoot)
	b.oldRoot = old
	return err
}

// freeInitrd gives back the RAM of the initrd's files.
func (b *boot) freeInitrd() error { return mount.FreeRoot(b.oldRoot) }

// handOver executes what comes after stage 1. The environment is empty: what
// leaks into systemd's breaks it.
func (b *boot) handOver() error {
	if err := b.report.save(); err != nil { // with the steps since the summary
		b.log.warningf("%v", err)
	}
	b.log.infof("starting %s", strings.Join(b.next.argv, " "))
	err := unix.Exec(b.next.path, b.next.argv, nil)
	return fmt.Errorf("exec %s: %w", b.next.path, err)
}

package netboot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"stage1/manifest"
	"stage1/registration"
)

// testStore is a chroot store of real Nix with a small system in it: files,
// directories and a bare symlink as store paths, a kernel that has a setup header
// and nothing else, modules that are ELF headers.
type testStore struct {
	store
	t        *testing.T
	toplevel string // store paths
	tools    string // a directory
	file     string // a regular file
	link     string // a symlink
	kernel   string
}

const testVersion = "6.1.0-test"

// elfStub is what passes for a kernel module.
const elfStub = "\x7fELF of a module"

func newTestStore(t *testing.T) *testStore {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &testStore{store: store{root}, t: t}
	// Store paths are read-only, which TempDir's clean-up does not expect.
	t.Cleanup(func() { run(t, "chmod", "-R", "u+w", root) })
	s.tools, s.file, s.link = testPath("tools"), testPath("file.txt"), testPath("link")
	s.kernel, s.toplevel = testPath("linux"), testPath("nixos-system-test")
	s.write(s.tools+"/bin/tool", "#!/bin/sh\necho tool\n", 0o555)
	s.write(s.tools+"/share/big", strings.Repeat("0123456789abcdef", 40_000), 0o444)
	s.write(s.tools+"/share/zeros", strings.Repeat("\x00", 300_000), 0o444)
	s.write(s.tools+"/share/empty", "", 0o444)
	s.write(s.file, "content\n", 0o444)
	s.symlink(s.tools+"/bin/sh", "tool")
	s.symlink(s.tools+"/share/long", "/"+strings.Repeat("x", 200))
	s.symlink(s.link, s.file)
	if err := os.Link(s.real(s.tools+"/share/big"), s.real(s.tools+"/share/hard")); err != nil {
		t.Fatal(err)
	}
	s.writeKernel(testVersion)
	s.symlink(s.toplevel+"/kernel", s.kernel+"/bzImage")
	s.symlink(s.toplevel+"/kernel-modules", s.kernel)
	s.write(s.toplevel+"/kernel-params", "console=ttyS0 loglevel=4", 0o444)
	s.write(s.toplevel+"/init", "#!"+s.tools+"/bin/sh\n", 0o555)
	s.register([]string{s.tools}, []string{s.file}, []string{s.link, s.file}, []string{s.kernel},
		[]string{s.toplevel, s.tools, s.link, s.kernel, s.toplevel})
	return s
}

// testPath makes up a store path.
func testPath(name string) string {
	sum := sha256.Sum256([]byte(name))
	hash := strings.NewReplacer("e", "x", "t", "y").Replace(hex.EncodeToString(sum[:16]))
	return manifest.StoreDir + "/" + hash + "-" + name
}

func (s *testStore) write(p, text string, perm os.FileMode) {
	s.t.Helper()
	writeFile(s.t, s.real(p), text, perm)
}

func writeFile(t *testing.T, file, text string, perm os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Remove(file)
	if err := os.WriteFile(file, []byte(text), perm); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, perm); err != nil {
		t.Fatal(err)
	}
}

func (s *testStore) symlink(p, target string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.real(p)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(target, s.real(p)); err != nil {
		s.t.Fatal(err)
	}
}

// writeKernel makes a kernel and its modules.
func (s *testStore) writeKernel(version string) {
	s.write(s.kernel+"/bzImage", testKernel(version), 0o444)
	dir := s.kernel + "/lib/modules/" + version
	s.write(dir+"/modules.builtin", "kernel/fs/overlayfs/overlay.ko\n", 0o444)
	s.write(dir+"/modules.softdep", "softdep nic pre: nic-soft nowhere post: other\nsoftdep mii pre: crypto-sum\n", 0o444)
	s.write(dir+"/modules.alias", "alias crypto-sum sum_fast\nalias crypto-sum sum-generic\nalias crypto-* other\nalias crypto-sum sum_last\n", 0o444)
	s.write(dir+"/modules.dep", `kernel/loop.ko.xz:
kernel/squashfs.ko.zst: kernel/xz-dec.ko.gz
kernel/xz-dec.ko.gz:
kernel/nic.ko: kernel/mii.ko
kernel/mii.ko:
kernel/nic-soft.ko:
kernel/sum-fast.ko:
kernel/sum-generic.ko:
kernel/other.ko:
`, 0o444)
	for _, name := range []string{"loop", "squashfs", "xz-dec", "nic", "mii", "nic-soft", "sum-fast", "sum-generic", "other"} {
		s.write(dir+"/kernel/"+name+".ko", elfStub, 0o444)
	}
	for name, args := range map[string][]string{"loop": {"xz", "--check=crc32"}, "squashfs": {"zstd", "-q", "--rm"}, "xz-dec": {"gzip"}} {
		run(s.t, args[0], append(args[1:], s.real(dir+"/kernel/"+name+".ko"))...)
	}
}

// testKernel returns an x86-64 setup header that gives the version.
func testKernel(version string) string {
	b := make([]byte, 0x400)
	copy(b[0x202:], "HdrS")
	b[0x20e], b[0x20f] = 0x00, 0x01
	b[0x236] = 1
	copy(b[0x300:], version+" (builder@host) #1 SMP\x00")
	return string(b)
}

// register tells Nix about store paths, as its deployment tools do. Each is
// followed by its references.
func (s *testStore) register(paths ...[]string) {
	s.t.Helper()
	var text bytes.Buffer
	for _, p := range paths {
		nar := run(s.t, "nix-store", "--dump", s.real(p[0]))
		e := &registration.Entry{Path: p[0], NarHash: sum([]byte(nar)), NarSize: uint64(len(nar)), References: p[1:]}
		if err := registration.Write(&text, e); err != nil {
			s.t.Fatal(err)
		}
	}
	cmd := exec.Command("nix-store", "--store", s.root, "--load-db")
	cmd.Stdin = &text
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("register %q: %v\n%s", paths, err, out)
	}
}

// closureInfo makes what nixpkgs' closureInfo does.
func (s *testStore) closureInfo() string {
	dir := s.t.TempDir()
	paths := run(s.t, "nix-store", "--store", s.root, "--query", "--requisites", s.toplevel)
	dump := run(s.t, "nix-store", append([]string{"--store", s.root, "--dump-db"}, strings.Fields(paths)...)...)
	writeFile(s.t, filepath.Join(dir, "store-paths"), paths, 0o644)
	writeFile(s.t, filepath.Join(dir, "registration"), dump, 0o644)
	return dir
}

// options build the system into a new place, with a cache of its own.
func (s *testStore) options() Options {
	dir := s.t.TempDir()
	return Options{
		Toplevel: s.toplevel, Store: s.root, Stage1: lookPath(s.t, "busybox"),
		Output: filepath.Join(dir, "netboot"), Cache: filepath.Join(dir, "cache"),
	}
}

// run runs a program and returns its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, stderr.Bytes())
	}
	return string(out)
}

func lookPath(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantError checks that an error names what is wrong.
func wantError(t *testing.T, call string, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%s = %v, want an error with %q", call, err, w)
		}
	}
}

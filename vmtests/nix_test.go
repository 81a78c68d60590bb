package vmtests

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"stage1/vmtests/facts"
)

// nixRun runs a program of Nix on the test store. What it builds finds the
// machine's Go, with its caches.
func nixRun(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	c := testCache(t)
	store := must[*Store](t)(c.Store())
	unlock := must[func()](t)(c.lock("nix"))
	defer unlock()
	cmd := store.Command(t.Context(), program, args...)
	cmd.Env = append(cmd.Env, strings.Fields(must[string](t)(output(exec.CommandContext(t.Context(), "sh", "-c",
		`for v in GOCACHE GOMODCACHE GOPROXY GOSUMDB; do echo "$v=$(go env $v)"; done`))))...)
	out, err := output(cmd)
	return strings.TrimSpace(out), err
}

// configuration is a NixOS module, on top of nix/module.nix and of the stubs in
// nix/test, of the system whose toplevel is the closure's.
type configuration struct {
	*Closure
	file string
}

func (cl *Closure) configuration(t *testing.T, text string) configuration {
	t.Helper()
	file := filepath.Join(tempDir(t), "configuration.nix")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return configuration{cl, file}
}

// args are the arguments for attr of nix/test.
func (c configuration) args(attr string) []string {
	return []string{"../nix/test", "--argstr", "attr", attr, "--argstr", "config", c.file, "--argstr", "toplevel", c.Toplevel}
}

// build builds an attribute of nix/test and returns its store path.
func (c configuration) build(t *testing.T, attr string, args ...string) (string, error) {
	t.Helper()
	return nixRun(t, "nix-build", append(append(c.args(attr), "--no-out-link", "--quiet"), args...)...)
}

// eval evaluates an attribute of nix/test.
func eval[T any](t *testing.T, c configuration, attr string) (v T) {
	t.Helper()
	text := must[string](t)(nixRun(t, "nix-instantiate", append(c.args(attr), "--eval", "--strict", "--json")...))
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// every sets every option of the module, on a machine that has a disk.
const every = `{
  fileSystems."/" = { device = "/dev/sda1"; fsType = "ext4"; };
  fileSystems."/home" = { device = "/dev/sda2"; fsType = "ext4"; };
  boot.loader.systemd-boot.enable = true;
  networking.hostName = "every";
  system.etc.overlay = { enable = true; mutable = false; };
  boot.stage1 = {
    store = "copy";
    compressor = "gzip";
    level = 6;
    blockSize = 65536;
    link = false;
    modules = [ "virtio_blk" ];
    extraFiles."/etc/a file".source = ./configuration.nix;
    extraFiles."/etc/directory".source = ./.;
    extraFiles."/etc/of root" = { source = ./configuration.nix; initrd = false; root = true; };
    database = false;
    kernelParams = [ "quiet" "test=\"two words\"" ];
    debugShell.enable = true;
    onFail = "shell";
    onFailDelay = 3;
    rootSize = "40%";
    nixSize = "60%";
  };
}`

// TestModule boots what nix/module.nix makes of the tiny closure.
func TestModule(t *testing.T) {
	cl := tiny(t)
	t.Run("defaults", func(t *testing.T) {
		t.Parallel()
		dir := cl.configuration(t, "{ }").netboot(t)
		// The store is the one that the command makes. The database is not: a
		// build in Nix does not know the derivers.
		outside := netboot(t, cl)
		got, want := (&bootable{dir: dir}).manifest(t).Images, (&bootable{dir: outside}).manifest(t).Images
		if !reflect.DeepEqual(got, want) {
			t.Errorf("the images are %+v, outside of a build mknetboot makes %+v", got, want)
		}
		must[struct{}](t)(struct{}{}, run(exec.Command("cmp", filepath.Join(dir, "bzImage"), filepath.Join(outside, "bzImage"))))
		checkRoot(t, dir, "/etc/NIXOS", "/nix/var/nix/db/db.sqlite", "/nix/var/nix/db/schema", "/nix/var/nix/gcroots/profiles",
			"/nix/var/nix/profiles/system", "/nix/var/nix/profiles/system-1-link")
		checkModule(t, cl, Machine{Netboot: dir, CPUs: 1}, "overlay")
	})
	t.Run("every option", func(t *testing.T) {
		t.Parallel()
		c := cl.configuration(t, every)
		dir := c.netboot(t)
		checkInitrd(t, filepath.Join(dir, "initrd"), every)
		checkRoot(t, dir, "/etc/of root")
		images := kexec(t, dir)
		if want := ` stage1.store=copy stage1.on_fail=shell stage1.on_fail_delay=3 stage1.root_size=40% stage1.nix_size=60% stage1.etc=ro quiet test="two words"`; !strings.Contains(images.Cmdline, want) {
			t.Errorf("kernel command line is %s, want %s in it", images.Cmdline, want)
		}
		f := checkModule(t, cl, Machine{Images: images, CPUs: 1}, "")
		for target, percent := range map[string]int64{"/": 40, "/nix": 60} {
			i := slices.IndexFunc(f.Mounts, func(m facts.Mount) bool { return m.Target == target })
			checkSize(t, f.Mounts[i], f.Memory["MemTotal"], percent)
		}
	})
}

// netboot builds what the module makes, in Nix's sandbox if the kernel allows
// one, and returns the directory.
func (c configuration) netboot(t *testing.T) string {
	t.Helper()
	// The stubs build these with the machine's Go.
	must[string](t)(c.build(t, "mknetboot"))
	sandbox := []string{"--option", "sandbox", "true", "--option", "sandbox-paths", "/bin /lib /lib64 /usr"}
	dir := must[string](t)(c.build(t, "ipxeBootDir", sandbox...))
	if got := must[string](t)(c.build(t, "kexecTree", sandbox...)); got != dir {
		t.Errorf("kexecTree is %s, want %s", got, dir)
	}
	log := must[string](t)(nixRun(t, "nix", "log", dir))
	if !strings.Contains(log, "images built                        0") {
		t.Errorf("ipxeBootDir does not have its images from squashfsStore:\n%s", log)
	}
	for _, p := range must[[]string](t)(c.Store.closure(t.Context(), dir)) {
		if p != dir && !slices.Contains(c.Paths, p) {
			t.Errorf("ipxeBootDir refers to %s, which is not in the system", p)
		}
	}
	return c.Store.Path(dir)
}

// checkModule boots a tiny closure and checks what its stage 2 finds.
func checkModule(t *testing.T, cl *Closure, m Machine, store string) *facts.Facts {
	t.Helper()
	vm := start(t, m)
	vm.expect("<<< stage 2: recorded >>>")
	vm.ends(PowerOff)
	f := must[*facts.Facts](t)(facts.Decode(vm.Console()))
	checkContract(t, cl, f)
	checkStore(t, cl, f, true)
	checkTiny(t, cl, f, store)
	return f
}

// checkInitrd looks for what the configuration puts into the initrd.
func checkInitrd(t *testing.T, initrd, configuration string) {
	t.Helper()
	dir := tempDir(t)
	if err := shell(t.Context(), dir, `zcat "$1" | cpio -idm --quiet`, initrd); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/a file", "etc/directory/configuration.nix"} {
		if got := must[[]byte](t)(os.ReadFile(filepath.Join(dir, name))); string(got) != configuration {
			t.Errorf("%s in the initrd is %q, want %q", name, got, configuration)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "bin/sh")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "etc/of root")); err == nil {
		t.Error("/etc/of root is in the initrd")
	}
	if found := must[string](t)(output(exec.CommandContext(t.Context(), "find", dir, "-name", "virtio_blk.ko*"))); found == "" {
		t.Error("virtio_blk is not in the initrd")
	}
}

// checkRoot compares the files in the root image of a directory.
func checkRoot(t *testing.T, dir string, want ...string) {
	t.Helper()
	const script = `cpio -idm --quiet < "$1/nix-store"; unsquashfs -lc nix-store-squashes/root.squashfs | sed 's|^squashfs-root||'`
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", script, "sh", dir)
	cmd.Dir = tempDir(t)
	if got := sortedLines(must[string](t)(output(cmd))); !slices.Equal(got, want) {
		t.Errorf("the root image of %s has %q, want %q", dir, got, want)
	}
}

// TestModuleRefuses has the module refuse configurations.
func TestModuleRefuses(t *testing.T) {
	cl := tiny(t)
	for _, tc := range []struct{ config, want string }{
		{`{ boot.stage1.nonesuch = true; }`, "The option `boot.stage1.nonesuch' does not exist"},
		{`{ boot.stage1.compressor = "bzip2"; }`, "`boot.stage1.compressor' is not of type"},
		{`{ boot.stage1.level = 23; }`, "`boot.stage1.level' is not of type"},
		{`{ boot.stage1.kernelParams = [ "two words" ]; }`, "`boot.stage1.kernelParams' is not of type"},
		{`{ boot.stage1.rootSize = "1 G"; }`, "`boot.stage1.rootSize' is not of type"},
		{`{ boot.stage1.extraFiles."/a" = { }; }`, "`boot.stage1.extraFiles./a.source' was accessed but has no value"},
		{`{ boot.stage1.extraFiles."a".source = ./.; }`, "names are absolute"},
		{`{ boot.stage1.onFail = "shell"; }`, "set boot.stage1.debugShell.enable"},
		{`{ boot.stage1.enable = false; }`, "attribute 'ipxeBootDir' missing"},
	} {
		_, err := nixRun(t, "nix-instantiate", cl.configuration(t, tc.config).args("ipxeBootDir")...)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %s", tc.config, err, tc.want)
		}
	}
}

// TestModuleFileSystems checks what NixOS gets to know of the file systems.
func TestModuleFileSystems(t *testing.T) {
	type fileSystem struct {
		FSType        string
		Options       []string
		NeededForBoot bool
	}
	cl := tiny(t)
	tmpfs, disk := fileSystem{"tmpfs", []string{"mode=0755"}, false}, fileSystem{"ext4", []string{"defaults"}, false}
	for _, tc := range []struct {
		config string
		want   map[string]fileSystem
	}{
		{"{ }", map[string]fileSystem{"/": tmpfs, "/nix": {"tmpfs", []string{"mode=0755"}, true}}},
		{every, map[string]fileSystem{"/": tmpfs, "/nix": {"tmpfs", []string{"mode=0755"}, true}, "/home": disk}},
		{`{ lib, ... }: { fileSystems."/" = lib.mkForce { fsType = "ext4"; }; }`, map[string]fileSystem{"/": disk, "/nix": {"tmpfs", []string{"mode=0755"}, true}}},
		{`{ boot.stage1.enable = false; fileSystems."/" = { fsType = "ext4"; }; }`, map[string]fileSystem{"/": disk}},
	} {
		got := eval[map[string]fileSystem](t, cl.configuration(t, tc.config), "fileSystems")
		if fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("fileSystems of %s = %v, want %v", tc.config, got, tc.want)
		}
	}
}

// TestModuleDocumentation checks that docs/nixos.md has each option as the module
// does.
func TestModuleDocumentation(t *testing.T) {
	text := must[[]byte](t)(os.ReadFile("../docs/nixos.md"))
	var got []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `boot.stage1.") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := eval[[]string](t, tiny(t).configuration(t, "{ }"), "options")
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("docs/nixos.md has\n%s\nwant\n%s", g, w)
	}
}

// TestVendorHash compares the hash in nix/packages.nix with that of the modules
// that go.mod and the sources ask for, computed as nixpkgs' buildGoModule does it:
// a hash of the NAR of vendor.
func TestVendorHash(t *testing.T) {
	c := tiny(t).configuration(t, "{ }")
	has := eval[string](t, c, "vendorHash")
	modules := must[string](t)(c.build(t, "goModules"))
	want := must[string](t)(nixRun(t, "nix", "hash", "path", "--sri", "--type", "sha256", modules))
	if has != want {
		t.Errorf("nix/packages.nix has vendorHash = %q, put in\n\tvendorHash = %q;", has, want)
	}
}

// TestFlake has Nix check the flake, with stubs for nixpkgs.
func TestFlake(t *testing.T) {
	// Outside of git, and without what the programs are not made of.
	dir := tempDir(t)
	if err := shell(t.Context(), "..", `cp -r default.nix flake.nix go.* */ "$1"; cd "$1"; rm -rf bin demo docs`, dir); err != nil {
		t.Fatal(err)
	}
	args := []string{"--option", "experimental-features", "nix-command flakes", "--no-write-lock-file",
		"--override-input", "nixpkgs", "path:" + dir + "/nix/test", "path:" + dir}
	must[string](t)(nixRun(t, "nix", append([]string{"flake", "check", "--no-build"}, args...)...))
	text := must[string](t)(nixRun(t, "nix", append([]string{"flake", "show", "--json"}, args...)...))
	var got map[string]map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	for _, output := range []string{"packages", "apps", "devShells", "checks"} {
		for _, system := range []string{"x86_64-linux", "aarch64-linux"} {
			if len(got[output][system]) == 0 {
				t.Errorf("the flake has no %s.%s: %s", output, system, text)
			}
		}
	}
	if len(got["nixosModules"]["default"]) == 0 {
		t.Errorf("the flake has no nixosModules.default: %s", text)
	}
}

// TestNixParse has Nix parse every file of the repository that is Nix's.
func TestNixParse(t *testing.T) {
	var files []string
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		if strings.HasSuffix(file, ".nix") {
			files = append(files, file)
		}
		return err
	})
	if err != nil || len(files) < 4 {
		t.Fatalf("Nix files: %q, error %v", files, err)
	}
	must[string](t)(nixRun(t, "nix-instantiate", append([]string{"--parse"}, files...)...))
}

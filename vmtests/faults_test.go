package vmtests

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/squashfs"
)

// fault is something done to a boot, and what is to come of it.
type fault struct {
	name    string
	append  string                          // kernel parameters
	cmdline func(string) string             // of the boot loader's parameters; nil: none
	initrds []string                        // see initrds; nil: all
	overlay func(t *testing.T, root string) // see initrds
	memory  int                             // MiB; 0: as [Machine] has
	script  []string                        // keys, see keys
	want    []string                        // on the console, in this order
	not     string                          // what the console must not show, or ""
	end     Exit                            // Reset where empty
}

// boot starts the machine with the fault.
func (b *bootable) boot(t *testing.T, f *fault) testVM {
	t.Helper()
	if f.initrds == nil {
		f.initrds = allInitrds
	}
	images := b.initrds(t, f.initrds, f.overlay)
	if f.cmdline != nil {
		images.Cmdline = f.cmdline(images.Cmdline)
	}
	return start(t, Machine{Images: images, CPUs: 1, Memory: f.memory, Append: "stage1.on_fail_delay=0 " + f.append})
}

// stops shows for each fault that stage 1 stops with its message, and does the
// action on failure; that stage 2 never starts.
func (b *bootable) stops(t *testing.T, faults []fault) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			vm := b.boot(t, &f)
			vm.keys(f.script...)
			vm.expect(f.want...)
			if f.end == "" {
				f.end = Reset
			}
			vm.ends(f.end)
			if text := vm.Console(); strings.Contains(text, "<<< stage 2") || strings.Contains(text, "stage-1: starting") {
				t.Error("stage 2 has started")
			} else if f.not != "" && strings.Contains(text, f.not) {
				t.Errorf("the console shows %q", f.not)
			}
		})
	}
}

const (
	absent  = "/nix/store/00000000000000000000000000000000-absent"
	nowhere = "init=" + absent + "/init"
)

// TestFaults has flags, initrds that are missing, and the actions on failure.
func TestFaults(t *testing.T) {
	b := newBootable(t)
	image := b.manifest(t).Images[0].File
	unlinked := newBootable(t, "--no-link")
	dep := filepath.Join("lib/modules", tiny(t).Kernel.Version, "modules.dep")
	modules := string(must[[]byte](t)(os.ReadFile(filepath.Join(tiny(t).Kernel.Modules, "modules.dep"))))
	loop := filepath.Join(filepath.Dir(dep), "kernel/drivers/block/loop.ko")
	b.stops(t, []fault{
		{name: "no such init", append: nowhere,
			want: []string{`init: init=` + absent + `/init: ` + absent + `/init does not exist`, `the store has init=/nix/store/\S+-nixos-system-tiny`}},
		{name: "an init that is no program", append: "init=/nix/registration", want: []string{`/nix/registration is not executable`}},
		{name: "a relative init", append: "init=bin/init", want: []string{`init: init=bin/init is not an absolute path`}},
		{name: "flags twice", append: "init=/no/such stage1.on_fail=panic " + nowhere + " stage1.on_fail=poweroff", want: []string{absent + "/init does not exist", "stage-1: poweroff"}, not: "/no/such", end: PowerOff},

		{name: "no manifest", initrds: []string{"initrd", "nix-store"}, want: []string{`manifest: no manifest: the initrd has neither /nix-store-squashes/manifest.json nor`}},
		{name: "no images", initrds: []string{"initrd", "manifest"}, want: []string{`verify: image: open ` + image + `: no such file or directory \(the manifest names it: was the initrd that holds it loaded`}},
		{name: "images of another build", initrds: []string{"initrd", "manifest", filepath.Join(unlinked.dir, "nix-store")},
			want: []string{`verify: image: open ` + image + `: no such file`, `extra file /nix-store-squashes/\S+: the manifest does not name it: are initrds of several builds loaded`}},
		{name: "images of two builds", initrds: append(allInitrds, filepath.Join(unlinked.dir, "nix-store")),
			want: []string{`verify: extra file /nix-store-squashes/\S+: the manifest does not name it`, `and \d+ more`}},
		{name: "manifest of another build", initrds: []string{"initrd", "nix-store", filepath.Join(unlinked.dir, "manifest")},
			want: []string{`verify: image: open /nix-store-squashes/\S+: no such file`, `and \d+ more`}},
		{name: "extra file", overlay: text(manifest.Dir+"/extra", nil), want: []string{`verify: extra file /nix-store-squashes/extra: the manifest does not name it`}},

		{name: "no such module", overlay: text(dep, []byte("\n")), want: []string{`kernel modules: load loop: no such module: neither in /lib/modules/\S+/modules.dep nor built into the kernel`}},
		{name: "no overlay module, but a wish for one", append: "stage1.store=overlay", overlay: text(dep, []byte(strings.ReplaceAll(modules, "overlay.ko", "other.ko"))),
			want: []string{`kernel modules: load overlay: no such module`}},
		{name: "a module that is none", overlay: text(loop, []byte("garbage")), want: []string{`kernel modules: load module /lib/modules/\S+/loop.ko with parameters "": exec format error \(not a module of this kernel`}},
		{name: "a module's parameter", append: "loop.max_part=300", want: []string{`kernel modules: load module \S+/loop.ko with parameters "max_part=300": invalid argument`}},

		{name: "power off", append: nowhere + " stage1.on_fail=poweroff", want: []string{"does not exist", "stage-1: poweroff"}, end: PowerOff},
		{name: "panic", append: nowhere + " stage1.on_fail=panic stage1.on_fail_delay=1", want: []string{"does not exist", "Without a key within 1s: panic"}, end: Panic},
		{name: "panic at once", append: nowhere + " boot.panic_on_fail", want: []string{"does not exist", "stage-1: panic"}, end: Panic},
		{name: "panic at once, in other words", append: nowhere + " stage1panic=1", want: []string{"does not exist"}, end: Panic},
		{name: "no shell to end in", append: nowhere + " stage1.on_fail=shell", want: []string{"does not exist", `no shell: the initrd has no /bin/sh: mknetboot --debug-shell`, "stage-1: reboot"}},
	})
}

// offsets of fields of a superblock, in bytes: see [squashfs.Superblock].
const (
	compressorAt = 20
	rootAt       = 32
	usedAt       = 40
)

// TestImageFaults damages the store's image. The digests find all of it; behind a
// manifest that agrees with the damaged file, the metadata is read before the
// kernel reads it, and a copy finds damaged data. What only stage1.verify=
// off lets through and no copy reads, damaged data below an overlay, nobody finds
// at the import: docs/security.md says so.
func TestImageFaults(t *testing.T) {
	b := newBootable(t)
	image := b.manifest(t).Images[0].File
	content := must[[]byte](t)(os.ReadFile(filepath.Join(b.contents(t, "nix-store"), image)))
	super := must[*squashfs.Superblock](t)(squashfs.ReadSuperblock(bytes.NewReader(content), int64(len(content))))
	replaced := func(content []byte) func(t *testing.T, root string) { return text(image, content) }
	vouched := func(content []byte) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			m := b.manifest(t)
			vouch(t, root, &m.Images[0], content)
			save(t, root, m)
		}
	}
	short := bytes.Clone(content)
	binary.LittleEndian.PutUint64(short[usedAt:], super.IDStart-1)
	const start = squashfs.SuperblockSize + 8 // behind compressor options
	wrong := "verify: image " + image + ": "
	b.stops(t, []fault{
		{name: "truncated", overlay: replaced(content[:len(content)/2]), want: []string{wrong + `it has \d+ bytes, the manifest says \d+: the initrd is not whole`}},
		{name: "truncated, without digests", append: "stage1.verify=off", overlay: replaced(content[:len(content)-1]), want: []string{wrong + `it has \d+ bytes, the manifest says \d+: the initrd is not whole`}},
		{name: "longer", overlay: replaced(append(bytes.Clone(content), 0)), want: []string{wrong + `it has \d+ bytes, the manifest says \d+`}},
		{name: "empty", overlay: replaced(nil), want: []string{wrong + `it has 0 bytes, the manifest says \d+`}},
		{name: "less than a superblock, vouched for", overlay: vouched(content[:50]), want: []string{wrong + `not a squashfs image: 50 bytes are less than a superblock`}},
		{name: "truncated in its data, vouched for", overlay: vouched(content[:len(content)/2]), want: []string{wrong + `image is truncated: its superblock says \d+ bytes, the file has \d+`}},
		{name: "truncated in its last table, vouched for", overlay: vouched(content[:super.BytesUsed-1]), want: []string{wrong + `image is truncated`}},
		{name: "truncated, with a superblock that agrees", overlay: vouched(short[:super.IDStart]), want: []string{wrong + `superblock: end at byte \d+ lies before`}},

		{name: "bits of the superblock", overlay: replaced(damage(content, rootAt, 1)), want: []string{wrong + `the SHA-256 of its 4194304 bytes at byte 0 is \S+, the manifest says \S+: it is damaged, or of another build`}},
		{name: "bits of the data", overlay: replaced(damage(content, 5<<20, 1)), want: []string{wrong + `the SHA-256 of its 4194304 bytes at byte 4194304 is`}},
		{name: "magic, vouched for", overlay: vouched(damage(content, 0, 1)), want: []string{wrong + `not a squashfs image: it starts with`}},
		{name: "root inode, vouched for", overlay: vouched(damage(content, rootAt, 8)), want: []string{wrong + `inode table: inode at`}},
		{name: "inode table, vouched for", overlay: vouched(damage(content, int(super.InodeStart)+2, 8)), want: []string{wrong + `inode table: `}},
		{name: "inode table, without digests", append: "stage1.verify=off", overlay: replaced(damage(content, int(super.InodeStart)+2, 8)), want: []string{wrong + `inode table: `}},
		{name: "directory table, vouched for", overlay: vouched(damage(content, int(super.DirStart)+2, 8)), want: []string{wrong + `directory table: `}},
		{name: "data, without digests, copied", append: "stage1.verify=off stage1.store=copy", overlay: replaced(damage(content, start, 64<<10)),
			want: []string{`import: import ` + image + `: copy \S+: decompress data block of \d+ bytes at byte \d+: .* \(the image is damaged\)`}},
	})
}

// TestContentFaults boots images that no builder makes: sound ones, which the
// manifest vouches for, of what must not be in a store.
func TestContentFaults(t *testing.T) {
	b := newBootable(t)
	plain := craftPath(t, "file f 644 0 0 echo content")
	lzma := bytes.Clone(plain)
	binary.LittleEndian.PutUint16(lzma[compressorAt:], uint16(squashfs.LZMA))
	none := bytes.Clone(plain)
	binary.LittleEndian.PutUint16(none[compressorAt:], 9)
	const file = manifest.Dir + "/crafted"
	const wrong = "verify: image " + file + ": "
	faults := []fault{
		{name: "compressor that the kernel lacks", overlay: alone(lzma), want: []string{`import: image ` + file + `: mount .*: invalid argument \(damaged, or the kernel's squashfs lacks lzma`}},
		{name: "compressor that nobody has", overlay: alone(none), want: []string{wrong + `superblock: unknown compressor 9`}},
		{name: "a name that is no store path's", overlay: alone(craft(t, "", "etc d 755 0 0")), want: []string{wrong + `it holds what can't be in a store: "etc" is not HASH-NAME`}},
		{name: "more than the manifest says", overlay: alone(craft(t, "", crafted+" d 755 0 0", crafted+"2 d 755 0 0")), want: []string{wrong + `it holds 2 store paths, the manifest says 1`}},
		{name: "the name ..", overlay: alone(rename(t, craftPath(t, "zQ d 755 0 0"), "zQ", "..")), want: []string{wrong + `directory table: listing at \S+: invalid name ".."`}},
		{name: "a name with a slash", overlay: alone(rename(t, craftPath(t, "zQz d 755 0 0"), "zQz", "z/z")), want: []string{wrong + `directory table: listing at \S+: invalid name "z/z"`}},
		{name: "device node", overlay: alone(craftPath(t, "mem c 666 0 0 1 1")), want: []string{wrong + crafted + `/mem: it is a device node`}},
		{name: "device node, without digests", append: "stage1.verify=off", overlay: alone(craftPath(t, "disk b 666 0 0 8 0")), want: []string{wrong + crafted + `/disk: it is a device node`}},
		{name: "fifo", overlay: alone(craftPath(t, "fifo i 644 0 0 f")), want: []string{wrong + crafted + `/fifo: it is a fifo or a socket`}},
		{name: "set-user-ID bit", overlay: alone(craftPath(t, "su f 4755 0 0 echo")), want: []string{wrong + crafted + `/su: its mode 04755 has a set-user-ID or set-group-ID bit`}},
		{name: "capabilities", overlay: alone(capable(t)), want: []string{wrong + crafted + `/ping: it has capabilities`}},
		{name: "a store path twice", append: "stage1.store=overlay", overlay: copies(plain, 2), want: []string{`import: image /i/1: store path ` + crafted + ` is in image /i/0 too`}},
		{name: "a store path twice, copied", append: "stage1.store=copy stage1.jobs=1", overlay: copies(plain, 2), want: []string{`import: image /i/1: store path ` + crafted + ` is in another image too`}},
		{name: "more images than an overlay takes", append: "stage1.store=overlay", overlay: copies(plain, 501), want: []string{`memory: an overlay takes 500 images, the manifest names 501: use stage1.store=copy, or link them`}},

		{name: "a link to a file of the kernel", overlay: func(t *testing.T, root string) {
			alone(plain)(t, root)
			must[struct{}](t)(struct{}{}, os.Remove(filepath.Join(root, file)))
			link("/proc/version", file)(t, root)
		}, want: []string{`verify: image: open ` + file + `: it is in another file system, or a link leads there`}},
		{name: "a link to another file", overlay: func(t *testing.T, root string) {
			alone(plain)(t, root)
			must[struct{}](t)(struct{}{}, os.Remove(filepath.Join(root, file)))
			link("/init", file)(t, root)
		}, want: []string{wrong + `it has \d+ bytes, the manifest says 4096`}},
		{name: "an image that is a fifo", overlay: func(t *testing.T, root string) {
			alone(plain)(t, root)
			must[struct{}](t)(struct{}{}, os.Remove(filepath.Join(root, file)))
			must[struct{}](t)(struct{}{}, unix.Mkfifo(filepath.Join(root, file), 0o644))
		}, want: []string{wrong + `it is p\S+, want a regular file`}},
	}
	for i := range faults {
		faults[i].initrds = []string{"initrd"} // they bring their own images
	}
	b.stops(t, faults)
}

// capable is an image of a file with a capability.
func capable(t *testing.T) []byte {
	t.Helper()
	source := t.TempDir()
	ping := filepath.Join(source, crafted, "ping")
	write(t, ping, []byte("ping\n"))
	// struct vfs_cap_data in linux/capability.h: revision 2, effective, and
	// cap_net_raw permitted.
	capability := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	capability = append(binary.LittleEndian.AppendUint32(capability, 1<<unix.CAP_NET_RAW), make([]byte, 12)...)
	must[struct{}](t)(struct{}{}, unix.Lsetxattr(ping, "security.capability", capability, 0))
	return craft(t, source)
}

// copies returns what writes an image n times, and a manifest that names them.
func copies(content []byte, n int) func(t *testing.T, root string) {
	return func(t *testing.T, root string) {
		m := &manifest.Manifest{}
		for i := range n {
			m.Images = append(m.Images, manifest.Image{File: fmt.Sprintf("/i/%d", i), StorePaths: 1, UnpackedSize: 4096, Inodes: 2})
			vouch(t, root, &m.Images[i], content)
		}
		save(t, root, m)
	}
}

// TestManifestFaults has manifests that are damaged, crafted, or not what they are
// pinned to.
func TestManifestFaults(t *testing.T) {
	b := newBootable(t)
	original := must[[]byte](t)(os.ReadFile(filepath.Join(b.contents(t, "manifest"), manifest.Path)))
	image := b.manifest(t).Images[0].File
	json := func(content []byte) func(t *testing.T, root string) { return text(manifest.Path, content) }
	renamed := func(name string) func(t *testing.T, root string) {
		return json(bytes.Replace(original, []byte(`"`+image+`"`), []byte(`"`+name+`"`), 1))
	}
	seed := []string{"initrd"}
	seedText := func(content string) func(t *testing.T, root string) { return text(manifest.SeedPath, []byte(content)) }
	var many, manyLines bytes.Buffer
	for i := range 100000 {
		fmt.Fprintf(&manyLines, "%s", seedLine(fmt.Sprintf("/nix/store/00000000000000000000000000000000-p-squash/%08d/000000000000000000000000-p", i)))
		fmt.Fprintf(&many, `,{"file":"/i/%d","size":1,"sha256":"%064d","storePaths":1}`, i, i)
	}
	many.Bytes()[0] = '['
	thousands := []byte(fmt.Sprintf(`{"version": 1, "images": %s]}`, many.Bytes()))
	const prefix = "manifest: manifest " + manifest.Path + ": "
	const seedPrefix = "manifest: manifest " + manifest.SeedPath + ": "
	pin := manifestPin.FindString(b.images.Cmdline)
	faults := []fault{
		{name: "another version", overlay: json([]byte(`{"version": 99}`)), want: []string{prefix + `format version 99, want 1`}},
		{name: "empty", overlay: json(nil), want: []string{prefix + `not JSON: unexpected end of JSON input`}},
		{name: "not UTF-8", overlay: renamed("/nix-store-squashes/\xff"), want: []string{prefix + `not JSON: it is not UTF-8`}},
		{name: "100,000 images", overlay: json(thousands), want: []string{`verify: image: open /i/0: no such file`, `and 99992 more`}},
		{name: "larger than a manifest may be", overlay: json(append(thousands, bytes.Repeat([]byte(" "), manifest.MaxSize)...)), want: []string{prefix + `larger than 16777216 bytes`}},
		{name: "a name with a space that is not there", overlay: renamed("/nix-store-squashes/a b"), want: []string{`verify: image: open /nix-store-squashes/a b: no such file`}},
		{name: "NUL in a name", overlay: renamed(`/nix-store-squashes/a\u0000b`), want: []string{prefix + `image "/nix-store-squashes/a\\x00b" is not a clean absolute path`}},
		{name: "a name in /proc", overlay: renamed("/proc/kcore"), want: []string{prefix + `image /proc/kcore is not a file of the initrd`}},
		{name: "a name that leads out", overlay: renamed("/nix-store-squashes/../proc/kcore"), want: []string{prefix + `image "/nix-store-squashes/../proc/kcore" is not a clean absolute path`}},
		{name: "a link out of the initrd", initrds: seed, overlay: link("/proc/cmdline", manifest.Path), want: []string{`manifest: .*manifest.json: it is in another file system, or a link leads there`}},

		{name: "seed, CRLF", initrds: seed, overlay: seedText(strings.ReplaceAll(seedLine(seedImage), "\n", "\r\n")), want: []string{seedPrefix + `line 1: image ".*\\r" is not a clean absolute path`}},
		{name: "seed, 100,000 lines", initrds: seed, overlay: seedText(manyLines.String()), want: []string{`verify: image: open /nix/store/\S+: no such file`, `and 99993 more`}},
		{name: "seed, a link out of the initrd", initrds: seed, overlay: link("/sys/kernel/notes", manifest.SeedPath), want: []string{`manifest: .*squashes: it is in another file system, or a link leads there`}},

		{name: "wrong pin", append: "stage1.manifest_sha256=" + strings.Repeat("0", 64), want: []string{prefix + `its SHA-256 is \S+, it is pinned to 0{64}: it is of another build than the boot script, or was tampered with`}},
		{name: "right pin, altered manifest", append: pin, overlay: json(append(bytes.Clone(original), '\n')), want: []string{prefix + `its SHA-256 is \S+, it is pinned to`}},
		{name: "empty pin", append: "stage1.manifest_sha256=", want: []string{`manifest: stage1.manifest_sha256= has no value`}},
		{name: "malformed pin", append: pin[:40], want: []string{prefix + `the pin "\S+" is not 64 hexadecimal digits`}},
		{name: "seed, pinned", initrds: seed, append: pin, overlay: seedText(seedLine(seedImage)), want: []string{seedPrefix + `it has no digests, and so can't be what the pin \S+ vouches for: is /nix-store-squashes/manifest.json missing`}},
	}
	for i := range faults {
		if faults[i].initrds == nil {
			faults[i].initrds = []string{"initrd", "manifest"} // none comes to an image
		}
	}
	b.stops(t, faults)
}

// registered is the registration of a path that refers n times to another.
func registered(path string, n int, to string) string {
	return fmt.Sprintf("%s\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n1\n\n%d\n%s", path, n, strings.Repeat(to+"\n", n))
}

// TestRegistrationFaults has registrations that are damaged, or are of another
// store.
func TestRegistrationFaults(t *testing.T) {
	b := newBootable(t)
	r := b.manifest(t).Registration
	content := must[[]byte](t)(os.ReadFile(filepath.Join(b.contents(t, "manifest"), r.File)))
	vouched := func(content []byte, unpacked int64) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			m := b.manifest(t)
			var file manifest.Image
			file.File = r.File
			vouch(t, root, &file, content)
			m.Registration.Size, m.Registration.SHA256, m.Registration.UnpackedSize = file.Size, file.SHA256, unpacked
			save(t, root, m)
		}
	}
	plain := func(text string) func(t *testing.T, root string) { return vouched([]byte(text), int64(len(text))) }
	toplevel := tiny(t).Toplevel
	garbage := make([]byte, 1000)
	rand.NewChaCha8([32]byte{}).Read(garbage)
	wrong := "registration: " + r.File + ": "
	b.stops(t, []fault{
		{name: "altered", overlay: text(r.File, damage(content, len(content)/2, 1)), want: []string{`verify: registration ` + r.File + `: its SHA-256 is \S+, the manifest says`}},
		{name: "truncated", overlay: text(r.File, content[:len(content)/2]), want: []string{`verify: registration ` + r.File + `: it has \d+ bytes, the manifest says \d+`}},
		{name: "truncated, vouched for", overlay: vouched(content[:len(content)/2], r.UnpackedSize), want: []string{wrong + `registration line \d+: .*unexpected EOF`}},
		{name: "truncated entry", overlay: plain(registered(toplevel, 1, toplevel)[:120]), want: []string{wrong + `registration line \d`}},
		{name: "garbage", overlay: vouched(garbage, int64(len(garbage))), want: []string{wrong + `registration line 1: `}},
		{name: "an absent path", overlay: plain(registered(absent, 0, "")), want: []string{wrong + `it names ` + absent + `, which no image holds`}},
		{name: "a reference to an absent path", overlay: plain(registered(toplevel, 10000, absent)), want: []string{wrong + `it says that ` + toplevel + ` refers to ` + absent + `, which no image holds`}},
		{name: "a million references", overlay: plain(registered(toplevel, 1000000, toplevel)), want: []string{wrong + `registration line 5: number of references: 1000000, want at most 100000`}},
		{name: "a path of another store", overlay: plain(registered("/gnu"+strings.TrimPrefix(absent, "/nix"), 0, "")), want: []string{wrong + `it names /gnu/store/\S+, which is not in /nix/store`}},
		{name: "gzip bomb", overlay: vouched(bomb(t, toplevel), 100000), want: []string{wrong + `it unpacks to more than the 100000 bytes that it may have`}},
		{name: "gzip bomb of a seed", initrds: []string{"initrd"}, overlay: func(t *testing.T, root string) {
			write(t, filepath.Join(root, seedImage), craftPath(t))
			write(t, filepath.Join(root, manifest.SeedPath), []byte(seedLine(seedImage)))
			write(t, filepath.Join(root, manifest.SeedRegistration), bomb(t, manifest.StoreDir+"/"+crafted))
		}, want: []string{`registration: /nix-store-squashes/registration.gz: it unpacks to more than the 268435456 bytes that it may have`}},
		{name: "seed without one", initrds: []string{"initrd"}, overlay: func(t *testing.T, root string) {
			write(t, filepath.Join(root, seedImage), craftPath(t))
			write(t, filepath.Join(root, manifest.SeedPath), []byte(seedLine(seedImage)))
		}, want: []string{`verify: registration: open /nix-store-squashes/registration.gz: no such file`}},
	})
}

// TestMemoryFaults has machines with too little RAM, and file systems that are too
// small.
func TestMemoryFaults(t *testing.T) {
	b := newBootable(t)
	image := b.manifest(t).Images[0].File
	b.stops(t, []fault{
		// Without root= the rootfs is a tmpfs of half of the RAM, see mknetboot. The
		// kernel gives a file its size before its data, so that it does not look short.
		{name: "for the initrd", memory: 320, initrds: []string{"initrd", "manifest"},
			cmdline: func(s string) string { return strings.ReplaceAll(s, "root=tmpfs", "") },
			overlay: func(t *testing.T, root string) {
				m := b.manifest(t)
				m.Root = nil
				vouch(t, root, &m.Images[0], bytes.Repeat([]byte("image\n"), 43<<20))
				save(t, root, m)
			}, want: []string{`Initramfs unpacking failed: write error`, `verify: image ` + image + `: its SHA-256 is \S+, the manifest says \S+: it is damaged, or of another build, or the RAM did not suffice to unpack it`}},
		{name: "for an overlay", memory: 128, want: []string{`memory: too little RAM for the store: by overlay it needs \S+ MB, by copy it needs \S+ MB, and \S+ of \S+ MB are free \(\d+ MB are for the system\): use a machine with \d+ MB more`}},
		{name: "for a copy", memory: 160, append: "stage1.store=copy", want: []string{`memory: too little RAM for the store: by copy it needs \S+ MB, and \S+ of \S+ MB are free .*: use stage1.store=overlay, which needs \S+ MB, or a machine with \d+ MB more`}},
		{name: "on the tmpfs, for a copy", append: "stage1.store=copy stage1.nix_size=1M", want: []string{`memory: stage1.nix_size= makes the tmpfs on /nix 1.0 MB large, and with stage1.store=copy it must hold \S+ MB`}},
		{name: "on the tmpfs, for an overlay", append: "stage1.nix_size=16K", want: []string{`memory: stage1.nix_size= makes the tmpfs on /nix 0.0 MB large, and with stage1.store=\S+ it must hold \S+ MB: make it larger, or leave the flag out`}},
	})
}

// do returns the keys that have the shell of a breakpoint run a command, and go on.
func do(command string) []string {
	return []string{`\*\) to go on`, "> i", "stage-1# ", "> " + command + "\n", "stage-1# ", "> exit\n", "or any other key", "> x"}
}

// TestLoopFaults takes loop devices away, by a shell before the import.
func TestLoopFaults(t *testing.T) {
	b := newBootable(t, "--debug-shell")
	const stop = "boot.debug1devices"
	b.stops(t, []fault{
		{name: "module gone", append: stop, script: do("rmmod loop"), want: []string{`import: loop device for \S+: open /dev/loop-control: no such file or directory \(is the module loop there\?\)`}},
		{name: "no control", append: stop, script: do("rm /dev/loop-control; touch /dev/loop-control"), want: []string{`import: loop device for \S+: ask /dev/loop-control for a free one: inappropriate ioctl for device`}},
		// The kernel says that 0 is free, and behind that name is one in use.
		{name: "none free", append: stop, script: do("losetup /dev/loop1 /init; rm /dev/loop0; mknod /dev/loop0 b 7 1"), want: []string{`import: loop device for \S+: none free after 1000 tries`}},
	})
}

// beside returns what writes an image of one more store path, and the manifest
// with it.
func (b *bootable) beside(content []byte) func(t *testing.T, root string) {
	return func(t *testing.T, root string) {
		m := b.manifest(t)
		m.Images = append(m.Images, manifest.Image{File: manifest.Dir + "/crafted", StorePaths: 1})
		vouch(t, root, &m.Images[len(m.Images)-1], content)
		save(t, root, m)
	}
}

// TestInitFaults has an init= of every kind that the kernel would not execute.
func TestInitFaults(t *testing.T) {
	b := newBootable(t)
	source := t.TempDir()
	in := func(name string) string { return filepath.Join(source, crafted, name) }
	var foreign bytes.Buffer
	must[struct{}](t)(struct{}{}, binary.Write(&foreign, binary.LittleEndian, elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_AARCH64), Version: uint32(elf.EV_CURRENT),
		Ehsize: 64, Phentsize: 56, Shentsize: 64,
	}))
	write(t, in("script"), []byte("#!"+absent+"/bin/sh\n"))
	write(t, in("foreign"), foreign.Bytes())
	write(t, in("text"), []byte("neither\n"))
	for _, name := range []string{"script", "foreign", "text"} {
		must[struct{}](t)(struct{}{}, os.Chmod(in(name), 0o755))
	}
	link(absent, "dangling")(t, filepath.Join(source, crafted))
	link("loop2", "loop1")(t, filepath.Join(source, crafted))
	link("loop1", "loop2")(t, filepath.Join(source, crafted))
	image := craft(t, source)
	var faults []fault
	for _, c := range []struct{ name, file, want string }{
		{"directory", "", ` is not a file but d`},
		{"dangling link", "/dangling", ` is a symlink to ` + absent + `, which does not exist`},
		{"loop of links", "/loop1", `: too many levels of symbolic links`},
		{"script without its interpreter", "/script", `: its interpreter: ` + absent + `/bin/sh does not exist`},
		{"program for another machine", "/foreign", `: a program for another machine: EM_AARCH64, this one is amd64`},
		{"text", "/text", `: neither a script \(#!\) nor an ELF program`},
	} {
		prog := manifest.StoreDir + "/" + crafted + c.file
		faults = append(faults, fault{name: c.name, append: "init=" + prog, overlay: b.beside(image), want: []string{`init: init=` + prog + `: (open )?` + prog + c.want}})
	}
	b.stops(t, faults)
}

// TestHardships has what a boot gets over.
func TestHardships(t *testing.T) {
	b := newBootable(t, "--debug-shell")
	original := must[[]byte](t)(os.ReadFile(filepath.Join(b.contents(t, "manifest"), manifest.Path)))
	dep := filepath.Join("lib/modules", tiny(t).Kernel.Version, "modules.dep")
	modules := string(must[[]byte](t)(os.ReadFile(filepath.Join(tiny(t).Kernel.Modules, "modules.dep"))))
	const stop = "boot.debug1devices"
	for _, f := range []fault{
		{name: "CRLF", overlay: text(manifest.Path, bytes.ReplaceAll(original, []byte("\n"), []byte("\r\n")))},
		{name: "a name with a space", initrds: []string{"initrd"}, overlay: func(t *testing.T, root string) {
			m := b.manifest(t)
			content := must[[]byte](t)(os.ReadFile(filepath.Join(b.contents(t, "nix-store"), m.Images[0].File)))
			m.Images[0].File, m.Registration, m.Root = manifest.Dir+"/a store", nil, nil
			vouch(t, root, &m.Images[0], content)
			save(t, root, m)
		}, want: []string{`the manifest names no registration`}},
		{name: "10,000 references", overlay: func(t *testing.T, root string) {
			m := b.manifest(t)
			registration := registered(tiny(t).Toplevel, 10000, tiny(t).Toplevel)
			file := manifest.Image{File: m.Registration.File}
			vouch(t, root, &file, []byte(registration))
			m.Registration.Size, m.Registration.SHA256, m.Registration.UnpackedSize = file.Size, file.SHA256, file.Size
			save(t, root, m)
		}},
		{name: "no overlay module", overlay: text(dep, []byte(strings.ReplaceAll(modules, "overlay.ko", "other.ko"))),
			want: []string{`load overlay: no such module`, `the store is copied, since it can't be mounted`}},
		{name: "a small tmpfs on /", append: "stage1.root_size=4K"},
		{name: "all signals", append: stop, script: do(`for s in $(seq 64); do kill -$s 1; done; for i in $(seq 200); do kill -CHLD 1; (true &); done; sleep 1; grep -h State /proc/[0-9]*/status | sort -u`), not: "State:\tZ"},
		{name: "signals during the import", append: stop, script: do(`(for i in $(seq 20000); do kill -CHLD 1; kill -TERM 1; kill -INT 1; done) &`)},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			vm := b.boot(t, &f)
			vm.keys(f.script...)
			vm.expect(append(f.want, "<<< stage 2: recorded >>>")...)
			vm.ends(PowerOff)
			if f.not != "" && strings.Contains(vm.Console(), f.not) {
				t.Errorf("the console shows %q", f.not)
			}
		})
	}
}

// TestUnread shows that a serial line which takes nothing more does not keep
// stage 1: it ends a boot that went wrong, though it can't say so. What it would
// have to say is more than the terminal's buffer and the line hold, 4 KiB each.
func TestUnread(t *testing.T) {
	var flags strings.Builder
	for i := range 170 {
		fmt.Fprintf(&flags, " stage1.%x", i) // 52 bytes or more each: no such flag
	}
	b := newBootable(t)
	vm := start(t, Machine{Images: b.images, CPUs: 1, Unread: "stage-1: ",
		Append: "boot.trace init=/nix/store/absent stage1.on_fail=poweroff stage1.on_fail_delay=1" + flags.String()})
	vm.ends(PowerOff)
}

package vmtests

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stage1/manifest"
	"stage1/vmtests/facts"
)

// TestRootFiles compares what stage 2 finds beside the store with what mknetboot
// was told to put there.
func TestRootFiles(t *testing.T) {
	cl := tiny(t)
	source := filepath.Join(tempDir(t), "source")
	must[string](t)(output(exec.Command("sh", "-euc", `mkdir -p "$0/a directory" "$0/empty"; cd "$0"
		echo key > "a directory/key"; chmod 0600 "a directory/key"; chown 12:34 "a directory/key"
		echo program > program; chmod 0755 program; head -c 300000 /dev/urandom > random
		ln -s ../NIXOS link; ln -s /absent dangling; chmod 1777 empty; chmod 0710 "a directory"`, source)))
	dir := netboot(t, cl, "--root-files", source+":/etc/vmtest", "--root-files", filepath.Join(source, "program")+":/etc/program")
	for _, store := range []string{"overlay", "copy"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			vm := start(t, Machine{Images: kexec(t, dir), CPUs: 1, Append: "stage1.store=" + store})
			vm.expect("<<< stage 2: recorded >>>")
			vm.ends(PowerOff)
			f := must[*facts.Facts](t)(facts.Decode(vm.Console()))
			checkContract(t, cl, f)
			checkStore(t, cl, f, true)
			want := must[[]facts.Entry](t)(facts.Tree(source))
			for i := range want {
				e := &want[i]
				e.Path = "/etc/vmtest" + strings.TrimPrefix(e.Path, source)
				e.UID, e.GID, e.Mtime = 0, 0, time.Unix(1, 0).UnixNano()
			}
			if differences := diff(f.Below("/etc/vmtest"), want); len(differences) > 0 {
				t.Errorf("the root files differ from their source:\n%s", strings.Join(differences, "\n"))
			}
			checkNixState(t, cl, f)
		})
	}
}

// checkNixState compares what there is of Nix's state with what there should be.
func checkNixState(t *testing.T, cl *Closure, f *facts.Facts) {
	t.Helper()
	var got []string
	for _, e := range slices.Concat(f.Below("/nix/var"), f.Below("/etc/NIXOS")) {
		if e.UID != 0 || e.GID != 0 {
			t.Errorf("%v: want it root's", e)
		}
		got = append(got, strings.TrimSpace(e.Path+" "+os.FileMode(e.Mode&0o777).String()+" "+e.Target))
	}
	want := []string{
		"/nix/var -rwxr-xr-x", "/nix/var/nix -rwxr-xr-x",
		"/nix/var/nix/db -rwxr-xr-x", "/nix/var/nix/db/db.sqlite -rw-r--r--", "/nix/var/nix/db/schema -rw-r--r--",
		"/nix/var/nix/gcroots -rwxr-xr-x", "/nix/var/nix/gcroots/profiles -rwxrwxrwx /nix/var/nix/profiles",
		"/nix/var/nix/profiles -rwxr-xr-x", "/nix/var/nix/profiles/system -rwxrwxrwx system-1-link",
		"/nix/var/nix/profiles/system-1-link -rwxrwxrwx " + cl.Toplevel,
		"/etc/NIXOS -rw-r--r--",
	}
	if !slices.Equal(got, want) {
		t.Errorf("Nix's state is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRootImageFaults has root images that stage 1 must not take.
func TestRootImageFaults(t *testing.T) {
	b := newBootable(t)
	m := b.manifest(t)
	content := must[[]byte](t)(os.ReadFile(filepath.Join(b.contents(t, "nix-store"), m.Root.File)))
	for _, c := range []struct {
		name    string
		overlay func(t *testing.T, root string)
		want    string
	}{
		{"truncated", func(t *testing.T, root string) { write(t, filepath.Join(root, m.Root.File), content[:len(content)/2]) },
			`verify: root image ` + m.Root.File + `: it has \d+ bytes, the manifest says \d+`},
		{"altered", func(t *testing.T, root string) {
			altered := slices.Clone(content)
			altered[len(altered)/2] ^= 1
			write(t, filepath.Join(root, m.Root.File), altered)
		}, `verify: root image ` + m.Root.File + `: its SHA-256 is \S+, the manifest says`},
		{"with a store path", func(t *testing.T, root string) { replaceRoot(t, b, root, "nix/store/x") },
			`root files: root image ` + m.Root.File + `: copy /nix/store: /nix/store is at or below /nix/store, which stage 1 makes itself`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			vm := start(t, Machine{Images: b.initrds(t, allInitrds, c.overlay), CPUs: 1, Append: "stage1.on_fail_delay=1"})
			vm.expect(c.want)
			vm.ends(Reset)
			if strings.Contains(vm.Console(), "<<< stage 2") {
				t.Error("stage 2 has started")
			}
		})
	}
}

// replaceRoot makes a root image with one file, and a manifest that vouches for it.
func replaceRoot(t *testing.T, b *bootable, root, name string) {
	t.Helper()
	tree := t.TempDir()
	write(t, filepath.Join(tree, name), []byte("not what the builder would make"))
	m := b.manifest(t)
	file := filepath.Join(root, m.Root.File)
	must[struct{}](t)(struct{}{}, os.MkdirAll(filepath.Dir(file), 0o755))
	must[string](t)(output(exec.Command("mksquashfs", tree, file, "-comp", "gzip", "-noappend", "-no-exports", "-quiet", "-no-progress")))
	content := must[[]byte](t)(os.ReadFile(file))
	sum := sha256.Sum256(content)
	m.Root = &manifest.Image{File: m.Root.File, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), UnpackedSize: 4096, Inodes: 3}
	var text bytes.Buffer
	must[struct{}](t)(struct{}{}, m.Write(&text))
	write(t, filepath.Join(root, manifest.Path), text.Bytes())
}

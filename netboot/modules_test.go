package netboot

import (
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func testTree(t *testing.T) *moduleTree {
	t.Helper()
	s := newTestStore(t)
	tree, err := readModuleTree(s.real(s.kernel + "/lib/modules/" + testVersion))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestModulesClosure(t *testing.T) {
	tree := testTree(t)
	got, err := tree.closure(append(importModules, "nic"))
	if err != nil {
		t.Fatal(err)
	}
	want := []module{
		{"kernel/loop.ko.xz", nil},
		{"kernel/mii.ko", []string{"kernel/sum-generic.ko"}},
		{"kernel/nic-soft.ko", nil},
		{"kernel/nic.ko", []string{"kernel/mii.ko", "kernel/nic-soft.ko", "kernel/sum-generic.ko"}},
		{"kernel/squashfs.ko.zst", []string{"kernel/xz-dec.ko.gz"}},
		{"kernel/sum-generic.ko", nil},
		{"kernel/xz-dec.ko.gz", nil},
	}
	if len(got) != len(want) {
		t.Fatalf("closure = %v, want %v", got, want)
	}
	for i, m := range want {
		if got[i].file != m.file || !slices.Equal(got[i].deps, m.deps) {
			t.Errorf("closure[%d] = %v, want %v", i, got[i], m)
		}
	}
	_, err = tree.closure([]string{"nonesuch"})
	wantError(t, "closure of nonesuch", err, "nonesuch", "modules.dep", "modules.builtin")
	delete(tree.modules, "mii")
	_, err = tree.closure([]string{"nic"})
	wantError(t, "closure of nic", err, "nic", "kernel/mii.ko")
}

// TestModulesWrite checks that the initrd has plain modules, whatever their
// compression was, and a modules.dep of these.
func TestModulesWrite(t *testing.T) {
	tree := testTree(t)
	list, err := tree.closure(importModules)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	c := newCPIOWriter(&buf)
	if err := tree.write(c, testVersion, list); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	got := readArchive(t, buf.Bytes())
	dir := "lib/modules/" + testVersion + "/"
	for name, want := range map[string]string{
		dir + "kernel/loop.ko":     elfStub,
		dir + "kernel/squashfs.ko": elfStub,
		dir + "kernel/xz-dec.ko":   elfStub,
		dir + "modules.builtin":    "kernel/fs/overlayfs/overlay.ko\n",
		dir + "modules.dep":        "kernel/loop.ko:\nkernel/squashfs.ko: kernel/xz-dec.ko\nkernel/xz-dec.ko:\n",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("also in the initrd: %q", got)
	}
}

// readArchive returns the files of an archive by name.
func readArchive(t *testing.T, data []byte) map[string]string {
	t.Helper()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, r := range records {
		if r.Mode&0o170000 == modeDir {
			continue
		}
		text, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimRight(r.Name, "\x00")] = string(text)
	}
	return files
}

func TestReadModuleRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"m.ko", "m.ko.xz", "m.ko.gz", "m.ko.zst"} {
		file := filepath.Join(dir, name)
		writeFile(t, file, "not what it says", 0o644)
		_, err := readModule(file)
		wantError(t, "readModule", err, file)
	}
}

func TestModulesDepRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"a.ko:\nb.ko\n":             "line 2",
		"a.ko: ../../etc/shadow\n":  "../../etc/shadow",
		"/lib/modules/6.1/a.ko: \n": "not below the tree",
	} {
		_, err := parseModulesDep([]byte(text))
		wantError(t, text, err, want)
	}
}

func FuzzModulesDep(f *testing.F) {
	f.Add([]byte("kernel/a.ko.xz: kernel/b.ko\nkernel/b.ko:\n"), []byte("softdep a pre: b c post: d\nalias c b\n"))
	f.Add([]byte("a.ko: a.ko b.ko\nb.ko: a.ko\n"), []byte("softdep a pre: a b\nsoftdep b pre: a\n"))
	f.Fuzz(func(t *testing.T, dep, soft []byte) {
		modules, err := parseModulesDep(dep)
		if err != nil {
			return
		}
		tree := &moduleTree{modules: modules, builtin: dep, soft: parseSoftdep(soft), alias: parseAlias(soft)}
		for name := range modules {
			list, err := tree.closure([]string{name})
			if err == nil && len(list) == 0 {
				t.Errorf("closure of %s is empty", name)
			}
		}
	})
}

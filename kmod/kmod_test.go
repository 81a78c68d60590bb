package kmod

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const dep = `kernel/fs/squashfs/squashfs.ko: kernel/lib/lz4/lz4_decompress.ko kernel/lib/xz/xz-dec.ko
kernel/lib/lz4/lz4_decompress.ko:
kernel/lib/xz/xz-dec.ko.xz:
`

func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func noParams(string) string { return "" }

func TestOpen(t *testing.T) {
	tree, err := Open(writeTree(t, map[string]string{"modules.dep": dep, "modules.builtin": "kernel/drivers/block/loop.ko\n"}))
	if err != nil {
		t.Fatal(err)
	}
	got := tree.modules["squashfs"].deps
	if want := []string{"kernel/lib/lz4/lz4_decompress.ko", "kernel/lib/xz/xz-dec.ko"}; !slices.Equal(got, want) {
		t.Errorf("dependencies of squashfs = %q, want %q", got, want)
	}
	if _, ok := tree.modules["xz_dec"]; !ok {
		t.Error("no module xz_dec, want that of xz-dec.ko.xz")
	}
	if !tree.builtin["loop"] {
		t.Error("loop is not built in, want it so")
	}
}

func TestOpenWithoutFiles(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "absent")); err != nil {
		t.Errorf("Open of no tree = %v, want none", err)
	}
}

func TestOpenBadLine(t *testing.T) {
	_, err := Open(writeTree(t, map[string]string{"modules.dep": "a.ko:\nkernel/b.ko\n"}))
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("Open = %v, want an error for line 2", err)
	}
}

func TestName(t *testing.T) {
	for file, want := range map[string]string{
		"kernel/fs/overlayfs/overlay.ko": "overlay", "virtio-net": "virtio_net", "a/xz-dec.ko.xz": "xz_dec", "": "",
	} {
		if got := Name(file); file != "" && got != want {
			t.Errorf("Name(%q) = %q, want %q", file, got, want)
		}
	}
}

func TestLoad(t *testing.T) {
	tree, err := Open(writeTree(t, map[string]string{
		"modules.dep":          "kernel/stage1_test_a.ko: kernel/stage1_test_b.ko\nkernel/stage1_test_b.ko:\n",
		"modules.builtin":      "kernel/stage1-test-c.ko\n",
		"kernel/stage1_test_b": "",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Load("stage1_test-c", noParams); err != nil {
		t.Errorf("Load of a built-in module = %v, want none", err)
	}
	if err := tree.Load("stage1_test_absent", noParams); !errors.Is(err, ErrNotFound) {
		t.Errorf("Load of no module = %v, want ErrNotFound", err)
	}
	err = tree.Load("stage1_test_a", noParams)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "dependency") || !strings.Contains(err.Error(), "stage1_test_b.ko") {
		t.Errorf("Load with a missing dependency = %v, want not-exist that names stage1_test_b.ko", err)
	}
}

// TestLoadGarbage shows the kernel's refusal of a file that is no module.
func TestLoadGarbage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("finit_module needs root")
	}
	tree, err := Open(writeTree(t, map[string]string{"modules.dep": "k/stage1_test_g.ko:\n", "k/stage1_test_g.ko": strings.Repeat("garbage", 100)}))
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Load("stage1_test_g", noParams); err == nil || !strings.Contains(err.Error(), "stage1_test_g.ko") {
		t.Errorf("Load of garbage = %v, want an error that names the file", err)
	}
}

func FuzzModulesDep(f *testing.F) {
	f.Add(dep)
	f.Add("a.ko: b.ko\n\n# comment\n:\n")
	f.Add("no colon")
	f.Fuzz(func(t *testing.T, text string) {
		tree := &Tree{modules: map[string]module{}, builtin: map[string]bool{}}
		if tree.parseDep(strings.NewReader(text)) != nil {
			return
		}
		for name, m := range tree.modules {
			if name != Name(m.file) || strings.Contains(m.file, ":") {
				t.Errorf("module %q has file %q", name, m.file)
			}
		}
		if err := tree.parseBuiltin(strings.NewReader(text)); err != nil && len(text) < maxLine {
			t.Errorf("parseBuiltin(%q) = %v", text, err)
		}
	})
}

package netboot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stage1/manifest"
)

// TestClosureFromNix compares with what Nix itself says for --load-db.
func TestClosureFromNix(t *testing.T) {
	s := newTestStore(t)
	entries, err := closureFromNix(t.Context(), s.store, s.toplevel)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkClosure(s.store, s.toplevel, entries); err != nil {
		t.Error(err)
	}
	var want strings.Builder
	for _, e := range entries {
		want.WriteString(run(t, "nix-store", "--store", s.root, "--dump-db", e.Path))
	}
	if got := registrationText(t, entries); len(entries) != 5 || got != want.String() {
		t.Errorf("closure of %d paths\n%s\nwant 5 paths\n%s", len(entries), got, want.String())
	}
	_, err = closureFromNix(t.Context(), s.store, testPath("absent"))
	wantError(t, "closure of an absent path", err, testPath("absent"), "not valid")
}

func TestClosureFromInfo(t *testing.T) {
	s := newTestStore(t)
	dir := s.closureInfo()
	got, err := closureFromInfo(dir)
	if err != nil {
		t.Fatal(err)
	}
	want, err := closureFromNix(t.Context(), s.store, s.toplevel)
	if err != nil {
		t.Fatal(err)
	}
	if registrationText(t, got) != registrationText(t, want) {
		t.Errorf("closureFromInfo = %v, want what Nix says, %v", got, want)
	}

	list := filepath.Join(dir, "store-paths")
	paths, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, list, string(paths)+testPath("more")+"\n", 0o644)
	_, err = closureFromInfo(dir)
	wantError(t, "an unregistered path", err, testPath("more"), "no registration")
	writeFile(t, list, strings.ReplaceAll(string(paths), s.link+"\n", ""), 0o644)
	_, err = closureFromInfo(dir)
	wantError(t, "an unlisted path", err, s.link, "not in store-paths")
	writeFile(t, filepath.Join(dir, "registration"), s.link+"\n", 0o644)
	_, err = closureFromInfo(dir)
	wantError(t, "a cut registration", err, "line 2")
}

func TestCheckClosure(t *testing.T) {
	s := newTestStore(t)
	entries, err := closureFromNix(t.Context(), s.store, s.toplevel)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "no toplevel", checkClosure(s.store, testPath("absent"), entries), testPath("absent"), "not in it")
	wantError(t, "a path twice", checkClosure(s.store, s.toplevel, append(entries, entries[0])), entries[0].Path, "twice")
	var less = entries[:0:0]
	for _, e := range entries {
		if e.Path != s.file {
			less = append(less, e)
		}
	}
	wantError(t, "a missing reference", checkClosure(s.store, s.toplevel, less), s.link, s.file)
	other := *entries[0]
	other.Path = "/gnu/store/" + filepath.Base(other.Path)
	wantError(t, "another store", checkClosure(s.store, s.toplevel, append(less, &other)), other.Path, manifest.StoreDir)
	if err := os.Remove(s.real(s.file)); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a missing path", checkClosure(s.store, s.toplevel, entries), s.file, "no such file")
}

func TestStorePath(t *testing.T) {
	dir := t.TempDir()
	s := store{"/"}
	p := testPath("system")
	for name, target := range map[string]string{"result": p, "relative": "result", "loop": "loop", "elsewhere": dir, "inside": p + "/init"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{p, p + "/", dir + "/result", dir + "/relative"} {
		if got, err := s.path(name); got != p || err != nil {
			t.Errorf("path(%s) = %s, %v, want %s", name, got, err, p)
		}
	}
	for _, name := range []string{dir, dir + "/loop", dir + "/elsewhere", dir + "/inside", dir + "/absent", manifest.StoreDir + "/short"} {
		if got, err := s.path(name); err == nil {
			t.Errorf("path(%s) = %s, want an error", name, got)
		}
	}
	if got, err := (store{"/chroot"}).path("/chroot" + p); got != p || err != nil {
		t.Errorf("path of a real path = %s, %v, want %s", got, err, p)
	}
}

// TestResolve follows links inside the store's root.
func TestResolve(t *testing.T) {
	s := newTestStore(t)
	for p, want := range map[string]string{
		s.toplevel + "/kernel":                   s.kernel + "/bzImage",
		s.toplevel + "/kernel-modules/lib":       s.kernel + "/lib",
		s.tools + "/bin/sh":                      s.tools + "/bin/tool",
		s.link:                                   s.file,
		"/../../.." + s.tools + "/bin/../bin/sh": s.tools + "/bin/tool",
	} {
		if got, err := s.resolve(p); got != s.real(want) || err != nil {
			t.Errorf("resolve(%s) = %s, %v, want %s", p, got, err, s.real(want))
		}
	}
	_, err := s.resolve(s.tools + "/share/long")
	wantError(t, "resolve of a dangling symlink", err, s.real(s.tools+"/share/long"), "no such file")
}

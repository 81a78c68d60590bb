package netboot

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/registration"
)

// rootImage unpacks the root image out of an output directory and returns where,
// and what the manifest says of it.
func rootImage(t *testing.T, output string) (dir string, im *manifest.Image) {
	t.Helper()
	m, err := manifest.Open(archiveFS(t, filepath.Join(output, manifestName)), "")
	if err != nil {
		t.Fatal(err)
	}
	if m.Root == nil {
		return "", nil
	}
	content, err := fs.ReadFile(archiveFS(t, filepath.Join(output, storeName)), strings.TrimPrefix(m.Root.File, "/"))
	if err != nil || int64(len(content)) != m.Root.Size || sum(content) != m.Root.SHA256 {
		t.Fatalf("the root image is not in the initrds as the manifest has it: %v", err)
	}
	dir = t.TempDir()
	t.Cleanup(func() { run(t, "chmod", "-R", "u+rwx", dir) })
	image := filepath.Join(dir, "image")
	writeFile(t, image, string(content), 0o644)
	run(t, "unsquashfs", "-quiet", "-no-progress", "-dest", filepath.Join(dir, "root"), image)
	return filepath.Join(dir, "root"), m.Root
}

// archiveFS is what the kernel would unpack from a file that is not compressed.
func archiveFS(t *testing.T, file string) fstest.MapFS {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	for name, text := range readArchive(t, data) {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}

// TestRootImage asks real Nix what it knows of a system that was built with a
// root image, and looks at the files in it.
func TestRootImage(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	s := newTestStore(t)
	extra := t.TempDir()
	writeFile(t, filepath.Join(extra, "ssh", "key"), "secret", 0o600)
	writeFile(t, filepath.Join(extra, "ssh", "run"), "#!", 0o755)
	for name, mode := range map[string]fs.FileMode{"ssh": 0o500, "drop": 0o777 | fs.ModeSticky} {
		if err := os.MkdirAll(filepath.Join(extra, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(extra, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { run(t, "chmod", "-R", "u+rwx", extra) })
	o := s.options()
	o.RootFiles = []ExtraFile{{extra, "/etc"}, {filepath.Join(extra, "ssh", "run"), "/a/b c/run"}}
	if err := os.Symlink("../run", filepath.Join(extra, "link")); err != nil {
		t.Fatal(err)
	}
	res, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	root, im := rootImage(t, o.Output)
	if im == nil || im.Size != res.RootSize || im.StorePaths != 0 {
		t.Fatalf("root image: %+v, want one of %d bytes", im, res.RootSize)
	}
	list := run(t, "find", root, "-mindepth", "1", "-printf", "/%P %M %u:%g %T@ %l\n")
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(list, " root:root 1.0000000000 ", " ")), "\n")
	slices.Sort(lines)
	want := []string{
		"/a drwxr-xr-x", "/a/b c drwxr-xr-x", "/a/b c/run -rwxr-xr-x",
		"/etc drwxr-xr-x", "/etc/NIXOS -rw-r--r--", "/etc/drop drwxrwxrwt", "/etc/link lrwxrwxrwx ../run",
		"/etc/ssh dr-x------", "/etc/ssh/key -rw-------", "/etc/ssh/run -rwxr-xr-x",
		"/nix drwxr-xr-x", "/nix/var drwxr-xr-x", "/nix/var/nix drwxr-xr-x",
		"/nix/var/nix/db drwxr-xr-x", "/nix/var/nix/db/db.sqlite -rw-r--r--", "/nix/var/nix/db/schema -rw-r--r--",
		"/nix/var/nix/gcroots drwxr-xr-x", "/nix/var/nix/gcroots/profiles lrwxrwxrwx /nix/var/nix/profiles",
		"/nix/var/nix/profiles drwxr-xr-x", "/nix/var/nix/profiles/system lrwxrwxrwx system-1-link",
		"/nix/var/nix/profiles/system-1-link lrwxrwxrwx " + s.toplevel,
	}
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	if !slices.Equal(lines, want) {
		t.Errorf("the root image has\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if im.Inodes != int64(len(want)) {
		t.Errorf("inodes = %d, want %d", im.Inodes, len(want))
	}
	size := run(t, "sh", "-c", "find "+root+` -type f -printf '%s\n' | awk '{ n += int(($1 + 4095) / 4096) * 4096 } END { printf "%d", n }'`)
	if got := im.UnpackedSize; size != strings.TrimSpace(jsonText(t, got)) {
		t.Errorf("unpacked size = %d, want %s", got, size)
	}
	// What is in it is what a store next to it needs.
	run(t, "cp", "-a", s.real(manifest.StoreDir), filepath.Join(root, "nix"))
	run(t, "chmod", "0755", filepath.Join(root, "nix/store"))
	checkDatabase(t, root, s)
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkDatabase compares what Nix says of the store in root with what it says of
// the one that the system was built from.
func checkDatabase(t *testing.T, root string, s *testStore) {
	t.Helper()
	ask := func(store string, args ...string) string {
		return run(t, "nix-store", append([]string{"--store", store}, args...)...)
	}
	if got, want := ask(root, "--query", "--requisites", s.toplevel), ask(s.root, "--query", "--requisites", s.toplevel); got != want {
		t.Errorf("closure is\n%s\nwant\n%s", got, want)
	}
	paths := strings.Fields(ask(s.root, "--query", "--requisites", s.toplevel))
	dump := append([]string{"--dump-db"}, paths...)
	if got, want := ask(root, dump...), ask(s.root, dump...); got != want {
		t.Errorf("database is\n%s\nwant\n%s", got, want)
	}
	ask(root, "--verify", "--check-contents")
	db := filepath.Join(root, "nix/var/nix/db/db.sqlite")
	if got, want := run(t, "sqlite3", db, "pragma integrity_check; select distinct registrationTime from ValidPaths; select count(*) from ValidPaths"), "ok\n1\n5\n"; got != want {
		t.Errorf("sqlite3 says %q, want %q", got, want)
	}
}

// TestDatabaseOfDerivation has a derivation in the closure, which Nix looks into.
func TestDatabaseOfDerivation(t *testing.T) {
	s := newTestStore(t)
	drv := strings.TrimSpace(run(t, "nix-instantiate", "--store", s.root, "--option", "substitute", "false", "--expr",
		`derivation { name = "x"; system = "x86_64-linux"; builder = "`+s.tools+`/bin/tool"; }`))
	entry, err := registration.NewReader(strings.NewReader(run(t, "nix-store", "--store", s.root, "--dump-db", drv))).Next()
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir()
	if _, err := loadDatabase(t.Context(), lookPath(t, "nix-store"), scratch, s.store, []*registration.Entry{entry}); err != nil {
		t.Fatal(err)
	}
	want := run(t, "nix-store", "--store", s.root, "--query", "--outputs", drv)
	if got := run(t, "nix-store", "--store", scratch, "--query", "--outputs", drv); got != want || want == "" {
		t.Errorf("outputs of %s are %q, want %q", drv, got, want)
	}
}

// TestNoDatabase builds without a database: since there is no Nix, or as told.
func TestNoDatabase(t *testing.T) {
	s := newTestStore(t)
	info := s.closureInfo()
	bin := t.TempDir()
	for _, program := range []string{"mksquashfs"} {
		if err := os.Symlink(lookPath(t, program), filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name     string
		alter    func(t *testing.T, o *Options)
		warnings int
		root     bool
	}{
		{"no Nix", func(t *testing.T, o *Options) { t.Setenv("PATH", bin) }, 1, false},
		{"no Nix, a root file", func(t *testing.T, o *Options) {
			t.Setenv("PATH", bin)
			o.RootFiles = []ExtraFile{{info, "/info"}}
		}, 1, true},
		{"as told", func(t *testing.T, o *Options) { o.NoDatabase = true }, 0, false},
		{"as told, a root file", func(t *testing.T, o *Options) { o.NoDatabase, o.RootFiles = true, []ExtraFile{{info, "/info"}} }, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := s.options()
			o.ClosureInfo = info
			var warnings []string
			o.Warn = func(text string) { warnings = append(warnings, text) }
			path := os.Getenv("PATH")
			c.alter(t, &o)
			res, err := Build(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			os.Setenv("PATH", path)
			if len(warnings) != c.warnings || c.warnings > 0 && !strings.Contains(warnings[0], "nix-store --load-db < /nix/registration") {
				t.Errorf("warnings: %q, want %d", warnings, c.warnings)
			}
			dir, _ := rootImage(t, o.Output)
			if (dir != "") != c.root || (res.RootSize > 0) != c.root {
				t.Errorf("root image at %q of %d bytes, want one: %t", dir, res.RootSize, c.root)
			}
			if !c.root {
				return
			}
			if got, want := strings.TrimSpace(run(t, "ls", dir)), "info"; got != want {
				t.Errorf("the root image has %q, want %q", got, want)
			}
		})
	}
}

// TestDatabaseFaults has a nix-store that goes wrong.
func TestDatabaseFaults(t *testing.T) {
	s := newTestStore(t)
	info := s.closureInfo()
	real := lookPath(t, "nix-store")
	other := filepath.Join(t.TempDir(), "other")
	writeFile(t, other, run(t, "nix-store", "--store", s.root, "--dump-db", s.file), 0o644)
	for _, c := range []struct {
		name, script string
		want         []string
	}{
		{"it fails", "echo error: disk I/O error >&2; exit 1", []string{"nix-store", "--load-db: exit status 1:\nerror: disk I/O error"}},
		{"it makes nothing", "exit 0", []string{"nix/var/nix/db/", "no such file"}},
		{"another closure", `exec "$REAL" "$@" < ` + other, []string{"the Nix database has no row for "}},
		{"a damaged database", `"$REAL" "$@" && printf x | dd of="$HOME/nix/var/nix/db/db.sqlite" bs=1M count=1 seek=0 status=none`, []string{"the Nix database has no row for"}},
		{"a write-ahead log", `"$REAL" "$@" && echo x > "$HOME/nix/var/nix/db/db.sqlite-wal"`, []string{"db.sqlite was left with a write-ahead log of 2 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bin := t.TempDir()
			writeFile(t, filepath.Join(bin, "nix-store"), "#!/bin/sh\nREAL="+real+"\n"+c.script+"\n", 0o755)
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			o := s.options()
			o.ClosureInfo = info
			_, err := Build(t.Context(), o)
			wantError(t, "Build", err, append(c.want, "database for Nix: ", "--no-database")...)
			checkNothingLeft(t, o)
		})
	}
}

// TestDatabaseStopped ends a build while nix-store runs.
func TestDatabaseStopped(t *testing.T) {
	s := newTestStore(t)
	o := s.options()
	o.ClosureInfo = s.closureInfo()
	bin := t.TempDir()
	started := filepath.Join(bin, "started")
	writeFile(t, filepath.Join(bin, "nix-store"), "#!/bin/sh\ntouch "+started+"\nexec sleep 1000\n", 0o755)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := os.Stat(started); err == nil {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := Build(ctx, o)
	wantError(t, "Build", err, context.Canceled.Error())
	checkNothingLeft(t, o)
}

func TestSetTimes(t *testing.T) {
	at := time.Unix(0x65666768, 0)
	a := &registration.Entry{Path: testPath("a"), NarHash: strings.Repeat("0a", 32)}
	b := &registration.Entry{Path: testPath("b"), NarHash: strings.Repeat("0a", 32)}
	row := func(e *registration.Entry, time string) string {
		return "\x00" + e.Path + "sha256:" + e.NarHash + time
	}
	const now, one = "efgh", "\x00\x00\x00\x01"
	for _, c := range []struct {
		name, db, want string
		err            string
	}{
		{"two", "head" + row(a, now) + "sha256:" + row(b, now), "head" + row(a, one) + "sha256:" + row(b, one), ""},
		{"another path's row too", row(a, now) + row(b, now) + "\x00x" + "sha256:" + a.NarHash + now, row(a, one) + row(b, one) + "\x00xsha256:" + a.NarHash + now, ""},
		{"one", row(a, now), "", "no row for " + b.Path},
		{"cut off", row(a, now) + row(b, "efg"), "", "no row for " + b.Path},
		{"no time", row(a, now) + row(b, "\x00\x00\x00\x07"), "", "no time where it should be for " + b.Path + ", but 7"},
		{"empty", "", "", "no row for"},
	} {
		db := []byte(c.db)
		err := setTimes(db, []*registration.Entry{a, b}, at, at)
		if c.err != "" {
			wantError(t, c.name+": setTimes", err, c.err)
		} else if err != nil || !bytes.Equal(db, []byte(c.want)) {
			t.Errorf("%s: setTimes = %q, %v, want %q", c.name, db, err, c.want)
		}
	}
}

// TestRootFilesRefused has files that stage 1 would refuse, or that collide.
func TestRootFilesRefused(t *testing.T) {
	s := newTestStore(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	writeFile(t, file, "", 0o644)
	tree := func(name string, make func(dir string)) string {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		make(sub)
		return sub
	}
	hidden := tree("hidden", func(dir string) { writeFile(t, filepath.Join(dir, "nix/store/x"), "", 0o644) })
	link := tree("link", func(dir string) { _ = os.Symlink("nix", filepath.Join(dir, "x")) })
	fifo := tree("fifo", func(dir string) { _ = unix.Mkfifo(filepath.Join(dir, "x"), 0o644) })
	suid := tree("suid", func(dir string) {
		writeFile(t, filepath.Join(dir, "x"), "", 0o755)
		_ = os.Chmod(filepath.Join(dir, "x"), 0o755|fs.ModeSetuid)
	})
	for _, c := range []struct {
		what  string
		files []ExtraFile
		words []string
	}{
		{"a relative place", []ExtraFile{{file, "x"}}, []string{file, `"x", is not absolute`}},
		{"an absent source", []ExtraFile{{"/absent", "/x"}}, []string{"/absent", "no such file"}},
		{"a store path", []ExtraFile{{file, "/nix/store/x"}}, []string{file, "/nix/store/x is at or below /nix/store"}},
		{"a store path behind ..", []ExtraFile{{file, "/etc/../nix/store/x"}}, []string{file, "/nix/store/x is at or below /nix/store"}},
		{"a store path in a tree", []ExtraFile{{hidden, "/"}}, []string{hidden, "/nix/store is at or below /nix/store"}},
		{"a store path behind a link", []ExtraFile{{link, "/"}, {file, "/x/store/y"}}, []string{file, "/x is among the new root's files already"}},
		{"a place in /run", []ExtraFile{{file, "/run/x"}}, []string{file, "/run/x is at or below /run"}},
		{"the same place twice", []ExtraFile{{file, "/x"}, {file, "/x"}}, []string{file, "/x is among the new root's files already"}},
		{"a place of the database", []ExtraFile{{file, "/nix/var/nix/db/schema"}}, []string{file, "/nix/var/nix/db/schema is among"}},
		{"a directory for a file", []ExtraFile{{file, "/x"}, {dir, "/x"}}, []string{dir, "/x is among"}},
		{"a file for a directory", []ExtraFile{{file, "/etc"}}, []string{file, "/etc is among"}},
		{"a set-user-ID program", []ExtraFile{{suid, "/"}}, []string{suid, "/x has mode urwxr-xr-x"}},
		{"a fifo", []ExtraFile{{fifo, "/"}}, []string{fifo, "/x is neither file, directory nor symlink"}},
	} {
		o := s.options()
		o.RootFiles = c.files
		_, err := Build(t.Context(), o)
		wantError(t, "Build with "+c.what, err, append(c.words, "root file ")...)
		checkNothingLeft(t, o)
	}
}

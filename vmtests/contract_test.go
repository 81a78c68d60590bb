package vmtests

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"stage1/vmtests/facts"
)

// contract is what NixOS's stage 2 finds mounted: nixpkgs,
// nixos/modules/system/boot/stage-1.nix and nixos/modules/tasks/filesystems.nix.
var contract = []struct {
	target, fsType string
	with, without  string // options
	percent        int64  // of RAM, the size
}{
	{"/proc", "proc", "nosuid nodev noexec", "", 0},
	{"/sys", "sysfs", "nosuid nodev noexec", "", 0},
	{"/dev", "devtmpfs", "nosuid mode=755", "noexec relatime noatime", 5},
	{"/dev/pts", "devpts", "nosuid noexec gid=3 mode=620 ptmxmode=666", "", 0},
	// The kernel does not show tmpfs's default, mode=1777.
	{"/dev/shm", "tmpfs", "nosuid nodev", "noexec relatime noatime mode=755", 50},
	{"/run", "tmpfs", "nosuid nodev mode=755", "noexec relatime noatime", 25},
	{"/run/keys", "ramfs", "nosuid nodev mode=750", "", 0},
	{"/", "tmpfs", "rw mode=755", "noexec ro", 0},
	{"/nix", "tmpfs", "rw mode=755", "noexec ro", 0},
}

// checkContract compares what the init of a closure has found with what it should.
func checkContract(t *testing.T, cl *Closure, f *facts.Facts) {
	t.Helper()
	checkHandOver(t, path.Join(cl.Toplevel, "init"), f)
	if want := "/sbin/modprobe"; f.Modprobe != want {
		t.Errorf("kernel.modprobe is %q, want %q", f.Modprobe, want)
	}
}

// checkHandOver compares what a program has found with what stage 1 leaves to all.
func checkHandOver(t *testing.T, program string, f *facts.Facts) {
	t.Helper()
	for _, c := range contract {
		i := slices.IndexFunc(f.Mounts, func(m facts.Mount) bool { return m.Target == c.target })
		if i < 0 {
			t.Errorf("%s is not mounted", c.target)
			continue
		}
		m := f.Mounts[i]
		if m.Type != c.fsType {
			t.Errorf("%s is a %s, want %s", c.target, m.Type, c.fsType)
		}
		for _, o := range strings.Fields(c.with) {
			if !slices.Contains(m.Options, o) {
				t.Errorf("%s is mounted without %s: %q", c.target, o, m.Options)
			}
		}
		for _, o := range strings.Fields(c.without) {
			if slices.Contains(m.Options, o) {
				t.Errorf("%s is mounted with %s: %q", c.target, o, m.Options)
			}
		}
		if c.percent > 0 {
			checkSize(t, m, f.Memory["MemTotal"], c.percent)
		}
	}
	for _, m := range f.Mounts {
		if m.Type == "squashfs" || strings.HasPrefix(m.Target, "/nix/.") || strings.Contains(m.Target, "mnt-root") {
			t.Errorf("left mounted: %+v", m)
		}
	}
	for fd := range 3 {
		if got := f.FDs[fd]; got != "/dev/console" {
			t.Errorf("descriptor %d of PID 1 is %q, want /dev/console", fd, got)
		}
	}
	for fd, file := range f.FDs {
		// The shell keeps the script that it runs open.
		if fd > 2 && path.Base(file) != path.Base(program) {
			t.Errorf("descriptor %d of PID 1 is %q, want none", fd, file)
		}
	}
	if len(f.Environ) > 0 {
		t.Errorf("environment of PID 1: %q, want none", f.Environ)
	}
	if got := f.Args[len(f.Args)-1]; got != program {
		t.Errorf("PID 1 is %q, want %q at the end", f.Args, program)
	}
}

// checkSize allows for a tmpfs's rounding up to pages.
func checkSize(t *testing.T, m facts.Mount, ram, percent int64) {
	t.Helper()
	want := ram * percent / 100
	for _, o := range m.Options {
		if k, ok := strings.CutPrefix(o, "size="); ok {
			got, err := strconv.ParseInt(strings.TrimSuffix(k, "k"), 10, 64)
			if err != nil || got<<10 < want-4096 || got<<10 > want+4096 {
				t.Errorf("%s has %s, want %d bytes", m.Target, o, want)
			}
			return
		}
	}
	// Newer kernels do not show tmpfs's own default.
	if percent != 50 {
		t.Errorf("%s has no size: %q", m.Target, m.Options)
	}
}

// checkStore compares the guest's /nix/store, file by file, with the store that
// the closure comes from. Images of ours hold what a NAR holds, and Nix's own time
// for every file; the seed's hold all that the source has.
func checkStore(t *testing.T, cl *Closure, f *facts.Facts, asNAR bool) {
	t.Helper()
	var sources []string
	for _, p := range cl.Paths {
		sources = append(sources, cl.Store.Path(p))
	}
	want := must[[]facts.Entry](t)(facts.Tree(sources...))
	for i := range want {
		want[i].Path = strings.TrimPrefix(want[i].Path, cl.Store.Path(""))
		want[i].LinkTo = strings.TrimPrefix(want[i].LinkTo, cl.Store.Path(""))
		if asNAR {
			want[i].Mtime, want[i].LinkTo, want[i].Xattrs = time.Unix(1, 0).UnixNano(), "", nil
		}
	}
	got := f.Below("/nix/store")
	if len(got) == 0 || got[0].Path != "/nix/store" {
		t.Fatalf("the record has %d files of /nix/store and does not begin with it", len(got))
	}
	if e := got[0]; e.UID != 0 || e.Mode&0o755 != 0o755 || e.Mode&0o002 != 0 {
		t.Errorf("store directory: %v, want owner root and mode 755 or 1775", e)
	}
	if differences := diff(got[1:], want); len(differences) > 0 {
		t.Errorf("the store differs from its source in %d files:\n%s", len(differences), strings.Join(differences[:min(20, len(differences))], "\n"))
	}
}

// diff compares two trees by path.
func diff(got, want []facts.Entry) (out []string) {
	byPath := make(map[string]facts.Entry, len(got))
	for _, e := range got {
		byPath[e.Path] = e
	}
	for _, w := range want {
		g, ok := byPath[w.Path]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("missing: %v", w))
		case g.String() != w.String():
			out = append(out, fmt.Sprintf("got  %v\nwant %v", g, w))
		}
		delete(byPath, w.Path)
	}
	for _, g := range byPath {
		out = append(out, fmt.Sprintf("extra: %v", g))
	}
	slices.Sort(out)
	return out
}

package vmtests

import (
	"cmp"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"stage1/vmtests/facts"
)

// TestFlavours starts a toplevel of each kind that NixOS has, by its init, and
// compares what each of its stages has found with the contract.
func TestFlavours(t *testing.T) {
	c := testCache(t)
	cl := must[*Closure](t)(c.Flavours(t.Context(), must[*Kernel](t)(c.Linux612(t.Context()))))
	images := kexec(t, netboot(t, cl, "--module", "erofs"))
	scripts := []string{"stage2", "activate", "systemd"}
	for _, tc := range []struct {
		name   string // of the specialisation, or "" for the toplevel itself
		append string
		stages []string // that record something
		pid1   string   // file of the toplevel that is executed
		etc    string   // "layers" if stage 1 mounts it, with " ro" if it can't be written
	}{
		{"", "", scripts, "init", ""},
		{"prepare-root", "", scripts, "prepare-root", ""},
		{"layers", "", scripts, "prepare-root", "layers"},
		{"nixos-init", "", scripts[2:], "init", "layers"},
		{"nixos-init", "stage1.etc=ro stage1.store=copy", scripts[2:], "init", "layers ro"},
	} {
		t.Run(strings.TrimSpace(cmp.Or(tc.name, "scripted")+" "+tc.append), func(t *testing.T) {
			t.Parallel()
			toplevel, store, params := cl.Toplevel, cl.Toplevel, tc.append
			if tc.name != "" {
				toplevel = path.Join(cl.Toplevel, "specialisation", tc.name)
				store = must[string](t)(os.Readlink(cl.Store.Path(toplevel)))
				params += " init=" + path.Join(toplevel, "init")
			}
			vm := start(t, Machine{Images: images, CPUs: 1, Append: params})
			written := "written"
			if strings.HasSuffix(tc.etc, " ro") {
				written = "content"
			}
			vm.expect("/etc/directory/file: "+written, "<<< systemd: recorded >>>")
			vm.ends(PowerOff)
			found := map[string]*facts.Facts{}
			for _, stage := range scripts {
				_, text, ok := strings.Cut(vm.Console(), "facts of "+stage+":")
				if ok != slices.Contains(tc.stages, stage) {
					t.Errorf("%s has recorded something: %v, want %v", stage, ok, !ok)
				} else if ok {
					found[stage] = must[*facts.Facts](t)(facts.Decode(text))
				}
			}
			if t.Failed() {
				return
			}
			first, last := found[tc.stages[0]], found["systemd"]
			checkHandOver(t, path.Join(toplevel, tc.pid1), first)
			if f := found["activate"]; f != nil && !slices.Equal(f.Args, first.Args) {
				t.Errorf("while activate runs PID 1 is %q, want %q", f.Args, first.Args)
			}
			if first != last && first.Modprobe != "/sbin/modprobe" {
				t.Errorf("kernel.modprobe is %q before the activation", first.Modprobe)
			}
			if first == last {
				checkNixosInit(t, cl, last)
			}
			checkActivated(t, store, last)
			checkEtc(t, tc.etc, last)
			if strings.Contains(vm.Console(), "would mount /etc again") {
				t.Error("the activation does not see that /etc is mounted")
			}
			// The file kernel-params has others.
			if !strings.Contains(last.Cmdline, " vmtest.params=boot.json ") {
				t.Errorf("kernel parameters %q, want those of boot.json", last.Cmdline)
			}
		})
	}
}

// TestDebianFlavours boots toplevels of the two kinds whose init is systemd to
// multi-user.target: the one has its stage 2 beside it, the other has none.
func TestDebianFlavours(t *testing.T) {
	c := testCache(t)
	for _, tc := range []struct {
		flavour string
		kernel  *Kernel
		pid1    string // file of the toplevel that is executed
	}{
		{"prepare-root", linux61(t), "prepare-root"},
		{"nixos-init", must[*Kernel](t)(c.Linux612(t.Context())), "init"},
	} {
		t.Run(tc.flavour, func(t *testing.T) {
			cl := must[*Closure](t)(c.DebianFlavour(t.Context(), tc.kernel, tc.flavour))
			const checks = "facts,units"
			vm := start(t, Machine{Images: kexec(t, netboot(t, cl)), Memory: 2048, Append: "vmtest=" + checks})
			vm.checks(checks)
			vm.cleanShutdown()
			f := must[*facts.Facts](t)(facts.Decode(vm.Console()))
			checkHandOver(t, path.Join(cl.Toplevel, tc.pid1), f)
			// Without a boot.json those of the file count.
			if params := must[string](t)(cl.ReadFile("kernel-params")); !strings.Contains(f.Cmdline, params) {
				t.Errorf("kernel parameters %q, want %q in them", f.Cmdline, params)
			}
		})
	}
}

// checkActivated compares what systemd finds, whoever has activated the system.
func checkActivated(t *testing.T, toplevel string, f *facts.Facts) {
	t.Helper()
	for _, link := range []struct{ name, to string }{
		{"/run/current-system", toplevel},
		{"/run/booted-system", toplevel},
		{"/usr/bin/env", ""},
		{"/bin/sh", ""},
	} {
		if got := entryAt(f, link.name).Target; got == "" || link.to != "" && got != link.to {
			t.Errorf("%s is a symlink to %q, want %s", link.name, got, cmp.Or(link.to, "anything"))
		}
	}
	for fd := range f.FDs {
		if fd > 2 {
			t.Errorf("descriptor %d of systemd is %q, want none", fd, f.FDs[fd])
		}
	}
	if len(f.Environ) > 0 {
		t.Errorf("environment of systemd: %q, want none", f.Environ)
	}
	store := lastMount(f, "/nix/store")
	if e := entryAt(f, "/nix/store"); e.Mode&0o7777 != 0o1775 {
		t.Errorf("/nix/store: %v, want mode 1775", e)
	}
	if !slices.Contains(store.Options, "ro") {
		t.Errorf("/nix/store can be written: %q", store.Options)
	}
}

// checkNixosInit compares what is as boot.json says it for nixos-init.
func checkNixosInit(t *testing.T, cl *Closure, f *facts.Facts) {
	t.Helper()
	for _, o := range []string{"nosuid", "nodev"} {
		if store := lastMount(f, "/nix/store"); !slices.Contains(store.Options, o) {
			t.Errorf("/nix/store is mounted without %s: %q", o, store.Options)
		}
	}
	shell := must[string](t)(os.Readlink(cl.Store.Path(path.Join(cl.Toplevel, "sw"))))
	for what, got := range map[string]string{
		shell + "/bin/modprobe": f.Modprobe,
		shell + "/lib/firmware": strings.TrimSpace(f.Files["/sys/module/firmware_class/parameters/path"]),
	} {
		if got != what {
			t.Errorf("the kernel has been told %q, want %q", got, what)
		}
	}
	for link, want := range map[string]string{"/bin/sh": shell + "/bin/sh", "/usr/bin/env": shell + "/bin/env"} {
		if got := entryAt(f, link).Target; got != want {
			t.Errorf("%s is a symlink to %q, want %s", link, got, want)
		}
	}
}

// checkEtc compares /etc with the fixture's.
func checkEtc(t *testing.T, want string, f *facts.Facts) {
	t.Helper()
	if got := f.Files["/etc/hostname"] + f.Files["/etc/directory/file"]; got != "fixture\ncontent\n" {
		t.Errorf("files of /etc: %q", got)
	}
	etc, metadata := lastMount(f, "/etc"), lastMount(f, "/run/nixos-etc-metadata")
	if want == "" {
		if etc.Type != "" || metadata.Type != "" {
			t.Errorf("mounted without need: %+v, %+v", etc, metadata)
		}
		return
	}
	if e := entryAt(f, "/etc/directory/file"); e.Mode&0o777 != 0o640 {
		t.Errorf("%v, want mode 640", e)
	}
	if etc.Type != "overlay" || !slices.Contains(etc.Options, "nodev") || !slices.Contains(etc.Options, "nosuid") {
		t.Errorf("/etc: %+v, want an overlay, nodev and nosuid", etc)
	}
	if ro := slices.Contains(etc.Options, "ro"); ro != strings.HasSuffix(want, " ro") {
		t.Errorf("/etc: %+v, want %s", etc, want)
	}
	if metadata.Type != "erofs" || !slices.Contains(metadata.Options, "ro") {
		t.Errorf("/run/nixos-etc-metadata: %+v, want an erofs, ro", metadata)
	}
}

// lastMount is what one finds at a mount point, or nothing.
func lastMount(f *facts.Facts, target string) (last facts.Mount) {
	for _, m := range f.Mounts {
		if m.Target == target {
			last = m
		}
	}
	return last
}

// entryAt is the file at a path, or nothing.
func entryAt(f *facts.Facts, path string) facts.Entry {
	for _, e := range f.Tree {
		if e.Path == path {
			return e
		}
	}
	return facts.Entry{}
}

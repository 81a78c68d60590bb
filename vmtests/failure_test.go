package vmtests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"stage1/manifest"
	"stage1/vmtests/facts"
)

// bootable is a directory made by mknetboot, to be booted as it is or with
// something done to it.
type bootable struct {
	dir    string
	images *Images
}

func newBootable(t *testing.T, args ...string) *bootable {
	t.Helper()
	return bootableOf(t, tiny(t), args...)
}

func bootableOf(t *testing.T, cl *Closure, args ...string) *bootable {
	t.Helper()
	dir := netboot(t, cl, args...)
	return &bootable{dir, kexec(t, dir)}
}

// initrds returns the images with the named initrds of the directory, and with
// the files that overlay writes: they come last, and so replace others. Unless
// they are all there and as they were, the command line does not pin the manifest.
func (b *bootable) initrds(t *testing.T, names []string, overlay func(t *testing.T, root string)) *Images {
	t.Helper()
	im := &Images{Kernel: b.images.Kernel, Cmdline: b.images.Cmdline}
	if overlay != nil || !slices.Equal(names, allInitrds) {
		im.Cmdline = manifestPin.ReplaceAllString(im.Cmdline, "")
	}
	for _, name := range names {
		if !filepath.IsAbs(name) { // it may be of another build
			name = filepath.Join(b.dir, name)
		}
		im.Initrds = append(im.Initrds, name)
	}
	if overlay != nil {
		dir := t.TempDir()
		overlay(t, filepath.Join(dir, "root"))
		must[struct{}](t)(struct{}{}, shell(t.Context(), dir, `(cd root && find . | sort | cpio --quiet -o -H newc) | gzip -1 > archive`))
		im.Initrds = append(im.Initrds, filepath.Join(dir, "archive"))
	}
	return im
}

var manifestPin = regexp.MustCompile(`stage1\.manifest_sha256=\S* `)

var allInitrds = []string{"initrd", "manifest", "nix-store"}

// contents unpacks what the kernel would, from the named initrd.
func (b *bootable) contents(t *testing.T, name string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("cpio", "--quiet", "-i", "-d", "--no-absolute-filenames")
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(must[[]byte](t)(os.ReadFile(filepath.Join(b.dir, name))))
	must[struct{}](t)(struct{}{}, run(cmd))
	return dir
}

// manifest returns the directory's manifest.
func (b *bootable) manifest(t *testing.T) *manifest.Manifest {
	t.Helper()
	return must[*manifest.Manifest](t)(manifest.Open(os.DirFS(b.contents(t, "manifest")), ""))
}

// keys types what is behind each "> " and waits for what each other string
// matches.
func (v testVM) keys(script ...string) {
	v.t.Helper()
	for _, s := range script {
		if text, ok := strings.CutPrefix(s, "> "); ok {
			must[struct{}](v.t)(struct{}{}, v.Send(text))
		} else {
			v.expect(s)
		}
	}
}

// TestMenu presses each key of the menu.
func TestMenu(t *testing.T) {
	const fail = "init=/nix/store/absent/init stage1.on_fail=hang "
	with, without := newBootable(t, "--debug-shell"), newBootable(t)
	for _, c := range []struct {
		name   string
		b      *bootable
		append string
		script []string
		end    Exit
	}{
		{"reboot", without, fail, []string{`r\) to reboot immediately`, `\*\) to try`, "> r", "stage-1: reboot"}, Reset},
		{"any other key", without, fail, []string{"does not exist", `\*\) to try the step again`, "> x", "does not exist", `\*\) to try`, "> r"}, Reset},
		{"no shell without a flag", with, fail, []string{`\(no shell: no flag allows one: boot.shell_on_fail does\)`, `\*\) to try`, "> i", "No shell: no flag", "> f", "No shell: no flag", "> r"}, Reset},
		{"no shell without a program", without, fail + "boot.shell_on_fail", []string{`\(no shell: the initrd has no /bin/sh`, `\*\) to try`, "> i", "No shell: the initrd", "> r"}, Reset},
		{"shells", with, fail + "boot.shell_on_fail", []string{
			`i\) to launch an interactive shell`, `\*\) to try`,
			"> i", "stage-1# ", "> echo is $((6*7)) pid $$\n", `is 42 pid ([2-9]|\d\d)`,
			// PID 1 takes no signal, and reaps what it is handed.
			"> kill -TERM 1; kill -INT 1; kill -HUP 1; (true &); sleep 1; grep -h State /proc/[0-9]*/status | sort -u; echo done\n", "\ndone",
			"> exit\n", "Press i, f, r or any other key",
			"> f", "stage-1# ", "> echo pid $$ of 1\n", "\npid 1 of 1", "> poweroff -f\n",
		}, PowerOff},
		{"a shell at last", with, "init=/nix/store/absent/init stage1.on_fail=shell stage1.on_fail_delay=0", []string{"stage-1# ", "> echo pid $$ of 1\n", "\npid 1 of 1", "> reboot -f\n"}, Reset},
		{"a shell, in other words", with, fail + "SYSTEMD_SULOGIN_FORCE=1", []string{`i\) to launch`, `\*\) to try`, "> r"}, Reset},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			vm := start(t, Machine{Images: c.b.images, CPUs: 1, Append: c.append})
			vm.keys(c.script...)
			vm.ends(c.end)
			if text := vm.Console(); strings.Contains(text, "State:\tZ") {
				t.Error("a zombie is left: PID 1 does not reap")
			} else if strings.Contains(text, "<<< stage 2") {
				t.Error("stage 2 has started")
			}
		})
	}
}

// TestBreakpoints stops at each breakpoint, in both vocabularies, looks around,
// and goes on to stage 2.
func TestBreakpoints(t *testing.T) {
	with, without := newBootable(t, "--debug-shell"), newBootable(t)
	look := func(command, want string) []string {
		return []string{`\*\) to go on`, "> i", "stage-1# ", "> " + command + "; echo done\n", want, "\ndone", "> exit\n", "or any other key", "> x"}
	}
	for _, c := range []struct {
		name   string
		b      *bootable
		append string
		script [][]string
	}{
		{"NixOS's script", with, "boot.debug1 boot.debug1devices boot.debug1mounts rd.systemd.break=pre-switch-root loop.max_loop=3 rd.systemd.debug_shell", [][]string{
			{"Breakpoint before the kernel modules"},
			look("ls /sys/module/squashfs; ls -l /proc/[0-9]*/fd/0", "No such file(?s:.*)/dev/tty9"),
			{"Breakpoint before mounts and import"},
			look("cat /sys/module/loop/parameters/max_loop; ls /mnt-root", "\n3\n(?s:.*)/mnt-root: No such file"),
			{"Breakpoint after mounts and import"},
			look("ls -d /mnt-root/nix/store/*-bare-file /mnt-root/nix/registration", "\n/mnt-root/nix/registration\n"),
			{"Breakpoint before switch root"},
			look("ls /run/systemd/system", "nix.mount.d"),
		}},
		{"systemd", without, "rd.systemd.break=pre-udev rd.systemd.break=pre-mount rd.systemd.break", [][]string{
			{"Breakpoint before the kernel modules", `no shell: the initrd has no`, `\*\) to go on`, "> x"},
			{"Breakpoint before mounts and import", `\*\) to go on`, "> x"},
			{"Breakpoint before switch root", `\*\) to go on`, "> x"},
		}},
		{"one in short", without, "debug1", [][]string{{"Breakpoint before the kernel modules", `\*\) to go on`, "> x"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			vm := start(t, Machine{Images: c.b.images, CPUs: 1, Append: c.append})
			for _, script := range c.script {
				vm.keys(script...)
			}
			vm.expect("<<< stage 2: recorded >>>")
			vm.ends(PowerOff)
		})
	}
}

// TestFlags shows what the other flags do.
func TestFlags(t *testing.T) {
	b := newBootable(t)
	for _, c := range []struct {
		name      string
		append    string
		show, not []string                         // on the console
		sizes     func(ram int64) map[string]int64 // of tmpfs by mount point, bytes
	}{
		{"quiet", "quiet", nil, []string{"store paths: "}, nil},
		{"trace", "loglevel=7 boot.trace stage1.nonsense=1 stage1.jobs=x", []string{
			"stage1.nonsense=1: no such flag: ignored", "stage1.jobs=x: want a number", "store paths: ", "store paths are registered",
		}, nil, nil},
		{"sizes", "stage1.root_size=100M stage1.nix_size=25% stage1.jobs=1 stage1.store=copy", []string{"by copy; images: 1"}, nil,
			func(ram int64) map[string]int64 { return map[string]int64{"/": 100 << 20, "/nix": ram / 4} }},
		{"init of the manifest", "init=", []string{`starting /nix/store/\S+/init`}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			vm := start(t, Machine{Images: b.images, CPUs: 1, Append: c.append})
			vm.expect(c.show...)
			vm.expect("<<< stage 2: recorded >>>")
			vm.ends(PowerOff)
			for _, s := range c.not {
				if strings.Contains(vm.Console(), s) {
					t.Errorf("the console shows %q", s)
				}
			}
			f := must[*facts.Facts](t)(facts.Decode(vm.Console()))
			if c.sizes == nil {
				return
			}
			for target, want := range c.sizes(f.Memory["MemTotal"]) {
				i := slices.IndexFunc(f.Mounts, func(m facts.Mount) bool { return m.Target == target })
				if i < 0 {
					t.Fatalf("%s is not mounted", target)
				}
				checkSize(t, f.Mounts[i], want, 100)
			}
		})
	}
}

package vmtests

import (
	"slices"
	"strings"
	"testing"

	"stage1/bootreport"
	"stage1/vmtests/facts"
)

// TestTiny compares, for each kind of image and each kind of store, all that
// stage 2 of a tiny closure finds with what it should.
func TestTiny(t *testing.T) {
	c := testCache(t)
	old := tiny(t)
	current := must[*Closure](t)(c.Tiny(t.Context(), must[*Kernel](t)(c.Linux612(t.Context()))))
	ours := func(cl *Closure) *Images { return kexec(t, netboot(t, cl)) }
	seeds := func(cl *Closure) *Images { return seed(t, cl) }
	for _, tc := range []struct {
		name    string
		closure *Closure
		images  func(*Closure) *Images
		append  string
		store   string // type of what is mounted on /nix/store, or ""
		asNAR   bool   // see checkStore
	}{
		{"overlay", old, ours, "", "overlay", true},
		{"copy", old, ours, "stage1.store=copy", "", true},
		{"seed overlay", old, seeds, "", "overlay", false},
		{"seed copy", old, seeds, "stage1.store=copy", "", false},
		{"6.12 overlay", current, ours, "", "overlay", true},
		{"6.12 copy", current, ours, "stage1.store=copy", "", true},
		{"6.12 seed overlay", current, seeds, "", "overlay", false},
	} {
		images := tc.images(tc.closure)
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			vm := start(t, Machine{Images: images, Append: tc.append, CPUs: 1})
			vm.expect("<<< stage 2: recorded >>>")
			vm.ends(PowerOff)
			f := must[*facts.Facts](t)(facts.Decode(vm.Console()))
			checkContract(t, tc.closure, f)
			checkStore(t, tc.closure, f, tc.asNAR)
			checkTiny(t, tc.closure, f, tc.store)
		})
	}
}

// checkTiny compares what only the tiny closure tells.
func checkTiny(t *testing.T, cl *Closure, f *facts.Facts, store string) {
	t.Helper()
	mounted := ""
	for _, m := range f.Mounts {
		if m.Target == "/nix/store" {
			mounted = m.Type
		}
	}
	if mounted != store {
		t.Errorf("mounted on /nix/store: %q, want %q", mounted, store)
	}
	if store == "" && len(f.Loops) > 0 {
		t.Errorf("loop devices still in use after a copy: %q", f.Loops)
	}
	for _, p := range cl.Paths {
		if !strings.Contains(f.Files["/nix/registration"], p+"\n") {
			t.Errorf("/nix/registration does not name %s", p)
		}
	}
	checkReport(t, f.Files[bootreport.Path])
}

// checkReport reads a report of a boot: it has all steps but the one that reads no
// more, and what the import did.
func checkReport(t *testing.T, text string) {
	t.Helper()
	r, err := bootreport.Read(strings.NewReader(text))
	if err != nil {
		t.Errorf("%v: %q", err, text)
		return
	}
	if last := r.Steps[len(r.Steps)-1]; last.Name != "free the initrd" || last.RAMUsed == 0 {
		t.Errorf("the report's last step is %+v, want to free the initrd, and RAM", last)
	}
	imported := slices.ContainsFunc(r.Work, func(w bootreport.Work) bool {
		return w.File != "" && (w.Name == "mount" || w.Name == "copy")
	})
	// QEMU's name for its arm64 machine is that of its devicetree.
	if !imported || r.StorePaths == 0 || !strings.Contains(r.Machine, "QEMU") && !strings.Contains(r.Machine, "linux,dummy-virt") {
		t.Errorf("the report has no import of an image, no store paths or no machine: %s", text)
	}
}

// everything is all checks that the debian closure has.
const everything = "facts,units,shipped,loaddb,verify,dmesg,mounts,mem,add,gc"

// TestDebian boots a real system to multi-user.target, checks it, and powers it
// off.
func TestDebian(t *testing.T) {
	c := testCache(t)
	old := debian(t)
	current := must[*Closure](t)(c.Debian(t.Context(), must[*Kernel](t)(c.Linux612(t.Context()))))
	ours := func(t *testing.T, cl *Closure) *Images { return kexec(t, netboot(t, cl)) }
	for _, tc := range []struct {
		name    string
		closure *Closure
		images  func(*testing.T, *Closure) *Images
		append  string
		checks  string
	}{
		{"overlay", old, ours, "", everything},
		{"copy", old, ours, "stage1.store=copy", everything},
		// A system that leaves Nix as it finds it.
		{"Nix as shipped", old, ours, "vmtest.nix=shipped", "shipped,loaddb,verify,add,gc,shipped"},
		{"6.12 overlay", current, ours, "", everything},
		{"6.12 copy", current, ours, "stage1.store=copy", everything},
		{"seed", old, seed, "", "units,loaddb,verify"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vm := start(t, Machine{Images: tc.images(t, tc.closure), Memory: 2048, Append: tc.append + " vmtest=" + tc.checks})
			vm.checks(tc.checks)
			vm.cleanShutdown()
			if strings.Contains(tc.checks, "facts") {
				checkContract(t, tc.closure, must[*facts.Facts](t)(facts.Decode(vm.Console())))
			}
		})
	}
}

// cleanShutdown fails the test if systemd has had trouble to stop something.
func (v testVM) cleanShutdown() {
	v.t.Helper()
	for _, trouble := range []string{"Failed unmounting", "A stop job is running"} {
		if strings.Contains(v.Console(), trouble) {
			v.t.Errorf("the console shows %q", trouble)
		}
	}
}

// TestReboot logs in and reboots.
func TestReboot(t *testing.T) {
	vm := start(t, Machine{Images: kexec(t, netboot(t, debian(t))), Memory: 2048, Append: "vmtest=stay"})
	vm.keys(`login: root \(automatic login\)`, `bash\S*# `, "> systemctl reboot\n")
	vm.ends(Reset)
	vm.cleanShutdown()
}

// TestIPXE boots the same system the way that machines do: firmware, iPXE, HTTP.
func TestIPXE(t *testing.T) {
	const checks = "units,loaddb,verify,gc"
	dir := netboot(t, debian(t))
	for _, tc := range []struct {
		name   string
		uefi   bool
		append string
	}{
		{"BIOS", false, ""},
		{"UEFI", true, "stage1.store=copy"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vm := start(t, Machine{Netboot: dir, UEFI: tc.uefi, Memory: 2048, Append: tc.append + " vmtest=" + checks})
			vm.checks(checks)
		})
	}
}

// TestShell boots the seed's images with the seed's shell, which proves the
// fixtures without stage1.
func TestShell(t *testing.T) {
	cl := tiny(t)
	vm := start(t, Machine{Images: must[*Images](t)(cl.Seed(t.Context(), must[string](t)(cl.ShellInitrd(t.Context()))))})
	vm.expect("<<< stage 2: recorded >>>")
	vm.ends(PowerOff)
}

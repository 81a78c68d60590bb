package vmtests

import (
	"testing"

	"stage1/vmtests/facts"
)

// TestARM64 compares what stage 2 finds on an arm64 machine with what it should.
// This machine has built all of it.
func TestARM64(t *testing.T) {
	c := testCache(t)
	cl := must[*Closure](t)(c.Tiny(t.Context(), must[*Kernel](t)(c.LinuxARM64(t.Context()))))
	images := kexec(t, netboot(t, cl, "--debug-shell="+cl.Toplevel+"/sw/bin/busybox"))
	for _, tc := range []struct {
		name   string
		append string
		script []string // see keys
		store  string   // type of what is mounted on /nix/store, or ""
	}{
		{"overlay", "", nil, "overlay"},
		{"copy", "stage1.store=copy rd.systemd.break=pre-switch-root boot.shell_on_fail", []string{
			`\*\) to go on`, "> i", "stage-1# ", "> busybox uname -m\n", "aarch64\n", "> exit\n", "or any other key", "> x",
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			vm := start(t, Machine{Arch: cl.Kernel.Arch, Images: images, CPUs: 1, Append: tc.append})
			vm.keys(tc.script...)
			vm.expect("<<< stage 2: recorded >>>")
			vm.ends(PowerOff)
			f := must[*facts.Facts](t)(facts.Decode(vm.Console()))
			checkContract(t, cl, f)
			checkStore(t, cl, f, true)
			checkTiny(t, cl, f, tc.store)
		})
	}
}

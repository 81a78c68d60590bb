package vmtests

import "testing"

// The fixtures by themselves: the seed's images, unpacked by the seed's shell,
// are a system that starts.
func TestShellInitrdTiny(t *testing.T) {
	c := must[*Cache](t)(cache())
	k := must[*Kernel](t)(c.Linux61(t.Context()))
	tiny := must[*Closure](t)(c.Tiny(t.Context(), k))
	images := must[*Images](t)(tiny.Seed(t.Context(), must[string](t)(tiny.ShellInitrd(t.Context()))))
	vm := start(t, Machine{Images: images})
	vm.expect("stage 2:", "recorded")
	vm.ends(PowerOff)
}

func TestShellInitrdDebian(t *testing.T) {
	c := must[*Cache](t)(cache())
	k := must[*Kernel](t)(c.Linux61(t.Context()))
	debian := must[*Closure](t)(c.Debian(t.Context(), k))
	images := must[*Images](t)(debian.Seed(t.Context(), must[string](t)(debian.ShellInitrd(t.Context()))))
	vm := start(t, Machine{Images: images, Memory: 3072, Append: "vmtest=units,loaddb,verify,add,gc,dmesg,mounts,mem"})
	vm.expect("stage 2: Nix database loaded", "vmtest: done")
	vm.ends(PowerOff)
}

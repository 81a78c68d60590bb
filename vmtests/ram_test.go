package vmtests

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// usedRAM is a script that prints the RAM in use in KiB, less what can be dropped
// at once, what CPUs keep for their next allocations (tens of MB that MemFree and
// MemAvailable do not count as free), and stage 1's own, which ends with it.
const usedRAM = `sync
echo 3 > /proc/sys/vm/drop_caches
awk '/^MemTotal/ { used += $2 } /^MemFree/ { used -= $2 } / count:/ { used -= 4 * $2 } /^RssAnon/ { used -= $2 }
	END { print "used:" used }' /proc/meminfo /proc/zoneinfo /proc/1/status
`

// TestRAM compares the RAM in use after the import with that of a boot before the
// import of one image of a few bytes. The difference is the images themselves, and
// little else.
func TestRAM(t *testing.T) {
	const limit = 8 << 20
	script := filepath.Join(t.TempDir(), "used-ram")
	write(t, script, []byte(usedRAM))
	b := bootableOf(t, debian(t), "--debug-shell", "--extra-files", script+":/used-ram")
	images := b.manifest(t).Size()
	used := func(initrds []string, overlay func(*testing.T, string), breakpoint string) int64 {
		vm := start(t, Machine{Images: b.initrds(t, initrds, overlay), Memory: 1024, Append: breakpoint})
		vm.keys(`\*\) to go on`, "> i", "stage-1# ", "> sh /used-ram\n")
		text := must[string](t)(vm.Expect(`^used:\d+`, forever))
		vm.keys("> poweroff -f\n")
		vm.ends(PowerOff)
		return must[int64](t)(strconv.ParseInt(strings.TrimPrefix(text, "used:"), 10, 64)) << 10
	}
	without := used([]string{"initrd"}, alone(craftPath(t)), "boot.debug1devices")
	with := used(allInitrds, nil, "boot.debug1mounts")
	over := with - without - images
	t.Logf("RAM in use: %.1f MB without images and import, %.1f MB after the import of %.1f MB of images: %+.1f MB",
		float64(without)/1e6, float64(with)/1e6, float64(images)/1e6, float64(over)/1e6)
	if over > limit {
		t.Errorf("the import takes %d bytes more than the images, want at most %d", over, limit)
	}
}

package mount

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSetOptions adds options to a mount that has some, and has the kernel say
// what it has then.
func TestSetOptions(t *testing.T) {
	for _, c := range []struct{ options, unknown, want string }{
		{"ro nosuid nodev", "", "ro,nosuid,nodev,noexec,noatime"},
		{"strictatime", "", "rw,noexec"},
		{"relatime nodiratime", "", "rw,noexec,nodiratime,relatime"},
		{"", "", "rw,noexec,noatime"},
		{"lazytime nodev x=y", "lazytime x=y", "rw,nodev,noexec,noatime"},
	} {
		dir := t.TempDir()
		m := Mount{"tmpfs", dir, "tmpfs", unix.MS_NOEXEC | unix.MS_NOATIME, ""}
		if err := m.Do(); err != nil {
			t.Fatal(err)
		}
		defer Unmount(dir, true)
		unknown, err := SetOptions(dir, strings.Fields(c.options))
		if err != nil || !slices.Equal(unknown, strings.Fields(c.unknown)) {
			t.Errorf("SetOptions(%q) = %q, %v, want %q", c.options, unknown, err, c.unknown)
		}
		info, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if want := " " + dir + " " + c.want + " "; !strings.Contains(string(info), want) {
			t.Errorf("after SetOptions(%q) mountinfo has no %q:\n%s", c.options, want, info)
		}
	}
	if _, err := SetOptions(t.TempDir(), []string{"ro"}); err == nil {
		t.Error("SetOptions on a directory that is no mount point = nil, want an error")
	}
}

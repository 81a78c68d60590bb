// Package mount mounts file systems, loop devices and overlays, and switches to
// a new root, for a program that runs as PID 1 of an initrd.
//
// It needs Linux 5.10 and CAP_SYS_ADMIN. It keeps no record of what it mounted
// and undoes nothing by itself.
package mount

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is the arguments of one mount(2).
type Mount struct {
	Source string  // device, or a name to show in mountinfo
	Target string  // directory to mount on
	Type   string  // file system type
	Flags  uintptr // MS_*
	Data   string  // options of the file system, comma-separated; less than a page
}

// String is m as mount(8) would be told it.
func (m Mount) String() string {
	opts := flagNames(m.Flags)
	if m.Data != "" {
		opts = append(opts, m.Data)
	}
	s := fmt.Sprintf("mount -t %s %s %s", m.Type, m.Source, m.Target)
	if len(opts) > 0 {
		s += " -o " + strings.Join(opts, ",")
	}
	return s
}

// Do makes the target directory, with its parents, and mounts.
func (m Mount) Do() error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return fmt.Errorf("%s: %w", m, err)
	}
	if err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data); err != nil {
		return fmt.Errorf("%s: %w", m, err)
	}
	return nil
}

// Move moves the mount at from, with all below it, to the directory to, which it
// makes.
func Move(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("mount --move %s %s: %w", from, to, err)
	}
	if err := unix.Mount(from, to, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("mount --move %s %s: %w", from, to, err)
	}
	return nil
}

// Unmount unmounts target. With lazy it is taken out of the name space at once,
// even where it is in use (MNT_DETACH), and goes with its last user.
func Unmount(target string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	if err := unix.Unmount(target, flags); err != nil {
		return fmt.Errorf("umount %s: %w", target, err)
	}
	return nil
}

// Special is what NixOS's stage 2 finds mounted: nixpkgs
// nixos/modules/tasks/filesystems.nix, boot.specialFileSystems, in an order in
// which each one's target exists. Devices come before all that needs them.
//
// gid=3 of devpts is NixOS's group tty (nixos/modules/misc/ids.nix).
func Special() []Mount {
	const noexec, nosuid, nodev, strict = unix.MS_NOEXEC, unix.MS_NOSUID, unix.MS_NODEV, unix.MS_STRICTATIME
	return []Mount{
		{"proc", "/proc", "proc", nosuid | noexec | nodev, ""},
		{"sysfs", "/sys", "sysfs", nosuid | noexec | nodev, ""},
		{"devtmpfs", "/dev", "devtmpfs", nosuid | strict, "mode=755,size=5%"},
		{"devpts", "/dev/pts", "devpts", nosuid | noexec, "mode=620,ptmxmode=0666,gid=3"},
		{"tmpfs", "/dev/shm", "tmpfs", nosuid | nodev | strict, "mode=1777,size=50%"},
		{"tmpfs", "/run", "tmpfs", nosuid | nodev | strict, "mode=755,size=25%"},
		{"ramfs", "/run/keys", "ramfs", nosuid | nodev, "mode=750"},
	}
}

// SpecialRoots are the mounts of [Special] that carry all others, to be moved
// into the new root.
func SpecialRoots() []string { return []string{"/dev", "/proc", "/sys", "/run"} }

func flagNames(flags uintptr) []string {
	var names []string
	for _, f := range []struct {
		flag uintptr
		name string
	}{
		{unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"},
		{unix.MS_BIND, "bind"}, {unix.MS_STRICTATIME, "strictatime"},
	} {
		if flags&f.flag != 0 {
			names = append(names, f.name)
			flags &^= f.flag
		}
	}
	if flags != 0 {
		names = append(names, fmt.Sprintf("%#x", flags))
	}
	return names
}

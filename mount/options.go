package mount

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// attributes are the options of mount(8) that are a mount's own, as
// mount_setattr(2) has them.
var attributes = map[string]uint64{
	"ro":          unix.MOUNT_ATTR_RDONLY,
	"nosuid":      unix.MOUNT_ATTR_NOSUID,
	"nodev":       unix.MOUNT_ATTR_NODEV,
	"noexec":      unix.MOUNT_ATTR_NOEXEC,
	"nosymfollow": unix.MOUNT_ATTR_NOSYMFOLLOW,
	"nodiratime":  unix.MOUNT_ATTR_NODIRATIME,
	"noatime":     unix.MOUNT_ATTR_NOATIME,
	"strictatime": unix.MOUNT_ATTR_STRICTATIME,
	"relatime":    unix.MOUNT_ATTR_RELATIME,
}

// SetOptions adds options to the mount at target and leaves its others as they
// are. It returns those that are no options of a mount, which it does not add.
//
// It needs mount_setattr(2), Linux 5.12.
func SetOptions(target string, options []string) (unknown []string, err error) {
	var attr unix.MountAttr
	for _, o := range options {
		a, ok := attributes[o]
		switch {
		case o == "relatime", o == "noatime", o == "strictatime":
			attr.Attr_clr |= unix.MOUNT_ATTR__ATIME // they exclude each other
			attr.Attr_set = attr.Attr_set&^unix.MOUNT_ATTR__ATIME | a
		case ok:
			attr.Attr_set |= a
		default:
			unknown = append(unknown, o)
		}
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, &attr); err != nil {
		return unknown, fmt.Errorf("mount_setattr %s %q: %w", target, options, err)
	}
	return unknown, nil
}

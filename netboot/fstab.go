package netboot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// fstabEntry is a line of /etc/fstab (fstab(5)).
type fstabEntry struct {
	line    int      // from 1
	spec    string   // what to mount
	target  string   // where; "none" for swap
	fsType  string   //
	options []string //
	pass    int      // of fsck, 0 for none
}

// parseFstab reads an fstab as getmntent(3) does, which takes a field that is
// missing as empty. Four characters as in "\040" are one, in octal.
func parseFstab(text string) []fstabEntry {
	var entries []fstabEntry
	for i, line := range strings.Split(text, "\n") {
		fields := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' })
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		fields = append(fields, make([]string, 6)...)
		pass, err := strconv.Atoi(fields[5])
		if err != nil {
			pass = 0 // as getmntent(3) has it
		}
		entries = append(entries, fstabEntry{
			line: i + 1, spec: unescapeOctal(fields[0]), target: unescapeOctal(fields[1]), fsType: unescapeOctal(fields[2]),
			options: strings.Split(unescapeOctal(fields[3]), ","), pass: pass,
		})
	}
	return entries
}

func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// switched reports whether of the options on and off, of which the last counts,
// it is on.
func (e *fstabEntry) switched(on, off string) bool {
	for _, o := range slices.Backward(e.options) {
		if o == on || o == off {
			return o == on
		}
	}
	return false
}

// onDisk reports whether systemd makes the entry wait for a device of a disk
// (fstab_node_to_udev_node and is_device_path in its source), or, as NixOS has
// it, for a ZFS pool.
func (e *fstabEntry) onDisk() bool {
	if slices.Contains(e.options, "bind") || slices.Contains(e.options, "rbind") {
		return false
	}
	begins := func(p string) bool { return strings.HasPrefix(e.spec, p) }
	if slices.ContainsFunc([]string{"/dev/loop", "/dev/ram", "/dev/zram", "/dev/nfs"}, begins) {
		return false
	}
	return e.fsType == "zfs" || slices.ContainsFunc([]string{"/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID="}, begins)
}

// warning says what the entry does to a machine without the disk, or nothing if
// that is fine. Which entries systemd waits for, and which make it start
// emergency mode, is in systemd.mount(5) and systemd-fstab-generator(8).
func (e *fstabEntry) warning() string {
	if !e.onDisk() {
		return ""
	}
	what := fmt.Sprintf("etc/fstab line %d: %q on %q: ", e.line, e.spec, e.target)
	switch e.target {
	case "/":
		// systemd waits for no device of /, which is mounted, and skips its fsck
		// where / is writable. mount(8) does not find a tag's device, and tmpfs
		// refuses other file systems' options: both were tried.
		return what + "the tmpfs of stage 1 stays there and the disk is not used; systemd-remount-fs.service gives the tmpfs this line's options, and fails if it does not know one, or if the device is given by UUID= or LABEL=: make / a tmpfs in the configuration"
	case "/nix", "/nix/store":
		text := what + "what stage 1 mounts stays there and the disk is not used"
		if e.pass != 0 {
			text += fmt.Sprintf(", but systemd looks for the device, to check it (pass %d)", e.pass)
		}
		return text + ": remove the file system from the configuration"
	}
	needed := !e.switched("noauto", "auto") && !e.switched("nofail", "fail") &&
		!slices.Contains(e.options, "x-systemd.automount") && !slices.Contains(e.options, "_netdev")
	if e.fsType == "zfs" {
		// zfs-import-POOL.service is there for each pool that is named, and waits
		// before local-fs.target (nixos/modules/tasks/filesystems/zfs.nix).
		pool, _, _ := strings.Cut(e.spec, "/")
		text := what + fmt.Sprintf("NixOS waits up to 60 s for the pool %q", pool)
		if needed {
			text += ", and systemd starts emergency mode"
		}
		return text + ": remove the file system from the configuration"
	}
	if !needed {
		return ""
	}
	wait := "90 s"
	for _, o := range e.options {
		if strings.HasPrefix(o, "x-systemd.device-timeout=") {
			wait = strconv.Quote(o)
		}
	}
	if e.fsType == "swap" {
		return what + fmt.Sprintf("systemd waits for the device (%s) and goes on without it: give the swap device the option nofail, or remove it", wait)
	}
	return what + fmt.Sprintf("systemd waits for the device (%s) and then starts emergency mode: give the file system the option nofail or noauto, or remove it", wait)
}

// diskWarnings warns about what a toplevel's fstab has on disks.
func diskWarnings(s store, toplevel string) ([]string, error) {
	file, err := s.resolve(toplevel + "/etc/fstab")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("toplevel: %w", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("toplevel: %w", err)
	}
	var warnings []string
	for _, e := range parseFstab(string(text)) {
		if w := e.warning(); w != "" {
			warnings = append(warnings, w)
		}
	}
	return warnings, nil
}

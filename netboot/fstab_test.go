package netboot

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// nixosFstab is like what NixOS writes (nixos/modules/tasks/filesystems.nix).
const nixosFstab = `# This is a generated file.  Do not edit!
#
# <file system> <mount point>   <type>  <options>       <dump>  <pass>

# Filesystems.
/dev/disk/by-uuid/8a5a4e6c-7a50-4d0c-a01a-0d7a6f1a7ab1 / ext4 x-initrd.mount 0 1
/dev/disk/by-uuid/12CE-A600 /boot vfat fmask=0022,dmask=0022 0 2
/dev/disk/by-label/my\040data /my\040data btrfs subvol=data,compress=zstd 0 0
tank/home /home zfs defaults 0 0
tmpfs /tmp tmpfs size=10%,mode=1777 0 0
filer:/export /mnt/nfs nfs4 defaults 0 0

# Swap devices.
/dev/disk/by-uuid/0f5ab8d4-1f0e-4f6d-9b38-15f0c5f1d7a5 none swap defaults
`

// TestParseFstab compares with libmount.
func TestParseFstab(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fstab")
	text := nixosFstab + "\t  # comment\n\n\t/a\\011b\\134\\012 \t /c\text4\tro,noauto   0 3\nUUID=x /d\\040\\040e auto defaults"
	writeFile(t, file, text, 0o644)
	var want struct {
		Filesystems []struct {
			Source, Target, FSType, Options string
			PassNo                          int
		}
	}
	out := run(t, "findmnt", "--tab-file", file, "--list", "--json", "--output", "SOURCE,TARGET,FSTYPE,OPTIONS,PASSNO")
	if err := json.Unmarshal([]byte(out), &want); err != nil {
		t.Fatal(err)
	}
	got := parseFstab(text)
	if len(got) != len(want.Filesystems) || len(got) != 9 {
		t.Fatalf("parseFstab: %d entries, findmnt %d, want 9", len(got), len(want.Filesystems))
	}
	for i, w := range want.Filesystems {
		e := got[i]
		if e.spec != w.Source || e.target != w.Target || e.fsType != w.FSType || strings.Join(e.options, ",") != w.Options || e.pass != w.PassNo {
			t.Errorf("parseFstab: %+v, findmnt %+v", e, w)
		}
	}
	if got[7].line != 17 {
		t.Errorf("parseFstab: line %d, want 17", got[7].line)
	}
}

func TestFstabWarning(t *testing.T) {
	const emergency = "waits for the device (90 s) and then starts emergency mode"
	for _, test := range []struct {
		line string
		want string // "" for no warning
	}{
		{"/dev/disk/by-uuid/1 /data ext4 defaults 0 2", `fstab line 1: "/dev/disk/by-uuid/1" on "/data": systemd ` + emergency},
		{"/dev/sda1 /a b", emergency},
		{"/dev/nvme0n1p1 /a", emergency},
		{"/dev/mapper/vg-lv /a ext4", emergency},
		{`UUID=1 /my\040data ext4`, `on "/my data": systemd ` + emergency},
		{"LABEL=x /a ext4", emergency},
		{"PARTUUID=x /a ext4", emergency},
		{"PARTLABEL=x /a ext4", emergency},
		{"/dev/sda1 /a ext4 nofail,fail", emergency},
		{"/dev/sda1 /a ext4 noauto,auto", emergency},
		{"/dev/sda1 /a ext4 x-systemd.device-timeout=5s", `("x-systemd.device-timeout=5s") and then`},
		{"tank/home /home zfs", `waits up to 60 s for the pool "tank", and systemd starts emergency mode: remove`},
		{"tank/home /home zfs nofail", `waits up to 60 s for the pool "tank": remove`},
		{"/dev/sda2 none swap defaults", "(90 s) and goes on without it"},
		{"/dev/sda1 / ext4 defaults 0 1", "systemd-remount-fs.service"},
		{"/dev/sda1 / ext4 noauto,nofail", "systemd-remount-fs.service"},
		{"tank/root / zfs", "the tmpfs of stage 1 stays"},
		{"LABEL=nix /nix ext4 defaults 0 2", "to check it (pass 2): remove"},
		{"LABEL=nix /nix/store btrfs", "the disk is not used: remove"},

		{"/dev/sda1 /a ext4 nofail", ""},
		{"/dev/sda1 /a ext4 noauto", ""},
		{"/dev/sda1 /a ext4 fail,nofail", ""},
		{"/dev/sda1 /a ext4 x-systemd.automount", ""},
		{"/dev/sdb /a ext4 _netdev", ""},
		{"/dev/sda2 none swap nofail", ""},
		{"/dev/zram0 none swap", ""},
		{"/dev/loop0 /a ext4", ""},
		{"/swapfile none swap", ""},
		{"tmpfs / tmpfs mode=755", ""},
		{"tmpfs /nix tmpfs", ""},
		{"overlay /o overlay lowerdir=/a", ""},
		{"proc /proc proc", ""},
		{"filer:/x /a nfs", ""},
		{"//filer/x /a cifs", ""},
		{"/dev/shm/x /a none bind", ""},
		{"/persist/home /home none rbind", ""},
	} {
		got := parseFstab(test.line)
		if len(got) != 1 {
			t.Fatalf("parseFstab(%q) = %+v, want one entry", test.line, got)
		}
		if w := got[0].warning(); !strings.Contains(w, test.want) || test.want == "" && w != "" {
			t.Errorf("warning of %q = %q, want %q", test.line, w, test.want)
		}
	}
}

// TestBuildWarns finds the fstab as NixOS has it: through absolute symlinks.
func TestBuildWarns(t *testing.T) {
	s := newTestStore(t)
	s.write(s.tools+"/etc/static-fstab", nixosFstab, 0o444)
	s.symlink(s.tools+"/etc/fstab", s.tools+"/etc/static-fstab")
	s.symlink(s.toplevel+"/etc", s.tools+"/etc")
	s.register([]string{s.tools}, []string{s.toplevel, s.tools, s.link, s.kernel, s.toplevel})
	o := s.options()
	var got []string
	o.Warn = func(text string) { got = append(got, text) }
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	lines := []string{"line 6: ", "line 7: ", "line 8: ", "line 9: ", "line 14: "}
	if !slices.EqualFunc(got, lines, strings.Contains) {
		t.Errorf("Build warns of %q, want of %q", got, lines)
	}
}

func FuzzFstab(f *testing.F) {
	f.Add(nixosFstab)
	f.Add("UUID=1 / ext4\r\n\\040 \\ \\400 \\08x 1 2 3 4 5 6")
	f.Add("/dev/sda1 /nix auto nofail,fail,x-systemd.device-timeout= 0 -1")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		for _, e := range parseFstab(text) {
			if e.line < 1 || e.line > len(lines) || len(e.spec)+len(e.target)+len(e.fsType) > len(lines[e.line-1]) {
				t.Fatalf("parseFstab(%q) has %+v", text, e)
			}
			if w := e.warning(); strings.ContainsAny(w, "\n\x1b") {
				t.Errorf("warning of %+v is %q, want one line", e, w)
			}
		}
	})
}

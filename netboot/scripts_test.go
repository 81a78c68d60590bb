package netboot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelParams(t *testing.T) {
	for _, test := range []struct{ params, extra, want string }{
		{"", "", "init=/t/init stage1.manifest_sha256=0a root=tmpfs"},
		{"quiet", " loglevel=7 ", "init=/t/init stage1.manifest_sha256=0a quiet loglevel=7 root=tmpfs"},
		{"root=fstab quiet", "", "init=/t/init stage1.manifest_sha256=0a root=fstab quiet"},
		{`dyndbg="file a.c +p"  x`, "", `init=/t/init stage1.manifest_sha256=0a dyndbg="file a.c +p"  x root=tmpfs`},
	} {
		got := kernelParams(&toplevel{init: "/t/init", params: test.params}, "0a", test.extra)
		if got != test.want {
			t.Errorf("kernelParams(%q, %q) = %q, want %q", test.params, test.extra, got, test.want)
		}
	}
}

func TestIPXE(t *testing.T) {
	var b strings.Builder
	if err := (scripts{"bzImage", "init=/t/init quiet"}).writeIPXE(&b); err != nil {
		t.Fatal(err)
	}
	const want = scriptMark + `kernel bzImage initrd=initrd initrd=manifest initrd=nix-store init=/t/init quiet ${cmdline}
initrd initrd
initrd manifest
initrd nix-store
boot
`
	if b.String() != want {
		t.Errorf("netboot.ipxe is\n%s\nwant\n%s", &b, want)
	}
}

// TestKexec runs the script with a kexec that shows what it is given.
func TestKexec(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.ReplaceAll(strings.Join(oddNames, ""), ":", "")+"\n") // no colon in $PATH
	var b strings.Builder
	if err := (scripts{"bzImage", `init=/t/init foo="a  'b'"`}).writeKexec(&b); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "kexec-boot"), b.String(), 0o755)
	for _, name := range loadOrder {
		writeFile(t, filepath.Join(dir, name), name+",", 0o644)
	}
	const kexec = `#!/bin/sh
for a; do
	echo "<$a>"
	case $a in --initrd=*) cat "${a#--initrd=}"; echo ;; esac
done
`
	writeFile(t, filepath.Join(dir, "bin", "kexec"), kexec, 0o755)
	const load = `<-l>
<bzImage>
<--initrd=TMP>
initrd,manifest,nix-store,
`
	const line = `<--command-line=init=/t/init foo="a  'b'"`
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, load + line + ">\n<-e>\n"},
		{[]string{"--load-only"}, load + line + ">\n"},
		{[]string{"--load-only", "quiet", "a=b"}, load + line + " quiet a=b>\n"},
		{[]string{"quiet"}, load + line + " quiet>\n<-e>\n"},
	} {
		tmp := t.TempDir()
		cmd := exec.Command(filepath.Join(dir, "kexec-boot"), test.args...)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "TMPDIR="+tmp)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kexec-boot %q: %v\n%s", test.args, err, out)
		}
		got := string(out)
		if before, after, ok := strings.Cut(got, tmp); ok {
			_, after, _ = strings.Cut(after, ">")
			got = before + "TMP>" + after
		}
		if got != test.want {
			t.Errorf("kexec-boot %q runs\n%s\nwant\n%s", test.args, got, test.want)
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("kexec-boot %q left %v, %v", test.args, left, err)
		}
	}
}

func TestScriptsRefuse(t *testing.T) {
	for _, test := range []struct{ kernel, params, want string }{
		{"bzImage", "x=" + strings.Repeat("y", 2000), "the kernel takes 2047"},
		{"bzImage", "a\nb", "more than one line"},
		{"bzImage", "a=${net0/mac}", "iPXE would expand"},
		{"bzImage", "a || b", `"||"`},
		{"bzImage", "a #b", `"#b"`},
		{"bzImage", `a="b  c"`, `white space in "b  c"`},
		{"bz Image", "quiet", `"bz Image"`},
		{"bzImage\nshell", "quiet", `"bzImage\nshell"`},
		{"-bzImage", "quiet", `"-bzImage"`},
		{"bz%49mage", "quiet", `"bz%49mage"`},
		{"a:b", "quiet", `"a:b"`},
	} {
		wantError(t, test.params, scripts{test.kernel, test.params}.check(), test.want)
	}
	ok := scripts{"vmlinuz-6.1.0-56_amd64+b~1", `init=/t/init  a="b c"  d`}
	if err := ok.check(); err != nil {
		t.Errorf("check of %q: %v", ok.params, err)
	}
	long := scripts{Kernel: "bzImage"}
	long.params = strings.Repeat("x", maxCommandLine-len(long.CommandLine()))
	if err := long.check(); err != nil {
		t.Errorf("check of %d bytes: %v", len(long.CommandLine()), err)
	}
}

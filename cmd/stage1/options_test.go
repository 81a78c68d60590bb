package main

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"stage1/squashimport"
)

func TestParseCommandLine(t *testing.T) {
	for _, c := range []struct {
		line string
		want []param
	}{
		{"", nil},
		{"  \n", nil},
		{"quiet", []param{{key: "quiet"}}},
		{"a=1 a=2\ta=", []param{{"a", "1", true}, {"a", "2", true}, {"a", "", true}}},
		{"a=b=c", []param{{"a", "b=c", true}}},
		{`a="b c" d`, []param{{"a", "b c", true}, {key: "d"}}},
		{`"a=b c" d`, []param{{"a", "b c", true}, {key: "d"}}},
		{`a=b" c"d`, []param{{"a", `b" c"d`, true}}},
		{`a="b`, []param{{"a", "b", true}}},
		{`"a`, []param{{key: "a"}}},
		{`a"b=c" d`, []param{{`a"b`, `c"`, true}, {key: "d"}}},
		{"=x", []param{{key: "=x"}}},
		{"a -- b", []param{{key: "a"}}},
		{"--=1 a", []param{{"--", "1", true}, {key: "a"}}},
	} {
		if got := parseCommandLine(c.line); !slices.Equal(got, c.want) {
			t.Errorf("parseCommandLine(%q) = %q, want %q", c.line, got, c.want)
		}
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add("init=/nix/store/x/init console=tty0 console=ttyS0,115200n8 quiet")
	f.Add(`a="b c" "d e=f" g"h`)
	f.Add("stage1.on_fail_delay=99999999999 stage1.nix_size=9999999999G stage1.jobs=-1 loop.max_loop=8")
	f.Fuzz(func(t *testing.T, line string) {
		for _, p := range parseCommandLine(line) {
			if !strings.Contains(line, p.key) || !strings.Contains(line, p.value) {
				t.Errorf("parseCommandLine(%q) has %+v", line, p)
			}
		}
		o := newOptions(line)
		if o.failDelay < 0 || o.jobs < 0 || o.nixSize.of(1<<30, 0) < 0 || o.rootSize.of(1<<30, 0) < 0 {
			t.Errorf("newOptions(%q) = %+v", line, o)
		}
	})
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		line string
		want func(*options)
	}{
		{"", func(*options) {}},
		{"init=/a init=/b", func(o *options) { o.init = "/b" }},
		{"console=tty0 console=ttyS0,115200n8", func(o *options) { o.consoles = []string{"tty0", "ttyS0"} }},
		{"quiet", func(o *options) { o.quiet = true }},
		{"boot.trace", func(o *options) { o.debug = true }},
		{"debugtrace", func(o *options) { o.debug = true }},
		{"rd.systemd.log_level=debug", func(o *options) { o.debug = true }},
		{"rd.systemd.log_level=info", func(*options) {}},
		{"boot.debug1", func(o *options) { o.breaks[breakModules], o.shell = true, true }},
		{"debug1", func(o *options) { o.breaks[breakModules], o.shell = true, true }},
		{"rd.systemd.break=pre-udev", func(o *options) { o.breaks[breakModules], o.shell = true, true }},
		{"boot.debug1devices", func(o *options) { o.breaks[breakImport], o.shell = true, true }},
		{"rd.systemd.break=pre-mount", func(o *options) { o.breaks[breakImport], o.shell = true, true }},
		{"boot.debug1mounts", func(o *options) { o.breaks[breakMounts], o.shell = true, true }},
		{"rd.systemd.break=pre-switch-root", func(o *options) { o.breaks[breakSwitchRoot], o.shell = true, true }},
		{"rd.systemd.break", func(o *options) { o.breaks[breakSwitchRoot], o.shell = true, true }},
		{"rd.systemd.break=later", func(o *options) { o.warnings = []string{"rd.systemd.break=later: no such flag: ignored"} }},
		{"boot.shell_on_fail", func(o *options) { o.shell = true }},
		{"SYSTEMD_SULOGIN_FORCE=1", func(o *options) { o.shell = true }},
		{"SYSTEMD_SULOGIN_FORCE=0", func(*options) {}},
		{"rd.systemd.debug_shell", func(o *options) { o.debugShell = true }},
		{"rd.systemd.debug_shell=0", func(*options) {}},
		{"boot.panic_on_fail", func(o *options) { o.panic = true }},
		{"stage1panic=1", func(o *options) { o.panic = true }},
		{"stage1panic=0", func(*options) {}},
		{"stage1.on_fail=poweroff", func(o *options) { o.onFail = actionPoweroff }},
		{"stage1.on_fail=shell", func(o *options) { o.onFail, o.shell = actionShell, true }},
		{"stage1.on_fail=explode", func(o *options) {
			o.warnings = []string{"stage1.on_fail=explode: want reboot, poweroff, panic, shell or hang: ignored"}
		}},
		{"stage1.on_fail_delay=0", func(o *options) { o.failDelay = 0 }},
		{"stage1.on_fail_delay=-1", func(o *options) {
			o.warnings = []string{"stage1.on_fail_delay=-1: want a whole number of seconds: ignored"}
		}},
		{"stage1.manifest_sha256=ab stage1.manifest_sha256=cd", func(o *options) { pin := "cd"; o.manifestSHA256 = &pin }},
		{"stage1.manifest_sha256=", func(o *options) { o.manifestSHA256 = new(string) }},
		{"stage1.verify=off", func(o *options) { o.skipDigests = true }},
		{"stage1.verify=off stage1.verify=on", func(*options) {}},
		{"stage1.verify=no", func(o *options) { o.warnings = []string{"stage1.verify=no: want on or off: ignored"} }},
		{"stage1.store=copy", func(o *options) { o.store = squashimport.Copy }},
		{"stage1.store", func(o *options) { o.warnings = []string{"stage1.store: want auto, overlay or copy: ignored"} }},
		{"stage1.jobs=3", func(o *options) { o.jobs = 3 }},
		{"stage1.jobs=0", func(o *options) { o.warnings = []string{"stage1.jobs=0: want a number from 1 to 1023: ignored"} }},
		{"stage1.root_size=10%", func(o *options) { o.rootSize.percent = 10 }},
		{"stage1.nix_size=2G", func(o *options) { o.nixSize.bytes = 2 << 30 }},
		{"stage1.nonsense=1", func(o *options) { o.warnings = []string{"stage1.nonsense=1: no such flag: ignored"} }},
		{`loop.max_loop=8 over-lay.a="b c" loop.x=1`, func(o *options) {
			o.moduleParams = map[string]string{"loop": "max_loop=8 x=1", "over_lay": `a="b c"`}
		}},
		{"unknown unknown=1", func(*options) {}},
		{strings.Repeat("x", 2046) + "\n", func(*options) {}},
		{strings.Repeat("x", 2047) + "\n", func(o *options) {
			o.warnings = []string{"it has 2047 bytes, as many as the kernel keeps: what came after them is lost"}
		}},
	} {
		want := newOptions("")
		c.want(want)
		if got := newOptions(c.line); !reflect.DeepEqual(got, want) {
			t.Errorf("newOptions(%q) = %+v, want %+v", c.line, got, want)
		}
	}
	if got, want := newOptions("").failDelay, 10*time.Second; got != want {
		t.Errorf("delay without a flag = %v, want %v", got, want)
	}
}

func TestParseSize(t *testing.T) {
	const ram = 1000
	for s, want := range map[string]int64{
		"1": 1, "300000000": 300000000, "4k": 4096, "4K": 4096, "512M": 512 << 20, "2g": 2 << 30, "50%": 500, "150%": 1500,
		"": -1, "0": -1, "-1": -1, "%": -1, "0%": -1, "1001%": -1, "G": -1, "1T": -1, "1.5G": -1, "9223372036854775807K": -1,
	} {
		size, err := parseSize(s)
		got := size.of(ram, 0)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("parseSize(%q) = %d, want %d", s, got, want)
		}
	}
	if got := (size{}).of(ram, 7); got != 7 {
		t.Errorf("size that was not given = %d, want 7", got)
	}
}

// TestDocumented holds the table of docs/flags.md against ours.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/flags.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	table, _, _ := strings.Cut(string(text), "\n## ")
	for line := range strings.SplitSeq(table, "\n") {
		if strings.HasPrefix(line, "| `") {
			got = append(got, line)
		}
	}
	var want []string
	for _, f := range flags {
		want = append(want, f.row())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the table of docs/flags.md is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// row is f as a row of a table in Markdown.
func (f *flag) row() string {
	names := strings.Split(strings.ReplaceAll(f.names, "|", `\|`), " ")
	return "| `" + strings.Join(names, "` `") + "` | " + f.meaning + " | " + f.def + " |"
}

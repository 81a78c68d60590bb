package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stage1/netboot"
)

// TestDocumentation checks that docs/mknetboot.md has each flag as --help does.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/mknetboot.md")
	if err != nil {
		t.Fatal(err)
	}
	b, p, c := newBuildFlags(), newPruneFlags(), newChartFlags()
	var want []string
	for _, f := range []*flags{&b.flags, &p.flags, &c.flags} {
		var help bytes.Buffer
		f.help(&help)
		for _, r := range f.rows() {
			if !strings.Contains(help.String(), r.flag) || !strings.Contains(help.String(), r.usage) {
				t.Errorf("--help has no %s", r.flag)
			}
			want = append(want, strings.TrimSpace(fmt.Sprintf("| `%s` | %s | %s", r.flag, r.usage, r.def))+" |")
		}
	}
	var got []string
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "| `-") {
			got = append(got, line)
		}
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("docs/mknetboot.md has\n%s\nwant\n%s", g, w)
	}
}

func TestParse(t *testing.T) {
	f := newBuildFlags()
	args := "-o out /nix/store/x --module a --module=b --extra-files /a:b:/c --debug-shell=/bb --level 3 --json --stage1 s1"
	if err := f.parse(strings.Fields(args), &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	o := f.build
	got := fmt.Sprint(o.Output, o.Toplevel, o.Modules, o.ExtraFiles, o.DebugShell, o.Busybox, o.Level, f.json, o.Stage1, o.Compressor, o.BlockSize)
	if want := "out/nix/store/x[a b] [{/a:b /c}] true/bb 3 trues1zstd131072"; strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("parse(%s) = %s, want %s", args, got, want)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f = newBuildFlags()
	if err := f.parse([]string{"--debug-shell", "x"}, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(filepath.Dir(self), "stage1"); f.build.Stage1 != want || !f.build.DebugShell || f.build.Busybox != "" {
		t.Errorf("parse = %+v, want stage 1 at %s and any busybox", f.build, want)
	}
}

func TestParsePrune(t *testing.T) {
	for _, test := range []struct {
		args string
		age  time.Duration
		size int64
		help string // how the values are shown
	}{
		{"", 30 * 24 * time.Hour, 20 << 30, "30d 20G"},
		{"--max-age 2d --max-size 0", 48 * time.Hour, 0, "2d 0"},
		{"--max-age=90m --max-size=1500K", 90 * time.Minute, 1500 << 10, "1h30m0s 1500K"},
	} {
		f := newPruneFlags()
		if err := f.parse(strings.Fields(test.args), &bytes.Buffer{}); err != nil {
			t.Errorf("prune %s: %v", test.args, err)
		}
		help := f.Lookup("max-age").Value.String() + " " + f.Lookup("max-size").Value.String()
		if want := (netboot.PruneOptions{MaxAge: test.age, MaxSize: test.size}); f.prune != want || help != test.help {
			t.Errorf("prune %s = %+v (%s), want %+v (%s)", test.args, f.prune, help, want, test.help)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for _, test := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"--help", 0, "--compressor NAME", ""},
		{"prune --help", 0, "--max-age AGE", ""},
		{"", 2, "", "want one TOPLEVEL"},
		{"a b", 2, "", `want one TOPLEVEL, got ["a" "b"]`},
		{"--nonesuch", 2, "", "-nonesuch"},
		{"--extra-files /a", 2, "", "want SRC:DEST"},
		{"prune x", 2, "", "takes no arguments"},
		{"prune --max-size 1X", 2, "", "1X"},
		{"prune --max-size 9000000T", 2, "", "too large"},
		{"prune --max-age -1h", 2, "", "negative"},
		{"/etc/hostname --stage1 x", 1, "", "mknetboot: toplevel: /etc/hostname is neither"},
		{"--compressor lzo x", 1, "", `compressor "lzo"`},
		{"chart", 2, "", "want one BOOT.JSON"},
		{"chart /nonesuch", 1, "", "open /nonesuch"},
		{"chart /dev/null", 1, "", "/dev/null: boot report: unexpected end"},
		{"prune", 0, "", "removed 0 images"},
		{"prune --json", 0, `{"removed":0,"removedBytes":0,"kept":0,"keptBytes":0}`, ""},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), strings.Fields(test.args), &stdout, &stderr)
		if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("mknetboot %s = %d with output %q and %q, want %d with %q and %q", test.args, code, &stdout, &stderr, test.code, test.stdout, test.stderr)
		}
		if test.stdout == "" && stdout.Len() > 0 || test.stderr == "" && stderr.Len() > 0 {
			t.Errorf("mknetboot %s also writes %q and %q", test.args, &stdout, &stderr)
		}
	}
}

func TestInterrupted(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"x"}, &stdout, &stderr); code != 1 || stderr.String() != "mknetboot: interrupted\n" {
		t.Errorf("mknetboot, interrupted, = %d with %q, want 1", code, &stderr)
	}
}

// TestChart draws a report to standard output, and to a file.
func TestChart(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "boot.json"), filepath.Join(dir, "boot.svg")
	if err := os.WriteFile(in, []byte(`{"steps":[{"name":"import","start":3000,"end":3100}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	for _, args := range [][]string{{"chart", in}, {"chart", in, "-o", out}} {
		if code := run(t.Context(), args, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
			t.Errorf("mknetboot %q = %d with %q, want 0", args, code, &stderr)
		}
	}
	file, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(file, stdout.Bytes()) || !strings.Contains(string(file), "import") {
		t.Errorf("the file has %q, error %v; standard output was %q", file, err, &stdout)
	}
}

func TestSummary(t *testing.T) {
	var b bytes.Buffer
	u := newUI(&b, false)
	u.summary(&netboot.Result{
		Output: "/srv/netboot", StorePaths: 3, Cached: 2, Built: 1, Shared: 2 << 10, RootSize: 1 << 10, UnpackedSize: 5 << 30,
		Files: []netboot.File{{Name: "initrd", Size: 3 << 20}}, Steps: []netboot.Step{{Name: "closure", Seconds: 0.126}},
	})
	const want = `/srv/netboot
  initrd                        3.0 MiB
  store paths                         3
  images from the cache               2
  images built                        1
  shared by linking             2.0 KiB
  root image                    1.0 KiB
  store, unpacked              5.00 GiB
  closure                        0.13 s
`
	if b.String() != want {
		t.Errorf("summary is\n%s\nwant\n%s", &b, want)
	}
	b.Reset()
	quiet := newUI(&b, true)
	quiet.summary(&netboot.Result{})
	quiet.progress(netboot.Progress{Done: 1, Total: 2})
	if b.Len() > 0 {
		t.Errorf("--quiet writes %q", &b)
	}
}

// TestBar draws on what is taken for a terminal.
func TestBar(t *testing.T) {
	var b bytes.Buffer
	u := &ui{w: &b, terminal: true}
	u.progress(netboot.Progress{Done: 1, Total: 2, DoneBytes: 10 << 20, TotalBytes: 30 << 20})
	u.warn("mind the gap")
	want := "\r\x1b[K[##########                    ] images 1/2, 10.0 MiB of 30.0 MiB\r\x1b[Kmknetboot: warning: mind the gap\n"
	if b.String() != want {
		t.Errorf("bar is %q, want %q", &b, want)
	}
}

package chart

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"stage1/bootreport"
)

// report is that of a boot with steps of all lengths, and names that XML could
// stumble over.
func report() *bootreport.Report {
	span := func(from, to float64) bootreport.Span { return bootreport.Span{Start: from, End: to} }
	r := &bootreport.Report{
		Machine: "QEMU Standard PC (i440FX + PIIX, 1996), CPUs: 2", Kernel: "6.1.0-56-amd64", Mode: "copy",
		Firmware: 2310, Loader: 14500, Images: 4, ImageBytes: 132_400_000, StorePaths: 171, StoreBytes: 419_000_000,
		RAMTotal: 2_060_000_000, RAMUsed: 520_000_000, Init: "/nix/store/x/init",
	}
	at := 3412.5
	for _, s := range []struct {
		name string
		took float64
		ram  int64
	}{
		{"special file systems", 2.4, 0}, {"console and kernel log", 0.1, 170e6}, {"kernel command line", 0.1, 170e6},
		{"debug shell", 0, 170e6}, {"manifest", 1.2, 171e6}, {"kernel modules", 48, 180e6}, {"root and /nix", 0.4, 180e6},
		{"import", 20_100, 515e6}, {"registration", 31, 516e6}, {"init <&>", 0.8, 516e6}, {"shutdown", 0.1, 516e6},
		{"summary", 3, 516e6}, {"switch root", 80, 516e6}, {"free the initrd", 60, 380e6},
	} {
		r.Steps = append(r.Steps, bootreport.Step{Name: s.name, Span: span(at, at+s.took), RAMUsed: s.ram})
		at += s.took
	}
	begin := r.Steps[7].Start
	for second := 1.0; second <= 20; second++ {
		r.RAM = append(r.RAM, bootreport.Sample{At: begin + 1000*second, RAMUsed: int64(180e6 + second*16e6)})
	}
	for i := range 4 {
		from := begin + float64(i/2)*9000
		image := fmt.Sprintf("/images/%d-<img>", i)
		r.Work = append(r.Work,
			bootreport.Work{Lane: i % 2, Name: "verify", File: image, Span: span(from, from+1500)},
			bootreport.Work{Lane: i % 2, Name: "mount", File: image, Span: span(from+1500, from+1504)},
			bootreport.Work{Lane: i % 2, Name: "copy", File: image, Span: span(from+1504, from+8990-float64(i)*700)},
			bootreport.Work{Lane: 2, Name: "release", File: image, Span: span(from+8990-float64(i)*700, from+9040-float64(i)*700)})
	}
	return r
}

// elements are the elements of well-formed XML, by name.
func elements(t *testing.T, doc []byte) map[string]int {
	t.Helper()
	n := map[string]int{}
	for d := xml.NewDecoder(strings.NewReader(string(doc))); ; {
		token, err := d.Token()
		if err == io.EOF {
			return n
		}
		if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			n[e.Name.Local]++
		}
	}
}

func TestSVG(t *testing.T) {
	r := report()
	doc := SVG(r)
	// Set to look at it: rsvg-convert makes a PNG of it.
	if file := os.Getenv("CHART_SVG"); file != "" {
		if err := os.WriteFile(file, doc, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n := elements(t, doc)
	const background, boot, legend = 1, 4, 4
	if want := background + boot + len(r.Steps) + legend + len(r.Work); n["rect"] != want || n["polyline"] != 1 || n["svg"] != 1 {
		t.Errorf("the picture has %d boxes and %d lines of RAM, want %d and 1", n["rect"], n["polyline"], want)
	}
	for _, want := range []string{
		"40.5 s to stage 2", "store by copy", "QEMU Standard PC", "6.1.0-56-amd64", "From power-on", "firmware", "boot loader",
		"init &lt;&amp;&gt;", "20.1 s", "0.1 ms", "verify", "release", "worker 3", "seconds since the kernel", "RAM in use", "200 MB",
	} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("the picture does not say %q", want)
		}
	}
}

// TestSVGUnknown draws what little an older kernel or an overlay may report.
func TestSVGUnknown(t *testing.T) {
	r := &bootreport.Report{Steps: []bootreport.Step{{Name: "only"}}}
	doc := string(SVG(r))
	elements(t, []byte(doc))
	for _, not := range []string{"firmware", "worker", "RAM in use<", "NaN", "Inf", "power-on"} {
		if strings.Contains(doc, not) {
			t.Errorf("the picture says %q of a report without it", not)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		from, to float64
		want     string
	}{
		{0, 20_000, "0 2 4 6 8 10 12 14 16 18 20 seconds"},
		{3400, 3700, "3400 3450 3500 3550 3600 3650 3700 milliseconds"},
		{-1500, 900, "-1.5 -1.0 -0.5 0.0 0.5 seconds"},
		{5, 5, "5.0000 5.0002 5.0004 5.0006 5.0008 5.0010 milliseconds"},
	} {
		x := newTimeScale(c.from, c.to)
		at, text := x.ticks()
		if got := strings.Join(text, " ") + " " + x.unit; got != c.want {
			t.Errorf("ticks from %g to %g = %s, want %s", c.from, c.to, got, c.want)
		}
		for _, px := range at {
			if px < left-0.1 || px > right+0.1 || math.IsNaN(px) {
				t.Errorf("a tick from %g to %g is at %g, want %d to %d", c.from, c.to, px, left, right)
			}
		}
	}
}

func TestDuration(t *testing.T) {
	for ms, want := range map[float64]string{0: "0.00 ms", 0.0512: "0.05 ms", 0.1: "0.1 ms", 9.96: "10 ms", 48.4: "48 ms", 999.6: "1.00 s", 20_100: "20.1 s", 99_960: "100 s"} {
		if got := duration(ms); got != want {
			t.Errorf("duration(%g) = %s, want %s", ms, got, want)
		}
	}
}

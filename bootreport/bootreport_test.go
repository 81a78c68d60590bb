package bootreport

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func example() *Report {
	return &Report{
		Machine: "a machine", Kernel: "6.1", Firmware: 1500, Loader: 20.5, Mode: "overlay", Images: 1, ImageBytes: 3e6, StorePaths: 2, StoreBytes: 7e6,
		RAMTotal: 100e6, RAMUsed: 10e6, Init: "/nix/store/x/init",
		Steps: []Step{
			{Name: "manifest", Span: Span{3000, 3000.125}, RAMUsed: 5e6},
			{Name: "import", Span: Span{3001, 3011}, Bytes: 7e6, RAMUsed: 10e6},
		},
		Work:     []Work{{Lane: 1, Name: "mount", File: "/images/a", Span: Span{3002, 3010}}},
		WorkLost: 1,
		RAM:      []Sample{{3005, 7e6}},
	}
}

func TestRoundTrip(t *testing.T) {
	want := example()
	var b bytes.Buffer
	if err := want.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Read of what Write wrote = %+v, %v, want %+v", got, err, want)
	}
}

func TestString(t *testing.T) {
	const want = `      0.1 ms  manifest
     10.0 ms  import
     10.1 ms  in all, 3.0 s after the kernel's start
store paths: 2, 7.0 MB; by overlay; images: 1, 3.0 MB; RAM in use: 10 of 100 MB`
	if got := example().String(); got != want {
		t.Errorf("String() =\n%s\nwant\n%s", got, want)
	}
}

func TestReadRefuses(t *testing.T) {
	const step = `"steps":[{"name":"a","start":1,"end":2}]`
	for text, want := range map[string]string{
		``:                                    "unexpected end",
		`[]`:                                  "cannot unmarshal",
		`{}`:                                  "no steps",
		`{"steps":[{"name":"a","start":-1}]}`: `step "a": it starts at -1 ms`,
		`{"steps":[{"name":"a","start":2,"end":1}]}`:                           "it starts at 2 ms and ends at 1 ms",
		`{"steps":[{"name":"a","end":1e300}]}`:                                 "ends at 1e+300 ms",
		`{"steps":[{"name":"a","ramUsed":-1}]}`:                                "a size of -1 bytes",
		`{"firmware":1e12,` + step + `}`:                                       "1e+12 ms",
		`{"work":[{"name":"copy","file":"b","lane":1024}],` + step + `}`:       "lane 1024",
		`{"work":[{"name":"copy","file":"b","start":3,"end":1}],` + step + `}`: `copy of "b": it starts`,
		`{"ramSamples":[{"at":-3,"ramUsed":1}],` + step + `}`:                  "RAM: it starts at -3 ms",
		`{` + step + `}` + strings.Repeat(" ", maxSize):                        "more than 16777216 bytes",
	} {
		if r, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read of %.60q = %+v, %v, want an error with %q", text, r, err, want)
		}
	}
}

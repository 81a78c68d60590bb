// Package bootreport is the report of a boot, /run/stage1/boot.json: what stage 1
// writes and a chart is drawn from (package chart). docs/formats.md describes it.
//
// It does not measure anything.
package bootreport

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Path is where stage 1 leaves the report.
const Path = "/run/stage1/boot.json"

// Report is what took how long, and how much RAM. Times are in milliseconds since
// the kernel's start, as CLOCK_BOOTTIME counts them; sizes are in bytes. 0 and an
// empty string are what is not known.
type Report struct {
	Machine    string   `json:"machine"`              // vendor and product, CPUs
	Kernel     string   `json:"kernel"`               // release, as uname -r
	Firmware   float64  `json:"firmware,omitempty"`   // milliseconds from power-on to the boot loader
	Loader     float64  `json:"loader,omitempty"`     // milliseconds from there to the kernel
	Mode       string   `json:"mode"`                 // how images became the store: overlay or copy
	Images     int      `json:"images"`               // number
	ImageBytes int64    `json:"imageBytes"`           // size of all images
	StorePaths int      `json:"storePaths"`           // number
	StoreBytes int64    `json:"storeBytes"`           // what was imported, unpacked, in pages
	RAMTotal   int64    `json:"ramTotal"`             // less what the kernel itself keeps
	RAMUsed    int64    `json:"ramUsed"`              // at the summary: total less available
	Init       string   `json:"init"`                 // what is executed
	Steps      []Step   `json:"steps"`                // in order
	Work       []Work   `json:"work,omitempty"`       // of verification and import, in the order of its end
	WorkLost   int      `json:"workLost,omitempty"`   // pieces of work that were too many to keep
	RAM        []Sample `json:"ramSamples,omitempty"` // within steps that take long, in order
}

// Span is from when to when.
type Span struct {
	Start float64 `json:"start"`
	End   float64 `json:"end"`
}

// Took is the span's length in milliseconds.
func (s Span) Took() float64 { return s.End - s.Start }

// Step is one step of the boot.
type Step struct {
	Name string `json:"name"`
	Span
	Bytes   int64 `json:"bytes,omitempty"` // what it has made, of store or registration
	RAMUsed int64 `json:"ramUsed"`         // at its end
}

// Work is a piece of the verification or of the import. Pieces of one lane do not overlap: there are as
// many lanes as were at work at the same time.
type Work struct {
	Lane int    `json:"lane"`
	Name string `json:"name"` // what was done
	File string `json:"file"` // with which, an image mostly; empty for all of them
	Span
}

// Sample is the RAM in use at a time.
type Sample struct {
	At      float64 `json:"at"`
	RAMUsed int64   `json:"ramUsed"`
}

// Limits of a report that can be read.
const (
	maxSize = 16 << 20             // of the JSON, bytes
	maxTime = 1000 * 3600 * 24 * 7 // a week in milliseconds
	maxLane = 1023                 // stage1.jobs= has the same limit
)

// Write writes the report as JSON.
func (r *Report) Write(w io.Writer) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// Read reads a report of at most 16 MiB, and checks that its times and sizes can
// be those of a boot.
func Read(in io.Reader) (*Report, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("boot report: %w", err)
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("boot report: more than %d bytes", maxSize)
	}
	r := new(Report)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("boot report: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("boot report: %w", err)
	}
	return r, nil
}

func (r *Report) check() error {
	if len(r.Steps) == 0 {
		return fmt.Errorf("it has no steps: was it written by stage1?")
	}
	for _, t := range []float64{r.Firmware, r.Loader} {
		if t < 0 || t > maxTime {
			return fmt.Errorf("firmware or loader took %g ms", t)
		}
	}
	sizes := []int64{r.ImageBytes, r.StoreBytes, r.RAMTotal, r.RAMUsed}
	for _, s := range r.Steps {
		if err := s.check(); err != nil {
			return fmt.Errorf("step %q: %w", s.Name, err)
		}
		sizes = append(sizes, s.Bytes, s.RAMUsed)
	}
	for _, w := range r.Work {
		if err := w.check(); err != nil {
			return fmt.Errorf("%s of %q: %w", w.Name, w.File, err)
		}
		if w.Lane < 0 || w.Lane > maxLane {
			return fmt.Errorf("%s of %q: lane %d, want 0 to %d", w.Name, w.File, w.Lane, maxLane)
		}
	}
	for _, s := range r.RAM {
		if err := (Span{s.At, s.At}).check(); err != nil {
			return fmt.Errorf("RAM: %w", err)
		}
		sizes = append(sizes, s.RAMUsed)
	}
	for _, n := range sizes {
		if n < 0 {
			return fmt.Errorf("a size of %d bytes", n)
		}
	}
	return nil
}

func (s Span) check() error {
	if s.Start < 0 || s.End < s.Start || s.End > maxTime {
		return fmt.Errorf("it starts at %g ms and ends at %g ms", s.Start, s.End)
	}
	return nil
}

// String is the report as a table for the console.
func (r *Report) String() string {
	var s strings.Builder
	total, end := 0.0, 0.0
	for _, step := range r.Steps {
		fmt.Fprintf(&s, "%9.1f ms  %s\n", step.Took(), step.Name)
		total += step.Took()
		end = step.End
	}
	fmt.Fprintf(&s, "%9.1f ms  in all, %.1f s after the kernel's start\n", total, end/1e3)
	fmt.Fprintf(&s, "store paths: %d, %.1f MB; by %s; images: %d, %.1f MB; RAM in use: %.0f of %.0f MB",
		r.StorePaths, mb(r.StoreBytes), r.Mode, r.Images, mb(r.ImageBytes), mb(r.RAMUsed), mb(r.RAMTotal))
	return s.String()
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

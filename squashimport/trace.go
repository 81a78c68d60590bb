package squashimport

import (
	"sync"
	"time"
)

// Span is a piece of an import's work: one thing done with one image.
type Span struct {
	Lane       int    // spans of one lane do not overlap; the lowest that was free
	Name       string // what was done: "mount", "copy", …
	Image      string // the image's file
	Start, End time.Time
}

// maxSpans bounds what a trace keeps: stores of more images than that are not
// legible in a chart either.
const maxSpans = 4096

// sameWork is how close a span has to follow one of the same name and image, in
// the same lane, to be one with it: a worker copies thousands of directories.
const sameWork = time.Millisecond

// trace collects spans. Its zero value is ready, and may be used by many
// goroutines.
type trace struct {
	mu   sync.Mutex
	busy []bool // by lane
	last []int  // by lane, the index of its last span, or -1
	done []Span
	lost int
}

// begin says that something is done with an image from now on, until the returned
// function is called.
func (t *trace) begin(name, image string) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lane := t.freeLane()
	t.busy[lane] = true
	s := Span{Lane: lane, Name: name, Image: image, Start: time.Now()}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.End = time.Now()
		t.busy[lane] = false
		t.add(s)
	}
}

func (t *trace) freeLane() int {
	for lane, busy := range t.busy {
		if !busy {
			return lane
		}
	}
	t.busy, t.last = append(t.busy, false), append(t.last, -1)
	return len(t.busy) - 1
}

func (t *trace) add(s Span) {
	if i := t.last[s.Lane]; i >= 0 {
		l := &t.done[i]
		if l.Name == s.Name && l.Image == s.Image && s.Start.Sub(l.End) < sameWork {
			l.End = s.End
			return
		}
	}
	if len(t.done) == maxSpans {
		t.lost++
		return
	}
	t.last[s.Lane] = len(t.done)
	t.done = append(t.done, s)
}

// Trace returns what was done until now, in the order of its end, and how many
// spans were too many to be kept.
func (im *Importer) Trace() (spans []Span, lost int) {
	im.trace.mu.Lock()
	defer im.trace.mu.Unlock()
	return append([]Span(nil), im.trace.done...), im.trace.lost
}

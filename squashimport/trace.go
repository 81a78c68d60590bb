package squashimport

import (
	"slices"
	"sync"
	"time"
)

// Span is a piece of work: one thing done with one file.
type Span struct {
	Lane       int    // spans of one lane do not overlap; the lowest that was free
	Name       string // what was done: "verify", "mount", "copy", …
	File       string // an image's, mostly; empty for all of them
	Start, End time.Time
}

// maxSpans bounds what a trace keeps: stores of more images than that are not
// legible in a chart either.
const maxSpans = 4096

// sameWork is how close a span has to follow one of the same name and file, in
// the same lane, to be one with it: a worker copies thousands of directories.
const sameWork = time.Millisecond

// Trace collects what was done when. Its zero value is ready, nil collects nothing,
// and it may be used by many goroutines.
type Trace struct {
	mu   sync.Mutex
	busy []bool // by lane
	last []int  // by lane, the index of its last span, or -1
	done []Span
	lost int
}

// begin says that something is done with a file from now on, until the returned
// function is called.
func (t *Trace) begin(name, file string) (end func()) {
	if t == nil {
		return func() {}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	lane := t.freeLane()
	t.busy[lane] = true
	s := Span{Lane: lane, Name: name, File: file, Start: time.Now()}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.End = time.Now()
		t.busy[lane] = false
		t.add(s)
	}
}

func (t *Trace) freeLane() int {
	for lane, busy := range t.busy {
		if !busy {
			return lane
		}
	}
	t.busy, t.last = append(t.busy, false), append(t.last, -1)
	return len(t.busy) - 1
}

func (t *Trace) add(s Span) {
	if i := t.last[s.Lane]; i >= 0 {
		l := &t.done[i]
		if l.Name == s.Name && l.File == s.File && s.Start.Sub(l.End) < sameWork {
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

// Spans returns what was done until now, in the order of its end, and how many
// spans were too many to be kept.
func (t *Trace) Spans() (spans []Span, lost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.done), t.lost
}

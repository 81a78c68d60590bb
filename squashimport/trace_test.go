package squashimport

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestTraceLanes shows that work at the same time is in different lanes, and that
// a lane is used again.
func TestTraceLanes(t *testing.T) {
	var tr Trace
	first := tr.begin("mount", "a")
	second := tr.begin("mount", "b")
	first()
	third := tr.begin("copy", "a")
	third()
	second()
	spans, lost := tr.Spans()
	var got []string
	for _, s := range spans {
		got = append(got, fmt.Sprintf("%d %s %s", s.Lane, s.Name, s.File))
		if s.End.Before(s.Start) {
			t.Errorf("%s of %s ends before it starts", s.Name, s.File)
		}
	}
	if want := "0 mount a|0 copy a|1 mount b"; strings.Join(got, "|") != want || lost != 0 {
		t.Errorf("Spans() = %q, %d lost, want %q", got, lost, want)
	}
}

// TestTraceMerges adds spans that follow each other in a lane.
func TestTraceMerges(t *testing.T) {
	begin := time.Now()
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	tr := Trace{busy: []bool{false}, last: []int{-1}}
	for _, s := range []Span{
		{0, "copy", "a", at(0), at(5)},
		{0, "copy", "a", at(5), at(9)},
		{0, "copy", "b", at(9), at(10)},
		{0, "copy", "b", at(20), at(30)},
	} {
		tr.add(s)
	}
	want := []Span{
		{0, "copy", "a", at(0), at(9)},
		{0, "copy", "b", at(9), at(10)},
		{0, "copy", "b", at(20), at(30)},
	}
	if !slices.Equal(tr.done, want) {
		t.Errorf("spans are %v, want %v", tr.done, want)
	}
}

// TestTraceIsBounded has many goroutines do more than is kept.
func TestTraceIsBounded(t *testing.T) {
	const workers, each = 8, maxSpans
	var tr Trace
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range each {
				tr.begin("copy", fmt.Sprint(w, i))()
			}
		})
	}
	all.Wait()
	spans, lost := tr.Spans()
	if len(spans) != maxSpans || lost != workers*each-maxSpans {
		t.Errorf("Spans() = %d spans and %d lost, want %d and %d", len(spans), lost, maxSpans, workers*each-maxSpans)
	}
	if n := len(tr.busy); n > workers {
		t.Errorf("%d lanes for %d workers", n, workers)
	}
}

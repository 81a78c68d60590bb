// Package chart draws the report of a boot as a picture in SVG 1.1
// (https://www.w3.org/TR/SVG11/): what ran when, the workers of the import, and
// RAM. The picture needs nothing but a viewer: it has no script and loads nothing.
package chart

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"stage1/bootreport"
)

// Colors of bars.
const (
	colorBefore = "#8d99ae" // what ran before stage 1
	colorStep   = "#2f6db5"
)

// colorsWork are the colors of the kinds of work, in the order in which they
// appear.
var colorsWork = []string{"#2f6db5", "#d98324", "#3d8b53", "#8b4a9c", "#b5442d", "#5c677d"}

// SVG returns the picture of a report that [bootreport.Read] has read.
func SVG(r *bootreport.Report) []byte {
	s := &svg{}
	title := header(s, r)
	wholeBoot(s, r)
	steps(s, r)
	if len(r.Work) > 0 {
		workers(s, r)
	}
	s.y += 20
	return s.document(title)
}

// header says what the picture shows, and of which machine.
func header(s *svg, r *bootreport.Report) (title string) {
	title = fmt.Sprintf("Netboot: %s to stage 2, store by %s", duration(r.Firmware+r.Loader+lastEnd(r)), r.Mode)
	title = cut(title, 80)
	s.text(20, 36, start, "title", title)
	s.y = 60
	for _, line := range []string{
		fmt.Sprintf("%s; Linux %s; RAM in use at the end: %s of %s", cmp.Or(r.Machine, "a machine"), r.Kernel, megabytes(r.RAMUsed), megabytes(r.RAMTotal)),
		fmt.Sprintf("store paths: %d, %s; images: %d, %s", r.StorePaths, megabytes(r.StoreBytes), r.Images, megabytes(r.ImageBytes)),
	} {
		s.text(20, s.y, start, "note", cut(line, (width-40)/charWidth))
		s.y += 18
	}
	return title
}

func lastEnd(r *bootreport.Report) float64 { return r.Steps[len(r.Steps)-1].End }

// row is a line of a panel: a name and a bar.
type row struct {
	name string
	bootreport.Span
	color string
	tip   string
}

// wholeBoot draws what stage 1 is a part of. Firmware and loader ran before the
// kernel's clock did.
func wholeBoot(s *svg, r *bootreport.Report) {
	var rows []row
	add := func(name string, from, to float64, color string) {
		rows = append(rows, row{name, bootreport.Span{Start: from, End: to}, color, name + ": " + duration(to-from)})
	}
	heading := "From the kernel's start to stage 2"
	begin := -r.Firmware - r.Loader
	if begin < 0 {
		heading = "From power-on to stage 2"
		add("firmware", begin, -r.Loader, colorBefore)
		add("boot loader", -r.Loader, 0, colorBefore)
	}
	add("kernel, with its initrds", 0, r.Steps[0].Start, colorBefore)
	add("stage 1", r.Steps[0].Start, lastEnd(r), colorStep)
	x := newTimeScale(begin, lastEnd(r))
	panel(s, heading, rows, x)
	s.axis(x)
}

// steps draws stage 1 step by step, and the RAM in use over the same time.
func steps(s *svg, r *bootreport.Report) {
	var rows []row
	for _, step := range r.Steps {
		tip := fmt.Sprintf("%s: %s", step.Name, duration(step.Took()))
		if step.Bytes > 0 {
			tip += ", " + megabytes(step.Bytes)
		}
		rows = append(rows, row{step.Name, step.Span, colorStep, tip})
	}
	x := newTimeScale(r.Steps[0].Start, lastEnd(r))
	panel(s, "Stage 1 by steps: "+duration(x.to-x.from), rows, x)
	ram(s, r, x)
	s.axis(x)
}

// panel draws a heading, and rows with each bar's duration beside it.
func panel(s *svg, heading string, rows []row, x timeScale) {
	s.heading(heading)
	s.grid(x, float64(len(rows)*rowHeight))
	for _, r := range rows {
		at, w := s.bar(x, r.Span, r.color, r.tip)
		s.text(left-10, s.y+14, end, "", cut(r.name, (left-20)/charWidth))
		took := duration(r.Took())
		switch {
		case at+w+6+textWidth(took) < width-10:
			s.text(at+w+6, s.y+14, start, "note", took)
		case at-6-textWidth(took) > left:
			s.text(at-6, s.y+14, end, "note", took)
		default: // a bar over nearly all of the width
			s.text(at+w-6, s.y+14, end, "inside", took)
		}
		s.y += rowHeight
	}
}

func (s *svg) heading(text string) {
	s.y += 30
	s.text(20, s.y, start, "panel", text)
	s.y += 10
}

// bar draws a bar in the row at s.y. What is shorter than minBar is drawn as long
// as that.
func (s *svg) bar(x timeScale, span bootreport.Span, color, tip string) (at, w float64) {
	const minBar = 1.5
	at = min(x.at(span.Start), x.last-minBar)
	w = max(x.at(span.End)-at, minBar)
	s.rect(at, s.y+3, w, rowHeight-6, color, tip)
	return at, w
}

// grid draws the lines of a time axis behind what comes in the next pixels.
func (s *svg) grid(x timeScale, height float64) {
	at, _ := x.ticks()
	for _, px := range at {
		s.line(px, s.y, px, s.y+height, "grid")
	}
}

// axis draws a time axis.
func (s *svg) axis(x timeScale) {
	s.line(left, s.y, right, s.y, "axis")
	at, text := x.ticks()
	for i := range at {
		s.line(at[i], s.y, at[i], s.y+5, "axis")
		s.text(at[i], s.y+18, middle, "note", text[i])
	}
	s.y += 34
	s.text((left+right)/2, s.y, middle, "note", x.unit+" since the kernel's start")
}

// ram draws the RAM in use as a line.
func ram(s *svg, r *bootreport.Report, x timeScale) {
	const height = 90
	samples := slices.Clone(r.RAM)
	for _, step := range r.Steps {
		if step.RAMUsed > 0 {
			samples = append(samples, bootreport.Sample{At: step.End, RAMUsed: step.RAMUsed})
		}
	}
	samples = slices.DeleteFunc(samples, func(p bootreport.Sample) bool { return p.At < x.from || p.At > x.to })
	if len(samples) == 0 {
		return
	}
	slices.SortStableFunc(samples, func(a, b bootreport.Sample) int { return cmp.Compare(a.At, b.At) })
	most := int64(0)
	for _, p := range samples {
		most = max(most, p.RAMUsed)
	}
	s.y += 16
	s.grid(x, height)
	y := newScale(0, max(1, float64(most)/1e6*1.1), s.y+height, s.y)
	values, decimals := y.ticks(3)
	for _, v := range values {
		s.line(left, y.at(v), right, y.at(v), "grid")
		s.text(left-10, y.at(v)+4, end, "note", fmt.Sprintf("%.*f MB", decimals, v))
	}
	s.text(20, s.y+14, start, "", "RAM in use")
	var points strings.Builder
	for _, p := range samples {
		fmt.Fprintf(&points, "%.1f,%.1f ", x.at(p.At), y.at(float64(p.RAMUsed)/1e6))
	}
	fmt.Fprintf(&s.body, `<polyline points="%s" class="ram"/>`+"\n", strings.TrimSpace(points.String()))
	s.y += height
}

// workers draws verification and import, a lane for each worker, over a time of
// their own: they may be short beside the boot.
func workers(s *svg, r *bootreport.Report) {
	first, last, lanes := r.Work[0].Start, r.Work[0].End, 0
	var kinds []string
	for _, w := range r.Work {
		first, last, lanes = min(first, w.Start), max(last, w.End), max(lanes, w.Lane+1)
		if !slices.Contains(kinds, w.Name) && len(kinds) < len(colorsWork) {
			kinds = append(kinds, w.Name)
		}
	}
	heading := "Verification and import by workers: " + duration(last-first)
	if r.WorkLost > 0 {
		heading += fmt.Sprintf(" (%d more pieces of work were not kept)", r.WorkLost)
	}
	s.heading(heading)
	legend(s, kinds)
	x := newTimeScale(first, last)
	top := s.y
	s.grid(x, float64(lanes*rowHeight))
	for lane := range lanes {
		s.text(left-10, top+float64(lane*rowHeight)+14, end, "", fmt.Sprintf("worker %d", lane+1))
	}
	for _, w := range r.Work {
		s.y = top + float64(w.Lane*rowHeight)
		what := w.Name
		if w.File != "" {
			what += " " + path.Base(w.File)
		}
		at, barWidth := s.bar(x, w.Span, colorOf(w.Name, kinds), fmt.Sprintf("%s: %s", what, duration(w.Took())))
		const least = 5 // characters that say something
		if fits := int(barWidth-8) / charWidth; fits >= least {
			s.text(at+4, s.y+14, start, "inside", cut(what, fits))
		}
	}
	s.y = top + float64(lanes*rowHeight)
	s.axis(x)
}

// colorOf is the color of a kind of work. Kinds above the number of colors have
// none of their own.
func colorOf(kind string, kinds []string) string {
	if i := slices.Index(kinds, kind); i >= 0 {
		return colorsWork[i]
	}
	return colorBefore
}

// legend names the colors.
func legend(s *svg, kinds []string) {
	x := float64(left)
	for i, kind := range kinds {
		kind = cut(kind, 16)
		s.rect(x, s.y+3, 12, 12, colorsWork[i], kind)
		s.text(x+18, s.y+13, start, "", kind)
		x += 18 + textWidth(kind) + 16
	}
	s.y += rowHeight + 4
}

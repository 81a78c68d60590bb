package chart

import (
	"bytes"
	"encoding/xml"
	"fmt"
)

// svg is a picture that grows downwards.
type svg struct {
	body bytes.Buffer
	y    float64 // where the next thing begins
}

// Sizes in pixels.
const (
	width     = 1200
	left      = 190 // where the time axes begin; names are left of it
	right     = 1170
	rowHeight = 20
	fontSize  = 12
	charWidth = 7 // of a character in that size, about: fonts differ
)

// Anchors of a text.
const (
	start  = "start"
	middle = "middle"
	end    = "end"
)

func (s *svg) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(&s.body, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`+"\n", x, y, anchor, class, escape(text))
}

// rect draws a box, with what is shown when the mouse is on it.
func (s *svg) rect(x, y, w, h float64, color, tip string) {
	fmt.Fprintf(&s.body, `<rect x="%.2f" y="%.1f" width="%.2f" height="%.1f" fill="%s"><title>%s</title></rect>`+"\n", x, y, w, h, color, escape(tip))
}

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&s.body, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`+"\n", x1, y1, x2, y2, class)
}

// document is the whole picture.
func (s *svg) document(title string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" viewBox="0 0 %[1]d %.0[2]f">
<title>%s</title>
<style>
text { font: %dpx sans-serif; fill: #222 }
.title { font-size: 22px; font-weight: bold }
.panel { font-size: 15px; font-weight: bold }
.note { fill: #555 }
.inside { fill: #fff }
.grid { stroke: #ddd }
.axis { stroke: #888 }
.ram { stroke: #b5442d; stroke-width: 2; fill: none }
</style>
<rect width="100%%" height="100%%" fill="#fff"/>
`, width, s.y, escape(title), fontSize)
	out.Write(s.body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func escape(text string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(text)) // no error: a bytes.Buffer takes all
	return b.String()
}

// cut is text in at most n characters.
func cut(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n-1]) + "…"
}

// textWidth is about how wide a text is.
func textWidth(text string) float64 { return float64(len([]rune(text)) * charWidth) }

package chart

import (
	"fmt"
	"math"
)

// scale maps values to pixels.
type scale struct {
	from, to    float64
	first, last float64 // pixel of from, and of to
}

// minRange keeps a scale from being a point.
const minRange = 1e-3

func newScale(from, to, first, last float64) scale {
	return scale{from, max(to, from+minRange), first, last}
}

func (s scale) at(v float64) float64 {
	return s.first + (v-s.from)/(s.to-s.from)*(s.last-s.first)
}

// ticks are round numbers on the scale, about n of them, and how many decimals
// they need.
func (s scale) ticks(n int) (values []float64, decimals int) {
	rough := (s.to - s.from) / float64(n)
	magnitude := math.Pow(10, math.Floor(math.Log10(rough)))
	step := 10 * magnitude
	for _, m := range []float64{1, 2, 5} {
		if m*magnitude >= rough {
			step = m * magnitude
			break
		}
	}
	for i := math.Ceil(s.from / step); i*step <= s.to && len(values) <= 2*n; i++ {
		values = append(values, i*step)
	}
	return values, max(0, -int(math.Floor(math.Log10(step)+1e-9)))
}

// timeScale is a scale from milliseconds to the width of the picture, in the unit
// that its axis counts in.
type timeScale struct {
	scale
	unit  string
	count float64 // milliseconds of the unit
}

func newTimeScale(from, to float64) timeScale {
	t := timeScale{newScale(from, to, left, right), "milliseconds", 1}
	if to-from >= 2000 {
		t.unit, t.count = "seconds", 1000
	}
	return t
}

// ticks are as scale's, and the text of each.
func (t timeScale) ticks() (at []float64, text []string) {
	const about = 10
	inUnits := newScale(t.from/t.count, t.to/t.count, t.first, t.last)
	values, decimals := inUnits.ticks(about)
	for _, v := range values {
		at = append(at, inUnits.at(v))
		text = append(text, fmt.Sprintf("%.*f", decimals, v+0)) // no -0
	}
	return at, text
}

// duration is a time with two or three digits that count.
func duration(milliseconds float64) string {
	switch {
	case milliseconds >= 99_950:
		return fmt.Sprintf("%.0f s", milliseconds/1e3)
	case milliseconds >= 9995:
		return fmt.Sprintf("%.1f s", milliseconds/1e3)
	case milliseconds >= 999.5:
		return fmt.Sprintf("%.2f s", milliseconds/1e3)
	case milliseconds >= 9.95:
		return fmt.Sprintf("%.0f ms", milliseconds)
	case milliseconds >= 0.095:
		return fmt.Sprintf("%.1f ms", milliseconds)
	}
	return fmt.Sprintf("%.2f ms", milliseconds)
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

package vmtests

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// rounds is how often each variant is measured. The variants take turns, so that
// what else the machine does is shared among them.
var rounds = flag.Int("rounds", 3, "rounds of benchmarks that compare variants")

// results are what variants have shown, the first of which is what the others are
// compared with.
type results struct {
	Benchmark string   `json:"benchmark"`
	Machine   string   `json:"machine"` // on which it ran
	Go        string   `json:"go"`
	Rows      []result `json:"rows"`
}

// result is a variant. Values has, by what was measured, a value of each round;
// the names end with the unit.
type result struct {
	Variant string               `json:"variant"`
	Values  map[string][]float64 `json:"values"`
}

func newResults(b *testing.B, variants ...string) *results {
	b.Helper()
	r := &results{Benchmark: b.Name(), Machine: check[string](b)(describeMachine()), Go: runtime.Version()}
	for _, v := range variants {
		r.Rows = append(r.Rows, result{v, map[string][]float64{}})
	}
	return r
}

// describeMachine is the CPU, the number of them, the RAM and the kernel.
func describeMachine() (string, error) {
	cpu, err := fieldOf("/proc/cpuinfo", "model name")
	if err != nil {
		return "", err
	}
	ram, err := fieldOf("/proc/meminfo", "MemTotal")
	if err != nil {
		return "", err
	}
	kernel, err := output(exec.Command("uname", "-r"))
	return fmt.Sprintf("%s, CPUs: %d, RAM: %s, Linux %s", cmp.Or(cpu, runtime.GOARCH), runtime.NumCPU(), ram, strings.TrimSpace(kernel)), err
}

// fieldOf is the value of the first line "NAME: VALUE", or "".
func fieldOf(file, name string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		if key, value, ok := strings.Cut(scan.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", scan.Err()
}

func (r *results) add(variant int, values map[string]float64) {
	for name, v := range values {
		r.Rows[variant].Values[name] = append(r.Rows[variant].Values[name], v)
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", r.Rows[variant].Variant, values)
}

// report logs the columns as a table in Markdown, and leaves all values as JSON.
func (r *results) report(b *testing.B, columns ...string) {
	b.Helper()
	b.Logf("%s\nmedians (lowest to highest), × is the ratio to the first row:\n%s", r.Machine, r.table(columns))
	dir := cmp.Or(os.Getenv("VMTESTS_ARTIFACTS"), filepath.Join(check[*Cache](b)(openCache()).Dir(), "artifacts"))
	data := check[[]byte](b)(json.MarshalIndent(r, "", "  "))
	file := filepath.Join(dir, strings.ReplaceAll(r.Benchmark, "/", "-")+".json")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		b.Fatal(err)
	}
	b.Logf("all values are in %s", file)
}

func (r *results) table(columns []string) string {
	var s strings.Builder
	s.WriteString("| | " + strings.Join(columns, " | ") + " |\n|" + strings.Repeat(" --- |", len(columns)+1) + "\n")
	for _, row := range r.Rows {
		s.WriteString("| " + row.Variant + " |")
		for _, c := range columns {
			s.WriteString(" " + compare(row.Values[c], r.Rows[0].Values[c]) + " |")
		}
		s.WriteByte('\n')
	}
	return s.String()
}

// compare shows values with their spread, where there is one, and their ratio to a
// base's.
func compare(values, base []float64) string {
	if len(values) == 0 {
		return ""
	}
	text := significant(median(values))
	if low, high := slices.Min(values), slices.Max(values); low != high {
		text += " (" + significant(low) + "–" + significant(high) + ")"
	}
	if len(base) > 0 && median(base) != 0 {
		text += " ×" + significant(median(values)/median(base))
	}
	return text
}

// significant is a number with three digits that count, and no more decimals.
func significant(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		values, base []float64
		want         string
	}{
		{[]float64{3, 1, 2}, []float64{4, 4, 4}, "2.00 (1.00–3.00) ×0.500"},
		{[]float64{125.6}, []float64{10}, "126 ×12.6"},
		{[]float64{5, 5}, nil, "5.00"},
		{nil, []float64{1}, ""},
	} {
		if got := compare(c.values, c.base); got != c.want {
			t.Errorf("compare(%v, %v) = %s, want %s", c.values, c.base, got, c.want)
		}
	}
}

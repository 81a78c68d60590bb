package registration

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// BenchmarkReader reads a registration of 100,000 paths, with ten references each.
func BenchmarkReader(b *testing.B) {
	entries := make([]Entry, 100_000)
	path := func(i int) string { return fmt.Sprintf("/nix/store/%032d-package-1.0", i) }
	for i := range entries {
		e := Entry{Path: path(i), NarHash: hash, NarSize: 1, Deriver: path(i) + ".drv"}
		for j := range 10 {
			e.References = append(e.References, path((i+j*j)%len(entries)))
		}
		entries[i] = e
	}
	all := text(b, entries...)
	b.SetBytes(int64(len(all)))
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(strings.NewReader(all))
		n := 0
		for {
			_, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != len(entries) {
			b.Fatalf("%d entries, want %d", n, len(entries))
		}
	}
}

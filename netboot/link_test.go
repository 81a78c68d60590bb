package netboot

import (
	"slices"
	"strings"
	"testing"

	"stage1/manifest"
)

func TestDigests(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", (2*manifest.PieceSize+32)/16)
	for _, size := range []int{1, manifest.PieceSize, manifest.PieceSize + 1, len(text)} {
		var want []string
		for piece := range slices.Chunk([]byte(text[:size]), manifest.PieceSize) {
			want = append(want, sum(piece))
		}
		if len(want) == 1 {
			want = nil
		}
		whole, pieces, err := digests(t.Context(), strings.NewReader(text), int64(size))
		if err != nil || whole != sum([]byte(text[:size])) || !slices.Equal(pieces, want) {
			t.Errorf("digests of %d bytes = %s, %q, %v, want %s, %q", size, whole, pieces, err, sum([]byte(text[:size])), want)
		}
	}
	if _, _, err := digests(t.Context(), strings.NewReader(text), int64(len(text))+1); err == nil {
		t.Error("digests of more than there is = nil error")
	}
}

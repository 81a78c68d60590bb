package netboot

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// oddNames are names that a shell, a pattern, a URI or a list of lines would trip
// over.
var oddNames = []string{"a b", `it's "so"`, "-dash", "new\nline", "end\n", "*?[x]{y,z}", "$(id)`id`;#&", "ünï\xff", `back\slash\040`, "%41?#x:y"}

// TestNarHash compares with the archive that Nix makes.
func TestNarHash(t *testing.T) {
	s := newTestStore(t)
	odd := filepath.Join(t.TempDir(), "odd")
	for i, name := range oddNames {
		writeFile(t, filepath.Join(odd, name, "file"), "1234567890"[:i], 0o755)
		if err := os.Symlink(name, filepath.Join(odd, name+"-link")); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{s.real(s.tools), s.real(s.file), s.real(s.link), s.real(s.kernel), odd} {
		got, err := narHash(t.Context(), file)
		if want := sum([]byte(run(t, "nix-store", "--dump", file))); got != want || err != nil {
			t.Errorf("narHash(%q) = %s, %v, want %s", file, got, err, want)
		}
	}
	run(t, "mkfifo", filepath.Join(odd, "fifo"))
	_, err := narHash(t.Context(), odd)
	wantError(t, "narHash of a fifo", err, filepath.Join(odd, "fifo"))
	_, err = narHash(t.Context(), odd+"-absent")
	wantError(t, "narHash of nothing", err, odd+"-absent")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = narHash(ctx, odd)
	wantError(t, "narHash, stopped", err, "canceled")
}

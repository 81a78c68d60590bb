package registration

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const (
	pathA = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a"
	pathB = "/nix/store/zyxwvsrqpnmlkjihgfdcba9876543210-b-1.0"
	hash  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

var twoEntries = []Entry{
	{Path: pathA, NarHash: hash, NarSize: 120, Deriver: pathB + ".drv", References: []string{pathA, pathB}},
	{Path: pathB, NarHash: hash, NarSize: 1},
}

func text(t testing.TB, entries ...Entry) string {
	t.Helper()
	var b strings.Builder
	for i := range entries {
		if err := Write(&b, &entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func readAll(r io.Reader) ([]Entry, error) {
	var all []Entry
	for reader := NewReader(r); ; {
		e, err := reader.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, *e)
	}
}

func TestRoundTrip(t *testing.T) {
	plain := text(t, twoEntries...)
	for _, in := range []string{plain, strings.TrimSuffix(plain, "\n"), plain + "\n", plain + "\n\n"} {
		got, err := readAll(strings.NewReader(in))
		if in == strings.TrimSuffix(plain, "\n") {
			// closureInfo's last newline may be missing, an item may not.
			if err != nil {
				t.Errorf("without the last newline: %v", err)
			}
		}
		if err != nil || !reflect.DeepEqual(got, twoEntries) {
			t.Errorf("Next of %q = %+v, %v, want %+v", in, got, err, twoEntries)
		}
	}
}

func TestNextRefuses(t *testing.T) {
	plain := text(t, twoEntries...)
	lines := strings.SplitAfter(plain, "\n")
	for _, c := range []struct{ name, in, want string }{
		{"cut in an entry", strings.Join(lines[:3], ""), "line 4: deriver: the input ends"},
		{"cut in references", strings.Join(lines[:6], ""), "line 7: reference: the input ends"},
		{"garbage", "\x00\x01\x02", "line 1"},
		{"more garbage", strings.Repeat("\x00", 4000), `line 1: "\x00\x00`},
		{"a relative path", "nix/store/x\n", "line 1"},
		{"a path that leads out", strings.Replace(plain, pathA, "/nix/store/../etc/passwd", 1), "not a store path"},
		{"a hash that is none", strings.Replace(plain, hash, "123", 1), "line 2"},
		{"a size that is none", strings.Replace(plain, "\n120\n", "\n-1\n", 1), "line 3: NAR size"},
		{"more references than lines", strings.Replace(plain, "\n2\n", "\n100000\n", 1), "line 9: reference"},
		{"more references than there can be", strings.Replace(plain, "\n2\n", "\n18446744073709551615\n", 1), "line 5: number of references: 18446744073709551615, want at most 100000"},
		{"an entry after the end", plain + "\n" + plain, "line 14: an entry follows an empty line"},
		{"a long line", strings.Repeat("x", MaxLine+1), "token too long"},
	} {
		_, err := readAll(strings.NewReader(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Next = %v, want an error with %q", c.name, err, c.want)
		} else if n := len(err.Error()); n > 1200 {
			t.Errorf("%s: the error has %d bytes: %v", c.name, n, err)
		}
	}
}

func TestCheckHash(t *testing.T) {
	b32 := strings.Repeat("0", 52)
	b64 := strings.Repeat("A", 43) + "="
	for s, want := range map[string]bool{
		hash: true, "sha256:" + hash: true, "sha256:" + b32: true, "sha256:" + b64: true, "sha256-" + b64: true,
		"": false, b32: false, b64: false, "sha256-" + hash: false, "sha256:sha256-" + b64: false, strings.ToUpper(hash): false, "md5:" + hash: false,
	} {
		if err := CheckHash(s); (err == nil) != want {
			t.Errorf("CheckHash(%q) = %v, want it good: %v", s, err, want)
		}
	}
}

// TestNix reads what a real Nix dumps, and has Nix load what Write writes.
func TestNix(t *testing.T) {
	dir := t.TempDir()
	env := func(state string) []string {
		return append(os.Environ(), "NIX_REMOTE=", "NIX_CONF_DIR="+dir, "NIX_STORE_DIR="+filepath.Join(dir, "store"),
			"NIX_STATE_DIR="+filepath.Join(dir, state), "NIX_LOG_DIR="+filepath.Join(dir, "log"))
	}
	nix := func(state, stdin string, args ...string) string {
		t.Helper()
		cmd := exec.Command("nix-store", args...)
		cmd.Env, cmd.Stdin = env(state), strings.NewReader(stdin)
		var errText bytes.Buffer
		cmd.Stderr = &errText
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("nix-store %q: %v\n%s", args, err, errText.String())
		}
		return string(out)
	}
	file := filepath.Join(dir, "hello")
	if err := os.WriteFile(file, []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := strings.TrimSpace(nix("one", "", "--add", file))
	dump := nix("one", "", "--dump-db")
	entries, err := readAll(strings.NewReader(dump))
	if err != nil || len(entries) != 1 || entries[0].Path != path {
		t.Fatalf("read of --dump-db = %+v, %v, want %s\n%s", entries, err, path, dump)
	}
	nix("two", text(t, entries...), "--load-db")
	if got := nix("two", "", "--dump-db"); got != dump {
		t.Errorf("--dump-db after --load-db = %q, want %q", got, dump)
	}
}

func TestDecompress(t *testing.T) {
	plain := text(t, twoEntries...)
	var gz, zst bytes.Buffer
	g := gzip.NewWriter(&gz)
	fmt.Fprint(g, plain)
	g.Close()
	z, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(z, plain)
	z.Close()
	for name, in := range map[string]string{"plain": plain, "gzip": gz.String(), "zstd": zst.String(), "empty": ""} {
		r, err := Decompress(strings.NewReader(in))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if want := plain; err != nil || (string(got) != want && name != "empty") {
			t.Errorf("Decompress of %s = %q, %v, want %q", name, got, err, want)
		}
	}
	for name, in := range map[string]string{"gzip": gz.String(), "zstd": zst.String()} {
		r, err := Decompress(strings.NewReader(in[:len(in)-5]))
		if err == nil {
			_, err = readAll(r)
			r.Close()
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Decompress of %s less 5 bytes: %v, want unexpected EOF", name, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(text(f, twoEntries...))
	f.Add(text(f, twoEntries[0])[:100])
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, in string) {
		entries, err := readAll(strings.NewReader(in))
		if err != nil {
			return
		}
		out := text(t, entries...)
		again, err := readAll(strings.NewReader(out))
		if err != nil || !reflect.DeepEqual(again, entries) {
			t.Errorf("read of what Write gave = %+v, %v, want %+v", again, err, entries)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 4, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := Decompress(bytes.NewReader(in))
		if err != nil {
			return
		}
		defer r.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
	})
}

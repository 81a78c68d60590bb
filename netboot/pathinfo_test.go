package netboot

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"stage1/manifest"
	"stage1/registration"
)

// TestPathInfo reads one closure as each version of Nix describes it.
func TestPathInfo(t *testing.T) {
	want, err := os.ReadFile("testdata/path-info/registration")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/path-info/nix-*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("test data: %q, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := parsePathInfo(data, manifest.StoreDir)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if got := registrationText(t, entries); got != string(want) {
			t.Errorf("%s gives\n%s\nwant\n%s", file, got, want)
		}
	}
}

func registrationText(t *testing.T, entries []*registration.Entry) string {
	t.Helper()
	var b bytes.Buffer
	for _, e := range entries {
		if err := registration.Write(&b, e); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestPathInfoRefuses(t *testing.T) {
	const p = "/nix/store/00000000000000000000000000000000-a"
	for _, test := range []struct{ json, want string }{
		{`[{"path": "` + p + `", "valid": false}]`, p + ": not a valid store path"},
		{`{"` + p + `": null}`, p + ": not a valid store path"},
		{`{"` + p + `": {"narHash": "md5:00"}}`, p + `: "md5:00" is not a SHA-256`},
		{`{"` + p + `": {"narHash": 3}}`, "want a string or an object"},
		{`{"` + p + `": {}}`, "narHash"},
		{`[null]`, "element 0 is null"},
		{`{"info": 3}`, "nix path-info --json"},
		{`error: no`, "nix path-info --json"},
	} {
		_, err := parsePathInfo([]byte(test.json), manifest.StoreDir)
		wantError(t, test.json, err, test.want)
	}
}

// TestBase16Hash has one hash in all its forms, by `nix hash to-base32` and so on.
func TestBase16Hash(t *testing.T) {
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	for _, s := range []string{
		want, "sha256:" + want,
		"sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
		"sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
		"sha256:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
	} {
		if got, err := base16Hash(s); got != want || err != nil {
			t.Errorf("base16Hash(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
	for _, s := range []string{"", "sha256:", "sha1-AAAA", "sha256:z" + string(bytes.Repeat([]byte("0"), 51))} {
		if got, err := base16Hash(s); err == nil {
			t.Errorf("base16Hash(%q) = %q, want an error", s, got)
		}
	}
}

func FuzzPathInfo(f *testing.F) {
	files, err := filepath.Glob("testdata/path-info/nix-*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parsePathInfo(data, manifest.StoreDir)
		if err != nil {
			return
		}
		for _, e := range entries {
			if len(e.NarHash) != 64 {
				t.Errorf("hash %q, want 64 digits", e.NarHash)
			}
		}
	})
}

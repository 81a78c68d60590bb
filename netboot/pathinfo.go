package netboot

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"path"
	"slices"
	"strings"

	"stage1/registration"
)

// pathInfo is what `nix path-info --json` says of one store path.
type pathInfo struct {
	Path       string          `json:"path"`    // up to Nix 2.18
	Valid      *bool           `json:"valid"`   // up to Nix 2.18, false or absent
	NarHash    json.RawMessage `json:"narHash"` // see parseNarHash
	NarSize    uint64          `json:"narSize"` // bytes
	Deriver    *string         `json:"deriver"`
	References []string        `json:"references"`
}

// parsePathInfo reads the output of `nix path-info --json --recursive`, whose
// form differs between versions of Nix:
//
//   - to 2.18 and Lix: an array, an element a path;
//   - from 2.19: an object, keyed by path; null for a path that is not valid;
//   - as "store object info v2" (2.33): {"version", "storeDir", "info"} around
//     such an object, all paths in it by base name.
//
// storeDir is where base names belong. Entries are sorted by path, their hashes
// in base 16.
func parsePathInfo(data []byte, storeDir string) ([]*registration.Entry, error) {
	byPath, err := splitPathInfo(data)
	if err != nil {
		return nil, fmt.Errorf("nix path-info --json: %w", err)
	}
	entries := make([]*registration.Entry, 0, len(byPath))
	for _, p := range byPath {
		e, err := p.info.entry(p.path, storeDir)
		if err != nil {
			return nil, fmt.Errorf("nix path-info --json: %s: %w", p.path, err)
		}
		entries = append(entries, e)
	}
	sortEntries(entries)
	return entries, nil
}

type namedInfo struct {
	path string
	info *pathInfo // nil: not valid
}

func splitPathInfo(data []byte) ([]namedInfo, error) {
	var infos []namedInfo
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		var list []*pathInfo
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, err
		}
		for i, info := range list {
			if info == nil {
				return nil, fmt.Errorf("element %d is null", i)
			}
			infos = append(infos, namedInfo{info.Path, info})
		}
		return infos, nil
	}
	var wrapped struct {
		Info map[string]*pathInfo `json:"info"`
	}
	if err := json.Unmarshal(data, &wrapped); err != nil {
		return nil, err
	}
	byPath := wrapped.Info
	if byPath == nil {
		if err := json.Unmarshal(data, &byPath); err != nil {
			return nil, err
		}
	}
	for p, info := range byPath {
		infos = append(infos, namedInfo{p, info})
	}
	return infos, nil
}

func (p *pathInfo) entry(name, storeDir string) (*registration.Entry, error) {
	if p == nil || p.Valid != nil && !*p.Valid {
		return nil, errors.New("not a valid store path: build or substitute it first")
	}
	hash, err := parseNarHash(p.NarHash)
	if err != nil {
		return nil, err
	}
	e := &registration.Entry{Path: absolute(name, storeDir), NarHash: hash, NarSize: p.NarSize}
	if p.Deriver != nil && *p.Deriver != "" {
		e.Deriver = absolute(*p.Deriver, storeDir)
	}
	for _, ref := range p.References {
		e.References = append(e.References, absolute(ref, storeDir))
	}
	return e, nil
}

// absolute returns a store path that may be given by its base name.
func absolute(p, storeDir string) string {
	if path.IsAbs(p) {
		return p
	}
	return storeDir + "/" + p
}

// parseNarHash returns a NAR's SHA-256 in base 16. It is a string (SRI, or
// "sha256:" and base 32, 16 or 64), or an object of algorithm, format and hash.
func parseNarHash(raw json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err == nil {
		return base16Hash(s)
	}
	var o struct {
		Algorithm, Format, Hash string
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return "", fmt.Errorf("narHash is %.80q, want a string or an object", raw)
	}
	return base16Hash(o.Algorithm + ":" + o.Hash)
}

// base16Hash turns a hash in a form that registration.CheckHash takes into 64
// hexadecimal digits, as `nix-store --dump-db` writes it.
func base16Hash(s string) (string, error) {
	if err := registration.CheckHash(s); err != nil {
		return "", err
	}
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "sha256:"), "sha256-")
	switch len(digits) {
	case 64:
		return digits, nil
	case 44:
		b, err := base64.StdEncoding.Strict().DecodeString(digits)
		if err != nil {
			return "", fmt.Errorf("hash %q: %w", s, err)
		}
		return hex.EncodeToString(b), nil
	}
	return decodeBase32(digits)
}

// decodeBase32 decodes a SHA-256 in Nix's base 32: one big number, digit by
// digit, whose least significant byte is the hash's first (printHash32 in Nix's
// libutil).
func decodeBase32(digits string) (string, error) {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	n := new(big.Int)
	for _, c := range []byte(digits) {
		n.Lsh(n, 5).Or(n, big.NewInt(int64(strings.IndexByte(alphabet, c))))
	}
	// 52 digits are 260 bits, 4 more than a SHA-256 has.
	if n.BitLen() > 256 {
		return "", fmt.Errorf("hash %q is more than 256 bits", digits)
	}
	b := n.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	return hex.EncodeToString(b), nil
}

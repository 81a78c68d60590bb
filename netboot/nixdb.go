package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"stage1/manifest"
	"stage1/registration"
)

// nixDatabase is what Nix keeps in /nix/var/nix/db.
type nixDatabase struct {
	sqlite []byte // db.sqlite, whole in itself: there is no write-ahead log
	schema []byte // its version, in decimal: 10 since Nix 2.0
}

// loadDatabase makes the database of store paths with the Nix at hand, as
// `nix-store --load-db` does in a booted system. scratch is an empty directory,
// which becomes a Nix store of its own. The result is a function of the entries,
// and of the versions of Nix and of its SQLite.
func loadDatabase(ctx context.Context, program, scratch string, s store, entries []*registration.Entry) (*nixDatabase, error) {
	var text bytes.Buffer
	for _, e := range entries {
		if err := registration.Write(&text, e); err != nil {
			return nil, err
		}
		// Nix looks into a derivation for the outputs that it has to know too.
		if strings.HasSuffix(e.Path, ".drv") {
			if err := copyDerivation(s.real(e.Path), filepath.Join(scratch, e.Path)); err != nil {
				return nil, err
			}
		}
	}
	// A path that stands alone ends at a "?" for Nix (splitUriAndParams); a value
	// is decoded as in a URI, but for the "+".
	root := strings.ReplaceAll(url.QueryEscape(scratch), "+", "%20")
	cmd := exec.CommandContext(ctx, program, "--store", "local?root="+root,
		"--option", "fsync-metadata", "false", // the scratch store need not outlive a power cut
		"--option", "build-users-group", "",
		"--option", "gc-reserved-space", "0",
		"--load-db")
	// No configuration of this machine or user shapes the result.
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + scratch, "USER=nobody",
		"NIX_CONF_DIR=" + scratch, "NIX_STORE_DIR=" + manifest.StoreDir,
	}
	var output bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &text, &output, &output
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s: %w%s", strings.Join(cmd.Args, " "), err, tail(output.Bytes()))
	}
	dir := filepath.Join(scratch, "nix/var/nix/db")
	// SQLite writes the log back and removes it when the last user closes.
	if info, err := os.Stat(filepath.Join(dir, "db.sqlite-wal")); err == nil && info.Size() > 0 {
		return nil, fmt.Errorf("%s was left with a write-ahead log of %d bytes, which would be lost: is the disk full?", filepath.Join(dir, "db.sqlite"), info.Size())
	}
	db := &nixDatabase{}
	for name, content := range map[string]*[]byte{"db.sqlite": &db.sqlite, "schema": &db.schema} {
		var err error
		if *content, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return db, setTimes(db.sqlite, entries, begin, time.Now())
}

func copyDerivation(file, to string) error {
	if err := os.MkdirAll(path.Dir(to), 0o755); err != nil {
		return err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o444)
}

// setTimes sets the time at which each path was registered to 1, the time of
// every file in a Nix store. Nix takes the clock's, which differs from build to
// build.
//
// It need not parse the file for that: in a row of ValidPaths the columns path,
// hash and registrationTime follow each other, and a record holds its columns'
// values without a gap (SQLite's file format, section 2.1): a text, a text, and
// an integer, which is big-endian and, from 1970 to 2038, of 4 bytes.
func setTimes(db []byte, entries []*registration.Entry, begin, end time.Time) error {
	const prefix, digits = "sha256:", 64
	byHash := make(map[string][]*registration.Entry, len(entries))
	for _, e := range entries {
		byHash[e.NarHash] = append(byHash[e.NarHash], e)
	}
	done := make(map[string]bool, len(entries))
	for at := bytes.Index(db, []byte(prefix)); at >= 0 && at+len(prefix)+digits+4 <= len(db); {
		hash := db[at+len(prefix):][:digits]
		for _, e := range byHash[string(hash)] {
			if !bytes.HasSuffix(db[:at], []byte(e.Path)) {
				continue
			}
			field := db[at+len(prefix)+digits:][:4]
			if n := int64(binary.BigEndian.Uint32(field)); n < begin.Unix() || n > end.Unix() {
				return fmt.Errorf("the Nix database has no time where it should be for %s, but %d", e.Path, n)
			}
			binary.BigEndian.PutUint32(field, 1)
			done[e.Path] = true
		}
		next := bytes.Index(db[at+1:], []byte(prefix))
		if next < 0 {
			break
		}
		at += 1 + next
	}
	for _, e := range entries {
		if !done[e.Path] {
			return fmt.Errorf("the Nix database has no row for %s", e.Path)
		}
	}
	return nil
}

package netboot

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// narHash returns the SHA-256, in base 16, of what is at file as a Nix archive
// (Nix manual, "Nix Archive (NAR) format"). It is what the registration has of a
// store path.
func narHash(ctx context.Context, file string) (string, error) {
	h := sha256.New()
	w := &narWriter{ctx: ctx, w: bufio.NewWriterSize(h, 64<<10)}
	w.strings("nix-archive-1")
	if err := w.object(file); err != nil {
		return "", fmt.Errorf("NAR: %w", err)
	}
	if err := w.w.Flush(); err != nil {
		return "", fmt.Errorf("NAR of %s: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// A narWriter writes to a hash, which never fails.
type narWriter struct {
	ctx context.Context
	w   *bufio.Writer
}

func (w *narWriter) strings(list ...string) {
	for _, s := range list {
		w.length(int64(len(s)))
		w.w.WriteString(s)
		w.pad(int64(len(s)))
	}
}

func (w *narWriter) length(n int64) {
	w.w.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

// pad fills up what follows a length to a multiple of 8 bytes.
func (w *narWriter) pad(n int64) { w.w.Write(make([]byte, -n&7)) }

func (w *narWriter) object(file string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	w.strings("(", "type")
	switch info.Mode().Type() {
	case 0:
		err = w.regular(file, info)
	case fs.ModeSymlink:
		var target string
		target, err = os.Readlink(file)
		w.strings("symlink", "target", target)
	case fs.ModeDir:
		err = w.directory(file)
	default:
		err = fmt.Errorf("%s is neither file, directory nor symlink", file)
	}
	w.strings(")")
	return err
}

func (w *narWriter) regular(file string, info fs.FileInfo) error {
	w.strings("regular")
	if info.Mode()&0o100 != 0 {
		w.strings("executable", "")
	}
	w.strings("contents")
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w.length(info.Size())
	n, err := io.Copy(w.w, io.LimitReader(f, info.Size()))
	if err != nil {
		return err
	}
	if n != info.Size() {
		return fmt.Errorf("%s has become shorter: %d of %d bytes", file, n, info.Size())
	}
	w.pad(n)
	return nil
}

func (w *narWriter) directory(dir string) error {
	w.strings("directory")
	list, err := os.ReadDir(dir) // sorted, as a NAR is
	if err != nil {
		return err
	}
	for _, d := range list {
		w.strings("entry", "(", "name", d.Name(), "node")
		if err := w.object(filepath.Join(dir, d.Name())); err != nil {
			return err
		}
		w.strings(")")
	}
	return nil
}

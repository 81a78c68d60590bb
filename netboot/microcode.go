package netboot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

// earlySize returns the size in bytes of the uncompressed cpio archives at the
// start of an initrd whose files are all below kernel/. The kernel looks into
// them before it unpacks the initrd: for CPU microcode at kernel/x86/microcode,
// for ACPI tables at kernel/firmware/acpi (Linux
// Documentation/arch/x86/microcode.rst).
func earlySize(r io.ReaderAt, size int64) (int64, error) {
	var end int64
	for {
		next, early, err := earlyArchive(r, end, size)
		if err != nil {
			return 0, err
		}
		if !early {
			return end, nil
		}
		end = next
	}
}

// earlyArchive says whether a newc archive that starts at off has files below
// kernel/ only, and where it and the zeros behind it end.
func earlyArchive(r io.ReaderAt, off, size int64) (end int64, early bool, err error) {
	for {
		h, err := readCPIOHeader(r, off, size)
		if err != nil || h == nil {
			return 0, false, err
		}
		if h.name == trailer {
			end, err := skipZeros(r, h.end, size)
			return end, early, err
		}
		name := path.Clean(h.name)
		isDir := h.mode&0o170000 == modeDir
		switch {
		case isDir && (name == "." || name == "kernel"):
		case strings.HasPrefix(name, "kernel/"):
			early = early || !isDir
		default:
			return 0, false, nil
		}
		off = h.end
	}
}

type cpioHeader struct {
	name string
	mode uint32
	end  int64 // where the next header is
}

// readCPIOHeader reads the header at off, or returns nil where there is none.
func readCPIOHeader(r io.ReaderAt, off, size int64) (*cpioHeader, error) {
	if size-off < headerSize {
		return nil, nil
	}
	var h [headerSize]byte
	if _, err := r.ReadAt(h[:], off); err != nil {
		return nil, err
	}
	if string(h[:6]) != "070701" {
		return nil, nil
	}
	var field [13]uint32
	for i := range field {
		n, err := strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return nil, fmt.Errorf("cpio header at %d: %w", off, err)
		}
		field[i] = uint32(n)
	}
	mode, fileSize, nameSize := field[1], int64(field[6]), int64(field[11])
	data := align4(off + headerSize + nameSize)
	end := align4(data + fileSize)
	if nameSize < 1 || nameSize > maxName || data+fileSize > size {
		return nil, fmt.Errorf("cpio header at %d: name of %d bytes and data of %d do not fit into %d", off, nameSize, fileSize, size)
	}
	name := make([]byte, nameSize)
	if _, err := r.ReadAt(name, off+headerSize); err != nil {
		return nil, err
	}
	text, _, _ := strings.Cut(string(name), "\x00")
	return &cpioHeader{text, mode, min(end, size)}, nil
}

func align4(n int64) int64 { return (n + 3) &^ 3 }

// skipZeros returns where the zeros at off end.
func skipZeros(r io.ReaderAt, off, size int64) (int64, error) {
	buf := make([]byte, pageSize)
	for off < size {
		n, err := r.ReadAt(buf[:min(pageSize, size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i, b := range buf[:n] {
			if b != 0 {
				return off + int64(i), nil
			}
		}
		off += int64(n)
	}
	return off, nil
}

// copyEarly writes the early archives of the initrd in file to w. What follows
// must be compressed, or start at a multiple of 4.
func copyEarly(w io.Writer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	n, err := earlySize(f, info.Size())
	if err == nil {
		_, err = io.Copy(w, io.NewSectionReader(f, 0, n))
	}
	if err != nil {
		return fmt.Errorf("microcode in %s: %w", file, err)
	}
	return nil
}

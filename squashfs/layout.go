package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// padding is what a linked image's size is a multiple of, in bytes.
const padding = 4 << 10

// Layout is a linked image: what was written anew, and references to the inputs.
// It is read from the inputs as it is read, so they have to stay open and must
// not change. Its methods may be called concurrently if the inputs' may.
type Layout struct {
	extents []extent // without gaps
	size    int64
	stats   Stats
}

// newLayout returns the layout of head, extents at their places, and tail.
func newLayout(head []byte, extents []extent, tail []byte) *Layout {
	l := new(Layout)
	add := func(e extent) {
		e.to = l.size
		l.extents = append(l.extents, e)
		l.size += e.size
	}
	add(extent{from: bytes.NewReader(head), size: int64(len(head))})
	gap := bytes.NewReader(make([]byte, alignTo))
	for _, e := range extents {
		if e.to > l.size {
			add(extent{from: gap, size: e.to - l.size})
		}
		add(e)
	}
	add(extent{from: bytes.NewReader(tail), size: int64(len(tail))})
	return l
}

// Size returns the size of the image in bytes, a multiple of 4096.
func (l *Layout) Size() int64 { return l.size }

// Stats returns what the image holds.
func (l *Layout) Stats() Stats { return l.stats }

// ReadAt implements [io.ReaderAt].
func (l *Layout) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("squashfs: read at negative offset %d", off)
	}
	i, found := slices.BinarySearchFunc(l.extents, off, func(e extent, off int64) int {
		return int(min(max(e.to-off, -1), 1))
	})
	if !found {
		i--
	}
	for n < len(p) && off < l.size {
		e := l.extents[i]
		skip := off - e.to
		want := int(min(int64(len(p)-n), e.size-skip))
		got, err := e.from.ReadAt(p[n:n+want], e.off+skip)
		n += got
		off += int64(got)
		if got < want {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		i++
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteTo implements [io.WriterTo]. From file to file, data is copied within the
// kernel.
func (l *Layout) WriteTo(w io.Writer) (n int64, err error) {
	for _, e := range l.extents {
		m, err := e.writeTo(w)
		n += m
		if err != nil {
			return n, fmt.Errorf("write %d bytes at byte %d of the linked image: %w", e.size, e.to, err)
		}
	}
	return n, nil
}

func (e extent) writeTo(w io.Writer) (n int64, err error) {
	if from, ok := e.from.(*os.File); ok {
		if to, ok := w.(*os.File); ok {
			if n, err = copyFileRange(to, from, e.off, e.size); err != nil {
				return n, err
			}
		}
	}
	m, err := io.Copy(w, io.NewSectionReader(e.from, e.off+n, e.size-n))
	n += m
	if err == nil && n < e.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// copyFileRange copies size bytes at byte off of one file to another's position,
// or as many as the kernel can: the file systems may not have it.
func copyFileRange(to, from *os.File, off, size int64) (n int64, err error) {
	for n < size {
		// A file system that can share blocks does so from the first aligned
		// offset on.
		want := min(size-n, 1<<30)
		if ahead := -off & (alignTo - 1); ahead > 0 {
			want = min(want, ahead)
		}
		m, err := unix.CopyFileRange(int(from.Fd()), &off, int(to.Fd()), nil, int(want), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EXDEV), // two file systems, before 5.3
			errors.Is(err, unix.ENOSYS),     // before 4.5
			errors.Is(err, unix.EINVAL),     // not a regular file, such as a pipe
			errors.Is(err, unix.EOPNOTSUPP), // a network file system
			errors.Is(err, unix.EBADF):      // opened to append
			return n, nil
		case err != nil:
			return n, os.NewSyscallError("copy_file_range", err)
		case m == 0: // the end of the file, or one in /proc
			return n, nil
		}
		n += int64(m)
	}
	return n, nil
}

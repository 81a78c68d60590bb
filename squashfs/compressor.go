package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"

	"github.com/anchore/go-lzo"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	xzdecoder "github.com/therootcompany/xz"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// maxDictionary is the largest dictionary in bytes that a block may be compressed
// with: what a block of 1 MiB and mksquashfs's options can ask for.
const maxDictionary = maxBlockSize

// A decompressor unpacks src into dst and returns how many bytes that are. It
// returns errTooLong, or another error, where they are more than dst has. What
// dst has room for behind its end it may overwrite. It is not safe for concurrent
// use.
type decompressor func(dst, src []byte) (n int, err error)

// errTooLong says that a block unpacks to more than it may.
var errTooLong = errors.New("unpacks to more bytes than a block has")

// newDecompressor returns a decompressor for c, which must be valid.
func newDecompressor(c Compressor) decompressor {
	switch c {
	case Gzip:
		return newZlibDecompressor()
	case LZMA:
		return func(dst, src []byte) (int, error) {
			r, err := lzma.ReaderConfig{DictCap: maxDictionary}.NewReader(bytes.NewReader(src))
			if err != nil {
				return 0, err
			}
			return readBlock(dst, r)
		}
	case LZO:
		return func(dst, src []byte) (int, error) { return lzo.Decompress(src, dst) }
	case XZ:
		// The kernel's own decoder, translated: it knows the filters that
		// mksquashfs -Xbcj may choose, which ulikunitz/xz does not.
		return func(dst, src []byte) (int, error) {
			r, err := xzdecoder.NewReader(bytes.NewReader(src), maxDictionary)
			if err != nil {
				return 0, err
			}
			return readBlock(dst, r)
		}
	case LZ4:
		return func(dst, src []byte) (int, error) { return lz4.UncompressBlock(src, dst) }
	default:
		return newZstdDecompressor()
	}
}

func newZlibDecompressor() decompressor {
	var r io.ReadCloser
	return func(dst, src []byte) (int, error) {
		var err error
		if r == nil {
			r, err = zlib.NewReader(bytes.NewReader(src))
		} else {
			err = r.(zlib.Resetter).Reset(bytes.NewReader(src), nil)
		}
		if err != nil {
			return 0, err
		}
		return readBlock(dst, r)
	}
}

func newZstdDecompressor() decompressor {
	// NewReader fails on options out of range only.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDictionary))
	if err != nil {
		panic(err)
	}
	return func(dst, src []byte) (int, error) {
		b, err := d.DecodeAll(src, dst[:0])
		if err == nil && len(b) > len(dst) {
			err = errTooLong
		}
		if err != nil {
			return 0, err
		}
		return copy(dst, b), nil // which is dst already, unless that was too short on the way
	}
}

// readBlock reads all of r into dst.
func readBlock(dst []byte, r io.Reader) (int, error) {
	n, err := io.ReadFull(r, dst)
	if err == nil {
		// A stream's checksum is compared at its end.
		var more [1]byte
		if _, err = io.ReadFull(r, more[:]); err == nil {
			err = errTooLong
		}
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF && n > 0 {
		err = nil
	}
	return n, err
}

// A compressor packs a metadata block: it appends src, compressed, to dst. It is
// not safe for concurrent use.
type compressor func(dst, src []byte) []byte

// newCompressor returns a compressor for c, or nil where there is no library for
// it: then metadata is stored, which every reader takes.
func newCompressor(c Compressor) compressor {
	switch c {
	case Gzip:
		w, err := zlib.NewWriterLevel(nil, zlib.BestCompression)
		return streamCompressor(w, err)
	case XZ:
		return func(dst, src []byte) []byte {
			// The kernel checks no CRC64, and takes dictionaries up to the
			// size of a metadata block whatever the options block says.
			w, err := xz.WriterConfig{DictCap: metadataSize, CheckSum: xz.CRC32}.NewWriter((*appender)(&dst))
			must(err)
			_, err = w.Write(src)
			must(err)
			must(w.Close())
			return dst
		}
	case LZ4:
		var lz lz4.CompressorHC
		return func(dst, src []byte) []byte {
			start, bound := len(dst), lz4.CompressBlockBound(len(src))
			dst = slices.Grow(dst, bound)
			n, err := lz.CompressBlock(src, dst[start:start+bound])
			must(err)
			return dst[:start+n]
		}
	case Zstd:
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(metadataSize), zstd.WithSingleSegment(true))
		must(err)
		return func(dst, src []byte) []byte { return w.EncodeAll(src, dst) }
	default:
		return nil
	}
}

// streamCompressor returns a compressor that reuses the zlib writer w.
func streamCompressor(w *zlib.Writer, err error) compressor {
	must(err)
	return func(dst, src []byte) []byte {
		w.Reset((*appender)(&dst))
		_, err := w.Write(src)
		must(err)
		must(w.Close())
		return dst
	}
}

// appender is an io.Writer to a slice. Its Write does not fail.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// must is for errors of compressors, which report only those of their settings,
// which are constants here, and of the writer below them, an appender.
func must(err error) {
	if err != nil {
		panic(fmt.Errorf("squashfs: compress metadata: %w", err))
	}
}

// The compressor options block is a stored metadata block right after the
// superblock, there if flagCompressorOptions is set. For all compressors but xz
// and lz4 it holds what only mksquashfs heeds, such as the level. It is struct
// comp_opts of the kernel's fs/squashfs/xz_wrapper.c and lz4_wrapper.c:
//
//	xz   dictionary size in bytes (2^n or 2^n + 2^(n+1)) uint32, filters uint32
//	lz4  version (1: legacy) uint32, flags uint32
const (
	xzOptionsSize  = 8
	lz4OptionsSize = 8
	lz4Legacy      = 1
)

// checkOptions returns an error for an options block that the kernel refuses.
func checkOptions(c Compressor, options []byte) error {
	le := binary.LittleEndian
	switch {
	case c == LZ4 && len(options) < lz4OptionsSize:
		return errors.New("lz4 without a compressor options block")
	case c == LZ4 && le.Uint32(options) != lz4Legacy:
		return fmt.Errorf("lz4 version %d, want %d", le.Uint32(options), lz4Legacy)
	case c == XZ && options != nil && len(options) < xzOptionsSize:
		return fmt.Errorf("%d bytes of xz options, want %d", len(options), xzOptionsSize)
	case c == XZ && options != nil:
		size := le.Uint32(options)
		if odd := size >> bits.TrailingZeros32(size); odd != 1 && odd != 3 {
			return fmt.Errorf("xz dictionary of %d bytes, want 2^n or 2^n + 2^(n+1)", size)
		}
	}
	return nil
}

// mergeOptions returns the options block that suits the data of both images: a
// is that of the images linked so far, b that of one more. Each may be nil.
func mergeOptions(s *Superblock, a, b []byte) []byte {
	if s.Compressor != XZ || bytes.Equal(a, b) {
		// Only a writer heeds them: the first image's word counts.
		return a
	}
	// Without options a dictionary is as large as a block.
	dictionary := func(options []byte) (size, filters uint32) {
		if options == nil {
			return s.BlockSize, 0
		}
		return binary.LittleEndian.Uint32(options), binary.LittleEndian.Uint32(options[4:])
	}
	sizeA, filtersA := dictionary(a)
	sizeB, filtersB := dictionary(b)
	merged := binary.LittleEndian.AppendUint32(nil, max(sizeA, sizeB))
	return binary.LittleEndian.AppendUint32(merged, filtersA|filtersB)
}

// encodeOptions returns the block that options are in on disk.
func encodeOptions(options []byte) []byte {
	if options == nil {
		return nil
	}
	w := new(tableWriter)
	w.write(options)
	block, _ := w.finish(0)
	return block
}

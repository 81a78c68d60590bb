package netboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"stage1/registration"
)

// Compression of images: what is the same for all images of a build.
type compression struct {
	name      string // of the compressor
	level     int    // 0 where it has none
	blockSize int    // bytes
}

// compressors are what a [compression] may be: level 0 stands for the default.
var compressors = map[string]struct{ min, max, level int }{
	"zstd": {1, 22, 15},
	"gzip": {1, 9, 9},
	"xz":   {},
	"lz4":  {}, // always lz4hc: compressed once, read often
}

const defaultBlockSize = 128 << 10

func newCompression(name string, level, blockSize int) (compression, error) {
	if name == "" {
		name = "zstd"
	}
	c, ok := compressors[name]
	if !ok {
		return compression{}, fmt.Errorf("compressor %q: want zstd, gzip, xz or lz4", name)
	}
	if level == 0 {
		level = c.level
	}
	if level < c.min || level > c.max {
		if c.max == 0 {
			return compression{}, fmt.Errorf("compressor %s has no levels", name)
		}
		return compression{}, fmt.Errorf("compressor %s: level %d is not one of %d to %d", name, level, c.min, c.max)
	}
	if blockSize == 0 {
		blockSize = defaultBlockSize
	}
	// Squashfs 4.0: 4 KiB to 1 MiB, a power of two.
	if blockSize < 4<<10 || blockSize > 1<<20 || blockSize&(blockSize-1) != 0 {
		return compression{}, fmt.Errorf("block size %d is not a power of two from 4096 to 1048576", blockSize)
	}
	return compression{name, level, blockSize}, nil
}

// args are the options of mksquashfs that shape an image. The image is a
// function of the store path's NAR, which has neither owners, times, hard links
// nor extended attributes. -all-time and not SOURCE_DATE_EPOCH, since every file
// in a Nix store has the time 1. The root directory would have mode 0777.
func (c compression) args() []string {
	args := []string{
		"-keep-as-directory", "-all-root", "-root-mode", "0755",
		"-mkfs-time", "1", "-all-time", "1", "-root-time", "1",
		"-no-exports", "-no-xattrs", "-no-hardlinks",
		"-comp", c.name, "-b", strconv.Itoa(c.blockSize),
	}
	if c.name == "lz4" {
		args = append(args, "-Xhc")
	}
	if c.level != 0 {
		args = append(args, "-Xcompression-level", strconv.Itoa(c.level))
	}
	return args
}

// mksquashfs makes images of store paths.
type mksquashfs struct {
	program string // absolute path
	version string // first line of -version
	args    []string
}

func findMksquashfs(ctx context.Context, c compression) (*mksquashfs, error) {
	program, err := exec.LookPath("mksquashfs")
	if err != nil {
		return nil, fmt.Errorf("%w: install squashfs-tools 4.5 or later", err)
	}
	// Some versions exit with 1 after it: what counts is what it says.
	out, err := exec.CommandContext(ctx, program, "-version").Output()
	line, _, _ := strings.Cut(string(out), "\n")
	if !strings.HasPrefix(line, "mksquashfs version ") {
		return nil, fmt.Errorf("%s -version says %q, which is not a version (%v)", program, line, err)
	}
	return &mksquashfs{program, line, c.args()}, nil
}

// key names the image of a store path among all that could be made.
func (m *mksquashfs) key(e *registration.Entry) string {
	parts := append([]string{"stage1 image 1", m.version, path.Base(e.Path), e.NarHash}, m.args...)
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// make writes an image of files and directories of this machine, about size bytes
// in all, to dst. They are in its root directory, by base name.
func (m *mksquashfs) make(ctx context.Context, sources []string, dst string, size uint64) error {
	// A small path is not worth starting a thread per CPU; the image does not
	// depend on their number.
	const perCPU = 8 << 20
	cpus := min(runtime.NumCPU(), 1+int(size/perCPU))
	args := append(slices.Clone(sources), dst, "-noappend", "-exit-on-error", "-no-progress", "-quiet", "-no-recovery", "-processors", strconv.Itoa(cpus))
	args = append(args, m.args...)
	cmd := exec.CommandContext(ctx, m.program, args...)
	// It takes precedence over the times given, or conflicts with them.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SOURCE_DATE_EPOCH=") })
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: %w%s", strings.Join(append([]string{"mksquashfs"}, args...), " "), err, tail(output.Bytes()))
	}
	return nil
}

// unpacked walks what is at src and returns what a copy of it takes on a tmpfs,
// in bytes and at least a page, and the number of its inodes.
func unpacked(src string) (size, inodes int64, err error) {
	err = filepath.WalkDir(src, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		inodes++
		switch {
		case d.Type().IsRegular():
			size += (info.Size() + pageSize - 1) / pageSize * pageSize
		// tmpfs keeps a shorter target in the inode (SHORT_SYMLINK_LEN, mm/shmem.c).
		case d.Type() == fs.ModeSymlink && info.Size() >= 128:
			size += pageSize
		case d.Type() == fs.ModeSymlink, d.IsDir():
		default:
			return errors.New("neither file, directory nor symlink: " + info.Name())
		}
		return nil
	})
	// The manifest has 0 for what is not known.
	return max(size, pageSize), inodes, err
}

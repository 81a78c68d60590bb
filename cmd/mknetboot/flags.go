package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"stage1/netboot"
)

// flags is what the commands have in common.
type flags struct {
	*flag.FlagSet
	usageLine string
	json      bool
}

func newFlags(name, usageLine string) flags {
	f := flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), usageLine: usageLine}
	// Errors are run's to print, help is ours.
	f.SetOutput(io.Discard)
	return f
}

// parseFlags reads flags and other arguments in any order, as GNU programs do.
func (f *flags) parseFlags(args []string, stdout io.Writer) (rest []string, err error) {
	for {
		err := f.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			f.help(stdout)
			return nil, err
		}
		if err != nil {
			return nil, usageError{err}
		}
		args = f.Args()
		if len(args) == 0 {
			return rest, nil
		}
		rest, args = append(rest, args[0]), args[1:]
	}
}

// help writes a line a flag: name, value, meaning, default.
func (f *flags) help(w io.Writer) {
	fmt.Fprintf(w, "usage: %s\n\n", f.usageLine)
	for _, row := range f.rows() {
		fmt.Fprintf(w, "  %-28s %s", row.flag, row.usage)
		if row.def != "" {
			fmt.Fprintf(w, " (default %s)", row.def)
		}
		fmt.Fprintln(w)
	}
}

// row is a flag as --help and the documentation show it.
type row struct{ flag, usage, def string }

func (f *flags) rows() []row {
	var rows []row
	f.VisitAll(func(fl *flag.Flag) {
		value, usage := flag.UnquoteUsage(fl)
		name := "--" + fl.Name
		if len(fl.Name) == 1 {
			name = "-" + fl.Name
		}
		if b, ok := fl.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			if fl.Name == "debug-shell" {
				name += "[=" + value + "]"
			}
		} else {
			name += " " + value
		}
		def := fl.DefValue
		if def == "false" || def == "0" {
			def = ""
		}
		rows = append(rows, row{name, usage, def})
	})
	return rows
}

type buildFlags struct {
	flags
	build netboot.Options
	quiet bool
}

func newBuildFlags() *buildFlags {
	f := &buildFlags{flags: newFlags("mknetboot", "mknetboot [flag]... TOPLEVEL\n       mknetboot prune [flag]...\n       mknetboot chart [flag]... BOOT.JSON")}
	o := &f.build
	f.StringVar(&o.Output, "o", "./netboot", "`DIR` to make; one that mknetboot made is replaced")
	f.StringVar(&o.Store, "store", "/", "`ROOT` of the Nix store, as Nix's --store")
	f.StringVar(&o.ClosureInfo, "closure-info", "", "take the closure from `DIR`/store-paths and DIR/registration (nixpkgs closureInfo), do not ask nix")
	f.StringVar(&o.Cache, "cache", "", "`DIR` that keeps images between builds (default $XDG_CACHE_HOME/stage1 or ~/.cache/stage1)")
	f.StringVar(&o.Compressor, "compressor", "zstd", "`NAME` of the images' compressor: zstd, gzip, xz or lz4")
	f.IntVar(&o.Level, "level", 0, "`N`, level of compression: zstd 1 to 22 (default 15), gzip 1 to 9 (default 9)")
	f.IntVar(&o.BlockSize, "block-size", 128<<10, "`BYTES` of a block of an image: a power of two, 4096 to 1048576")
	f.IntVar(&o.Jobs, "jobs", 0, "make `N` images at a time (default: one per CPU)")
	f.BoolVar(&o.NoLink, "no-link", false, "keep an image per store path, do not link them into one")
	f.Func("module", "kernel module to load before the import, by `NAME`; repeatable", func(s string) error {
		o.Modules = append(o.Modules, s)
		return nil
	})
	f.Var((*extraFiles)(&o.ExtraFiles), "extra-files", "put file or directory SRC into the initrd at DEST, given as `SRC:DEST`; repeatable")
	f.Var((*extraFiles)(&o.RootFiles), "root-files", "put file or directory SRC into the new root at DEST, given as `SRC:DEST`; repeatable")
	f.BoolVar(&o.NoDatabase, "no-database", false, "ship no Nix database: the booted system loads it from /nix/registration")
	f.BoolFunc("debug-shell", "put a static busybox, `FILE` or the one in $PATH, into the initrd as /bin/sh and its other applets", func(s string) error {
		o.DebugShell = s != "false"
		if s != "true" && s != "false" {
			o.Busybox = s
		}
		return nil
	})
	f.StringVar(&o.Append, "append", "", "`ARGS` to put at the end of the kernel's command line")
	f.StringVar(&o.Stage1, "stage1", "", "`FILE` of the init; for another machine than it is for, arm64/stage1 or amd64/stage1 beside it (default: stage1 beside mknetboot)")
	f.BoolVar(&f.json, "json", false, "print what was built as one JSON object")
	f.BoolVar(&f.quiet, "quiet", false, "print errors and warnings only")
	return f
}

func (f *buildFlags) parse(args []string, stdout io.Writer) error {
	rest, err := f.parseFlags(args, stdout)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usageError{fmt.Errorf("want one TOPLEVEL, got %q", rest)}
	}
	f.build.Toplevel = rest[0]
	if f.build.Stage1 == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		f.build.Stage1 = filepath.Join(filepath.Dir(self), "stage1")
	}
	return nil
}

type pruneFlags struct {
	flags
	prune netboot.PruneOptions
}

func newPruneFlags() *pruneFlags {
	f := &pruneFlags{flags: newFlags("mknetboot prune", "mknetboot prune [flag]...")}
	f.StringVar(&f.prune.Cache, "cache", "", "`DIR` that keeps images between builds (default $XDG_CACHE_HOME/stage1 or ~/.cache/stage1)")
	f.prune.MaxAge = 30 * 24 * time.Hour
	f.Var((*age)(&f.prune.MaxAge), "max-age", "remove images not used for `AGE`: a number with d, h, m or s; 0 for no limit")
	f.prune.MaxSize = 20 << 30
	f.Var((*size)(&f.prune.MaxSize), "max-size", "remove the least recently used images until no more than `SIZE` is left: a number with K, M, G or T; 0 for no limit")
	f.BoolVar(&f.json, "json", false, "print what was removed as one JSON object")
	return f
}

func (f *pruneFlags) parse(args []string, stdout io.Writer) error {
	rest, err := f.parseFlags(args, stdout)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usageError{fmt.Errorf("prune takes no arguments, got %q", rest)}
	}
	return nil
}

// extraFiles is a list of SRC:DEST, an element each time that it is set.
type extraFiles []netboot.ExtraFile

func (x *extraFiles) String() string { return "" }

func (x *extraFiles) Set(s string) error {
	i := strings.LastIndex(s, ":")
	if i < 1 || i == len(s)-1 {
		return errors.New("want SRC:DEST")
	}
	*x = append(*x, netboot.ExtraFile{Source: s[:i], Dest: s[i+1:]})
	return nil
}

// age is a duration that may be in days.
type age time.Duration

func (a *age) String() string {
	if d := time.Duration(*a); d%(24*time.Hour) != 0 {
		return d.String()
	}
	return strconv.Itoa(int(time.Duration(*a)/(24*time.Hour))) + "d"
}

func (a *age) Set(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		*a = age(time.Duration(n) * 24 * time.Hour)
		return err
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = errors.New("negative")
	}
	*a = age(d)
	return err
}

// size is a number of bytes, with K, M, G or T for the powers of 1024.
type size int64

func (n *size) String() string {
	v, i := int64(*n), 0
	for ; v != 0 && v%1024 == 0 && i < 4; i++ {
		v /= 1024
	}
	return strconv.FormatInt(v, 10) + []string{"", "K", "M", "G", "T"}[i]
}

func (n *size) Set(s string) error {
	digits, shift := s, 0
	if i := strings.IndexAny(s, "KMGT"); i >= 0 && i == len(s)-1 {
		digits, shift = s[:i], 10*(1+strings.IndexByte("KMGT", s[i]))
	}
	v, err := strconv.ParseUint(digits, 10, 62)
	if err == nil && v<<shift>>shift != v || int64(v<<shift) < 0 {
		err = errors.New("too large")
	}
	*n = size(v << shift)
	return err
}

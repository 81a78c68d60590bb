package netboot

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// importModules are what stage 1 needs to bring up a store from squashfs images.
var importModules = []string{"loop", "squashfs", "overlay"}

// A moduleTree is what depmod(8) has written of one kernel's modules.
type moduleTree struct {
	dir     string              // lib/modules/VERSION on this machine
	modules map[string]module   // modules.dep, by name
	builtin []byte              // modules.builtin
	soft    map[string][]string // modules.softdep: the names to load before, by name
	alias   map[string]string   // modules.alias: a module's name, by another of its names
}

// module is a line of modules.dep(5). Files are relative to the tree.
type module struct {
	file string
	deps []string // all that it needs, the last to be loaded first
}

func readModuleTree(dir string) (*moduleTree, error) {
	var text [4][]byte
	for i, name := range []string{"modules.dep", "modules.builtin", "modules.softdep", "modules.alias"} {
		var err error
		text[i], err = os.ReadFile(filepath.Join(dir, name))
		// A kernel may have all, or nothing, built in.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("kernel modules: %w", err)
		}
	}
	modules, err := parseModulesDep(text[0])
	if err != nil {
		return nil, fmt.Errorf("%s/modules.dep: %w", dir, err)
	}
	return &moduleTree{dir, modules, text[1], parseSoftdep(text[2]), parseAlias(text[3])}, nil
}

// parseModulesDep reads lines "FILE: FILE FILE …".
func parseModulesDep(text []byte) (map[string]module, error) {
	modules := make(map[string]module)
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		file, deps, ok := strings.Cut(line, ":")
		m := module{file, strings.Fields(deps)}
		if !ok {
			return nil, fmt.Errorf("line %d: no colon in %q", i+1, line)
		}
		for _, f := range append(m.deps, m.file) {
			if !fs.ValidPath(f) {
				return nil, fmt.Errorf("line %d: %q is not below the tree", i+1, f)
			}
		}
		modules[moduleName(file)] = m
	}
	return modules, nil
}

// parseSoftdep reads lines "softdep NAME pre: NAME … post: NAME …" (modprobe.d(5))
// and keeps what is to be loaded before NAME.
func parseSoftdep(text []byte) map[string][]string {
	soft := make(map[string][]string)
	for _, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "softdep" {
			continue
		}
		name, pre := moduleName(words[1]), false
		for _, w := range words[2:] {
			if strings.HasSuffix(w, ":") {
				pre = w == "pre:"
			} else if pre {
				soft[name] = append(soft[name], moduleName(w))
			}
		}
	}
	return soft
}

// parseAlias reads lines "alias NAME MODULE" (modprobe.d(5)). Of the modules that
// share a name it keeps the generic one, which every CPU can run, or the first.
func parseAlias(text []byte) map[string]string {
	alias := make(map[string]string)
	for _, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "alias" || strings.ContainsAny(words[1], "*?[") {
			continue
		}
		name, module := strings.ReplaceAll(words[1], "-", "_"), moduleName(words[2])
		if alias[name] == "" || strings.HasSuffix(module, "_generic") {
			alias[name] = module
		}
	}
	return alias
}

// moduleName is the name by which the kernel knows the module in file.
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(base, "-", "_")
}

func (t *moduleTree) isBuiltin(name string) bool {
	for _, line := range strings.Split(string(t.builtin), "\n") {
		if line != "" && moduleName(line) == name {
			return true
		}
	}
	return false
}

// closure returns the named modules, what they depend on and what is to be
// loaded before any of these, as lines of modules.dep sorted by file. Names that
// are built into the kernel have none.
func (t *moduleTree) closure(names []string) ([]module, error) {
	found := make(map[string]module) // by file
	for _, name := range names {
		name = moduleName(name)
		m, ok := t.modules[name]
		if !ok && t.isBuiltin(name) {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("module %s is neither in %s/modules.dep nor built into the kernel (modules.builtin)", name, t.dir)
		}
		if err := t.add(found, m); err != nil {
			return nil, fmt.Errorf("module %s: %w", name, err)
		}
	}
	list := make([]module, 0, len(found))
	for _, m := range found {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.file, b.file) })
	return list, nil
}

// add puts m and all that it needs into found. Stage 1 knows hard dependencies
// only, so soft ones, also those of what m depends on, become such: those behind
// them in deps are loaded before.
func (t *moduleTree) add(found map[string]module, m module) error {
	if _, ok := found[m.file]; ok {
		return nil
	}
	found[m.file] = m
	files := append([]string{m.file}, m.deps...)
	for i := 0; i < len(files); i++ { // grows meanwhile
		for _, name := range t.soft[moduleName(files[i])] {
			s, ok := t.modules[name]
			if !ok {
				s, ok = t.modules[t.alias[name]]
			}
			// Other names are built in, or not there, which a soft dependency
			// allows.
			if ok && !slices.Contains(files, s.file) {
				files = append(append(files, s.file), s.deps...)
			}
		}
	}
	m.deps = files[1:]
	for _, file := range m.deps {
		d, ok := t.modules[moduleName(file)]
		if !ok {
			return fmt.Errorf("it needs %s, which has no line in modules.dep", file)
		}
		if err := t.add(found, d); err != nil {
			return err
		}
	}
	found[m.file] = m
	return nil
}

// write puts the modules into an initrd at lib/modules/VERSION, decompressed,
// with a modules.dep of just these.
func (t *moduleTree) write(c *cpioWriter, version string, list []module) error {
	dir := "lib/modules/" + version + "/"
	var dep bytes.Buffer
	for _, m := range list {
		files := []string{plainName(m.file) + ":"}
		for _, d := range m.deps {
			files = append(files, plainName(d))
		}
		fmt.Fprintln(&dep, strings.Join(files, " "))
		data, err := readModule(filepath.Join(t.dir, m.file))
		if err != nil {
			return err
		}
		if err := c.File(dir+plainName(m.file), 0o644, int64(len(data)), bytes.NewReader(data)); err != nil {
			return err
		}
	}
	if err := c.File(dir+"modules.builtin", 0o644, int64(len(t.builtin)), bytes.NewReader(t.builtin)); err != nil {
		return err
	}
	return c.File(dir+"modules.dep", 0o644, int64(dep.Len()), &dep)
}

// plainName is a module's file name without the suffix of its compression.
func plainName(file string) string {
	if i := strings.LastIndex(file, ".ko."); i >= 0 {
		return file[:i+len(".ko")]
	}
	return file
}

// maxModule bounds what a compressed module is read into, in bytes. The largest
// of Debian's 6.1, i915, has 5.5 MB.
const maxModule = 256 << 20

// readModule returns a module's ELF file.
func readModule(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("kernel module: %w", err)
	}
	defer f.Close()
	var r io.Reader = f
	switch path.Ext(file) {
	case ".xz":
		r, err = xz.NewReader(f)
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
			r = z
		}
	}
	if err != nil {
		return nil, fmt.Errorf("kernel module %s: %w", file, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("larger than %d bytes", maxModule)
	}
	if err == nil && !bytes.HasPrefix(data, []byte("\x7fELF")) {
		err = errors.New("not an ELF file")
	}
	if err != nil {
		return nil, fmt.Errorf("kernel module %s: %w", file, err)
	}
	return data, nil
}

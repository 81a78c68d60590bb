package netboot

import (
	_ "embed"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// Names in the output directory, besides the kernel's.
const (
	initrdName   = "initrd"
	manifestName = "manifest"
	storeName    = "nix-store"
	ipxeName     = "netboot.ipxe"
	kexecName    = "kexec-boot"
)

// loadOrder has the manifest before the store, so that stage 1 can tell what is
// missing when the RAM did not suffice to unpack all of the store.
var loadOrder = []string{initrdName, manifestName, storeName}

// scriptMark is how a netboot.ipxe of ours begins.
const scriptMark = "#!ipxe\n# Written by mknetboot.\n"

//go:embed netboot.ipxe.tmpl
var ipxeText string

//go:embed kexec-boot.tmpl
var kexecText string

var (
	ipxeTemplate  = template.Must(template.New(ipxeName).Parse(ipxeText))
	kexecTemplate = template.Must(template.New(kexecName).Parse(kexecText))
)

// scripts holds what the templates are filled with.
type scripts struct {
	Kernel string
	params string // the kernel's, for stage 1 and all that follows
}

func (s scripts) Initrds() []string { return loadOrder }

// CommandLine has initrd= for UEFI, where the kernel finds its initrds by name;
// a kernel that gets them from its loader ignores it.
func (s scripts) CommandLine() string {
	var b strings.Builder
	for _, name := range loadOrder {
		b.WriteString("initrd=" + name + " ")
	}
	return b.String() + s.params
}

func (s scripts) QuotedKernel() string      { return shellQuote(s.Kernel) }
func (s scripts) QuotedCommandLine() string { return shellQuote(s.params) }

func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (s scripts) writeIPXE(w io.Writer) error  { return ipxeTemplate.Execute(w, s) }
func (s scripts) writeKexec(w io.Writer) error { return kexecTemplate.Execute(w, s) }

// maxCommandLine is the longest command line in bytes that an x86 kernel takes
// (COMMAND_LINE_SIZE, 2048 with the final NUL; arm64 has the same).
const maxCommandLine = 2047

// pinFlag tells stage 1 the SHA-256 of the one manifest that it may trust.
const pinFlag = "stage1.manifest_sha256="

// kernelParams returns the kernel's command line: init=, the digest of the
// manifest, what the toplevel asks for, and what is appended.
func kernelParams(t *toplevel, manifestSHA256, extra string) string {
	words := []string{"init=" + t.init, pinFlag + manifestSHA256}
	for _, s := range []string{t.params, extra} {
		if s = strings.TrimSpace(s); s != "" {
			words = append(words, s)
		}
	}
	line := strings.Join(words, " ")
	// With any root= the rootfs is a ramfs, otherwise a tmpfs limited to half of
	// the RAM (init_rootfs in init/do_mounts.c), which the store may exceed.
	if !slices.ContainsFunc(strings.Fields(line), func(w string) bool { return strings.HasPrefix(w, "root=") }) {
		line += " root=tmpfs"
	}
	return line
}

var kernelNames = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+~-]*$`)

// check refuses what would not reach the kernel as it stands. iPXE knows no
// quotes: it splits commands at white space and puts them together again with
// single spaces, expands ${…}, and takes ||, && and ; for its own and # for the
// start of a comment (split_command, command_terminator and concat_args in
// core/exec.c).
func (s scripts) check() error {
	line := s.CommandLine()
	if len(line) > maxCommandLine {
		return fmt.Errorf("kernel command line: %d bytes, the kernel takes %d: %s", len(line), maxCommandLine, line)
	}
	if strings.ContainsAny(line, "\n\r\x00") {
		return fmt.Errorf("kernel command line %q: it is more than one line", line)
	}
	if strings.Contains(line, "${") {
		return fmt.Errorf("kernel command line %q: iPXE would expand ${…}", line)
	}
	for _, w := range strings.Fields(line) {
		if w == "||" || w == "&&" || w == ";" || strings.HasPrefix(w, "#") {
			return fmt.Errorf("kernel command line %q: iPXE would take %q for its own", line, w)
		}
	}
	for i, quoted := range strings.Split(line, `"`) {
		if i%2 == 1 && (strings.Contains(quoted, "  ") || strings.Contains(quoted, "\t")) {
			return fmt.Errorf("kernel command line %q: iPXE would make one space of the white space in %q", line, quoted)
		}
	}
	// It stands in a command, and is a URI to iPXE.
	if !kernelNames.MatchString(s.Kernel) {
		return fmt.Errorf("kernel %q: iPXE may not load a file of that name: want letters, digits and any of ._+~-", s.Kernel)
	}
	return nil
}

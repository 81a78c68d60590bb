package vmtests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The Debian release that the fixtures are made of, and the suites of it that
// have kernels: 6.1 and 6.12.
const (
	release   = "bookworm"
	backports = release + "-backports"
)

// packages are what the debian closure is made of, with all that they depend
// on: 165 packages, 360 MB installed.
var packages = []string{
	"bash", "busybox-static", "coreutils", "dbus", "diffutils", "findutils", "git", "grep", "gzip", "iproute2", "kmod", "less",
	"login", "nix-bin", "openssh-client", "openssh-server", "passwd", "procps", "sed", "systemd", "systemd-sysv", "udev",
	"util-linux", "vim",
}

// downloads returns a directory with the Debian packages of an architecture that
// fixtures are made of: "debs" holds those of the debian closure, "linux-SUITE" a
// kernel's. For arm64 there are only the tiny closure's, and one kernel.
func (c *Cache) downloads(ctx context.Context, arch string) (string, error) {
	name, packages, suites := "downloads", packages, []string{release, backports}
	if arch == arm64 {
		name, packages, suites = "downloads-arm64", []string{"busybox-static"}, []string{release}
	}
	return c.Make(name, append([]string{release, aptConf}, packages...), func(dir string) error {
		apt, err := newAPT(ctx, arch)
		if err != nil {
			return err
		}
		defer os.RemoveAll(apt.dir)
		if err := apt.download(filepath.Join(dir, "debs"), "install", packages...); err != nil {
			return err
		}
		for _, suite := range suites {
			// linux-image-ARCH is empty and depends on the kernel's package. Its
			// newest version is in backports; without them it may be in security.
			request := []string{"--simulate", "install", "linux-image-" + arch}
			if suite == backports {
				request = append(request, "-t", suite)
			}
			plan, err := apt.get(request...)
			if err != nil {
				return err
			}
			m := kernelPackage.FindStringSubmatch(plan)
			if m == nil {
				return fmt.Errorf("linux-image-%s of %s depends on no kernel: %s", arch, suite, plan)
			}
			if err := apt.download(filepath.Join(dir, "linux-"+suite), "download", m[1]); err != nil {
				return err
			}
		}
		return nil
	})
}

var kernelPackage = regexp.MustCompile(`(?m)^Inst (linux-image-\d\S+) `)

// apt is an apt of our own: it uses the mirrors that the machine's is configured
// for, but has its own state and sources, and no package is installed in it.
type apt struct {
	ctx context.Context
	dir string // removed by the caller
}

// aptConf has the directory for %[1]s.
const aptConf = `Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
`

// newAPT returns an apt for packages of an architecture, as Debian calls it.
func newAPT(ctx context.Context, arch string) (*apt, error) {
	sources, err := aptSources(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "vmtests-apt-")
	if err != nil {
		return nil, err
	}
	a := &apt{ctx, dir}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf(aptConf, dir) + fmt.Sprintf("APT::Architecture %[1]q;\nAPT::Architectures %[1]q;\n", arch)
	for name, text := range map[string]string{"status": "", "sources.list": sources, "apt.conf": conf} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	_, err = a.get("update")
	return a, err
}

// aptSources is a sources.list with the Debian mirrors of the machine, and
// backports from the same.
func aptSources(ctx context.Context) (string, error) {
	targets, err := output(exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"))
	if err != nil {
		return "", err
	}
	var lines []string
	for target := range strings.Lines(targets) {
		f := strings.Fields(target)
		if len(f) != 3 || f[2] != "main" {
			continue
		}
		switch f[1] {
		case release:
			lines = append(lines, "deb "+f[0]+" "+backports+" main")
			fallthrough
		case release + "-security", release + "-updates":
			lines = append(lines, "deb "+strings.Join(f, " "))
		}
	}
	if len(lines) == 0 {
		return "", fmt.Errorf("apt has no source for Debian's %s, of which the fixtures are made", release)
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n") + "\n", nil
}

func (a *apt) get(args ...string) (string, error) {
	return a.getIn(a.dir, args...)
}

// getIn runs apt-get in a directory.
func (a *apt) getIn(dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(a.ctx, "apt-get", append([]string{"-q", "-y"}, args...)...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	cmd.Dir = dir
	return output(cmd)
}

// download puts packages into dir: by "download" those named, by "install" also
// those that they depend on.
func (a *apt) download(dir, command string, packages ...string) error {
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return err
	}
	args := append([]string{"-o", "Dir::Cache::archives=" + dir, "--download-only", command}, packages...)
	if _, err := a.getIn(dir, args...); err != nil {
		return err
	}
	for _, name := range []string{"partial", "lock"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

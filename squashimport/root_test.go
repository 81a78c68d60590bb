package squashimport

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// rootFixture is a fixture whose source is the tree of a root image, beside a new
// root that has a store.
func rootFixture(t *testing.T) (fx *fixture, root string) {
	t.Helper()
	fx = newFixture(t, Copy)
	root = filepath.Join(filepath.Dir(fx.source), "new-root")
	fx.sh(`mkdir -p etc/ssh nix/var/nix/db "a name"; echo key > etc/ssh/key; chmod 0600 etc/ssh/key; chmod 0700 etc/ssh
		chmod 1777 "a name"; echo program > "a name/program"; chmod 0755 "a name/program"; chown 12:34 "a name/program"
		head -c 300000 /dev/urandom > nix/var/nix/db/db.sqlite; : > empty; ln -s ../etc nix/var/link; ln -s /nowhere dangling
		find . -exec touch -h -d @1 {} +
		mkdir -p ` + root + `/nix/store ` + root + `/etc; chmod 0711 ` + root + `/nix; touch ` + root + `/nix/registration`)
	return fx, root
}

// rootImage makes an image of all that the source has.
func (fx *fixture) rootImage() {
	fx.t.Helper()
	entries, err := os.ReadDir(fx.source)
	if err != nil {
		fx.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	fx.image(names...)
	fx.images[0].StorePaths = 0
}

func TestCopyRoot(t *testing.T) {
	fx, root := rootFixture(t)
	fx.rootImage()
	was := listing(t, root)
	if err := CopyRoot(fx.opt.Initrd, fx.images[0], root); err != nil {
		t.Fatal(err)
	}
	// What was there stays as it was.
	want := was
	for _, line := range listing(t, fx.source) {
		if name, _, _ := strings.Cut(line, " mode "); name != "nix" && name != "etc" {
			want = append(want, line)
		}
	}
	got := listing(t, root)
	for i := range got {
		got[i] = withoutTime(got[i], "etc", "nix")
	}
	for i := range want {
		want[i] = withoutTime(want[i], "etc", "nix")
	}
	compare(t, got, want)
	fx.mountsLeft()
	if left, _ := filepath.Glob(fx.opt.Initrd + "/images/*"); len(left) > 0 {
		t.Errorf("images left in the initrd: %q", left)
	}
}

// withoutTime cuts the time off the lines of directories that get new entries.
func withoutTime(line string, dirs ...string) string {
	for _, dir := range dirs {
		if strings.HasPrefix(line, dir+" mode ") {
			line, _, _ = strings.Cut(line, " time ")
		}
	}
	return line
}

func TestCopyRootFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(fx *fixture, root string) // the tree, and the new root
		file func(fx *fixture)              // the image
		want string
	}{
		{name: "absent", file: func(fx *fixture) { fx.remove(0) }, want: "image: open /images/0: no such file"},
		{name: "truncated", file: func(fx *fixture) { fx.truncate(0, 4096) }, want: "image /images/0: it has 4096 bytes, the manifest says"},
		{name: "damaged", file: func(fx *fixture) { fx.write(0, 32, "\xff\xff\xff\xff\xff") }, want: "images/0"},
		{name: "a file that is there", harm: func(fx *fixture, root string) { fx.sh("echo other > " + root + "/empty") }, want: "root image /images/0: copy /empty: "},
		{name: "a symlink that is there", harm: func(fx *fixture, root string) { fx.sh("ln -s /elsewhere " + root + "/dangling") }, want: "copy /dangling: file exists"},
		{name: "a file for a directory", harm: func(fx *fixture, root string) { fx.sh("echo other > " + root + "/nix/var") }, want: "open the new root's /nix/var: not a directory"},
		{name: "a link out of the new root", harm: func(fx *fixture, root string) {
			fx.sh("mkdir ../outside; rmdir " + root + "/etc; ln -s ../outside " + root + "/etc")
		}, want: "open the new root's /etc: "},
		{name: "a link inside the new root", harm: func(fx *fixture, root string) { fx.sh("ln -s store " + root + "/nix/var") }, want: "open the new root's /nix/var: "},
		{name: "a store path", harm: func(fx *fixture, root string) { fx.sh("mkdir -p nix/store/x") }, want: "copy /nix/store: /nix/store is at or below /nix/store"},
		{name: "a file in /run", harm: func(fx *fixture, root string) { fx.sh("mkdir run; touch run/x") }, want: "/run is at or below /run"},
		{name: "a set-user-ID program", harm: func(fx *fixture, root string) { fx.sh("chmod 4755 'a name/program'") }, want: "copy /a name/program: its mode is 04755"},
		{name: "a set-group-ID directory", harm: func(fx *fixture, root string) { fx.sh("chmod 2755 etc/ssh") }, want: "copy /etc/ssh: its mode is 02755"},
		{name: "a device node", harm: func(fx *fixture, root string) { fx.sh("mknod etc/ssh/null c 1 3") }, want: "copy /etc/ssh/null: it has type 020000"},
		{name: "a fifo", harm: func(fx *fixture, root string) { fx.sh("mkfifo etc/fifo") }, want: "copy /etc/fifo: it has type 010000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fx, root := rootFixture(t)
			if c.harm != nil {
				c.harm(fx, root)
			}
			fx.rootImage()
			if c.file != nil {
				c.file(fx)
			}
			files := func() string {
				out, err := exec.Command("find", filepath.Dir(fx.source), "-printf", "%P %m %l\n").Output()
				if err != nil {
					t.Fatal(err)
				}
				return string(out)
			}
			was := files()
			err := CopyRoot(fx.opt.Initrd, fx.images[0], root)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("CopyRoot = %v, want an error with %q", err, c.want)
			}
			if is := files(); is != was {
				t.Errorf("files after the error:\n%s\nwant\n%s", is, was)
			}
			fx.mountsLeft()
		})
	}
}

// TestCopyRootAgain shows that the step can be tried again once its cause is
// mended.
func TestCopyRootAgain(t *testing.T) {
	fx, root := rootFixture(t)
	fx.rootImage()
	fx.sh("echo other > " + root + "/empty")
	if err := CopyRoot(fx.opt.Initrd, fx.images[0], root); err == nil {
		t.Fatal("CopyRoot over a file = nil, want an error")
	}
	fx.sh("rm " + root + "/empty")
	if err := CopyRoot(fx.opt.Initrd, fx.images[0], root); err != nil {
		t.Errorf("CopyRoot again: %v", err)
	}
}

package vmtests

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hugelgupf/vmtest/qemu"
	"golang.org/x/sys/unix"
)

// Machine describes a virtual machine: what it is, and what it boots, which is
// either Images or what iPXE finds in Netboot.
type Machine struct {
	Images  *Images // loaded by QEMU, the initrds put together as by cat
	Netboot string  // directory with netboot.ipxe, served by HTTP to iPXE
	Append  string  // further kernel parameters

	Arch   string    // "arm64", which boots Images; "" is amd64
	UEFI   bool      // with Netboot: OVMF instead of SeaBIOS
	Memory int       // MiB; 0 is 1024
	CPUs   int       // 0 is 2
	Accel  []string  // from Cache.Accel, for amd64; nil is software emulation
	Unread string    // nobody reads the serial line any more once it has shown this; or ""
	Output io.Writer // gets what the console shows, or nil
	Serial string    // file that gets what is written to the second serial line, or ""
}

var (
	kvm = []string{"-accel", "kvm", "-cpu", "host"}
	// Without AVX2, SHA-256 takes half of the time: emulated, vectors are slow.
	tcg = []string{"-accel", "tcg,thread=multi", "-cpu", "max,avx2=off"}
	// With pointer authentication by the architecture's own cipher, a kernel
	// takes 6.3 s of CPU to its end instead of 1.4 s.
	tcgARM64 = []string{"-accel", "tcg,thread=multi", "-cpu", "max,pauth-impdef=on"}
)

// Accel returns QEMU's arguments for KVM if a kernel reaches user mode under it,
// and for software emulation otherwise: /dev/kvm can be there and not run an
// ordinary kernel. It finds out once, by a boot.
func (c *Cache) Accel(ctx context.Context, k *Kernel) ([]string, error) {
	c.accelOnce.Do(func() { c.accel, c.accelErr = c.probe(ctx, k) })
	return c.accel, c.accelErr
}

func (c *Cache) probe(ctx context.Context, k *Kernel) ([]string, error) {
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return tcg, nil // no KVM, or not for us
	}
	device.Close()
	const script = `
		cp "$(which busybox)" .
		printf '#!/busybox sh\n/busybox echo user mode runs\n/busybox poweroff -f\n' > init
		chmod 755 init
		printf 'busybox\ninit\n' | cpio --quiet -o -H newc > initrd`
	dir, err := c.Make("probe", []string{script}, func(dir string) error { return shell(ctx, dir, script) })
	if err != nil {
		return nil, err
	}
	m := Machine{Images: &Images{Kernel: k.Image, Initrds: []string{filepath.Join(dir, "initrd")}, Cmdline: "console=ttyS0"}, Accel: kvm}
	vm, err := m.Start(ctx)
	if err != nil {
		return nil, err
	}
	defer vm.Close()
	if _, err := vm.Expect("user mode runs", 20*time.Second); err != nil {
		fmt.Fprintln(c.log, "/dev/kvm does not run a Linux kernel: using software emulation")
		return tcg, nil
	}
	return kvm, nil
}

// Start starts the machine. Its console is the VM's.
func (m *Machine) Start(ctx context.Context) (*VM, error) {
	output := m.Output
	if output == nil {
		output = io.Discard
	}
	vm := &VM{console: newConsole(output)}
	o, err := m.prepare(ctx, vm)
	if err == nil {
		err = vm.start(ctx, o)
	}
	if err != nil {
		vm.cleanUp()
		return nil, err
	}
	return vm, nil
}

// Run runs the machine with the caller's terminal as its console. Ctrl-A X ends
// it.
func (m *Machine) Run(ctx context.Context) error {
	vm := &VM{}
	defer vm.cleanUp()
	o, err := m.prepare(ctx, vm)
	if err != nil {
		return err
	}
	args, err := o.Cmdline()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", quote(args), err)
	}
	return nil
}

// prepare makes what the machine needs beside QEMU, to be removed by
// vm.cleanUp, and QEMU's options.
func (m *Machine) prepare(ctx context.Context, vm *VM) (*qemu.Options, error) {
	dir, err := os.MkdirTemp("", "vmtests-")
	if err != nil {
		return nil, err
	}
	vm.onExit(func() { os.RemoveAll(dir) })
	vm.qmp = filepath.Join(dir, "qmp")
	vm.dir = dir

	fns := []qemu.Fn{
		qemu.WithQEMUCommand(m.command()),
		qemu.ArbitraryArgs("-m", fmt.Sprint(cmp.Or(m.Memory, 1024)), "-smp", fmt.Sprint(cmp.Or(m.CPUs, 2))),
		qemu.ArbitraryArgs(m.accel()...),
		qemu.ArbitraryArgs("-no-reboot", "-qmp", "unix:"+vm.qmp+",server=on,wait=off"),
	}
	if m.Serial != "" {
		fns = append(fns, qemu.ArbitraryArgs("-serial", "mon:stdio", "-serial", "file:"+m.Serial))
	}
	if m.Unread != "" {
		unread, err := prepareUnread(vm, m.Unread)
		if err != nil {
			return nil, err
		}
		fns = append(fns, unread)
	}
	if m.Netboot != "" {
		fns, err = m.prepareNetboot(vm, fns)
	} else {
		fns, err = m.prepareImages(ctx, vm, fns)
	}
	if err != nil {
		return nil, err
	}
	return qemu.OptionsFor(qemu.Arch(cmp.Or(m.Arch, amd64)), fns...)
}

// command is the QEMU program and what it needs to know first. QEMU has no
// default for what kind of arm64 machine there is.
func (m *Machine) command() string {
	if m.Arch == arm64 {
		return "qemu-system-aarch64 -machine virt"
	}
	return cmp.Or(os.Getenv("VMTEST_QEMU"), "qemu-system-x86_64")
}

func (m *Machine) accel() []string {
	if m.Arch == arm64 {
		return tcgARM64
	}
	if m.Accel == nil {
		return tcg
	}
	return m.Accel
}

// params are the kernel parameters that every machine gets: after a panic the
// kernel resets at once, which ends QEMU because of -no-reboot.
func (m *Machine) params() string { return strings.TrimSpace("panic=-1 " + m.Append) }

// prepareUnread makes a pair of fifos for a serial line. What QEMU writes is read
// until it has text in it; after that the fifo takes one page more, and no byte
// leaves the machine. It is read at first since the firmware waits for each byte,
// as no real one does.
func prepareUnread(vm *VM, text string) (qemu.Fn, error) {
	line := filepath.Join(vm.dir, "line")
	for _, name := range []string{line + ".in", line + ".out"} {
		if err := unix.Mkfifo(name, 0o600); err != nil {
			return nil, fmt.Errorf("mkfifo %s: %w", name, err)
		}
	}
	out, err := os.OpenFile(line+".out", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	vm.onExit(func() { out.Close() })
	conn, err := out.SyscallConn() // Fd would have reads block, and Close wait for them
	if err != nil {
		return nil, err
	}
	sizeErr := conn.Control(func(fd uintptr) { _, err = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, os.Getpagesize()) })
	if err := errors.Join(sizeErr, err); err != nil {
		return nil, fmt.Errorf("size of %s: %w", out.Name(), err)
	}
	go func() {
		var seen []byte
		buf := make([]byte, 256)
		for !bytes.Contains(seen, []byte(text)) {
			n, err := out.Read(buf)
			if err != nil {
				return // closed: the machine is gone
			}
			seen = append(seen, buf[:n]...)
		}
	}()
	return qemu.ArbitraryArgs("-chardev", "pipe,id=line,path="+line, "-serial", "chardev:line"), nil
}

// prepareImages has the initrds put together, as kexec-boot does it.
func (m *Machine) prepareImages(ctx context.Context, vm *VM, fns []qemu.Fn) ([]qemu.Fn, error) {
	initrd := filepath.Join(vm.dir, "initrd")
	cat := exec.CommandContext(ctx, "sh", append([]string{"-c", `cat "$@" > "$0"`, initrd}, m.Images.Initrds...)...)
	if err := run(cat); err != nil {
		return nil, err
	}
	vm.setup = "mkdir -p " + vm.dir + " && cat " + quote(m.Images.Initrds) + " > " + initrd
	return append(fns,
		qemu.ArbitraryArgs("-nic", "none"),
		qemu.WithKernel(m.Images.Kernel),
		qemu.WithInitramfs(initrd),
		qemu.WithAppendKernel(m.Images.Cmdline, m.params()),
	), nil
}

// prepareNetboot serves the directory to a network in which the firmware's iPXE
// finds a script that sets cmdline and goes on with netboot.ipxe.
func (m *Machine) prepareNetboot(vm *VM, fns []qemu.Fn) ([]qemu.Fn, error) {
	const outer = "vmtests.ipxe"
	script := "#!ipxe\nset cmdline " + m.params() + "\nchain netboot.ipxe\n"
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(m.Netboot)))
	mux.HandleFunc("/"+outer, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, script) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	vm.onExit(func() { server.Close() })

	port := listener.Addr().(*net.TCPAddr).Port
	vm.setup = fmt.Sprintf("mkdir -p %s; printf %%s %s > %s/%s; python3 -m http.server -d %s %d &",
		vm.dir, quote([]string{script}), m.Netboot, outer, m.Netboot, port)
	// QEMU's user network: the host is 10.0.2.2, its TFTP server gives the
	// name of a boot file. The network card's ROM is Debian's ipxe-qemu.
	fns = append(fns, qemu.ArbitraryArgs(
		"-netdev", fmt.Sprintf("user,id=net,bootfile=http://10.0.2.2:%d/%s", port, outer),
		"-device", "virtio-net-pci,netdev=net,bootindex=0",
	))
	if !m.UEFI {
		return fns, nil
	}
	vars := filepath.Join(vm.dir, "vars.fd")
	data, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err != nil {
		return nil, fmt.Errorf("UEFI firmware, Debian package ovmf: %w", err)
	}
	if err := os.WriteFile(vars, data, 0o644); err != nil {
		return nil, err
	}
	return append(fns, qemu.ArbitraryArgs(
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
		"-drive", "if=pflash,format=raw,unit=1,file="+vars,
	)), nil
}

// quote quotes words for a shell.
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if strings.ContainsAny(w, " \t\n$&;()'\"*?<>|`\\") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		quoted[i] = w
	}
	return strings.Join(quoted, " ")
}

// Importer measures how long something takes to make a store out of images, and
// prints the result as JSON: an object of numbers, whose names end with the unit.
//
//	importer IMAGES script SCRIPT [ARG…]
//	importer IMAGES MODE JOBS STOREPATHS
//
// It mounts a tmpfs on /mnt, copies the files in the directory IMAGES to /mnt/initrd
// and makes /mnt/store. The first form then runs a shell script there, the second
// imports by package squashimport, with /mnt as its root: each image holds STOREPATHS
// store paths. Only these are measured. It needs root and, since it unmounts nothing,
// a mount name space that ends with it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stage1/manifest"
	"stage1/mount"
	"stage1/squashimport"
)

const root = "/mnt"

func main() {
	var err error
	switch {
	case len(os.Args) == 5 && os.Args[1] == "inside":
		err = importImages(squashimport.Mode(os.Args[2]), os.Args[3], os.Args[4])
	case len(os.Args) >= 4:
		err = measure(os.Args[1], os.Args[2:])
	default:
		err = fmt.Errorf("usage: importer IMAGES script SCRIPT [ARG…] | importer IMAGES MODE JOBS STOREPATHS")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "importer: %v\n", err)
		os.Exit(1)
	}
}

func measure(images string, args []string) error {
	if err := prepare(images); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"inside"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	if args[0] == "script" {
		cmd = exec.Command("sh", append([]string{"-euc", args[1], "sh"}, args[2:]...)...)
		cmd.Dir = root
	}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// Best effort: where the kernel has groups of processes share the CPUs
	// (SCHED_AUTOGROUP), ours comes before what else the machine does.
	_ = os.WriteFile("/proc/self/autogroup", []byte("-20"), 0)
	peak, stop := watch()
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	stop()
	if err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"time, s":     took.Seconds(),
		"CPU, s":      (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(),
		"process, MB": float64(usage.Maxrss) * 1024 / 1e6,
		"tmpfs, MB":   float64(peak.Load()) / 1e6,
	})
}

// prepare mounts the tmpfs and fills it.
func prepare(images string) error {
	for _, m := range []mount.Mount{
		{Source: "tmpfs", Target: root, Type: "tmpfs", Data: "size=90%"},
		{Source: "proc", Target: root + "/proc", Type: "proc"},
		{Source: "/dev", Target: root + "/dev", Flags: unix.MS_BIND},
	} {
		if err := m.Do(); err != nil {
			return err
		}
	}
	if err := os.Mkdir(root+"/store", 0o755); err != nil {
		return err
	}
	return os.CopyFS(root+"/initrd", os.DirFS(images))
}

// watch notes how many bytes of the tmpfs are in use at most, until stop is called.
func watch() (peak *atomic.Int64, stop func()) {
	peak = new(atomic.Int64)
	done, ended := make(chan struct{}), make(chan struct{})
	sample := func() {
		var st unix.Statfs_t
		if unix.Statfs(root, &st) == nil {
			peak.Store(max(peak.Load(), int64(st.Blocks-st.Bfree)*st.Bsize))
		}
	}
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			sample()
			select {
			case <-tick.C:
			case <-done:
				sample()
				return
			}
		}
	}()
	return peak, func() { close(done); <-ended }
}

func importImages(mode squashimport.Mode, jobs, storePaths string) error {
	files, err := os.ReadDir("/initrd")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(storePaths)
	if err != nil {
		return fmt.Errorf("store paths: %w", err)
	}
	var images []manifest.Image
	for _, f := range files {
		images = append(images, manifest.Image{File: "/initrd/" + f.Name(), StorePaths: n})
	}
	opt := squashimport.Options{Initrd: "/", Store: "/store", State: "/.store", Scratch: "/l", Mode: mode}
	if opt.Jobs, err = strconv.Atoi(jobs); err != nil {
		return fmt.Errorf("jobs: %w", err)
	}
	return squashimport.New(images, opt).Run()
}

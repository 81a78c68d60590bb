// Stage1 is /init, PID 1, of an initrd that netboots NixOS: it brings up
// /nix/store in RAM and hands over to a NixOS toplevel.
//
// It reads
//   - the kernel command line: see docs/flags.md;
//   - /nix-store-squashes/manifest.json, or /nix-store-squashes/squashes as
//     grahamc/netboot.nix writes it, and the images and the registration that it
//     names: see docs/formats.md;
//   - the toplevel's boot.json, where there is one;
//   - /lib/modules/VERSION/modules.dep and modules.builtin, and modules;
//   - /bin/sh, where there is one and a flag asks for a shell.
//
// It leaves
//   - /proc, /sys, /dev, /dev/pts, /dev/shm, /run and /run/keys mounted as NixOS
//     mounts them;
//   - a tmpfs on / and one on /nix, with /nix/store and /nix/registration, and
//     the files of the root image, where the manifest names one;
//   - /run/stage1/boot.json, what took how long;
//   - where a toplevel leaves it to its initrd: /etc of layers, and what nixos-init
//     does (docs/formats.md);
//   - /run/systemd/system/nix.mount.d and nix-store.mount.d, so that shutdown does
//     not try to unmount what it runs from;
//   - lines "stage-1: …" in the kernel log;
//   - nothing of the initrd: its files are deleted.
//
// It ends by executing the toplevel's prepare-root or init with an empty
// environment and the console on descriptors 0 to 2. It ends in no other way: on
// a fatal error it shows a menu and, when no key is pressed, reboots the machine
// or does what stage1.on_fail= says.
package main

import (
	"fmt"
	"os"
)

func main() {
	if os.Getpid() != 1 {
		usage()
	}
	b := newBoot()
	b.children.start()
	b.die(b.boot())
}

// usage is for those who start /init by hand.
func usage() {
	fmt.Println("stage1 is /init of a netboot initrd: the kernel starts it, as PID 1.")
	fmt.Println("mknetboot puts it there. Flags are read from the kernel command line:")
	fmt.Println()
	for _, f := range flags {
		fmt.Printf("  %s\n        %s (default: %s)\n", f.names, f.meaning, f.def)
	}
	if len(os.Args) == 2 && (os.Args[1] == "--help" || os.Args[1] == "-h") {
		os.Exit(0)
	}
	os.Exit(2)
}

// Package vmtests holds what proves stage1 in virtual machines: fixtures (Debian
// kernels, real Nix closures, images as grahamc/netboot.nix makes them), a
// harness around QEMU, and, in its tests, the boots themselves.
//
// Everything that is fetched or built is kept in a cache directory: see
// [OpenCache]. The fixtures need root, because a Nix store is only valid at
// /nix/store: each build runs in a mount namespace of its own, where the test
// store is mounted on /nix. The machine's own /nix is never written to; an empty
// directory is made where there is none.
//
// Programs used beside those of any Debian machine: the Makefile's DEPS.
package vmtests

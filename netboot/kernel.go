package netboot

import (
	"bytes"
	"debug/elf"
	"debug/pe"
	"encoding/binary"
	"os"
	"strings"
)

// kernelInfo is what the file of a kernel says of itself.
type kernelInfo struct {
	machine  elf.Machine // that it runs on, or EM_NONE where the format is unknown
	version  string      // as in /lib/modules/VERSION, or empty where the format does not say
	pageSize int         // in bytes, or 0 where the format does not say
}

func readKernel(file string) (kernelInfo, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return kernelInfo{}, err
	}
	return parseKernel(data), nil
}

// parseKernel knows x86's bzImage, arm64's Image, and of other kernels that UEFI
// starts (EFI zboot) the machine.
func parseKernel(data []byte) kernelInfo {
	switch {
	case hasAt(data, 0x202, "HdrS"):
		return kernelInfo{machine: bzImageMachine(data), version: bzImageVersion(data)}
	case hasAt(data, 0x38, "ARM\x64"):
		// Linux Documentation/arch/arm64/booting.rst: bits 1 and 2 of flags, at
		// 24, are 0 for not said, 1, 2 and 3 for pages of 4, 16 and 64 KiB.
		pages := [...]int{0, 4 << 10, 16 << 10, 64 << 10}
		return kernelInfo{elf.EM_AARCH64, bannerVersion(data), pages[data[24]>>1&3]}
	}
	return kernelInfo{machine: peMachine(data)}
}

func hasAt(data []byte, at int, text string) bool {
	return len(data) >= at+len(text) && string(data[at:at+len(text)]) == text
}

// bzImageMachine tells 64 bits from 32 by XLF_KERNEL_64 in xloadflags, at 0x236
// (Linux Documentation/arch/x86/boot.rst).
func bzImageMachine(setup []byte) elf.Machine {
	if len(setup) > 0x236 && setup[0x236]&1 != 0 {
		return elf.EM_X86_64
	}
	return elf.EM_386
}

// bzImageVersion reads the kernel_version field of an x86 setup header: at
// 0x20e, the offset, less 0x200, of a string of which the first word is the
// release.
func bzImageVersion(setup []byte) string {
	if len(setup) < 0x210 {
		return ""
	}
	at := int(binary.LittleEndian.Uint16(setup[0x20e:]))
	if at == 0 || at+0x200 >= len(setup) {
		return ""
	}
	text, _, ok := bytes.Cut(setup[at+0x200:], []byte{0})
	fields := strings.Fields(string(text))
	if !ok || len(fields) == 0 {
		return ""
	}
	return fields[0]
}

// bannerVersion finds the release in linux_banner, "Linux version 6.12.8 (…"
// (init/version-timestamp.c), which a kernel that is not compressed holds.
func bannerVersion(data []byte) string {
	for {
		_, rest, ok := bytes.Cut(data, []byte("Linux version "))
		if !ok {
			return ""
		}
		const longest = 64 // __NEW_UTS_LEN
		release, _, ok := bytes.Cut(rest[:min(len(rest), longest+2)], []byte(" ("))
		// Messages may begin in the same way.
		if ok && len(release) > 0 && '0' <= release[0] && release[0] <= '9' && !bytes.ContainsAny(release, " \x00\n") {
			return string(release)
		}
		data = rest
	}
}

// peMachine reads the machine of a PE header, to which the four bytes at 0x3c
// point (PE Format, COFF File Header).
func peMachine(data []byte) elf.Machine {
	if !hasAt(data, 0, "MZ") || len(data) < 0x40 {
		return elf.EM_NONE
	}
	at := int64(binary.LittleEndian.Uint32(data[0x3c:]))
	if at+6 > int64(len(data)) || string(data[at:at+4]) != "PE\x00\x00" {
		return elf.EM_NONE
	}
	switch binary.LittleEndian.Uint16(data[at+4:]) {
	case pe.IMAGE_FILE_MACHINE_AMD64:
		return elf.EM_X86_64
	case pe.IMAGE_FILE_MACHINE_ARM64:
		return elf.EM_AARCH64
	}
	return elf.EM_NONE
}

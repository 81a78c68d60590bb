package netboot

import (
	"debug/elf"
	"strings"
	"testing"
)

// testImage returns an arm64 Image as far as parseKernel reads it: header, PE
// header, banner.
func testImage(version string, flags byte) string {
	b := make([]byte, 0x100)
	copy(b, "MZ@\xfa")
	b[24] = flags
	copy(b[0x38:], "ARMd\x40\x00\x00\x00PE\x00\x00\x64\xaa")
	return string(b) + "Linux version of a message\x00Linux version " + version + " (builder@host) (gcc 14) #1 SMP\x00"
}

func TestParseKernel(t *testing.T) {
	zboot := "MZ\x00\x00zimg" + strings.Repeat("\x00", 0x34) + "\x40\x00\x00\x00PE\x00\x00"
	x86 := testKernel("6.12.8")
	for _, test := range []struct {
		what, data string
		want       kernelInfo
	}{
		{"a bzImage", x86, kernelInfo{elf.EM_X86_64, "6.12.8", 0}},
		{"a bzImage of 32 bits", x86[:0x236] + "\x00" + x86[0x237:], kernelInfo{elf.EM_386, "6.12.8", 0}},
		{"an Image", testImage("6.12.8", 0), kernelInfo{elf.EM_AARCH64, "6.12.8", 0}},
		{"an Image with pages of 4 KiB", testImage("6.1.0-56-arm64", 0xa), kernelInfo{elf.EM_AARCH64, "6.1.0-56-arm64", 4096}},
		{"an Image with pages of 16 KiB", testImage("6.12.8", 0xc), kernelInfo{elf.EM_AARCH64, "6.12.8", 16384}},
		{"an Image with pages of 64 KiB", testImage("6.12.8", 0xe), kernelInfo{elf.EM_AARCH64, "6.12.8", 65536}},
		{"an Image without a banner", testImage("6.12.8", 0xa)[:0x100], kernelInfo{elf.EM_AARCH64, "", 4096}},
		{"a zboot image for arm64", zboot + "\x64\xaa", kernelInfo{elf.EM_AARCH64, "", 0}},
		{"a zboot image for x86", zboot + "\x64\x86", kernelInfo{elf.EM_X86_64, "", 0}},
		{"a zboot image for RISC-V", zboot + "\x64\x50", kernelInfo{}},
		{"a cut zboot image", zboot + "\x64", kernelInfo{}},
		{"a gzip'ed kernel", "\x1f\x8b\x08", kernelInfo{}},
		{"nothing", "", kernelInfo{}},
	} {
		if got := parseKernel([]byte(test.data)); got != test.want {
			t.Errorf("parseKernel of %s = %+v, want %+v", test.what, got, test.want)
		}
	}
}

func FuzzParseKernel(f *testing.F) {
	f.Add([]byte(testKernel("6.1.0")))
	f.Add([]byte(testImage("6.1.0", 0xa)))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, data []byte) { parseKernel(data) })
}

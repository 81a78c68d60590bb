package netboot

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// archive returns a cpio of files and the directories above them.
func archive(t testing.TB, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	c := newCPIOWriter(&buf)
	for _, name := range names {
		if err := c.File(name, 0o644, int64(len(name)), bytes.NewReader([]byte(name))); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestEarlySize(t *testing.T) {
	ucode := archive(t, "kernel/x86/microcode/GenuineIntel.bin", "kernel/x86/microcode/AuthenticAMD.bin")
	acpi := archive(t, "kernel/firmware/acpi/dsdt.aml")
	main := archive(t, "init")
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, test := range []struct {
		what string
		data []byte
		want int
	}{
		{"nothing", nil, 0},
		{"a compressed initrd", []byte("\x1f\x8b\x08"), 0},
		{"an uncompressed initrd", main, 0},
		{"an initrd with a directory kernel", archive(t, "kernel/x86/x", "lib/modules/x"), 0},
		{"microcode alone", ucode, len(ucode)},
		{"microcode and a compressed initrd", join(ucode, []byte("\x28\xb5\x2f\xfd...")), len(ucode)},
		{"microcode twice and an uncompressed initrd", join(ucode, acpi, main), len(ucode) + len(acpi)},
	} {
		got, err := earlySize(bytes.NewReader(test.data), int64(len(test.data)))
		if got != int64(test.want) || err != nil {
			t.Errorf("earlySize of %s = %d, %v, want %d", test.what, got, err, test.want)
		}
	}
	_, err := earlySize(bytes.NewReader(ucode[:540]), 540)
	wantError(t, "earlySize of a cut archive", err, "cpio header at 376")
}

// TestEarlySizeOfGNUCPIO reads what NixOS makes: GNU cpio's archive, with a "."
// in it and 512-byte blocks.
func TestEarlySizeOfGNUCPIO(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "kernel/x86/microcode/AuthenticAMD.bin"), "microcode", 0o644)
	text := run(t, "sh", "-c", "cd "+dir+" && find . | sort | cpio --quiet -o -H newc -R +0:+0")
	data := []byte(text + "\x1f\x8b")
	got, err := earlySize(bytes.NewReader(data), int64(len(data)))
	if got != int64(len(text)) || err != nil {
		t.Errorf("earlySize = %d, %v, want %d", got, err, len(text))
	}
	file := filepath.Join(dir, "initrd")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := copyEarly(&buf, file); err != nil || buf.String() != text {
		t.Errorf("copyEarly = %v, %d bytes, want the first %d bytes", err, buf.Len(), len(text))
	}
}

func FuzzEarlySize(f *testing.F) {
	f.Add(archive(f, "kernel/x86/microcode/GenuineIntel.bin"))
	f.Add(archive(f, "init"))
	f.Add([]byte("070701"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := earlySize(bytes.NewReader(data), int64(len(data)))
		if err == nil && (n < 0 || n > int64(len(data))) {
			t.Errorf("earlySize = %d of %d bytes", n, len(data))
		}
	})
}

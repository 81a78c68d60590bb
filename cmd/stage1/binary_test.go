package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBinary builds the init as the Makefile does: static, and small, since every
// machine downloads it and unpacks it into RAM.
func TestBinary(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) { checkBinary(t, arch) })
	}
}

func checkBinary(t *testing.T, arch string) {
	const limit = 4 << 20
	file := filepath.Join(t.TempDir(), "stage1")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("stage1 has %d bytes", info.Size())
	if info.Size() >= limit {
		t.Errorf("stage1 has %d bytes, want less than %d", info.Size(), limit)
	}
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("stage1 has an interpreter, want a static program")
		}
	}
}

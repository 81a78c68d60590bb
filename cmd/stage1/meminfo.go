package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memory is what /proc/meminfo says, in bytes.
type memory struct {
	total     int64 // MemTotal: RAM less what the kernel itself keeps
	available int64 // MemAvailable: what can be used without swapping
}

func (m memory) used() int64 { return m.total - m.available }

func readMemory() (memory, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	var m memory
	for scan := bufio.NewScanner(f); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			m.total = kib << 10
		case "MemAvailable:":
			m.available = kib << 10
		}
	}
	if m.total == 0 {
		return m, fmt.Errorf("%s: no MemTotal", f.Name())
	}
	return m, nil
}

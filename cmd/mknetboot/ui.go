package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"stage1/netboot"
)

// ui tells a person how the build goes: by a bar on a terminal, elsewhere by a
// line every ten seconds.
type ui struct {
	w        io.Writer
	quiet    bool
	terminal bool

	mu    sync.Mutex
	last  time.Time // of the last progress line
	drawn bool      // a bar is on the terminal's line
}

func newUI(w io.Writer, quiet bool) *ui {
	f, ok := w.(*os.File)
	return &ui{w: w, quiet: quiet, terminal: ok && term.IsTerminal(int(f.Fd())), last: time.Now()}
}

func (u *ui) warn(text string) {
	u.endProgress()
	fmt.Fprintf(u.w, "mknetboot: warning: %s\n", text)
}

func (u *ui) progress(p netboot.Progress) {
	u.mu.Lock()
	defer u.mu.Unlock()
	interval := 10 * time.Second
	if u.terminal {
		interval = 100 * time.Millisecond
	}
	if u.quiet || time.Since(u.last) < interval {
		return
	}
	u.last = time.Now()
	text := fmt.Sprintf("images %d/%d, %s of %s", p.Done, p.Total, bytesText(p.DoneBytes), bytesText(p.TotalBytes))
	if !u.terminal {
		fmt.Fprintln(u.w, text)
		return
	}
	const width = 30
	full := 0
	if p.TotalBytes > 0 {
		full = int(width * p.DoneBytes / p.TotalBytes)
	}
	fmt.Fprintf(u.w, "\r\x1b[K[%s%s] %s", strings.Repeat("#", full), strings.Repeat(" ", width-full), text)
	u.drawn = true
}

// endProgress removes the bar.
func (u *ui) endProgress() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.drawn {
		fmt.Fprint(u.w, "\r\x1b[K")
		u.drawn = false
	}
}

// summary says what was built.
func (u *ui) summary(res *netboot.Result) {
	if u.quiet {
		return
	}
	fmt.Fprintf(u.w, "%s\n", res.Output)
	row := func(name, value string) { fmt.Fprintf(u.w, "  %-24s %12s\n", name, value) }
	for _, f := range res.Files {
		row(f.Name, bytesText(f.Size))
	}
	row("store paths", strconv.Itoa(res.StorePaths))
	row("images from the cache", strconv.Itoa(res.Cached))
	row("images built", strconv.Itoa(res.Built))
	row("shared by linking", bytesText(res.Shared))
	row("root image", bytesText(res.RootSize))
	row("store, unpacked", bytesText(res.UnpackedSize))
	for _, s := range res.Steps {
		row(s.Name, fmt.Sprintf("%.2f s", s.Seconds))
	}
}

// bytesText is a size for people.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

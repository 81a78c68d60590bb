package vmtests

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// BenchmarkLink builds the debian closure from a warm cache. It reports the
// seconds that the link takes, the peak of the builder's resident memory in all,
// and the linked image's size as a ratio to that of one mksquashfs run over the
// whole closure with the same settings.
func BenchmarkLink(b *testing.B) {
	c := check[*Cache](b)(openCache())
	cl := check[*Closure](b)(c.Debian(b.Context(), check[*Kernel](b)(c.Linux61(b.Context()))))
	dir := b.TempDir()
	out := filepath.Join(dir, "netboot")
	check[string](b)(cl.Netboot(b.Context(), out)) // warms the cache
	bin := check[string](b)(c.goBuild(b.Context(), "stage1/cmd/mknetboot", "stage1/cmd/stage1"))
	var seconds, rss float64
	for b.Loop() {
		cmd := cl.Store.Command(b.Context(), filepath.Join(bin, "mknetboot"), "-o", out, "--cache", filepath.Join(c.dir, "images"), "--json", cl.Toplevel)
		var res struct {
			Steps []struct {
				Name    string
				Seconds float64
			}
		}
		if err := json.Unmarshal([]byte(check[string](b)(output(cmd))), &res); err != nil {
			b.Fatal(err)
		}
		for _, s := range res.Steps {
			if s.Name == "link" {
				seconds += s.Seconds
			}
		}
		rss = max(rss, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1024)
	}
	whole := filepath.Join(dir, "whole")
	check[string](b)(output(cl.Store.Command(b.Context(), "mksquashfs", wholeArgs(cl, whole)...)))
	linked := check[fs.FileInfo](b)(os.Stat(filepath.Join(out, "nix-store")))
	one := check[fs.FileInfo](b)(os.Stat(whole))
	b.ReportMetric(seconds/float64(b.N), "s-link/op")
	b.ReportMetric(rss, "MiB-RSS")
	b.ReportMetric(float64(linked.Size())/float64(one.Size()), "size-ratio")
}

package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"stage1/bootreport"
	"stage1/bootreport/chart"
)

type chartFlags struct {
	flags
	report string // file
	output string // file, or "" for standard output
}

func newChartFlags() *chartFlags {
	f := &chartFlags{flags: newFlags("mknetboot chart", "mknetboot chart [flag]... BOOT.JSON")}
	f.StringVar(&f.output, "o", "", "`FILE` to write the picture to, as SVG (default: standard output)")
	return f
}

func (f *chartFlags) parse(args []string, stdout io.Writer) error {
	rest, err := f.parseFlags(args, stdout)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usageError{fmt.Errorf("chart: want one BOOT.JSON, got %q", rest)}
	}
	f.report = rest[0]
	return nil
}

// chartCommand draws the report of a boot.
func chartCommand(_ context.Context, args []string, stdout, _ io.Writer) error {
	o := newChartFlags()
	if err := o.parse(args, stdout); err != nil {
		return err
	}
	f, err := os.Open(o.report)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := bootreport.Read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", o.report, err)
	}
	if o.output == "" {
		_, err = stdout.Write(chart.SVG(r))
		return err
	}
	return os.WriteFile(o.output, chart.SVG(r), 0o644)
}

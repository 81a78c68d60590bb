package chart

import (
	"bytes"
	"encoding/xml"
	"io"
	"testing"

	"stage1/bootreport"
)

// FuzzRead reads reports, and draws those that can be read: each picture is XML,
// and not larger than the report asks for.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := report().Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"steps":[{"name":"a\u0001b<","start":1.5,"end":2,"ramUsed":9223372036854775807}],"work":[{"lane":1023}]}`))
	f.Add([]byte(`{"steps":[{"end":604800000}],"ramSamples":[{"at":1}],"firmware":604800000}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := bootreport.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		doc := SVG(r)
		// The frame, with a thousand lanes, and for each character of the report a few.
		if limit := 400<<10 + 700*len(data); len(doc) > limit {
			t.Errorf("the picture of %d bytes has %d, want at most %d", len(data), len(doc), limit)
		}
		for d := xml.NewDecoder(bytes.NewReader(doc)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("the picture is no XML: %v", err)
			}
		}
		if bytes.Contains(doc, []byte("NaN")) && !bytes.Contains(data, []byte("NaN")) {
			t.Error("the picture has NaN for a number")
		}
	})
}

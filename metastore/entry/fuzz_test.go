package entry_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/firnlog/firn/metastore/entry"
)

// FuzzParse: any bytes are an entry or one of three errors, and an entry survives being encoded and decoded.
func FuzzParse(f *testing.F) {
	for _, e := range goldens() {
		f.Add(e.AppendTo(nil))
	}
	var d entry.Decoder
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := entry.Parse(b)
		if err != nil {
			if !errors.Is(err, entry.ErrCorrupt) && !errors.Is(err, entry.ErrUnknownOp) && !errors.Is(err, entry.ErrNewerFormat) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		canonical := e.AppendTo(nil)
		again, err := d.Decode(canonical)
		if err != nil {
			t.Fatalf("does not decode what it encoded: %v", err)
		}
		if diff := cmp.Diff(e, again, ignoreCache); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if string(again.AppendTo(nil)) != string(canonical) {
			t.Fatal("encoding is not stable")
		}
	})
}

package entry_test

import (
	"errors"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/firnlog/firn/metastore/entry"
)

// bounded fails where do allocates more than limit bytes.
func bounded(t *testing.T, limit int, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > uint64(limit) {
		t.Fatalf("allocated %d bytes, %d expected at most", got, limit)
	}
}

// FuzzParse: any bytes are an entry or one of three errors, and an entry survives being encoded and decoded. A column's value
// takes a byte in the entry and eight in memory, and the columns grow by doubling: hence the bound, 32 MiB for the largest entry. An
// offset takes two bytes in the entry and 56 in memory, and an entry has at most MaxOffsets.
func FuzzParse(f *testing.F) {
	for _, e := range goldens() {
		f.Add(e.AppendTo(nil))
	}
	var d entry.Decoder
	f.Fuzz(func(t *testing.T, b []byte) {
		var e *entry.Entry
		var err error
		bounded(t, 1<<20+32*len(b)+min(160*len(b), 320*entry.MaxOffsets), func() { e, err = entry.Parse(b) })
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

// FuzzParseObjectKey: what is taken as a key is the key of what it is taken for.
func FuzzParseObjectKey(f *testing.F) {
	f.Add(entry.ObjectID{Incarnation: [16]byte{1, 2}, Seq: 3, CollectionEpoch: 4}.Key())
	f.Add(mergedObject(1, 3).Key())
	f.Add("data/00/0000000000000000/00000000000000000000000000000000-0000000000000000")
	f.Fuzz(func(t *testing.T, key string) {
		bounded(t, 1<<20+4*len(key), func() {
			if id, err := entry.ParseObjectKey(key); err == nil && id.Key() != key {
				t.Fatalf("%q is %q", key, id.Key())
			}
		})
	})
}

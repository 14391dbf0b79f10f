package ingest_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/metastore/entry"
)

// FuzzParseIntended: the intended ops of any footer are appends, or an error of a kind that a restore knows. The bound is that of
// entries, which the ops are.
func FuzzParseIntended(f *testing.F) {
	for _, name := range []string{"append", "mixed"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "metastore", "entry", "testdata", name+".v1.entry"))
		if err != nil {
			f.Fatal(err)
		}
		framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		f.Add(framed)
		f.Add(append(framed, framed...))
	}
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ops, err := ingest.ParseIntended(b, 77)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(1<<20+32*len(b)) {
			t.Fatalf("allocated %d bytes for %d", got, len(b))
		}
		if err != nil && !errors.Is(err, entry.ErrCorrupt) && !errors.Is(err, entry.ErrUnknownOp) && !errors.Is(err, entry.ErrNewerFormat) {
			t.Fatal(err)
		}
		for _, op := range ops {
			if op.ObjectSize != 77 || len(op.Blocks) == 0 {
				t.Fatalf("%+v", op)
			}
		}
	})
}

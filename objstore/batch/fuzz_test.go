package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
)

// fuzzLimits keep the allocations of one input small enough to be measured.
var fuzzLimits = batch.Limits{MaxDecompressedBytes: 1 << 20}

// fuzzAllocMax is above what one Validator may allocate under fuzzLimits: LZ4's and zstd's largest buffers and the
// decoders themselves.
const fuzzAllocMax = 32 << 20

var sentinels = []error{batch.ErrCorrupt, batch.ErrTooLarge, batch.ErrInvalidRecord, batch.ErrTimestamp,
	batch.ErrUnsupportedCodec, batch.ErrUnsupportedMagic}

func known(err error) bool {
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

func seeds(f *testing.F) {
	for _, variant := range variants {
		f.Add(build(f, variant.opts, goldenRecords()...))
		f.Add(build(f, variant.opts, sample(1, 3, 30_000)...))
	}
	f.Add(append(build(f, batch.BuildOptions{}, sample(1, 1, 5)...), build(f, batch.BuildOptions{LogAppendTime: true}, sample(1, 1, 5)...)...))
}

// sealed makes most of the fuzzer's inputs get past length and CRC.
func sealed(raw []byte) []byte {
	if len(raw) < batch.HeaderSize {
		return raw
	}
	raw = bytes.Clone(raw)
	raw[16] = 2
	return reseal(raw)
}

func bounded(t *testing.T, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > fuzzAllocMax {
		t.Fatalf("allocated %d bytes", got)
	}
}

func FuzzValidate(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, raw := range [][]byte{raw, sealed(raw)} {
			bounded(t, func() {
				v := batch.NewValidator()
				h, err := v.Validate(raw, fuzzLimits)
				if err != nil {
					if !known(err) {
						t.Fatalf("unclassified error: %v", err)
					}
					return
				}
				// What Validate accepts, every reader must be able to walk.
				n, last := int32(0), int64(batch.NoTimestamp)
				if err := v.Walk(raw, fuzzLimits, func(r batch.Record) error {
					if r.OffsetDelta != n {
						t.Fatalf("offset delta %d at %d", r.OffsetDelta, n)
					}
					n, last = n+1, max(last, r.Timestamp)
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if n != h.RecordCount || int64(n) != h.Span() || last != h.MaxTimestamp || h.Size() != len(raw) {
					t.Fatalf("walked %d records up to %d, header %+v", n, last, h)
				}
			})
		}
	})
}

func FuzzRecords(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, raw := range [][]byte{raw, sealed(raw)} {
			bounded(t, func() {
				err := batch.Records(raw, fuzzLimits, func(r batch.Record) error {
					n := 0
					for key := range r.Headers.All() {
						if key == nil {
							t.Fatal("null header key")
						}
						n++
					}
					if n != r.Headers.Len() {
						t.Fatalf("%d headers of %d", n, r.Headers.Len())
					}
					return nil
				})
				if err != nil && !known(err) {
					t.Fatalf("unclassified error: %v", err)
				}
			})
		}
	})
}

func FuzzSplit(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := batch.Split(b)
		var joined []byte
		for s.Next() {
			if len(s.Raw()) < batch.HeaderSize || s.Header().Size() != len(s.Raw()) ||
				int64(binary.BigEndian.Uint64(s.Raw())) != s.Header().BaseOffset {
				t.Fatalf("%d bytes, header %+v", len(s.Raw()), s.Header())
			}
			joined = append(joined, s.Raw()...)
		}
		if s.Err() == nil && len(joined) != len(b) || s.Err() != nil && !known(s.Err()) {
			t.Fatalf("%d of %d bytes, %v", len(joined), len(b), s.Err())
		}
		if !bytes.Equal(joined, b[:s.Position()]) {
			t.Fatal("batches are not the buffer's bytes")
		}
	})
}

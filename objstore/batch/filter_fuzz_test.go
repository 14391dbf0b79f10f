package batch_test

import (
	"bytes"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
)

// FuzzFilter rewrites batches, under a CRC that holds, with those records that the bits of keep name. Whatever Filter makes of them every
// reader can walk, and finds the records that were kept.
func FuzzFilter(f *testing.F) {
	for _, variant := range variants {
		f.Add(build(f, variant.opts, goldenRecords()...), uint64(0b101), int64(now))
		f.Add(build(f, variant.opts, sample(1, 3, 30_000)...), ^uint64(0), int64(now))
	}
	f.Add(build(f, batch.BuildOptions{LogAppendTime: true}, sample(1, 5, 5)...), uint64(2), int64(0))
	f.Fuzz(func(t *testing.T, raw []byte, keep uint64, horizon int64) {
		raw = sealed(raw)
		bounded(t, func() {
			var want []record
			var deltas []int32
			i := 0
			got, err := batch.NewFilter().Rewrite(raw, fuzzLimits, horizon, func(r batch.Record) bool {
				i++
				if keep>>(i%64)&1 == 0 {
					return false
				}
				want = append(want, record{timestamp: r.Timestamp, key: bytes.Clone(r.Key), value: bytes.Clone(r.Value)})
				deltas = append(deltas, r.OffsetDelta)
				return true
			})
			if err != nil {
				if !known(err) {
					t.Fatalf("unclassified error: %v", err)
				}
				return
			}
			if got.Raw == nil {
				if len(want) > 0 {
					t.Fatalf("%d records are gone", len(want))
				}
				return
			}
			before, _ := batch.ParseHeader(raw)
			h, err := batch.ParseHeader(got.Raw)
			if err != nil || h != got.Header || batch.VerifyCRC(got.Raw) != nil {
				t.Fatalf("%+v, told %+v, %v", h, got.Header, err)
			}
			if h.BaseOffset != before.BaseOffset || h.Span() != before.Span() || h.LastSequence() != before.LastSequence() {
				t.Fatalf("%+v was %+v", h, before)
			}
			n := 0
			if err := batch.Records(got.Raw, fuzzLimits, func(r batch.Record) error {
				if n >= len(want) || r.OffsetDelta != deltas[n] || r.Timestamp != want[n].timestamp || !bytes.Equal(r.Key, want[n].key) || !bytes.Equal(r.Value, want[n].value) {
					t.Fatalf("record %d: %+v", n, r)
				}
				n++
				return nil
			}); err != nil || n != len(want) {
				t.Fatalf("%d records of %d, %v", n, len(want), err)
			}
		})
	})
}

package fetch_test

import (
	"testing"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// BenchmarkRead serves from memory: 8 MiB segments of 16 KiB batches, 1 MiB a read, as a tail reader or one that follows it.
func BenchmarkRead(b *testing.B) {
	x, bucket := newIndex(b), newStore()
	topic := x.topic("t")
	r, cache := open(b, fetch.Config{}, x, bucket)
	for range 4 {
		var parts []part
		for range 512 {
			parts = append(parts, of(b, batch.BuildOptions{}, topic, 0, now, string(make([]byte, 16<<10))))
		}
		op, body := x.write(bucket, segment.Options{}, parts...)
		x.commit(op)
		put(b, cache, op, body)
	}
	dst := make([]byte, 0, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	b.ResetTimer()
	offset := int64(0)
	for range b.N {
		got, res, err := r.Read(b.Context(), topic, 0, offset, 1<<20, dst, true)
		if err != nil || len(got) == 0 {
			b.Fatal(len(got), err)
		}
		if offset = res.NextOffset; offset > res.HighWatermark-64 {
			offset = 0
		}
	}
}

// BenchmarkReadOne serves one batch of 1 KiB out of the middle of a segment.
func BenchmarkReadOne(b *testing.B) {
	x, bucket := newIndex(b), newStore()
	topic := x.topic("t")
	r, cache := open(b, fetch.Config{}, x, bucket)
	var parts []part
	for range 4096 {
		parts = append(parts, of(b, batch.BuildOptions{}, topic, 0, now, string(make([]byte, 1<<10))))
	}
	op, body := x.write(bucket, segment.Options{}, parts...)
	x.commit(op)
	put(b, cache, op, body)
	dst := make([]byte, 0, 4<<10)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if got, _, err := r.Read(b.Context(), topic, 0, int64(i*37%4096), 1, dst, true); err != nil || len(got) == 0 {
			b.Fatal(len(got), err)
		}
	}
}

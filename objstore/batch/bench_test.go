package batch_test

import (
	"fmt"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
)

func BenchmarkValidate(b *testing.B) {
	for _, n := range []int{16, 1000} {
		for _, variant := range variants {
			raw := build(b, variant.opts, sample(1, n, 1000)...)
			plain := len(build(b, batch.BuildOptions{}, sample(1, n, 1000)...))
			b.Run(fmt.Sprintf("records=%d/codec=%s", n, variant.name), func(b *testing.B) {
				v := batch.NewValidator()
				lim := batch.Limits{MaxBatchBytes: 16 << 20, Now: now, TimestampBeforeMax: 1 << 40, TimestampAfterMax: 1 << 40}
				b.SetBytes(int64(plain)) // of records, not of the compressed batch
				b.ReportAllocs()
				for b.Loop() {
					if _, err := v.Validate(raw, lim); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkWalk(b *testing.B) {
	for _, variant := range variants {
		raw := build(b, variant.opts, sample(1, 1000, 1000)...)
		b.Run("codec="+variant.name, func(b *testing.B) {
			v := batch.NewValidator()
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				if err := v.Walk(raw, batch.Limits{}, func(r batch.Record) error { n += len(r.Value); return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStampLogAppendTime(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 1 << 20} {
		raw := build(b, batch.BuildOptions{}, record{timestamp: now, value: make([]byte, size)})
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			ts := int64(now)
			for b.Loop() {
				ts++
				batch.StampLogAppendTime(raw, ts)
			}
		})
	}
}

func BenchmarkSplit(b *testing.B) {
	var buf []byte
	for i := range 64 {
		buf = append(buf, build(b, batch.BuildOptions{}, sample(uint64(i), 16, 1000)...)...)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		s := batch.Split(buf)
		for s.Next() {
		}
		if s.Err() != nil {
			b.Fatal(s.Err())
		}
	}
}

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

// What walking into compressed batches costs beside what has to be done anyway: header and CRC. Records are 200 bytes of
// words, which compress as log lines do.
func BenchmarkValidated(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"16KiB", 16 << 10}, {"1MiB", 1 << 20}} {
		for _, variant := range variants {
			records := make([]record, size.bytes/200)
			for i := range records {
				line := fmt.Sprintf(`{"time":%d,"level":"info","msg":"request served","path":"/items/%d","status":200,"took_us":%d,"user":"u%d"}`,
					now+i, i*7919%10_000, i*104_729%100_000, i*31%977)
				records[i] = record{timestamp: now + int64(i), key: fmt.Appendf(nil, "u%d", i*31%977), value: append([]byte(line), line[:200-len(line)]...)}
			}
			raw := build(b, variant.opts, records...)
			name := fmt.Sprintf("size=%s/codec=%s", size.name, variant.name)
			b.Run(name+"/what=crc", func(b *testing.B) {
				b.SetBytes(int64(size.bytes))
				for b.Loop() {
					if _, err := batch.ParseHeader(raw); err != nil {
						b.Fatal(err)
					}
					if err := batch.VerifyCRC(raw); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(name+"/what=validated", func(b *testing.B) {
				v := batch.NewValidator()
				lim := batch.Limits{MaxBatchBytes: 16 << 20, Now: now, TimestampBeforeMax: 1 << 40, TimestampAfterMax: 1 << 40, RequireKeys: true}
				b.SetBytes(int64(size.bytes))
				b.ReportMetric(float64(len(raw))/float64(size.bytes), "compressed/raw")
				for b.Loop() {
					if _, err := v.Validate(raw, lim); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

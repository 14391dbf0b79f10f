package segment_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/firnlog/firn/objstore/segment"
)

// flush returns 8 MiB of 16 KiB batches, half noise, over the given number of partitions.
func flush(partitions int) []added {
	rng := rand.New(rand.NewPCG(8, 8))
	raw := make([]byte, 16<<10)
	for i := range len(raw) / 2 {
		raw[i] = byte(rng.Uint32())
	}
	n := 8 << 20 / len(raw)
	if partitions > n {
		raw = raw[len(raw)/2-4<<10 : len(raw)/2+4<<10] // as many partitions as that need smaller batches
		n = 8 << 20 / len(raw)
	}
	out := make([]added, n)
	for i := range out {
		out[i] = added{topic: topic(byte(i % partitions)), partition: int32(i % partitions), raw: raw, span: 16, maxTimestamp: int64(i)}
	}
	return out
}

func BenchmarkBuild(b *testing.B) {
	for _, compress := range []bool{false, true} {
		for _, partitions := range []int{1, 12, 1000} {
			b.Run(fmt.Sprintf("compress=%v/partitions=%d", compress, partitions), func(b *testing.B) {
				batches := flush(partitions)
				builder := segment.NewBuilder(segment.Options{Compress: compress})
				var dst []byte
				b.SetBytes(8 << 20)
				b.ReportAllocs()
				for b.Loop() {
					builder.Reset()
					addAll(builder, batches)
					body, _, err := builder.Finish(dst[:0], []byte("id"), nil)
					if err != nil {
						b.Fatal(err)
					}
					dst = body
				}
			})
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, compress := range []bool{false, true} {
		for _, partitions := range []int{1, 12, 1000} {
			body, _ := finish(b, segment.Options{Compress: compress}, flush(partitions), []byte("id"), nil)
			b.Run(fmt.Sprintf("compress=%v/partitions=%d", compress, partitions), func(b *testing.B) {
				var dst []byte
				b.SetBytes(8 << 20)
				b.ReportAllocs()
				for b.Loop() {
					f, err := segment.ReadFooter(bytes.NewReader(body), int64(len(body)))
					if err != nil {
						b.Fatal(err)
					}
					for _, block := range f.Blocks {
						for _, c := range block.Chunks {
							raw, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, dst)
							if err != nil {
								b.Fatal(err)
							}
							if c.Codec == segment.CodecZstd {
								dst = raw
							}
						}
					}
				}
			})
		}
	}
}

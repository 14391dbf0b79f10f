package batch_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/golden anew")

var kgoCodecs = []struct {
	codec    batch.Codec
	compress kgo.CompressionCodec
}{
	{batch.CodecNone, kgo.NoCompression()},
	{batch.CodecGzip, kgo.GzipCompression()},
	{batch.CodecSnappy, kgo.SnappyCompression()},
	{batch.CodecLZ4, kgo.Lz4Compression()},
	{batch.CodecZstd, kgo.ZstdCompression()},
}

func goldenRecords() []record {
	records := sample(7, 5, 40)
	records[1].key = nil
	records[2].value = nil
	records[3].timestamp = now - 1000
	records[4].headers = []batch.HeaderPair{{Key: "trace", Value: []byte{1, 2, 3}}, {Key: "", Value: nil}, {Key: "e", Value: []byte{}}}
	return records
}

// franz encodes records with the client library's own structs and compressors.
func franz(t testing.TB, codec batch.Codec, compress kgo.CompressionCodec, records []record) []byte {
	t.Helper()
	var plain []byte
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: int16(codec) | 0x10, LastOffsetDelta: int32(len(records) - 1),
		FirstTimestamp: records[0].timestamp, MaxTimestamp: records[0].timestamp,
		ProducerID: 4000, ProducerEpoch: 3, FirstSequence: 1<<31 - 2, NumRecords: int32(len(records)),
	}
	for i, r := range records {
		b.MaxTimestamp = max(b.MaxTimestamp, r.timestamp)
		kr := kmsg.Record{TimestampDelta64: r.timestamp - b.FirstTimestamp, OffsetDelta: int32(i), Key: r.key, Value: r.value}
		for _, h := range r.headers {
			kr.Headers = append(kr.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		body := kr.AppendTo(nil)[1:] // less the length, which is one byte while it is 0
		kr.Length = int32(len(body))
		plain = kr.AppendTo(plain)
	}
	b.Records = plain
	if codec != batch.CodecNone {
		c, err := kgo.DefaultCompressor(compress)
		if err != nil {
			t.Fatal(err)
		}
		out, used := c.Compress(new(bytes.Buffer), plain)
		if int(used) != int(codec) {
			t.Fatalf("compressed with codec %d", used)
		}
		b.Records = out
	}
	b.Length = int32(batch.HeaderSize - 12 + len(b.Records))
	return reseal(b.AppendTo(nil))
}

func TestGoldenBatchesOfFranzGo(t *testing.T) {
	v := batch.NewValidator()
	want := goldenRecords()
	for _, c := range kgoCodecs {
		t.Run(c.codec.String(), func(t *testing.T) {
			path := filepath.Join("testdata", "golden", c.codec.String()+".batch")
			fresh := franz(t, c.codec, c.compress, want)
			if *rewrite {
				if err := os.WriteFile(path, fresh, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			kept, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			// What the library writes may change with its version; both must read.
			for _, raw := range [][]byte{kept, fresh} {
				h, err := v.Validate(raw, batch.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				if h.Codec() != c.codec || !h.Transactional() || h.Control() || h.LogAppendTime() || h.ProducerID != 4000 ||
					h.ProducerEpoch != 3 || h.BaseSequence != 1<<31-2 || h.LastSequence() != 2 || h.Span() != 5 ||
					h.RecordCount != 5 || h.BaseTimestamp != now || h.MaxTimestamp != now+4 || h.LeaderEpoch != -1 {
					t.Fatalf("header %+v", h)
				}
				got := collect(t, v, raw)
				if len(got) != len(want) {
					t.Fatalf("%d records", len(got))
				}
				for i := range want {
					if !equal(got[i], want[i]) {
						t.Fatalf("record %d: %+v, want %+v", i, got[i], want[i])
					}
				}
			}
		})
	}
}

// The client library must read what Builder writes.
func TestFranzGoReadsBuiltBatches(t *testing.T) {
	d := kgo.DefaultDecompressor()
	want := sample(3, 20, 3000)
	for _, variant := range variants {
		t.Run(variant.name, func(t *testing.T) {
			raw := build(t, variant.opts, want...)
			plain, err := d.Decompress(payload(raw), kgo.CompressionCodecType(variant.opts.Codec))
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				var r kmsg.Record
				n, at := uvarint(plain)
				if err := r.ReadFrom(plain[:at+n]); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(r.Key, want[i].key) || !bytes.Equal(r.Value, want[i].value) || r.OffsetDelta != int32(i) {
					t.Fatalf("record %d differs", i)
				}
				plain = plain[at+n:]
			}
			if len(plain) != 0 {
				t.Fatalf("%d bytes left", len(plain))
			}
		})
	}
}

// uvarint reads the length of a record: its value and size.
func uvarint(b []byte) (n, size int) {
	var u uint64
	for i, c := range b {
		u |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return int(u >> 1), i + 1
		}
	}
	panic(fmt.Sprint("no varint in ", len(b), " bytes"))
}

// Every bit of a batch but those outside the CRC is guarded.
func TestEveryFlippedBitIsRefused(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "golden", "none.batch"))
	if err != nil {
		t.Fatal(err)
	}
	v := batch.NewValidator()
	for i := range len(raw) * 8 {
		raw[i/8] ^= 1 << (i % 8)
		_, err := v.Validate(raw, batch.Limits{})
		leaderEpoch := i/8 >= 12 && i/8 < 16
		if (err == nil) != leaderEpoch {
			t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
		}
		if i/8 >= 17 && !errors.Is(err, batch.ErrCorrupt) {
			t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
		}
		raw[i/8] ^= 1 << (i % 8)
	}
}

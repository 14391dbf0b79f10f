package batch_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
)

// variants are the ways to encode records that the package reads.
var variants = []struct {
	name string
	opts batch.BuildOptions
}{
	{"none", batch.BuildOptions{}},
	{"gzip", batch.BuildOptions{Codec: batch.CodecGzip}},
	{"snappy", batch.BuildOptions{Codec: batch.CodecSnappy}},
	{"snappy-xerial", batch.BuildOptions{Codec: batch.CodecSnappy, Xerial: true}},
	{"lz4", batch.BuildOptions{Codec: batch.CodecLZ4}},
	{"zstd", batch.BuildOptions{Codec: batch.CodecZstd}},
}

const now = 1_700_000_000_000 // ms

type record struct {
	timestamp  int64
	key, value []byte
	headers    []batch.HeaderPair
}

func build(t testing.TB, opts batch.BuildOptions, records ...record) []byte {
	t.Helper()
	b := batch.NewBuilder(opts)
	for _, r := range records {
		b.Add(r.timestamp, r.key, r.value, r.headers...)
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sample returns n records of about size bytes that compress by half, the same for a seed.
func sample(seed uint64, n, size int) []record {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := make([]record, n)
	for i := range out {
		value := make([]byte, size)
		for j := range size / 2 {
			value[j] = byte(rng.Uint32())
		}
		out[i] = record{timestamp: now + int64(i), key: fmt.Appendf(nil, "key-%d", i), value: value}
	}
	return out
}

// collect returns copies of all records of a batch.
func collect(t testing.TB, v *batch.Validator, raw []byte) []record {
	t.Helper()
	var out []record
	err := v.Walk(raw, batch.Limits{}, func(r batch.Record) error {
		c := record{timestamp: r.Timestamp, key: bytes.Clone(r.Key), value: bytes.Clone(r.Value)}
		for k, v := range r.Headers.All() {
			c.headers = append(c.headers, batch.HeaderPair{Key: string(k), Value: bytes.Clone(v)})
		}
		out = append(out, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func equal(a, b record) bool {
	same := func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
	if a.timestamp != b.timestamp || !same(a.key, b.key) || !same(a.value, b.value) || len(a.headers) != len(b.headers) {
		return false
	}
	for i := range a.headers {
		if a.headers[i].Key != b.headers[i].Key || !same(a.headers[i].Value, b.headers[i].Value) {
			return false
		}
	}
	return true
}

// reseal writes the CRC and length that the bytes should have.
func reseal(raw []byte) []byte {
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// withPayload returns a batch of count records around the given records section.
func withPayload(codec batch.Codec, count int32, payload []byte) []byte {
	raw := make([]byte, batch.HeaderSize, batch.HeaderSize+len(payload))
	raw[16] = 2
	raw[22] = byte(codec)
	binary.BigEndian.PutUint32(raw[12:], 0xffffffff)
	binary.BigEndian.PutUint32(raw[23:], uint32(count-1))
	binary.BigEndian.PutUint64(raw[27:], now)
	binary.BigEndian.PutUint64(raw[35:], now)
	for i := 43; i < 57; i++ {
		raw[i] = 0xff
	}
	binary.BigEndian.PutUint32(raw[57:], uint32(count))
	return reseal(append(raw, payload...))
}

func payload(raw []byte) []byte { return raw[batch.HeaderSize:] }

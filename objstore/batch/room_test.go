package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/firnlog/firn/objstore/batch"
)

// bomb is a batch of about a MiB that stands for far more: one record, announced as 2 GiB, and zeros.
type bomb struct {
	name  string
	codec batch.Codec
	raw   []byte
	bytes int64 // that come out
}

// repeated is once, head first, and then as many copies of more as fit into a MiB.
func repeated(head, more []byte) (b []byte, times int) {
	times = (1<<20 - batch.HeaderSize - len(head) - 64) / len(more)
	return append(bytes.Clone(head), bytes.Repeat(more, times)...), times
}

func bombs(t testing.TB) (list []bomb) {
	t.Helper()
	start := append(binary.AppendVarint(nil, math.MaxInt32), 0, 0, 0, 1)
	start = append(start, binary.AppendVarint(nil, math.MaxInt32-100)...)
	zeros := make([]byte, 16<<20)
	add := func(name string, codec batch.Codec, payload []byte, out int64) {
		list = append(list, bomb{name, codec, withPayload(codec, 1, payload), out})
	}

	member := func(p []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(p)
		_ = w.Close()
		return b.Bytes()
	}
	p, n := repeated(member(start), member(zeros))
	add("gzip, members one after the other", batch.CodecGzip, p, int64(n)*int64(len(zeros)))

	// A zstd frame of one raw block with the record's start, and blocks of 128 KiB of zeros, four bytes each.
	raw := func(last uint32, p []byte) []byte {
		v := uint32(len(p))<<3 | last
		return append([]byte{byte(v), byte(v >> 8), byte(v >> 16)}, p...)
	}
	rle := []byte{0, 0, 0, 0}
	v := uint32(128<<10)<<3 | 1<<1
	rle[0], rle[1], rle[2] = byte(v), byte(v>>8), byte(v>>16)
	frame := func(window byte) []byte { return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, window} }
	p, n = repeated(append(frame(0x58), raw(0, start)...), rle)
	add("zstd, blocks of one byte", batch.CodecZstd, append(p, raw(1, nil)...), int64(n)*128<<10)
	add("zstd, a window of 3.75 TiB", batch.CodecZstd, append(append(frame(0xff), raw(0, start)...), raw(1, nil)...), 0)
	one, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	small := append(append(frame(0x58), raw(0, start)...), raw(1, nil)...)
	p, n = repeated(small, one.EncodeAll(zeros, nil))
	add("zstd, frames one after the other", batch.CodecZstd, p, int64(n)*int64(len(zeros)))
	// A single segment announces its size, and the window with it.
	lie := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, binary.LittleEndian.AppendUint64(nil, 1<<40)...)
	add("zstd, a size of 1 TiB", batch.CodecZstd, append(append(lie, raw(0, start)...), raw(1, nil)...), 0)
	lie = append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, binary.LittleEndian.AppendUint64(nil, 60<<20)...)
	add("zstd, a size of 60 MiB that is not there", batch.CodecZstd, append(append(lie, raw(0, start)...), raw(1, nil)...), 0)

	block := make([]byte, lz4.CompressBlockBound(4<<20))
	size, err := lz4.CompressBlock(zeros[:4<<20], block, nil)
	if err != nil {
		t.Fatal(err)
	}
	head := []byte{0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73}
	head = append(binary.LittleEndian.AppendUint32(head, uint32(len(start))|1<<31), start...)
	p, n = repeated(head, append(binary.LittleEndian.AppendUint32(nil, uint32(size)), block[:size]...))
	add("lz4, blocks of 4 MiB", batch.CodecLZ4, append(p, 0, 0, 0, 0), int64(n)*4<<20)

	xerial := []byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01")
	snap := func(p []byte) []byte {
		enc := s2.EncodeSnappyBest(nil, p)
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(enc))), enc...)
	}
	p, n = repeated(append(bytes.Clone(xerial), snap(start)...), snap(zeros[:1<<20]))
	add("snappy, blocks of 1 MiB", batch.CodecSnappy, p, int64(n)<<20)
	add("snappy, a size of 4 GiB", batch.CodecSnappy, binary.AppendUvarint(nil, math.MaxUint32), 0)
	add("snappy, a block of 4 GiB", batch.CodecSnappy,
		append(append(bytes.Clone(xerial), 0, 0, 0, 5), binary.AppendUvarint(nil, math.MaxUint32)...), 0)
	return list
}

// A batch of a MiB that stands for gigabytes costs memory in proportion to what DecompressRoom says, time in proportion to the
// bound on what is looked at, and is refused.
func TestBombs(t *testing.T) {
	for _, b := range bombs(t) {
		t.Run(b.name, func(t *testing.T) {
			room := batch.DecompressRoom(b.raw, batch.Limits{MaxBatchBytes: 2 << 20})
			v := batch.NewValidator()
			start := time.Now()
			got := allocated(func() {
				_, err := v.Validate(b.raw, batch.Limits{MaxBatchBytes: 2 << 20})
				if !errors.Is(err, batch.ErrTooLarge) && !errors.Is(err, batch.ErrInvalidRecord) {
					t.Errorf("not refused: %v", err)
				}
			})
			t.Logf("%d bytes stand for %d MiB: %d KiB allocated of %d KiB foreseen, %d MiB looked at, %v",
				len(b.raw), b.bytes>>20, got>>10, room>>10, v.Decompressed()>>20, time.Since(start).Round(time.Millisecond))
			if got > room+room/2+2<<20 {
				t.Errorf("%d bytes allocated, %d foreseen", got, room)
			}
			if v.Decompressed() > batch.DefaultMaxDecompressedBytes+1<<20 {
				t.Errorf("%d bytes looked at", v.Decompressed())
			}
			// What is stored is walked under the same bound, by whoever reads it.
			if got := allocated(func() { _ = batch.Records(b.raw, batch.Limits{}, func(batch.Record) error { return nil }) }); got > 4*batch.DefaultMaxDecompressedBytes {
				t.Errorf("%d bytes allocated to walk it", got)
			}
		})
	}
}

// Batches as they come pass, however well they compress, and what they need is foreseen.
func TestWhatCompressesWellPasses(t *testing.T) {
	for _, variant := range variants[1:] {
		for _, size := range []int{10, 100_000, 10 << 20} {
			raw := build(t, variant.opts, record{timestamp: now, value: make([]byte, size)}, record{timestamp: now, value: []byte("x")})
			lim := batch.Limits{MaxBatchBytes: 16 << 20}
			v := batch.NewValidator()
			room := batch.DecompressRoom(raw, lim)
			got := allocated(func() {
				if _, err := v.Validate(raw, lim); err != nil {
					t.Errorf("%s, %d bytes: %v", variant.name, size, err)
				}
			})
			if got > room+room/2+2<<20 {
				t.Errorf("%s, %d bytes: %d allocated, %d foreseen", variant.name, size, got, room)
			}
			if v.Decompressed() < int64(size) || v.Decompressed() > int64(size)+1000 {
				t.Errorf("%s: %d bytes came out of %d", variant.name, v.Decompressed(), size)
			}
		}
	}
}

func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// What came out of a batch that is refused for coming to too much counts too: or many of those would cost as much as none.
func TestWhatIsRefusedCountsAsDecompressed(t *testing.T) {
	const block, limit = 128 << 10, 16 << 20
	var payload []byte
	payload = append(payload, 0x28, 0xb5, 0x2f, 0xfd, 0, 13<<3|1) // a window of 9 MiB: it is decoded whole
	for range 4 * limit / block {
		v := uint32(block)<<3 | 1<<1
		payload = append(payload, byte(v), byte(v>>8), byte(v>>16), 0)
	}
	payload = append(payload, 1, 0, 0)
	v := batch.NewValidator()
	_, err := v.Validate(withPayload(batch.CodecZstd, 1, payload), batch.Limits{MaxDecompressedBytes: limit})
	if !errors.Is(err, batch.ErrTooLarge) || v.Decompressed() < limit/2 {
		t.Errorf("%v, %d bytes decompressed", err, v.Decompressed())
	}
}

// What a large window takes goes with the batch that declared it: validators are kept, and there are many.
func TestRoomOfLargeWindowsIsNotKept(t *testing.T) {
	all := bombs(t)
	large := all[slices.IndexFunc(all, func(b bomb) bool { return b.name == "zstd, blocks of one byte" })] // 2 MiB
	large.raw = bytes.Clone(large.raw)
	const window = batch.HeaderSize + 5 // of the first frame: the descriptor of its window, 8 MiB
	large.raw[window] = 0x68
	large.raw = reseal(large.raw)
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := held()
	validators := make([]*batch.Validator, 16)
	for i := range validators {
		validators[i] = batch.NewValidator()
		if _, err := validators[i].Validate(large.raw, batch.Limits{MaxBatchBytes: 4 << 20}); err == nil {
			t.Fatal("a bomb passed")
		}
	}
	if each := int64(held()-before) / int64(len(validators)); each > 1<<20 {
		t.Errorf("a validator keeps %d bytes", each)
	}
	runtime.KeepAlive(validators)
}

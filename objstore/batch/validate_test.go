package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// edit returns a sealed copy of raw after change.
func edit(raw []byte, change func([]byte)) []byte {
	c := bytes.Clone(raw)
	change(c)
	return reseal(c)
}

func TestValidateRefuses(t *testing.T) {
	plain := build(t, batch.BuildOptions{}, sample(1, 3, 20)...)
	idempotent := build(t, batch.BuildOptions{Producer: &batch.Producer{ID: 9}}, sample(1, 3, 20)...)
	rec := func(body ...byte) []byte { return append([]byte{byte(len(body) * 2)}, body...) }
	cases := []struct {
		name string
		raw  []byte
		lim  batch.Limits
		want error
	}{
		{"nothing", nil, batch.Limits{}, batch.ErrTruncated},
		{"a header cut short", plain[:60], batch.Limits{}, batch.ErrTruncated},
		{"a batch cut short", plain[:len(plain)-1], batch.Limits{}, batch.ErrTruncated},
		{"a header alone", plain[:61], batch.Limits{}, batch.ErrCorrupt},
		{"a second batch", append(bytes.Clone(plain), plain...), batch.Limits{}, batch.ErrInvalidRecord},
		{"trailing garbage", append(bytes.Clone(plain), 0), batch.Limits{}, batch.ErrInvalidRecord},
		{"a short magic 0 message", bytes.Repeat([]byte{0}, 26), batch.Limits{}, batch.ErrUnsupportedMagic},
		{"magic 1", edit(plain, func(b []byte) { b[16] = 1 }), batch.Limits{}, batch.ErrUnsupportedMagic},
		{"magic 3", edit(plain, func(b []byte) { b[16] = 3 }), batch.Limits{}, batch.ErrUnsupportedMagic},
		{"a length below a header's", func() []byte { b := bytes.Clone(plain); binary.BigEndian.PutUint32(b[8:], 48); return b }(), batch.Limits{}, batch.ErrCorrupt},
		{"a negative length", func() []byte { b := bytes.Clone(plain); b[8] = 0xff; return b }(), batch.Limits{}, batch.ErrCorrupt},
		{"the largest length", func() []byte { b := bytes.Clone(plain); binary.BigEndian.PutUint32(b[8:], math.MaxInt32); return b }(), batch.Limits{}, batch.ErrCorrupt},
		{"a wrong CRC", func() []byte { b := bytes.Clone(plain); b[17]++; return b }(), batch.Limits{}, batch.ErrCorrupt},
		{"a base offset", edit(plain, func(b []byte) { b[7] = 1 }), batch.Limits{}, batch.ErrInvalidRecord},
		{"more bytes than allowed", plain, batch.Limits{MaxBatchBytes: int32(len(plain) - 1)}, batch.ErrTooLarge},
		{"more records than allowed", plain, batch.Limits{MaxRecords: 2}, batch.ErrTooLarge},
		{"codec 5", edit(plain, func(b []byte) { b[22] = 5 }), batch.Limits{}, batch.ErrUnsupportedCodec},
		{"codec 7", edit(plain, func(b []byte) { b[22] = 7 }), batch.Limits{}, batch.ErrUnsupportedCodec},
		{"a control batch", edit(plain, func(b []byte) { b[22] |= 0x20 }), batch.Limits{}, batch.ErrInvalidRecord},
		{"a delete horizon", edit(plain, func(b []byte) { b[22] |= 0x40 }), batch.Limits{}, batch.ErrInvalidRecord},
		{"LogAppendTime", edit(plain, func(b []byte) { b[22] |= 8 }), batch.Limits{}, batch.ErrTimestamp},
		{"LogAppendTime on such a topic", edit(plain, func(b []byte) { b[22] |= 8 }), batch.Limits{TimestampType: batch.LogAppendTime}, batch.ErrTimestamp},
		{"no records", withPayload(batch.CodecNone, 0, nil), batch.Limits{}, batch.ErrInvalidRecord},
		{"a negative record count", withPayload(batch.CodecNone, -3, nil), batch.Limits{}, batch.ErrInvalidRecord},
		{"a count above the offsets", edit(plain, func(b []byte) { b[60]++ }), batch.Limits{}, batch.ErrInvalidRecord},
		{"offsets above the count", edit(plain, func(b []byte) { b[26]++ }), batch.Limits{}, batch.ErrInvalidRecord},
		{"a record too few", edit(plain, func(b []byte) { b[26]++; b[60]++ }), batch.Limits{}, batch.ErrInvalidRecord},
		{"a record too many", edit(plain, func(b []byte) { b[26]--; b[60]-- }), batch.Limits{}, batch.ErrInvalidRecord},
		{"a producer id without a sequence", edit(idempotent, func(b []byte) { b[53] = 0xff }), batch.Limits{}, batch.ErrInvalidRecord},
		{"a producer id without an epoch", edit(idempotent, func(b []byte) { b[51] = 0xff }), batch.Limits{}, batch.ErrInvalidRecord},
		{"a transaction without a producer id", edit(plain, func(b []byte) { b[22] |= 0x10 }), batch.Limits{}, batch.ErrInvalidRecord},
		{"no key where one is needed", build(t, batch.BuildOptions{}, record{timestamp: now, value: []byte("v")}), batch.Limits{RequireKeys: true}, batch.ErrInvalidRecord},

		{"a wrong offset delta", withPayload(0, 1, rec(0, 0, 2, 1, 1, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a negative offset delta", withPayload(0, 1, rec(0, 0, 1, 1, 1, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"an empty record", withPayload(0, 1, []byte{0}), batch.Limits{}, batch.ErrInvalidRecord},
		{"a negative record length", withPayload(0, 1, []byte{1}), batch.Limits{}, batch.ErrInvalidRecord},
		{"a record length of 6 bytes", withPayload(0, 1, append([]byte{0x8c, 0x80, 0x80, 0x80, 0x80, 0}, 0, 0, 0, 1, 1, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a record length past 32 bits", withPayload(0, 1, append([]byte{0x8c, 0x80, 0x80, 0x80, 0x10}, 0, 0, 0, 1, 1, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a record past the end", withPayload(0, 1, []byte{14, 0, 0, 0, 1, 1, 0}), batch.Limits{}, batch.ErrInvalidRecord},
		{"a 2 GiB record", withPayload(0, 1, []byte{0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 1, 0}), batch.Limits{}, batch.ErrInvalidRecord},
		{"a byte too many in a record", withPayload(0, 1, rec(0, 0, 0, 1, 1, 0, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a byte too few in a record", withPayload(0, 1, rec(0, 0, 0, 1, 1)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a key past its record", withPayload(0, 1, rec(0, 0, 0, 8, 1, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a key length of -2", withPayload(0, 1, rec(0, 0, 0, 3, 1, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a value length of -2", withPayload(0, 1, rec(0, 0, 0, 1, 3, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a negative header count", withPayload(0, 1, rec(0, 0, 0, 1, 1, 1)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a header count without headers", withPayload(0, 1, rec(0, 0, 0, 1, 1, 60)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a null header key", withPayload(0, 1, rec(0, 0, 0, 1, 1, 2, 1, 1)), batch.Limits{}, batch.ErrInvalidRecord},
		{"a header value past its record", withPayload(0, 1, rec(0, 0, 0, 1, 1, 2, 0, 4)), batch.Limits{}, batch.ErrInvalidRecord},
		{"an endless timestamp delta", withPayload(0, 1, rec(0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 1, 1, 0)), batch.Limits{}, batch.ErrInvalidRecord},
		{"an overflowing timestamp", withPayload(0, 1, rec(append(binary.AppendVarint([]byte{0}, math.MaxInt64), 0, 1, 1, 0)...)), batch.Limits{}, batch.ErrInvalidRecord},
	}
	v := batch.NewValidator()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if h, err := v.Validate(c.raw, c.lim); !errors.Is(err, c.want) || h != (batch.Header{}) {
				t.Fatalf("%v, want %v", err, c.want)
			}
		})
	}
	if _, err := v.Validate(withPayload(0, 1, rec(0, 0, 0, 1, 1, 0)), batch.Limits{}); err != nil {
		t.Fatalf("the smallest record: %v", err)
	}
}

func TestEveryRecordToBlameIsNamed(t *testing.T) {
	records := sample(1, 8, 10)
	for i := range records {
		records[i].timestamp = now
	}
	records[2].key, records[5].key = nil, nil
	lim := batch.Limits{RequireKeys: true, Now: now, TimestampBeforeMax: 100, TimestampAfterMax: 10}
	refuse := func(sentinel error, words string, want ...int) {
		t.Helper()
		for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecZstd} {
			_, err := batch.NewValidator().Validate(build(t, batch.BuildOptions{Codec: codec}, records...), lim)
			var got []int
			for _, r := range batch.RefusedRecords(err) {
				got = append(got, r.Index)
			}
			if !errors.Is(err, sentinel) || !slices.Equal(got, want) || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v, records %v, want %v", codec, err, got, want)
			}
			if errors.Is(sentinel, batch.ErrTimestamp) && errors.Is(err, batch.ErrInvalidRecord) {
				t.Errorf("%s: two kinds at once: %v", codec, err)
			}
		}
	}
	refuse(batch.ErrInvalidRecord, "record 2: compacted topics need keys", 2, 5)
	records[7].timestamp = now - 101 // as with Kafka, one bad timestamp makes it an error of timestamps
	refuse(batch.ErrTimestamp, "and 2 more records", 2, 5, 7)
	records[2], records[5] = records[0], records[0]
	refuse(batch.ErrTimestamp, "record 7: timestamp", 7)
	many := make([]record, 3*batch.MaxRecordErrors)
	records = many
	_, err := batch.NewValidator().Validate(build(t, batch.BuildOptions{}, records...), batch.Limits{RequireKeys: true})
	if n := len(batch.RefusedRecords(err)); n != batch.MaxRecordErrors {
		t.Errorf("%d records are named", n)
	}
	if n := len(batch.RefusedRecords(errors.New("other"))); n != 0 {
		t.Errorf("%d records of another error", n)
	}
}

func TestRecordsOfCompressedBatchesAreBounded(t *testing.T) {
	for _, size := range []int{100, 200_000} { // within the window and beyond it
		records := sample(3, 3, 10)
		records[1].value = bytes.Repeat([]byte("v"), size)
		for codec := batch.CodecNone; codec.Valid(); codec++ {
			raw := build(t, batch.BuildOptions{Codec: codec}, records...)
			v := batch.NewValidator()
			if _, err := v.Validate(raw, batch.Limits{MaxRecordBytes: int32(size + 100)}); err != nil {
				t.Errorf("%s: %v", codec, err)
			}
			_, err := v.Validate(raw, batch.Limits{MaxRecordBytes: int32(size)})
			if codec == batch.CodecNone { // what was sent as it is was received already
				if err != nil {
					t.Error(err)
				}
				continue
			}
			if r := batch.RefusedRecords(err); !errors.Is(err, batch.ErrInvalidRecord) || len(r) != 1 || r[0].Index != 1 {
				t.Errorf("%s: %v", codec, err)
			}
			if err := v.Walk(raw, batch.Limits{}, func(batch.Record) error { return nil }); err != nil {
				t.Errorf("%s: the bound of one batch is another's: %v", codec, err)
			}
		}
	}
}

func TestTimestampBounds(t *testing.T) {
	v := batch.NewValidator()
	at := func(ts int64) []byte { return build(t, batch.BuildOptions{}, record{timestamp: ts}) }
	lim := batch.Limits{Now: now, TimestampBeforeMax: 100, TimestampAfterMax: 10}
	for _, c := range []struct {
		name string
		ts   int64
		lim  batch.Limits
		ok   bool
	}{
		{"now", now, lim, true},
		{"the oldest", now - 100, lim, true},
		{"too old", now - 101, lim, false},
		{"the newest", now + 10, lim, true},
		{"too new", now + 11, lim, false},
		{"none", batch.NoTimestamp, lim, true},
		{"negative", -2, lim, false},
		{"no bounds", 1, batch.Limits{}, true},
		{"Kafka's default before.max", -5, batch.Limits{Now: now, TimestampBeforeMax: math.MaxInt64}, true},
		{"after.max without end", math.MaxInt64, batch.Limits{Now: now, TimestampAfterMax: math.MaxInt64}, true},
		{"bounds on a LogAppendTime topic", 1, batch.Limits{Now: now, TimestampType: batch.LogAppendTime}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Validate(at(c.ts), c.lim)
			if c.ok && err != nil || !c.ok && !errors.Is(err, batch.ErrTimestamp) {
				t.Fatal(err)
			}
		})
	}
}

func TestValidateReportsTheTrueMaxTimestamp(t *testing.T) {
	records := sample(1, 3, 10)
	records[1].timestamp = now + 500
	raw := edit(build(t, batch.BuildOptions{}, records...), func(b []byte) { binary.BigEndian.PutUint64(b[35:], 12345) })
	v := batch.NewValidator()
	h, err := v.Validate(raw, batch.Limits{})
	if err != nil || h.MaxTimestamp != now+500 {
		t.Fatalf("%d, %v", h.MaxTimestamp, err)
	}
	batch.StampMaxTimestamp(raw, h.MaxTimestamp)
	if again, err := v.Validate(raw, batch.Limits{}); err != nil || again.MaxTimestamp != now+500 {
		t.Fatalf("after the correction: %v", err)
	}
	if h, err := batch.ParseHeader(raw); err != nil || h.MaxTimestamp != now+500 {
		t.Fatalf("the header was not corrected: %+v", h)
	}
}

// Compressed sections that are cut, damaged or followed by something under a CRC that is right.
func TestValidateRefusesDamagedCompression(t *testing.T) {
	v := batch.NewValidator()
	records := sample(5, 40, 2500) // more than a window
	for _, variant := range variants[1:] {
		t.Run(variant.name, func(t *testing.T) {
			good := payload(build(t, variant.opts, records...))
			codec := variant.opts.Codec
			for _, cut := range []int{0, 1, 4, 7, 10, 16, 20, len(good) / 2, len(good) - 1} {
				if _, err := v.Validate(withPayload(codec, 40, good[:cut]), batch.Limits{}); !errors.Is(err, batch.ErrInvalidRecord) {
					t.Errorf("cut to %d of %d: %v", cut, len(good), err)
				}
			}
			if _, err := v.Validate(withPayload(codec, 40, append(bytes.Clone(good), "ice"...)), batch.Limits{}); !errors.Is(err, batch.ErrInvalidRecord) {
				t.Errorf("trailing bytes: %v", err)
			}
			if _, err := v.Validate(withPayload(codec, 40, bytes.Repeat([]byte{0xa5}, 100)), batch.Limits{}); !errors.Is(err, batch.ErrInvalidRecord) {
				t.Errorf("garbage: %v", err)
			}
			if _, err := v.Validate(withPayload(codec, 40, good), batch.Limits{}); err != nil {
				t.Errorf("undamaged: %v", err)
			}
		})
	}
}

func TestLZ4FramesThatJavaCannotReadAreRefused(t *testing.T) {
	v := batch.NewValidator()
	good := payload(build(t, batch.BuildOptions{Codec: batch.CodecLZ4}, sample(1, 2, 2000)...))
	dependent := bytes.Clone(good)
	copy(dependent[4:], []byte{0x44, 0x40, 0x5e}) // flags, block size, and their checksum as the lz4 tool writes them
	var legacy bytes.Buffer
	w := lz4.NewWriter(&legacy)
	if err := w.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(payload(build(t, batch.BuildOptions{}, sample(1, 2, 2000)...))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	plain := payload(build(t, batch.BuildOptions{}, sample(1, 2, 2000)...))
	split := len(payload(build(t, batch.BuildOptions{}, sample(1, 1, 2000)...)))
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}
	for name, p := range map[string][]byte{
		"dependent blocks": dependent, "two frames": append(bytes.Clone(good), good...),
		"a record in each of two frames": append(lz4Frame(t, plain[:split]), lz4Frame(t, plain[split:])...),
		"a skippable frame first":        append(skippable, good...), "a legacy frame": legacy.Bytes(),
	} {
		if p[4] == 0x44 {
			if _, err := io.Copy(io.Discard, lz4.NewReader(bytes.NewReader(p))); err != nil {
				t.Fatalf("%s is not refused for what it is: %v", name, err)
			}
		}
		if _, err := v.Validate(withPayload(batch.CodecLZ4, 2, p), batch.Limits{}); !errors.Is(err, batch.ErrInvalidRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, opts := range [][]lz4.Option{
		{lz4.BlockSizeOption(lz4.Block4Mb), lz4.BlockChecksumOption(true), lz4.SizeOption(uint64(len(payload(build(t, batch.BuildOptions{}, sample(1, 2, 2000)...)))))},
		{lz4.ChecksumOption(false)},
	} {
		var out bytes.Buffer
		w := lz4.NewWriter(&out)
		if err := w.Apply(opts...); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(payload(build(t, batch.BuildOptions{}, sample(1, 2, 2000)...))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Validate(withPayload(batch.CodecLZ4, 2, out.Bytes()), batch.Limits{}); err != nil {
			t.Errorf("options %v: %v", opts, err)
		}
	}
}

func lz4Frame(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := lz4.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A record larger than the window is checked while it is skipped, and read whole by Walk.
func TestRecordsBeyondTheWindow(t *testing.T) {
	v := batch.NewValidator()
	big := bytes.Repeat([]byte("firn"), 60_000)
	records := []record{
		{timestamp: now, key: []byte("a"), value: big},
		{timestamp: now + 1, key: big, headers: []batch.HeaderPair{{Key: "h", Value: big}, {Key: "n"}}},
		{timestamp: now + 2, value: big},
	}
	for _, variant := range variants {
		t.Run(variant.name, func(t *testing.T) {
			raw := build(t, variant.opts, records...)
			lim := batch.Limits{MaxBatchBytes: 4 << 20}
			if h, err := v.Validate(raw, lim); err != nil || h.MaxTimestamp != now+2 {
				t.Fatal(err)
			}
			var re *batch.RecordError
			lim.RequireKeys = true
			if _, err := v.Validate(raw, lim); !errors.As(err, &re) || re.Index != 2 {
				t.Fatalf("a null key: %v", err)
			}
			lim.Now, lim.TimestampAfterMax = now, 0
			if _, err := v.Validate(raw, lim); !errors.As(err, &re) || re.Index != 1 || !errors.Is(re.Err, batch.ErrTimestamp) {
				t.Fatalf("a late timestamp: %v", err)
			}
			for i, got := range collect(t, v, raw) {
				if !equal(got, records[i]) {
					t.Fatalf("record %d differs", i)
				}
			}
		})
	}
}

// Every malformed record of the table must be refused the same way when it is too large to be seen at once.
func TestBadRecordsBeyondTheWindow(t *testing.T) {
	v := batch.NewValidator()
	big := 100_000
	body := func(prologue []byte, rest ...byte) []byte {
		b := append(bytes.Clone(prologue), binary.AppendVarint(nil, int64(big))...)
		return append(append(b, make([]byte, big)...), rest...)
	}
	for _, c := range []struct {
		name string
		body []byte
		ok   bool
	}{
		{"value, no headers", body([]byte{0, 0, 0, 1}, 0), true},
		{"key and null value", body([]byte{0, 0, 0}, 1, 0), true},
		{"a header", body([]byte{0, 0, 0, 1}, 2, 0, 1), true},
		{"wrong offset delta", body([]byte{0, 0, 2, 1}, 0), false},
		{"a key length of -2", body([]byte{0, 0, 0, 3}, 0), false},
		{"no header count", body([]byte{0, 0, 0, 1}), false},
		{"negative header count", body([]byte{0, 0, 0, 1}, 1), false},
		{"headers missing", body([]byte{0, 0, 0, 1}, 4, 0, 1), false},
		{"null header key", body([]byte{0, 0, 0, 1}, 2, 1, 1), false},
		{"header value past the record", body([]byte{0, 0, 0, 1}, 2, 0, 2), false},
		{"trailing byte", body([]byte{0, 0, 0, 1}, 0, 0), false},
		{"overflowing timestamp", body(append(binary.AppendVarint([]byte{0}, math.MaxInt64), 0, 1), 0), false},
		{"endless varint", body(bytes.Repeat([]byte{0xff}, 20), 0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			plain := append(binary.AppendVarint(nil, int64(len(c.body))), c.body...)
			w, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			for _, raw := range [][]byte{withPayload(0, 1, plain), withPayload(batch.CodecZstd, 1, w.EncodeAll(plain, nil))} {
				_, err := v.Validate(raw, batch.Limits{})
				if c.ok && err != nil || !c.ok && !errors.Is(err, batch.ErrInvalidRecord) {
					t.Fatal(err)
				}
				walked := batch.Records(raw, batch.Limits{}, func(batch.Record) error { return nil })
				if (walked == nil) != (err == nil) {
					t.Fatalf("Walk says %v, Validate says %v", walked, err)
				}
			}
		})
	}
}

// A large record may not take the bytes of the next one for its own and leave them to be read again.
func TestRecordsBeyondTheWindowDoNotOverlap(t *testing.T) {
	second := []byte{12, 0, 0, 2, 1, 1, 0}
	body := append([]byte{0, 0, 0, 1}, binary.AppendVarint(nil, 100_000)...)
	body = append(append(body, make([]byte, 100_000)...), 0)
	plain := append(binary.AppendVarint(nil, int64(len(body)+len(second))), body...)
	plain = append(plain, second...)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, err = batch.NewValidator().Validate(withPayload(batch.CodecZstd, 2, w.EncodeAll(plain, nil)), batch.Limits{})
	var re *batch.RecordError
	if !errors.As(err, &re) || re.Index != 0 {
		t.Fatal(err)
	}
}

// Bombs must be refused after little more than the bound was allocated: one large record, whose length gives it away,
// and many small ones, which only the count of bytes that come out can stop.
func TestDecompressionIsBounded(t *testing.T) {
	const bound = 1 << 20
	small := make([]record, 20_000)
	for i := range small {
		small[i] = record{timestamp: now, value: make([]byte, 1000)}
	}
	for _, variant := range variants[1:] {
		t.Run(variant.name+"/one record", func(t *testing.T) {
			refuseBomb(t, variant.opts, bound, record{timestamp: now, value: make([]byte, 64<<20)})
		})
		t.Run(variant.name+"/many records", func(t *testing.T) {
			refuseBomb(t, variant.opts, bound, small...)
		})
	}
}

// The bound is exact: the records' size is allowed, one byte less is not.
func TestDecompressionBoundIsExact(t *testing.T) {
	records := sample(3, 300, 1000)
	size := int64(len(payload(build(t, batch.BuildOptions{}, records...))))
	v := batch.NewValidator()
	for _, variant := range variants[1:] {
		raw := build(t, variant.opts, records...)
		nop := func(batch.Record) error { return nil }
		for _, c := range []struct {
			bound int64
			want  error
		}{{size, nil}, {size - 1, batch.ErrTooLarge}} {
			lim := batch.Limits{MaxDecompressedBytes: c.bound}
			if _, err := v.Validate(raw, lim); !errors.Is(err, c.want) {
				t.Errorf("%s, Validate within %d of %d: %v", variant.name, c.bound, size, err)
			}
			if err := v.Walk(raw, lim, nop); !errors.Is(err, c.want) {
				t.Errorf("%s, Walk within %d of %d: %v", variant.name, c.bound, size, err)
			}
		}
	}
}

func refuseBomb(t *testing.T, opts batch.BuildOptions, bound int64, records ...record) {
	t.Helper()
	raw := build(t, opts, records...)
	lim := batch.Limits{MaxBatchBytes: math.MaxInt32, MaxDecompressedBytes: bound}
	v := batch.NewValidator()
	if _, err := v.Validate(build(t, opts, sample(1, 1, 10)...), lim); err != nil { // makes the decoder
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"Validate": func() error { _, err := v.Validate(raw, lim); return err },
		"Walk":     func() error { return v.Walk(raw, lim, func(batch.Record) error { return nil }) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := do()
		runtime.ReadMemStats(&after)
		if !errors.Is(err, batch.ErrTooLarge) {
			t.Errorf("%s: %v", what, err)
		}
		// The zstd window is 8 MiB here; everything else stays near the bound.
		if got := int64(after.TotalAlloc - before.TotalAlloc); got > 16*bound {
			t.Errorf("%s allocated %d bytes", what, got)
		}
	}
}

func TestClaimsAreNotAllocated(t *testing.T) {
	snappyClaim := append(binary.AppendUvarint(nil, 1<<30), 0, 0)
	allowedClaim := append(binary.AppendUvarint(nil, 60<<20), 0, 0) // within the bound, and impossible for 2 bytes
	// Frames of a single segment that declare 1 GiB, and of a window of 128 MiB, with nothing in them.
	zstdSize := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x40, 1, 0, 0}
	zstdWindow := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 1, 0, 0}
	xerial := append([]byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x07"), snappyClaim...)
	for name, raw := range map[string][]byte{
		"snappy": withPayload(batch.CodecSnappy, 1, snappyClaim), "xerial": withPayload(batch.CodecSnappy, 1, xerial),
		"snappy within the bound": withPayload(batch.CodecSnappy, 1, allowedClaim),
		"zstd content size":       withPayload(batch.CodecZstd, 1, zstdSize), "zstd window": withPayload(batch.CodecZstd, 1, zstdWindow),
		"record": withPayload(batch.CodecSnappy, 1, append([]byte{5, 16}, 0xfe, 0xff, 0xff, 0xff, 0x0f)),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v := batch.NewValidator()
		_, err := v.Validate(raw, batch.Limits{})
		walked := v.Walk(raw, batch.Limits{}, func(batch.Record) error { return nil })
		runtime.ReadMemStats(&after)
		if err == nil || walked == nil {
			t.Errorf("%s: accepted", name)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("%s allocated %d bytes (%v)", name, got, err)
		}
	}
}

// Levels from 20 up, and one-shot encoders given much, declare windows that are not worth allocating for a batch.
func TestZstdWindowsBeyondTheStreamingBound(t *testing.T) {
	records := sample(9, 30, 4000)
	plain := payload(build(t, batch.BuildOptions{}, records...))
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(32<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for len(plain) > 0 { // in pieces and flushed, so that the frame declares its window and not its content
		n := min(1000, len(plain))
		if _, err := w.Write(plain[:n]); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		plain = plain[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var frame zstd.Header
	if err := frame.Decode(out.Bytes()); err != nil || frame.WindowSize != 32<<20 {
		t.Fatalf("window %d, %v", frame.WindowSize, err)
	}
	raw := withPayload(batch.CodecZstd, 30, out.Bytes())
	v := batch.NewValidator()
	if _, err := v.Validate(raw, batch.Limits{}); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, v, raw); len(got) != 30 || !equal(got[29], records[29]) {
		t.Fatalf("%d records", len(got))
	}
	if _, err := v.Validate(raw, batch.Limits{MaxDecompressedBytes: 16 << 20}); !errors.Is(err, batch.ErrTooLarge) {
		t.Fatalf("a window beyond the bound: %v", err)
	}
}

func TestValidateDoesNotAllocate(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant.name, func(t *testing.T) {
			raw := build(t, variant.opts, sample(6, 200, 500)...)
			v := batch.NewValidator()
			lim := batch.Limits{Now: now, TimestampBeforeMax: 1 << 40, TimestampAfterMax: 1 << 40, RequireKeys: true}
			run := func() {
				if _, err := v.Validate(raw, lim); err != nil {
					t.Fatal(err)
				}
			}
			run()
			// Pools inside the decoders may lose a buffer to the collector: far below one a record all the same.
			if got := testing.AllocsPerRun(100, run); got > 1 {
				t.Fatalf("%v allocations a batch", got)
			}
		})
	}
}

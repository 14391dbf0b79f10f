package batch_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
	"pgregory.net/rapid"
)

func TestRoundTripKeepsEveryRecord(t *testing.T) {
	v := batch.NewValidator() // shared: what one batch leaves behind must not reach the next
	rapid.Check(t, func(rt *rapid.T) {
		opts := rapid.SampledFrom(variants).Draw(rt, "variant").opts
		if rapid.Bool().Draw(rt, "idempotent") {
			opts.Producer = &batch.Producer{ID: rapid.Int64Min(0).Draw(rt, "id"), Epoch: rapid.Int16Min(0).Draw(rt, "epoch"),
				BaseSequence: rapid.Int32Min(0).Draw(rt, "sequence")}
			opts.Transactional = rapid.Bool().Draw(rt, "transactional")
		}
		bytesOrNil := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 300),
			rapid.Map(rapid.IntRange(0, 200_000), func(n int) []byte { return bytes.Repeat([]byte("snow"), n/4) }))
		want := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) record {
			r := record{timestamp: rapid.Int64Range(-1, now*2).Draw(rt, "timestamp"),
				key: bytesOrNil.Draw(rt, "key"), value: bytesOrNil.Draw(rt, "value")}
			for range rapid.IntRange(0, 3).Draw(rt, "headers") {
				r.headers = append(r.headers, batch.HeaderPair{Key: rapid.String().Draw(rt, "name"), Value: bytesOrNil.Draw(rt, "header")})
			}
			return r
		}), 1, 12).Draw(rt, "records")

		raw := build(t, opts, want...)
		original := bytes.Clone(raw)
		h, err := v.Validate(raw, batch.Limits{MaxBatchBytes: 64 << 20})
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(raw, original) {
			rt.Fatal("Validate changed the batch")
		}
		wire, err := batch.ParseHeader(raw)
		if err != nil || wire != h {
			rt.Fatalf("header %+v, parsed %+v, %v", h, wire, err)
		}
		if h.Size() != len(raw) || h.Span() != int64(len(want)) || h.Codec() != opts.Codec || h.Transactional() != opts.Transactional {
			rt.Fatalf("header %+v", h)
		}
		got := collect(t, v, raw)
		if len(got) != len(want) {
			rt.Fatalf("%d records, want %d", len(got), len(want))
		}
		for i := range want {
			if !equal(got[i], want[i]) {
				rt.Fatalf("record %d differs", i)
			}
		}
	})
}

func TestWalkGivesAppendTimeOfLogAppendTimeBatches(t *testing.T) {
	raw := build(t, batch.BuildOptions{LogAppendTime: true, AppendTime: now + 5}, sample(1, 3, 10)...)
	for _, r := range collect(t, batch.NewValidator(), raw) {
		if r.timestamp != now+5 {
			t.Fatalf("timestamp %d", r.timestamp)
		}
	}
}

func TestWalkReturnsTheCallersError(t *testing.T) {
	stop := errors.New("enough")
	calls := 0
	err := batch.Records(build(t, batch.BuildOptions{Codec: batch.CodecGzip}, sample(1, 3, 10)...), batch.Limits{}, func(batch.Record) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Fatalf("%v after %d calls", err, calls)
	}
}

// Key compaction leaves gaps between offset deltas, and batches without records.
func TestWalkReadsWhatKeyCompactionLeaves(t *testing.T) {
	raw := withPayload(batch.CodecNone, 5, []byte{12, 0, 0, 4, 1, 1, 0}) // offset delta 2, null key and value
	raw[60] = 1                                                          // one record left of five
	reseal(raw)
	var deltas []int32
	if err := batch.Records(raw, batch.Limits{}, func(r batch.Record) error {
		deltas = append(deltas, r.OffsetDelta)
		return nil
	}); err != nil || len(deltas) != 1 || deltas[0] != 2 {
		t.Fatalf("%v, %v", deltas, err)
	}
	if err := batch.Records(withPayload(batch.CodecNone, 0, nil), batch.Limits{}, nil); !errors.Is(err, batch.ErrInvalidRecord) {
		t.Fatalf("last offset delta -1: %v", err)
	}
	empty := withPayload(batch.CodecNone, 5, nil)
	empty[60] = 0
	if err := batch.Records(reseal(empty), batch.Limits{}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestABatchWithoutRecords(t *testing.T) {
	want := batch.Header{BaseOffset: 1 << 40, LastOffsetDelta: math.MaxInt32 - 1, LeaderEpoch: 7, BaseTimestamp: -1, MaxTimestamp: -1, ProducerID: 5, ProducerEpoch: 2, BaseSequence: 9}
	raw := batch.AppendEmpty([]byte("before"), want)[len("before"):]
	got, err := batch.ParseHeader(raw)
	want.Length, want.Magic, want.CRC = batch.HeaderSize-12, 2, got.CRC
	if err != nil || got != want || len(raw) != got.Size() || got.Span() != math.MaxInt32 {
		t.Fatalf("%+v, %v, want %+v", got, err, want)
	}
	if err := errors.Join(batch.VerifyCRC(raw), batch.Records(raw, batch.Limits{}, nil)); err != nil {
		t.Fatal(err)
	}
}

func TestWalkRefuses(t *testing.T) {
	one, again := []byte{12, 0, 0, 2, 1, 1, 0}, []byte{12, 0, 0, 0, 1, 1, 0} // offset deltas 1 and 0
	plain := build(t, batch.BuildOptions{}, sample(1, 2, 10)...)
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"a header cut short":      {plain[:50], batch.ErrTruncated},
		"a batch cut short":       {plain[:len(plain)-1], batch.ErrTruncated},
		"two batches":             {append(bytes.Clone(plain), plain...), batch.ErrCorrupt},
		"codec 6":                 {withPayload(6, 2, nil), batch.ErrUnsupportedCodec},
		"a negative record count": {withPayload(0, -1, nil), batch.ErrInvalidRecord},
		"an offset twice":         {withPayload(0, 2, append(bytes.Clone(one), one...)), batch.ErrInvalidRecord},
		"offsets that fall":       {withPayload(0, 2, append(bytes.Clone(one), again...)), batch.ErrInvalidRecord},
		"an offset past the last": {withPayload(0, 1, one), batch.ErrInvalidRecord},
		"a record too few":        {withPayload(0, 2, again), batch.ErrInvalidRecord},
		"a record too many":       {withPayload(0, 1, append(bytes.Clone(again), one...)), batch.ErrInvalidRecord},
	} {
		if err := batch.Records(c.raw, batch.Limits{}, func(batch.Record) error { return nil }); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestSplit(t *testing.T) {
	var all []byte
	var want [][]byte
	for i, v := range variants {
		raw := build(t, v.opts, sample(uint64(i), i+1, 50)...)
		want = append(want, raw)
		all = append(all, raw...)
	}
	s := batch.Split(all)
	for i := range want {
		if !s.Next() || !bytes.Equal(s.Raw(), want[i]) || s.Header().RecordCount != int32(i+1) {
			t.Fatalf("batch %d: %v", i, s.Err())
		}
	}
	if s.Next() || s.Err() != nil || s.Position() != len(all) {
		t.Fatalf("after the last batch: %v, position %d", s.Err(), s.Position())
	}

	for cut := 1; cut < len(want[0]); cut++ {
		s := batch.Split(all[:len(want[0])+cut])
		n := 0
		for s.Next() {
			n++
		}
		if cut < len(want[1]) && (n != 1 || !errors.Is(s.Err(), batch.ErrTruncated) || s.Position() != len(want[0])) {
			t.Fatalf("cut %d: %d batches, %v, position %d", cut, n, s.Err(), s.Position())
		}
	}
	bad := bytes.Clone(all)
	bad[len(want[0])+16] = 1
	s = batch.Split(bad)
	if !s.Next() || s.Next() || !errors.Is(s.Err(), batch.ErrUnsupportedMagic) || s.Raw() != nil {
		t.Fatalf("magic 1: %v", s.Err())
	}
	if s.Next() {
		t.Fatal("went on after an error")
	}
}

func TestLastSequenceWraps(t *testing.T) {
	for _, c := range []struct{ base, delta, want int32 }{
		{-1, 5, -1}, {0, 0, 0}, {7, 3, 10}, {1<<31 - 1, 0, 1<<31 - 1}, {1<<31 - 1, 1, 0}, {1<<31 - 3, 5, 2},
	} {
		h := batch.Header{BaseSequence: c.base, LastOffsetDelta: c.delta}
		if got := h.LastSequence(); got != c.want {
			t.Errorf("base %d, delta %d: %d, want %d", c.base, c.delta, got, c.want)
		}
	}
}

package batch_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
)

// What the filter that Apache Kafka 4.4's cleaner works with makes of these batches: testdata/kafka-filter-4.4.0.tsv holds name, the batch,
// which records stay (1) and go (0), the delete horizon to set, and Kafka's result. -rewrite writes the first four columns for a
// Java program that fills in the fifth from the published jar.
const filteredFile = "testdata/kafka-filter-4.4.0.tsv"

type filterCase struct {
	name    string
	raw     []byte
	keep    string
	horizon int64
}

func filterCases(t *testing.T) (list []filterCase) {
	const horizon = now + 86_400_000
	records := func(tombstones string) []record {
		out := sample(3, 6, 24)
		for i, c := range tombstones {
			if c == 't' {
				out[i].value = nil
			}
		}
		out[1].headers = []batch.HeaderPair{{Key: "h", Value: []byte("v")}, {Key: "null"}}
		out[2].timestamp = now - 5_000_000_000 // before the first
		return out
	}
	idempotent := &batch.Producer{ID: 77, Epoch: 3, BaseSequence: 2_147_483_645}
	for _, v := range variants {
		opts := v.opts
		opts.BaseOffset, opts.Producer = 1000, idempotent
		for what, keep := range map[string]string{"all": "111111", "none": "000000", "first": "100000", "last": "000001", "some": "010110"} {
			raw := build(t, opts, records("vvvvvv")...)
			batch.StampBase(raw, 1000, 7)
			list = append(list, filterCase{v.name + " keeps " + what, raw, keep, horizon})
			raw = build(t, opts, records("vtvtvv")...)
			batch.StampBase(raw, 1000, 7)
			list = append(list, filterCase{v.name + " with tombstones keeps " + what, raw, keep, horizon})
			raw = bytes.Clone(raw)
			batch.StampLogAppendTime(raw, now+99)
			list = append(list, filterCase{v.name + " in append time keeps " + what, raw, keep, horizon})
		}
	}
	untimed := records("vvvtvv")
	for i := range untimed {
		untimed[i].timestamp = batch.NoTimestamp
	}
	raw := build(t, batch.BuildOptions{BaseOffset: 5}, untimed...)
	list = append(list, filterCase{"without timestamps", raw, "011111", horizon}, filterCase{"without timestamps or tombstones", raw, "011011", horizon})
	return list
}

func filter(t *testing.T, f *batch.Filter, c filterCase) (batch.Filtered, error) {
	t.Helper()
	before := bytes.Clone(c.raw)
	i := 0
	got, err := f.Rewrite(c.raw, batch.Limits{}, c.horizon, func(batch.Record) bool { i++; return c.keep[i-1] == '1' })
	if !bytes.Equal(before, c.raw) {
		t.Errorf("%s: the batch that went in has changed", c.name)
	}
	return got, err
}

func TestKafkasOwnFilterAgrees(t *testing.T) {
	if *rewrite {
		var b strings.Builder
		f := batch.NewFilter()
		add := func(c filterCase) {
			fmt.Fprintf(&b, "%s\t%s\t%s\t%d\n", c.name, hex.EncodeToString(c.raw), c.keep, c.horizon)
		}
		for _, c := range filterCases(t) {
			add(c)
			// Once more: with gaps inside, and a horizon that is there.
			if got, err := filter(t, f, c); err == nil && got.Records > 1 && !got.Untouched {
				again := "0" + strings.Repeat("1", int(got.Records)-1)
				add(filterCase{c.name + ", again", bytes.Clone(got.Raw), again, c.horizon + 1})
			}
		}
		if err := os.WriteFile(filteredFile+".cases", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	body, err := os.ReadFile(filteredFile)
	if err != nil {
		t.Fatal(err)
	}
	f := batch.NewFilter()
	seen := 0
	for line := range strings.Lines(string(body)) {
		col := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(col) != 5 {
			t.Fatalf("%q", line)
		}
		raw, err1 := hex.DecodeString(col[1])
		horizon, err2 := strconv.ParseInt(col[3], 10, 64)
		want, err3 := hex.DecodeString(col[4])
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		seen++
		got, err := filter(t, f, filterCase{col[0], raw, col[2], horizon})
		if err != nil {
			t.Errorf("%s: %v", col[0], err)
			continue
		}
		sameBatch(t, col[0], got.Raw, want)
	}
	if seen < 100 {
		t.Errorf("only %d cases", seen)
	}
}

// sameBatch compares all but how the records are compressed.
func sameBatch(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if len(want) == 0 || len(got) == 0 {
		if len(want) != len(got) {
			t.Errorf("%s: %d bytes are left, Kafka leaves %d", name, len(got), len(want))
		}
		return
	}
	if err := batch.VerifyCRC(got); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	g, err1 := batch.ParseHeader(got)
	w, err2 := batch.ParseHeader(want)
	if err := errors.Join(err1, err2); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if g.Codec() == batch.CodecNone && !bytes.Equal(got, want) {
		t.Errorf("%s:\n%x\nKafka:\n%x", name, got, want)
	}
	g.Length, g.CRC = w.Length, w.CRC
	if g != w {
		t.Errorf("%s: %+v, Kafka's %+v", name, g, w)
	}
	v := batch.NewValidator()
	a, b := offsets(t, v, got), offsets(t, v, want)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("%s: offset deltas %v, Kafka's %v", name, a, b)
	}
	x, y := collect(t, v, got), collect(t, v, want)
	for i := range y {
		if i >= len(x) || !equal(x[i], y[i]) {
			t.Errorf("%s: record %d differs from Kafka's", name, i)
			return
		}
	}
}

func offsets(t *testing.T, v *batch.Validator, raw []byte) (deltas []int32) {
	t.Helper()
	if err := v.Walk(raw, batch.Limits{}, func(r batch.Record) error { deltas = append(deltas, r.OffsetDelta); return nil }); err != nil {
		t.Fatal(err)
	}
	return deltas
}

// TestFilter holds against random records that what is left is what was asked for, over several rounds.
func TestFilter(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	f, v := batch.NewFilter(), batch.NewValidator()
	for round := range 200 {
		opts := variants[round%len(variants)].opts
		in := sample(uint64(round), 1+rng.IntN(50), rng.IntN(200))
		for i := range in {
			if rng.IntN(10) == 0 {
				in[i].value = nil
			}
			in[i].timestamp += rng.Int64N(1000) - 500
		}
		raw := build(t, opts, in...)
		batch.StampBase(raw, rng.Int64N(1<<40), 3)
		first, _ := batch.ParseHeader(raw)
		for pass := range 4 {
			var next []record
			got, err := f.Rewrite(raw, batch.Limits{}, now+int64(pass), func(r batch.Record) bool {
				if rng.IntN(4) == 0 {
					return false
				}
				next = append(next, record{r.Timestamp, bytes.Clone(r.Key), bytes.Clone(r.Value), nil})
				if r.Value == nil {
					next[len(next)-1].value = nil
				}
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			if int(got.Records) != len(next) || (got.Raw == nil) != (len(next) == 0) {
				t.Fatalf("%d records of %d", got.Records, len(next))
			}
			if got.Raw == nil {
				break
			}
			if err := batch.VerifyCRC(got.Raw); err != nil {
				t.Fatal(err)
			}
			out := collect(t, v, got.Raw)
			for i := range next {
				if !equal(out[i], next[i]) {
					t.Fatalf("record %d differs", i)
				}
			}
			h, err := batch.ParseHeader(got.Raw)
			if err != nil || h != got.Header {
				t.Fatalf("%+v, told %+v, %v", h, got.Header, err)
			}
			if h.BaseOffset != first.BaseOffset || h.Span() != first.Span() || h.LeaderEpoch != first.LeaderEpoch || h.Codec() != first.Codec() {
				t.Fatalf("%+v was %+v", h, first)
			}
			if got.Untouched != bytes.Equal(got.Raw, raw) {
				t.Fatalf("untouched: %v", got.Untouched)
			}
			raw = bytes.Clone(got.Raw)
		}
	}
}

// Timestamps hundreds of millions of years apart are accepted from producers, and a difference to them may not fit.
func TestFilterKeepsImpossibleTimestamps(t *testing.T) {
	f, v := batch.NewFilter(), batch.NewValidator()
	in := []record{
		{timestamp: 0, key: []byte("a"), value: []byte("1")},
		{timestamp: math.MinInt64, key: []byte("b")},
		{timestamp: math.MaxInt64, key: []byte("c"), value: []byte("3")},
	}
	raw := build(t, batch.BuildOptions{}, in...)
	for _, horizon := range []int64{now, math.MaxInt64} {
		got, err := f.Rewrite(raw, batch.Limits{}, horizon, func(r batch.Record) bool { return r.OffsetDelta > 0 })
		if err != nil {
			t.Fatal(err)
		}
		out := collect(t, v, got.Raw)
		if len(out) != 2 || !equal(out[0], in[1]) || !equal(out[1], in[2]) {
			t.Errorf("%+v", out)
		}
	}
}

// A batch that was just small enough to be read is so afterwards.
func TestFilterMakesNothingTooLarge(t *testing.T) {
	in := sample(1, 100, 10)
	in[7].value = nil
	lim := batch.Limits{MaxDecompressedBytes: int64(len(payload(build(t, batch.BuildOptions{}, in...))))}
	raw := build(t, batch.BuildOptions{Codec: batch.CodecLZ4}, in...)
	f, v := batch.NewFilter(), batch.NewValidator()
	for round := range 3 { // all records, all but the first, all but the first and the tombstone
		got, err := f.Rewrite(raw, lim, now+86_400_000, func(r batch.Record) bool { return r.OffsetDelta >= int32(round) && (round < 2 || r.Value != nil) })
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := v.Walk(got.Raw, lim, func(batch.Record) error { n++; return nil }); err != nil || n != int(got.Records) {
			t.Errorf("round %d: %d records of %d, %v", round, n, got.Records, err)
		}
		if _, has := got.Header.DeleteHorizon(); has {
			t.Errorf("round %d: there was no room for a delete horizon", round)
		}
	}
}

func TestFilterRefuses(t *testing.T) {
	plain := build(t, batch.BuildOptions{}, sample(1, 3, 20)...)
	transactional := build(t, batch.BuildOptions{Transactional: true, Producer: &batch.Producer{ID: 9}}, sample(1, 3, 20)...)
	bomb := build(t, batch.BuildOptions{Codec: batch.CodecZstd}, record{timestamp: now, key: []byte("k"), value: make([]byte, 4<<20)})
	all := func(batch.Record) bool { return true }
	for name, c := range map[string]struct {
		raw  []byte
		lim  batch.Limits
		want error
	}{
		"transactional": {transactional, batch.Limits{}, batch.ErrInvalidRecord},
		"cut short":     {plain[:len(plain)-1], batch.Limits{}, batch.ErrTruncated},
		"two":           {append(bytes.Clone(plain), plain...), batch.Limits{}, batch.ErrCorrupt},
		"a bomb":        {bomb, batch.Limits{MaxDecompressedBytes: 1 << 20}, batch.ErrTooLarge},
	} {
		if _, err := batch.NewFilter().Rewrite(c.raw, c.lim, now, all); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFilterAllocatesNothing(t *testing.T) {
	raw := build(t, batch.BuildOptions{}, sample(1, 100, 100)...)
	f := batch.NewFilter()
	if n := testing.AllocsPerRun(20, func() {
		if _, err := f.Rewrite(raw, batch.Limits{}, now, func(r batch.Record) bool { return r.OffsetDelta%2 == 0 }); err != nil {
			t.Fatal(err)
		}
	}); n > 3 {
		t.Errorf("%v allocations for a batch", n)
	}
}

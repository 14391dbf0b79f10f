package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// Segments of many shapes, read from every offset with many limits, give what was appended.
func TestWhatWasAppendedIsRead(t *testing.T) {
	for _, c := range []struct {
		name string
		opts segment.Options
		cfg  fetch.Config
	}{
		{"whole objects", segment.Options{}, fetch.Config{}},
		{"small chunks", segment.Options{ChunkBytes: 300}, fetch.Config{}},
		{"compressed", segment.Options{ChunkBytes: 3000, Compress: true}, fetch.Config{}},
		{"runs", segment.Options{ChunkBytes: 300}, fetch.Config{WholeBytes: 1, RunBytes: 700}},
		{"compressed runs", segment.Options{ChunkBytes: 3000, Compress: true}, fetch.Config{WholeBytes: 1, RunBytes: 500, ReadAhead: 4}},
		{"no memory", segment.Options{ChunkBytes: 300}, fetch.Config{Bytes: 1, WholeBytes: 1, RunBytes: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, bucket := newIndex(t), newStore()
			topic := x.topic("t")
			r, _ := open(t, c.cfg, x, bucket)
			rng := rand.New(rand.NewPCG(1, 2))
			var want [4][]record
			producers := [4]int32{}
			for range 12 {
				var parts []part
				for range 1 + rng.IntN(25) {
					k := int32(rng.IntN(4))
					var values []string
					for range 1 + rng.IntN(4) {
						values = append(values, strings.Repeat(fmt.Sprint(rng.IntN(10)), rng.IntN(100)))
					}
					opts := batch.BuildOptions{Producer: &batch.Producer{ID: 7, BaseSequence: producers[k]}}
					ts := now + int64(rng.IntN(1000))
					if rng.IntN(5) == 0 && producers[k] > 0 { // a repeat or a gap: dead bytes inside the block
						opts.Producer.BaseSequence = 1000
						parts = append(parts, of(t, opts, topic, k, ts, values...))
						continue
					}
					producers[k] += int32(len(values))
					parts = append(parts, of(t, opts, topic, k, ts, values...))
					for i, v := range values {
						want[k] = append(want[k], record{int64(len(want[k])), ts + int64(i), v})
					}
				}
				x.add(bucket, c.opts, parts...)
			}
			for k := range int32(4) {
				var rows []state.Row
				x.View(func(st *state.State) { rows = st.TopicByID(topic).Partition(int(k)).Rows(0, 100, nil) })
				if !slices.ContainsFunc(rows, func(row state.Row) bool { return row.Position > 0 }) {
					t.Fatal("no row starts inside its block: the test no longer covers dead bytes")
				}
				for offset := range want[k] {
					for _, most := range []int{0, 150, 2000, 1 << 20} {
						if most == 0 && offset%7 > 0 {
							continue
						}
						if got := readAll(t, r, topic, k, int64(offset), most); !slices.Equal(got, want[k][offset:]) {
							t.Fatalf("partition %d from %d, %d bytes at a time: %v", k, offset, most, got)
						}
					}
				}
			}
		})
	}
}

func TestLimitsOfARead(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	a, b := of(t, batch.BuildOptions{}, topic, 0, now, "a"), of(t, batch.BuildOptions{}, topic, 0, now, "b", "c")
	x.add(bucket, segment.Options{}, a, b)
	for _, c := range []struct {
		offset     int64
		most       int
		atLeastOne bool
		next       int64
		bytes      int
	}{
		{0, 0, false, 0, 0},
		{0, 0, true, 1, len(a.raw)},
		{0, len(a.raw) - 1, false, 0, 0},
		{0, len(a.raw), false, 1, len(a.raw)},
		{0, len(a.raw) + len(b.raw) - 1, true, 1, len(a.raw)},
		{0, len(a.raw) + len(b.raw), true, 3, len(a.raw) + len(b.raw)},
		{2, 1 << 20, true, 3, len(b.raw)}, // the whole batch that contains it
		{3, 1 << 20, true, 3, 0},
	} {
		prefix := []byte("prefix")
		dst, res, err := r.Read(t.Context(), topic, 0, c.offset, c.most, prefix, c.atLeastOne)
		if err != nil || len(dst)-len(prefix) != c.bytes || !bytes.HasPrefix(dst, prefix) {
			t.Fatalf("%+v: %d bytes, %v", c, len(dst)-len(prefix), err)
		}
		records := map[int]int64{len(a.raw): 1, len(b.raw): 2, len(a.raw) + len(b.raw): 3}[c.bytes]
		if want := (fetch.Result{HighWatermark: 3, LastStable: 3, NextOffset: c.next, Records: records}); res != want {
			t.Fatalf("%+v: %+v", c, res)
		}
	}
}

// What a client may be told for good comes only after a barrier.
func TestALaggingAgentAsksBeforeItSaysNo(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	r, _ := open(t, fetch.Config{}, x, bucket)
	topic := x.topic("t")
	later := entry.UUID{0xaa, 'u'}
	op, _ := x.write(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "a", "b"))
	_, _, err := r.Read(t.Context(), later, 0, 0, 100, nil, true)
	wantErr(t, err, fetch.ErrUnknownTopic)
	_, _, err = r.Read(t.Context(), topic, 9, 0, 100, nil, true)
	wantErr(t, err, fetch.ErrUnknownTopic)
	_, _, err = r.Read(t.Context(), topic, 0, 1, 100, nil, true)
	wantErr(t, err, fetch.ErrOffsetOutOfRange)
	_, _, err = r.Read(t.Context(), topic, 0, -1, 100, nil, true)
	wantErr(t, err, fetch.ErrOffsetOutOfRange)
	if x.barriers != 4 {
		t.Fatalf("%d barriers", x.barriers)
	}
	x.lagging = []entry.Op{op, &entry.CreateTopic{Name: "u", ID: later, Partitions: 1}}
	if dst, res, err := r.Read(t.Context(), topic, 0, 1, 1000, nil, true); err != nil || len(dst) == 0 || res.NextOffset != 2 {
		t.Fatalf("%d bytes, %+v, %v", len(dst), res, err)
	}
	if _, _, err := r.Read(t.Context(), later, 0, 0, 1000, nil, true); err != nil {
		t.Fatal(err)
	}
	x.broken = errors.New("no metastore")
	_, _, err = r.Read(t.Context(), topic, 0, 9, 100, nil, true)
	wantErr(t, err, fetch.ErrUnavailable)
}

func TestABarrierThatHangsEndsInTime(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{BarrierTimeout: 3 * time.Second}, x, bucket)
		x.stuck = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for name, read := range map[string]func() error{
			"an offset ahead": func() error { _, _, err := r.Read(ctx, topic, 0, 5, 1, nil, true); return err },
			"a timestamp":     func() error { _, _, err := r.OffsetForTimestamp(ctx, topic, 0, 0); return err },
		} {
			start := time.Now()
			wantErr(t, read(), fetch.ErrUnavailable)
			if took := time.Since(start); took != 3*time.Second {
				t.Errorf("%s: took %v", name, took)
			}
		}
	})
}

func TestLogAppendTimeIsStamped(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t", entry.Config{Name: "message.timestamp.type", Value: "LogAppendTime"})
	r, cache := open(t, fetch.Config{}, x, bucket)
	op, body := x.write(bucket, segment.Options{}, of(t, batch.BuildOptions{Codec: batch.CodecZstd}, topic, 0, now-5000, "a", "b"))
	x.clock = now + 77
	x.commit(op)
	footer, err := segment.Open(body)
	if err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(body)
	cache.Put(op.Object, body, footer)
	want := []record{{0, now + 77, "a"}, {1, now + 77, "b"}}
	for range 2 { // cached bytes are not stamped in place
		if got := readAll(t, r, topic, 0, 0, 1<<20); !slices.Equal(got, want) {
			t.Fatalf("%v", got)
		}
	}
	if !bytes.Equal(body, before) {
		t.Fatal("cached bytes were changed")
	}
}

func TestReadingFromTheLogStart(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	for i := range 4 {
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprint(i, "a"), fmt.Sprint(i, "b")))
	}
	x.commit(&entry.DeleteRecords{Topic: topic, BeforeOffset: 3})
	_, _, err := r.Read(t.Context(), topic, 0, 2, 100, nil, true)
	wantErr(t, err, fetch.ErrOffsetOutOfRange)
	got := readAll(t, r, topic, 0, 3, 1<<20)
	if len(got) != 5 || got[0].value != "1b" {
		t.Fatalf("%v", got)
	}
}

// Offsets that were given up hold nothing: reading goes on behind them.
func TestAGivenUpRangeIsPassed(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	for i := range 3 {
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprint(i, "a"), fmt.Sprint(i, "b")))
	}
	giveUp := func(base int64) {
		t.Helper()
		var row state.Row
		x.View(func(st *state.State) { row = st.TopicByID(topic).Partition(0).Rows(base, 1, nil)[0] })
		x.commit(&entry.Relocate{Topic: topic, StartOffset: row.Base, EndOffset: row.End, Expected: []entry.Row{{
			Object: row.Object, ObjectSize: uint64(row.ObjectSize), Block: row.Block, BaseOffset: row.Base, EndOffset: row.End,
			MaxTimestamp: row.MaxTimestamp, Position: uint64(row.Position), Size: uint64(row.Size),
		}}})
	}
	giveUp(2)
	got := readAll(t, r, topic, 0, 0, 1)
	if len(got) != 4 || got[2].offset != 4 {
		t.Fatalf("%v", got)
	}
	giveUp(4)
	_, res, err := r.Read(t.Context(), topic, 0, 3, 1<<20, nil, true)
	if err != nil || res.NextOffset != 6 {
		t.Fatalf("%+v %v", res, err)
	}
}

// wals is a WALReader.
type wals struct {
	raw []byte
	err error
}

func (w wals) ReadRow(context.Context, entry.UUID, int32, state.Row) ([]byte, error) {
	return w.raw, w.err
}

func TestRowsThatAreNotInTheBucketYet(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	p := of(t, batch.BuildOptions{}, topic, 0, now, "a", "b")
	op, _ := x.write(newStore(), segment.Options{}, p)
	op.Location = entry.InWAL
	x.commit(op)
	r, cache := open(t, fetch.Config{}, x, bucket)
	_, _, err := r.Read(t.Context(), topic, 0, 0, 100, nil, true)
	wantErr(t, err, fetch.ErrUnavailable)
	_, _, err = r.MaxTimestamp(t.Context(), topic, 0)
	wantErr(t, err, fetch.ErrUnavailable)
	r = fetch.NewReader(x, cache).WithWAL(wals{err: errors.New("away")})
	_, _, err = r.Read(t.Context(), topic, 0, 0, 100, nil, true)
	wantErr(t, err, fetch.ErrUnavailable)
	r = fetch.NewReader(x, cache).WithWAL(wals{raw: p.raw})
	if got := readAll(t, r, topic, 0, 1, 1000); !slices.Equal(got, []record{{1, now + 1, "b"}}) {
		t.Fatalf("%v", got)
	}
	if offset, ts, err := r.OffsetForTimestamp(t.Context(), topic, 0, now+1); offset != 1 || ts != now+1 || err != nil {
		t.Fatal(offset, ts, err)
	}
}

// Every batch carries the leader epoch that its offset was given in, also where one read crosses from one to the next.
func TestBatchesCarryTheirLeaderEpoch(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	for i := range 3 {
		op, _ := x.write(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "a", "b"), of(t, batch.BuildOptions{}, topic, 0, now, "c"))
		x.commit(op)
		x.commit(&entry.NewLogEpoch{Epoch: uint64(2 * (i + 1))})
	}
	raw, _, err := r.Read(context.Background(), topic, 0, 0, 1<<20, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	var got []int32
	s := batch.Split(raw)
	for s.Next() {
		h := s.Header()
		got = append(got, h.LeaderEpoch)
		if err := batch.VerifyCRC(s.Raw()); err != nil {
			t.Error(err)
		}
	}
	if want := []int32{0, 0, 1, 1, 3, 3}; s.Err() != nil || !slices.Equal(got, want) {
		t.Errorf("leader epochs %v, want %v (%v)", got, want, s.Err())
	}
}

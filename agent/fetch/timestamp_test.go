package fetch_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// search asks for every time, and for the newest, from many log starts. all are the records that are left, by offset.
func search(t *testing.T, x *index, r *fetch.Reader, topic entry.UUID, rng *rand.Rand, all []record) {
	t.Helper()
	for start := int64(0); start <= all[len(all)-1].offset+1; start += 1 + rng.Int64N(7) {
		x.commit(&entry.DeleteRecords{Topic: topic, BeforeOffset: start})
		live := all[sort.Search(len(all), func(i int) bool { return all[i].offset >= start }):]
		newest := record{offset: -1, timestamp: -1}
		for _, rec := range live {
			if rec.timestamp > newest.timestamp {
				newest = rec
			}
		}
		offset, ts, err := r.MaxTimestamp(t.Context(), topic, 0)
		if err != nil || offset != newest.offset || ts != newest.timestamp {
			t.Fatalf("log start %d: newest %d at %d, %v; want %+v", start, offset, ts, err, newest)
		}
		for since := int64(now - 1); since < now+65; since++ {
			want := record{offset: -1, timestamp: -1}
			if i := slices.IndexFunc(live, func(rec record) bool { return rec.timestamp >= since }); i >= 0 {
				want = live[i]
			}
			offset, ts, err := r.OffsetForTimestamp(t.Context(), topic, 0, since)
			if err != nil || offset != want.offset || ts != want.timestamp {
				t.Fatalf("log start %d, since %d: %d at %d, %v; want %+v", start, since-now, offset, ts, err, want)
			}
		}
	}
}

// Searches agree with a plain scan over all records, whatever the order of timestamps and wherever the log starts.
func TestSearchesByTimestamp(t *testing.T) {
	for _, opts := range []segment.Options{{ChunkBytes: 200}, {ChunkBytes: 2000, Compress: true}} {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{}, x, bucket)
		rng := rand.New(rand.NewPCG(5, 6))
		var all []record
		for range 10 {
			var parts []part
			for range 1 + rng.IntN(8) {
				b := batch.NewBuilder(batch.BuildOptions{Codec: batch.Codec(rng.IntN(5))})
				for range 1 + rng.IntN(4) {
					ts := int64(now + rng.IntN(60))
					b.Add(ts, nil, []byte("value"))
					all = append(all, record{int64(len(all)), ts, "value"})
				}
				raw, err := b.Build(nil)
				if err != nil {
					t.Fatal(err)
				}
				h, err := batch.ParseHeader(raw)
				if err != nil {
					t.Fatal(err)
				}
				parts = append(parts, part{topic, 0, raw, h})
			}
			x.add(bucket, opts, parts...)
		}
		search(t, x, r, topic, rng, all)
		x.commit(&entry.DeleteRecords{Topic: topic, BeforeOffset: -1})
		if offset, ts, err := r.MaxTimestamp(t.Context(), topic, 0); err != nil || offset != -1 || ts != -1 {
			t.Fatal(offset, ts, err)
		}
		_, _, err := r.OffsetForTimestamp(t.Context(), entry.UUID{5}, 0, 1)
		wantErr(t, err, fetch.ErrUnknownTopic)
	}
}

func TestSearchesByLogAppendTime(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t", entry.Config{Name: "message.timestamp.type", Value: "LogAppendTime"})
	r, _ := open(t, fetch.Config{}, x, bucket)
	for i := range 4 {
		x.clock = now + 1000*int64(i)
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, 5, fmt.Sprint(i), "b", "c"))
	}
	for _, c := range []struct{ since, offset, timestamp int64 }{
		{5, 0, now}, {now, 0, now}, {now + 1, 3, now + 1000}, {now + 3000, 9, now + 3000}, {now + 3001, -1, -1},
	} {
		offset, ts, err := r.OffsetForTimestamp(t.Context(), topic, 0, c.since)
		if err != nil || offset != c.offset || ts != c.timestamp {
			t.Fatalf("since %d: %d at %d, %v", c.since, offset, ts, err)
		}
	}
	if offset, ts, err := r.MaxTimestamp(t.Context(), topic, 0); err != nil || offset != 9 || ts != now+3000 {
		t.Fatal(offset, ts, err)
	}
	x.commit(&entry.DeleteRecords{Topic: topic, BeforeOffset: 10})
	if offset, ts, err := r.MaxTimestamp(t.Context(), topic, 0); err != nil || offset != 10 || ts != now+3000 {
		t.Fatal(offset, ts, err)
	}
	if offset, _, err := r.OffsetForTimestamp(t.Context(), topic, 0, 0); err != nil || offset != 10 {
		t.Fatal(offset, err)
	}
}

package gc_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// recordBatch is a batch of so many records at a base offset.
func recordBatch(t *testing.T, base int64, records int) []byte {
	t.Helper()
	b := batch.NewBuilder(batch.BuildOptions{BaseOffset: base})
	for i := range records {
		b.Add(start+int64(i), fmt.Append(nil, "key", i), bytes.Repeat([]byte("v"), 100))
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// segment uploads and names a level-0 object with a block in each of topic A's partitions, and returns its bytes.
func (w *world) segment(t *testing.T) (entry.ObjectID, []byte) {
	t.Helper()
	w.made++
	id := entry.ObjectID{Incarnation: w.agent, Seq: w.made, CollectionEpoch: w.head.CollectionEpoch()}
	b := segment.NewBuilder(segment.Options{ChunkBytes: 2000})
	op := &entry.Append{Object: id}
	for p := range uint32(2) {
		block := entry.Block{Topic: topicA, Partition: p, Index: p}
		for range 5 {
			raw := recordBatch(t, 0, 10)
			b.Add(topicA, int32(p), raw, 10, start)
			block.AddBatch(uint64(len(raw)), 10, start, entry.NoProducer())
		}
		op.Blocks = append(op.Blocks, block)
	}
	body, _, err := b.Finish(nil, entry.AppendObjectID(nil, id), nil)
	if err != nil {
		t.Fatal(err)
	}
	op.ObjectSize = uint64(len(body))
	w.put(id, body)
	w.ok(op)
	return id, body
}

// merge rewrites partition 0 of topic A into one merged object, and returns its bytes.
func (w *world) merge(t *testing.T) (entry.ObjectID, []byte) {
	t.Helper()
	w.made++
	id := entry.ObjectID{Incarnation: w.agent, Seq: w.made, CollectionEpoch: w.head.CollectionEpoch(), Topic: topicA}
	p := w.head.TopicByID(topicA).Partition(0)
	rows := p.Rows(0, 1000, nil)
	var body bytes.Buffer
	out := segment.NewWriter(&body, segment.Options{ChunkBytes: 2000})
	size := 0
	for base := int64(0); base < p.Next(); base += 10 {
		raw := recordBatch(t, base, 10)
		size += len(raw)
		if err := out.Add(topicA, 0, raw, base, base+10, start); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := out.Finish(entry.AppendObjectID(nil, id), nil); err != nil {
		t.Fatal(err)
	}
	w.put(id, body.Bytes())
	w.ok(&entry.Rewrite{
		Topic: topicA, Objects: []entry.RewrittenObject{{ID: id, Size: uint64(body.Len())}},
		Parts: []entry.RewrittenPart{{
			Start: 0, End: p.Next(), Rows: uint32(len(rows)), Digest: state.RowsDigest(rows),
			Replacement: []entry.RewrittenRow{{End: p.Next(), MaxTimestamp: start, Size: uint64(size)}},
		}},
	})
	return id, body.Bytes()
}

// daily checks everything every day, whatever its size.
var daily = gc.Config{ScrubPass: 24 * time.Hour, SweepInterval: 1000 * time.Hour}

func TestScrubbingFindsWhatIsDamaged(t *testing.T) {
	flip := func(at func(body []byte) int) func([]byte) []byte {
		return func(body []byte) []byte {
			b := bytes.Clone(body)
			b[at(b)] ^= 0x10
			return b
		}
	}
	for _, tc := range []struct {
		name   string
		damage func(body []byte) []byte // nil: the object goes
		kind   string                   // "": none
	}{
		{"nothing", func(b []byte) []byte { return b }, ""},
		{"gone", nil, gc.KindMissing},
		{"cut short", func(b []byte) []byte { return b[:len(b)/2] }, gc.KindSize},
		{"a bit of a chunk", flip(func(b []byte) int { return segment.HeaderSize + 100 }), gc.KindChunk},
		{"a bit of the last chunk", flip(func(b []byte) int { return len(b) / 2 }), gc.KindChunk},
		{"a bit of the footer", flip(func(b []byte) int { return len(b) - segment.TrailerSize - 5 }), gc.KindFooter},
		{"a bit of the trailer", flip(func(b []byte) int { return len(b) - 20 }), gc.KindFooter},
		{"a bit of the header", flip(func([]byte) int { return 3 }), gc.KindFooter},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, merged := range []bool{false, true} {
				w := newWorld(t)
				id, body := w.segment(t)
				w.segment(t)
				if merged {
					id, body = w.merge(t)
				}
				w.archiveAll()
				if tc.damage == nil {
					if err := w.bucket.Bucket.Delete(t.Context(), id.Key()); err != nil {
						t.Fatal(err)
					}
				} else {
					w.put(id, tc.damage(body))
				}
				c := w.collector(daily)
				c.pass(30 * time.Hour)
				got := c.Damaged()
				switch {
				case tc.kind == "" && (len(got) > 0 || c.Fault() != ""):
					t.Errorf("merged %v: %+v, fault %q", merged, got, c.Fault())
				case tc.kind != "" && (len(got) != 1 || got[0].Kind != tc.kind || got[0].Object != id):
					t.Errorf("merged %v: %+v, want %s of %v", merged, got, tc.kind, id)
				case tc.kind != "" && strings.Count(c.logged.String(), "is damaged") != 1:
					t.Errorf("merged %v: told as %s", merged, c.logged)
				}
				if tc.kind == "" {
					continue
				}
				if p := w.head.TopicByID(topicA).Partition(0); p.LogStart() != 0 || p.RowCount() == 0 {
					t.Error("records were given up")
				}
				w.put(id, body) // from a copy
				c.pass(30 * time.Hour)
				if c.Fault() != "" {
					t.Errorf("merged %v: whole again: %s", merged, c.Fault())
				}
			}
		})
	}
}

func TestScrubbingFindsOffsetsAndRowsThatDoNotFit(t *testing.T) {
	t.Run("another object under the key", func(t *testing.T) {
		w := newWorld(t)
		_, body := w.segment(t)
		id, other := w.segment(t)
		if len(other) != len(body) {
			t.Fatal("they are of different sizes")
		}
		w.put(id, body)
		c := w.collector(daily)
		if c.pass(30 * time.Hour); len(c.Damaged()) != 1 || c.Damaged()[0].Kind != gc.KindFooter {
			t.Errorf("%+v", c.Damaged())
		}
	})
	t.Run("a row beyond its block", func(t *testing.T) {
		w := newWorld(t)
		id, body := w.segment(t)
		w.ok(&entry.Append{Object: id, ObjectSize: uint64(len(body)), Blocks: []entry.Block{{
			Topic: topicA, Partition: 1, Index: 1, Sizes: []uint64{1 << 20}, Spans: []uint64{10}, Timestamps: []int64{start},
		}}})
		c := w.collector(daily)
		if c.pass(30 * time.Hour); len(c.Damaged()) != 1 || c.Damaged()[0].Kind != gc.KindRows {
			t.Errorf("%+v", c.Damaged())
		}
	})
	t.Run("a row of a block that is not there", func(t *testing.T) {
		w := newWorld(t)
		id, body := w.segment(t)
		w.ok(&entry.Append{Object: id, ObjectSize: uint64(len(body)), Blocks: []entry.Block{{
			Topic: topicA, Partition: 1, Index: 7, Sizes: []uint64{10}, Spans: []uint64{10}, Timestamps: []int64{start},
		}}})
		c := w.collector(daily)
		if c.pass(30 * time.Hour); len(c.Damaged()) != 1 || c.Damaged()[0].Kind != gc.KindRows {
			t.Errorf("%+v", c.Damaged())
		}
	})
	t.Run("a row of the wrong block", func(t *testing.T) {
		w := newWorld(t)
		id, body := w.segment(t)
		w.ok(&entry.Append{Object: id, ObjectSize: uint64(len(body)), Blocks: []entry.Block{{
			Topic: topicA, Partition: 1, Index: 0, Sizes: []uint64{10}, Spans: []uint64{10}, Timestamps: []int64{start},
		}}})
		c := w.collector(daily)
		if c.pass(30 * time.Hour); len(c.Damaged()) != 1 || c.Damaged()[0].Kind != gc.KindRows {
			t.Errorf("%+v", c.Damaged())
		}
	})
}

// A partition may have far more rows than are looked at in one go.
func TestScrubbingReachesEveryRow(t *testing.T) {
	for _, before := range []int{0, 4095, 4096, 4097, 10_000} {
		t.Run(fmt.Sprint(before), func(t *testing.T) {
			w := newWorld(t)
			id, body := w.segment(t)
			named := func(size uint64) *entry.Append {
				return &entry.Append{Object: id, ObjectSize: uint64(len(body)), Blocks: []entry.Block{{
					Topic: topicA, Partition: 1, Index: 1, Sizes: []uint64{size}, Spans: []uint64{10}, Timestamps: []int64{start},
				}}}
			}
			first := w.head.TopicByID(topicA).Partition(1).RowCount()
			ops := make([]entry.Op, before)
			for i := range ops {
				ops[i] = named(10)
			}
			for chunk := range slices.Chunk(ops, 1000) {
				w.ok(chunk...)
			}
			w.ok(named(1 << 20))
			w.ok(named(10), named(10))
			if got := w.head.TopicByID(topicA).Partition(1).RowCount() - first; got != before+3 {
				t.Fatalf("%d rows, want %d", got, before+3)
			}
			c := w.collector(daily)
			c.pass(30 * time.Hour)
			if got := c.Damaged(); len(got) != 1 || got[0].Kind != gc.KindRows || got[0].Object != id {
				t.Errorf("scrubbing found %+v", got)
			}
			r, err := gc.Verify(t.Context(), w.observe, w.bucket, gc.VerifyOptions{Deep: true})
			if err != nil || len(r.Damage) != 1 || r.Damage[0].Kind != gc.KindRows || r.Damage[0].Object != id.Key() {
				t.Errorf("a deep verify found %+v, %v", r, err)
			}
			w.ok(&entry.DeleteRecords{Topic: topicA, Partition: 1, BeforeOffset: -1})
			if c.pass(30 * time.Hour); c.Fault() != "" {
				t.Errorf("its rows are gone, and still: %s", c.Fault())
			}
		})
	}
}

func TestScrubbingIsSlow(t *testing.T) {
	w := newWorld(t)
	total := 0
	for range 100 {
		_, body := w.segment(t)
		total += len(body)
	}
	cfg := daily
	cfg.ScrubPass = 100 * time.Hour
	c := w.collector(cfg)
	c.pass(50 * time.Hour)
	if got := w.bucket.calls["get"]; got < 40 || got > 60 {
		t.Errorf("%d reads in half a pass over 100 objects", got)
	}
	before := w.bucket.calls["get"]
	c.pass(100 * time.Hour)
	if got := w.bucket.calls["get"] - before; got < 90 || got > 110 {
		t.Errorf("%d reads in a pass over 100 objects", got)
	}
	if c.Fault() != "" {
		t.Error(c.Fault())
	}
}

func TestNoScrubbing(t *testing.T) {
	w := newWorld(t)
	w.segment(t)
	c := w.collector(noScrub)
	if c.pass(100 * time.Hour); w.bucket.calls["get"] != 0 {
		t.Errorf("%d reads", w.bucket.calls["get"])
	}
}

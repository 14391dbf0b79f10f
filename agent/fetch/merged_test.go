package fetch_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// span is a range of a partition's offsets.
type span struct {
	partition  int32
	start, end int64
}

// rowsIn returns the rows in a range.
func (x *index) rowsIn(topic entry.UUID, s span) (rows []state.Row) {
	x.View(func(st *state.State) {
		for _, row := range st.TopicByID(topic).Partition(int(s.partition)).Rows(s.start, 1000, nil) {
			if row.Base < s.end {
				rows = append(rows, row)
			}
		}
	})
	return rows
}

// stored returns the batches of a row as compaction writes them: with base offset, leader epoch and log append time in them.
func (x *index) stored(bucket objstore.Bucket, topic entry.UUID, partition int32, row *state.Row) (list [][]byte) {
	x.t.Helper()
	body, err := bucket.Get(context.Background(), row.Object.Key())
	if err != nil {
		x.t.Fatal(err)
	}
	footer, err := segment.Open(body)
	if err != nil {
		x.t.Fatal(err)
	}
	var raw []byte
	for _, c := range footer.Blocks[row.Block].Chunks {
		part, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, nil)
		if err != nil {
			x.t.Fatal(err)
		}
		raw = append(raw, part...)
	}
	base := row.Base
	for s := batch.Split(raw[row.Position : row.Position+row.Size]); s.Next(); {
		b := bytes.Clone(s.Raw())
		if row.Object.Merged() {
			base = s.Header().BaseOffset
		}
		x.View(func(st *state.State) {
			batch.StampBase(b, base, st.TopicByID(topic).Partition(int(partition)).EpochAt(base))
		})
		if row.LogAppendTime {
			batch.StampLogAppendTime(b, row.MaxTimestamp)
		}
		base += s.Header().Span()
		list = append(list, b)
	}
	return list
}

// object writes a merged object of batches that know their offsets, and returns its id, size and blocks. damage changes batches after
// the object's table was made of them.
func (x *index) object(
	bucket objstore.Bucket, opts segment.Options, topic entry.UUID, batches map[int32][][]byte, damage ...func([][]byte),
) (entry.RewrittenObject, []segment.Block) {
	x.t.Helper()
	x.mu.Lock()
	x.objects++
	id := entry.ObjectID{Topic: topic, Incarnation: incarnation, Seq: x.objects, CollectionEpoch: 1}
	x.mu.Unlock()
	var body bytes.Buffer
	w := segment.NewWriter(&body, opts)
	for _, k := range slices.Sorted(maps.Keys(batches)) {
		var damaged [][]byte
		for _, raw := range batches[k] {
			damaged = append(damaged, bytes.Clone(raw))
		}
		for _, d := range damage {
			d(damaged)
		}
		for i, raw := range batches[k] {
			h := header(x.t, raw)
			if err := w.Add(topic, k, damaged[i], h.BaseOffset, h.BaseOffset+h.Span(), h.MaxTimestamp); err != nil {
				x.t.Fatal(err)
			}
		}
	}
	blocks, size, err := w.Finish(entry.AppendObjectID(nil, id), nil)
	if err != nil {
		x.t.Fatal(err)
	}
	if err := bucket.Put(context.Background(), id.Key(), body.Bytes(), objstore.PutOptions{}); err != nil {
		x.t.Fatal(err)
	}
	return entry.RewrittenObject{ID: id, Size: uint64(size)}, blocks
}

func header(t testing.TB, raw []byte) batch.Header {
	t.Helper()
	h, err := batch.ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// rewrite returns the op that makes one merged object of ranges of a topic's partitions, and the objects that it was made of. change says
// what becomes of each batch, nil for nothing; where it is nil itself, batches stay as they are.
func (x *index) rewrite(
	bucket objstore.Bucket, opts segment.Options, topic entry.UUID, change func(raw []byte) []byte, spans ...span,
) (*entry.Rewrite, []entry.ObjectID) {
	x.t.Helper()
	op := &entry.Rewrite{Topic: topic}
	batches := make(map[int32][][]byte)
	var old []entry.ObjectID
	for _, s := range spans {
		rows := x.rowsIn(topic, s)
		for i := range rows {
			old = append(old, rows[i].Object)
			for _, raw := range x.stored(bucket, topic, s.partition, &rows[i]) {
				if change != nil {
					raw = change(raw)
				}
				if raw != nil {
					batches[s.partition] = append(batches[s.partition], raw)
				}
			}
		}
		op.Parts = append(op.Parts, entry.RewrittenPart{
			Partition: uint32(s.partition), Start: rows[0].Base, End: rows[len(rows)-1].End, Rows: uint32(len(rows)), Digest: state.RowsDigest(rows),
			Cleaned: change != nil,
		})
	}
	if len(batches) == 0 {
		return op, old
	}
	o, blocks := x.object(bucket, opts, topic, batches)
	op.Objects = []entry.RewrittenObject{o}
	for i := range op.Parts {
		for j, b := range blocks {
			if uint32(b.Partition) != op.Parts[i].Partition {
				continue
			}
			list := batches[b.Partition]
			last := header(x.t, list[len(list)-1])
			op.Parts[i].Replacement = []entry.RewrittenRow{{
				Block: uint32(j), Base: header(x.t, list[0]).BaseOffset, End: last.BaseOffset + last.Span(), MaxTimestamp: b.MaxTimestamp, Size: uint64(b.RawSize),
			}}
		}
	}
	return op, old
}

// keep is a batch without the records that some does not choose, nil where none is left. With a horizon it is the batch's base timestamp, as
// in one whose tombstones wait to be deleted.
func keep(t testing.TB, raw []byte, horizon int64, some func(offset int64) bool) []byte {
	t.Helper()
	h := header(t, raw)
	out := bytes.Clone(raw[:batch.HeaderSize])
	base := h.BaseTimestamp
	if horizon != 0 {
		base = horizon
		out[22] |= 0x40
		binary.BigEndian.PutUint64(out[27:], uint64(horizon))
	}
	out[22] &^= 7 // compression
	count := uint32(0)
	err := batch.Records(raw, batch.Limits{}, func(r batch.Record) error {
		if !some(h.BaseOffset + int64(r.OffsetDelta)) {
			return nil
		}
		body := binary.AppendVarint([]byte{0}, r.Timestamp-base)
		body = binary.AppendVarint(body, int64(r.OffsetDelta))
		body = binary.AppendVarint(body, -1) // no key
		body = append(binary.AppendVarint(body, int64(len(r.Value))), r.Value...)
		body = append(body, 0) // no headers
		out = append(binary.AppendVarint(out, int64(len(body))), body...)
		count++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count == 0 {
		return nil
	}
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-12))
	binary.BigEndian.PutUint32(out[57:], count)
	binary.BigEndian.PutUint32(out[17:], crc32.Checksum(out[21:], crc32.MakeTable(crc32.Castagnoli)))
	return out
}

// shapes are ways to store and read merged objects.
var shapes = []struct {
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
}

// A log whose older part is merged, a part of that with batches and records missing, is read from every offset with many limits.
func TestMergedRowsAreRead(t *testing.T) {
	for _, c := range shapes {
		t.Run(c.name, func(t *testing.T) {
			x, bucket := newIndex(t), newStore()
			topic := x.topic("t")
			r, _ := open(t, c.cfg, x, bucket)
			rng := rand.New(rand.NewPCG(1, 2))
			var want [4][]record
			next := [4]int64{}
			for range 12 {
				var parts []part
				for range 1 + rng.IntN(25) {
					k := int32(rng.IntN(4))
					var values []string
					for range 1 + rng.IntN(4) {
						values = append(values, strings.Repeat(fmt.Sprint(rng.IntN(10)), rng.IntN(100)))
					}
					ts := now + int64(rng.IntN(1000))
					parts = append(parts, of(t, batch.BuildOptions{}, topic, k, ts, values...))
					for i, v := range values {
						want[k] = append(want[k], record{next[k], ts + int64(i), v})
						next[k]++
					}
				}
				x.add(bucket, c.opts, parts...)
			}
			missing := make(map[span]bool) // a partition and an offset
			drop := func(k int32) func(raw []byte) []byte {
				return func(raw []byte) []byte {
					whole, horizon := rng.IntN(3) == 0, int64(rng.IntN(2))*(now+5000)
					return keep(t, raw, horizon, func(offset int64) bool {
						gone := whole || rng.IntN(3) == 0
						missing[span{partition: k, start: offset}] = gone
						return !gone
					})
				}
			}
			for k := range int32(4) {
				end := x.rowsIn(topic, span{k, 0, next[k]})
				third, two := end[len(end)/3].Base, end[2*len(end)/3].Base
				op, _ := x.rewrite(bucket, c.opts, topic, drop(k), span{k, 0, third}) // one of its own
				x.commit(op)
				if k%2 == 0 {
					continue
				}
				more, _ := x.rewrite(bucket, c.opts, topic, nil, span{k - 1, third, two}, span{k, third, two}) // two in one object
				x.commit(more)
			}
			for k := range int32(4) {
				want[k] = slices.DeleteFunc(want[k], func(rec record) bool { return missing[span{partition: k, start: rec.offset}] })
				for offset := range next[k] {
					from := slices.IndexFunc(want[k], func(rec record) bool { return rec.offset >= offset })
					for _, most := range []int{0, 150, 2000, 1 << 20} {
						if most == 0 && offset%7 > 0 {
							continue
						}
						if got := readAll(t, r, topic, k, offset, most); !slices.Equal(got, want[k][from:]) {
							t.Fatalf("partition %d from %d, %d bytes at a time: %v, want %v", k, offset, most, got, want[k][from:])
						}
					}
				}
			}
		})
	}
}

// Where all that follows was compacted away, a batch without records leads to the high watermark: who reads to the end gets there.
func TestNothingFollows(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	first := of(t, batch.BuildOptions{}, topic, 0, now, "a", "b")
	x.add(bucket, segment.Options{}, first)
	for range 20 { // more rows than one look takes
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "c", "d"))
	}
	op, _ := x.rewrite(bucket, segment.Options{}, topic, func([]byte) []byte { return nil }, span{0, 2, 42})
	x.commit(op)
	for _, c := range []struct {
		offset     int64
		most       int
		atLeastOne bool
		next       int64
		bytes      int
		records    int64
	}{
		{0, 1 << 20, true, 42, len(first.raw) + batch.HeaderSize, 2},
		{0, len(first.raw) + batch.HeaderSize - 1, true, 2, len(first.raw), 2}, // no room
		{2, 1 << 20, true, 42, batch.HeaderSize, 0},
		{17, 1 << 20, true, 42, batch.HeaderSize, 0},
		{17, 0, true, 42, batch.HeaderSize, 0},
		{17, batch.HeaderSize - 1, false, 17, 0, 0},
		{41, batch.HeaderSize, false, 42, batch.HeaderSize, 0},
		{42, 1 << 20, true, 42, 0, 0},
	} {
		dst, res, err := r.Read(t.Context(), topic, 0, c.offset, c.most, nil, c.atLeastOne)
		if err != nil || len(dst) != c.bytes || res.NextOffset != c.next || res.Records != c.records {
			t.Fatalf("%+v: %d bytes, %+v, %v", c, len(dst), res, err)
		}
		decode(t, dst)
		if len(dst) == batch.HeaderSize {
			if h := header(t, dst); h.BaseOffset != c.offset || h.BaseOffset+h.Span() != 42 || h.RecordCount != 0 || h.Idempotent() {
				t.Fatalf("%+v: %+v", c, h)
			}
		}
	}
	x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "e"))
	if got := readAll(t, r, topic, 0, 17, 1<<20); len(got) != 1 || got[0].offset != 42 {
		t.Fatalf("%v", got)
	}
	if dst, _, _ := r.Read(t.Context(), topic, 0, 17, 1<<20, nil, true); header(t, dst).BaseOffset != 42 {
		t.Fatal("a gap that records follow needs no batch")
	}
}

// What a merged object says of its batches is believed within the row and in order; anything else is named.
func TestOffsetsOfAMergedObjectAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(batches [][]byte)
		row    func(*entry.RewrittenRow)
		to     int64 // where reads come to
	}{
		"intact":                           {to: 10},
		"below the row":                    {damage: func(b [][]byte) { stampBase(b[0], 0) }},
		"above the row":                    {damage: func(b [][]byte) { stampBase(b[3], 90) }, to: 8},
		"across the row's end":             {damage: func(b [][]byte) { stampBase(b[3], 9) }, to: 8},
		"backwards":                        {damage: func(b [][]byte) { stampBase(b[2], 4) }, to: 6},
		"across the one before":            {damage: func(b [][]byte) { stampBase(b[2], 5) }, to: 6},
		"negative":                         {damage: func(b [][]byte) { stampBase(b[1], -5) }, to: 4},
		"a span that overflows":            {damage: func(b [][]byte) { stampBase(b[3], 1<<63-2) }, to: 8},
		"the end is not reached":           {damage: func(b [][]byte) { b[3][26] = 0 }, to: 9},
		"not where the table has a chunk":  {damage: func(b [][]byte) { stampBase(b[0], 3) }},
		"a row that is part of a block":    {row: func(r *entry.RewrittenRow) { r.Size -= 70 }},
		"a row with more offsets":          {row: func(r *entry.RewrittenRow) { r.Base-- }},
		"the row's end before its block's": {row: func(r *entry.RewrittenRow) { r.End-- }},
		"a row of other offsets":           {row: func(r *entry.RewrittenRow) { r.Base--; r.End-- }},
	} {
		t.Run(name, func(t *testing.T) {
			x, bucket := newIndex(t), newStore()
			topic := x.topic("t")
			r, _ := open(t, fetch.Config{}, x, bucket)
			var parts []part
			for range 5 {
				parts = append(parts, of(t, batch.BuildOptions{}, topic, 3, now, "a", "b"))
			}
			x.add(bucket, segment.Options{}, parts...)
			rows := x.rowsIn(topic, span{3, 0, 10})
			list := x.stored(bucket, topic, 3, &rows[0])[1:] // [2, 10)
			if c.damage == nil {
				c.damage = func([][]byte) {}
			}
			o, blocks := x.object(bucket, segment.Options{}, topic, map[int32][][]byte{3: list}, c.damage)
			row := entry.RewrittenRow{Base: 2, End: 10, MaxTimestamp: now + 1, Size: uint64(blocks[0].RawSize)}
			if c.row != nil {
				c.row(&row)
			}
			x.commit(&entry.Rewrite{Topic: topic, Objects: []entry.RewrittenObject{o}, Parts: []entry.RewrittenPart{{
				Partition: 3, Start: 0, End: 10, Rows: 1, Digest: state.RowsDigest(rows), Cleaned: true, Replacement: []entry.RewrittenRow{row},
			}}})
			named := func(err error) bool {
				return errors.Is(err, fetch.ErrCorrupt) && strings.Contains(err.Error(), o.ID.Key()) && strings.Contains(err.Error(), "partition 3")
			}
			offset := int64(0)
			for offset < 10 {
				_, res, err := r.Read(t.Context(), topic, 3, offset, 100, nil, true)
				if err != nil {
					if !named(err) {
						t.Errorf("at %d: %v", offset, err)
					}
					break
				}
				offset = res.NextOffset
			}
			if offset != c.to {
				t.Errorf("read up to %d, want %d", offset, c.to)
			}
			if _, _, err := r.OffsetForTimestamp(t.Context(), topic, 3, now+2); c.to < 9 && !named(err) && err != nil || c.to == 10 && err != nil {
				t.Error(err)
			}
		})
	}
}

func stampBase(raw []byte, base int64) { batch.StampBase(raw, base, 0) }

// Batches carry the leader epochs that their offsets were given in before and after they are merged.
func TestMergedBatchesCarryTheirLeaderEpoch(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	for i := range 3 {
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "a", "b"), of(t, batch.BuildOptions{}, topic, 0, now, "c"))
		x.commit(&entry.NewLogEpoch{Epoch: uint64(2 * (i + 1))})
	}
	before, _, err := r.Read(context.Background(), topic, 0, 0, 1<<20, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	op, _ := x.rewrite(bucket, segment.Options{}, topic, nil, span{0, 0, 9})
	x.commit(op)
	after, _, err := r.Read(context.Background(), topic, 0, 0, 1<<20, nil, true)
	if err != nil || !bytes.Equal(before, after) {
		t.Fatalf("%d bytes before, %d after, %v", len(before), len(after), err)
	}
	var lent fetch.Out
	lent.LendAll()
	_, err = r.ReadTo(context.Background(), topic, 0, 0, 1<<20, &lent, true)
	if err != nil || !bytes.Equal(before, bytes.Join(lent.Parts(nil), nil)) || lent.Lent() != len(before) {
		t.Fatalf("%d of %d bytes lent, %v", lent.Lent(), len(before), err)
	}
	lent.Release()
}

// The leader epoch of a batch that says another than the log does is the log's, and such a batch is not lent.
func TestABatchOfAnotherLeaderEpochIsNotLent(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	for range 3 {
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "a", "b"))
	}
	op, _ := x.rewrite(bucket, segment.Options{}, topic, func(raw []byte) []byte {
		if header(t, raw).BaseOffset == 2 {
			batch.StampBase(raw, 2, 7)
		}
		return raw
	}, span{0, 0, 6})
	x.commit(op)
	var out fetch.Out
	out.LendAll()
	if _, err := r.ReadTo(t.Context(), topic, 0, 0, 1<<20, &out, true); err != nil {
		t.Fatal(err)
	}
	raw := bytes.Join(out.Parts(nil), nil)
	if got := decode(t, raw); len(got) != 6 { // decode wants leader epoch 0
		t.Errorf("%d records", len(got))
	}
	if parts := out.Parts(nil); len(parts) != 3 || out.Lent() != len(raw)-len(parts[1]) {
		t.Errorf("%d parts, %d of %d bytes lent", len(parts), out.Lent(), len(raw))
	}
	out.Release()
}

// Log append time is in merged batches; clients see the same bytes, and searches find the same records.
func TestMergedLogAppendTime(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t", entry.Config{Name: "message.timestamp.type", Value: "LogAppendTime"})
	r, _ := open(t, fetch.Config{}, x, bucket)
	for i := range 4 {
		x.clock = now + 1000*int64(i)
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, 5, fmt.Sprint(i), "b", "c"))
	}
	before, _, err := r.Read(t.Context(), topic, 0, 0, 1<<20, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	op, _ := x.rewrite(bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{0, 0, 9})
	x.commit(op)
	if row := x.rowsIn(topic, span{0, 0, 1})[0]; row.LogAppendTime || row.End != 9 {
		t.Fatalf("%+v", row)
	}
	after, _, err := r.Read(t.Context(), topic, 0, 0, 1<<20, nil, true)
	if err != nil || !bytes.Equal(before, after) {
		t.Fatalf("%d bytes before, %d after, %v", len(before), len(after), err)
	}
	for _, c := range []struct{ since, offset, timestamp int64 }{
		{5, 0, now}, {now, 0, now}, {now + 1, 3, now + 1000}, {now + 2000, 6, now + 2000}, {now + 3000, 9, now + 3000}, {now + 3001, -1, -1},
	} {
		offset, ts, err := r.OffsetForTimestamp(t.Context(), topic, 0, c.since)
		if err != nil || offset != c.offset || ts != c.timestamp {
			t.Fatalf("since %d: %d at %d, %v", c.since, offset, ts, err)
		}
	}
	more, _ := x.rewrite(bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{0, 9, 12})
	x.commit(more)
	if offset, ts, err := r.MaxTimestamp(t.Context(), topic, 0); err != nil || offset != 9 || ts != now+3000 {
		t.Fatal(offset, ts, err)
	}
}

// Searches in merged rows agree with a scan over the records that are left, also where a row, a chunk or a batch keeps the timestamp
// of a record that is gone, and where a batch has a delete horizon in place of its base timestamp.
func TestSearchesInMergedRows(t *testing.T) {
	for _, opts := range []segment.Options{{ChunkBytes: 200}, {ChunkBytes: 2000, Compress: true}} {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{}, x, bucket)
		rng := rand.New(rand.NewPCG(5, 6))
		var all []record
		for range 10 {
			var parts []part
			for range 1 + rng.IntN(8) {
				ts := int64(now + rng.IntN(60))
				values := []string{"value", "value", "value", "value"}[:1+rng.IntN(4)]
				parts = append(parts, of(t, batch.BuildOptions{Codec: batch.Codec(rng.IntN(5))}, topic, 0, ts, values...))
				for i := range values {
					all = append(all, record{int64(len(all)), ts + int64(i), "value"})
				}
			}
			x.add(bucket, opts, parts...)
		}
		rows := x.rowsIn(topic, span{0, 0, int64(len(all))})
		gone := make(map[int64]bool)
		for i := 0; i+2 < len(rows); i += 3 {
			op, _ := x.rewrite(bucket, opts, topic, func(raw []byte) []byte {
				return keep(t, raw, int64(rng.IntN(2))*(now+100_000), func(offset int64) bool {
					gone[offset] = rng.IntN(2) == 0
					return !gone[offset]
				})
			}, span{0, rows[i].Base, rows[i+2].End})
			x.commit(op)
		}
		search(t, x, r, topic, rng, slices.DeleteFunc(all, func(rec record) bool { return gone[rec.offset] }))
	}
}

// The newest timestamp of a large merged row is found in one of its chunks: the others are not read.
func TestTheNewestRecordOfALargeRow(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{WholeBytes: 1, RunBytes: 2000}, x, bucket)
	for i := range 40 {
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, int64(now+i%30), fmt.Sprintf("%01000d", i)))
	}
	op, _ := x.rewrite(bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{0, 0, 40})
	x.commit(op)
	before := bucket.count()
	if offset, ts, err := r.MaxTimestamp(t.Context(), topic, 0); err != nil || offset != 29 || ts != now+29 {
		t.Fatal(offset, ts, err)
	}
	if n := bucket.count() - before; n != 2 {
		t.Errorf("%d GETs, want the footer and a run", n)
	}
}

// A reader of merged rows is a replay's by bytes: of what is in a large object is, of much in small ones, and of a little in small ones is not.
func TestAReplayOfMergedRowsGoesByBytes(t *testing.T) {
	for _, c := range []struct {
		size, whole, run int
		cold             bool
	}{{100, 5000, 5000, false}, {100, 500, 5000, true}, {100, 5000, 500, true}} {
		cfg := fresh()
		cfg.WholeBytes, cfg.RunBytes = int64(c.whole), int64(c.run)
		z := newCluster(t, cfg, "z", "z")
		topic := z.index.topic("t")
		z.segments(topic, 10, c.size, false)
		for k := range int32(4) {
			op, _ := z.index.rewrite(z.bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{k, 0, 5})
			z.index.commit(op)
			op, _ = z.index.rewrite(z.bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{k, 5, 10})
			z.index.commit(op)
		}
		for k := range int32(4) {
			for _, a := range z.agents {
				if _, _, err := a.Read(t.Context(), topic, k, 0, 1, nil, true); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(z.asks) == 0 {
			t.Fatal("no peer was asked")
		}
		for _, ask := range z.asks {
			if ask.Cold != c.cold {
				t.Errorf("%+v: cold is %v", c, ask.Cold)
			}
		}
	}
}

// Of a merged object each run is got once for the zone, whoever merged it: that agent never had it in memory, and is not asked.
func TestAZoneGetsEachRunOfAMergedObjectOnce(t *testing.T) {
	cfg := fresh()
	cfg.WholeBytes, cfg.RunBytes, cfg.SliceBytes = 1000, 50_000, 20_000
	c := newCluster(t, cfg, "z", "z", "z")
	topic := c.index.topic("t")
	c.segments(topic, 100, 3000, true)
	op, _ := c.index.rewrite(c.bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{0, 0, 100}, span{1, 0, 100}, span{2, 0, 100}, span{3, 0, 100})
	c.index.commit(op)
	before := c.bucket.count()
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() { c.consume(c.agents[i%3], topic, 100) })
	}
	wg.Wait()
	if n, hedges := c.bucket.count()-before, int(c.sum("hedges_total", "")+c.sum("gets_total", "fallback")); n > 3+25+hedges {
		t.Errorf("%d GETs, %d of them hedges", n, hedges)
	}
	for _, ask := range c.asks {
		if ask.Held {
			t.Fatalf("%v was asked of its uploader's memory", ask.Object)
		}
	}
}

// A sequential reader finds the next run, and the next object's footer and first run, in memory.
func TestReadAheadOverRunsAndRows(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{WholeBytes: 1000, RunBytes: 10_000, ReadAhead: 4}, x, bucket)
		const objects, batches = 4, 40 // of 1000 bytes, ten to a run
		for i := range objects {
			for k := range batches {
				x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprintf("%0900d", i*batches+k)))
			}
			op, _ := x.rewrite(bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{0, int64(i * batches), int64((i + 1) * batches)})
			x.commit(op)
		}
		bucket.before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
		before, start, working := bucket.count(), time.Now(), time.Duration(0)
		for offset := int64(0); offset < objects*batches; {
			_, res, err := r.Read(t.Context(), topic, 0, offset, 1, nil, true)
			if err != nil || res.NextOffset != offset+1 {
				t.Fatalf("%+v %v", res, err)
			}
			offset = res.NextOffset
			time.Sleep(200 * time.Millisecond) // what the reader does with it
			working += 200 * time.Millisecond
		}
		// The first footer and run are waited for, and the second run, as one read makes no trail yet.
		if waited := time.Since(start) - working; waited > 3*time.Second {
			t.Errorf("waited %v for GETs", waited)
		}
		if n := bucket.count() - before; n < objects*5 || n > objects*6 {
			t.Errorf("%d GETs of %d footers and runs", n, objects*5)
		}
	})
}

// The longer a replay goes on, the further is read ahead of it, over the ends of objects as well, and each run is got once all the same. Beside a
// producer one run is read ahead, and where memory is short no more than that either.
func TestALongReplayIsReadFurtherAhead(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int64 // of the cache; a run is 10 kB
		busy  bool
		quiet time.Duration // since a producer left
		far   bool
	}{
		{"alone", 1 << 20, false, 5 * time.Second, true},
		{"beside a producer", 1 << 20, true, 0, false},
		{"little memory", 60_000, false, time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				x, bucket := newIndex(t), newStore()
				topic := x.topic("t")
				r, cache := open(t, fetch.Config{WholeBytes: 1000, RunBytes: 10_000, Bytes: c.bytes, ColdReads: 8, ReadAhead: 8}, x, bucket)
				const objects, batches = 4, 80 // of 1000 bytes, ten to a run
				for i := range objects {
					for k := range batches {
						x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprintf("%0900d", i*batches+k)))
					}
					op, _ := x.rewrite(bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{0, int64(i * batches), int64((i + 1) * batches)})
					x.commit(op)
				}
				most := bucket.slow(time.Second)
				cache.Produce()
				time.Sleep(c.quiet)
				before, start := bucket.count(), time.Now()
				for offset := int64(0); offset < objects*batches; {
					if c.busy {
						cache.Produce()
					}
					_, res, err := r.Read(t.Context(), topic, 0, offset, 1, nil, true)
					if err != nil || res.NextOffset != offset+1 {
						t.Fatalf("%+v %v", res, err)
					}
					if offset = res.NextOffset; offset == 4 && bucket.count()-before > 4 {
						t.Errorf("%d GETs for 4 reads: a footer, two runs and one ahead will do", bucket.count()-before)
					}
				}
				took, gets := time.Since(start), bucket.count()-before
				const pieces = objects * (batches/10 + 2) // runs, of which the last holds what is left, and a footer
				if gets > pieces {
					t.Errorf("%d GETs of %d footers and runs", gets, pieces)
				}
				// Else two: the next run, and towards the end of an object the next one's footer.
				if most() > 2 != c.far || took < 20*time.Second != c.far {
					t.Errorf("%d GETs in %v, %d at a time", gets, took, most())
				}
			})
		})
	}
}

// Objects are merged, and what they were made of deleted, under readers that do not know yet: they read every record, once, in order.
func TestRewritesUnderReaders(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	const segments, each = 60, 5
	for i := range segments {
		var values []string
		for k := range each {
			values = append(values, fmt.Sprint(i*each+k))
		}
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, values...), of(t, batch.BuildOptions{}, topic, 1, now, values...))
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		r, _ := open(t, []fetch.Config{{Bytes: 1, ReadAhead: 2}, {}, {WholeBytes: 1, RunBytes: 100, Bytes: 2000}, {ReadAhead: 4}}[i], x, bucket)
		wg.Go(func() {
			for last := false; !last && !t.Failed(); {
				select {
				case <-done:
					last = true
				default:
				}
				next := int64(0)
				for offset := int64(0); offset < segments*each; {
					dst, res, err := r.Read(context.Background(), topic, int32(i%2), offset, 700, nil, true)
					if err != nil {
						t.Errorf("at %d: %v", offset, err)
						return
					}
					for s := batch.Split(dst); s.Next(); {
						if err := batch.Records(s.Raw(), batch.Limits{}, func(rec batch.Record) error {
							if at := s.Header().BaseOffset + int64(rec.OffsetDelta); at != next || string(rec.Value) != fmt.Sprint(at) {
								return fmt.Errorf("%q at offset %d where %d comes next", rec.Value, at, next)
							}
							next++
							return nil
						}); err != nil {
							t.Error(err)
							return
						}
					}
					offset = res.NextOffset
				}
				if next != segments*each {
					t.Errorf("%d records", next)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for range 150 {
		if x.Barrier(t.Context()) != nil {
			t.Fatal("no barrier")
		}
		rows := x.rowsIn(topic, span{0, 0, segments * each})
		if len(rows) < 3 {
			break
		}
		first := rng.IntN(len(rows) - 1)
		last := min(first+1+rng.IntN(4), len(rows)-1)
		spans := []span{{0, rows[first].Base, rows[last].End}, {1, rows[first].Base, rows[last].End}}
		op, old := x.rewrite(bucket, segment.Options{ChunkBytes: 300, Compress: rng.IntN(2) == 0}, topic, nil, spans...)
		// The agent that reads does not hear of it before it takes a barrier.
		x.mu.Lock()
		x.lagging = append(x.lagging, op)
		x.mu.Unlock()
		for _, id := range old {
			if err := bucket.Delete(t.Context(), id.Key()); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	wg.Wait()
}

// A read that has its bytes when the object is rewritten and deleted ends as if nothing had happened.
func TestAnObjectIsRewrittenUnderARead(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	for range 2 {
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "a", "b"))
	}
	op, old := x.rewrite(bucket, segment.Options{}, topic, nil, span{0, 0, 4})
	var once sync.Once
	bucket.damage = func(_ string, _ int64, body []byte) []byte { // after the bytes left the bucket
		once.Do(func() {
			x.commit(op)
			for _, id := range old {
				if err := bucket.Delete(context.Background(), id.Key()); err != nil {
					t.Error(err)
				}
			}
		})
		return body
	}
	dst, res, err := r.Read(t.Context(), topic, 0, 0, 1, nil, true)
	if err != nil || res.NextOffset != 2 || len(decode(t, dst)) != 2 {
		t.Fatalf("%+v %v", res, err)
	}
	if got := readAll(t, r, topic, 0, 0, 1<<20); len(got) != 4 {
		t.Fatalf("%v", got)
	}
}

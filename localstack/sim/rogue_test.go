package sim_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// rogue is somebody who does to a cluster's data what a bug in a background duty would: moves it, removes it, deletes objects. It acts
// through an agent's own metastore client and the bucket, as the duties do, and shares no code with them.
type rogue struct {
	*life
	rng *rand.Rand
}

// runRogue lets the planted bug's rogue act, again and again, until the faults are over.
func (l *life) runRogue(ctx context.Context) {
	if l.plant == nil || l.plant.rogue == nil {
		return
	}
	g := &rogue{life: l, rng: stream(l.plan.seed, "rogue")}
	for !l.isHealed() && pause(ctx, 300*time.Millisecond) {
		a := l.nodes[g.rng.IntN(len(l.nodes))].running()
		if a == nil {
			continue
		}
		some, cancel := context.WithTimeout(ctx, 5*time.Second)
		l.plant.rogue(some, g, a.Metastore())
		cancel()
	}
}

// stretch is what a rogue has read of one partition.
type stretch struct {
	ref     state.PartitionRef
	policy  topicconfig.Settings
	rows    []state.Row
	batches []*rogueBatch
	epoch   uint64
	logTime int64
}

// rogueBatch is one batch with its offsets in it.
type rogueBatch struct {
	raw  []byte
	base int64
	span int64
}

// read takes a partition's rows and what they name; nil where there are too few. The topic's name begins with prefix.
func (g *rogue) read(meta *metastore.Client, prefix string) *stretch {
	var all []*stretch
	meta.View(func(st *state.State) {
		if st.FeatureLevel() < 3 {
			return
		}
		for t := range st.Topics() {
			for i := range t.Partitions() {
				p := t.Partition(i)
				if rows := p.Rows(p.LogStart(), 40, nil); len(rows) > 1 && strings.HasPrefix(t.Name, prefix) && rows[0].Base >= p.LogStart() {
					all = append(all, &stretch{
						ref: p.Ref(), rows: rows, epoch: st.CollectionEpoch(), logTime: st.LogTime(),
						policy: topicconfig.Parse(t.Config, func(string) (string, bool) { return "", false }),
					})
				}
			}
		}
	})
	if len(all) == 0 {
		return nil
	}
	s := all[g.rng.IntN(len(all))]
	for i := range s.rows {
		s.batches = append(s.batches, g.batches(&s.rows[i])...)
	}
	return s
}

// batches reads a row from what the ledger has.
func (g *rogue) batches(row *state.Row) (list []*rogueBatch) {
	body, _ := g.ledger.body(row.Object.Key())
	f, err := segment.Open(body)
	if err != nil {
		return nil
	}
	block, _ := f.Block(int(row.Block))
	var raw []byte
	chunks := block.ChunksIn(row.Position, row.Size)
	for _, c := range chunks {
		b, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, nil)
		if err != nil {
			return nil
		}
		raw = append(raw, b...)
	}
	s := batch.Split(raw[row.Position-chunks[0].RawPosition:][:row.Size])
	next := row.Base
	for s.Next() {
		b := &rogueBatch{raw: slices.Clone(s.Raw()), base: next, span: s.Header().Span()}
		if row.Object.Merged() {
			b.base = s.Header().BaseOffset
		}
		batch.StampBase(b.raw, b.base, 0)
		if row.LogAppendTime {
			batch.StampLogAppendTime(b.raw, row.MaxTimestamp)
		}
		list = append(list, b)
		next = b.base + b.span
	}
	return list
}

// write makes one merged object of batches and proposes it in place of what was read, or of instead where that is not nil. It reports
// whether it was taken.
func (g *rogue) write(ctx context.Context, meta *metastore.Client, s *stretch, instead []state.Row, batches []*rogueBatch, cleaned bool) bool {
	if instead == nil {
		instead = s.rows
	}
	if len(batches) == 0 || len(instead) == 0 {
		return false
	}
	id := entry.ObjectID{Topic: s.ref.Topic, Seq: 1, CollectionEpoch: s.epoch}
	binary.BigEndian.PutUint64(id.Incarnation[:], g.rng.Uint64())
	var body bytes.Buffer
	b := segment.NewWriter(&body, segment.Options{})
	newest, size := int64(0), uint64(0)
	for _, x := range batches {
		h, err := batch.ParseHeader(x.raw)
		if err != nil {
			panic(err) // it was read as one
		}
		if err := b.Add(s.ref.Topic, s.ref.Partition, x.raw, x.base, x.base+x.span, h.MaxTimestamp); err != nil {
			panic(err) // they ascend
		}
		newest, size = max(newest, h.MaxTimestamp), size+uint64(len(x.raw))
	}
	if _, _, err := b.Finish(entry.AppendObjectID(nil, id), nil); err != nil {
		panic(err) // of batches that were in a segment
	}
	if err := g.ledger.Put(ctx, id.Key(), body.Bytes(), objstore.PutOptions{}); err != nil {
		return false
	}
	last := batches[len(batches)-1]
	r, err := meta.Propose(ctx, &entry.Rewrite{
		Topic: s.ref.Topic, Objects: []entry.RewrittenObject{{ID: id, Size: uint64(body.Len())}},
		Parts: []entry.RewrittenPart{{
			Partition: uint32(s.ref.Partition), Start: instead[0].Base, End: instead[len(instead)-1].End,
			Rows: uint32(len(instead)), Digest: state.RowsDigest(instead), Cleaned: cleaned,
			Replacement: []entry.RewrittenRow{{Base: batches[0].base, End: last.base + last.span, MaxTimestamp: newest, Size: size}},
		}},
	})
	g.logf("the rogue rewrites [%d, %d) of %x: %v %v %v", instead[0].Base, instead[len(instead)-1].End, s.ref.Topic[:4], r.Code, r.Parts, err)
	return err == nil && len(r.Parts) == 1 && r.Parts[0] == state.OK
}

// rogueRecord is a record as a cleaner looks at it.
type rogueRecord struct {
	offset, timestamp int64
	tombstone         bool
}

// filter makes new batches of those records that stay.
func (s *stretch) filter(stays func(offset int64) bool) (list []*rogueBatch) {
	f := batch.NewFilter()
	for _, b := range s.batches {
		got, err := f.Rewrite(b.raw, batch.Limits{}, 1<<40, func(r batch.Record) bool { return stays(b.base + int64(r.OffsetDelta)) })
		if err != nil {
			panic(err) // it was read as one
		}
		if got.Records > 0 {
			list = append(list, &rogueBatch{raw: slices.Clone(got.Raw), base: b.base, span: b.span})
		}
	}
	return list
}

// keys are the records of each key, in order.
func (s *stretch) keys() map[string][]rogueRecord {
	m := map[string][]rogueRecord{}
	for _, b := range s.batches {
		err := batch.Records(b.raw, batch.Limits{}, func(r batch.Record) error {
			m[string(r.Key)] = append(m[string(r.Key)], rogueRecord{b.base + int64(r.OffsetDelta), r.Timestamp, r.Value == nil})
			return nil
		})
		if err != nil {
			panic(err)
		}
	}
	return m
}

// mergesWell is a merge as it should be: it must not be found.
func mergesWell(ctx context.Context, g *rogue, meta *metastore.Client) {
	if s := g.read(meta, ""); s != nil {
		g.write(ctx, meta, s, nil, s.batches, false)
	}
}

// cleansWell is key compaction as it should be: what has a later record of its key goes.
func cleansWell(ctx context.Context, g *rogue, meta *metastore.Client) {
	if s := g.read(meta, string(keyedTopic)); s != nil {
		g.write(ctx, meta, s, nil, s.filter(s.latest(true)), true)
	}
}

// latest keeps the last record of each key, or with last false, the one before it in its place.
func (s *stretch) latest(last bool) func(offset int64) bool {
	stay := map[int64]bool{}
	for _, records := range s.keys() {
		at := len(records) - 1
		if !last && at > 0 {
			at--
		}
		stay[records[at].offset] = true
	}
	return func(offset int64) bool { return stay[offset] }
}

// mergeDropsBatch leaves one out.
func mergeDropsBatch(ctx context.Context, g *rogue, meta *metastore.Client) {
	if s := g.read(meta, "stays"); s != nil && len(s.batches) > 2 {
		at := 1 + g.rng.IntN(len(s.batches)-2)
		g.write(ctx, meta, s, nil, slices.Delete(s.batches, at, at+1), false)
	}
}

// mergeSwapsOffsets gives two batches of one length each other's offsets.
func mergeSwapsOffsets(ctx context.Context, g *rogue, meta *metastore.Client) {
	s := g.read(meta, "stays")
	if s == nil {
		return
	}
	for i := 1; i < len(s.batches); i++ {
		if a, b := s.batches[i-1], s.batches[i]; a.span == b.span && a.base+a.span == b.base {
			a.base, b.base = b.base, a.base
			batch.StampBase(a.raw, a.base, 0)
			batch.StampBase(b.raw, b.base, 0)
			s.batches[i-1], s.batches[i] = b, a
			g.write(ctx, meta, s, nil, s.batches, false)
			return
		}
	}
}

// cleanerKeepsOlder keeps the older of two values.
func cleanerKeepsOlder(ctx context.Context, g *rogue, meta *metastore.Client) {
	if s := g.read(meta, string(keyedTopic)); s != nil {
		g.write(ctx, meta, s, nil, s.filter(s.latest(false)), true)
	}
}

// cleanerDropsTombstones takes those that are the newest of their key, whatever their age.
func cleanerDropsTombstones(ctx context.Context, g *rogue, meta *metastore.Client) {
	s := g.read(meta, string(keyedTopic))
	if s == nil {
		return
	}
	gone := map[int64]bool{}
	for _, records := range s.keys() {
		if last := records[len(records)-1]; last.tombstone {
			gone[last.offset] = true
		}
	}
	if len(gone) > 0 {
		g.write(ctx, meta, s, nil, s.filter(func(offset int64) bool { return !gone[offset] }), true)
	}
}

// rewritesUnguarded brings back what it read before somebody else cleaned it, as if nobody had compared what is there with what
// was expected.
func rewritesUnguarded(ctx context.Context, g *rogue, meta *metastore.Client) {
	s := g.read(meta, string(keyedTopic))
	if s == nil || !g.write(ctx, meta, s, nil, s.filter(s.latest(true)), true) {
		return
	}
	var now []state.Row
	meta.View(func(st *state.State) {
		if t := st.TopicByID(s.ref.Topic); t != nil {
			for _, row := range t.Partition(int(s.ref.Partition)).Rows(s.rows[0].Base, 40, nil) {
				if row.End <= s.rows[len(s.rows)-1].End {
					now = append(now, row)
				}
			}
		}
	})
	var inside []*rogueBatch
	for _, b := range s.batches {
		if len(now) > 0 && b.base >= now[0].Base && b.base+b.span <= now[len(now)-1].End {
			inside = append(inside, b)
		}
	}
	g.write(ctx, meta, s, now, inside, false)
}

// expiresByWallClock removes records that are old by the clock of one agent, which is an hour ahead.
func expiresByWallClock(ctx context.Context, g *rogue, meta *metastore.Client) {
	s := g.read(meta, string(agingTopic))
	if s == nil || s.policy.RetentionMS < 0 {
		return
	}
	now, before := time.Now().Add(time.Hour).UnixMilli(), int64(0)
	for i := range s.rows {
		if s.rows[i].MaxTimestamp+s.policy.RetentionMS < now {
			before = s.rows[i].End
		}
	}
	if before > 0 {
		_, _ = meta.Propose(ctx, &entry.DeleteRecords{Topic: s.ref.Topic, Partition: uint32(s.ref.Partition), BeforeOffset: before})
	}
}

// collectsNamed deletes an object that rows name.
func collectsNamed(ctx context.Context, g *rogue, meta *metastore.Client) {
	if s := g.read(meta, ""); s != nil && g.rng.IntN(4) == 0 {
		_ = g.ledger.Delete(ctx, s.rows[g.rng.IntN(len(s.rows))].Object.Key())
	}
}

// collectsWithoutEpoch deletes what no row names, whatever its collection epoch, by a state of a moment ago.
func collectsWithoutEpoch(ctx context.Context, g *rogue, meta *metastore.Client) {
	named := map[string]bool{}
	meta.View(func(st *state.State) {
		for o := range st.ObjectTable() {
			named[o.ID.Key()] = true
		}
	})
	pause(ctx, 200*time.Millisecond)
	infos, err := g.ledger.List(ctx, "data/", "", 1000)
	if err != nil {
		return
	}
	for _, info := range infos {
		if !named[info.Key] {
			_ = g.ledger.Delete(ctx, info.Key)
		}
	}
}

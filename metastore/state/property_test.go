package state_test

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// TestReplicasAgree applies random entries to a state, to a replica of it, to one that restarts from a snapshot every now
// and then, and to the model. After each entry the chain hashes are equal, the results are the model's, and what was
// refused changed nothing; at the end the snapshots are equal.
func TestReplicasAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, two, restarting := state.New(identity), state.New(identity), state.New(identity)
		m := newModel()
		var d entry.Decoder
		var r, r3 state.Results
		objects := uint64(0)
		for range rapid.IntRange(1, 60).Draw(rt, "entries") {
			e := (&generator{T: rt, m: m, objects: &objects}).entry()
			value := e.AppendTo(nil)
			decoded, err := d.Decode(value)
			if err != nil {
				rt.Fatalf("generated entry does not decode: %v", err)
			}
			n := one.N() + 1
			before := view(one)
			idle := withoutHash(t, afterNothing(rt, one, e))
			if err := one.Apply(n, value, decoded, &r); err != nil {
				rt.Fatal(err)
			}
			if err := two.Apply(n, value, e, nil); err != nil {
				rt.Fatal(err)
			}
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				if restarting, err = state.Load(restarting.AppendSnapshot(nil)); err != nil {
					rt.Fatal(err)
				}
			}
			if err := restarting.Apply(n, value, e, &r3); err != nil {
				rt.Fatal(err)
			}
			if one.ChainHash() != two.ChainHash() || one.ChainHash() != restarting.ChainHash() {
				rt.Fatalf("hashes differ after %+v", e)
			}
			checkChanged(rt, before, view(one), r.Changed)
			checkChanged(rt, before, view(one), r3.Changed)

			if !maps.Equal(one.LastSeqs(), restarting.LastSeqs()) || !slices.Equal(one.Retired(), restarting.Retired()) {
				rt.Fatalf("after a restart: last seqs %v, want %v; retired %v, want %v", restarting.LastSeqs(), one.LastSeqs(),
					restarting.Retired(), one.Retired())
			}

			code, ops := m.apply(e)
			if r.EntryCode != code {
				rt.Fatalf("entry %+v: %v, want %v", e, r.EntryCode, code)
			}
			if !slices.EqualFunc(r.Ops, ops, equalResults) {
				rt.Fatalf("results\n%+v\nwant\n%+v", r.Ops, ops)
			}
			m.check(one, rt.Fatalf)
			if !anyAccepted(&r) && !bytes.Equal(idle, withoutHash(t, one.AppendSnapshot(nil))) {
				rt.Fatalf("refused, but changed the state: %+v", r)
			}
		}
		want := one.AppendSnapshot(nil)
		for _, s := range []*state.State{two, restarting} {
			if !bytes.Equal(want, s.AppendSnapshot(nil)) {
				rt.Fatal("equal hashes, different snapshots")
			}
		}
		loaded, err := state.Load(want)
		if err != nil {
			rt.Fatal(err)
		}
		m.check(loaded, rt.Fatalf)
	})
}

// partitionView is all that readers can see of a partition's data.
type partitionView struct {
	created     uint64 // of the topic: one of the same id may be another
	start, next int64
	rows        []state.Row
}

func view(s *state.State) map[state.PartitionRef]partitionView {
	all := make(map[state.PartitionRef]partitionView)
	for topic := range s.Topics() {
		for i := range topic.Partitions() {
			p := topic.Partition(i)
			all[p.Ref()] = partitionView{topic.CreatedN, p.LogStart(), p.Next(), p.Rows(0, math.MaxInt, nil)}
		}
	}
	return all
}

// checkChanged holds that whoever follows Changed misses nothing.
func checkChanged(rt *rapid.T, before, after map[state.PartitionRef]partitionView, changed []state.PartitionRef) {
	listed := make(map[state.PartitionRef]bool)
	for _, ref := range changed {
		if listed[ref] {
			rt.Fatalf("%+v is listed twice", ref)
		}
		listed[ref] = true
	}
	for ref, now := range after {
		was, existed := before[ref]
		if existed = existed && was.created == now.created; existed && !listed[ref] && (was.start != now.start || was.next != now.next || !slices.Equal(was.rows, now.rows)) {
			rt.Fatalf("%+v changed from %+v to %+v, and is not listed", ref, was, now)
		}
	}
}

func equalResults(a, b state.OpResult) bool {
	return a.Code == b.Code && a.FirstProducerID == b.FirstProducerID && a.NodeID == b.NodeID && a.LogStartOffset == b.LogStartOffset &&
		slices.Equal(a.Batches, b.Batches) && slices.Equal(a.Parts, b.Parts)
}

func anyAccepted(r *state.Results) bool {
	for _, o := range r.Ops {
		if o.Code == state.OK && o.Batches == nil && o.Parts == nil || slices.Contains(o.Parts, state.OK) {
			return true
		}
		for _, b := range o.Batches {
			if b.Code == state.OK {
				return true
			}
		}
	}
	return false
}

// afterNothing is the snapshot after an entry like e that has no ops.
func afterNothing(rt *rapid.T, s *state.State, e *entry.Entry) []byte {
	c, err := state.Load(s.AppendSnapshot(nil))
	if err != nil {
		rt.Fatal(err)
	}
	empty := *e
	empty.Ops = nil
	if err := c.Apply(c.N()+1, nil, &empty, nil); err != nil {
		rt.Fatal(err)
	}
	return c.AppendSnapshot(nil)
}

// generator draws entries that are likely to mean something to the state that the model is in.
type generator struct {
	*rapid.T
	m       *model
	objects *uint64
}

func (g *generator) int(least, most int) int { return rapid.IntRange(least, most).Draw(g.T, "") }

// often is true nine times out of ten.
func (g *generator) often() bool { return g.int(0, 9) > 0 }

func (g *generator) entry() *entry.Entry {
	e := &entry.Entry{
		Format: 1, FeatureLevel: uint32(g.int(0, int(g.m.level))), Incarnation: id(byte(g.int(1, 6))), Seq: 1,
		ClockMs: start + int64(g.int(-30_000, 300_000)),
	}
	if a := g.m.agents[e.Incarnation]; a != nil {
		e.Seq = a.seq + 1
	} else if g.often() {
		e.Ops = append(e.Ops, g.join())
	}
	if g.int(0, 19) == 0 {
		e.Seq = uint64(max(1, int(e.Seq)+g.int(-2, 2)))
	}
	if g.m.level < 3 && g.int(0, 2) == 0 { // most of a run is spent at the newest level
		e.Ops = append(e.Ops, &entry.SetFeatureLevel{Level: 3})
	}
	for range g.int(0, 4) {
		e.Ops = append(e.Ops, g.op())
	}
	if g.int(0, 99) == 0 {
		e.FeatureLevel = 3 // which may not be reached
	}
	return e
}

func (g *generator) join() *entry.Join {
	j := &entry.Join{Name: string(rune('a' + g.int(0, 4))), MaxFeatureLevel: 3, Zone: "z", Listeners: []entry.Listener{{Name: "x", Host: "h", Port: 1}}}
	switch g.int(0, 19) {
	case 0:
		j.Name = ""
	case 1, 2:
		j.MaxFeatureLevel = uint32(g.int(0, 2))
	}
	return j
}

func (g *generator) op() entry.Op {
	if len(g.m.topics) == 0 && g.often() {
		return g.createTopic()
	}
	switch k := g.int(-10, 39); {
	case k < 0:
		return g.rewrite()
	case k < 18:
		return g.append()
	case k < 25:
		return g.relocate()
	case k < 28:
		topic, partition := g.partition()
		most := 1
		if _, p, code := g.m.partition(topic, partition); code == state.OK {
			most = int(p.next) + 1
		}
		return &entry.DeleteRecords{Topic: topic, Partition: partition, BeforeOffset: int64(g.int(-1, most))}
	case k < 30:
		return g.createTopic()
	case k == 30:
		topic, _ := g.partition()
		return &entry.DeleteTopic{ID: topic}
	case k == 31:
		topic, _ := g.partition()
		return &entry.CreatePartitions{ID: topic, Total: uint32(g.int(0, 5))}
	case k < 34:
		return g.alterConfigs()
	case k == 34:
		return &entry.BumpCollectionEpoch{From: g.m.collection - uint64(g.int(0, 1))}
	case k == 35:
		return &entry.ReserveProducerIDs{Count: uint32(g.int(0, 3))}
	case k == 36:
		return &entry.ExpireProducers{BeforeMs: max(0, g.m.logTime+int64(g.int(-20_000, 1)))}
	case k == 37:
		return &entry.Leave{Incarnation: id(byte(g.int(1, 6)))}
	case k == 38:
		return &entry.SetFeatureLevel{Level: uint32(g.int(0, 3))}
	default:
		if g.int(0, 3) == 0 {
			return &entry.NewLogEpoch{Epoch: g.m.epoch + uint64(g.int(0, 2))}
		}
		if g.int(0, 1) == 0 {
			return g.join()
		}
		return &entry.Tick{}
	}
}

func (g *generator) createTopic() entry.Op {
	names := []string{"a.x", "a_x", "b", "c", "d", "", "e/f"}
	op := &entry.CreateTopic{Name: names[g.int(0, len(names)-1)], ID: topicID(byte(g.int(1, 6))), Partitions: uint32(g.int(0, 3))}
	switch g.int(0, 5) {
	case 0, 1:
		op.Configs = []entry.Config{{Name: "message.timestamp.type", Value: "LogAppendTime"}}
	case 2:
		op.Configs = []entry.Config{{Name: "message.timestamp.type", Value: "Other"}}
	case 3:
		op.Configs = []entry.Config{{Name: "k", Value: "v"}}
	}
	return op
}

func (g *generator) alterConfigs() entry.Op {
	op := &entry.AlterConfigs{ResourceType: entry.ResourceBroker, ReplaceAll: g.int(0, 3) == 0}
	name := "log.message.timestamp.type"
	if g.int(0, 1) == 0 {
		op.ResourceType, name = entry.ResourceTopic, "message.timestamp.type"
		op.ResourceName = []string{"a.x", "a_x", "b", "c", "d"}[g.int(0, 4)]
	}
	values := []string{"LogAppendTime", "CreateTime", "Other"}
	if g.often() {
		kind := uint32(entry.ConfigSet)
		if !op.ReplaceAll && g.int(0, 2) == 0 {
			kind = entry.ConfigDelete
		}
		op.Changes = append(op.Changes, entry.ConfigChange{Name: name, Kind: kind, Value: values[g.int(0, 2)]})
	}
	return op
}

func (g *generator) partition() (entry.UUID, uint32) {
	topics := slices.SortedFunc(maps.Keys(g.m.topics), func(a, b entry.UUID) int { return slices.Compare(a[:], b[:]) })
	if len(topics) == 0 || !g.often() {
		return topicID(byte(g.int(1, 7))), uint32(g.int(0, 3))
	}
	topic := topics[g.int(0, len(topics)-1)]
	last := len(g.m.topics[topic].parts) - 1
	if g.int(0, 19) == 0 {
		last++
	}
	return topic, uint32(g.int(0, last))
}

// object draws a new object or one that is there, and its size.
func (g *generator) object() (entry.ObjectID, uint64) {
	size := uint64(1000)
	if g.int(0, 3) == 0 && len(g.m.objects) > 0 {
		ids := slices.SortedFunc(maps.Keys(g.m.objects), entry.ObjectID.Compare)
		id := ids[g.int(0, len(ids)-1)]
		if g.often() {
			size = g.m.objects[id].size
		}
		return id, size
	}
	*g.objects++
	o := entry.ObjectID{Incarnation: id(byte(g.int(1, 3))), Seq: *g.objects, CollectionEpoch: g.m.collection}
	switch g.int(0, 9) {
	case 0, 1:
		o.CollectionEpoch--
	case 2:
		o.CollectionEpoch = max(o.CollectionEpoch, 2) - 2
	case 3:
		o.CollectionEpoch++
	}
	return o, size
}

// merged draws an object for a rewrite of a topic.
func (g *generator) merged(topic entry.UUID) entry.RewrittenObject {
	o, size := g.object()
	if g.m.objects[o] == nil && g.int(0, 19) > 0 {
		o.Topic = topic
	}
	return entry.RewrittenObject{ID: o, Size: size}
}

func (g *generator) rewrite() entry.Op {
	op := &entry.Rewrite{}
	op.Topic, _ = g.partition()
	for range g.int(1, 2) {
		op.Objects = append(op.Objects, g.merged(op.Topic))
	}
	live := slices.SortedFunc(maps.Keys(g.m.objects), entry.ObjectID.Compare)
	if live = slices.DeleteFunc(live, func(o entry.ObjectID) bool { return o.Topic != op.Topic }); len(live) > 0 && g.int(0, 2) == 0 {
		o := live[g.int(0, len(live)-1)]
		op.Objects = append(op.Objects, entry.RewrittenObject{ID: o, Size: g.m.objects[o].size})
	}
	t := g.m.topics[op.Topic]
	for i := range 4 {
		var rows []entry.Row
		if t != nil && i < len(t.parts) {
			rows = t.parts[i].rows
		}
		if len(rows) == 0 {
			if g.int(0, 9) == 0 {
				op.Parts = append(op.Parts, entry.RewrittenPart{Partition: uint32(i), End: 5, Rows: 1, Cleaned: true})
			}
			continue
		}
		for from := g.int(0, min(4, len(rows))); from < len(rows) && g.int(0, 2) > 0; {
			to := g.int(from+1, min(len(rows), from+6))
			part := g.part(uint32(i), rows[from:to], len(op.Objects))
			if n := len(op.Parts); n == 0 || op.Parts[n-1].Partition < part.Partition || op.Parts[n-1].End <= part.Start { // else it does not decode
				op.Parts = append(op.Parts, part)
			}
			from = to + g.int(1, 3)
		}
	}
	if len(op.Parts) == 0 {
		op.Parts = []entry.RewrittenPart{{End: 1, Rows: 1, Cleaned: true}}
	}
	return op
}

// part draws a replacement of rows by some of this many objects.
func (g *generator) part(partition uint32, rows []entry.Row, objects int) entry.RewrittenPart {
	rows = slices.Clone(rows)
	for i := range rows {
		rows[i].ObjectSize = g.m.objects[rows[i].Object].size
	}
	first, last := rows[0].BaseOffset, rows[len(rows)-1].EndOffset
	p := entry.RewrittenPart{Partition: partition, Start: first, End: last, Rows: uint32(len(rows)), Digest: naiveDigest(rows), Cleaned: g.int(0, 1) == 0}
	for range g.int(0, 3) {
		if first == last {
			break
		}
		r := entry.RewrittenRow{Object: uint32(g.int(0, objects-1)), Block: uint32(g.int(0, 3)), MaxTimestamp: start + int64(g.int(-3, 3)), Size: uint64(g.int(1, 50))}
		r.Base = first
		if g.int(0, 1) == 0 {
			r.Base = int64(g.int(int(first), int(last)-1))
		}
		r.End = int64(g.int(int(r.Base)+1, int(last)))
		first = r.End
		p.Replacement = append(p.Replacement, r)
	}
	p.Cleaned = p.Cleaned || len(p.Replacement) == 0
	switch g.int(0, 19) { // something that the guard has to find
	case 0:
		p.Digest++
	case 1:
		p.Rows += uint32(1 - 2*g.int(0, min(1, len(rows)-1)))
	case 2:
		if p.Start+1 < p.End {
			p.Start, p.Replacement, p.Cleaned = p.Start+1, nil, true
		}
	case 3:
		p.End++
	case 4: // into a gap, where there is one
		if partition == 0 && p.Start > 0 && len(p.Replacement) > 0 {
			p.Start--
			p.Replacement[0].Base = p.Start
		}
	}
	return p
}

func (g *generator) append() entry.Op {
	op := &entry.Append{Location: uint32(g.int(0, 1))}
	op.Object, op.ObjectSize = g.object()
	for i := range g.int(1, 3) {
		topic, partition := g.partition()
		b := entry.Block{Topic: topic, Partition: partition, Index: uint32(i), FirstPosition: uint64(g.int(0, 1) * g.int(0, 500))}
		_, p, _ := g.m.partition(topic, partition)
		if g.int(0, 5) == 0 && p != nil {
			b.ExpectedNextOffset = max(0, p.next+int64(g.int(0, 1))) + 1
		}
		for range g.int(1, 6) {
			span := uint64(g.int(1, 3))
			b.AddBatch(uint64(g.int(1, 300)), span, start+int64(g.int(-5, 5)), g.producer(p, &span))
			b.Spans[len(b.Spans)-1] = span
		}
		op.Blocks = append(op.Blocks, b)
	}
	return op
}

// producer draws who sent a batch: in order, again, or anything near. A repeat sets the span.
func (g *generator) producer(p *modelPartition, span *uint64) entry.Producer {
	x := entry.Producer{ID: int64(g.int(-1, 3)), Epoch: int16(g.int(0, 2))}
	edges := []uint32{0, 1, 7, math.MaxInt32 - 3, math.MaxInt32}
	x.BaseSequence = int32(edges[g.int(0, len(edges)-1)])
	if p == nil || p.producers[x.ID] == nil || g.int(0, 9) == 0 {
		return x
	}
	known := p.producers[x.ID]
	last := known.sent[len(known.sent)-1]
	next := uint32((uint64(last.sequence) + last.span) % (1 << 31))
	x.Epoch, x.BaseSequence = known.epoch, int32(next)
	switch g.int(0, 9) {
	case 0:
		x.Epoch++
	case 1:
		x.Epoch, x.BaseSequence = x.Epoch+1, 0
	case 2:
		x.Epoch = max(0, x.Epoch-1)
	case 3, 4:
		again := known.sent[g.int(max(0, len(known.sent)-7), len(known.sent)-1)]
		x.BaseSequence, *span = int32(again.sequence), again.span
	case 5:
		x.BaseSequence = int32((int64(next) + int64(g.int(-12, 3)) + 1<<31) % (1 << 31))
	}
	return x
}

func (g *generator) relocate() entry.Op {
	if g.int(0, 2) == 0 {
		o, size := g.object()
		return &entry.Relocate{Bind: o, ObjectSize: cmp.Or(size, 1)}
	}
	topic, partition := g.partition()
	op := &entry.Relocate{Topic: topic, Partition: partition}
	_, p, _ := g.m.partition(topic, partition)
	if p == nil || len(p.rows) == 0 {
		o, size := g.object()
		op.EndOffset = 1
		op.Expected = []entry.Row{{Object: o, ObjectSize: size, EndOffset: 1, Size: 1}}
		return op
	}
	from := g.int(0, len(p.rows)-1)
	to := g.int(from, min(len(p.rows)-1, from+5))
	for _, r := range p.rows[from : to+1] {
		r.ObjectSize = g.m.objects[r.Object].size
		op.Expected = append(op.Expected, r)
	}
	op.StartOffset, op.EndOffset = op.Expected[0].BaseOffset, op.Expected[to-from].EndOffset
	first, last := op.StartOffset, op.EndOffset
	for range g.int(0, 2) {
		if first == last {
			break
		}
		o, size := g.object()
		r := entry.Row{Object: o, ObjectSize: size, Block: uint32(g.int(0, 2)), MaxTimestamp: start, Position: uint64(g.int(0, 1)), Size: uint64(g.int(1, 50))}
		r.BaseOffset = int64(g.int(int(first), int(last)-1))
		r.EndOffset = int64(g.int(int(r.BaseOffset)+1, int(last)))
		first = r.EndOffset
		op.Rows = append(op.Rows, r)
	}
	switch g.int(0, 9) { // something that the guard has to find
	case 0:
		op.Expected[g.int(0, to-from)].Size++
	case 1:
		op.EndOffset++
	case 2:
		op.StartOffset = max(0, op.StartOffset-1)
	case 3:
		if to > from {
			op.Expected = slices.Delete(op.Expected, 1, 2)
		}
	}
	return op
}

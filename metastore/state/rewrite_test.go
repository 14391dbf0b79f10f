package state_test

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// merged makes the id of a new merged object in the current collection epoch.
func (m *machine) merged(topic entry.UUID) entry.ObjectID {
	o := m.object()
	o.Topic = topic
	return o
}

// rewriteTo is a Rewrite of parts into one object.
func rewriteTo(object entry.ObjectID, parts ...entry.RewrittenPart) *entry.Rewrite {
	return &entry.Rewrite{Topic: object.Topic, Objects: []entry.RewrittenObject{{ID: object, Size: 500}}, Parts: parts}
}

// part expects rows, and replaces them by as many as there are (object, block) pairs in into, which share the rows' offsets: the first
// ones take one each, the last what is left.
func part(partition uint32, rows []state.Row, into ...uint32) entry.RewrittenPart {
	last := rows[len(rows)-1]
	p := entry.RewrittenPart{Partition: partition, Start: rows[0].Base, End: last.End, Rows: uint32(len(rows)), Digest: state.RowsDigest(rows)}
	for at := rows[0].Base; len(into) > 0; into = into[2:] {
		r := entry.RewrittenRow{Object: into[0], Block: into[1], Base: at, End: at + 1, MaxTimestamp: last.MaxTimestamp, Size: uint64(40 + into[1])}
		if len(into) == 2 {
			r.End = last.End
		}
		p.Replacement = append(p.Replacement, r)
		at = r.End
	}
	return p
}

// leveled is filled at the level of merged objects.
func leveled(t testing.TB) (*machine, []state.Row) {
	m := joinedAs(t, newest("a"), &entry.SetFeatureLevel{Level: 3})
	m.fill()
	return m, m.rows(topicID(1), 0)
}

// TestRewrite: parts of two partitions move into one object; what they replace retires in the same entry.
func TestRewrite(t *testing.T) {
	m, rows := leveled(t)
	m.accept(1, m.append(block(topicID(1), 1, plain(3))))
	other := m.rows(topicID(1), 1)
	object := m.merged(topicID(1))
	op := rewriteTo(object, part(0, rows[2:7], 0, 4), part(1, other, 0, 5))
	r := m.accept(1, op)
	if diff := cmp.Diff([]state.Code{state.OK, state.OK}, r.Ops[0].Parts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]state.PartitionRef{{Topic: topicID(1)}, {Topic: topicID(1), Partition: 1}}, r.Changed); diff != "" {
		t.Error(diff)
	}
	got := m.rows(topicID(1), 0)
	if len(got) != 6 || !slices.Equal(got[:2], rows[:2]) || !slices.Equal(got[3:], rows[7:]) {
		t.Fatalf("rows %+v", got)
	}
	want := state.Row{Object: object, ObjectSize: 500, Block: 4, Base: 4, End: 14, MaxTimestamp: start + 6, Size: 44}
	if diff := cmp.Diff(want, got[2]); diff != "" {
		t.Error(diff)
	}
	p := m.s.TopicByID(topicID(1)).Partition(0)
	if p.Next() != 20 || p.RowCount() != 6 || p.Size() != 10+11+44+17+18+19 {
		t.Errorf("next %d, rows %d, size %d", p.Next(), p.RowCount(), p.Size())
	}
	if o, ok := m.s.ObjectByID(object); !ok || o != (state.Object{ID: object, Size: 500, Born: m.s.N()}) {
		t.Errorf("object %+v", o)
	}
	if len(m.s.Retired()) != 6 {
		t.Errorf("retired %+v", m.s.Retired())
	}
	m.refuseParts(op, state.Conflict, state.Conflict) // the second compactor loses
	m.produce(topicID(1), plain(1))
	if got := m.rows(topicID(1), 0); got[len(got)-1].Base != 20 {
		t.Error("append after a rewrite")
	}
}

// refuseParts applies a Rewrite that must change nothing.
func (m *machine) refuseParts(op *entry.Rewrite, want ...state.Code) {
	m.t.Helper()
	before := m.content(1)
	r := m.apply(1, op)
	if r.EntryCode != state.OK || r.Ops[0].Code != state.OK || !slices.Equal(r.Ops[0].Parts, want) {
		m.t.Errorf("entry %v, op %v, parts %v; want parts %v", r.EntryCode, r.Ops[0].Code, r.Ops[0].Parts, want)
	}
	if len(r.Changed) > 0 {
		m.t.Error("refused, but reports changes")
	}
	if !bytes.Equal(before, withoutHash(m.t, m.s.AppendSnapshot(nil))) {
		m.t.Error("refused, but changed the state")
	}
}

// TestRewriteGuard: whatever of the rows is not as the proposer saw it, the part is refused and all others go on.
func TestRewriteGuard(t *testing.T) {
	m, rows := leveled(t)
	m.accept(1, m.append(block(topicID(1), 1, plain(3))))
	object := m.merged(topicID(1))
	with := func(change func(*entry.RewrittenPart)) *entry.Rewrite {
		p := part(0, rows[2:7], 0, 4)
		change(&p)
		return rewriteTo(object, p)
	}
	digestOf := func(change func(*state.Row)) func(*entry.RewrittenPart) {
		return func(p *entry.RewrittenPart) {
			seen := slices.Clone(rows[2:7])
			change(&seen[1])
			p.Digest = state.RowsDigest(seen)
		}
	}
	for name, change := range map[string]func(*entry.RewrittenPart){
		"object":             digestOf(func(r *state.Row) { r.Object.Seq++ }),
		"uploader":           digestOf(func(r *state.Row) { r.Object.Incarnation[3]++ }),
		"epoch":              digestOf(func(r *state.Row) { r.Object.CollectionEpoch = 0 }),
		"topic":              digestOf(func(r *state.Row) { r.Object.Topic = topicID(1) }),
		"size":               digestOf(func(r *state.Row) { r.Size++ }),
		"object size":        digestOf(func(r *state.Row) { r.ObjectSize++ }),
		"position":           digestOf(func(r *state.Row) { r.Position++ }),
		"block":              digestOf(func(r *state.Row) { r.Block++ }),
		"timestamp":          digestOf(func(r *state.Row) { r.MaxTimestamp++ }),
		"stamp":              digestOf(func(r *state.Row) { r.LogAppendTime = true }),
		"cleaned":            digestOf(func(r *state.Row) { r.Cleaned = true }),
		"base":               digestOf(func(r *state.Row) { r.Base++ }),
		"end":                digestOf(func(r *state.Row) { r.End-- }),
		"digest":             func(p *entry.RewrittenPart) { p.Digest ^= 1 << 63 },
		"fewer rows":         func(p *entry.RewrittenPart) { p.Rows-- },
		"more rows":          func(p *entry.RewrittenPart) { p.Rows++ },
		"start inside a row": func(p *entry.RewrittenPart) { p.Start-- },
		"end inside a row":   func(p *entry.RewrittenPart) { p.End++ },
		"a row more":         func(p *entry.RewrittenPart) { p.End += 2 },
		"a partition that has no rows": func(p *entry.RewrittenPart) {
			p.Partition = 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			m.t = t
			m.refuseParts(with(change), state.Conflict)
		})
	}
	m.t = t
	m.refuseParts(with(func(p *entry.RewrittenPart) { p.Partition = 3 }), state.UnknownPartition)
	foreign := with(func(*entry.RewrittenPart) {})
	foreign.Topic = topicID(9)
	m.refuse(1, foreign, state.UnknownTopic)

	good := part(1, m.rows(topicID(1), 1), 0, 5)
	bad := part(0, rows[2:7], 0, 4)
	bad.Digest++
	r := m.accept(1, rewriteTo(object, bad, part(0, rows[8:9], 0, 6), good))
	if want := []state.Code{state.Conflict, state.OK, state.OK}; !slices.Equal(r.Ops[0].Parts, want) || len(r.Changed) != 2 {
		t.Errorf("parts %v, changed %+v", r.Ops[0].Parts, r.Changed)
	}
}

// TestRewriteIntoAGap: a replacement lies where rows were, though the range is wider: nothing may come to lie where nothing was, nor
// beyond the next offset.
func TestRewriteIntoAGap(t *testing.T) {
	m, rows := leveled(t)
	m.accept(1, merge(m, rows[2:3])) // given up
	object := m.merged(topicID(1))
	p := part(0, rows[3:10], 0, 1)
	p.Start, p.Replacement[0].Base = 4, 4
	m.refuseParts(rewriteTo(object, p), state.Conflict)
	p.Replacement[0].Base = 6
	p.End = 25
	p.Replacement[0].End = 25
	m.refuseParts(rewriteTo(object, p), state.Conflict)
	p.Replacement[0].End = 20
	m.accept(1, rewriteTo(object, p))
	if got := m.rows(topicID(1), 0); len(got) != 3 || got[2].Base != 6 || got[2].End != 20 {
		t.Errorf("%+v", got)
	}
}

// TestRewriteObjects: the rules of objects hold for an op as a whole.
func TestRewriteObjects(t *testing.T) {
	m, rows := leveled(t)
	object := m.merged(topicID(1))
	with := func(change func(*entry.Rewrite)) *entry.Rewrite {
		op := rewriteTo(object, part(0, rows[2:7], 0, 4))
		change(op)
		return op
	}
	m.refuse(1, with(func(op *entry.Rewrite) { op.Objects[0].ID.Topic = topicID(2) }), state.InvalidObject)
	m.refuse(1, with(func(op *entry.Rewrite) { op.Objects[0].ID.Topic = entry.UUID{} }), state.InvalidObject)
	m.refuse(1, with(func(op *entry.Rewrite) { op.Objects = append(op.Objects, op.Objects[0]) }), state.InvalidObject)
	m.refuse(1, with(func(op *entry.Rewrite) {
		again := op.Objects[0]
		again.Size++
		op.Objects = append(op.Objects, again)
	}), state.InvalidObject)
	m.refuse(1, with(func(op *entry.Rewrite) { op.Objects[0].ID.CollectionEpoch = 2 }), state.InvalidObject)
	m.accept(1, with(func(*entry.Rewrite) {}))
	m.refuse(1, with(func(op *entry.Rewrite) { op.Objects[0].Size++ }), state.InvalidObject) // it is live with another
	m.accept(1, &entry.BumpCollectionEpoch{From: 1})
	m.accept(1, rewriteTo(object, part(0, rows[7:8], 0, 5))) // an epoch behind, and the second op that names it
	m.accept(1, &entry.BumpCollectionEpoch{From: 2})
	m.refuse(1, with(func(op *entry.Rewrite) { op.Objects[0].ID.Seq = 99 }), state.StaleCollectionEpoch)
	m.accept(1, rewriteTo(object, part(0, rows[8:9], 0, 6))) // however old: it is named
	m.refuse(1, &entry.Append{Object: m.merged(topicID(1)), ObjectSize: 9, Blocks: []entry.Block{block(topicID(1), 0, plain(1))}}, state.InvalidObject)
}

// TestRewriteOfNothing: an object of which no part was accepted is not named, and does not retire: it is an orphan.
func TestRewriteOfNothing(t *testing.T) {
	m, rows := leveled(t)
	one, two := m.merged(topicID(1)), m.merged(topicID(1))
	lost := part(0, rows[:2], 1, 0)
	lost.Digest++
	op := rewriteTo(one, lost, part(0, rows[2:4], 0, 0))
	op.Objects = append(op.Objects, entry.RewrittenObject{ID: two, Size: 1})
	if r := m.accept(1, op); !slices.Equal(r.Ops[0].Parts, []state.Code{state.Conflict, state.OK}) {
		t.Fatal(r.Ops[0].Parts)
	}
	if !m.s.Named(one) || m.s.Named(two) {
		t.Error("the wrong one is named")
	}
	for _, gone := range m.s.Retired() {
		if gone.Object.Merged() {
			t.Errorf("%+v retired", gone)
		}
	}
}

// TestRewriteOfADeletedTopic: the topic went while the compactor was at work.
func TestRewriteOfADeletedTopic(t *testing.T) {
	m, rows := leveled(t)
	op := rewriteTo(m.merged(topicID(1)), part(0, rows, 0, 0))
	m.accept(1, &entry.DeleteTopic{ID: topicID(1)})
	m.refuse(1, op, state.UnknownTopic)
	m.accept(1, &entry.CreateTopic{Name: "plain", ID: topicID(7), Partitions: 1})
	m.refuse(1, op, state.UnknownTopic) // another topic of that name
}

// TestRewriteBelowItsLevel: nothing that older agents cannot keep gets into the state, whatever level an entry claims.
func TestRewriteBelowItsLevel(t *testing.T) {
	m, rows := filled(t)
	m.refuse(1, rewriteTo(m.merged(topicID(1)), part(0, rows, 0, 0)), state.FeatureLevelNotReached)
	row := entryRow(rows[0])
	row.Cleaned = true
	m.refuse(1, merge(m, rows[:1], row), state.FeatureLevelNotReached)
	row.Cleaned, row.Object = false, m.merged(topicID(1))
	m.refuse(1, merge(m, rows[:1], row), state.FeatureLevelNotReached)
	if o, ok := m.s.ObjectByID(rows[0].Object); !ok || o.Born != 0 {
		t.Errorf("%+v has an age that a snapshot of this level does not keep", o)
	}
}

// TestRewriteOfPending: what is still in a WAL stays where it is, and may be rewritten once it is bound.
func TestRewriteOfPending(t *testing.T) {
	m, rows := leveled(t)
	a := m.append(block(topicID(1), 0, plain(1)))
	a.Location = entry.InWAL
	m.accept(1, a)
	all := m.rows(topicID(1), 0)
	op := rewriteTo(m.merged(topicID(1)), part(0, all, 0, 0))
	m.refuseParts(op, state.Conflict)
	m.accept(1, rewriteTo(op.Objects[0].ID, part(0, rows, 0, 0)))
	m.accept(1, &entry.Relocate{Bind: a.Object, ObjectSize: a.ObjectSize})
	m.accept(1, rewriteTo(op.Objects[0].ID, part(0, m.rows(topicID(1), 0), 0, 1)))
	if got := m.rows(topicID(1), 0); len(got) != 1 || got[0].End != 21 {
		t.Errorf("%+v", got)
	}
}

// TestRewriteWithinAnObject: rows may move within an object, and one part may take the last row of an object that the next one
// names: it must not retire on the way, nor become young again.
func TestRewriteWithinAnObject(t *testing.T) {
	m, rows := leveled(t)
	object := m.merged(topicID(1))
	m.accept(1, rewriteTo(object, part(0, rows[:3], 0, 0)))
	born := m.s.N()
	m.accept(1, &entry.BumpCollectionEpoch{From: 1})
	m.accept(1, &entry.BumpCollectionEpoch{From: 2})
	m.accept(1, rewriteTo(object, part(0, m.rows(topicID(1), 0)[:1], 0, 1)))
	op := rewriteTo(object, part(0, m.rows(topicID(1), 0)[:1], 1, 0), part(0, rows[3:5], 0, 2))
	op.Objects = append(op.Objects, entry.RewrittenObject{ID: m.merged(topicID(1)), Size: 9})
	m.accept(1, op)
	if o, ok := m.s.ObjectByID(object); !ok || o.Born != born {
		t.Errorf("%+v, born %d", o, born)
	}
	for _, gone := range m.s.Retired() {
		if gone.Object == object {
			t.Error("retired")
		}
	}
	all := part(0, m.rows(topicID(1), 0), 0, 0)
	m.accept(1, rewriteTo(m.merged(topicID(1)), all))
	if live, _ := m.s.ObjectCount(); live != 1 || m.s.Named(object) {
		t.Errorf("%d live", live)
	}
}

// TestRewriteAfterDeleteRecords: the log start may move into the first row while a compactor is at work. A replacement row that is
// wholly deleted by now is not installed; if that is all of it, no row is left, and its object is not named.
func TestRewriteAfterDeleteRecords(t *testing.T) {
	m, rows := leveled(t)
	object := m.merged(topicID(1))
	first, second := part(0, rows[2:4], 0, 0, 0, 1), part(0, rows[4:5], 0, 0, 0, 1)
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: 5})
	m.accept(1, rewriteTo(object, first))
	got := m.rows(topicID(1), 0)
	if got[0].Base != 5 || len(got) != 7 {
		t.Errorf("%+v", got)
	}
	p := m.s.TopicByID(topicID(1)).Partition(0)
	if p.Size() != 41+14+15+16+17+18+19 {
		t.Errorf("size %d", p.Size())
	}
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: 9})
	second.Cleaned, second.Replacement = true, second.Replacement[:1]
	other := m.merged(topicID(1))
	m.accept(1, rewriteTo(other, second))
	if got := m.rows(topicID(1), 0); got[0].Base != 10 || m.s.Named(other) {
		t.Errorf("%+v", got)
	}
	m.refuseParts(rewriteTo(object, first), state.Conflict) // its rows are gone
	if _, err := state.Load(m.s.AppendSnapshot(nil)); err != nil {
		t.Error(err)
	}
}

// TestCleanedRows: rows that key compaction has been over say so, and where nothing is left of them there is no row. That is not given up.
func TestCleanedRows(t *testing.T) {
	m, rows := leveled(t)
	object := m.merged(topicID(1))
	one, two := part(0, rows[:4], 0, 0), part(0, rows[4:6])
	one.Cleaned, two.Cleaned = true, true
	one.Replacement[0].Base, one.Replacement[0].End = 3, 7
	m.accept(1, rewriteTo(object, one, two))
	got := m.rows(topicID(1), 0)
	if len(got) != 5 || !got[0].Cleaned || got[0].Base != 3 || got[0].End != 7 || got[1].Cleaned || got[1].Base != 12 {
		t.Errorf("%+v", got)
	}
	if m.s.TopicByID(topicID(1)).GivenUp() != 0 {
		t.Error("given up")
	}
	// What cannot be read is given up all the same, by a Relocate that says that it is cleaned.
	row := entryRow(got[0])
	row.Cleaned = false
	give := &entry.Relocate{Topic: topicID(1), StartOffset: 0, EndOffset: 7, Expected: []entry.Row{row}}
	m.refuse(1, give, state.Conflict)
	give.Expected[0].Cleaned = true
	m.accept(1, give)
	if m.s.TopicByID(topicID(1)).GivenUp() != 4 || m.s.Named(object) {
		t.Errorf("given up %d", m.s.TopicByID(topicID(1)).GivenUp())
	}
	// A row of a merged object is a whole block of its own topic.
	into := entry.Row{Object: m.merged(topicID(1)), ObjectSize: 9, BaseOffset: 12, EndOffset: 14, Size: 5, Cleaned: true}
	for _, change := range []func(*entry.Row){
		func(r *entry.Row) { r.Object.Topic = topicID(2) }, func(r *entry.Row) { r.Position = 1 }, func(r *entry.Row) { r.LogAppendTime = true },
	} {
		bad := into
		change(&bad)
		m.refuse(1, merge(m, got[1:2], bad), state.InvalidObject)
	}
	m.accept(1, merge(m, got[1:2], into))
	if got := m.rows(topicID(1), 0); !got[0].Cleaned || got[0].Base != 12 {
		t.Errorf("%+v", got)
	}
}

// TestRewriteSizes: a partition's size is what its rows add up to, and cannot overflow.
func TestRewriteSizes(t *testing.T) {
	m, rows := leveled(t)
	op := rewriteTo(m.merged(topicID(1)), part(0, rows, 0, 0))
	op.Parts[0].Replacement[0].Size = uint64(entry.MaxPosition)
	m.accept(1, op)
	p := m.s.TopicByID(topicID(1)).Partition(0)
	if p.Size() != entry.MaxPosition {
		t.Errorf("size %d", p.Size())
	}
	p.SetSize(math.MaxInt64 - 5)
	op = rewriteTo(m.merged(topicID(1)), part(0, m.rows(topicID(1), 0), 0, 0, 0, 1))
	for i := range op.Parts[0].Replacement {
		op.Parts[0].Replacement[i].Size = uint64(entry.MaxPosition)
	}
	if r := m.apply(1, op); r.Ops[0].Parts[0] != state.LimitExceeded || p.Size() != math.MaxInt64-5 {
		t.Errorf("%v, size %d", r.Ops[0].Parts, p.Size())
	}
}

// TestRowsDigest: the digest is of what docs/formats.md says, and not of where a row is.
func TestRowsDigest(t *testing.T) {
	rows := rewritten(t).rows(topicID(2), 0)
	if !slices.ContainsFunc(rows, func(r state.Row) bool { return r.Cleaned }) || !slices.ContainsFunc(rows, func(r state.Row) bool { return r.LogAppendTime }) {
		t.Fatalf("not much of a test: %+v", rows)
	}
	rows = slices.Repeat(rows, 40) // more than the digest buffers
	if got, want := state.RowsDigest(rows), naiveDigest(entryRows(rows)); got != want {
		t.Errorf("%016x, want %016x", got, want)
	}
	rows[0].InWAL, rows[0].Holder = true, id(3)
	if state.RowsDigest(rows) != naiveDigest(entryRows(rows)) {
		t.Error("it covers where a row is")
	}
	if got, want := state.RowsDigest(nil), naiveDigest(nil); got != want {
		t.Errorf("%016x of nothing, want %016x", got, want)
	}
}

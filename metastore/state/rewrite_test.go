package state_test

import (
	"bytes"
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

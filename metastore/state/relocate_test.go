package state_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

func TestBind(t *testing.T) {
	m := joined(t)
	a := m.append(block(topicID(2), 0, plain(1)), block(topicID(1), 1, plain(1)), block(topicID(1), 0, plain(1)))
	a.Location = entry.InWAL
	m.accept(1, a)
	row := m.rows(topicID(1), 0)[0]
	if !row.InWAL || row.Holder != id(1) {
		t.Errorf("pending row %+v", row)
	}
	m.accept(1, &entry.DeleteTopic{ID: topicID(2)}) // a partition that is gone by then
	var err error
	if m.s, err = state.Load(m.s.AppendSnapshot(nil)); err != nil {
		t.Fatal(err)
	}
	if row := m.rows(topicID(1), 0)[0]; !row.InWAL || row.Holder != id(1) {
		t.Errorf("pending row after a restart %+v", row)
	}
	if live, pending := m.s.ObjectCount(); live != 1 || pending != 1 {
		t.Error(live, pending)
	}

	m.refuse(1, &entry.Relocate{Bind: m.object(), ObjectSize: 1}, state.UnknownObject)
	bind := &entry.Relocate{Bind: a.Object, ObjectSize: 777}
	r := m.accept(1, bind)
	want := []state.PartitionRef{{Topic: topicID(1), Partition: 0}, {Topic: topicID(1), Partition: 1}}
	if diff := cmp.Diff(want, r.Changed); diff != "" {
		t.Error(diff)
	}
	if row := m.rows(topicID(1), 0)[0]; row.InWAL || row.ObjectSize != 777 || row.Base != 0 {
		t.Errorf("bound row %+v", row)
	}
	m.refuse(1, bind, state.Duplicate)
}

// TestPendingEndsWithTheObject: an object that was deleted before it was uploaded leaves nothing to the next one that
// takes its place in the table.
func TestPendingEndsWithTheObject(t *testing.T) {
	m, rows := filled(t)
	a := m.append(block(topicID(1), 1, plain(1)))
	a.Location = entry.InWAL
	m.accept(1, a, &entry.DeleteRecords{Topic: topicID(1), Partition: 1, BeforeOffset: -1})
	m.refuse(1, &entry.Relocate{Bind: a.Object, ObjectSize: 1}, state.UnknownObject)
	m.accept(1, merge(m, rows[:2], entry.Row{Object: m.object(), ObjectSize: 9, EndOffset: 4, Size: 9}))
	if row := m.rows(topicID(1), 0)[0]; row.InWAL || row.ObjectSize != 9 {
		t.Errorf("%+v", row)
	}
}

func TestBlocksOfOneObject(t *testing.T) {
	m := joined(t)
	a := m.append(block(topicID(1), 0, plain(1)))
	a.Location = entry.InWAL
	m.accept(1, a)
	b := &entry.Append{Object: a.Object, ObjectSize: 1000, Location: entry.InWAL, Blocks: []entry.Block{block(topicID(1), 1, plain(1))}}
	m.accept(1, b)
	if row := m.rows(topicID(1), 1)[0]; !row.InWAL {
		t.Error("the second block is not pending")
	}
	b.ObjectSize = 999
	m.refuse(1, b, state.InvalidObject)
	// The rest is proposed when the object is in the bucket: that binds what was appended before.
	b.ObjectSize, b.Location = 1000, entry.InBucket
	b.Blocks = []entry.Block{block(topicID(1), 2, plain(1))}
	r := m.accept(1, b)
	if len(r.Changed) != 3 || m.rows(topicID(1), 0)[0].InWAL || m.rows(topicID(1), 1)[0].InWAL {
		t.Errorf("changed %+v", r.Changed)
	}
	b.Location = entry.InWAL // a late part says WAL: the object stays where it is
	m.accept(1, b)
	if m.rows(topicID(1), 2)[1].InWAL {
		t.Error("unbound")
	}
}

// filled has ten rows of two offsets in partition 0 of topic 1.
func filled(t testing.TB) (*machine, []state.Row) {
	m := joined(t)
	m.fill()
	return m, m.rows(topicID(1), 0)
}

func (m *machine) fill() {
	for i := range 10 {
		m.produce(topicID(1), batch{size: uint64(10 + i), span: 2, ts: start + int64(i), p: entry.NoProducer()})
	}
}

func merge(m *machine, rows []state.Row, into ...entry.Row) *entry.Relocate {
	return &entry.Relocate{
		Topic: topicID(1), StartOffset: rows[0].Base, EndOffset: rows[len(rows)-1].End, Expected: entryRows(rows), Rows: into,
	}
}

func TestMerge(t *testing.T) {
	m, rows := filled(t)
	merged := entry.Row{Object: m.object(), ObjectSize: 500, Block: 4, BaseOffset: 4, EndOffset: 14, MaxTimestamp: start + 6, Position: 20, Size: 70}
	r := m.accept(1, merge(m, rows[2:7], merged))
	if diff := cmp.Diff([]state.PartitionRef{{Topic: topicID(1)}}, r.Changed); diff != "" {
		t.Error(diff)
	}
	got := m.rows(topicID(1), 0)
	if len(got) != 6 || !slices.Equal(got[:2], rows[:2]) || !slices.Equal(got[3:], rows[7:]) {
		t.Fatalf("rows %+v", got)
	}
	if diff := cmp.Diff(merged, entryRow(got[2])); diff != "" {
		t.Error(diff)
	}
	p := m.s.TopicByID(topicID(1)).Partition(0)
	if p.Next() != 20 || p.RowCount() != 6 || p.Size() != 10+11+70+17+18+19 {
		t.Errorf("next %d, rows %d, size %d", p.Next(), p.RowCount(), p.Size())
	}
	var gone []entry.ObjectID
	for _, x := range m.s.Retired() {
		gone = append(gone, x.Object)
	}
	var want []entry.ObjectID
	for _, row := range rows[2:7] {
		want = append(want, row.Object)
	}
	if diff := cmp.Diff(want, gone); diff != "" {
		t.Error(diff)
	}
	m.refuse(1, merge(m, rows[2:7], merged), state.Conflict) // the second compactor loses
	m.produce(topicID(1), plain(1))
	if got := m.rows(topicID(1), 0); got[len(got)-1].Base != 20 {
		t.Error("append after a merge")
	}
}

func TestMergeToTheEnd(t *testing.T) {
	m, rows := filled(t)
	merged := entry.Row{Object: m.object(), ObjectSize: 500, BaseOffset: 10, EndOffset: 20, MaxTimestamp: start + 9, Size: 70}
	m.accept(1, merge(m, rows[5:], merged))
	m.produce(topicID(1), plain(1))
	got := m.rows(topicID(1), 0)
	if len(got) != 7 || got[5].Base != 10 || got[6].Base != 20 || got[6].End != 21 || got[6].Object.Seq != uint64(m.seen) {
		t.Errorf("rows %+v", got)
	}
}

func TestKeyCompactionLeavesGaps(t *testing.T) {
	m, rows := filled(t)
	object := m.object()
	into := []entry.Row{
		{Object: object, ObjectSize: 500, BaseOffset: 5, EndOffset: 6, Size: 10},
		{Object: object, ObjectSize: 500, BaseOffset: 9, EndOffset: 12, Position: 10, Size: 20},
	}
	m.accept(1, merge(m, rows[2:7], into...))
	p := m.s.TopicByID(topicID(1)).Partition(0)
	for offset, base := range map[int64]int64{4: 5, 5: 5, 6: 9, 11: 9, 12: 14, 13: 14} {
		if got := p.Rows(offset, 1, nil); got[0].Base != base {
			t.Errorf("from %d: %+v", offset, got[0])
		}
	}
	// Compact again, the range starting and ending in gaps.
	again := merge(m, p.Rows(5, 2, nil), entry.Row{Object: m.object(), ObjectSize: 9, BaseOffset: 10, EndOffset: 11, Size: 9})
	again.StartOffset, again.EndOffset = 4, 14
	m.accept(1, again)
	if m.s.TopicByID(topicID(1)).GivenUp() != 0 {
		t.Error("compacted is not given up")
	}
	if got := p.Rows(4, 1, nil); got[0].Base != 10 || p.RowCount() != 6 {
		t.Errorf("%+v", got)
	}
}

func TestGiveUp(t *testing.T) {
	m, rows := filled(t)
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: 5})
	m.accept(1, merge(m, rows[2:5]))
	p := m.s.TopicByID(topicID(1)).Partition(0)
	if got := p.Rows(5, 1, nil); got[0].Base != 10 || p.Next() != 20 || p.LogStart() != 5 {
		t.Errorf("%+v", got)
	}
	if got := m.s.TopicByID(topicID(1)).GivenUp(); got != 5 { // 4 was deleted before
		t.Errorf("given up %d", got)
	}
	m.refuse(1, merge(m, rows[2:5]), state.Conflict)
	m.accept(1, merge(m, rows[5:]))
	m.produce(topicID(1), plain(3))
	if got := p.Rows(0, 10, nil); len(got) != 1 || got[0].Base != 20 || got[0].End != 23 {
		t.Errorf("%+v", got)
	}
}

func TestRelocateGuard(t *testing.T) {
	m, rows := filled(t)
	merged := entry.Row{Object: m.object(), ObjectSize: 500, BaseOffset: 4, EndOffset: 14, MaxTimestamp: start + 6, Size: 70}
	with := func(change func(*entry.Relocate)) *entry.Relocate {
		r := merge(m, rows[2:7], merged)
		change(r)
		return r
	}
	for name, change := range map[string]func(*entry.Relocate){
		"object":             func(r *entry.Relocate) { r.Expected[1].Object.Seq++ },
		"epoch":              func(r *entry.Relocate) { r.Expected[1].Object.CollectionEpoch = 0 },
		"size":               func(r *entry.Relocate) { r.Expected[1].Size++ },
		"object size":        func(r *entry.Relocate) { r.Expected[1].ObjectSize++ },
		"position":           func(r *entry.Relocate) { r.Expected[1].Position++ },
		"block":              func(r *entry.Relocate) { r.Expected[1].Block++ },
		"timestamp":          func(r *entry.Relocate) { r.Expected[1].MaxTimestamp++ },
		"stamp":              func(r *entry.Relocate) { r.Expected[1].LogAppendTime = true },
		"base":               func(r *entry.Relocate) { r.Expected[1].BaseOffset++ },
		"end":                func(r *entry.Relocate) { r.Expected[1].EndOffset-- },
		"a row less":         func(r *entry.Relocate) { r.Expected = slices.Delete(r.Expected, 2, 3) },
		"not the last row":   func(r *entry.Relocate) { r.Expected = r.Expected[:4] },
		"start inside a row": func(r *entry.Relocate) { r.StartOffset-- },
		"end inside a row":   func(r *entry.Relocate) { r.EndOffset++ },
		"a row more": func(r *entry.Relocate) {
			r.EndOffset += 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			m.t = t
			m.refuse(1, with(change), state.Conflict)
		})
	}
	m.t = t
	m.refuse(1, with(func(r *entry.Relocate) { r.Topic = topicID(9) }), state.UnknownTopic)
	m.refuse(1, with(func(r *entry.Relocate) { r.Partition = 3 }), state.UnknownPartition)
	m.refuse(1, with(func(r *entry.Relocate) { r.Partition = 1 }), state.Conflict)
	m.refuse(1, with(func(r *entry.Relocate) { r.Rows[0].Object = rows[0].Object }), state.InvalidObject) // of another size
	m.refuse(1, with(func(r *entry.Relocate) { r.Rows[0].Object.CollectionEpoch = 5 }), state.InvalidObject)
	m.refuse(1, with(func(r *entry.Relocate) {
		a, b := merged, merged
		a.EndOffset, b.BaseOffset, b.ObjectSize = 6, 6, 501
		r.Rows = []entry.Row{a, b}
	}), state.InvalidObject)
	m.accept(1, &entry.BumpCollectionEpoch{From: 1})
	m.accept(1, &entry.BumpCollectionEpoch{From: 2})
	m.refuse(1, merge(m, rows[2:7], merged), state.StaleCollectionEpoch)
	fresh := func(r *entry.Relocate) { r.Rows[0].Object.CollectionEpoch = 2 }
	m.accept(1, merge(m, rows[2:3])) // a gap in the range: nothing may come to lie in it
	m.refuse(1, with(func(r *entry.Relocate) { fresh(r); r.Expected = r.Expected[1:] }), state.Conflict)
	m.accept(1, with(func(r *entry.Relocate) { fresh(r); r.Expected = r.Expected[1:]; r.Rows[0].BaseOffset = 6 }))
}

// TestRelocateWithinAnObject: rows may move to an object that they came from, which must not retire on the way.
func TestRelocateWithinAnObject(t *testing.T) {
	m, rows := filled(t)
	same := entryRow(rows[2])
	same.EndOffset, same.Size = same.EndOffset-1, 5
	m.accept(1, &entry.BumpCollectionEpoch{From: 1})
	m.accept(1, &entry.BumpCollectionEpoch{From: 2}) // however old: it is named
	m.accept(1, merge(m, rows[2:3], same))
	if len(m.s.Retired()) != 0 || !m.s.Named(rows[2].Object) {
		t.Error("retired")
	}
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: -1})
	if len(m.s.Retired()) != 10 {
		t.Errorf("%d retired", len(m.s.Retired()))
	}
}

// TestLogStartMovesWhileCompacting: a replacement row that is wholly deleted by now is not installed.
func TestLogStartMovesWhileCompacting(t *testing.T) {
	m, rows := filled(t)
	object := m.object()
	into := []entry.Row{
		{Object: object, ObjectSize: 500, BaseOffset: 4, EndOffset: 5, Size: 10},
		{Object: object, ObjectSize: 500, BaseOffset: 5, EndOffset: 8, Position: 10, Size: 20},
	}
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: 5})
	m.accept(1, merge(m, rows[2:4], into...))
	got := m.rows(topicID(1), 0)
	if got[0].Base != 5 || len(got) != 7 {
		t.Errorf("%+v", got)
	}
	if _, err := state.Load(m.s.AppendSnapshot(nil)); err != nil {
		t.Error(err)
	}
}

func TestDeleteRecords(t *testing.T) {
	m, rows := filled(t)
	delete := func(before int64) *entry.DeleteRecords {
		return &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: before}
	}
	p := m.s.TopicByID(topicID(1)).Partition(0)
	m.refuse(1, delete(21), state.OffsetOutOfRange)
	m.refuse(1, &entry.DeleteRecords{Topic: topicID(9)}, state.UnknownTopic)
	m.refuse(1, &entry.DeleteRecords{Topic: topicID(1), Partition: 3}, state.UnknownPartition)
	m.refuse(1, delete(0), state.OK)
	r := m.accept(1, delete(5))
	if r.Ops[0].LogStartOffset != 5 || p.LogStart() != 5 || len(r.Changed) != 1 {
		t.Errorf("%+v", r.Ops[0])
	}
	if got := m.rows(topicID(1), 0); !slices.Equal(got, rows[2:]) {
		t.Errorf("the row that 5 lies in must stay: %+v", got)
	}
	if p.Size() != 145-10-11 {
		t.Errorf("size %d", p.Size())
	}
	m.refuse(1, delete(3), state.OK) // never lower
	if p.LogStart() != 5 {
		t.Error(p.LogStart())
	}
	if got := m.accept(1, delete(-1)).Ops[0].LogStartOffset; got != 20 || p.RowCount() != 0 || p.Size() != 0 {
		t.Errorf("to the high watermark: %d", got)
	}
	if got := m.produce(topicID(1), plain(1)); got[0].BaseOffset != 20 || got[0].LogStartOffset != 20 {
		t.Errorf("%+v", got)
	}
}

// TestLateDuplicateAfterTrim: what a producer sent is remembered beyond the records.
func TestLateDuplicateAfterTrim(t *testing.T) {
	m := joined(t)
	m.produce(topicID(1), sent(5, 0, 0, 4))
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: -1})
	got := m.produce(topicID(1), sent(5, 0, 0, 4))
	m.codes(got, state.Duplicate)
	if got[0].BaseOffset != 0 || got[0].LogStartOffset != 4 {
		t.Errorf("%+v", got)
	}
}

func TestRetiredObjects(t *testing.T) {
	m := joined(t)
	a := m.append(block(topicID(1), 0, plain(1)))
	m.accept(1, a)
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: -1})
	if len(m.s.Retired()) != 1 {
		t.Fatal(m.s.Retired())
	}
	// The rest of its blocks come: it lives again.
	m.accept(1, &entry.Append{Object: a.Object, ObjectSize: 1000, Blocks: []entry.Block{block(topicID(1), 1, plain(1))}})
	if len(m.s.Retired()) != 0 || !m.s.Named(a.Object) {
		t.Error("still retired")
	}
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), Partition: 1, BeforeOffset: -1})
	for i := range uint64(state.RetiredEpochs) {
		if len(m.s.Retired()) != 1 {
			t.Errorf("forgotten after %d epochs", i)
		}
		m.accept(1, &entry.BumpCollectionEpoch{From: m.s.CollectionEpoch()})
	}
	if len(m.s.Retired()) != 0 {
		t.Error("remembered for ever")
	}
}

// TestManyMerges merges windows of rows again and again, as compaction does, and compares with plain slices.
func TestManyMerges(t *testing.T) {
	m := joined(t)
	p := func() *state.Partition { return m.s.TopicByID(topicID(1)).Partition(0) }
	for i := range 2000 {
		m.produce(topicID(1), batch{size: uint64(i + 1), span: 3, ts: start, p: entry.NoProducer()})
	}
	for _, window := range []int{7, 50, 3} {
		want := p().Rows(0, 1<<20, nil)
		for from := 0; from+window <= len(want); from++ {
			part := want[from : from+window]
			into := entryRow(part[0])
			into.Object, into.ObjectSize, into.EndOffset = m.object(), 77, part[window-1].End
			m.accept(1, merge(m, part, into))
			want = slices.Replace(want, from, from+window, p().Rows(into.BaseOffset, 1, nil)[0])
		}
		if got := p().Rows(0, 1<<20, nil); !slices.Equal(got, want) || p().RowCount() != len(want) {
			t.Fatalf("windows of %d: %d rows, want %d", window, len(got), len(want))
		}
		for _, row := range want {
			if got := p().Rows(row.End-1, 1, nil)[0]; got != row {
				t.Fatalf("offset %d: %+v, want %+v", row.End-1, got, row)
			}
		}
	}
}

// TestMergesLeaveFullPages: rows that became few do not each keep a page of their own.
func TestMergesLeaveFullPages(t *testing.T) {
	m := joined(t)
	object := m.object()
	for range 200 {
		a := &entry.Append{Object: object, ObjectSize: 1000}
		for range 100 {
			a.Blocks = append(a.Blocks, block(topicID(1), 0, plain(3)))
		}
		m.accept(1, a)
	}
	const window = 40
	rows := m.rows(topicID(1), 0)
	for i := 0; i < len(rows); i += window {
		into := entryRow(rows[i])
		into.EndOffset = rows[i+window-1].End
		m.accept(1, merge(m, rows[i:i+window], into))
	}
	p := m.s.TopicByID(topicID(1)).Partition(0)
	left, full := p.RowCount(), m.s.MemoryBytes()
	m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: -1})
	if perRow := (full - m.s.MemoryBytes()) / int64(left); left != len(rows)/window || perRow > 24 {
		t.Errorf("%d rows of %d bytes", left, perRow)
	}
}

// TestRelocateToPending: rows that moved to an object in a WAL are in the bucket with it.
func TestRelocateToPending(t *testing.T) {
	m, rows := filled(t)
	a := m.append(block(topicID(1), 1, plain(1)))
	a.Location = entry.InWAL
	m.accept(1, a)
	m.accept(1, merge(m, rows[:2], entry.Row{Object: a.Object, ObjectSize: 1000, EndOffset: 4, Size: 9}))
	if row := m.rows(topicID(1), 0)[0]; !row.InWAL {
		t.Errorf("%+v", row)
	}
	if r := m.accept(1, &entry.Relocate{Bind: a.Object, ObjectSize: 1000}); len(r.Changed) != 2 {
		t.Errorf("changed %+v", r.Changed)
	}
}

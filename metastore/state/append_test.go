package state_test

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

const (
	ok    = state.OK
	dup   = state.Duplicate
	old   = state.DuplicateSequence
	gap   = state.OutOfOrderSequence
	stale = state.ProducerFenced
)

func TestAppendGivesOffsets(t *testing.T) {
	m := joined(t)
	r := m.accept(1, m.append(
		block(topicID(1), 2, plain(3), plain(4)), block(topicID(1), 0, plain(1)), block(topicID(1), 2, plain(1)),
	))
	var bases []int64
	for _, b := range r.Ops[0].Batches {
		bases = append(bases, b.BaseOffset)
	}
	if !slices.Equal(bases, []int64{0, 3, 0, 7}) {
		t.Errorf("base offsets %v", bases)
	}
	want := []state.PartitionRef{{Topic: topicID(1), Partition: 2}, {Topic: topicID(1), Partition: 0}}
	if diff := cmp.Diff(want, r.Changed); diff != "" {
		t.Error(diff)
	}
	p := m.s.TopicByID(topicID(1)).Partition(2)
	if p.Next() != 8 || p.LastStable() != 8 || p.LogStart() != 0 || p.Size() != 300 || p.RowCount() != 2 {
		t.Errorf("next %d, size %d, rows %d", p.Next(), p.Size(), p.RowCount())
	}
	first := state.Row{
		Object: entry.ObjectID{Incarnation: id(1), Seq: 1, CollectionEpoch: 1}, ObjectSize: 1000, Block: 0, Base: 0, End: 7,
		MaxTimestamp: start, Size: 200,
	}
	second := first
	second.Block, second.Base, second.End, second.Size = 2, 7, 8, 100
	if diff := cmp.Diff([]state.Row{first, second}, p.Rows(0, 10, nil)); diff != "" {
		t.Error(diff)
	}
	for offset, want := range map[int64][]state.Row{-5: {first, second}, 6: {first, second}, 7: {second}, 8: nil, 100: nil} {
		if diff := cmp.Diff(want, p.Rows(offset, 10, nil)); diff != "" {
			t.Errorf("rows from %d: %s", offset, diff)
		}
	}
	if got := p.Rows(0, 1, nil); len(got) != 1 || got[0] != first {
		t.Errorf("one row: %+v", got)
	}
	if got := p.Rows(0, 0, nil); got != nil {
		t.Errorf("no rows: %+v", got)
	}
}

func TestAppendToUnknown(t *testing.T) {
	m := joined(t)
	r := m.accept(1, m.append(
		block(topicID(9), 0, plain(1), plain(1)), block(topicID(1), 3, plain(1)), block(topicID(1), math.MaxInt32, plain(1)), block(topicID(1), 0, plain(1)),
	))
	m.codes(r.Ops[0].Batches, state.UnknownTopic, state.UnknownTopic, state.UnknownPartition, state.UnknownPartition, ok)
}

func TestAppendCondition(t *testing.T) {
	m := joined(t)
	with := func(next int64) *entry.Append {
		b := block(topicID(1), 0, plain(2), plain(2))
		b.ExpectedNextOffset = next + 1
		return m.append(b)
	}
	m.codes(m.accept(1, with(1)).Ops[0].Batches, state.ConditionFailed, state.ConditionFailed)
	m.codes(m.accept(1, with(0)).Ops[0].Batches, ok, ok)
	m.codes(m.accept(1, with(0)).Ops[0].Batches, state.ConditionFailed, state.ConditionFailed)
	m.codes(m.accept(1, with(4)).Ops[0].Batches, ok, ok)
	if live, _ := m.s.ObjectCount(); live != 2 {
		t.Errorf("%d objects: one of which no batch was accepted is named", live)
	}
}

func TestTransactionalIsRefused(t *testing.T) {
	m := joined(t)
	b := sent(5, 0, 0, 1)
	b.p.Transactional = true
	m.codes(m.produce(topicID(1), b, plain(1)), state.TransactionState, ok)
}

func TestDuplicateHasTheOriginalOffset(t *testing.T) {
	m := joined(t)
	m.produce(topicID(1), plain(7))
	first := m.produce(topicID(1), sent(5, 0, 10, 3), sent(5, 0, 13, 2))
	m.codes(first, ok, ok)
	m.produce(topicID(1), plain(100))
	again := m.produce(topicID(1), sent(5, 0, 13, 2), sent(5, 0, 10, 3), sent(5, 0, 13, 2))
	m.codes(again, dup, dup, dup)
	if again[0].BaseOffset != 10 || again[1].BaseOffset != 7 || again[2].BaseOffset != 10 {
		t.Errorf("offsets %+v", again)
	}
	if next := m.s.TopicByID(topicID(1)).Partition(0).Next(); next != 112 {
		t.Errorf("next offset %d", next)
	}
}

func TestDuplicateHasTheOriginalTimestamp(t *testing.T) {
	m := joined(t)
	m.produce(topicID(2), sent(5, 0, 0, 1))
	m.clock = start + 5000
	m.produce(topicID(2), sent(5, 0, 1, 1))
	m.clock = start + 9000
	got := m.produce(topicID(2), sent(5, 0, 0, 1), sent(5, 0, 1, 1))
	m.codes(got, dup, dup)
	if got[0].Timestamp != start || got[1].Timestamp != start+5000 {
		t.Errorf("%+v", got)
	}
	// Beyond 49 days the age is no longer known, and -1 says so.
	m.clock = start + 1<<32 + 9000
	m.produce(topicID(2), sent(5, 0, 2, 1))
	got = m.produce(topicID(2), sent(5, 0, 0, 1), sent(5, 0, 2, 1))
	if got[0].Timestamp != -1 || got[0].BaseOffset != 0 || got[1].Timestamp != m.clock {
		t.Errorf("%+v", got)
	}
}

func TestWindowOfFive(t *testing.T) {
	m := joined(t)
	for i := range int32(6) {
		m.codes(m.produce(topicID(1), sent(5, 0, i*10, 10)), ok)
	}
	for i := range int32(6) {
		want := dup
		if i == 0 {
			want = old
		}
		got := m.produce(topicID(1), sent(5, 0, i*10, 10))
		m.codes(got, want)
		if want == dup && got[0].BaseOffset != int64(i)*10 {
			t.Errorf("batch %d: original at %d", i, got[0].BaseOffset)
		}
		if want == old && got[0].BaseOffset != -1 {
			t.Errorf("an unknown original at %d", got[0].BaseOffset)
		}
	}
	m.codes(m.produce(topicID(1), sent(5, 0, 50, 9)), old)  // same base, other end
	m.codes(m.produce(topicID(1), sent(5, 0, 30, 20)), old) // two batches as one
	m.codes(m.produce(topicID(1), sent(5, 0, 55, 10)), gap) // half of it is new: not a duplicate
	m.codes(m.produce(topicID(1), sent(5, 0, 61, 1)), gap)
	m.codes(m.produce(topicID(1), sent(5, 0, 60, 1)), ok)
}

// TestOvertakenFirstBatch: where a later batch of a producer arrives first, the earlier one is not a duplicate. Calling
// it one would tell the producer that it is in the log.
func TestOvertakenFirstBatch(t *testing.T) {
	m := joined(t)
	m.codes(m.produce(topicID(1), sent(5, 0, 10, 5)), ok) // no state: any first sequence
	m.codes(m.produce(topicID(1), sent(5, 0, 0, 10)), gap)
	m.codes(m.produce(topicID(1), sent(5, 0, 5, 10)), gap) // reaches into what is known
	m.codes(m.produce(topicID(1), sent(5, 0, 15, 5)), ok)
	m.codes(m.produce(topicID(1), sent(5, 0, 10, 10)), old)
	m.codes(m.produce(topicID(1), sent(5, 0, 9, 2)), gap)
}

func TestSequenceWraps(t *testing.T) {
	m := joined(t)
	m.codes(m.produce(topicID(1), sent(5, 0, math.MaxInt32-1, 1), sent(5, 0, math.MaxInt32, 1), sent(5, 0, 0, 1)), ok, ok, ok)
	m.codes(m.produce(topicID(1), sent(6, 0, math.MaxInt32-2, 10)), ok) // one batch across the edge
	m.codes(m.produce(topicID(1), sent(6, 0, 7, 1)), ok)
	m.codes(m.produce(topicID(1), sent(6, 0, math.MaxInt32-2, 10), sent(6, 0, 7, 1)), dup, dup)
	m.codes(m.produce(topicID(1), sent(6, 0, math.MaxInt32, 2)), old)
	m.codes(m.produce(topicID(1), sent(6, 0, math.MaxInt32-3, 1)), gap)
	m.codes(m.produce(topicID(1), sent(5, 0, math.MaxInt32, 1), sent(5, 0, 1, 1), sent(5, 0, 3, 1)), dup, ok, gap)
}

func TestForwardGapIsNeverADuplicate(t *testing.T) {
	m := joined(t)
	next := int64(0)
	for range 3 { // more than half of the circle is known to be in the log
		m.codes(m.produce(topicID(1), sent(5, 0, int32(next&math.MaxInt32), math.MaxInt32)), ok)
		next += math.MaxInt32
	}
	for _, ahead := range []int64{1, 1000, 1 << 29} {
		m.codes(m.produce(topicID(1), sent(5, 0, int32((next+ahead)&math.MaxInt32), 1)), gap)
	}
	m.codes(m.produce(topicID(1), sent(5, 0, int32((next-1000)&math.MaxInt32), 1)), old)
}

func TestProducerEpochs(t *testing.T) {
	m := joined(t)
	m.codes(m.produce(topicID(1), sent(5, 2, 40, 1)), ok)
	m.codes(m.produce(topicID(1), sent(5, 1, 41, 1)), stale)
	m.codes(m.produce(topicID(1), sent(5, 1, 0, 1)), stale)
	m.codes(m.produce(topicID(1), sent(5, 3, 41, 1)), gap) // a new epoch starts at 0
	m.codes(m.produce(topicID(1), sent(5, 2, 41, 1)), ok)  // and what was refused changed nothing
	m.codes(m.produce(topicID(1), sent(5, 3, 0, 1)), ok)
	m.codes(m.produce(topicID(1), sent(5, 3, 0, 1)), dup)
	m.codes(m.produce(topicID(1), sent(5, 2, 41, 1)), stale) // the window is of this epoch alone
	m.codes(m.produce(topicID(1), sent(5, 3, 40, 1)), gap)
	m.codes(m.produce(topicID(1), sent(5, 3, math.MaxInt32, 1)), gap) // where the batch of epoch 2 would be, counted back
	m.codes(m.produce(topicID(1), sent(5, math.MaxInt16, 0, 1)), ok)
}

func TestTwoAgentsInterleaveOneProducer(t *testing.T) {
	m := joined(t)
	m.accept(2, join("b"))
	send := func(agent byte, batches ...batch) []state.BatchResult {
		t.Helper()
		a := m.append(block(topicID(1), 0, batches...))
		return m.accept(agent, a).Ops[0].Batches
	}
	m.codes(send(1, sent(5, 0, 0, 1), sent(5, 0, 1, 1)), ok, ok)
	m.codes(send(2, sent(5, 0, 3, 1)), gap) // overtook what agent 1 still has
	m.codes(send(1, sent(5, 0, 2, 1)), ok)
	m.codes(send(2, sent(5, 0, 2, 1), sent(5, 0, 3, 1)), dup, ok) // the producer resent to agent 2
	m.codes(send(1, sent(5, 0, 3, 1)), dup)
}

func TestProducersAreApart(t *testing.T) {
	m := joined(t)
	r := m.accept(1, m.append(
		block(topicID(1), 0, sent(9, 0, 0, 1), sent(3, 0, 7, 1), sent(9, 0, 1, 1), plain(1), sent(3, 0, 8, 1)),
		block(topicID(1), 1, sent(9, 0, 5, 1)),
	))
	m.codes(r.Ops[0].Batches, ok, ok, ok, ok, ok, ok)
	want := []state.ProducerInfo{
		{ID: 3, LastSequence: 8, LastOffset: 4, LastSeenMs: start},
		{ID: 9, LastSequence: 1, LastOffset: 2, LastSeenMs: start},
	}
	if diff := cmp.Diff(want, m.s.TopicByID(topicID(1)).Partition(0).Producers(nil)); diff != "" {
		t.Error(diff)
	}
}

// TestDeadBytes: refused batches stay in the object but not in the index.
func TestDeadBytes(t *testing.T) {
	m := joined(t)
	m.produce(topicID(1), sent(5, 0, 0, 2))
	a := m.append(block(topicID(1), 0,
		sent(5, 0, 0, 2),  // dead
		sent(5, 0, 2, 3),  // 2..5
		plain(1),          // 5
		sent(5, 0, 2, 3),  // dead
		sent(5, 0, 99, 3), // dead
		plain(2),          // 6..8
		sent(5, 0, 4, 1),  // dead
	))
	a.Blocks[0].FirstPosition = 1000
	r := m.accept(1, a)
	m.codes(r.Ops[0].Batches, dup, ok, ok, dup, gap, ok, old)
	var got [][4]int64
	for _, row := range m.rows(topicID(1), 0)[1:] {
		got = append(got, [4]int64{row.Base, row.End, row.Position, row.Size})
	}
	if want := [][4]int64{{2, 6, 1100, 200}, {6, 8, 1500, 100}}; !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
	if p := m.s.TopicByID(topicID(1)).Partition(0); p.Size() != 400 || p.Next() != 8 {
		t.Errorf("size %d, next %d", p.Size(), p.Next())
	}
}

func TestOffsetsRunOut(t *testing.T) {
	m := joined(t)
	m.s.TopicByID(topicID(1)).Partition(0).SetNext(math.MaxInt64 - 10)
	got := m.produce(topicID(1), plain(11), plain(4), plain(7), plain(6), plain(1))
	m.codes(got, state.OffsetOverflow, ok, state.OffsetOverflow, ok, state.OffsetOverflow)
	if rows := m.rows(topicID(1), 0); len(rows) != 2 || rows[1].End != math.MaxInt64 {
		t.Errorf("%+v", rows)
	}
	if _, err := state.Load(m.s.AppendSnapshot(nil)); err != nil {
		t.Error(err)
	}
}

func TestTimestamps(t *testing.T) {
	m := joined(t)
	for _, ts := range []int64{50, -1, 70, 60, 70} {
		m.produce(topicID(1), batch{size: 10, span: 1, ts: ts, p: entry.NoProducer()})
	}
	p := m.s.TopicByID(topicID(1)).Partition(0)
	for ts, want := range map[int64]int64{-1: 0, 0: 0, 50: 0, 51: 2, 60: 2, 70: 2} {
		if row, ok := p.RowByTimestamp(ts); !ok || row.Base != want {
			t.Errorf("first row at or after %d: %d, %v; want %d", ts, row.Base, ok, want)
		}
	}
	if row, ok := p.RowByTimestamp(71); ok {
		t.Errorf("a row after all: %+v", row)
	}
	if row, ok := p.MaxTimestampRow(); !ok || row.Base != 2 {
		t.Errorf("newest: %+v, %v", row, ok)
	}
	empty := m.s.TopicByID(topicID(1)).Partition(1)
	if _, ok := empty.RowByTimestamp(math.MinInt64); ok {
		t.Error("a row of an empty partition")
	}
	if _, ok := empty.MaxTimestampRow(); ok {
		t.Error("a row of an empty partition")
	}
	if _, ok := empty.RowBefore(math.MaxInt64); ok {
		t.Error("a row of an empty partition")
	}
}

func TestManyRows(t *testing.T) {
	m := joined(t)
	const rows = 1000
	for i := range rows {
		m.produce(topicID(1), batch{size: uint64(100 + i), span: uint64(1 + i%3), ts: start + int64(i), p: entry.NoProducer()})
	}
	p := m.s.TopicByID(topicID(1)).Partition(0)
	all := p.Rows(0, 2*rows, nil)
	if len(all) != rows || p.RowCount() != rows {
		t.Fatalf("%d rows, counted %d", len(all), p.RowCount())
	}
	for i, row := range all {
		if int(row.Size) != 100+i || row.MaxTimestamp != start+int64(i) || int(row.Object.Seq) != i+1 {
			t.Fatalf("row %d: %+v", i, row)
		}
		for offset := row.Base; offset < row.End; offset++ {
			if got := p.Rows(offset, 1, nil); len(got) != 1 || got[0] != row {
				t.Fatalf("offset %d: %+v", offset, got)
			}
		}
		if got, ok := p.RowByTimestamp(start + int64(i)); !ok || got != row {
			t.Fatalf("timestamp %d: %+v", i, got)
		}
		if got, ok := p.RowBefore(row.End); !ok || got != row {
			t.Fatalf("before offset %d: %+v", row.End, got)
		}
		if got, ok := p.RowBefore(row.End - 1); ok != (i > 0) || ok && got != all[i-1] {
			t.Fatalf("before offset %d: %+v", row.End-1, got)
		}
	}
	// Trim to every row in turn.
	for i, row := range all {
		m.accept(1, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: row.End})
		left := p.Rows(0, 2*rows, nil)
		if len(left) != rows-i-1 || p.RowCount() != rows-i-1 || !slices.Equal(left, all[i+1:]) {
			t.Fatalf("after row %d: %d rows left", i, len(left))
		}
	}
	if p.Size() != 0 || len(m.s.Retired()) != rows {
		t.Errorf("size %d, retired %d", p.Size(), len(m.s.Retired()))
	}
}

func TestExpireProducers(t *testing.T) {
	m := joined(t)
	m.produce(topicID(1), sent(5, 0, 0, 1))
	m.clock += 1000
	m.produce(topicID(1), sent(6, 0, 0, 1))
	m.refuse(1, &entry.ExpireProducers{BeforeMs: m.clock + 1}, state.InvalidRequest)
	m.accept(1, &entry.ExpireProducers{BeforeMs: m.clock})
	got := m.s.TopicByID(topicID(1)).Partition(0).Producers(nil)
	if len(got) != 1 || got[0].ID != 6 {
		t.Errorf("left: %+v", got)
	}
	m.codes(m.produce(topicID(1), sent(5, 0, 77, 1)), ok) // goes on in the middle
	m.clock += 1000
	m.accept(1, &entry.Tick{})
	m.accept(1, &entry.ExpireProducers{BeforeMs: m.clock})
	if got := m.s.TopicByID(topicID(1)).Partition(0).Producers(nil); len(got) != 0 {
		t.Errorf("left: %+v", got)
	}
}

func TestProducersPerPartitionAreBounded(t *testing.T) {
	m := joined(t)
	for i := range state.MaxProducersPerPartition {
		if i == 100 {
			m.clock += 1000
		}
		producer := int64(1_000_000 - i)
		m.produce(topicID(1), sent(producer, 0, 0, 1))
	}
	p := m.s.TopicByID(topicID(1)).Partition(0)
	if n := len(p.Producers(nil)); n != state.MaxProducersPerPartition {
		t.Fatalf("%d producers", n)
	}
	m.produce(topicID(1), sent(1_000_000, 0, 1, 1)) // is not idle any more
	m.produce(topicID(1), sent(2_000_000, 0, 0, 1)) // one too many
	left := p.Producers(nil)
	if len(left) != 4001 {
		t.Errorf("%d producers after the eviction", len(left))
	}
	for _, x := range left {
		if x.LastSeenMs != m.clock {
			t.Fatalf("kept %d, seen at %d", x.ID, x.LastSeenMs)
		}
	}
	// 99 went for being idle, and of those of one log time the lowest ids.
	if left[0].ID != 1_000_000-state.MaxProducersPerPartition+1+901 || left[len(left)-1].ID != 2_000_000 || left[len(left)-2].ID != 1_000_000 {
		t.Errorf("from %d to %d", left[0].ID, left[len(left)-1].ID)
	}
}

package state_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// FuzzApply applies any decodable entries to a full state and to a copy of it from a snapshot: no panic, equal hashes,
// and the state stays one that a snapshot can hold. The input is entries with a 16-bit length before each; incarnation
// and seq are set right so that they get to the ops.
func FuzzApply(f *testing.F) {
	m := rewritten(f)
	proposer := id(7)
	for _, group := range []string{"billing", "simple", "audit"} {
		slot, epoch := m.epoch(group)
		m.accept(7, &entry.ClaimSlot{Slot: slot, Epoch: epoch, Owner: proposer})
	}
	snapshot := m.s.AppendSnapshot(nil)
	row := entryRow(m.rows(topicID(3), 0)[0])
	rows, stamped := m.rows(topicID(1), 0), m.rows(topicID(2), 0)
	cleaned := part(0, stamped[:3])
	cleaned.Cleaned = true
	for _, ops := range [][]entry.Op{
		{&entry.Tick{}, &entry.Leave{Incarnation: id(2)}, join("d")},
		{&entry.CreateTopic{Name: "n", ID: topicID(8), Partitions: 2}, &entry.DeleteTopic{ID: topicID(1)}},
		{&entry.CreatePartitions{ID: topicID(1), Total: 5}, &entry.SetFeatureLevel{Level: 2}, &entry.BumpCollectionEpoch{From: 2}},
		{&entry.AlterConfigs{ResourceType: 2, ResourceName: "plain", Changes: []entry.ConfigChange{{Name: "l", Kind: 2, Value: "a,b"}}}},
		{m.append(block(topicID(2), 0, sent(5, 1, 42, 3), sent(5, 1, 42, 3), plain(2)))},
		{&entry.Relocate{Topic: topicID(3), EndOffset: row.EndOffset, Expected: []entry.Row{row}}},
		{&entry.Relocate{Bind: entry.ObjectID{Incarnation: id(1), Seq: 16, CollectionEpoch: 2}, ObjectSize: 3}},
		{&entry.NewLogEpoch{Epoch: 9}, &entry.DeleteRecords{Topic: topicID(3), BeforeOffset: -1}},
		{rewriteTo(m.merged(topicID(1)), part(0, rows[:2], 0, 0), part(0, rows[2:4], 0, 1, 0, 2)), &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: 5}},
		{rewriteTo(rows[0].Object, part(0, rows[1:3], 0, 0)), rewriteTo(m.merged(topicID(2)), cleaned, part(0, stamped[3:], 0, 7))},
		{&entry.Relocate{Topic: topicID(1), EndOffset: rows[0].End, Expected: entryRows(rows[:1])}},
		{&entry.ClaimSlot{Slot: 3, Owner: id(6)}, &entry.ClaimSlot{Slot: 3, Owner: proposer}, m.update("billing", 42, "client-3")},
		{m.commitOf("billing", 41, at(2, 0, 30), at(3, 1, 5)), m.deletion("billing", start, entry.GroupPartition{Topic: topicID(3)}), m.end("simple")},
		{m.commitOf("simple", -1, at(1, 2, 7)), &entry.DeleteTopic{ID: topicID(1)}, m.commitOf("simple", -1, at(1, 2, 7))},
		{&entry.ReserveProducerIDs{Count: 9}, &entry.ExpireProducers{BeforeMs: start}, &entry.DeleteRecords{Topic: topicID(2), BeforeOffset: -1}},
	} {
		e := &entry.Entry{Incarnation: proposer, Seq: 1, ClockMs: start, Ops: ops}
		b := e.AppendTo(nil)
		f.Add(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		one, err := state.Load(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		two, err := state.Load(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		var d entry.Decoder
		var r1, r2 state.Results
		seq := m.seqs[proposer]
		for len(input) > 2 {
			n := min(int(binary.BigEndian.Uint16(input)), len(input)-2)
			value := input[2 : 2+n]
			input = input[2+n:]
			e, err := d.Decode(value)
			if err != nil {
				continue
			}
			if tooManyPartitions(e) {
				continue // allowed, but slow
			}
			seq++
			e.Incarnation, e.Seq = proposer, seq
			err1 := one.Apply(one.N()+1, value, e, &r1)
			err2 := two.Apply(two.N()+1, value, e, &r2)
			if err1 != nil || err2 != nil {
				if (err1 == nil) != (err2 == nil) {
					t.Fatalf("one stops, the other does not: %v, %v", err1, err2)
				}
				break
			}
			if one.ChainHash() != two.ChainHash() {
				t.Fatal("hashes differ")
			}
			if r1.EntryCode == state.OK && len(r1.Ops) != len(e.Ops) {
				t.Fatalf("%d results for %d ops", len(r1.Ops), len(e.Ops))
			}
			seq = one.LastSeqs()[proposer]
		}
		b := one.AppendSnapshot(nil)
		loaded, err := state.Load(b)
		if err != nil {
			t.Fatalf("snapshot does not load: %v", err)
		}
		if !bytes.Equal(loaded.AppendSnapshot(nil), b) {
			t.Fatal("snapshot is not stable")
		}
		readAll(loaded)
	})
}

func tooManyPartitions(e *entry.Entry) bool {
	for _, op := range e.Ops {
		switch op := op.(type) {
		case *entry.CreateTopic:
			if op.Partitions > 1000 {
				return true
			}
		case *entry.CreatePartitions:
			if op.Total > 1000 {
				return true
			}
		}
	}
	return false
}

// readAll calls what readers call: none of it may panic.
func readAll(s *state.State) {
	s.Agents()
	s.Retired()
	s.MemoryBytes()
	for g := range s.Groups() {
		for id := range g.Members() {
			g.Member(id)
		}
		for o := range g.Offsets() {
			g.Offset(o.Topic, o.Partition)
		}
	}
	for topic := range s.Topics() {
		for i := range topic.Partitions() {
			p := topic.Partition(i)
			p.Producers(nil)
			for _, row := range p.Rows(math.MinInt64, math.MaxInt, nil) {
				p.Rows(row.Base, 1, nil)
				p.RowByTimestamp(row.MaxTimestamp)
			}
			p.MaxTimestampRow()
		}
	}
}

// loadBytes is how many bytes Load may allocate for each of the snapshot: a partition takes five bytes there at least, and one
// with a row and a producer about forty times that in memory.
const loadBytes = 64

// FuzzLoad: any bytes behind a right checksum are refused or are the snapshot of what they load to.
func FuzzLoad(f *testing.F) {
	b := full(f).s.AppendSnapshot(nil)
	f.Add(b[:len(b)-4])
	b = grouped(f).s.AppendSnapshot(nil)
	f.Add(b[:len(b)-4])
	b = rewritten(f).s.AppendSnapshot(nil)
	f.Add(b[:len(b)-4])
	b = state.New(identity).AppendSnapshot(nil)
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := sealed(body)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = state.Load(b)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(1<<20+loadBytes*len(b)) {
			t.Fatalf("allocated %d bytes for a snapshot of %d", got, len(b))
		}
		if s := loadSealed(t, body); s != nil {
			readAll(s)
		}
	})
}

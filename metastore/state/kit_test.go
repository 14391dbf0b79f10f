package state_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// start is the clock of tests, Unix milliseconds.
const start = int64(1_700_000_000_000)

var identity = state.Identity{ID: [16]byte{0xf1}, Epoch: 3, Base: 100}

func id(b byte) [16]byte { return [16]byte{b, 0xee} }

func topicID(b byte) entry.UUID { return entry.UUID{b, 0x70} }

// machine is a state with what an agent has around it: each entry goes through its bytes, as in production.
type machine struct {
	t     testing.TB
	s     *state.State
	d     entry.Decoder
	r     state.Results
	seqs  map[[16]byte]uint64
	clock int64
	seen  int // objects made
}

func newMachine(t testing.TB) *machine {
	return &machine{t: t, s: state.New(identity), seqs: make(map[[16]byte]uint64), clock: start}
}

// joined is a machine with agent 1 ("a") joined and topics "plain" (id 1, 3 partitions) and "stamped" (id 2, LogAppendTime).
func joined(t testing.TB) *machine { return joinedAs(t, join("a")) }

func joinedAs(t testing.TB, ops ...entry.Op) *machine {
	m := newMachine(t)
	m.accept(1, ops...)
	m.accept(1, &entry.CreateTopic{Name: "plain", ID: topicID(1), Partitions: 3})
	m.accept(1, &entry.CreateTopic{
		Name: "stamped", ID: topicID(2), Partitions: 1, Configs: []entry.Config{{Name: "message.timestamp.type", Value: "LogAppendTime"}},
	})
	return m
}

func join(name string) *entry.Join { return &entry.Join{Name: name, MaxFeatureLevel: 1} }

// apply commits ops by an agent with its next seq.
func (m *machine) apply(agent byte, ops ...entry.Op) *state.Results {
	m.t.Helper()
	m.seqs[id(agent)]++
	return m.applyEntry(&entry.Entry{Incarnation: id(agent), Seq: m.seqs[id(agent)], ClockMs: m.clock, Ops: ops})
}

func (m *machine) applyEntry(e *entry.Entry) *state.Results {
	m.t.Helper()
	value := e.AppendTo(nil)
	decoded, err := m.d.Decode(value)
	if err != nil {
		m.t.Fatalf("entry of the test does not decode: %v", err)
	}
	if err := m.s.Apply(m.s.N()+1, value, decoded, &m.r); err != nil {
		m.t.Fatalf("apply %d: %v", m.s.N()+1, err)
	}
	return &m.r
}

// accept applies ops that must all be accepted.
func (m *machine) accept(agent byte, ops ...entry.Op) *state.Results {
	m.t.Helper()
	r := m.apply(agent, ops...)
	if r.EntryCode != state.OK {
		m.t.Fatalf("entry: %v", r.EntryCode)
	}
	for i := range r.Ops {
		if r.Ops[i].Code != state.OK {
			m.t.Fatalf("op %d (%T): %v", i, ops[i], r.Ops[i].Code)
		}
	}
	return r
}

// refuse applies one op that must be refused with this code and change nothing.
func (m *machine) refuse(agent byte, op entry.Op, want state.Code) {
	m.t.Helper()
	before := m.content(agent)
	r := m.apply(agent, op)
	if r.EntryCode != state.OK || r.Ops[0].Code != want {
		m.t.Errorf("%T: entry %v, op %v; want op %v", op, r.EntryCode, r.Ops[0].Code, want)
	}
	if len(r.Changed) > 0 || r.TopicsChanged || r.AgentsChanged || r.SlotsChanged || len(r.Groups) > 0 {
		m.t.Errorf("%T: refused, but reports changes", op)
	}
	if !bytes.Equal(before, withoutHash(m.t, m.s.AppendSnapshot(nil))) {
		m.t.Errorf("%T: refused, but changed the state", op)
	}
}

// content is the snapshot that the state would have after an entry of this agent that does nothing, but for hashes.
func (m *machine) content(agent byte) []byte {
	m.t.Helper()
	copied, err := state.Load(m.s.AppendSnapshot(nil))
	if err != nil {
		m.t.Fatal(err)
	}
	e := &entry.Entry{Format: 1, Incarnation: id(agent), Seq: m.seqs[id(agent)] + 1, ClockMs: m.clock}
	if err := copied.Apply(copied.N()+1, nil, e, nil); err != nil {
		m.t.Fatal(err)
	}
	return withoutHash(m.t, copied.AppendSnapshot(nil))
}

// withoutHash cuts the chain hash and the checksum out of a snapshot.
func withoutHash(t testing.TB, b []byte) []byte {
	t.Helper()
	at := len("FIRNSNAP") + 1 + 16
	for range 3 { // epoch, base, n
		_, n := binary.Uvarint(b[at:])
		at += n
	}
	return slices.Concat(b[:at], b[at+32:len(b)-4])
}

// batch is one batch of a test's append.
type batch struct {
	size, span uint64
	ts         int64
	p          entry.Producer
}

func plain(span uint64) batch { return batch{size: 100, span: span, ts: start, p: entry.NoProducer()} }

func sent(producer int64, epoch int16, seq int32, span uint64) batch {
	return batch{size: 100, span: span, ts: start, p: entry.Producer{ID: producer, Epoch: epoch, BaseSequence: seq}}
}

func block(topic entry.UUID, partition uint32, batches ...batch) entry.Block {
	b := entry.Block{Topic: topic, Partition: partition}
	for _, x := range batches {
		b.AddBatch(x.size, x.span, x.ts, x.p)
	}
	return b
}

// object makes the id of a new object in the current collection epoch.
func (m *machine) object() entry.ObjectID {
	m.seen++
	return entry.ObjectID{Incarnation: id(1), Seq: uint64(m.seen), CollectionEpoch: m.s.CollectionEpoch()}
}

func (m *machine) append(blocks ...entry.Block) *entry.Append {
	for i := range blocks {
		blocks[i].Index = uint32(i)
	}
	return &entry.Append{Object: m.object(), ObjectSize: 1000, Blocks: blocks}
}

// produce appends batches to partition 0 of a topic and returns their results.
func (m *machine) produce(topic entry.UUID, batches ...batch) []state.BatchResult {
	m.t.Helper()
	return m.accept(1, m.append(block(topic, 0, batches...))).Ops[0].Batches
}

func (m *machine) rows(topic entry.UUID, partition int) []state.Row {
	return m.s.TopicByID(topic).Partition(partition).Rows(0, 1<<20, nil)
}

func codesOf(batches []state.BatchResult) []state.Code {
	codes := make([]state.Code, len(batches))
	for i := range batches {
		codes[i] = batches[i].Code
	}
	return codes
}

func (m *machine) codes(got []state.BatchResult, want ...state.Code) {
	m.t.Helper()
	if !slices.Equal(codesOf(got), want) {
		m.t.Errorf("batches: %v, want %v", codesOf(got), want)
	}
}

// entryRow is a row as a Relocate expects it.
func entryRow(r state.Row) entry.Row {
	return entry.Row{
		Object: r.Object, ObjectSize: uint64(r.ObjectSize), Block: r.Block, BaseOffset: r.Base, EndOffset: r.End,
		MaxTimestamp: r.MaxTimestamp, LogAppendTime: r.LogAppendTime, Position: uint64(r.Position), Size: uint64(r.Size), Cleaned: r.Cleaned,
	}
}

func entryRows(rows []state.Row) []entry.Row {
	list := make([]entry.Row, len(rows))
	for i := range rows {
		list[i] = entryRow(rows[i])
	}
	return list
}

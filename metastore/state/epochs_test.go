package state_test

import (
	"math"
	"slices"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// epochs starts a cluster in its first log epoch and carries it through three more, the third of which gave no offset.
func epochs(t *testing.T) *machine {
	m := newMachine(t)
	m.s = state.New(state.Identity{ID: identity.ID, Epoch: 1})
	m.accept(1, join("a"))
	m.accept(1, &entry.CreateTopic{Name: "t", ID: topicID(1), Partitions: 2})
	m.produce(topicID(1), plain(10))
	m.accept(2, join("b"), &entry.NewLogEpoch{Epoch: 2})
	m.accept(2, m.append(block(topicID(1), 0, plain(5))))
	m.accept(3, join("c"), &entry.NewLogEpoch{Epoch: 4})
	m.accept(4, join("d"), &entry.NewLogEpoch{Epoch: 6})
	m.accept(4, m.append(block(topicID(1), 0, plain(5))))
	return m
}

func TestEpochEnd(t *testing.T) {
	m := epochs(t)
	topic := m.s.TopicByID(topicID(1))
	if want := []state.EpochStart{{Epoch: 0, Start: 0}, {Epoch: 1, Start: 10}, {Epoch: 5, Start: 15}}; !slices.Equal(topic.Partition(0).Epochs(nil), want) {
		t.Fatalf("epochs %+v, want %+v", topic.Partition(0).Epochs(nil), want)
	}
	if want := []state.EpochStart{{Epoch: 5}}; !slices.Equal(topic.Partition(1).Epochs(nil), want) {
		t.Fatalf("epochs of an empty partition %+v, want %+v", topic.Partition(1).Epochs(nil), want)
	}
	check := func(part int, asked, of int32, end int64) {
		t.Helper()
		if gotOf, gotEnd := topic.Partition(part).EpochEnd(asked); gotOf != of || gotEnd != end {
			t.Errorf("partition %d, epoch %d: ends at %d of epoch %d, want %d of %d", part, asked, gotEnd, gotOf, end, of)
		}
	}
	check(0, -1, -1, -1)
	check(0, 0, 0, 10)
	check(0, 1, 1, 15)
	for between := int32(2); between < 5; between++ { // epochs without an offset end where the one before does
		check(0, between, 1, 15)
	}
	check(0, 5, 5, 20)
	check(0, 6, -1, -1)
	check(0, math.MaxInt32, -1, -1)
	check(1, 0, 0, 0) // older than all that are known
	check(1, 5, 5, 0)

	m.accept(4, &entry.DeleteRecords{Topic: topicID(1), BeforeOffset: 15})
	check(0, 0, 0, 15)
	check(0, 1, 1, 15)
	check(0, 5, 5, 20)
	if got := topic.Partition(0).EpochAt(15); got != 5 {
		t.Errorf("epoch of the log start %d", got)
	}
}

// TestNewLogEpoch: agents of the old log are gone, their clocks hold nothing back, and producer ids start anew above all
// that were handed out.
func TestNewLogEpoch(t *testing.T) {
	m := joined(t)
	m.accept(2, join("b"))
	before := m.accept(1, &entry.ReserveProducerIDs{Count: 100}).Ops[0].FirstProducerID
	m.clock += 1000 * 3600 * 1000
	base := m.s.N()
	r := m.accept(3, join("firn restore"), &entry.NewLogEpoch{Epoch: 4})
	if !r.TopicsChanged || !r.AgentsChanged {
		t.Error("nobody is told")
	}
	if got, want := m.s.Identity(), (state.Identity{ID: identity.ID, Epoch: 4, Base: base}); got != want {
		t.Errorf("identity %+v, want %+v", got, want)
	}
	if agents := m.s.Agents(); len(agents) != 1 || agents[0].Incarnation != id(3) {
		t.Errorf("agents %+v", agents)
	}
	if r := m.apply(1, &entry.Tick{}); r.EntryCode != state.NotJoined {
		t.Errorf("an agent of the old log: %v", r.EntryCode)
	}
	m.accept(3, &entry.Tick{})
	if m.s.LogTime() != m.clock {
		t.Errorf("log time %d, the only clock says %d", m.s.LogTime(), m.clock)
	}
	after := m.accept(3, &entry.ReserveProducerIDs{Count: 1}).Ops[0].FirstProducerID
	if after < before+100 {
		t.Errorf("producer id %d after %d", after, before)
	}
	m.refuse(3, &entry.NewLogEpoch{Epoch: 4}, state.InvalidRequest)
	m.refuse(3, &entry.NewLogEpoch{Epoch: 1 << 23}, state.LimitExceeded)
	m.accept(3, &entry.NewLogEpoch{Epoch: 1<<23 - 1})
	if got := m.s.TopicByID(topicID(1)).Partition(0).LeaderEpoch(); got != 1<<23-2 {
		t.Errorf("leader epoch %d", got)
	}
	if first := m.accept(3, &entry.ReserveProducerIDs{Count: 1}).Ops[0].FirstProducerID; first <= after {
		t.Errorf("producer id %d after %d", first, after)
	}
}

package state_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files that do not exist yet")

// Golden snapshots: of full, in the version without leader epochs; of restored, below the level of groups; of grouped, below that of
// merged objects; and of rewritten.
const (
	goldenWithoutEpochs = "testdata/snapshot.v1"
	goldenWithoutGroups = "testdata/snapshot.v2"
	goldenWithoutMerged = "testdata/snapshot.v3"
	goldenSnapshot      = "testdata/snapshot.v4"
)

// full is a state with something in every part of a snapshot.
func full(t testing.TB) *machine {
	m := joined(t)
	m.apply(2, &entry.Join{
		Name: "b", Zone: "eu-1b", Version: "v9", MaxFeatureLevel: 1,
		Listeners: []entry.Listener{{Name: "plain", Host: "10.0.0.2", Port: 9092}, {Name: "tls", Host: "b.example", Port: 9093}},
	})
	m.accept(3, join("c"))
	m.accept(1, &entry.Leave{Incarnation: id(3)}, &entry.ReserveProducerIDs{Count: 300}, &entry.BumpCollectionEpoch{From: 1})
	m.accept(1, &entry.AlterConfigs{ResourceType: entry.ResourceBroker, Changes: []entry.ConfigChange{{Name: "log.retention.ms", Value: "1"}}})
	m.accept(1, &entry.CreateTopic{
		Name: "x.y", ID: topicID(3), Partitions: 2, ReplicationFactor: 3, Configs: []entry.Config{{Name: "k", Value: "v"}},
		Assignment: []entry.Replicas{{Nodes: []int32{1, 2}}, {}},
	})
	m.clock += 1234
	for i := range int32(7) {
		m.produce(topicID(2), sent(5, 1, i*3, 3), sent(1<<40, 0, i, 1))
		m.produce(topicID(3), plain(2), sent(5, 0, 99, 1), plain(3)) // dead bytes
		m.clock += 10
	}
	rows := m.rows(topicID(3), 0)
	m.accept(1, &entry.Relocate{
		Topic: topicID(3), StartOffset: rows[1].Base, EndOffset: rows[3].End, Expected: entryRows(rows[1:4]),
		Rows: []entry.Row{{Object: m.object(), ObjectSize: 5, BaseOffset: rows[1].Base + 1, EndOffset: rows[3].End, Size: 7}},
	})
	m.accept(1, &entry.Relocate{
		Topic: topicID(3), StartOffset: rows[4].Base, EndOffset: rows[4].End, Expected: entryRows(rows[4:5]),
	})
	m.accept(1, &entry.DeleteRecords{Topic: topicID(2), BeforeOffset: 6})
	pending := m.append(block(topicID(3), 1, plain(4)), block(topicID(1), 1, plain(4)))
	pending.Location = entry.InWAL
	m.accept(2, pending)
	return m
}

// restored is full, carried into another log epoch and written to there.
func restored(t testing.TB) *machine {
	m := full(t)
	m.accept(4, join("d"), &entry.NewLogEpoch{Epoch: 5})
	m.accept(4, &entry.ReserveProducerIDs{Count: 7})
	m.accept(4, m.append(block(topicID(2), 0, sent(5, 1, 21, 3))), m.append(block(topicID(3), 0, plain(2))))
	m.accept(4, &entry.CreateTopic{Name: "young", ID: topicID(4), Partitions: 1})
	return m
}

// grouped is restored at the level of groups, with some.
func grouped(t testing.TB) *machine {
	m := restored(t)
	m.accept(5, newer("d"), &entry.SetFeatureLevel{Level: 2})
	m.accept(6, newer("e"))
	for _, group := range []string{"billing", "simple", "audit", "gone"} {
		m.accept(5, &entry.ClaimSlot{Slot: uint32(state.SlotOf(group)), Owner: id(5)})
	}
	m.clock += 5000
	part := m.update("billing", 41, "client-1", "client-2")
	part.Kind, part.Complete = entry.GroupConsumer, false
	m.accept(5, part, m.update("gone", 1), m.update("audit", 3, "m"))
	m.accept(5, m.commitOf("billing", 41, at(2, 0, 20), at(3, 1, 4), entry.GroupOffset{
		Topic: topicID(3), Offset: 30, LeaderEpoch: 4, Metadata: "where", ExpireMs: start + 99_000,
	}))
	m.clock += 250
	m.accept(5, m.commitOf("simple", -1, entry.GroupOffset{Topic: topicID(1), Partition: 2, Offset: 1 << 40, LeaderEpoch: -1, ExpireMs: -1}))
	m.accept(5, m.end("gone"))
	slot, epoch := m.epoch("audit")
	m.accept(5, &entry.ClaimSlot{Slot: slot, Epoch: epoch, Owner: id(6)})
	return m
}

// rewritten is grouped at the level of merged objects, with some: live, retired, of a topic that is gone, and shared.
func rewritten(t testing.TB) *machine {
	m := grouped(t)
	m.accept(7, newest("d"))
	m.accept(8, newest("e"))
	m.accept(7, &entry.SetFeatureLevel{Level: 3})
	for i := range int32(6) { // these have an age
		m.clock += 7
		m.accept(8, m.append(block(topicID(1), 0, plain(2)), block(topicID(4), 0, plain(1)), block(topicID(2), 0, sent(5, 1, 24+i*3, 3))))
	}
	one := m.merged(topicID(1))
	rows := m.rows(topicID(1), 0)
	m.accept(7, rewriteTo(one, part(0, rows[:2], 0, 1), part(0, rows[3:5], 0, 2)))
	stamped := m.rows(topicID(2), 0)
	cleaned := part(0, stamped[:4])
	cleaned.Cleaned = true
	m.accept(8, rewriteTo(m.merged(topicID(2)), cleaned, part(0, stamped[4:6], 0, 0)))
	stamped = m.rows(topicID(2), 0)
	two := part(0, stamped[:2], 0, 5, 1, 6)
	two.Cleaned = true
	both := rewriteTo(m.merged(topicID(2)), two)
	both.Objects = append(both.Objects, entry.RewrittenObject{ID: m.merged(topicID(2)), Size: 70})
	m.accept(7, both) // retires the one before
	m.accept(7, rewriteTo(m.merged(topicID(4)), part(0, m.rows(topicID(4), 0), 0, 0)))
	m.accept(7, &entry.DeleteTopic{ID: topicID(4)})
	pending := m.append(block(topicID(1), 0, plain(4)))
	pending.Location = entry.InWAL
	m.accept(8, pending)
	return m
}

// TestGoldenSnapshot: every release loads what the first one wrote, and writes it the same way.
func TestGoldenSnapshot(t *testing.T) {
	for path, m := range map[string]*machine{goldenWithoutGroups: restored(t), goldenWithoutMerged: grouped(t), goldenSnapshot: rewritten(t)} {
		t.Run(filepath.Base(path), func(t *testing.T) { testGoldenSnapshot(t, path, m) })
	}
}

func testGoldenSnapshot(t *testing.T, path string, m *machine) {
	got := m.s.AppendSnapshot([]byte("prefix"))[len("prefix"):]
	want, err := os.ReadFile(path)
	if os.IsNotExist(err) && *rewrite {
		want = got
		err = os.WriteFile(path, got, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the same entries make another snapshot than the golden one: the state machine or the format changed")
	}
	s, err := state.Load(want)
	if err != nil {
		t.Fatal(err)
	}
	if s.ChainHash() != m.s.ChainHash() || s.N() != m.s.N() || s.Identity() != m.s.Identity() {
		t.Error("another state")
	}
	if !bytes.Equal(s.AppendSnapshot(nil), want) {
		t.Error("what was loaded makes another snapshot")
	}
}

// TestGoldenSnapshotWithoutEpochs: a snapshot of version 1 is the same state, written anew in today's version.
func TestGoldenSnapshotWithoutEpochs(t *testing.T) {
	m := full(t)
	b, err := os.ReadFile(goldenWithoutEpochs)
	if err != nil {
		t.Fatal(err)
	}
	s, err := state.Load(b)
	if err != nil {
		t.Fatal(err)
	}
	if s.ChainHash() != m.s.ChainHash() || s.N() != m.s.N() || s.Identity() != identity {
		t.Error("another state")
	}
	if !bytes.Equal(s.AppendSnapshot(nil), m.s.AppendSnapshot(nil)) {
		t.Error("what was loaded makes another snapshot than the entries do")
	}
}

func TestLoadRefuses(t *testing.T) {
	b := rewritten(t).s.AppendSnapshot(nil)
	for i := range b { // any cut, any flipped bit
		if _, err := state.Load(b[:i]); !errors.Is(err, state.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
		flipped := bytes.Clone(b)
		flipped[i] ^= 1 << (i % 8)
		if _, err := state.Load(flipped); !errors.Is(err, state.ErrCorrupt) && !errors.Is(err, state.ErrVersion) {
			t.Fatalf("flipped at %d: %v", i, err)
		}
	}
	newer := bytes.Clone(b)
	newer[len("FIRNSNAP")]++
	if _, err := state.Load(newer); !errors.Is(err, state.ErrVersion) {
		t.Errorf("a newer version: %v", err)
	}
	if _, err := state.Load(append(bytes.Clone(b), 0)); !errors.Is(err, state.ErrCorrupt) {
		t.Errorf("a byte more: %v", err)
	}
}

// sealed puts the right checksum behind a body, so that a test or fuzzer gets past it.
func sealed(body []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

// TestLoadRefusesSealed: with the checksum right, a changed byte is refused or makes a state with that very snapshot.
func TestLoadRefusesSealed(t *testing.T) {
	b := rewritten(t).s.AppendSnapshot(nil)
	body := b[:len(b)-4]
	for i := range body {
		for _, change := range []byte{1, 0x80, 0xff} {
			changed := bytes.Clone(body)
			changed[i] ^= change
			loadSealed(t, changed)
		}
		loadSealed(t, append(bytes.Clone(body[:i]), body[i+1:]...))
		loadSealed(t, body[:i])
	}
}

func loadSealed(t *testing.T, body []byte) *state.State {
	t.Helper()
	b := sealed(body)
	s, err := state.Load(b)
	if err != nil {
		if !errors.Is(err, state.ErrCorrupt) && !errors.Is(err, state.ErrVersion) && !errors.Is(err, state.ErrFeatureLevel) {
			t.Fatalf("an error of no kind: %v", err)
		}
		return nil
	}
	written := s.AppendSnapshot(nil)
	if again, err := state.Load(written); err != nil || !bytes.Equal(again.AppendSnapshot(nil), written) {
		t.Fatalf("writes what it does not load: %x: %v", b, err)
	}
	if b[len("FIRNSNAP")] == written[len("FIRNSNAP")] && !bytes.Equal(written, b) {
		t.Fatalf("loads what it would not write: %x", b)
	}
	return s
}

package state_test

import (
	"errors"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// TestImports holds the first rule of the package: nothing that could tell two agents apart.
func TestImports(t *testing.T) {
	allowed := []string{
		"cmp", "crypto/sha256", "encoding/binary", "errors", "fmt", "hash", "hash/crc32", "iter", "math", "math/bits", "slices", "sort",
		"strings", "unsafe", "github.com/firnlog/firn/metastore/entry",
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

func TestCodesHaveNames(t *testing.T) {
	seen := make(map[string]bool)
	for c := state.OK; c <= state.GroupNotEmpty; c++ {
		if name := c.String(); name == "" || seen[name] || strings.HasPrefix(name, "code ") {
			t.Errorf("code %d is named %q", uint8(c), name)
		} else {
			seen[name] = true
		}
	}
	if got := state.Code(200).String(); got != "code 200" {
		t.Error(got)
	}
}

func TestGapStops(t *testing.T) {
	m := joined(t)
	before := m.s.AppendSnapshot(nil)
	e := &entry.Entry{Format: 1, Incarnation: id(1), Seq: m.seqs[id(1)] + 1, ClockMs: start}
	for _, n := range []uint64{0, m.s.N() - 1, m.s.N(), m.s.N() + 2} {
		if err := m.s.Apply(n, nil, e, nil); !errors.Is(err, state.ErrGap) {
			t.Errorf("apply %d after %d: %v", n, m.s.N(), err)
		}
	}
	if string(before) != string(m.s.AppendSnapshot(nil)) {
		t.Error("the state changed")
	}
}

func TestFeatureLevelStops(t *testing.T) {
	m := joined(t)
	before := m.s.AppendSnapshot(nil)
	e := &entry.Entry{Format: 1, FeatureLevel: state.MaxFeatureLevel + 1, Incarnation: id(1), Seq: m.seqs[id(1)] + 1, ClockMs: start}
	if err := m.s.Apply(m.s.N()+1, nil, e, nil); !errors.Is(err, state.ErrFeatureLevel) {
		t.Errorf("entry above this build: %v", err)
	}
	if string(before) != string(m.s.AppendSnapshot(nil)) {
		t.Error("the state changed")
	}
}

// TestFeatureLevelAboveThisBuild: a replica that is not an agent may meet a level that all agents know and it does not.
func TestFeatureLevelAboveThisBuild(t *testing.T) {
	m := newMachine(t)
	m.accept(1, &entry.Join{Name: "new", MaxFeatureLevel: state.MaxFeatureLevel + 1})
	m.accept(1, &entry.SetFeatureLevel{Level: state.MaxFeatureLevel + 1})
	n := m.s.N()
	e := &entry.Entry{Format: 1, Incarnation: id(1), Seq: 3, ClockMs: start}
	if err := m.s.Apply(n+1, nil, e, nil); !errors.Is(err, state.ErrFeatureLevel) {
		t.Errorf("apply after the level went up: %v", err)
	}
	if m.s.N() != n {
		t.Error("applied")
	}
	if _, err := state.Load(m.s.AppendSnapshot(nil)); !errors.Is(err, state.ErrFeatureLevel) {
		t.Errorf("load: %v", err)
	}
}

func TestSetFeatureLevel(t *testing.T) {
	m := joined(t)
	m.refuse(1, &entry.SetFeatureLevel{Level: 0}, state.InvalidRequest)
	m.refuse(1, &entry.SetFeatureLevel{Level: 1}, state.InvalidRequest)
	m.refuse(1, &entry.SetFeatureLevel{Level: 2}, state.FeatureLevelUnsupported)
	if m.s.FeatureLevel() != 1 {
		t.Error(m.s.FeatureLevel())
	}
}

func TestEntriesInSequenceOnly(t *testing.T) {
	m := joined(t)
	for name, c := range map[string]struct {
		agent byte
		seq   uint64
		op    entry.Op
		want  state.Code
	}{
		"repeated":             {1, m.seqs[id(1)], &entry.BumpCollectionEpoch{From: 1}, state.SeqRepeated},
		"long ago":             {1, 1, join("a"), state.SeqRepeated},
		"gap":                  {1, m.seqs[id(1)] + 2, &entry.BumpCollectionEpoch{From: 1}, state.SeqGap},
		"never joined":         {2, 1, &entry.BumpCollectionEpoch{From: 1}, state.NotJoined},
		"never joined, later":  {2, 7, &entry.BumpCollectionEpoch{From: 1}, state.NotJoined},
		"joins at another seq": {2, 2, join("b"), state.NotJoined},
		"joins without a name": {2, 1, join(""), state.InvalidRequest},
		"joins below level":    {2, 1, &entry.Join{Name: "b"}, state.FeatureLevelUnsupported},
	} {
		before := m.s.AppendSnapshot(nil)
		r := m.applyEntry(&entry.Entry{Incarnation: id(c.agent), Seq: c.seq, ClockMs: start + 5000, Ops: []entry.Op{c.op}})
		if r.EntryCode != c.want || len(r.Ops) != 0 || r.AgentsChanged {
			t.Errorf("%s: %v with %d op results, want %v and none", name, r.EntryCode, len(r.Ops), c.want)
		}
		after := m.s.AppendSnapshot(nil)
		// n is in the header: one byte of it differs
		if a, b := withoutHash(t, before), withoutHash(t, after); len(a) != len(b) || differing(a, b) != 1 {
			t.Errorf("%s: changed more than n and the hash", name)
		}
	}
	if m.s.CollectionEpoch() != 1 || m.s.LogTime() != start {
		t.Error("an entry that was not taken had an effect")
	}
}

func differing(a, b []byte) (n int) {
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

func TestNodeIDsFollowNames(t *testing.T) {
	m := newMachine(t)
	nodes := func() (list []int32) {
		for _, a := range m.s.Agents() {
			list = append(list, a.NodeID)
		}
		return list
	}
	if r := m.accept(1, join("a")); r.Ops[0].NodeID != 1 || !r.AgentsChanged {
		t.Errorf("first agent: %+v", r.Ops[0])
	}
	m.accept(2, join("b"))
	m.accept(3, join("c"))
	m.accept(1, &entry.Leave{Incarnation: id(2)})
	if got := nodes(); !slices.Equal(got, []int32{1, 3}) {
		t.Errorf("nodes %v", got)
	}
	if r := m.accept(4, join("d")); r.Ops[0].NodeID != 4 {
		t.Errorf("a new name took node %d, which a name away holds", r.Ops[0].NodeID)
	}
	if r := m.accept(5, join("b")); r.Ops[0].NodeID != 2 {
		t.Errorf("b came back as node %d", r.Ops[0].NodeID)
	}
	// A second process with the name of a joined one takes its place.
	if r := m.accept(6, join("a")); r.Ops[0].NodeID != 1 {
		t.Errorf("a restarted as node %d", r.Ops[0].NodeID)
	}
	if got := m.apply(1, &entry.Tick{}).EntryCode; got != state.NotJoined {
		t.Errorf("the replaced incarnation: %v", got)
	}
	if got := nodes(); !slices.Equal(got, []int32{1, 2, 3, 4}) {
		t.Errorf("nodes %v", got)
	}
	if seqs := m.s.LastSeqs(); seqs[id(1)] != 2 || seqs[id(6)] != 1 || len(seqs) != 6 {
		t.Errorf("last seqs %v", seqs)
	}
	m.refuse(6, join("a"), state.AlreadyJoined)
	m.refuse(6, &entry.Leave{Incarnation: id(1)}, state.NotJoined)
}

func TestLateDuplicateJoinIsRefused(t *testing.T) {
	m := newMachine(t)
	m.accept(1, join("a"))
	m.accept(2, join("b"))
	m.accept(2, &entry.Leave{Incarnation: id(2)})
	e := &entry.Entry{Incarnation: id(2), Seq: 1, ClockMs: start, Ops: []entry.Op{join("b")}}
	if got := m.applyEntry(e).EntryCode; got != state.NotJoined {
		t.Errorf("after it left: %v", got)
	}
	var err error
	if m.s, err = state.Load(m.s.AppendSnapshot(nil)); err != nil {
		t.Fatal(err)
	}
	if got := m.applyEntry(e).EntryCode; got != state.NotJoined {
		t.Errorf("after a restart from a snapshot: %v", got)
	}
}

func TestOpsAfterOwnLeave(t *testing.T) {
	m := joined(t)
	r := m.apply(1, &entry.Leave{Incarnation: id(1)}, &entry.BumpCollectionEpoch{From: 1})
	if r.Ops[0].Code != state.OK || r.Ops[1].Code != state.NotJoined || m.s.CollectionEpoch() != 1 {
		t.Errorf("%+v", r.Ops)
	}
}

func TestNamesAwayAreBounded(t *testing.T) {
	m := newMachine(t)
	m.accept(1, join("keeper"))
	var inc [16]byte
	for i := range state.MaxDepartedNames + 10 {
		inc = [16]byte{9, byte(i >> 8), byte(i)}
		m.applyEntry(&entry.Entry{
			Incarnation: inc, Seq: 1, ClockMs: start, Ops: []entry.Op{join("pod-" + strconv.Itoa(i)), &entry.Leave{Incarnation: inc}},
		})
	}
	// The ten oldest names lost their ids, 2 to 11; the first nine were taken again by the names that came after.
	if r := m.accept(2, join("fresh")); r.Ops[0].NodeID != 11 {
		t.Errorf("node %d", r.Ops[0].NodeID)
	}
	if r := m.accept(3, join("pod-4000")); r.Ops[0].NodeID != 4002 {
		t.Errorf("a name that is remembered: node %d", r.Ops[0].NodeID)
	}
	if _, err := state.Load(m.s.AppendSnapshot(nil)); err != nil {
		t.Error(err)
	}
}

func TestLogTime(t *testing.T) {
	m := newMachine(t)
	tick := func(agent byte, clock, want int64) {
		t.Helper()
		m.clock = start + clock
		m.accept(agent, &entry.Tick{})
		if got := m.s.LogTime() - start; got != want {
			t.Errorf("agent %d at %d: log time %d, want %d", agent, clock, got, want)
		}
	}
	m.accept(1, join("a"))
	tick(1, 100, 100)
	m.accept(2, join("b"))
	m.accept(3, join("c"))
	tick(2, 90, 100) // never backwards
	tick(3, 1_000_000, 10_100)
	tick(2, 20_000, 20_000)     // median 20 000
	tick(1, -5_000_000, 20_000) // slow: held up by the median, and back is never
	tick(3, 1_000_001, 30_000)  // median 20 000 again
	tick(2, 500_000, 500_000)   // median 500 000
	tick(3, 900_000, 510_000)   // 500 000 + 10 000
	tick(2, 510_001, 510_001)   //
	m.clock = start + 2_000_000 // d comes and moves the median of four, the lower middle: 510 001
	m.accept(4, join("d"))      //
	if got := m.s.LogTime() - start; got != 520_001 {
		t.Errorf("at the join: %d", got)
	}
	m.accept(4, &entry.Leave{Incarnation: id(3)}) // its own clock counts: 2 000 000, with 510 001 the median of three... of four
	if got := m.s.LogTime() - start; got != 520_001 {
		t.Errorf("at the leave: %d", got)
	}
}

func TestCollectionEpoch(t *testing.T) {
	m := joined(t)
	m.refuse(1, &entry.BumpCollectionEpoch{From: 0}, state.ConditionFailed)
	m.refuse(1, &entry.BumpCollectionEpoch{From: 2}, state.ConditionFailed)
	old := m.object()
	r := m.accept(1, &entry.BumpCollectionEpoch{From: 1})
	_ = r
	a := m.append(block(topicID(1), 0, plain(1)))
	a.Object = old
	m.codes(m.accept(1, a).Ops[0].Batches, state.OK)
	m.accept(1, &entry.BumpCollectionEpoch{From: 2})
	m.refuse(1, a, state.StaleCollectionEpoch)
	m.codes(m.r.Ops[0].Batches, state.StaleCollectionEpoch)
	a.Object.CollectionEpoch = 4
	m.refuse(1, a, state.InvalidObject)
	a.Object.CollectionEpoch = 1<<64 - 1
	m.refuse(1, a, state.InvalidObject)
}

func TestReserveProducerIDs(t *testing.T) {
	m := joined(t)
	m.refuse(1, &entry.ReserveProducerIDs{}, state.InvalidRequest)
	m.refuse(1, &entry.ReserveProducerIDs{Count: state.MaxReservedProducerIDs + 1}, state.InvalidRequest)
	base := int64(identity.Epoch) << 40
	if got := m.accept(1, &entry.ReserveProducerIDs{Count: 1000}).Ops[0].FirstProducerID; got != base {
		t.Errorf("first %d", got)
	}
	if got := m.accept(1, &entry.ReserveProducerIDs{Count: 1}).Ops[0].FirstProducerID; got != base+1000 {
		t.Errorf("second %d", got)
	}
}

func TestChainHash(t *testing.T) {
	a, b := joined(t), joined(t)
	if a.s.ChainHash() != b.s.ChainHash() {
		t.Fatal("equal logs, different hashes")
	}
	low := a.s.N()
	at := map[uint64][32]byte{low: a.s.ChainHash()}
	for range state.HashRing + 10 {
		a.accept(1, &entry.Tick{})
		at[a.s.N()] = a.s.ChainHash()
	}
	n := a.s.N()
	for _, ask := range []uint64{n, n - 1, n - state.HashRing + 1} {
		if got, ok := a.s.HashAt(ask); !ok || got != at[ask] {
			t.Errorf("hash at %d: %x, %v", ask, got, ok)
		}
	}
	for _, ask := range []uint64{0, low, n - state.HashRing, n + 1} {
		if _, ok := a.s.HashAt(ask); ok {
			t.Errorf("knows the hash at %d, at %d", ask, n)
		}
	}
	// A snapshot knows its own n.
	loaded, err := state.Load(a.s.AppendSnapshot(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := loaded.HashAt(n); !ok || got != a.s.ChainHash() {
		t.Error("loaded state does not know the hash at its n")
	}
	if _, ok := loaded.HashAt(n - 1); ok {
		t.Error("loaded state knows a hash that it never saw")
	}

	// Equal effects by other bytes, and other logs, make other hashes.
	b.clock++
	c := joined(t)
	b.accept(1, &entry.Tick{})
	c.accept(1, &entry.Tick{})
	if b.s.ChainHash() == c.s.ChainHash() {
		t.Error("entry bytes are not in the hash")
	}
	if state.New(identity).ChainHash() == state.New(state.Identity{ID: identity.ID, Epoch: 4, Base: 100}).ChainHash() {
		t.Error("identity is not in the hash")
	}
}

package gc_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// model does at random what a cluster does, with two collectors that both take themselves for the one, and holds the bucket against
// what states name: those that the log has been in since the archive's end, and so each that a restore could bring back.
type model struct {
	*world
	rng        *rand.Rand
	collectors []*collector
	uploaded   []entry.ObjectID  // not named yet
	names      []map[string]bool // by n: keys that the state named
	ever       map[string]bool   // keys of objects that were put
	deep       int               // calls of the bucket within calls
	counts     map[string]int    // what happened, for the test to know that it did
}

func newModel(t *testing.T, seed uint64) *model {
	w := newWorld(t)
	m := &model{world: w, rng: rand.New(rand.NewPCG(seed, 7)), ever: make(map[string]bool), counts: make(map[string]int)}
	m.collectors = []*collector{m.newCollector(), m.newCollector()}
	w.bucket.before = func(what string) { // a collector is stopped, and the world goes on
		if m.deep > 0 || m.rng.IntN(3) > 0 {
			return
		}
		m.deep++
		for range m.rng.IntN(12) {
			m.happen()
		}
		if m.rng.IntN(60) == 0 {
			m.restore()
			m.counts["restore within a call"]++
		}
		m.deep--
	}
	w.archiveAll()
	return m
}

func (m *model) newCollector() *collector {
	return m.world.collector(gc.Config{
		ScrubBytesPerSecond: -1, SweepInterval: 30 * time.Minute, FirstSweep: time.Minute, OrphansFree: 1 << 30, RetryInterval: time.Second,
	})
}

// note remembers what each state since the last call names.
func (m *model) note() {
	m.t.Helper()
	for n := len(m.names); n <= int(m.head.N()); n++ {
		m.names = append(m.names, nil)
	}
	set := make(map[string]bool)
	for id := range m.head.Objects() {
		set[id.Key()] = true
	}
	m.names[m.head.N()] = set
}

// commit applies an op at the head.
func (m *model) commit(what string, op entry.Op) state.Code {
	code := m.apply(op)[0].Code
	m.note()
	m.counts[fmt.Sprint(what, " ", code)]++
	return code
}

// happen is one thing that is not a collector's.
func (m *model) happen() {
	m.t.Helper()
	switch m.rng.IntN(12) {
	case 0, 1, 2: // an agent uploads, by a state that may be behind
		st := m.head
		if m.rng.IntN(3) == 0 {
			st = m.collectors[m.rng.IntN(2)].st
		}
		m.made++
		id := entry.ObjectID{Incarnation: m.agent, Seq: m.made, CollectionEpoch: st.CollectionEpoch()}
		if m.rng.IntN(3) == 0 {
			id.Topic = topicA
		}
		if err := m.bucket.Bucket.Put(context.Background(), id.Key(), make([]byte, objectSize), objstore.PutOptions{}); err != nil {
			m.t.Fatal(err)
		}
		m.ever[id.Key()] = true
		m.uploaded = append(m.uploaded, id)
	case 3, 4, 5: // and names it, at once or very late, or never
		if len(m.uploaded) == 0 {
			return
		}
		i := m.rng.IntN(len(m.uploaded))
		id := m.uploaded[i]
		m.uploaded = append(m.uploaded[:i], m.uploaded[i+1:]...)
		switch {
		case m.rng.IntN(8) == 0:
		case id.Merged():
			m.merge(id)
		default:
			m.commit("append", appendOf(id, topicA, uint32(m.rng.IntN(2))))
		}
	case 6:
		p := m.head.TopicByID(topicA).Partition(m.rng.IntN(2))
		if rows := p.Rows(p.LogStart(), 1+m.rng.IntN(3), nil); len(rows) > 0 {
			m.commit("delete records", &entry.DeleteRecords{Topic: topicA, Partition: uint32(p.Ref().Partition), BeforeOffset: rows[len(rows)-1].End})
		}
	case 7:
		if m.rng.IntN(3) == 0 {
			m.archive = m.head.N() - uint64(m.rng.IntN(int(m.head.N()-m.archive)+1))
		}
	case 8:
		if m.rng.IntN(6) == 0 { // another collector's; where there are many, the state forgets what retired
			for range 1 + m.rng.IntN(2)*m.rng.IntN(6) {
				m.commit("bump", &entry.BumpCollectionEpoch{From: m.head.CollectionEpoch()})
			}
		}
	case 9:
		m.steady += time.Duration(m.rng.IntN(300)) * time.Second
		m.now += 1000
		m.commit("tick", &entry.Tick{})
	case 10, 11:
		m.collectors[m.rng.IntN(2)].follow(m.rng.IntN(8))
	}
}

// merge puts a merged object in the place of some rows.
func (m *model) merge(id entry.ObjectID) {
	p := m.head.TopicByID(topicA).Partition(m.rng.IntN(2))
	rows := p.Rows(p.LogStart(), 1+m.rng.IntN(4), nil)
	if len(rows) == 0 {
		return
	}
	first, last := rows[0].Base, rows[len(rows)-1].End
	m.commit("rewrite", &entry.Rewrite{
		Topic: topicA, Objects: []entry.RewrittenObject{{ID: id, Size: objectSize}},
		Parts: []entry.RewrittenPart{{
			Partition: uint32(p.Ref().Partition), Start: first, End: last, Rows: uint32(len(rows)), Digest: state.RowsDigest(rows),
			Replacement: []entry.RewrittenRow{{Object: 0, Block: 0, Base: first, End: last, MaxTimestamp: start, Size: 5}},
		}},
	})
}

// collect lets one collector take a step.
func (m *model) collect() {
	m.t.Helper()
	c := m.collectors[m.rng.IntN(2)]
	if c.epoch != m.world.epoch && m.rng.IntN(3) > 0 { // of a log that was given up: it goes on for a while
		return
	}
	_, _ = c.Step(context.Background())
	m.note()
}

// restore loses the log beyond the archive, as a restore from the bucket does, and names again what was uploaded and is not named.
func (m *model) restore() {
	m.t.Helper()
	m.entries = m.entries[:m.archive]
	m.names = m.names[:m.archive+1]
	m.head = m.copy(m.archive)
	m.epoch++
	m.agent = [16]byte{byte(m.epoch)}
	m.apply(&entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}}}, &entry.NewLogEpoch{Epoch: m.epoch})
	m.note()
	m.check("after a restore")
	for _, key := range m.keys() {
		id, err := entry.ParseObjectKey(key)
		if err != nil {
			m.t.Fatal(err)
		}
		if !id.Merged() && !m.head.Named(id) {
			m.commit("append again", appendOf(id, topicA, 0))
		}
	}
	m.archiveAll()
	m.uploaded = nil
	m.collectors[m.rng.IntN(2)] = m.newCollector() // the other one is of the old log, and does not know
	m.counts["restore"]++
}

// check holds the bucket against every state from the archive's end on.
func (m *model) check(when string) {
	m.t.Helper()
	there := make(map[string]bool)
	for _, key := range m.keys() {
		there[key] = true
	}
	for n := m.archive; n <= m.head.N(); n++ {
		for key := range m.names[n] {
			if !there[key] {
				m.t.Fatalf("%s: %s is deleted, and the state at n=%d names it (archived to n=%d, head n=%d)", when, key, n, m.archive, m.head.N())
			}
		}
	}
	m.counts["gone"] = len(m.ever) - len(there)
}

func TestNothingThatAStateNamesIsDeleted(t *testing.T) {
	counts := make(map[string]int)
	for seed := range uint64(16) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			m := newModel(t, seed)
			m.note()
			for range 600 {
				if m.rng.IntN(3) == 0 {
					m.collect()
				} else {
					m.happen()
				}
				if m.rng.IntN(150) == 0 {
					m.restore()
				}
				m.check("on the way")
			}
			// In the end there is one collector, nothing happens, and everything is archived.
			m.bucket.before = nil
			c := m.newCollector()
			for range 60 {
				m.steady += 5 * time.Minute
				c.settle()
				m.note()
				m.archiveAll()
			}
			m.check("in the end")
			if want, have := len(m.names[m.head.N()]), len(m.keys()); want != have {
				t.Errorf("%d objects in the bucket, %d named", have, want)
			}
			for what, n := range m.counts {
				counts[what] += n
			}
		})
	}
	for _, what := range []string{"append ok", "rewrite ok", "restore within a call", "append stale collection epoch", "bump ok", "delete records ok", "restore", "append again ok", "gone"} {
		if counts[what] == 0 {
			t.Errorf("never: %s (%v)", what, counts)
		}
	}
	t.Log(counts)
}

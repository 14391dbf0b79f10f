package sim_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/localstack/check"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/objstore/segment"
)

// judgeWithin bounds what the judgement waits for, in the life's time.
const judgeWithin = 30 * time.Second

// judge looks at a cluster without faults whose clients have finished.
func (l *life) judge(ctx context.Context) {
	l.judgeTopics()
	ctx, cancel := context.WithTimeout(ctx, judgeWithin)
	defer cancel()
	replicas := l.replicas(ctx)
	replicas = append(replicas, l.newcomer(ctx, "newcomer", func(g log.Log) log.Log { return g })...)
	replicas = append(replicas, l.newcomer(ctx, "archivist", func(g log.Log) log.Log { return withoutSnapshot{g} })...)
	l.judgeReplicas(replicas)
}

// judgeTopics holds what clients were told against what they were shown.
func (l *life) judgeTopics() {
	l.mu.Lock()
	topics := slices.Clone(l.topics)
	l.mu.Unlock()
	for _, t := range topics {
		ends := t.finalEnds()
		whole := ends != nil
		if !whole {
			ends = make([]int64, partitionsMax)
		}
		s := t.history.Finish(ends)
		for _, f := range s.Findings {
			if !whole && (f.Kind == check.Lost || f.Kind == check.Unseen) {
				continue // deleted, or given up, before everything was read
			}
			l.find(f.Kind.String(), "topic %s %x: %s", t.name, t.run, f)
		}
		if whole && t.name == "stays" {
			if v := s.Verdict(); v != "" && len(s.Findings) == 0 {
				l.logf("topic %s: %s", t.name, v)
				l.mu.Lock()
				l.tally.Vacuous++
				l.mu.Unlock()
			}
		}
		l.mu.Lock()
		l.tally.ops(s)
		l.tally.Partitions += t.partitionCount()
		l.mu.Unlock()
		l.logf("topic %s %x: ends %v, %+v, read %d", t.name, t.run, ends, s.Ops, s.Read)
	}
}

// replica is the state of one agent at one n.
type replica struct {
	name     string
	n        uint64
	hash     [32]byte
	snapshot []byte
}

func replicaOf(name string, meta *metastore.Client) replica {
	r := replica{name: name}
	meta.View(func(st *state.State) {
		r.n, r.hash, r.snapshot = st.N(), st.ChainHash(), st.AppendSnapshot(nil)
	})
	return r
}

// replicas takes the states of the agents that run; every one has to run, and to see the head.
func (l *life) replicas(ctx context.Context) (replicas []replica) {
	for _, n := range l.nodes {
		a := n.running()
		for a == nil && pause(ctx, 100*time.Millisecond) {
			a = n.running()
		}
		if a == nil {
			l.find("stuck", "%s does not run though nothing hinders it", n.name)
			continue
		}
		if err := a.Metastore().Barrier(ctx); err != nil {
			l.find("stuck", "%s takes no barrier: %v", n.name, err)
			continue
		}
		if h := a.Health(); !h.Ready {
			l.find("stuck", "%s is not ready: %+v", n.name, h)
		}
		replicas = append(replicas, replicaOf(n.name, a.Metastore()))
	}
	return replicas
}

// newcomer boots one more replica from what is in the bucket and in the log, through a way that may hide something.
func (l *life) newcomer(ctx context.Context, name string, way func(log.Log) log.Log) []replica {
	g := l.store.Open(name)
	defer func() { _ = g.Close() }()
	meta, err := metastore.Open(ctx, metastore.Config{
		Name: name, Listeners: []entry.Listener{{Name: "kafka", Host: name, Port: 9092}}, Rand: rand.NewChaCha8([32]byte{byte(len(name))}),
	}, way(g), l.bucket)
	if err != nil {
		l.find("replay", "%s cannot boot: %v", name, err)
		return nil
	}
	r := replicaOf(name, meta)
	if err := meta.Close(ctx); err != nil {
		l.find("close", "%s: %v", name, err)
	}
	return []replica{r}
}

// withoutSnapshot hides the snapshot pointer, so that whoever boots replays the archive from the first entry.
type withoutSnapshot struct{ log.Log }

func (w withoutSnapshot) Load(ctx context.Context, name string) (log.Cell, error) {
	if name == "snapshot" {
		return log.Cell{}, nil
	}
	return w.Log.Load(ctx, name)
}

// judgeReplicas replays the log as the observer saw it and holds every replica, and everything that agents said in entries
// about their own state, to the result.
func (l *life) judgeReplicas(replicas []replica) {
	var last uint64
	for _, r := range replicas {
		last = max(last, r.n)
	}
	entries, err := l.observer.until(last)
	if err != nil {
		l.find("stuck", "the observer has %d entries of %d: %v", len(entries), last, err)
		return
	}
	slices.SortFunc(replicas, func(a, b replica) int { return int(a.n) - int(b.n) })
	identity, err := l.observer.log.Identity(context.Background())
	if err != nil {
		l.find("stuck", "the log's identity: %v", err)
		return
	}
	st := state.New(state.Identity{ID: identity.ID, Epoch: identity.Epoch, Base: identity.Base})
	hashes := make([]uint64, 1, len(entries)+1) // by n, their first 8 bytes
	first := st.ChainHash()
	hashes[0] = binary.BigEndian.Uint64(first[:])
	var decoder entry.Decoder
	var results state.Results
	audit := newAudit(l)
	var owners holdings
	for _, e := range entries {
		var before []*touched
		decoded, err := decoder.Decode(e.Value)
		if err == nil {
			before = audit.before(st, decoded)
			err = st.Apply(e.N, e.Value, decoded, &results)
		}
		if err != nil {
			l.find("entry", "n=%d %v: %v", e.N, e.Key, err)
			return
		}
		hash := st.ChainHash()
		hashes = append(hashes, binary.BigEndian.Uint64(hash[:]))
		if seen := decoded.SeenN; seen >= e.N || hashes[seen] != decoded.SeenHash {
			l.find("digest_mismatch", "n=%d was written by an agent whose chain hash at n=%d is %016x", e.N, seen, decoded.SeenHash)
		}
		l.judgeResults(&e, decoded, &results)
		audit.after(st, &e, decoded, &results, before)
		owners.note(st, &e, decoded, &results, l.observer.seenAt(e.N))
		for len(replicas) > 0 && replicas[0].n == e.N {
			r := replicas[0]
			replicas = replicas[1:]
			switch {
			case r.hash != hash:
				l.find("digest_mismatch", "%s at n=%d: chain hash %x, the log's is %x", r.name, r.n, r.hash[:8], hash[:8])
			case !bytes.Equal(r.snapshot, st.AppendSnapshot(nil)):
				l.find("digest_mismatch", "%s at n=%d: the state differs though the chain hash does not", r.name, r.n)
			case r.name == "archivist" && l.plan.on[trims]: // else the log still had everything
				l.sometimes("replayed_from_archive_alone")
			}
		}
	}
	for _, r := range replicas {
		l.find("digest_mismatch", "%s is at n=%d, the log ends at n=%d", r.name, r.n, len(entries))
	}
	audit.finish(st, l.quietSince)
	l.judgeWords(&owners)
	l.judgeObjects(st)
	l.mu.Lock()
	l.tally.Entries += len(entries)
	l.mu.Unlock()
}

// judgeResults counts what became of an entry, and finds what an honest log can never bring about.
func (l *life) judgeResults(e *log.Entry, decoded *entry.Entry, r *state.Results) {
	l.mu.Lock()
	t := &l.tally
	var wrong string
	switch r.EntryCode {
	case state.OK:
	case state.SeqRepeated:
		t.hit("late_repeats", 1)
	case state.NotJoined:
		t.hit("entries_of_the_removed", 1)
	default: // above all SeqGap: the next entry is tried only once the one before is known to be in the log
		wrong = r.EntryCode.String()
	}
	for i := range r.Ops {
		o := &r.Ops[i]
		switch {
		case o.NodeID >= 0:
			t.Sessions++ // less the starts: tallyUp
		case o.Code == state.StaleCollectionEpoch:
			t.Stale++
		}
		for _, b := range o.Batches {
			switch b.Code {
			case state.Duplicate, state.DuplicateSequence:
				t.Dedupe++
			case state.ProducerFenced:
				t.Fenced++
			case state.StaleCollectionEpoch:
				t.Stale++
			case state.OutOfOrderSequence:
				t.hit("batches_ahead_of_their_turn", 1)
			}
		}
	}
	l.mu.Unlock()
	if wrong != "" {
		l.find("entry", "n=%d %v of %d ops: %s", e.N, e.Key, len(decoded.Ops), wrong)
	}
}

// judgeObjects looks up everything that the state names.
func (l *life) judgeObjects(st *state.State) {
	footers := map[entry.ObjectID]*segment.Footer{}
	for t := range st.Topics() {
		policies, _ := t.Config("cleanup.policy")
		holes := strings.Contains(policies, "compact") // whether rightly, audit knows
		for i := range t.Partitions() {
			p := t.Partition(i)
			next := p.LogStart()
			for _, row := range p.Rows(0, p.RowCount(), nil) {
				where := fmt.Sprintf("partition %d of %s, offsets [%d, %d), object %s", i, t.Name, row.Base, row.End, row.Object)
				if row.Base > next && !holes || row.Base < next && next != p.LogStart() {
					l.find("rows", "%s: expected base %d", where, next)
				}
				next = row.End
				f, known := footers[row.Object]
				if !known {
					f = l.footer(where, row)
					footers[row.Object] = f
				}
				if f == nil {
					continue
				}
				if b, ok := f.Block(int(row.Block)); !ok || b.Topic != [16]byte(t.ID) || int(b.Partition) != i {
					l.find("objects", "%s: block %d is of another partition", where, row.Block)
				}
			}
			if next != p.Next() && !(holes && next < p.Next()) {
				l.find("rows", "partition %d of %s: rows end at %d, the log at %d", i, t.Name, next, p.Next())
			}
		}
	}
	l.mu.Lock()
	l.tally.Objects += len(footers)
	l.mu.Unlock()
}

func (l *life) footer(where string, row state.Row) *segment.Footer {
	body, err := l.bucket.Get(context.Background(), row.Object.Key())
	switch {
	case err != nil:
		l.find("objects", "%s: %v", where, err)
		return nil
	case int64(len(body)) != row.ObjectSize:
		l.find("objects", "%s: %d bytes, the state says %d", where, len(body), row.ObjectSize)
		return nil
	}
	f, err := segment.Open(body)
	if err != nil {
		l.find("objects", "%s: %v", where, err)
	}
	return f
}

// tallyUp takes the figures of what the life was made of, when all agents have stopped.
func (l *life) tallyUp() {
	starts := 0
	for _, n := range l.nodes {
		starts += n.starts
	}
	c, b, n := l.store.Counts(), l.flaky.Counts(), l.net.Counts()
	status, err := l.observer.log.Status(context.Background())
	if err != nil {
		l.find("stuck", "the log's status: %v", err)
	}
	var head, kept int
	_, _ = fmt.Sscan(status["head"], &head)
	_, _ = fmt.Sscan(status["entries"], &kept)
	made, err := l.raw.List(context.Background(), "metastore/snapshot/", "", 1000)
	if err != nil {
		l.find("stuck", "list snapshots: %v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.tally
	if t.Sessions -= starts + 2; t.Sessions < 0 {
		t.Sessions = 0 // starts that never came to a join
	}
	t.hit("rejoined_sessions", t.Sessions)
	t.hit("reads_of_deleted_objects", l.ledger.missed)
	if t.Sometimes["parts_merged"]+t.Sometimes["pieces_cleaned"] > 0 && l.plan.on[compacts] {
		t.struck(compacts, 1)
	}
	t.AmbiguousCommits.Total += c.Ambiguous + c.Dropped + c.Late + c.NoSpace
	t.AmbiguousCommits.Applied += c.Ambiguous + c.LateApplied + c.NoSpaceApplied
	for f, times := range map[fault]int{
		logPartition: c.Partitioned, logRefuses: c.Partitioned, logLatency: c.Delayed,
		commitAmbiguous: c.Ambiguous, commitDropped: c.Dropped, commitLate: c.Late, commitNoSpace: c.NoSpace,
		watchLose: c.WatchLost, watchRepeat: c.WatchRepeated, watchLate: c.WatchLate, watchStall: c.WatchStalled,
		watchEnd: c.WatchEnded, watchCompact: c.WatchCompacted, leaseExpire: c.LeaseExpired, leaseHidden: c.LostHidden,
		membersStale: c.MembersStale,
		bucketFails:  int(b[faulty.Unavailable]), bucketBurst: int(b[faulty.Burst]), bucketAmbiguous: int(b[faulty.Ambiguous]),
		bucketLate: int(b[faulty.Late]), bucketSlow: int(b[faulty.Slow]), bucketBitFlip: int(b[faulty.BitFlip]),
		netLatency: n.Delayed, netReset: n.Reset, netCut: n.Cut, netStall: n.Stalled,
		snapshots: len(made), trims: head - kept,
	} {
		if l.plan.on[f] {
			t.struck(f, times)
		}
	}
}

package memlog

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

// Config of a Store. Its zero value is fit for use.
type Config struct {
	// Rand decides all faults; the store has it for itself. Default: a fixed seed.
	Rand *rand.Rand
	// Genesis is the identity of the log. Default: an ID drawn from Rand, epoch 1, base 0.
	Genesis *log.Identity
	// Empty: there is no log until somebody asks for its identity, or founds it. Genesis is not used.
	Empty bool
	// Faults are what agents start with.
	Faults Faults
}

// Store is what all agents share. Its methods are safe for concurrent use.
type Store struct {
	late sync.WaitGroup // proposals that are still to be applied

	mu            sync.Mutex // guards everything below, and is held for no longer than a step takes
	rand          *rand.Rand
	identity      log.Identity // Epoch 0: there is no log yet
	faults        Faults       // of agents opened from now on
	agents        []*Log
	closed        bool
	changed       chan struct{} // closed and replaced whenever a watch may have something to do
	timers        map[*time.Timer]struct{}
	counts        Counts
	revision      int64
	compacted     int64    // history before this revision is gone
	entries       []*entry // by n: entries[i] is n = base+1+i. Invariant: revisions rise
	keys          map[log.Key]uint64
	registrations map[log.Incarnation]*lease
	attempted     map[log.Incarnation]struct{} // every incarnation ever registered
	former        [][]log.Member               // earlier answers of Members
	cells         map[string]*cell
}

type entry struct {
	log.Entry
	revision int64
	trimmed  bool // gone from reads; watches have it until history is compacted
}

type lease struct {
	info    []byte
	ttl     time.Duration
	expires time.Time
}

type cell struct {
	log.Cell
	owned bool
	owner log.Incarnation
}

// NewStore makes an empty store. Close it.
func NewStore(cfg Config) *Store {
	s := &Store{
		rand: cfg.Rand, faults: cfg.Faults.withDefaults(), changed: make(chan struct{}), revision: 1,
		timers: map[*time.Timer]struct{}{}, keys: map[log.Key]uint64{}, registrations: map[log.Incarnation]*lease{},
		attempted: map[log.Incarnation]struct{}{}, cells: map[string]*cell{},
	}
	if s.rand == nil {
		s.rand = rand.New(rand.NewPCG(1, 1))
	}
	switch {
	case cfg.Empty:
	case cfg.Genesis != nil:
		s.identity = *cfg.Genesis
		s.identity.Cluster = cluster
	default:
		s.createLocked()
	}
	return s
}

// cluster is what identities say of the store.
const cluster = "memlog"

// createLocked makes the log's identity.
func (s *Store) createLocked() {
	s.identity = log.Identity{Epoch: 1, Cluster: cluster}
	for i := range s.identity.ID {
		s.identity.ID[i] = byte(s.rand.Uint32())
	}
}

// Open is an agent's way to the store. The name is for people.
func (s *Store) Open(name string) *Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := newLog(s, name, s.faults)
	s.agents = append(s.agents, l)
	return l
}

// SetFaults changes the faults of all agents, and of those to come.
func (s *Store) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f.withDefaults()
	for _, l := range s.agents {
		l.faults = s.faults
	}
	s.wakeLocked()
}

// Counts is a copy of the counters.
func (s *Store) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Compact forgets all history: watches that have not seen everything are lost at their next step.
func (s *Store) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.compactLocked(s.revision)
	s.wakeLocked()
}

// Expire ends a registration as if its lease had lapsed now; its keepalive learns of it as it would from etcd.
func (s *Store) Expire(incarnation log.Incarnation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(incarnation)
}

// SetIdentity makes this another log: what disaster recovery does.
func (s *Store) SetIdentity(i log.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = i
	s.revision++
}

// Close closes all agents' logs and forgets late proposals. Safe twice.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for t := range s.timers {
		if t.Stop() {
			s.late.Done()
		}
	}
	clear(s.timers)
	agents := slices.Clone(s.agents)
	s.mu.Unlock()
	for _, l := range agents {
		if err := l.Close(); err != nil {
			return err
		}
	}
	s.late.Wait()
	return nil
}

// wakeLocked lets every watch look again.
func (s *Store) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Store) headLocked() uint64 { return s.identity.Base + uint64(len(s.entries)) }

// commitLocked is the transaction of package log, at the moment of its application.
func (s *Store) commitLocked(identity log.Identity, key log.Key, value []byte) log.Outcome {
	_, exists := s.keys[key]
	switch {
	case identity != s.identity:
		return log.WrongLog
	case exists:
		return log.Exists
	case !s.liveLocked(key.Incarnation):
		return log.Fenced
	}
	s.revision++
	n := s.headLocked() + 1
	s.keys[key] = n
	s.entries = append(s.entries, &entry{Entry: log.Entry{N: n, Key: key, Value: value}, revision: s.revision})
	s.wakeLocked()
	return log.Committed
}

// laterLocked applies a commit after a while, unless the store is closed first.
func (s *Store) laterLocked(after time.Duration, identity log.Identity, key log.Key, value []byte) {
	if s.closed {
		return
	}
	s.late.Add(1)
	var t *time.Timer
	t = time.AfterFunc(after, func() {
		defer s.late.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.timers, t)
		if !s.closed && s.commitLocked(identity, key, value) == log.Committed {
			s.counts.LateApplied++
		}
	})
	s.timers[t] = struct{}{}
}

// trimLocked deletes entries of revisions up to upTo and compacts up to the newest of them, as etcdlog does.
func (s *Store) trimLocked(keys []log.Key, upTo int64) {
	s.revision++
	var newest int64
	for _, k := range keys {
		n, ok := s.keys[k]
		if !ok {
			continue
		}
		e := s.entries[n-s.identity.Base-1]
		if e.revision > upTo {
			continue
		}
		delete(s.keys, k)
		e.trimmed = true
		newest = max(newest, e.revision)
	}
	s.compactLocked(newest)
}

func (s *Store) compactLocked(revision int64) {
	if revision <= s.compacted {
		return
	}
	s.compacted = revision
	for _, e := range s.entries {
		if e.trimmed && e.revision < revision {
			e.Value = nil
		}
	}
}

// liveLocked says whether an incarnation is registered, after letting go of what has lapsed.
func (s *Store) liveLocked(i log.Incarnation) bool {
	l, ok := s.registrations[i]
	if ok && !time.Now().Before(l.expires) {
		s.dropLocked(i)
		ok = false
	}
	return ok
}

// dropLocked deletes a registration and the cells that hang on it.
func (s *Store) dropLocked(i log.Incarnation) {
	if _, ok := s.registrations[i]; !ok {
		return
	}
	s.revision++
	delete(s.registrations, i)
	maps.DeleteFunc(s.cells, func(_ string, c *cell) bool { return c.owned && c.owner == i })
	s.rememberLocked()
}

func (s *Store) membersLocked() []log.Member {
	members := []log.Member{}
	for _, i := range slices.SortedFunc(maps.Keys(s.registrations), func(a, b log.Incarnation) int { return bytes.Compare(a[:], b[:]) }) {
		if s.liveLocked(i) {
			members = append(members, log.Member{Incarnation: i, Info: s.registrations[i].info})
		}
	}
	return members
}

// rememberLocked keeps the registrations of now for a later stale answer.
func (s *Store) rememberLocked() {
	now := make([]log.Member, 0, len(s.registrations))
	for i, l := range s.registrations {
		now = append(now, log.Member{Incarnation: i, Info: l.info})
	}
	slices.SortFunc(now, func(a, b log.Member) int { return bytes.Compare(a.Incarnation[:], b.Incarnation[:]) })
	s.former = append(s.former, now)
	if len(s.former) > formerMembersMax {
		s.former = s.former[1:]
	}
}

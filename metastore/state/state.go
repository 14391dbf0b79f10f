package state

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"iter"

	"github.com/firnlog/firn/metastore/entry"
)

var (
	// ErrGap: the entry is not the one after N. The state is unchanged; the caller finds what is missing.
	ErrGap = errors.New("entry out of order")
	// ErrFeatureLevel: the entry, the cluster or the snapshot needs a newer build. The agent must stop.
	ErrFeatureLevel = errors.New("feature level above this build's")
)

// Identity says which log a state belongs to.
type Identity struct {
	ID    [16]byte
	Epoch uint64 // log epoch, bumped by disaster recovery (entry.NewLogEpoch)
	Base  uint64 // n of the last entry before this epoch
}

// State is the state after entry N. One goroutine applies; readers are excluded meanwhile by the owner's lock.
type State struct {
	identity Identity
	n        uint64
	hash     [32]byte   // chain hash at n
	ring     [][32]byte // of the last HashRing entries; that of ringFirst+i is at index i modulo HashRing
	first    uint64     // the n of ring[0] when it was first written

	logTime         int64 // Unix milliseconds. Invariant: only rises.
	featureLevel    uint32
	collectionEpoch uint64
	reservedIDs     uint64 // producer ids handed out in this log epoch

	agents  agents
	topics  topics
	configs []entry.Config // cluster-wide, sorted by name
	objects objects
	groups  groups
	topicsN uint64 // the last entry that changed topics; not part of the state

	hasher  hash.Hash
	scratch []byte
	rows    []row               // of Relocate and Rewrite
	old     []uint32            // objects of the rows that a Rewrite replaces
	digest  rowDigest           // and what they hash to
	members []entry.GroupMember // of UpdateGroup
	own     Results             // where the caller wants none
}

// New is the state before the first entry of a log.
func New(id Identity) *State {
	s := &State{
		identity: id, n: id.Base,
		featureLevel: firstLevel, collectionEpoch: firstCollection,
		agents: newAgents(), topics: newTopics(), objects: newObjects(),
		hasher: sha256.New(), digest: rowDigest{h: sha256.New()},
	}
	s.scratch = append(s.scratch[:0], "firn chain 1"...)
	s.scratch = append(s.scratch, id.ID[:]...)
	s.scratch = binary.BigEndian.AppendUint64(s.scratch, id.Epoch)
	s.scratch = binary.BigEndian.AppendUint64(s.scratch, id.Base)
	s.hash = sha256.Sum256(s.scratch)
	s.startRing()
	return s
}

func (s *State) startRing() {
	s.ring, s.first = append(s.ring[:0], s.hash), s.n
}

// Apply takes entry n: value is its bytes and e what they decode to. It fills r (nil: the caller wants no results).
//
// An error means that nothing was applied and this agent must stop applying: ErrGap where n is not the next one,
// ErrFeatureLevel where the entry or the cluster is newer than this build.
func (s *State) Apply(n uint64, value []byte, e *entry.Entry, r *Results) error {
	if n != s.n+1 {
		return fmt.Errorf("%w: entry %d after %d", ErrGap, n, s.n)
	}
	if level := max(e.FeatureLevel, s.featureLevel); level > MaxFeatureLevel {
		return fmt.Errorf("%w: entry %d needs level %d, this build knows %d", ErrFeatureLevel, n, level, MaxFeatureLevel)
	}
	if r == nil {
		r = &s.own
	}
	r.reset()
	s.n = n
	s.applyEntry(e, r)
	if r.TopicsChanged {
		s.topicsN = n
	}
	s.extendChain(value, r)
	return nil
}

func (s *State) applyEntry(e *entry.Entry, r *Results) {
	if e.FeatureLevel > s.featureLevel {
		r.EntryCode = FeatureLevelNotReached
		return
	}
	a, ops := s.agents.joined[e.Incarnation], e.Ops
	switch {
	case a == nil:
		var code Code
		if a, code = s.joinFirst(e, r); code != OK {
			r.EntryCode = code
			return
		}
		ops = ops[1:]
	case e.Seq <= a.LastSeq:
		r.EntryCode = SeqRepeated
		return
	case e.Seq != a.LastSeq+1:
		r.EntryCode = SeqGap
		return
	}
	a.LastSeq = e.Seq
	s.advanceTime(a, e.ClockMs)
	for _, op := range ops {
		if a.left { // by an op of this very entry
			r.add(rejected(NotJoined))
			continue
		}
		s.applyOp(e, op, r)
	}
}

func (s *State) applyOp(e *entry.Entry, op entry.Op, r *Results) {
	res := rejected(OK)
	switch op := op.(type) {
	case *entry.Append:
		res.Code, res.Batches = s.append(e, op, r)
	case *entry.Relocate:
		res.Code = s.relocate(op, r)
	case *entry.Tick:
	case *entry.Join:
		res.Code = AlreadyJoined
	case *entry.Leave:
		res.Code = s.leave(op, r)
	case *entry.CreateTopic:
		res.Code = s.createTopic(op, r)
	case *entry.DeleteTopic:
		res.Code = s.deleteTopic(op, r)
	case *entry.CreatePartitions:
		res.Code = s.createPartitions(op, r)
	case *entry.AlterConfigs:
		res.Code = s.alterConfigs(op, r)
	case *entry.DeleteRecords:
		res.Code, res.LogStartOffset = s.deleteRecords(op, r)
	case *entry.ReserveProducerIDs:
		res.Code, res.FirstProducerID = s.reserveProducerIDs(op)
	case *entry.ExpireProducers:
		res.Code = s.expireProducers(op)
	case *entry.SetFeatureLevel:
		res.Code = s.setFeatureLevel(op)
	case *entry.BumpCollectionEpoch:
		res.Code = s.bumpCollectionEpoch(op)
	case *entry.NewLogEpoch:
		res.Code = s.newLogEpoch(e, op, r)
	case *entry.ClaimSlot:
		res.Code = s.claimSlot(op, r)
	case *entry.UpdateGroup:
		res.Code = s.updateGroup(e, op, r)
	case *entry.CommitOffsets:
		res.Code, res.Offsets = s.commitOffsets(e, op, r)
	case *entry.DeleteOffsets:
		res.Code, res.Offsets = s.deleteOffsets(e, op, r)
	case *entry.DeleteGroup:
		res.Code = s.deleteGroup(e, op, r)
	case *entry.Rewrite:
		res.Code, res.Parts = s.rewrite(op, r)
	default: // entry decodes no other
		res.Code = InvalidRequest
	}
	r.add(res)
}

// extendChain computes hash(n) = SHA-256(hash(n-1), n, length of value, value, SHA-256(results)).
func (s *State) extendChain(value []byte, r *Results) {
	h := s.hasher
	h.Reset()
	h.Write(r.bytes())
	digest := h.Sum(s.scratch[:0])

	head := append(digest, s.hash[:]...)
	head = binary.BigEndian.AppendUint64(head, s.n)
	head = binary.BigEndian.AppendUint64(head, uint64(len(value)))
	h.Reset()
	h.Write(head[len(digest):])
	h.Write(value)
	h.Write(digest)
	s.scratch = head
	h.Sum(s.hash[:0])
	if len(s.ring) < HashRing {
		s.ring = append(s.ring, s.hash)
	} else {
		s.ring[(s.n-s.first)%HashRing] = s.hash
	}
}

func (s *State) reserveProducerIDs(op *entry.ReserveProducerIDs) (Code, int64) {
	if op.Count == 0 || op.Count > MaxReservedProducerIDs {
		return InvalidRequest, -1
	}
	if s.reservedIDs+uint64(op.Count) > 1<<producerIDBits || s.identity.Epoch > maxLogEpoch {
		return LimitExceeded, -1
	}
	first := int64(s.identity.Epoch<<producerIDBits + s.reservedIDs)
	s.reservedIDs += uint64(op.Count)
	return OK, first
}

func (s *State) setFeatureLevel(op *entry.SetFeatureLevel) Code {
	if op.Level <= s.featureLevel {
		return InvalidRequest
	}
	for _, a := range s.agents.joined {
		if a.MaxFeatureLevel < op.Level {
			return FeatureLevelUnsupported
		}
	}
	s.featureLevel = op.Level // where it is above this build's, the next Apply stops
	return OK
}

func (s *State) bumpCollectionEpoch(op *entry.BumpCollectionEpoch) Code {
	if op.From != s.collectionEpoch {
		return ConditionFailed
	}
	s.collectionEpoch++
	s.objects.forgetRetired(s.collectionEpoch)
	return OK
}

// N is the number of the last entry applied.
func (s *State) N() uint64 { return s.n }

// ChainHash is the chain hash at N.
func (s *State) ChainHash() [32]byte { return s.hash }

// HashAt is the chain hash at n, where n is N or one of the HashRing-1 before it that this State has seen.
func (s *State) HashAt(n uint64) ([32]byte, bool) {
	if n > s.n || n < s.first || s.n-n >= uint64(len(s.ring)) {
		return [32]byte{}, false
	}
	return s.ring[(n-s.first)%HashRing], true
}

// TopicsN moves whenever topics, partition counts or configs have changed: who has looked at them under one may look away until it
// is another one. It starts anew with each State, and agents need not agree on it.
func (s *State) TopicsN() uint64 { return s.topicsN }

// LogTime is the log's clock, Unix milliseconds; 0 before the first agent joined.
func (s *State) LogTime() int64 { return s.logTime }

// FeatureLevel is what every agent understands.
func (s *State) FeatureLevel() uint32 { return s.featureLevel }

// CollectionEpoch is the epoch that new uploads carry in their name. An object of an epoch before CollectionEpoch()-1 can
// no longer be appended.
func (s *State) CollectionEpoch() uint64 { return s.collectionEpoch }

// Identity says which log this is the state of.
func (s *State) Identity() Identity { return s.identity }

// BrokerConfigs are the cluster-wide configs, sorted by name. The slice is never modified.
func (s *State) BrokerConfigs() []entry.Config { return s.configs }

// Topics yields all topics in order of their names.
func (s *State) Topics() iter.Seq[*Topic] {
	return func(yield func(*Topic) bool) {
		for _, t := range s.topics.sorted {
			if !yield(t) {
				return
			}
		}
	}
}

// TopicCount and PartitionCount size the cluster.
func (s *State) TopicCount() int { return len(s.topics.sorted) }

// PartitionCount is the number of partitions of all topics.
func (s *State) PartitionCount() int { return s.topics.partitions }

// TopicByID returns nil where there is no such topic.
func (s *State) TopicByID(id entry.UUID) *Topic { return s.topics.byID[id] }

// TopicByName returns nil where there is no such topic.
func (s *State) TopicByName(name string) *Topic {
	if t := s.topics.named(name); t != nil && t.Name == name {
		return t
	}
	return nil
}

package state

import (
	"cmp"
	"math"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// EpochStart says that the offsets from Start on, up to the next one's, were given in this leader epoch.
type EpochStart struct {
	Epoch int32
	Start int64
}

// maxLogEpoch keeps producer ids (log epoch, counter) within 63 bits, and leader epochs within 31.
const maxLogEpoch = 1<<(63-producerIDBits) - 1

// leaderEpochOf is the leader epoch of what is appended in a log epoch: 0 in the first.
func leaderEpochOf(logEpoch uint64) int32 {
	if logEpoch == 0 {
		return 0
	}
	return int32(min(logEpoch-1, math.MaxInt32))
}

// newLogEpoch opens a log epoch in the first entry of a restored log. The agents that were joined are gone with the old
// log; their clocks would hold log time back. Producer ids count from a new base, so none is ever handed out twice, though
// the entry that reserved some may be lost.
func (s *State) newLogEpoch(e *entry.Entry, op *entry.NewLogEpoch, r *Results) Code {
	switch {
	case op.Epoch <= s.identity.Epoch:
		return InvalidRequest
	case op.Epoch > maxLogEpoch:
		return LimitExceeded
	}
	s.identity.Epoch, s.identity.Base = op.Epoch, s.n-1
	s.reservedIDs = 0
	gone := make([]*agent, 0, len(s.agents.joined))
	for _, a := range s.agents.joined {
		if a.Incarnation != e.Incarnation {
			gone = append(gone, a)
		}
	}
	slices.SortFunc(gone, func(a, b *agent) int { return cmp.Compare(a.NodeID, b.NodeID) })
	for _, a := range gone {
		s.depart(a)
	}
	for _, t := range s.topics.sorted {
		for i := range t.parts {
			t.parts[i].startEpoch(leaderEpochOf(op.Epoch))
		}
	}
	r.TopicsChanged, r.AgentsChanged = true, true
	return OK
}

// epochs are the partition's leader epochs, ascending in epoch and start; nil: everything is of epoch 0.
func (p *Partition) epochs() []EpochStart {
	if p.history == nil {
		return nil
	}
	return *p.history
}

func (p *Partition) setEpochs(epochs []EpochStart) {
	if p.history = nil; len(epochs) > 0 {
		p.history = &epochs
	}
}

// startEpoch makes what follows the next offset's of epoch. Epochs that gave no offset are forgotten, as Kafka does.
func (p *Partition) startEpoch(epoch int32) {
	if epoch == 0 {
		return
	}
	known := p.epochs()
	if known == nil && p.next > 0 {
		known = []EpochStart{{}}
	}
	keep := len(known)
	for keep > 0 && known[keep-1].Start >= p.next {
		keep--
	}
	p.setEpochs(append(known[:keep:keep], EpochStart{Epoch: epoch, Start: p.next}))
}

// dropEpochs forgets epochs all of whose offsets are below the log start; never the newest.
func (p *Partition) dropEpochs() {
	known, gone := p.epochs(), 0
	for gone+1 < len(known) && known[gone+1].Start <= p.logStart {
		gone++
	}
	if gone > 0 {
		p.setEpochs(slices.Clone(known[gone:]))
	}
}

// LeaderEpoch is the leader epoch of what is appended now. It rises when the metastore's log is restored from the bucket,
// and only then: nothing else ever takes an offset back.
func (p *Partition) LeaderEpoch() int32 {
	known := p.epochs()
	if len(known) == 0 {
		return 0
	}
	return known[len(known)-1].Epoch
}

// Epochs appends the partition's leader epochs to dst, ascending in epoch and start. None: all is of epoch 0.
func (p *Partition) Epochs(dst []EpochStart) []EpochStart { return append(dst, p.epochs()...) }

// EpochAt is the leader epoch of offset by what Epochs returned.
func EpochAt(epochs []EpochStart, offset int64) int32 {
	if len(epochs) == 0 {
		return 0
	}
	at := sortedAbove(epochs, func(e *EpochStart) bool { return e.Start > offset })
	return epochs[max(at-1, 0)].Epoch // what lies below the first that is known is of none
}

// EpochAt is the leader epoch that offset was given in, or would be.
func (p *Partition) EpochAt(offset int64) int32 { return EpochAt(p.epochs(), offset) }

// EpochEnd answers what Kafka's leader epoch cache answers: the newest epoch up to the one asked for that gave offsets, and
// where the next epoch starts: whoever holds an offset of that epoch past it holds one that was taken back. Of the newest
// epoch it is the next offset, and -1, -1 says that an epoch above it was asked for. An epoch older than all that are known
// is answered as itself.
func (p *Partition) EpochEnd(epoch int32) (of int32, end int64) {
	newest := p.LeaderEpoch()
	switch {
	case epoch < 0 || epoch > newest:
		return -1, -1
	case epoch == newest:
		return epoch, p.next
	}
	known := p.epochs()
	above := sortedAbove(known, func(e *EpochStart) bool { return e.Epoch > epoch })
	if above == 0 {
		return epoch, known[0].Start
	}
	return known[above-1].Epoch, known[above].Start
}

// sortedAbove is the index of the first epoch that is above; len(epochs) where none is.
func sortedAbove(epochs []EpochStart, above func(*EpochStart) bool) int {
	lo, hi := 0, len(epochs)
	for lo < hi {
		if mid := (lo + hi) / 2; above(&epochs[mid]) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

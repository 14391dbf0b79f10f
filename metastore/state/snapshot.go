package state

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

const (
	snapshotMagic   = "FIRNSNAP"
	snapshotVersion = 4
	// withoutMerged is the version that a state below rewriteLevel has: it has neither merged objects nor cleaned rows, and knows no
	// object's age.
	withoutMerged = 3
	// withoutGroups is the version that a state below groupsLevel has: agents that know no later one may have to load it.
	withoutGroups = 2
	// withoutEpochs is the last version whose partitions have no leader epochs.
	withoutEpochs = 1
	crcBytes      = 4
)

var (
	// ErrCorrupt: these bytes are not a snapshot, or not all of it.
	ErrCorrupt = errors.New("corrupt snapshot")
	// ErrVersion: the snapshot has a format that this build does not read.
	ErrVersion = errors.New("unknown snapshot version")
)

// DamageError says where a snapshot stops being one. It matches ErrCorrupt.
type DamageError struct {
	Part     string // of the format
	Position int    // bytes from the start
	Reason   string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%v: %s at position %d: %s", ErrCorrupt, e.Part, e.Position, e.Reason)
}

// Is reports whether target is ErrCorrupt.
func (e *DamageError) Is(target error) bool { return target == ErrCorrupt }

// AppendSnapshot appends the state to dst. Equal states have equal snapshots, whatever way they came to be. The format
// is in docs/formats.md; numbers are unsigned varints unless said otherwise there.
func (s *State) AppendSnapshot(dst []byte) []byte {
	start := len(dst)
	w := writer{b: append(dst, snapshotMagic...), version: s.snapshotVersion()}
	w.b = append(w.b, w.version)
	w.b = append(w.b, s.identity.ID[:]...)
	w.uint(s.identity.Epoch)
	w.uint(s.identity.Base)
	w.uint(s.n)
	w.b = append(w.b, s.hash[:]...)
	w.uint(uint64(s.logTime))
	w.uint(uint64(s.featureLevel))
	w.uint(s.collectionEpoch)
	w.uint(s.reservedIDs)
	w.agents(&s.agents)
	w.configs(s.configs)
	numbers := w.objects(&s.objects)
	w.uint(uint64(len(s.topics.sorted)))
	for _, t := range s.topics.sorted {
		w.topic(t, numbers)
	}
	if w.version > withoutGroups {
		w.groups(s)
	}
	sum := crc32.Checksum(w.b[start:], crc32.MakeTable(crc32.Castagnoli))
	return binary.LittleEndian.AppendUint32(w.b, sum)
}

// snapshotVersion is the version that a state of this level is written in.
func (s *State) snapshotVersion() byte {
	switch {
	case s.featureLevel < groupsLevel:
		return withoutGroups
	case s.featureLevel < rewriteLevel:
		return withoutMerged
	}
	return snapshotVersion
}

// writer appends the parts of a snapshot.
type writer struct {
	b       []byte
	version byte
}

func (w *writer) uint(v uint64) { w.b = binary.AppendUvarint(w.b, v) }

func (w *writer) string(v string) {
	w.uint(uint64(len(v)))
	w.b = append(w.b, v...)
}

// Flags of an object, from version 4 on.
const (
	objectUploader = 1 << iota // another incarnation than that of the object before
	objectMerged               // it has a topic
	objectFlags    = 1<<iota - 1
)

// object writes an id after one of this incarnation. Until version 3 it says all of it, for then objects were few.
func (w *writer) object(id entry.ObjectID, before [16]byte) {
	flags := uint64(0)
	if id.Incarnation != before || w.version <= withoutMerged {
		flags |= objectUploader
	}
	if id.Merged() {
		flags |= objectMerged
	}
	if w.version > withoutMerged {
		w.uint(flags)
	}
	if flags&objectUploader != 0 {
		w.b = append(w.b, id.Incarnation[:]...)
	}
	w.uint(id.Seq)
	w.uint(id.CollectionEpoch)
	if flags&objectMerged != 0 {
		w.b = append(w.b, id.Topic[:]...)
	}
}

func (w *writer) agents(x *agents) {
	w.uint(uint64(len(x.nodes)))
	for i := range x.nodes {
		n := &x.nodes[i]
		w.uint(uint64(n.id))
		w.string(n.name)
		w.uint(n.leftN)
	}
	joined := make([]*agent, 0, len(x.joined))
	for _, a := range x.joined {
		joined = append(joined, a)
	}
	slices.SortFunc(joined, func(a, b *agent) int { return cmp.Compare(a.NodeID, b.NodeID) })
	w.uint(uint64(len(joined)))
	for _, a := range joined {
		w.uint(uint64(a.NodeID))
		w.b = append(w.b, a.Incarnation[:]...)
		w.uint(uint64(len(a.Listeners)))
		for i := range a.Listeners {
			w.string(a.Listeners[i].Name)
			w.string(a.Listeners[i].Host)
			w.uint(uint64(a.Listeners[i].Port))
		}
		w.string(a.Zone)
		w.string(a.Version)
		w.uint(uint64(a.MaxFeatureLevel))
		w.uint(uint64(a.ClockMs))
		w.uint(a.LastSeq)
		w.uint(a.JoinedN)
	}
	w.uint(uint64(len(x.departed)))
	for i := range x.departed {
		w.b = append(w.b, x.departed[i].incarnation[:]...)
		w.uint(x.departed[i].lastSeq)
	}
}

func (w *writer) configs(configs []entry.Config) {
	w.uint(uint64(len(configs)))
	for i := range configs {
		w.string(configs[i].Name)
		w.string(configs[i].Value)
	}
}

// objects writes the live and the retired objects and returns the number by which rows name each slot.
func (w *writer) objects(x *objects) []uint32 {
	live := make([]uint32, 0, x.live)
	for slot := range x.all() {
		live = append(live, slot)
	}
	slices.SortFunc(live, func(a, b uint32) int { return x.compare(x.at(a), x.at(b)) })
	numbers := make([]uint32, x.made)
	w.uint(uint64(len(live)))
	var before [16]byte
	born := uint64(0)
	for number, slot := range live {
		numbers[slot] = uint32(number)
		o := x.at(slot)
		id := x.id(o)
		w.object(id, before)
		before = id.Incarnation
		w.uint(uint64(o.size))
		if w.version > withoutMerged { // one uploader's objects, which are neighbours here, are born one after the other
			w.b = binary.AppendVarint(w.b, int64(o.born-born))
			born = o.born
		}
		if pending := x.pending[slot]; pending != nil {
			w.uint(1)
			w.b = append(w.b, pending.holder[:]...)
		} else {
			w.uint(0)
		}
	}
	gone := make([]entry.ObjectID, 0, len(x.retired))
	for id := range x.retired {
		gone = append(gone, id)
	}
	slices.SortFunc(gone, entry.ObjectID.Compare)
	w.uint(uint64(len(gone)))
	before = [16]byte{}
	for _, id := range gone {
		w.object(id, before)
		before = id.Incarnation
		w.uint(uint64(x.retired[id].size))
		w.uint(x.retired[id].n)
		w.uint(x.retired[id].epoch)
	}
	return numbers
}

func (w *writer) topic(t *Topic, numbers []uint32) {
	w.string(t.Name)
	w.b = append(w.b, t.ID[:]...)
	w.uint(uint64(t.ReplicationFactor))
	w.uint(t.CreatedN)
	w.uint(uint64(t.givenUp))
	w.configs(t.Configs)
	w.uint(uint64(len(t.Assignment)))
	for i := range t.Assignment {
		w.uint(uint64(len(t.Assignment[i].Nodes)))
		for _, node := range t.Assignment[i].Nodes {
			w.uint(uint64(node))
		}
	}
	w.uint(uint64(len(t.parts)))
	for i := range t.parts {
		w.partition(&t.parts[i], numbers)
	}
}

func (w *writer) partition(p *Partition, numbers []uint32) {
	w.uint(uint64(p.logStart))
	w.uint(uint64(p.next - p.logStart))
	w.uint(uint64(len(p.epochs())))
	var last EpochStart
	for _, e := range p.epochs() {
		w.uint(uint64(e.Epoch - last.Epoch))
		w.uint(uint64(e.Start - last.Start))
		last = e
	}
	w.uint(uint64(p.rows.count))
	var coder rowCoder
	for c := p.rows.all(); c.next(); {
		c.row.object = numbers[c.row.object]
		w.b = coder.append(w.b, &c.row)
	}
	w.uint(uint64(len(p.producers)))
	var id int64
	for i := range p.producers {
		x := &p.producers[i]
		w.uint(uint64(x.id - id))
		id = x.id
		w.uint(uint64(x.epoch))
		w.uint(uint64(x.lastSeen))
		w.uint(uint64(x.last))
		w.uint(uint64(x.accepted))
		w.uint(uint64(x.count))
		var offset int64
		for j := range int(x.count) {
			w.uint(uint64(x.offsets[j] - offset))
			offset = x.offsets[j]
			w.uint(uint64(x.spans[j]))
			w.uint(uint64(x.ages[j]))
		}
	}
}

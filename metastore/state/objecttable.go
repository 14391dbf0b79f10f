package state

import (
	"cmp"
	"encoding/binary"
	"iter"
	"math/bits"

	"github.com/firnlog/firn/metastore/entry"
)

// objectTable finds live objects by slot and by name. Every agent holds one for each 256 MiB of cold data, so an object takes 48 bytes
// of it, where a slice of whole ids and a map from them took 157: a slot names uploader and topic, of which there are few, by number,
// and is itself the element of the hash table that finds it. Slots are never moved and buckets split one by one, so no entry waits
// for all objects to be hashed anew.
//
// Slots are an agent's own business: they reach no result and no snapshot.
type objectTable struct {
	chunks    []*[chunkSlots]object
	made      int    // slots, free ones included
	free      uint32 // the first free slot + 1, the others chained behind it; 0: none
	live      int
	buckets   []uint32 // of a hash table with chains: the first slot + 1; 0: none. It grows bucket by bucket (linear hashing).
	uploaders interned[uploader]
	topics    interned[entry.UUID]
}

const (
	chunkSlots       = 256 // 10 KiB
	bucketsPerObject = 2   // with one a look-up would miss the processor's cache half a time more often, for 4 bytes less
)

// object is live while rows name it. Invariant: refs > 0 but for free slots.
type object struct {
	size int64
	// born is the n of the entry that first named it; 0 where that was below rewriteLevel, when snapshots did not tell.
	born uint64
	// seq and epoch are the low halves of the id's; the high ones are the uploader's.
	seq, epoch      uint32
	uploader, topic uint32 // numbers
	refs            uint32
	next            uint32 // slot + 1 of the next one in its bucket, or among the free ones; 0: none
}

// uploader is what the ids of an incarnation's objects begin with: seqs and epochs reach 2³² in theory, and in a damaged snapshot.
type uploader struct {
	incarnation        [16]byte
	seqHigh, epochHigh uint32
}

func newObjectTable() objectTable {
	return objectTable{uploaders: newInterned[uploader](), topics: newInterned[entry.UUID]()}
}

// reserve makes room for so many objects at once.
func (x *objectTable) reserve(n int) { x.buckets = make([]uint32, bucketsPerObject*n) }

func (x *objectTable) at(slot uint32) *object { return &x.chunks[slot/chunkSlots][slot%chunkSlots] }

// all yields the slots with an object.
func (x *objectTable) all() iter.Seq2[uint32, *object] {
	return func(yield func(uint32, *object) bool) {
		for slot := range uint32(x.made) {
			if o := x.at(slot); o.refs > 0 && !yield(slot, o) {
				return
			}
		}
	}
}

// id is the name of an object.
func (x *objectTable) id(o *object) entry.ObjectID {
	u := &x.uploaders.values[o.uploader]
	return entry.ObjectID{
		Incarnation: u.incarnation, Seq: uint64(u.seqHigh)<<32 | uint64(o.seq), CollectionEpoch: uint64(u.epochHigh)<<32 | uint64(o.epoch),
		Topic: x.topics.values[o.topic],
	}
}

func uploaderOf(id *entry.ObjectID) uploader {
	return uploader{incarnation: id.Incarnation, seqHigh: uint32(id.Seq >> 32), epochHigh: uint32(id.CollectionEpoch >> 32)}
}

// compare orders objects by their ids.
func (x *objectTable) compare(o, p *object) int {
	if o.uploader == p.uploader && o.seq != p.seq { // as most neighbours are
		return cmp.Compare(o.seq, p.seq)
	}
	a, b := x.id(o), x.id(p)
	return a.Compare(b)
}

// find is the slot of the object.
func (x *objectTable) find(id *entry.ObjectID) (slot uint32, live bool) {
	if len(x.buckets) == 0 {
		return 0, false
	}
	for next := x.buckets[x.bucket(hashOf(id))]; next != 0; {
		o := x.at(next - 1)
		if o.seq == uint32(id.Seq) && o.epoch == uint32(id.CollectionEpoch) && x.uploaders.values[o.uploader] == uploaderOf(id) &&
			x.topics.values[o.topic] == id.Topic {
			return next - 1, true
		}
		next = o.next
	}
	return 0, false
}

// add makes an object live that is not. Requires: the caller sees to refs.
func (x *objectTable) add(id *entry.ObjectID, size int64, born uint64) uint32 {
	var slot uint32
	if x.free != 0 {
		slot = x.free - 1
		x.free = x.at(slot).next
	} else {
		slot = uint32(x.made)
		if slot%chunkSlots == 0 {
			x.chunks = append(x.chunks, new([chunkSlots]object))
		}
		x.made++
	}
	o := x.at(slot)
	*o = object{
		size: size, born: born, seq: uint32(id.Seq), epoch: uint32(id.CollectionEpoch),
		uploader: x.uploaders.hold(uploaderOf(id)), topic: x.topics.hold(id.Topic),
	}
	x.live++
	for bucketsPerObject*x.live > len(x.buckets) {
		x.split()
	}
	x.chain(slot, o, hashOf(id))
	return slot
}

// remove frees the slot of an object.
func (x *objectTable) remove(slot uint32) {
	o := x.at(slot)
	id := x.id(o)
	link := &x.buckets[x.bucket(hashOf(&id))]
	for *link != slot+1 {
		link = &x.at(*link - 1).next
	}
	*link = o.next
	x.uploaders.drop(o.uploader)
	x.topics.drop(o.topic)
	*o = object{next: x.free}
	x.free = slot + 1
	x.live--
}

func (x *objectTable) chain(slot uint32, o *object, hash uint32) {
	first := &x.buckets[x.bucket(hash)]
	o.next, *first = *first, slot+1
}

// bucket is the one that holds what has this hash: as many bits of it as number the buckets, or one less where there is none of that
// number yet.
func (x *objectTable) bucket(hash uint32) uint32 {
	n := uint32(len(x.buckets))
	mask := uint32(1)<<bits.Len32(n-1) - 1
	if at := hash & mask; at < n {
		return at
	}
	return hash & (mask >> 1)
}

// split adds a bucket, which takes over its share of the one that had it so far.
func (x *objectTable) split() {
	n := uint32(len(x.buckets))
	x.buckets = append(x.buckets, 0)
	if n == 0 {
		return
	}
	from := &x.buckets[n&^(1<<(bits.Len32(n)-1))]
	next := *from
	*from = 0
	for next != 0 {
		slot := next - 1
		o := x.at(slot)
		id := x.id(o)
		next = o.next
		x.chain(slot, o, hashOf(&id))
	}
}

// hashOf need not withstand an adversary: only joined agents name objects.
func hashOf(id *entry.ObjectID) uint32 {
	h := mix(word(id.Incarnation[:8])^0x9e37_79b9_7f4a_7c15, word(id.Incarnation[8:])^id.CollectionEpoch^0xd6e8_feb8_6659_fd93)
	return uint32(mix(h^id.Seq, word(id.Topic[:8])^bits.RotateLeft64(word(id.Topic[8:]), 32)^0xa076_1d64_78bd_642f))
}

func word(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

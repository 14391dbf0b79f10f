package state

import (
	"unsafe"

	"github.com/firnlog/firn/metastore/entry"
)

// SetNext moves the next offset to where no test can append its way to.
func (p *Partition) SetNext(next int64) { p.next = next }

// SetSize makes a partition believe that its rows add up to this.
func (p *Partition) SetSize(size int64) { p.size = size }

// GroupBytes is what ids, records and metadata of groups add up to.
func (s *State) GroupBytes() int64 { return s.groups.bytes }

// FillGroups makes the state believe that it has this much more of groups, offsets and bytes.
func (s *State) FillGroups(groups, offsets int, bytes int64) {
	s.groups.count += groups
	s.groups.offsets += offsets
	s.groups.bytes += bytes
}

// Sizes of what there are many of.
const (
	PartitionBytes = unsafe.Sizeof(Partition{})
	ProducerBytes  = unsafe.Sizeof(producer{})
	OffsetBytes    = unsafe.Sizeof(offset{})
	GroupRowBytes  = unsafe.Sizeof(Group{})
)

// ObjectTable is the table of live objects alone, each named once.
type ObjectTable struct{ x objectTable }

func NewObjectTable() *ObjectTable { return &ObjectTable{newObjectTable()} }

// Reserve makes room for so many objects.
func (t *ObjectTable) Reserve(n int) { t.x.reserve(n) }

func (t *ObjectTable) Add(id entry.ObjectID, size int64, born uint64) uint32 {
	slot := t.x.add(&id, size, born)
	t.x.at(slot).refs = 1
	return slot
}

func (t *ObjectTable) Find(id entry.ObjectID) (slot uint32, live bool) { return t.x.find(&id) }

func (t *ObjectTable) Remove(slot uint32) { t.x.remove(slot) }

// At is what the table knows of the object in a slot.
func (t *ObjectTable) At(slot uint32) Object {
	o := t.x.at(slot)
	return Object{ID: t.x.id(o), Size: o.size, Born: o.born}
}

// Compare orders objects as a snapshot does.
func (t *ObjectTable) Compare(a, b uint32) int { return t.x.compare(t.x.at(a), t.x.at(b)) }

// Slots are those with an object.
func (t *ObjectTable) Slots() (slots []uint32) {
	for slot := range t.x.all() {
		slots = append(slots, slot)
	}
	return slots
}

// Sizes are how many slots were ever needed at once, and how many uploaders and topics are known.
func (t *ObjectTable) Sizes() (slots, uploaders, topics int) {
	return t.x.made, len(t.x.uploaders.numbers), len(t.x.topics.numbers)
}

// LongestChain is the most objects in a bucket.
func (t *ObjectTable) LongestChain() (most int) {
	for _, next := range t.x.buckets {
		n := 0
		for ; next != 0; n++ {
			next = t.x.at(next - 1).next
		}
		most = max(most, n)
	}
	return most
}

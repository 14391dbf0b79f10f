package state

import "unsafe"

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

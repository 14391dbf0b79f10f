package state

import (
	"unsafe"

	"github.com/firnlog/firn/metastore/entry"
)

// MemoryBytes estimates the heap that the state holds, by walking it: topics times partitions, groups times topics; not rows, not offsets.
func (s *State) MemoryBytes() int64 {
	const mapOverhead = 16 // bytes an element: control bytes and load factor
	total := int64(len(s.ring)) * 32
	for _, a := range s.agents.joined {
		total += int64(unsafe.Sizeof(*a)) + int64(len(a.Name)+len(a.Zone)+len(a.Version)) + mapOverhead
	}
	total += int64(len(s.agents.departed)) * (24 + 16 + mapOverhead)
	x := &s.objects
	total += int64(len(x.chunks))*int64(unsafe.Sizeof([chunkSlots]object{})) + int64(cap(x.buckets))*4
	total += int64(len(x.uploaders.values)) * (2*int64(unsafe.Sizeof(uploader{})) + 8 + mapOverhead)
	total += int64(len(x.topics.values)) * (2*int64(unsafe.Sizeof(entry.UUID{})) + 8 + mapOverhead)
	total += int64(len(x.retired)) * (int64(unsafe.Sizeof(entry.ObjectID{})) + 24 + mapOverhead)
	for _, pending := range x.pending {
		total += int64(unsafe.Sizeof(*pending)) + int64(cap(pending.parts))*int64(unsafe.Sizeof(PartitionRef{})) + mapOverhead
	}
	total += s.groups.bytes + int64(s.groups.more)*int64(unsafe.Sizeof(offsetMore{}))
	for i := range s.groups.slots {
		total += int64(cap(s.groups.slots[i].groups)) * 8
		for _, g := range s.groups.slots[i].groups {
			total += int64(unsafe.Sizeof(*g)) + int64(cap(g.members))*int64(unsafe.Sizeof(entry.GroupMember{})) + int64(cap(g.topics))*int64(unsafe.Sizeof(groupTopic{}))
			for j := range g.topics {
				total += int64(cap(g.topics[j].offsets)) * int64(unsafe.Sizeof(offset{}))
			}
		}
	}
	for _, t := range s.topics.sorted {
		total += int64(cap(t.readers)) * 8
		total += int64(unsafe.Sizeof(*t)) + int64(2*len(t.Name)) + 2*mapOverhead
		for i := range t.Configs {
			total += 32 + int64(len(t.Configs[i].Name)+len(t.Configs[i].Value))
		}
		for i := range t.parts {
			p := &t.parts[i]
			total += int64(unsafe.Sizeof(*p)) + int64(cap(p.producers))*int64(unsafe.Sizeof(producer{}))
			if p.history != nil {
				total += int64(unsafe.Sizeof(*p.history)) + int64(cap(*p.history))*int64(unsafe.Sizeof(EpochStart{}))
			}
			total += int64(cap(p.rows.pages)) * int64(unsafe.Sizeof(page{}))
			for j := range p.rows.pages {
				total += int64(cap(p.rows.pages[j].data))
			}
		}
	}
	return total
}

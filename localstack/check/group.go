package check

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Group judges what a consumer group made of the partitions of a History: what its members were shown, and what it committed.
// Every record must reach a member at least once; what one member is shown between getting a partition and giving it up comes
// without gaps, repetitions or steps back; what is committed never goes back, and an acknowledged commit is never forgotten.
//
// All methods may be called concurrently; Finish is called last.
type Group struct {
	mu       sync.Mutex // guards the rest; held for arithmetic only
	parts    []groupPartition
	counts   [groupKinds]int
	findings []string
	shown    int
	repeated int
}

// groupPartition is what is known of one partition.
type groupPartition struct {
	numbers []uint32         // by offset, what the group was first shown there; noNumber where nothing
	next    map[string]int64 // by member that has the partition, its next offset; -1 before the first
	acked   int64            // the highest commit acknowledged. Invariant: only rises.
	floor   int64            // the least that may be found committed from now on. Invariant: only rises.
}

// GroupKind is one way in which a group can be wrong.
type GroupKind uint8

// The kinds.
const (
	GroupUnseen     GroupKind = iota // an offset below the end that no member was shown
	GroupGap                         // a member's next record skips offsets
	GroupBack                        // a member is shown an offset that it has passed without having lost the partition
	GroupStray                       // a member is shown a record of a partition that it does not have
	GroupOtherThing                  // a member is shown another record than the log has at this offset, or than another member was
	CommitBack                       // what is committed is less than what was committed or acknowledged before it was asked for
	CommitBeyond                     // what is committed at the end is not the end
	groupKinds
)

func (k GroupKind) String() string {
	return [...]string{"unseen", "gap", "back", "stray", "other_thing", "commit_back", "commit_beyond"}[k]
}

// groupOffsetsMax bounds the memory of a partition: 4 bytes an offset.
const groupOffsetsMax = 1 << 26

// NewGroup returns a judge of partitions 0 to partitions-1.
func NewGroup(partitions int) *Group {
	g := &Group{parts: make([]groupPartition, partitions)}
	for i := range g.parts {
		g.parts[i].next = make(map[string]int64)
	}
	return g
}

// Assigned notes that a member has got partitions, to begin wherever the group has got to.
func (g *Group) Assigned(member string, partitions ...int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range partitions {
		g.parts[p].next[member] = -1
	}
}

// Revoked notes that a member has given partitions up, or lost them.
func (g *Group) Revoked(member string, partitions ...int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range partitions {
		delete(g.parts[p].next, member)
	}
}

// Gone notes that a member is no more.
func (g *Group) Gone(member string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.parts {
		delete(g.parts[p].next, member)
	}
}

// Read notes a record that a member was shown.
func (g *Group) Read(member string, partition int, offset int64, number uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &g.parts[partition]
	g.shown++
	next, has := p.next[member]
	switch {
	case !has:
		g.findLocked(GroupStray, "%s: partition %d offset %d", member, partition, offset)
	case next >= 0 && offset > next:
		g.findLocked(GroupGap, "%s: partition %d skipped from offset %d to %d", member, partition, next, offset)
	case offset < next:
		g.findLocked(GroupBack, "%s: partition %d went back from offset %d to %d", member, partition, next, offset)
	}
	if has {
		p.next[member] = offset + 1
	}
	if offset < 0 || offset >= groupOffsetsMax {
		g.findLocked(GroupOtherThing, "%s: partition %d offset %d is beyond anything sent", member, partition, offset)
		return
	}
	for int64(len(p.numbers)) <= offset {
		p.numbers = append(p.numbers, noNumber)
	}
	switch was := p.numbers[offset]; was {
	case noNumber:
		p.numbers[offset] = number
	case number:
		g.repeated++
	default:
		g.findLocked(GroupOtherThing, "%s: partition %d offset %d has record %d, before it was %d", member, partition, offset, number, was)
	}
}

// Committed notes that the commit of an offset, which is the next one to be read, was acknowledged.
func (g *Group) Committed(partition int, offset int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &g.parts[partition]
	p.acked = max(p.acked, offset)
	p.floor = max(p.floor, offset)
}

// CommitFloor returns the least that a partition's committed offset may be if it is asked for from now on.
func (g *Group) CommitFloor(partition int) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.parts[partition].floor
}

// FoundCommitted notes a partition's committed offset as asked for when CommitFloor was floor; 0 where there is none.
func (g *Group) FoundCommitted(partition int, floor, offset int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &g.parts[partition]
	if offset < floor {
		g.findLocked(CommitBack, "partition %d: %d is committed after %d was (acknowledged: %d)", partition, offset, floor, p.acked)
	}
	p.floor = max(p.floor, offset)
}

// SeenUpTo says whether the group was shown everything below ends.
func (g *Group) SeenUpTo(ends []int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.parts {
		if int64(len(g.parts[i].numbers)) < ends[i] || slices.Contains(g.parts[i].numbers[:ends[i]], noNumber) {
			return false
		}
	}
	return true
}

func (g *Group) findLocked(k GroupKind, format string, args ...any) {
	g.counts[k]++
	if g.counts[k] <= findingsPerKind {
		g.findings = append(g.findings, k.String()+": "+fmt.Sprintf(format, args...))
	}
}

// GroupSummary is the verdict over a group.
type GroupSummary struct {
	// Shown counts records shown to members, every showing; Repeated those that the group had been shown before, as happens where
	// a partition changes hands before what was read of it is committed.
	Shown, Repeated int
	Findings        []string // the first few of each kind
	counts          [groupKinds]int
}

// Of returns the count of one kind.
func (s GroupSummary) Of(k GroupKind) int { return s.counts[k] }

// Only says that nothing is wrong but what is of this kind.
func (s GroupSummary) Only(k GroupKind) bool {
	s.counts[k] = 0
	return s.Verdict() == ""
}

// Verdict says in a few words what is wrong, and "" where nothing is. A group that was shown nothing proves nothing.
func (s GroupSummary) Verdict() string {
	var wrong []string
	for k := range groupKinds {
		if n := s.counts[k]; n > 0 {
			wrong = append(wrong, fmt.Sprintf("%s=%d", k, n))
		}
	}
	if len(wrong) == 0 && s.Shown == 0 {
		return "no member was shown anything"
	}
	return strings.Join(wrong, " ")
}

// Finish compares the group with the log as a History's readers were shown it, and the commits found at the end with the ends.
func (g *Group) Finish(h *History, ends, committed []int64) GroupSummary {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.parts {
		p := &g.parts[i]
		for offset := range ends[i] {
			number := uint32(noNumber)
			if offset < int64(len(p.numbers)) {
				number = p.numbers[offset]
			}
			if number == noNumber {
				g.findLocked(GroupUnseen, "partition %d offset %d", i, offset)
			} else if want, ok := h.numberAt(i, offset); ok && want != number {
				g.findLocked(GroupOtherThing, "partition %d offset %d: the group was shown record %d, the log has %d", i, offset, number, want)
			}
		}
		if committed[i] != ends[i] {
			g.findLocked(CommitBeyond, "partition %d: %d is committed at the end, %d is the end", i, committed[i], ends[i])
		}
	}
	return GroupSummary{Shown: g.shown, Repeated: g.repeated, Findings: g.findings, counts: g.counts}
}

// numberAt returns the number of the record that readers were shown at an offset.
func (h *History) numberAt(partition int, offset int64) (uint32, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.parts[partition].slot(offset)
	if s == nil || !s.known {
		return 0, false
	}
	return s.number, true
}

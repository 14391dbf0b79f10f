package entry

// The ops of consumer groups, all of feature level 2. Each names a slot and the coordinator epoch under which the proposer
// owns it: metastore/state refuses it where either is not so any more.

func (*ClaimSlot) op() opKind     { return kindClaimSlot }
func (*UpdateGroup) op() opKind   { return kindUpdateGroup }
func (*CommitOffsets) op() opKind { return kindCommitOffsets }
func (*DeleteOffsets) op() opKind { return kindDeleteOffsets }
func (*DeleteGroup) op() opKind   { return kindDeleteGroup }

// ClaimSlot makes Owner the owner of a slot. The n of its entry is the slot's new coordinator epoch.
type ClaimSlot struct {
	Slot  uint32
	Epoch uint64   // the coordinator epoch that the proposer saw; 0 where the slot was never claimed
	Owner [16]byte // a joined incarnation: the proposer's, or that of the peer it hands the slot to
}

// Kinds of groups.
const (
	GroupSimple   = 0 // offsets only, or nothing known yet
	GroupClassic  = 1
	GroupConsumer = 2 // KIP-848
)

// UpdateGroup makes a group, or changes it: Generation, Kind and Record replace the group's, Removes leave, then Puts are
// added or replace members of their ids.
type UpdateGroup struct {
	Slot       uint32
	Epoch      uint64
	Group      string
	Generation int32 // not negative
	Kind       uint32
	Record     []byte // the coordinator's, opaque here
	Puts       []GroupMember
	Removes    []string
	Complete   bool // false: the change goes on in a later op, because it is too large for one
}

// GroupMember is a member's record, which is the coordinator's and opaque here.
type GroupMember struct {
	ID     string
	Record []byte
}

// CommitOffsets commits offsets for a group. Generation must be the group's; -1 is for a group without members, which need
// not be there yet.
type CommitOffsets struct {
	Slot       uint32
	Epoch      uint64
	Group      string
	Generation int32
	Offsets    []GroupOffset // cheapest where those of one topic follow each other
}

// GroupOffset is what a group commits for a partition.
type GroupOffset struct {
	Topic       UUID
	Partition   uint32
	Offset      int64 // not negative
	LeaderEpoch int32 // -1: none
	Metadata    string
	ExpireMs    int64 // log time (Unix milliseconds) from which it may be removed; -1: the group's retention decides
}

// DeleteOffsets removes committed offsets.
type DeleteOffsets struct {
	Slot       uint32
	Epoch      uint64
	Group      string
	Offsets    []GroupPartition
	NotAfterMs int64 // where not 0: only offsets committed at or before this log time
}

// GroupPartition names a partition of which a group has an offset.
type GroupPartition struct {
	Topic     UUID
	Partition uint32
}

// DeleteGroup removes a group without members, with its offsets.
type DeleteGroup struct {
	Slot  uint32
	Epoch uint64
	Group string
}

// Check reports whether op is one that decodes: an entry that does not would stop every agent. Whoever has many keeps an Encoder.
func Check(op Op) error {
	var x Encoder
	x.Encode(op)
	return x.Check()
}

package entry

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
)

// Format is the only entry format so far.
const Format = 1

// Bounds on what is decoded. They are far above what agents write and exist so that sums cannot overflow and a hostile
// value cannot make a reader allocate much more than its length.
const (
	MaxBytes      = 1 << 20        // of one encoded entry
	MaxString     = 32 << 10       // bytes of a name or value
	MaxSpan       = math.MaxInt32  // offsets one batch takes
	MaxBatchBytes = math.MaxInt32  // raw bytes of one batch
	MaxPosition   = int64(1) << 48 // bytes, in an object or block
	MaxClockMs    = int64(1) << 50 // Unix milliseconds
	MaxSequence   = math.MaxInt32  // of a producer; the next one is 0
	MaxRecord     = 512 << 10      // bytes of a record of a group or member
	MaxOffsets    = 100_000        // that an entry commits, or an op deletes: each takes two bytes there at least, and 56 in memory
	maxID         = math.MaxInt32  // partition and block numbers
	maxEpoch      = math.MaxInt16  // of a producer
	maxOffset     = math.MaxInt64  // of a record
	maxPort       = math.MaxUint16 // of a listener
	maxLevel      = math.MaxUint32 // feature level
	maxCount      = math.MaxInt32  // partitions, replication factor, ids to reserve
	maxSeq        = math.MaxUint64 // of an incarnation
	uuidBytes     = 16
)

var (
	// ErrCorrupt: these bytes are not an entry. A log that was archived with its hash never holds such bytes, so whoever
	// meets them has read something else.
	ErrCorrupt = errors.New("corrupt entry")
	// ErrUnknownOp: the entry holds an op that this build does not know. The agent must stop: a newer build wrote it.
	ErrUnknownOp = errors.New("unknown op")
	// ErrNewerFormat: the entry's format, one of its fields or one of its flags is newer than this build. The agent must stop.
	ErrNewerFormat = errors.New("newer entry format")
)

// UUID is a topic's id.
type UUID [16]byte

func (u UUID) String() string { return hex.EncodeToString(u[:]) }

// MarshalText is String, so that JSON has it as text.
func (u UUID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, u[:]), nil }

// UnmarshalText reads 32 hexadecimal digits.
func (u *UUID) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(u)) {
		return fmt.Errorf("an id has %d hexadecimal digits, this one %d", hex.EncodedLen(len(u)), len(text))
	}
	_, err := hex.Decode(u[:], text)
	return err
}

// Entry is one immutable value of the metastore's log.
type Entry struct {
	Format       uint32   // Format; 0 is written as Format
	FeatureLevel uint32   // the lowest level an agent must understand to apply this entry
	Incarnation  [16]byte // of the proposer
	Seq          uint64   // contiguous per incarnation, from 1
	ClockMs      int64    // the proposer's wall clock, Unix milliseconds
	SeenN        uint64   // an n that the proposer had applied,
	SeenHash     uint64   // and the first 8 bytes (big endian) of its chain hash there
	Ops          []Op
}

// Op is one change inside an entry: a pointer to one of the structs below.
type Op interface{ op() opKind }

// opKind is the field number of an op in message Op.
type opKind int32

const (
	kindJoin opKind = iota + 1
	kindLeave
	kindTick
	kindCreateTopic
	kindDeleteTopic
	kindCreatePartitions
	kindAlterConfigs
	kindAppend
	kindRelocate
	kindReserveProducerIDs
	kindSetFeatureLevel
	kindBumpCollectionEpoch
	kindExpireProducers
	kindDeleteRecords
	kindNewLogEpoch
	kindClaimSlot
	kindUpdateGroup
	kindCommitOffsets
	kindDeleteOffsets
	kindDeleteGroup
	kindRewrite
)

func (*Join) op() opKind                { return kindJoin }
func (*Leave) op() opKind               { return kindLeave }
func (*Tick) op() opKind                { return kindTick }
func (*CreateTopic) op() opKind         { return kindCreateTopic }
func (*DeleteTopic) op() opKind         { return kindDeleteTopic }
func (*CreatePartitions) op() opKind    { return kindCreatePartitions }
func (*AlterConfigs) op() opKind        { return kindAlterConfigs }
func (*Append) op() opKind              { return kindAppend }
func (*Relocate) op() opKind            { return kindRelocate }
func (*ReserveProducerIDs) op() opKind  { return kindReserveProducerIDs }
func (*SetFeatureLevel) op() opKind     { return kindSetFeatureLevel }
func (*BumpCollectionEpoch) op() opKind { return kindBumpCollectionEpoch }
func (*ExpireProducers) op() opKind     { return kindExpireProducers }
func (*DeleteRecords) op() opKind       { return kindDeleteRecords }
func (*NewLogEpoch) op() opKind         { return kindNewLogEpoch }

// Join adds the proposing incarnation to the agents of the cluster. It is the first op of an incarnation's first entry.
type Join struct {
	Name            string // stable across restarts; names the agent's node id
	Listeners       []Listener
	Zone            string
	Version         string // build, for people
	MaxFeatureLevel uint32
}

// Listener is an address that clients may be told.
type Listener struct {
	Name string
	Host string
	Port uint32
}

// Leave removes an incarnation: the proposer when it drains, or a dead one whose registration is gone.
type Leave struct{ Incarnation [16]byte }

// Tick carries the entry's clock and nothing else.
type Tick struct{}

// CreateTopic makes a topic. Assignment is kept and reported as it was asked for: empty, or one per partition.
type CreateTopic struct {
	Name              string
	ID                UUID // random, chosen by the proposer
	Partitions        uint32
	ReplicationFactor uint32
	Configs           []Config
	Assignment        []Replicas
}

// Config is one explicit setting.
type Config struct {
	Name  string
	Value string
}

// Replicas are the node ids asked for a partition.
type Replicas struct{ Nodes []int32 }

// DeleteTopic removes a topic and everything in it.
type DeleteTopic struct{ ID UUID }

// CreatePartitions raises a topic's number of partitions to Total.
type CreatePartitions struct {
	ID         UUID
	Total      uint32
	Assignment []Replicas // of the new partitions; empty, or one each
}

// Resource types of AlterConfigs, as Kafka numbers them.
const (
	ResourceTopic  = 2
	ResourceBroker = 4
)

// Kinds of ConfigChange, as Kafka numbers them. Append and subtract treat the value as a comma-separated list.
const (
	ConfigSet      = 0
	ConfigDelete   = 1
	ConfigAppend   = 2
	ConfigSubtract = 3
)

// AlterConfigs changes the settings of a topic, or of all agents (ResourceBroker and an empty name).
type AlterConfigs struct {
	ResourceType uint32
	ResourceName string
	Changes      []ConfigChange
	ReplaceAll   bool // what is not named goes back to its default
}

// ConfigChange is one change of a setting.
type ConfigChange struct {
	Name  string
	Kind  uint32
	Value string
}

// Locations of an Append.
const (
	InBucket = 0
	InWAL    = 1 // of the proposer; the bytes are those of the future object
)

// Append gives batches their offsets. It names blocks of one object, not necessarily all of them.
type Append struct {
	Object     ObjectID
	ObjectSize uint64 // bytes
	Location   uint32 // InBucket or InWAL
	Blocks     []Block
}

// Relocate moves data. In the bind form (Bind set, the range fields zero) an object whose bytes were in a WAL is now in
// the bucket. In the range form the rows of [StartOffset, EndOffset) of a partition, if they are exactly Expected, are
// replaced by Rows; no rows means that the range is given up.
type Relocate struct {
	Bind        ObjectID
	ObjectSize  uint64 // of Bind
	Topic       UUID
	Partition   uint32
	StartOffset int64
	EndOffset   int64 // exclusive
	Expected    []Row
	Rows        []Row
}

// IsBind reports which form r has.
func (r *Relocate) IsBind() bool { return r.Bind.Seq != 0 }

// Row locates the offsets [BaseOffset, EndOffset) of a partition in a block of an object.
type Row struct {
	Object        ObjectID
	ObjectSize    uint64
	Block         uint32
	BaseOffset    int64
	EndOffset     int64 // exclusive
	MaxTimestamp  int64
	LogAppendTime bool   // the timestamp is the log's and replaces the producer's on fetch
	Position      uint64 // raw byte range in the block
	Size          uint64 // positive
	Cleaned       bool   // key compaction has been over it
}

// ReserveProducerIDs takes Count ids for the proposer to hand out.
type ReserveProducerIDs struct{ Count uint32 }

// SetFeatureLevel raises what every agent must understand.
type SetFeatureLevel struct{ Level uint32 }

// BumpCollectionEpoch moves the collection epoch on by one where it is still From.
type BumpCollectionEpoch struct{ From uint64 }

// ExpireProducers forgets producer states idle since before this log time (Unix milliseconds).
type ExpireProducers struct{ BeforeMs int64 }

// DeleteRecords raises the log start offset of a partition.
type DeleteRecords struct {
	Topic        UUID
	Partition    uint32
	BeforeOffset int64 // -1: the high watermark
}

// NewLogEpoch opens a log epoch: the first op after the proposer's join in the first entry of a log that was restored
// from the bucket. What was ordered after the last archived entry may come back at other offsets, so every partition's
// leader epoch rises with it.
type NewLogEpoch struct{ Epoch uint64 }

package state

import (
	"encoding/binary"
	"fmt"

	"github.com/firnlog/firn/metastore/entry"
)

// Code says what became of an entry, an op or a batch. The numbers are hashed into the chain: they are never reused.
type Code uint8

const (
	OK Code = iota
	// Of batches.
	Duplicate          // an exact copy of one of the producer's last five batches; BaseOffset is the original's
	DuplicateSequence  // older than those, and certainly in the log; its offset is no longer known
	OutOfOrderSequence // a gap, or sequences from before the first that is known
	ProducerFenced     // a higher producer epoch has written
	ConditionFailed    // the block's expected next offset, or the collection epoch a bump expects
	OffsetOverflow     // no offsets left
	TransactionState   // transactional batch: no transaction is open (this feature level has none)
	// Of what an op names.
	UnknownTopic
	UnknownPartition
	TopicExists
	InvalidTopic
	InvalidPartitions
	InvalidAssignment
	InvalidConfig
	InvalidRequest
	OffsetOutOfRange
	StaleCollectionEpoch
	InvalidObject // an object of the future, or of another size than the same object had
	UnknownObject
	Conflict // the rows are not those expected
	LimitExceeded
	FeatureLevelUnsupported // by a joined agent, or by the one that joins
	// Of entries, and of agents.
	NotJoined
	AlreadyJoined
	SeqRepeated
	SeqGap
	FeatureLevelNotReached // the entry or an op needs a higher feature level than the cluster's
	// Of groups.
	StaleCoordinator // the proposer does not own the slot, or not under this coordinator epoch
	StaleGeneration
	UnknownGroup
	GroupNotEmpty // it has members
	codes         // how many there are
)

var codeNames = [codes]string{
	OK: "ok", Duplicate: "duplicate", DuplicateSequence: "duplicate sequence", OutOfOrderSequence: "out of order sequence",
	ProducerFenced: "producer fenced", ConditionFailed: "condition failed", OffsetOverflow: "offset overflow",
	TransactionState: "invalid transaction state", UnknownTopic: "unknown topic", UnknownPartition: "unknown partition",
	TopicExists: "topic exists", InvalidTopic: "invalid topic", InvalidPartitions: "invalid partitions",
	InvalidAssignment: "invalid assignment", InvalidConfig: "invalid config", InvalidRequest: "invalid request",
	OffsetOutOfRange: "offset out of range", StaleCollectionEpoch: "stale collection epoch", InvalidObject: "invalid object",
	UnknownObject: "unknown object", Conflict: "conflict", LimitExceeded: "limit exceeded",
	FeatureLevelUnsupported: "feature level unsupported", NotJoined: "not joined", AlreadyJoined: "already joined",
	SeqRepeated: "seq repeated", SeqGap: "seq gap", FeatureLevelNotReached: "feature level not reached",
	StaleCoordinator: "stale coordinator", StaleGeneration: "stale generation", UnknownGroup: "unknown group", GroupNotEmpty: "group not empty",
}

func (c Code) String() string {
	if c < codes {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// Results says what Apply did with one entry. It is reused between calls: slices in it are valid until the next one.
type Results struct {
	// EntryCode is OK where the entry was taken. Otherwise it had no effect and Ops is empty.
	EntryCode Code
	Ops       []OpResult // one an op
	// Changed holds the partitions whose next offset, log start offset or rows changed, or whose rows moved from a WAL to
	// the bucket; each once, in no order that means anything. It may name a partition that lost its last row in a bound
	// object before. Partitions that are created and topics that are deleted are not listed: TopicsChanged says so.
	Changed       []PartitionRef
	TopicsChanged bool // topics, partition counts or configs
	AgentsChanged bool
	SlotsChanged  bool // owners of slots
	// Groups holds the ids of groups that changed, were made or are gone, in no order that means anything; an id comes twice
	// where one was deleted and made again.
	Groups []string

	batches []BatchResult
	offsets []Code
	parts   []Code
	digest  []byte
}

// OpResult is the result of one op.
type OpResult struct {
	Code            Code
	FirstProducerID int64         // of ReserveProducerIDs, else -1
	NodeID          int32         // of Join, else -1
	LogStartOffset  int64         // of DeleteRecords, else -1
	Batches         []BatchResult // of Append: all batches of all blocks, in order
	Offsets         []Code        // of CommitOffsets and DeleteOffsets that were not refused: one an offset
	Parts           []Code        // of a Rewrite that was not refused: one a part
}

// BatchResult is the result of one batch of an Append.
type BatchResult struct {
	Code           Code
	BaseOffset     int64 // of the batch, or of the original of a Duplicate; else -1
	Timestamp      int64 // log append time (Unix milliseconds) that replaces the producer's, or -1
	LogStartOffset int64 // of the partition, or -1
}

// PartitionRef names a partition.
type PartitionRef struct {
	Topic     entry.UUID
	Partition int32
}

func (r *Results) reset() {
	*r = Results{Ops: r.Ops[:0], Changed: r.Changed[:0], Groups: r.Groups[:0], batches: r.batches[:0], offsets: r.offsets[:0], parts: r.parts[:0], digest: r.digest[:0]}
}

func (r *Results) add(o OpResult) {
	r.Ops = append(r.Ops, o)
}

func rejected(code Code) OpResult {
	return OpResult{Code: code, FirstProducerID: -1, NodeID: -1, LogStartOffset: -1}
}

// bytes encodes what the chain hash covers: everything that a client can be told.
func (r *Results) bytes() []byte {
	b := append(r.digest[:0], byte(r.EntryCode))
	for i := range r.Ops {
		o := &r.Ops[i]
		b = append(b, byte(o.Code))
		b = binary.BigEndian.AppendUint64(b, uint64(o.FirstProducerID))
		b = binary.BigEndian.AppendUint32(b, uint32(o.NodeID))
		b = binary.BigEndian.AppendUint64(b, uint64(o.LogStartOffset))
		b = binary.BigEndian.AppendUint32(b, uint32(len(o.Batches)))
		for j := range o.Batches {
			batch := &o.Batches[j]
			b = append(b, byte(batch.Code))
			b = binary.BigEndian.AppendUint64(b, uint64(batch.BaseOffset))
			b = binary.BigEndian.AppendUint64(b, uint64(batch.Timestamp))
			b = binary.BigEndian.AppendUint64(b, uint64(batch.LogStartOffset))
		}
		for _, code := range o.Offsets { // as many as the op has: their count needs no hashing, and other ops' results stay as they were
			b = append(b, byte(code))
		}
		for _, code := range o.Parts { // likewise
			b = append(b, byte(code))
		}
	}
	r.digest = b
	return b
}

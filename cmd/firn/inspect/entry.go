package inspect

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/firnlog/firn/metastore/entry"
)

// Names gives the name of a topic where it is known, else "".
type Names func(topic entry.UUID) string

// Entry is one entry of the metastore's log.
type Entry struct {
	Type         string `json:"type"`
	Name         string `json:"name"`
	N            uint64 `json:"n,omitempty"`      // 0: not known, the entry's bytes do not say
	Source       string `json:"source,omitempty"` // where a numbered entry was found
	Bytes        int    `json:"bytes"`
	Format       uint32 `json:"format"`
	FeatureLevel uint32 `json:"feature_level"`
	Incarnation  string `json:"incarnation"`
	Seq          uint64 `json:"seq"`
	ClockMs      int64  `json:"clock_ms"`
	SeenN        uint64 `json:"seen_n"`
	SeenHash     string `json:"seen_hash"`
	Ops          []*Op  `json:"ops"`
}

// Op is one op. Its kind says which of the other fields are there.
type Op struct {
	Op string `json:"op"`

	Agent           string     `json:"agent,omitempty"` // join
	Listeners       []string   `json:"listeners,omitempty"`
	Zone            string     `json:"zone,omitempty"`
	Version         string     `json:"version,omitempty"`
	MaxFeatureLevel uint32     `json:"max_feature_level,omitempty"`
	Incarnation     string     `json:"incarnation,omitempty"` // leave
	Topic           string     `json:"topic,omitempty"`       // name, where it is known
	TopicID         string     `json:"topic_id,omitempty"`
	Partitions      *uint32    `json:"partitions,omitempty"` // create_topic, create_partitions
	Replication     *uint32    `json:"replication_factor,omitempty"`
	Configs         []Setting  `json:"configs,omitempty"`
	Assignment      [][]int32  `json:"assignment,omitempty"`
	Resource        string     `json:"resource,omitempty"` // alter_configs: topic NAME, or cluster
	ReplaceAll      bool       `json:"replace_all,omitempty"`
	Object          string     `json:"object,omitempty"` // append, relocate: its key
	ObjectBytes     uint64     `json:"object_bytes,omitempty"`
	InWAL           bool       `json:"in_wal,omitempty"` // append
	Blocks          []BlockOp  `json:"blocks,omitempty"`
	Objects         []ObjectOp `json:"objects,omitempty"` // rewrite
	Parts           []PartOp   `json:"parts,omitempty"`
	Partition       *uint32    `json:"partition,omitempty"` // relocate, delete_records
	StartOffset     *int64     `json:"start_offset,omitempty"`
	EndOffset       *int64     `json:"end_offset,omitempty"`
	Expected        []RowOp    `json:"expected,omitempty"`
	Rows            []RowOp    `json:"rows,omitempty"`
	Count           *uint32    `json:"count,omitempty"`            // reserve_producer_ids
	Level           *uint32    `json:"level,omitempty"`            // set_feature_level
	CollectionEpoch *uint64    `json:"collection_epoch,omitempty"` // bump_collection_epoch: the one it goes on from
	LogEpoch        *uint64    `json:"log_epoch,omitempty"`        // new_log_epoch
	BeforeMs        *int64     `json:"before_ms,omitempty"`        // expire_producers
	BeforeOffset    *int64     `json:"before_offset,omitempty"`    // delete_records; -1: the high watermark
	*GroupOp                   // claim_slot and the ops of groups
}

// Setting is a config, and in alter_configs the change to it.
type Setting struct {
	Name   string `json:"name"`
	Change string `json:"change,omitempty"` // set, delete, append, subtract
	Value  string `json:"value"`
}

// BlockOp is a block of an append. The columns have one value a batch.
type BlockOp struct {
	Topic              string   `json:"topic,omitempty"`
	TopicID            string   `json:"topic_id"`
	Partition          uint32   `json:"partition"`
	Block              uint32   `json:"block"`
	FirstPosition      uint64   `json:"first_position"` // raw, in the block
	ExpectedNextOffset *int64   `json:"expected_next_offset,omitempty"`
	Sizes              []uint64 `json:"sizes"`
	Spans              []uint64 `json:"spans"`
	MaxTimestamps      []int64  `json:"max_timestamps_ms"`
	Runs               []RunOp  `json:"runs,omitempty"`
}

// RunOp is a run of batches of one producer.
type RunOp struct {
	FirstBatch    uint32 `json:"first_batch"`
	Batches       uint32 `json:"batches"`
	ProducerID    int64  `json:"producer_id"`
	ProducerEpoch uint32 `json:"producer_epoch"`
	BaseSequence  uint32 `json:"base_sequence"`
	Transactional bool   `json:"transactional,omitempty"`
}

// RowOp is a row of a relocation.
type RowOp struct {
	Object        string `json:"object"`
	ObjectBytes   uint64 `json:"object_bytes"`
	Block         uint32 `json:"block"`
	BaseOffset    int64  `json:"base_offset"`
	EndOffset     int64  `json:"end_offset"`
	MaxTimestamp  int64  `json:"max_timestamp_ms"`
	LogAppendTime bool   `json:"log_append_time,omitempty"`
	Position      uint64 `json:"position"` // raw, in the block
	Bytes         uint64 `json:"bytes"`
	Cleaned       bool   `json:"cleaned,omitempty"` // key compaction has been over it
}

// ObjectOp is an object that a rewrite moves rows to.
type ObjectOp struct {
	Object string `json:"object"` // its key
	Bytes  uint64 `json:"bytes"`
}

// PartOp is what a rewrite replaces in one partition, and by what.
type PartOp struct {
	Partition   uint32  `json:"partition"`
	StartOffset int64   `json:"start_offset"`
	EndOffset   int64   `json:"end_offset"`
	Expected    uint32  `json:"expected_rows"`
	Digest      string  `json:"expected_digest"`
	Cleaned     bool    `json:"cleaned,omitempty"`
	Rows        []RowOp `json:"rows"`
}

// EntryFile prints the entry whose bytes are the input.
func EntryFile(in *Input, out *Out) error {
	b, err := in.whole(entry.MaxBytes)
	if err != nil {
		return err
	}
	if is := sniff(b); is != "" {
		return in.wrong("entry")
	}
	if err := PutEntry(out, in.Name, 0, "", b, nil); err != nil {
		return err
	}
	return out.end("entry", in.Name)
}

// PutEntry decodes and prints one entry. Bytes that are no entry are damage; a newer format is an error.
func PutEntry(out *Out, name string, n uint64, source string, b []byte, names Names) error {
	e, err := entry.Parse(b)
	switch {
	case errors.Is(err, entry.ErrNewerFormat), errors.Is(err, entry.ErrUnknownOp):
		return fmt.Errorf("%w %s: %w; a newer firn wrote it, run that one", ErrUnreadable, placeOf(name, n), err)
	case err != nil:
		return out.put(&Damage{Type: "damage", Name: placeOf(name, n), Part: "entry", Size: int64(len(b)), Problem: err.Error()})
	}
	v := entryView(e, names)
	v.Name, v.N, v.Source, v.Bytes = name, n, source, len(b)
	return out.put(v)
}

func placeOf(name string, n uint64) string {
	if n == 0 {
		return name
	}
	return fmt.Sprintf("%s, entry n=%d", name, n)
}

func entryView(e *entry.Entry, names Names) *Entry {
	if names == nil {
		names = func(entry.UUID) string { return "" }
	}
	v := &Entry{
		Type: "entry", Format: e.Format, FeatureLevel: e.FeatureLevel, Incarnation: hex.EncodeToString(e.Incarnation[:]), Seq: e.Seq,
		ClockMs: e.ClockMs, SeenN: e.SeenN, SeenHash: fmt.Sprintf("%016x", e.SeenHash), Ops: []*Op{},
	}
	for _, op := range e.Ops {
		v.Ops = append(v.Ops, opView(op, names))
	}
	return v
}

var changes = map[uint32]string{
	entry.ConfigSet: "set", entry.ConfigDelete: "delete", entry.ConfigAppend: "append", entry.ConfigSubtract: "subtract",
}

func opView(op entry.Op, names Names) *Op {
	switch op := op.(type) {
	case *entry.Join:
		v := &Op{Op: "join", Agent: op.Name, Zone: op.Zone, Version: op.Version, MaxFeatureLevel: op.MaxFeatureLevel}
		for _, l := range op.Listeners {
			v.Listeners = append(v.Listeners, fmt.Sprintf("%s=%s:%d", l.Name, l.Host, l.Port))
		}
		return v
	case *entry.Leave:
		return &Op{Op: "leave", Incarnation: hex.EncodeToString(op.Incarnation[:])}
	case *entry.Tick:
		return &Op{Op: "tick"}
	case *entry.CreateTopic:
		v := &Op{Op: "create_topic", Topic: op.Name, TopicID: op.ID.String(), Partitions: &op.Partitions, Replication: &op.ReplicationFactor,
			Assignment: assignment(op.Assignment)}
		for _, c := range op.Configs {
			v.Configs = append(v.Configs, Setting{Name: c.Name, Value: c.Value})
		}
		return v
	case *entry.DeleteTopic:
		return &Op{Op: "delete_topic", Topic: names(op.ID), TopicID: op.ID.String()}
	case *entry.CreatePartitions:
		return &Op{Op: "create_partitions", Topic: names(op.ID), TopicID: op.ID.String(), Partitions: &op.Total, Assignment: assignment(op.Assignment)}
	case *entry.AlterConfigs:
		v := &Op{Op: "alter_configs", Resource: resource(op), ReplaceAll: op.ReplaceAll}
		for _, c := range op.Changes {
			v.Configs = append(v.Configs, Setting{Name: c.Name, Change: changes[c.Kind], Value: c.Value})
		}
		return v
	case *entry.Append:
		v := &Op{Op: "append", Object: op.Object.Key(), ObjectBytes: op.ObjectSize, InWAL: op.Location == entry.InWAL}
		for i := range op.Blocks {
			v.Blocks = append(v.Blocks, blockOp(&op.Blocks[i], names))
		}
		return v
	case *entry.Relocate:
		if op.IsBind() {
			return &Op{Op: "relocate", Object: op.Bind.Key(), ObjectBytes: op.ObjectSize}
		}
		return &Op{Op: "relocate", Topic: names(op.Topic), TopicID: op.Topic.String(), Partition: &op.Partition,
			StartOffset: &op.StartOffset, EndOffset: &op.EndOffset, Expected: rows(op.Expected), Rows: rows(op.Rows)}
	case *entry.Rewrite:
		return rewriteOp(op, names)
	case *entry.ReserveProducerIDs:
		return &Op{Op: "reserve_producer_ids", Count: &op.Count}
	case *entry.SetFeatureLevel:
		return &Op{Op: "set_feature_level", Level: &op.Level}
	case *entry.BumpCollectionEpoch:
		return &Op{Op: "bump_collection_epoch", CollectionEpoch: &op.From}
	case *entry.ExpireProducers:
		return &Op{Op: "expire_producers", BeforeMs: &op.BeforeMs}
	case *entry.NewLogEpoch:
		return &Op{Op: "new_log_epoch", LogEpoch: &op.Epoch}
	case *entry.DeleteRecords:
		return &Op{Op: "delete_records", Topic: names(op.Topic), TopicID: op.Topic.String(), Partition: &op.Partition, BeforeOffset: &op.BeforeOffset}
	}
	if v := groupOp(op, names); v != nil {
		return v
	}
	return &Op{Op: strings.TrimPrefix(fmt.Sprintf("%T", op), "*entry.")} // a test holds that there is none
}

func resource(op *entry.AlterConfigs) string {
	switch {
	case op.ResourceType == entry.ResourceTopic:
		return "topic " + op.ResourceName
	case op.ResourceType == entry.ResourceBroker && op.ResourceName == "":
		return "cluster"
	}
	return fmt.Sprintf("resource type %d %s", op.ResourceType, op.ResourceName)
}

func assignment(a []entry.Replicas) [][]int32 {
	var v [][]int32
	for _, r := range a {
		v = append(v, append([]int32{}, r.Nodes...))
	}
	return v
}

func blockOp(b *entry.Block, names Names) BlockOp {
	v := BlockOp{
		Topic: names(b.Topic), TopicID: b.Topic.String(), Partition: b.Partition, Block: b.Index, FirstPosition: b.FirstPosition,
		Sizes: b.Sizes, Spans: b.Spans, MaxTimestamps: b.Timestamps,
	}
	if b.ExpectedNextOffset > 0 {
		next := b.ExpectedNextOffset - 1
		v.ExpectedNextOffset = &next
	}
	for _, r := range b.Runs {
		v.Runs = append(v.Runs, RunOp{FirstBatch: r.First, Batches: r.Count, ProducerID: r.ProducerID, ProducerEpoch: r.ProducerEpoch,
			BaseSequence: r.BaseSequence, Transactional: r.Flags&entry.Transactional != 0})
	}
	return v
}

func rewriteOp(op *entry.Rewrite, names Names) *Op {
	v := &Op{Op: "rewrite", Topic: names(op.Topic), TopicID: op.Topic.String()}
	for _, o := range op.Objects {
		v.Objects = append(v.Objects, ObjectOp{Object: o.ID.Key(), Bytes: o.Size})
	}
	for i := range op.Parts {
		p := &op.Parts[i]
		part := PartOp{Partition: p.Partition, StartOffset: p.Start, EndOffset: p.End, Expected: p.Rows, Digest: fmt.Sprintf("%016x", p.Digest), Cleaned: p.Cleaned, Rows: []RowOp{}}
		for _, r := range p.Replacement {
			o := op.Objects[r.Object]
			part.Rows = append(part.Rows, RowOp{Object: o.ID.Key(), ObjectBytes: o.Size, Block: r.Block, BaseOffset: r.Base, EndOffset: r.End, MaxTimestamp: r.MaxTimestamp,
				Bytes: r.Size, Cleaned: p.Cleaned})
		}
		v.Parts = append(v.Parts, part)
	}
	return v
}

func rows(rows []entry.Row) []RowOp {
	var v []RowOp
	for _, r := range rows {
		v = append(v, RowOp{Object: r.Object.Key(), ObjectBytes: r.ObjectSize, Block: r.Block, BaseOffset: r.BaseOffset, EndOffset: r.EndOffset,
			MaxTimestamp: r.MaxTimestamp, LogAppendTime: r.LogAppendTime, Position: r.Position, Bytes: r.Size, Cleaned: r.Cleaned})
	}
	return v
}

func (e *Entry) text() string {
	var b strings.Builder
	b.WriteString("entry    ")
	if e.N > 0 {
		fmt.Fprintf(&b, "n=%d, ", e.N)
	}
	fmt.Fprintf(&b, "incarnation %s, seq %d, %d bytes, format %d, feature level %d, clock %s, saw hash %s at n=%d, %d %s",
		e.Incarnation, e.Seq, e.Bytes, e.Format, e.FeatureLevel, moment(e.ClockMs), e.SeenHash, e.SeenN, len(e.Ops), plural(len(e.Ops), "op"))
	if e.Source != "" {
		b.WriteString(", from " + e.Source)
	}
	for i, op := range e.Ops {
		fmt.Fprintf(&b, "\n  op %d   %s", i, op.line())
	}
	return b.String()
}

// line is an op for people; the blocks and rows in it have lines of their own.
func (o *Op) line() string {
	var b strings.Builder
	b.WriteString(o.Op)
	field := func(format string, args ...any) { b.WriteString(" " + fmt.Sprintf(format, args...)) }
	if o.Agent != "" {
		field("agent %q, listeners %s, zone %q, version %q, feature levels to %d", o.Agent, strings.Join(o.Listeners, " "), o.Zone, o.Version, o.MaxFeatureLevel)
	}
	if o.Incarnation != "" {
		field("incarnation %s", o.Incarnation)
	}
	if o.TopicID != "" {
		field("topic %s", topicText(o.Topic, o.TopicID))
	}
	if o.Resource != "" {
		field("%s", o.Resource)
	}
	if o.Partitions != nil {
		field("partitions %d", *o.Partitions)
	}
	if o.Replication != nil {
		field("replication factor %d", *o.Replication)
	}
	if o.ReplaceAll {
		field("replacing all")
	}
	for _, c := range o.Configs {
		if c.Change != "" {
			field("%s", c.Change)
		}
		field("%s=%q", c.Name, c.Value)
	}
	if len(o.Assignment) > 0 {
		field("assignment %v", o.Assignment)
	}
	if o.Object != "" {
		field("object %s (%d bytes)", o.Object, o.ObjectBytes)
		switch {
		case o.Op == "relocate":
			field("is now in the bucket")
		case o.InWAL:
			field("in the WAL of its writer")
		}
	}
	if o.Partition != nil {
		field("partition %d", *o.Partition)
	}
	if o.StartOffset != nil {
		field("offsets %d to %d (exclusive)", *o.StartOffset, *o.EndOffset)
	}
	for _, f := range []struct {
		name  string
		value *uint32
	}{{"count", o.Count}, {"level", o.Level}} {
		if f.value != nil {
			field("%s %d", f.name, *f.value)
		}
	}
	if o.CollectionEpoch != nil {
		field("from %d", *o.CollectionEpoch)
	}
	if o.LogEpoch != nil {
		field("%d", *o.LogEpoch)
	}
	if o.BeforeMs != nil {
		field("idle since before %s", moment(*o.BeforeMs))
	}
	if o.BeforeOffset != nil {
		field("before offset %d", *o.BeforeOffset)
	}
	if o.GroupOp != nil {
		o.lines(&b)
	}
	for i := range o.Blocks {
		o.Blocks[i].lines(&b)
	}
	for _, x := range o.Objects {
		fmt.Fprintf(&b, "\n    object   %s (%d bytes)", x.Object, x.Bytes)
	}
	for i := range o.Parts {
		o.Parts[i].lines(&b)
	}
	for _, r := range o.Expected {
		fmt.Fprintf(&b, "\n    old row  %s", r)
	}
	for _, r := range o.Rows {
		fmt.Fprintf(&b, "\n    new row  %s", r)
	}
	return b.String()
}

func topicText(name, id string) string {
	if name == "" {
		return id
	}
	return fmt.Sprintf("%q (%s)", name, id)
}

func (v *BlockOp) lines(b *strings.Builder) {
	var size, span uint64
	for i := range v.Sizes {
		size += v.Sizes[i]
		span += v.Spans[i]
	}
	fmt.Fprintf(b, "\n    block %d  topic %s, partition %d, %d %s of %d raw bytes from position %d, %d offsets", v.Block, topicText(v.Topic, v.TopicID),
		v.Partition, len(v.Sizes), batches(len(v.Sizes)), size, v.FirstPosition, span)
	if v.ExpectedNextOffset != nil {
		fmt.Fprintf(b, ", if the next offset is %d", *v.ExpectedNextOffset)
	}
	for _, r := range v.Runs {
		kind := ""
		if r.Transactional {
			kind = " transactional"
		}
		fmt.Fprintf(b, "\n      batches %d to %d: producer %d, epoch %d, from sequence %d%s", r.FirstBatch, r.FirstBatch+r.Batches-1, r.ProducerID, r.ProducerEpoch,
			r.BaseSequence, kind)
	}
	for i := range v.Sizes {
		fmt.Fprintf(b, "\n      batch %d: %d bytes, %d offsets, max timestamp %s", i, v.Sizes[i], v.Spans[i], moment(v.MaxTimestamps[i]))
	}
}

func (v *PartOp) lines(b *strings.Builder) {
	fmt.Fprintf(b, "\n    part     partition %d, offsets %d to %d (exclusive): %d %s of digest %s become %d", v.Partition, v.StartOffset, v.EndOffset, v.Expected,
		plural(int(v.Expected), "row"), v.Digest, len(v.Rows))
	if v.Cleaned {
		b.WriteString(", key compacted")
	}
	for _, r := range v.Rows {
		fmt.Fprintf(b, "\n    new row  %s", r)
	}
}

func (r RowOp) String() string {
	s := fmt.Sprintf("offsets %d to %d: object %s (%d bytes), block %d, %d raw bytes from position %d, max timestamp %s",
		r.BaseOffset, r.EndOffset, r.Object, r.ObjectBytes, r.Block, r.Bytes, r.Position, moment(r.MaxTimestamp))
	if r.LogAppendTime {
		s += " (log append time)"
	}
	if r.Cleaned {
		s += ", key compacted"
	}
	return s
}

// LiveEntry prints entry n of a metastore.
func LiveEntry(n uint64, source string, b []byte, names Names, out *Out) error {
	if err := PutEntry(out, "metastore", n, source, b, names); err != nil {
		return err
	}
	return out.end("entry", "metastore")
}

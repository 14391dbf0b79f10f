package entry_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/firnlog/firn/metastore/entry"
)

// ignoreCache compares what is on the wire: a decoder hands out empty slices where a parsed entry has none.
var ignoreCache = cmp.Options{cmpopts.IgnoreUnexported(entry.Block{}), cmpopts.EquateEmpty()}

func id(b byte) (u [16]byte) {
	for i := range u {
		u[i] = b + byte(i)
	}
	return u
}

func object(b byte) entry.ObjectID {
	return entry.ObjectID{Incarnation: id(b), Seq: 0x1234, CollectionEpoch: 9}
}

// samples has one op of each kind, every field set.
func samples() map[string]entry.Op {
	block := entry.Block{Topic: id(3), Partition: 7, Index: 2, ExpectedNextOffset: 101, FirstPosition: 4096}
	block.AddBatch(300, 10, 1_700_000_000_000, entry.Producer{ID: 1<<40 + 5, Epoch: 2, BaseSequence: math.MaxInt32 - 4})
	block.AddBatch(310, 10, 1_700_000_000_005, entry.Producer{ID: 1<<40 + 5, Epoch: 2, BaseSequence: 5})
	block.AddBatch(70_000, 1, -1, entry.NoProducer())
	block.AddBatch(90, 3, 1_700_000_000_001, entry.Producer{ID: 1<<40 + 6, Epoch: 0, BaseSequence: 0, Transactional: true})
	bare := entry.Block{Topic: id(4), Partition: 0, Index: 0}
	bare.AddBatch(1, 1, math.MinInt64, entry.NoProducer())
	bare.AddBatch(entry.MaxBatchBytes, entry.MaxSpan, math.MaxInt64, entry.NoProducer())
	row := entry.Row{
		Object: object(5), ObjectSize: 8 << 20, Block: 3, BaseOffset: 100, EndOffset: 150, MaxTimestamp: -1, LogAppendTime: true,
		Position: 77, Size: 1000,
	}
	next := row
	next.BaseOffset, next.EndOffset, next.LogAppendTime = 160, 200, false
	merged := entry.Row{Object: object(6), ObjectSize: 64 << 20, BaseOffset: 100, EndOffset: 200, MaxTimestamp: 1_700_000_000_000, Size: 1900}
	return map[string]entry.Op{
		"join": &entry.Join{
			Name: "agent-0", Zone: "eu-1a", Version: "v0.1.0", MaxFeatureLevel: 3,
			Listeners: []entry.Listener{{Name: "plain", Host: "10.0.0.1", Port: 9092}, {Name: "tls", Host: "ünï", Port: 9093}},
		},
		"leave": &entry.Leave{Incarnation: id(2)},
		"tick":  &entry.Tick{},
		"create_topic": &entry.CreateTopic{
			Name: "orders", ID: id(3), Partitions: 2, ReplicationFactor: 3,
			Configs:    []entry.Config{{Name: "cleanup.policy", Value: "compact"}, {Name: "empty"}},
			Assignment: []entry.Replicas{{Nodes: []int32{1, 0, 300}}, {}},
		},
		"delete_topic":      &entry.DeleteTopic{ID: id(3)},
		"create_partitions": &entry.CreatePartitions{ID: id(3), Total: 4, Assignment: []entry.Replicas{{Nodes: []int32{2}}, {Nodes: []int32{1, 2}}}},
		"alter_configs": &entry.AlterConfigs{
			ResourceType: entry.ResourceTopic, ResourceName: "orders", ReplaceAll: true,
			Changes: []entry.ConfigChange{{Name: "retention.ms", Value: "-1"}, {Name: "cleanup.policy", Kind: entry.ConfigSubtract, Value: "delete"}},
		},
		"append":                &entry.Append{Object: object(5), ObjectSize: 8 << 20, Location: entry.InWAL, Blocks: []entry.Block{block, bare}},
		"relocate_bind":         &entry.Relocate{Bind: object(5), ObjectSize: 8 << 20},
		"relocate_range":        &entry.Relocate{Topic: id(3), Partition: 7, StartOffset: 100, EndOffset: 200, Expected: []entry.Row{row, next}, Rows: []entry.Row{merged}},
		"reserve_producer_ids":  &entry.ReserveProducerIDs{Count: 1000},
		"set_feature_level":     &entry.SetFeatureLevel{Level: 2},
		"bump_collection_epoch": &entry.BumpCollectionEpoch{From: 9},
		"expire_producers":      &entry.ExpireProducers{BeforeMs: 1_700_000_000_000},
		"new_log_epoch":         &entry.NewLogEpoch{Epoch: 1<<23 - 1},
		"delete_records":        &entry.DeleteRecords{Topic: id(3), Partition: 7, BeforeOffset: -1},
		"claim_slot":            &entry.ClaimSlot{Slot: 63, Epoch: 1 << 33, Owner: id(2)},
		"update_group": &entry.UpdateGroup{
			Slot: 63, Epoch: 1 << 33, Group: "billing", Generation: 12, Kind: entry.GroupConsumer, Record: []byte{1, 0, 0xff},
			Puts:    []entry.GroupMember{{ID: "client-1", Record: []byte{1, 2}}, {ID: "bare"}},
			Removes: []string{"client-0", "ünï"}, Complete: true,
		},
		"commit_offsets": &entry.CommitOffsets{
			Slot: 7, Epoch: 900, Group: "billing", Generation: -1,
			Offsets: []entry.GroupOffset{
				{Topic: id(3), Partition: 1, Offset: 1 << 40, LeaderEpoch: 3, Metadata: "where", ExpireMs: -1},
				{Topic: id(3), Offset: 5, LeaderEpoch: -1, ExpireMs: 1_700_000_000_000},
				{Topic: id(4), Partition: math.MaxInt32, Offset: math.MaxInt64, LeaderEpoch: math.MaxInt32, ExpireMs: math.MaxInt64},
				{Topic: id(3), Partition: 2},
			},
		},
		"delete_offsets": &entry.DeleteOffsets{
			Slot: 7, Epoch: 900, Group: "billing", NotAfterMs: 1_700_000_000_000,
			Offsets: []entry.GroupPartition{{Topic: id(3), Partition: 1}, {Topic: id(3)}, {Topic: id(4), Partition: 1}, {Topic: id(3), Partition: 9}},
		},
		"delete_group": &entry.DeleteGroup{Slot: 7, Epoch: 900, Group: "billing"},
		"relocate_merged": &entry.Relocate{
			Topic: id(3), Partition: 7, StartOffset: 100, EndOffset: 200,
			Expected: []entry.Row{{Object: mergedObject(7, 3), ObjectSize: 1 << 20, BaseOffset: 100, EndOffset: 200, Size: 9, Cleaned: true}},
		},
		"rewrite": &entry.Rewrite{
			Topic:   id(3),
			Objects: []entry.RewrittenObject{{ID: mergedObject(7, 3), Size: 64 << 20}, {ID: mergedObject(8, 3), Size: 5}},
			Parts: []entry.RewrittenPart{
				{Partition: 0, Start: 0, End: 1, Rows: 1, Replacement: []entry.RewrittenRow{{End: 1, MaxTimestamp: 1_700_000_000_000, Size: 70}}},
				{
					Partition: 7, Start: 1 << 40, End: 1<<40 + 500, Rows: 64, Digest: 0xfedcba9876543210, Cleaned: true,
					Replacement: []entry.RewrittenRow{
						{Object: 1, Block: 3, Base: 1<<40 + 2, End: 1<<40 + 90, MaxTimestamp: math.MinInt64, Size: 1 << 30},
						{Block: 4, Base: 1<<40 + 90, End: 1<<40 + 500, MaxTimestamp: math.MaxInt64, Size: 1},
					},
				},
				{Partition: 7, Start: 1<<40 + 500, End: math.MaxInt64, Rows: math.MaxInt32, Digest: 1, Cleaned: true},
				{Partition: math.MaxInt32, End: math.MaxInt64, Rows: 2, Replacement: []entry.RewrittenRow{{Object: 1, Base: math.MaxInt64 - 1, End: math.MaxInt64, MaxTimestamp: -1, Size: 2}}},
			},
		},
		"rewrite_foreign": &entry.Rewrite{ // refused when applied, but said
			Topic: id(3), Objects: []entry.RewrittenObject{{ID: mergedObject(7, 4), Size: 1}, {ID: object(5), Size: 1}},
			Parts: []entry.RewrittenPart{{End: 1, Rows: 1, Cleaned: true}},
		},
	}
}

func mergedObject(b, topic byte) entry.ObjectID {
	o := object(b)
	o.Topic = id(topic)
	return o
}

func envelope(ops ...entry.Op) *entry.Entry {
	e := &entry.Entry{
		Format: 1, FeatureLevel: 1, Incarnation: id(1), Seq: 42, ClockMs: 1_700_000_000_123, SeenN: 1 << 33,
		SeenHash: 0xfedcba9876543210, Ops: ops,
	}
	for _, op := range ops {
		e.FeatureLevel = max(e.FeatureLevel, entry.Level(op))
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	var d entry.Decoder
	for name, op := range samples() {
		e := envelope(op)
		b := e.AppendTo([]byte("prefix"))[len("prefix"):]
		for range 2 { // the second time from used arenas
			got, err := d.Decode(b)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(e, got, ignoreCache); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			if again := got.AppendTo(nil); string(again) != string(b) {
				t.Errorf("%s: encodes to other bytes after decoding", name)
			}
		}
	}
}

// TestDecoderKeepsOps holds that arenas of one entry do not overlap while they grow.
func TestDecoderKeepsOps(t *testing.T) {
	e := envelope()
	for range 50 {
		for _, name := range []string{"append", "relocate_range", "relocate_bind", "tick", "commit_offsets", "update_group", "rewrite"} {
			e.Ops = append(e.Ops, samples()[name])
		}
	}
	var d entry.Decoder
	got, err := d.Decode(e.AppendTo(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got, ignoreCache); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSizes(t *testing.T) {
	header := len(envelope().AppendTo(nil))
	if header > entry.HeaderSize {
		t.Errorf("header takes %d bytes, HeaderSize is %d", header, entry.HeaderSize)
	}
	want := header
	var ops []entry.Op
	for _, op := range samples() {
		want += opSize(op)
		ops = append(ops, op)
	}
	if got := len(envelope(ops...).AppendTo(nil)); got != want {
		t.Errorf("entry takes %d bytes, the parts %d", got, want)
	}
	a := *samples()["append"].(*entry.Append)
	with := opSize(&a)
	last := a.Blocks[len(a.Blocks)-1]
	a.Blocks = a.Blocks[:len(a.Blocks)-1]
	if got := with - opSize(&a); got < entry.BlockSize(&last) || got > entry.BlockSize(&last)+4 {
		t.Errorf("block adds %d bytes, BlockSize is %d", got, entry.BlockSize(&last))
	}
}

func TestCostOfABatch(t *testing.T) {
	block := entry.Block{Topic: id(3)}
	const batches = 1000
	for i := range batches {
		block.AddBatch(16<<10+uint64(i%7), 100, 1_700_000_000_000+int64(i), entry.Producer{ID: 1 << 40, BaseSequence: int32(i * 100)})
	}
	if len(block.Runs) != 1 {
		t.Fatalf("contiguous batches make %d runs", len(block.Runs))
	}
	if cost := float64(entry.BlockSize(&block)) / batches; cost > 5.2 {
		t.Errorf("a batch costs %.2f bytes", cost)
	}
}

func TestAddBatchRuns(t *testing.T) {
	p := func(id int64, epoch int16, seq int32, txn bool) entry.Producer {
		return entry.Producer{ID: id, Epoch: epoch, BaseSequence: seq, Transactional: txn}
	}
	var b entry.Block
	for _, batch := range []struct {
		span uint64
		p    entry.Producer
	}{
		{5, p(1, 0, math.MaxInt32-4, false)}, // 0: ends at MaxSequence
		{2, p(1, 0, 0, false)},               // 1: wraps, same run
		{2, p(1, 0, 3, false)},               // 2: gap
		{1, p(1, 1, 5, false)},               // 3: epoch
		{1, p(1, 1, 6, true)},                // 4: flag
		{1, p(2, 1, 7, true)},                // 5: producer
		{1, entry.NoProducer()},              // 6
		{1, p(2, 1, 8, true)},                // 7: not adjacent
	} {
		b.AddBatch(10, batch.span, 0, batch.p)
	}
	want := []entry.Run{
		{First: 0, Count: 2, ProducerID: 1, BaseSequence: math.MaxInt32 - 4},
		{First: 2, Count: 1, ProducerID: 1, BaseSequence: 3},
		{First: 3, Count: 1, ProducerID: 1, ProducerEpoch: 1, BaseSequence: 5},
		{First: 4, Count: 1, ProducerID: 1, ProducerEpoch: 1, BaseSequence: 6, Flags: entry.Transactional},
		{First: 5, Count: 1, ProducerID: 2, ProducerEpoch: 1, BaseSequence: 7, Flags: entry.Transactional},
		{First: 7, Count: 1, ProducerID: 2, ProducerEpoch: 1, BaseSequence: 8, Flags: entry.Transactional},
	}
	if diff := cmp.Diff(want, b.Runs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// A decoded block goes on where it ended.
	c := entry.Block{Sizes: b.Sizes, Spans: b.Spans, Timestamps: b.Timestamps, Runs: b.Runs}
	c.AddBatch(10, 1, 0, p(2, 1, 9, true))
	if last := c.Runs[len(c.Runs)-1]; last.Count != 2 {
		t.Errorf("run not extended: %+v", last)
	}
}

func TestObjectKey(t *testing.T) {
	o := entry.ObjectID{Incarnation: id(0xa0), Seq: 0x1f, CollectionEpoch: 0xbeef}
	const want = "data/88/000000000000beef/a0a1a2a3a4a5a6a7a8a9aaabacadaeaf-000000000000001f"
	if o.Key() != want {
		t.Errorf("key %s, want %s", o.Key(), want)
	}
	got, err := entry.ParseObjectKey(want)
	if err != nil || got != o {
		t.Errorf("parsed %+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "data/", strings.ToUpper(want), "/" + want, want + "0", want[:len(want)-1],
		strings.Replace(want, "88", "89", 1), strings.Replace(want, "data", "meta", 1),
		strings.Replace(want, "-", "+", 1), strings.Replace(want, "beef", "+eef", 1), strings.Replace(want, "beef", "xeef", 1),
	} {
		if o, err := entry.ParseObjectKey(bad); err == nil {
			t.Errorf("%q parsed as %+v", bad, o)
		}
	}
}

func TestMergedObjectKey(t *testing.T) {
	o := entry.ObjectID{Incarnation: id(0xa0), Seq: 0x1f, CollectionEpoch: 0xbeef, Topic: id(0x30)}
	const want = "topics/303132333435363738393a3b3c3d3e3f/000000000000beef/a0a1a2a3a4a5a6a7a8a9aaabacadaeaf-000000000000001f"
	if o.Key() != want || !o.Merged() {
		t.Errorf("key %s, want %s", o.Key(), want)
	}
	got, err := entry.ParseObjectKey(want)
	if err != nil || got != o {
		t.Errorf("parsed %+v, %v", got, err)
	}
	for _, bad := range []string{
		"topics/", strings.ToUpper(want), "topics/" + want, want + "0", strings.Replace(want, "topics", "data", 1),
		strings.Replace(want, "3031", "303", 1), strings.Replace(want, "3031", "303x", 1), strings.Replace(want, "3a", "3A", 1),
		strings.Replace(want, "303132333435363738393a3b3c3d3e3f", strings.Repeat("0", 32), 1),
	} {
		if o, err := entry.ParseObjectKey(bad); err == nil {
			t.Errorf("%q parsed as %+v", bad, o)
		}
	}
	level0 := o
	level0.Topic = entry.UUID{}
	if level0.Compare(o) >= 0 || o.Compare(level0) <= 0 || o.Compare(o) != 0 {
		t.Error("an id is not ordered by its topic")
	}
}

func TestObjectIDOfAFooter(t *testing.T) {
	for _, o := range []entry.ObjectID{object(5), mergedObject(5, 3)} {
		b := entry.AppendObjectID(nil, o)
		if want := map[bool]int{false: 32, true: 48}[o.Merged()]; len(b) != want {
			t.Errorf("%v takes %d bytes, want %d", o, len(b), want)
		}
		if got, err := entry.ParseObjectID(b); err != nil || got != o {
			t.Errorf("parsed %+v, %v", got, err)
		}
		for _, bad := range [][]byte{nil, b[:len(b)-1], append(slices.Clone(b), 0), append(entry.AppendObjectID(nil, object(5)), make([]byte, 16)...)} {
			if o, err := entry.ParseObjectID(bad); !errors.Is(err, entry.ErrCorrupt) {
				t.Errorf("%x parsed as %+v, %v", bad, o, err)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	field := func(num protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
	}
	message := func(num protowire.Number, body ...[]byte) []byte {
		var all []byte
		for _, b := range body {
			all = append(all, b...)
		}
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), all)
	}
	header := envelope().AppendTo(nil)
	with := func(parts ...[]byte) []byte {
		b := append([]byte(nil), header...)
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	op := func(kind protowire.Number, body ...[]byte) []byte { return with(message(8, message(kind, body...))) }
	uuid := id(3)
	topic := message(1, uuid[:])
	column := func(num protowire.Number, values ...byte) []byte { return message(num, values) }
	obj := message(1, message(1, uuid[:]), field(2, 1))
	appendOp := func(block ...[]byte) []byte { return op(8, obj, field(2, 100), message(4, block...)) }
	row := func(base, end uint64) []byte {
		return append(append(append(append(obj, field(2, 9)...), field(4, base)...), field(5, end)...), field(9, 1)...)
	}
	relocate := func(parts ...[]byte) []byte {
		return op(9, append([][]byte{message(3, uuid[:])}, parts...)...)
	}
	group := message(3, []byte("g"))
	topicOf := func(id [16]byte) []byte { return message(4, id[:]) }

	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":                {nil, entry.ErrCorrupt},
		"garbage":              {[]byte("not an entry"), entry.ErrCorrupt},
		"too long":             {make([]byte, entry.MaxBytes+1), entry.ErrCorrupt},
		"cut":                  {header[:len(header)-1], entry.ErrCorrupt},
		"format 2":             {append(field(1, 2), header[2:]...), entry.ErrNewerFormat},
		"format 2, then junk":  {append(field(1, 2), 0xff, 0xff), entry.ErrNewerFormat},
		"no format":            {header[2:], entry.ErrCorrupt},
		"no seq":               {append(field(1, 1), message(3, uuid[:])...), entry.ErrCorrupt},
		"format twice":         {append(field(1, 1), header...), entry.ErrCorrupt},
		"clock of the far end": {append(append(append(field(1, 1), message(3, uuid[:])...), field(4, 1)...), field(5, 1<<51)...), entry.ErrCorrupt},
		"new entry field":      {with(field(9, 1)), entry.ErrNewerFormat},
		"descending fields":    {with(field(2, 1)), entry.ErrCorrupt},
		"new op":               {op(99), entry.ErrUnknownOp},
		"empty op":             {with(message(8)), entry.ErrCorrupt},
		"two ops in one":       {with(message(8, message(3), message(4, topic))), entry.ErrCorrupt},
		"op not a message":     {with(field(8, 1)), entry.ErrCorrupt},
		"group":                {with([]byte{8<<3 | 3}), entry.ErrCorrupt},
		"tick with a field":    {op(3, field(1, 1)), entry.ErrNewerFormat},
		"short incarnation":    {op(2, message(1, uuid[:15])), entry.ErrCorrupt},
		"bad UTF-8":            {op(1, message(1, []byte{0xff})), entry.ErrCorrupt},
		"long name":            {op(1, message(1, make([]byte, entry.MaxString+1))), entry.ErrCorrupt},
		"no object":            {op(8, field(2, 100)), entry.ErrCorrupt},
		"object without seq":   {op(8, message(1, message(1, uuid[:])), field(2, 1)), entry.ErrCorrupt},
		"no blocks":            {op(8, obj, field(2, 100)), entry.ErrCorrupt},
		"new location":         {op(8, obj, field(2, 100), field(3, 2)), entry.ErrNewerFormat},
		"no batches":           {appendOp(topic), entry.ErrCorrupt},
		"column short":         {appendOp(topic, column(4, 1, 1), column(5, 1), column(6, 0, 0)), entry.ErrCorrupt},
		"zero size":            {appendOp(topic, column(4, 0), column(5, 1), column(6, 0)), entry.ErrCorrupt},
		"zero span":            {appendOp(topic, column(4, 1), column(5, 0), column(6, 0)), entry.ErrCorrupt},
		"unpacked column":      {appendOp(topic, field(4, 1), column(5, 1), column(6, 0)), entry.ErrCorrupt},
		"column cut":           {appendOp(topic, column(4, 0x80), column(5, 1), column(6, 0)), entry.ErrCorrupt},
		"run past the end":     {appendOp(topic, column(4, 1), column(5, 1), column(6, 0), message(7, field(2, 2))), entry.ErrCorrupt},
		"empty run":            {appendOp(topic, column(4, 1), column(5, 1), column(6, 0), message(7)), entry.ErrCorrupt},
		"overlapping runs": {
			appendOp(topic, column(4, 1, 1), column(5, 1, 1), column(6, 0, 0), message(7, field(2, 2)), message(7, field(1, 1), field(2, 1))),
			entry.ErrCorrupt,
		},
		"sequence of 32 bits": {appendOp(topic, column(4, 1), column(5, 1), column(6, 0), message(7, field(2, 1), field(5, 1<<31))), entry.ErrCorrupt},
		"new flag":            {appendOp(topic, column(4, 1), column(5, 1), column(6, 0), message(7, field(2, 1), field(6, 2))), entry.ErrNewerFormat},
		"relocate of nothing": {op(9), entry.ErrCorrupt},
		"bind and range":      {op(9, obj, field(2, 1), message(3, uuid[:])), entry.ErrCorrupt},
		"nothing expected":    {relocate(field(6, 10)), entry.ErrCorrupt},
		"empty range":         {relocate(field(5, 10), field(6, 10), message(7, row(10, 11))), entry.ErrCorrupt},
		"row outside":         {relocate(field(6, 10), message(7, row(5, 11))), entry.ErrCorrupt},
		"rows descend":        {relocate(field(6, 10), message(7, row(5, 6)), message(7, row(5, 6))), entry.ErrCorrupt},
		"row of no offsets":   {relocate(field(6, 10), message(7, row(5, 5))), entry.ErrCorrupt},
		"new change kind":     {op(7, message(3, field(2, 4))), entry.ErrNewerFormat},
		"negative offset":     {op(14, message(1, uuid[:]), field(3, math.MaxUint64-1)), entry.ErrCorrupt},
		"negative node":       {op(6, message(1, uuid[:]), message(3, message(1, protowire.AppendVarint(nil, math.MaxUint64)))), entry.ErrCorrupt},

		"claim without an owner":  {op(16, field(1, 1)), entry.ErrCorrupt},
		"group without an id":     {op(17, field(1, 1)), entry.ErrCorrupt},
		"negative generation":     {op(17, group, field(4, math.MaxUint64)), entry.ErrCorrupt},
		"new kind of group":       {op(17, group, field(5, 3)), entry.ErrNewerFormat},
		"long record":             {op(17, group, message(6, make([]byte, entry.MaxRecord+1))), entry.ErrCorrupt},
		"member without an id":    {op(17, group, message(7, message(2, []byte{1}))), entry.ErrCorrupt},
		"member with a new field": {op(17, group, message(7, message(1, []byte{'m'}), field(3, 1))), entry.ErrNewerFormat},
		"nobody removed":          {op(17, group, message(8)), entry.ErrCorrupt},
		"commit without a group":  {op(18, message(5, topic)), entry.ErrCorrupt},
		"generation below none":   {op(18, group, field(4, protowire.EncodeZigZag(-2))), entry.ErrCorrupt},
		"offset of no topic":      {op(18, group, message(5, field(2, 1))), entry.ErrCorrupt},
		"topic named again":       {op(18, group, message(5, topic), message(5, topic)), entry.ErrCorrupt},
		"topic of zeros":          {op(18, group, message(5, message(1, make([]byte, 16)))), entry.ErrCorrupt},
		"negative group offset":   {op(18, group, message(5, topic, field(3, math.MaxUint64))), entry.ErrCorrupt},
		"leader epoch below none": {op(18, group, message(5, topic, field(4, protowire.EncodeZigZag(-2)))), entry.ErrCorrupt},
		"expiry below none":       {op(18, group, message(5, topic, field(6, protowire.EncodeZigZag(-2)))), entry.ErrCorrupt},
		"many offsets":            {op(18, group, message(5, topic), bytes.Repeat(message(5), entry.MaxOffsets)), entry.ErrCorrupt},
		"many deletes":            {op(19, group, message(4, topic), bytes.Repeat(message(4), entry.MaxOffsets)), entry.ErrCorrupt},
		"object of topic zero":    {op(8, message(1, message(1, uuid[:]), field(2, 1), message(4, make([]byte, 16))), field(2, 1)), entry.ErrCorrupt},
		"object with a new field": {op(8, message(1, message(1, uuid[:]), field(2, 1), field(5, 1))), entry.ErrNewerFormat},
		"object of the op's topic": {
			op(21, topic, message(2, message(1, message(1, uuid[:]), field(2, 1), topicOf(uuid)), field(2, 1))), entry.ErrCorrupt,
		},
		"rewrite with a new field":  {op(21, topic, field(4, 1)), entry.ErrNewerFormat},
		"part with a new field":     {op(21, topic, message(3, field(8, 1))), entry.ErrNewerFormat},
		"part with a new flag":      {op(21, topic, message(3, field(6, 2))), entry.ErrNewerFormat},
		"replacement of the future": {op(21, topic, message(3, field(3, 1), message(7, field(7, 1)))), entry.ErrNewerFormat},
		"part that wraps":           {op(21, topic, message(3, field(2, 1), field(3, math.MaxInt64), field(4, 1), field(6, 1))), entry.ErrCorrupt},
		"row that wraps": {
			op(21, topic, message(2, message(1, message(1, uuid[:]), field(2, 1)), field(2, 1)),
				message(3, field(2, 1), field(3, 1), field(4, 1), message(7, field(3, math.MaxInt64), field(4, 1), field(6, 1)))), entry.ErrCorrupt,
		},
		"delete of no topic":    {op(19, group, message(4, field(2, 1))), entry.ErrCorrupt},
		"new field of a delete": {op(20, group, field(4, 1)), entry.ErrNewerFormat},
	} {
		if e, err := entry.Parse(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: got %+v, %v; want %v", name, e, err, c.want)
		}
	}
}

// steady is a commit of 100 blocks of one batch: what a busy agent writes.
func steady(blocks int, idempotent bool) *entry.Entry {
	a := &entry.Append{Object: object(5), ObjectSize: 8 << 20}
	for i := range blocks {
		b := entry.Block{Topic: id(3), Partition: uint32(i), Index: uint32(i)}
		p := entry.NoProducer()
		if idempotent {
			p = entry.Producer{ID: 1<<40 + int64(i), BaseSequence: 1000}
		}
		b.AddBatch(16<<10, 100, 1_700_000_000_000, p)
		a.Blocks = append(a.Blocks, b)
	}
	return envelope(a)
}

func TestDecoderDoesNotAllocate(t *testing.T) {
	for _, e := range []*entry.Entry{steady(100, true), envelope(window(100))} {
		b := e.AppendTo(nil)
		var d entry.Decoder
		if allocs := testing.AllocsPerRun(100, func() {
			if _, err := d.Decode(b); err != nil {
				t.Fatal(err)
			}
		}); allocs != 0 {
			t.Errorf("%v allocations an entry of %T", allocs, e.Ops[0])
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	value := steady(100, true).AppendTo(nil)
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	var d entry.Decoder
	for b.Loop() {
		if _, err := d.Decode(value); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "batches/s")
}

func BenchmarkEncode(b *testing.B) {
	e := steady(100, true)
	buf := e.AppendTo(nil)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendTo(buf[:0])
	}
	b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "batches/s")
}

// opSize is the number of bytes that op adds to the encoding of an entry.
func opSize(op entry.Op) int { return len(new(entry.Encoder).Encode(op)) }

// An Encoder makes the bytes that the encoding of an entry has, and judges as a decoder does, whatever it had before.
func TestEncoder(t *testing.T) {
	var x entry.Encoder
	bad := &entry.CommitOffsets{Group: "g", Offsets: []entry.GroupOffset{{Offset: -1}}}
	huge := &entry.CommitOffsets{Group: "g", Offsets: []entry.GroupOffset{{Topic: id(3), Metadata: strings.Repeat("x", entry.MaxBytes)}}}
	head := &entry.Entry{Incarnation: id(1), Seq: 1, FeatureLevel: 3}
	for name, op := range samples() {
		want := (&entry.Entry{Incarnation: head.Incarnation, Seq: head.Seq, FeatureLevel: head.FeatureLevel, Ops: []entry.Op{op, op}}).AppendTo(nil)
		got := head.AppendTo(nil)
		for range 2 {
			got = append(got, x.Encode(op)...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the head and the ops are %d bytes, the entry %d others", name, len(got), len(want))
		}
		if err := x.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, op := range []entry.Op{bad, huge} {
			x.Encode(op)
			if err := x.Check(); !errors.Is(err, entry.ErrCorrupt) {
				t.Errorf("after %s, an op that no agent could read: %v", name, err)
			}
		}
	}
}

// A commit of offsets is encoded and checked at the cost of its group's id alone.
func TestEncoderReusesItsMemory(t *testing.T) {
	var x entry.Encoder
	op := &entry.CommitOffsets{Slot: 1, Epoch: 2, Group: "a-group", Generation: 3, Offsets: slices.Repeat([]entry.GroupOffset{{Topic: id(3), Offset: 1 << 40, ExpireMs: -1}}, 24)}
	if allocs := testing.AllocsPerRun(100, func() {
		x.Encode(op)
		if err := x.Check(); err != nil {
			t.Error(err)
		}
	}); allocs > 1 {
		t.Errorf("%v allocations, want 1", allocs)
	}
}

// TestCheck: what decodes passes, and what would stop every agent does not.
func TestCheck(t *testing.T) {
	for name, op := range samples() {
		if err := entry.Check(op); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := uint32(1)
		switch op.(type) {
		case *entry.ClaimSlot, *entry.UpdateGroup, *entry.CommitOffsets, *entry.DeleteOffsets, *entry.DeleteGroup:
			want = 2
		case *entry.Rewrite:
			want = 3
		}
		if name == "relocate_merged" {
			want = 3
		}
		if got := entry.Level(op); got != want {
			t.Errorf("%s is of feature level %d, want %d", name, got, want)
		}
	}
	cleaned := entry.Row{Object: object(5), ObjectSize: 1, EndOffset: 1, Size: 1, Cleaned: true}
	for _, op := range []entry.Op{
		&entry.Append{Object: mergedObject(5, 3)}, &entry.Relocate{Bind: mergedObject(5, 3), ObjectSize: 1},
		&entry.Relocate{Topic: id(3), Expected: []entry.Row{cleaned}}, &entry.Relocate{Topic: id(3), Rows: []entry.Row{cleaned}},
	} {
		if got := entry.Level(op); got != 3 {
			t.Errorf("%+v is of feature level %d", op, got)
		}
	}
	part := entry.RewrittenPart{End: 2, Rows: 1, Replacement: []entry.RewrittenRow{{End: 1, Size: 1}}}
	rewrite := func(change func(*entry.Rewrite)) *entry.Rewrite {
		op := &entry.Rewrite{Topic: id(3), Objects: []entry.RewrittenObject{{ID: mergedObject(5, 3), Size: 1}}, Parts: []entry.RewrittenPart{part}}
		op.Parts[0].Replacement = slices.Clone(part.Replacement)
		change(op)
		return op
	}
	if err := entry.Check(rewrite(func(*entry.Rewrite) {})); err != nil {
		t.Errorf("the rewrite that the others are made of: %v", err)
	}
	for name, op := range map[string]entry.Op{
		"rewrite of no topic":   rewrite(func(op *entry.Rewrite) { op.Topic = entry.UUID{} }),
		"no parts":              rewrite(func(op *entry.Rewrite) { op.Parts = nil }),
		"object without a seq":  rewrite(func(op *entry.Rewrite) { op.Objects[0].ID.Seq = 0 }),
		"object of no bytes":    rewrite(func(op *entry.Rewrite) { op.Objects[0].Size = 0 }),
		"object of no uploader": rewrite(func(op *entry.Rewrite) { op.Objects[0].ID.Incarnation = [16]byte{} }),
		"object past the list":  rewrite(func(op *entry.Rewrite) { op.Parts[0].Replacement[0].Object = 1 }),
		"too many objects":      rewrite(func(op *entry.Rewrite) { op.Objects = slices.Repeat(op.Objects, entry.MaxRewriteObjects+1) }),
		"too many parts":        rewrite(func(op *entry.Rewrite) { op.Parts = ascending(part, entry.MaxRewriteParts+1) }),
		"too many rows": rewrite(func(op *entry.Rewrite) {
			op.Parts[0].End = entry.MaxRewriteRows + 1
			op.Parts[0].Replacement = nil
			for i := range int64(entry.MaxRewriteRows + 1) {
				op.Parts[0].Replacement = append(op.Parts[0].Replacement, entry.RewrittenRow{Base: i, End: i + 1, Size: 1})
			}
		}),
		"part of no offsets":      rewrite(func(op *entry.Rewrite) { op.Parts[0].End = 0 }),
		"part that runs backward": rewrite(func(op *entry.Rewrite) { op.Parts[0].Start = 9 }),
		"nothing expected":        rewrite(func(op *entry.Rewrite) { op.Parts[0].Rows = 0 }),
		"nothing instead":         rewrite(func(op *entry.Rewrite) { op.Parts[0].Replacement = nil }),
		"partitions descend":      rewrite(func(op *entry.Rewrite) { op.Parts = ascending(part, 2); op.Parts[0].Partition = 3 }),
		"parts overlap":           rewrite(func(op *entry.Rewrite) { op.Parts = ascending(part, 2); op.Parts[1].Partition = 0 }),
		"row below the range":     rewrite(func(op *entry.Rewrite) { op.Parts[0].Start = 1 }),
		"row above the range":     rewrite(func(op *entry.Rewrite) { op.Parts[0].Replacement[0].End = 3 }),
		"row of no offsets":       rewrite(func(op *entry.Rewrite) { op.Parts[0].Replacement[0].End = 0 }),
		"row of no bytes":         rewrite(func(op *entry.Rewrite) { op.Parts[0].Replacement[0].Size = 0 }),
		"rows overlap": rewrite(func(op *entry.Rewrite) {
			op.Parts[0].Replacement = append(op.Parts[0].Replacement, entry.RewrittenRow{End: 2, Size: 1})
		}),
		"row past the last offset": rewrite(func(op *entry.Rewrite) { op.Parts[0].Replacement[0].End = math.MinInt64 }),
		"no group":                 &entry.DeleteGroup{},
		"negative offset":          &entry.CommitOffsets{Group: "g", Offsets: []entry.GroupOffset{{Topic: id(1), Offset: -1}}},
		"no topic":                 &entry.CommitOffsets{Group: "g", Offsets: []entry.GroupOffset{{}}},
		"bad UTF-8":                &entry.CommitOffsets{Group: "g", Offsets: []entry.GroupOffset{{Topic: id(1), Metadata: "\xff"}}},
		"long record":              &entry.UpdateGroup{Group: "g", Record: make([]byte, entry.MaxRecord+1)},
		"too long":                 &entry.UpdateGroup{Group: "g", Record: make([]byte, entry.MaxRecord), Puts: []entry.GroupMember{{ID: "m", Record: make([]byte, entry.MaxRecord)}}},
		"nobody removed":           &entry.UpdateGroup{Group: "g", Removes: []string{""}},
	} {
		if err := entry.Check(op); !errors.Is(err, entry.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ascending is n parts of partitions 0, 1, 2, ...
func ascending(part entry.RewrittenPart, n int) []entry.RewrittenPart {
	parts := slices.Repeat([]entry.RewrittenPart{part}, n)
	for i := range parts {
		parts[i].Partition = uint32(i)
	}
	return parts
}

// window is a Rewrite of what a window of level-0 objects held of a topic with this many partitions.
func window(partitions int) *entry.Rewrite {
	op := &entry.Rewrite{Topic: id(3), Objects: []entry.RewrittenObject{{ID: mergedObject(7, 3), Size: 200 << 20}}}
	for i := range int64(partitions) {
		first := 1<<36 + i*7919
		op.Parts = append(op.Parts, entry.RewrittenPart{
			Partition: uint32(i), Start: first, End: first + 6400, Rows: 64, Digest: 0xfedcba9876543210,
			Replacement: []entry.RewrittenRow{{Block: uint32(i), Base: first, End: first + 6400, MaxTimestamp: 1_700_000_000_000 + i*31%997, Size: 200 << 10}},
		})
	}
	return op
}

// TestCostOfAPart: what a merged partition takes in the log, and that RewriteBytesMax holds as many as its comment says.
func TestCostOfAPart(t *testing.T) {
	const partitions = 1000
	size := opSize(window(partitions))
	if size > partitions*48 || size > entry.RewriteBytesMax {
		t.Errorf("a Rewrite of %d partitions takes %d bytes", partitions, size)
	}
	t.Logf("%.1f bytes a part", float64(size)/partitions)
}

// TestCostOfAnOffset: what a commit of a topic's partitions, one after the other, takes in the log.
func TestCostOfAnOffset(t *testing.T) {
	const partitions = 24
	op := &entry.CommitOffsets{Slot: 9, Epoch: 1 << 20, Group: "a-group-of-average-name", Generation: 40}
	for i := range partitions {
		op.Offsets = append(op.Offsets, entry.GroupOffset{Topic: id(3), Partition: uint32(i), Offset: 1 << 30, ExpireMs: -1})
	}
	if size := opSize(op); size > 60+partitions*12 {
		t.Errorf("a commit of %d offsets takes %d bytes", partitions, size)
	}
}

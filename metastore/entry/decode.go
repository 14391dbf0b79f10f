package entry

import (
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Decoder decodes entries into arenas that it reuses: once these have grown, an Append, Relocate or Rewrite of any size costs no
// allocation. The zero value is ready. It is not safe for concurrent use.
type Decoder struct {
	entry     Entry
	appends   []Append
	relocates []Relocate
	blocks    []Block
	runs      []Run
	rows      []Row
	unsigned  []uint64
	signed    []int64
	commits   []CommitOffsets
	offsets   []GroupOffset
	members   []GroupMember
	records   []byte
	rewrites  []Rewrite
	objects   []RewrittenObject
	parts     []RewrittenPart
	rewritten []RewrittenRow
}

// Parse decodes b into an entry of its own.
func Parse(b []byte) (*Entry, error) {
	var d Decoder
	return d.Decode(b)
}

// Decode decodes b. The entry and all that hangs on it are valid until the next Decode; nothing in it aliases b.
// Errors wrap ErrCorrupt, ErrUnknownOp or ErrNewerFormat and name what was met.
func (d *Decoder) Decode(b []byte) (*Entry, error) {
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, the most is %d", ErrCorrupt, len(b), MaxBytes)
	}
	d.reset()
	e := &d.entry
	f := fields{b: b, message: "Entry", repeated: 1 << 8}
	for f.next() {
		switch f.num {
		case 1:
			e.Format = uint32(f.uint(math.MaxUint32))
			if e.Format > Format { // nothing behind this field can be relied on
				return nil, fmt.Errorf("%w: entry has format %d, this build reads %d", ErrNewerFormat, e.Format, Format)
			}
		case 2:
			e.FeatureLevel = uint32(f.uint(maxLevel))
		case 3:
			e.Incarnation = f.id()
		case 4:
			e.Seq = f.uint(maxSeq)
		case 5:
			e.ClockMs = int64(f.uint(uint64(MaxClockMs)))
		case 6:
			e.SeenN = f.uint(math.MaxUint64)
		case 7:
			e.SeenHash = f.fixed64()
		case 8:
			op, err := d.op(f.bytes(), e.FeatureLevel)
			if err != nil {
				return nil, fmt.Errorf("op %d of seq %d: %w", len(e.Ops), e.Seq, err)
			}
			e.Ops = append(e.Ops, op)
		default:
			f.unknown()
		}
	}
	f.require(e.Format == Format, "format missing")
	f.require(e.Incarnation != [16]byte{}, "incarnation missing")
	f.require(e.Seq > 0, "seq missing")
	if f.err != nil {
		return nil, f.err
	}
	return e, nil
}

// reset empties the arenas.
func (d *Decoder) reset() {
	d.entry = Entry{Ops: d.entry.Ops[:0]}
	d.appends, d.relocates, d.blocks = d.appends[:0], d.relocates[:0], d.blocks[:0]
	d.runs, d.rows, d.unsigned, d.signed = d.runs[:0], d.rows[:0], d.unsigned[:0], d.signed[:0]
	d.commits, d.offsets, d.members, d.records = d.commits[:0], d.offsets[:0], d.members[:0], d.records[:0]
	d.rewrites, d.objects, d.parts, d.rewritten = d.rewrites[:0], d.objects[:0], d.parts[:0], d.rewritten[:0]
}

func (d *Decoder) op(b []byte, level uint32) (Op, error) {
	f := fields{b: b, message: "Op"}
	if !f.next() {
		f.require(false, "empty")
		return nil, f.err
	}
	kind, body := opKind(f.num), f.bytes()
	f.require(len(f.b) == 0, "more than one kind")
	if f.err != nil {
		return nil, f.err
	}
	switch kind {
	case kindJoin:
		return decodeJoin(body)
	case kindLeave:
		return decodeLeave(body)
	case kindTick:
		g := fields{b: body, message: "Tick"}
		for g.next() {
			g.unknown()
		}
		return &Tick{}, g.err
	case kindCreateTopic:
		return decodeCreateTopic(body)
	case kindDeleteTopic:
		return decodeDeleteTopic(body)
	case kindCreatePartitions:
		return decodeCreatePartitions(body)
	case kindAlterConfigs:
		return decodeAlterConfigs(body)
	case kindAppend:
		return d.append(body)
	case kindRelocate:
		return d.relocate(body)
	case kindReserveProducerIDs:
		v, err := single(body, "ReserveProducerIDs", maxCount)
		return &ReserveProducerIDs{Count: uint32(v)}, err
	case kindSetFeatureLevel:
		v, err := single(body, "SetFeatureLevel", maxLevel)
		return &SetFeatureLevel{Level: uint32(v)}, err
	case kindBumpCollectionEpoch:
		v, err := single(body, "BumpCollectionEpoch", math.MaxUint64)
		return &BumpCollectionEpoch{From: v}, err
	case kindExpireProducers:
		v, err := single(body, "ExpireProducers", uint64(MaxClockMs))
		return &ExpireProducers{BeforeMs: int64(v)}, err
	case kindDeleteRecords:
		return decodeDeleteRecords(body)
	case kindNewLogEpoch:
		v, err := single(body, "NewLogEpoch", math.MaxUint64)
		return &NewLogEpoch{Epoch: v}, err
	case kindClaimSlot:
		return decodeClaimSlot(body)
	case kindUpdateGroup:
		return d.updateGroup(body)
	case kindCommitOffsets:
		return d.commitOffsets(body)
	case kindDeleteOffsets:
		return decodeDeleteOffsets(body)
	case kindDeleteGroup:
		return decodeDeleteGroup(body)
	case kindRewrite:
		return d.rewrite(body)
	default:
		return nil, fmt.Errorf("%w: kind %d in an entry of feature level %d", ErrUnknownOp, kind, level)
	}
}

func (d *Decoder) append(b []byte) (Op, error) {
	f := fields{b: b, message: "Append", repeated: 1 << 4}
	d.appends = append(d.appends, Append{})
	a := &d.appends[len(d.appends)-1]
	first := len(d.blocks)
	for f.next() {
		switch f.num {
		case 1:
			a.Object = f.object()
		case 2:
			a.ObjectSize = f.uint(uint64(MaxPosition))
		case 3:
			a.Location = uint32(f.flag(InWAL))
		case 4:
			block, err := d.block(f.bytes())
			if err != nil {
				return nil, err
			}
			d.blocks = append(d.blocks, block)
		default:
			f.unknown()
		}
	}
	a.Blocks = d.blocks[first:len(d.blocks):len(d.blocks)]
	f.require(a.Object.Seq > 0, "object missing")
	f.require(a.ObjectSize > 0, "object size missing")
	f.require(len(a.Blocks) > 0, "no blocks")
	return a, f.err
}

func (d *Decoder) block(b []byte) (Block, error) {
	f := fields{b: b, message: "Block", repeated: 1 << 7}
	var block Block
	firstRun := len(d.runs)
	for f.next() {
		switch f.num {
		case 1:
			block.Topic = f.id()
		case 2:
			block.Partition = uint32(f.uint(maxID))
		case 3:
			block.Index = uint32(f.uint(maxID))
		case 4:
			block.Sizes = d.column(&f, MaxBatchBytes)
		case 5:
			block.Spans = d.column(&f, MaxSpan)
		case 6:
			block.Timestamps = d.deltas(&f)
		case 7:
			run, err := decodeRun(f.bytes(), len(block.Sizes))
			if err != nil {
				return block, err
			}
			if n := len(d.runs); n > firstRun {
				f.require(d.runs[n-1].First+d.runs[n-1].Count <= run.First, "runs overlap or descend")
			}
			d.runs = append(d.runs, run)
		case 8:
			block.ExpectedNextOffset = int64(f.uint(maxOffset))
		case 9:
			block.FirstPosition = f.uint(uint64(MaxPosition))
		default:
			f.unknown()
		}
	}
	block.Runs = d.runs[firstRun:len(d.runs):len(d.runs)]
	if len(block.Runs) == 0 {
		block.Runs = nil
	}
	f.require(block.Topic != UUID{}, "topic missing")
	f.require(len(block.Sizes) > 0, "no batches")
	f.require(len(block.Sizes) == len(block.Spans) && len(block.Sizes) == len(block.Timestamps), "columns differ in length")
	return block, f.err
}

// decodeRun decodes a run of a block with this many batches.
func decodeRun(b []byte, batches int) (Run, error) {
	f := fields{b: b, message: "Run"}
	var r Run
	for f.next() {
		switch f.num {
		case 1:
			r.First = uint32(f.uint(maxID))
		case 2:
			r.Count = uint32(f.uint(maxID))
		case 3:
			r.ProducerID = int64(f.uint(math.MaxInt64))
		case 4:
			r.ProducerEpoch = uint32(f.uint(maxEpoch))
		case 5:
			r.BaseSequence = uint32(f.uint(MaxSequence))
		case 6:
			r.Flags = uint32(f.flag(Transactional))
		default:
			f.unknown()
		}
	}
	f.require(r.Count > 0 && uint64(r.First)+uint64(r.Count) <= uint64(batches), "outside the columns")
	return r, f.err
}

func (d *Decoder) relocate(b []byte) (Op, error) {
	f := fields{b: b, message: "Relocate", repeated: 1<<7 | 1<<8}
	d.relocates = append(d.relocates, Relocate{})
	r := &d.relocates[len(d.relocates)-1]
	first := len(d.rows)
	expected := 0
	for f.next() {
		switch f.num {
		case 1:
			r.Bind = f.object()
		case 2:
			r.ObjectSize = f.uint(uint64(MaxPosition))
		case 3:
			r.Topic = f.id()
		case 4:
			r.Partition = uint32(f.uint(maxID))
		case 5:
			r.StartOffset = int64(f.uint(maxOffset))
		case 6:
			r.EndOffset = int64(f.uint(maxOffset))
		case 7, 8:
			row, err := decodeRow(f.bytes())
			if err != nil {
				return nil, err
			}
			d.rows = append(d.rows, row)
			if f.num == 7 {
				expected++
			}
		default:
			f.unknown()
		}
	}
	middle, end := first+expected, len(d.rows)
	r.Expected, r.Rows = d.rows[first:middle:middle], d.rows[middle:end:end]
	if r.IsBind() {
		f.require(r.ObjectSize > 0, "object size missing")
		f.require(r.Topic == UUID{} && r.Partition == 0 && r.StartOffset == 0 && r.EndOffset == 0 && first == end,
			"both a bind and a range")
		r.Expected, r.Rows = nil, nil
		return r, f.err
	}
	f.require(r.Topic != UUID{}, "neither a bind nor a range")
	f.require(r.ObjectSize == 0, "object size of a range")
	f.require(r.StartOffset < r.EndOffset, "empty range")
	f.require(len(r.Expected) > 0, "nothing is expected")
	f.require(ascendWithin(r.Expected, r.StartOffset, r.EndOffset), "expected rows not ascending in the range")
	f.require(ascendWithin(r.Rows, r.StartOffset, r.EndOffset), "rows not ascending in the range")
	return r, f.err
}

func ascendWithin(rows []Row, start, end int64) bool {
	for i := range rows {
		if rows[i].BaseOffset < start || rows[i].EndOffset > end {
			return false
		}
		start = rows[i].EndOffset
	}
	return true
}

func decodeRow(b []byte) (Row, error) {
	f := fields{b: b, message: "Row"}
	var r Row
	for f.next() {
		switch f.num {
		case 1:
			r.Object = f.object()
		case 2:
			r.ObjectSize = f.uint(uint64(MaxPosition))
		case 3:
			r.Block = uint32(f.uint(maxID))
		case 4:
			r.BaseOffset = int64(f.uint(maxOffset))
		case 5:
			r.EndOffset = int64(f.uint(maxOffset))
		case 6:
			r.MaxTimestamp = int64(f.uint(math.MaxUint64))
		case 7:
			r.LogAppendTime = f.flag(1) == 1
		case 8:
			r.Position = f.uint(uint64(MaxPosition))
		case 9:
			r.Size = f.uint(uint64(MaxPosition))
		case 10:
			r.Cleaned = f.flag(1) == 1
		default:
			f.unknown()
		}
	}
	f.require(r.Object.Seq > 0, "object missing")
	f.require(r.ObjectSize > 0, "object size missing")
	f.require(r.BaseOffset < r.EndOffset, "no offsets")
	f.require(r.Size > 0, "no bytes")
	return r, f.err
}

// column decodes a packed column of values from 1 to most into the arena.
func (d *Decoder) column(f *fields, most uint64) []uint64 {
	first := len(d.unsigned)
	for b := f.bytes(); len(b) > 0; {
		v, n := varint(b)
		if n < 0 || v == 0 || v > most {
			f.require(false, "value not in 1 to %d", most)
			return nil
		}
		d.unsigned = append(d.unsigned, v)
		b = b[n:]
	}
	return d.unsigned[first:len(d.unsigned):len(d.unsigned)]
}

// deltas decodes a packed column of differences into the arena, as absolute values.
func (d *Decoder) deltas(f *fields) []int64 {
	first, last := len(d.signed), int64(0)
	for b := f.bytes(); len(b) > 0; {
		v, n := varint(b)
		if n < 0 {
			f.require(false, "bad varint")
			return nil
		}
		last += protowire.DecodeZigZag(v)
		d.signed = append(d.signed, last)
		b = b[n:]
	}
	return d.signed[first:len(d.signed):len(d.signed)]
}

// varint is protowire.ConsumeVarint with the short cases inlined: most values of a column are one or two bytes.
func varint(b []byte) (uint64, int) {
	if b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	if len(b) > 1 && b[1] < 0x80 {
		return uint64(b[0]&0x7f) | uint64(b[1])<<7, 2
	}
	return protowire.ConsumeVarint(b)
}

// fields walks the fields of one message, each with its number, wire type and value. The first error ends the walk and
// stays in err; accessors return zero from then on.
type fields struct {
	b        []byte
	message  string // name, for errors
	repeated uint32 // bit i: field i may come more than once
	num      protowire.Number
	typ      protowire.Type
	value    uint64
	payload  []byte
	err      error
}

func (f *fields) next() bool {
	if f.err != nil || len(f.b) == 0 {
		return false
	}
	num, typ, n := protowire.ConsumeTag(f.b)
	if n < 0 {
		f.require(false, "bad tag")
		return false
	}
	f.b = f.b[n:]
	switch typ {
	case protowire.VarintType:
		f.value, n = protowire.ConsumeVarint(f.b)
	case protowire.Fixed64Type:
		f.value, n = protowire.ConsumeFixed64(f.b)
	case protowire.BytesType:
		f.payload, n = protowire.ConsumeBytes(f.b)
	default:
		n = -1
	}
	if n < 0 {
		f.require(false, "bad value of field %d", num)
		return false
	}
	f.b = f.b[n:]
	if num < f.num || num == f.num && (num > 31 || f.repeated&(1<<num) == 0) {
		f.require(false, "field %d after field %d", num, f.num)
		return false
	}
	f.num, f.typ = num, typ
	return true
}

// require records ErrCorrupt, unless there is an error already.
func (f *fields) require(ok bool, format string, args ...any) {
	if !ok && f.err == nil {
		f.err = fmt.Errorf("%w: %s: %s", ErrCorrupt, f.message, fmt.Sprintf(format, args...))
	}
}

func (f *fields) unknown() {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %s has field %d", ErrNewerFormat, f.message, f.num)
	}
}

func (f *fields) is(typ protowire.Type) bool {
	if f.typ != typ {
		f.require(false, "field %d has wire type %d", f.num, f.typ)
	}
	return f.err == nil
}

func (f *fields) uint(most uint64) uint64 {
	if !f.is(protowire.VarintType) {
		return 0
	}
	if f.value > most {
		f.require(false, "field %d is %d, the most is %d", f.num, f.value, most)
		return 0
	}
	return f.value
}

// sint reads a zigzag number.
func (f *fields) sint(least, most int64) int64 {
	if !f.is(protowire.VarintType) {
		return 0
	}
	v := protowire.DecodeZigZag(f.value)
	if v < least || v > most {
		f.require(false, "field %d is %d, not %d to %d", f.num, v, least, most)
		return 0
	}
	return v
}

// flag reads a small set of known values; a greater one was written by a newer build.
func (f *fields) flag(most uint64) uint64 {
	if !f.is(protowire.VarintType) {
		return 0
	}
	if f.value > most {
		f.err = fmt.Errorf("%w: %s field %d is %d, this build knows up to %d", ErrNewerFormat, f.message, f.num, f.value, most)
		return 0
	}
	return f.value
}

func (f *fields) fixed64() uint64 {
	if !f.is(protowire.Fixed64Type) {
		return 0
	}
	return f.value
}

func (f *fields) bytes() []byte {
	if !f.is(protowire.BytesType) {
		return nil
	}
	return f.payload
}

func (f *fields) id() (id [16]byte) {
	b := f.bytes()
	if f.err == nil && len(b) != uuidBytes {
		f.require(false, "field %d has %d bytes, want %d", f.num, len(b), uuidBytes)
		return id
	}
	copy(id[:], b)
	return id
}

func (f *fields) string() string {
	b := f.bytes()
	if len(b) > MaxString || !utf8.Valid(b) {
		f.require(false, "field %d is no UTF-8 of at most %d bytes", f.num, MaxString)
		return ""
	}
	return string(b)
}

func (f *fields) object() ObjectID { return f.objectOf(UUID{}) }

// objectOf reads an id whose topic goes without saying where it is this one.
func (f *fields) objectOf(topic UUID) ObjectID {
	g := fields{b: f.bytes(), message: "ObjectID"}
	o := ObjectID{Topic: topic}
	for g.next() {
		switch g.num {
		case 1:
			o.Incarnation = g.id()
		case 2:
			o.Seq = g.uint(maxSeq)
		case 3:
			o.CollectionEpoch = g.uint(math.MaxUint64)
		case 4:
			o.Topic = g.id()
			g.require(o.Topic != topic, "topic that goes without saying")
		default:
			g.unknown()
		}
	}
	g.require(o.Incarnation != [16]byte{}, "incarnation missing")
	g.require(o.Seq > 0, "seq missing")
	if f.err == nil {
		f.err = g.err
	}
	return o
}

// single decodes a message whose only field is an unsigned number.
func single(b []byte, message string, most uint64) (v uint64, err error) {
	f := fields{b: b, message: message}
	for f.next() {
		if f.num == 1 {
			v = f.uint(most)
		} else {
			f.unknown()
		}
	}
	return v, f.err
}

package entry

import "math"

// Bounds of a Rewrite.
const (
	MaxRewriteObjects = 1024
	MaxRewriteParts   = 16384
	MaxRewriteRows    = 256 // replacement rows of a part
)

// What a proposer keeps a Rewrite under, though a larger one is taken: an entry holds up the commits behind it for as long as etcd takes
// to write it and every agent to apply it. What does not fit is proposed as several ops; they may name the same objects.
const (
	RewriteBytesMax = 48 << 10 // encoded: what other entries are packed to, and about 1000 parts
	RewriteRowsMax  = 32 << 10 // rows expected by all parts together, unless it is one part: some 5 ms of each agent's applier
)

func (*Rewrite) op() opKind { return kindRewrite }

// Rewrite replaces rows of many partitions of a topic by rows of merged objects, each part under a guard of its own: the rows of
// the range must be those that the proposer read. It is of feature level 3.
type Rewrite struct {
	Topic   UUID
	Objects []RewrittenObject // that replacements name by index; of this topic, each once
	Parts   []RewrittenPart   // ascending by partition and start, disjoint
}

// RewrittenObject is a merged object that is in the bucket.
type RewrittenObject struct {
	ID   ObjectID // its topic is the op's
	Size uint64   // bytes
}

// RewrittenPart replaces the rows of [Start, End) of a partition, if they are what is expected: Rows many, with this Digest
// (state.RowsDigest), none reaching out of the range and none in a WAL.
type RewrittenPart struct {
	Partition   uint32
	Start       int64
	End         int64 // exclusive
	Rows        uint32
	Digest      uint64
	Cleaned     bool // key compaction has been over the replacement, which may then be empty
	Replacement []RewrittenRow
}

// RewrittenRow is a row of the replacement: the whole of a block of a merged object. Offsets may be missing in it.
type RewrittenRow struct {
	Object       uint32 // index in the op's
	Block        uint32
	Base         int64 // of the first batch
	End          int64 // of the last batch, exclusive
	MaxTimestamp int64
	Size         uint64 // raw bytes of the block, positive
}

// Level is the feature level that an agent must understand to apply op.
func Level(op Op) uint32 {
	switch op := op.(type) {
	case *Rewrite:
		return rewriteLevel
	case *Append:
		if op.Object.Merged() {
			return rewriteLevel
		}
	case *Relocate:
		if op.Bind.Merged() || anyRewritten(op.Expected) || anyRewritten(op.Rows) {
			return rewriteLevel
		}
	}
	if op.op() >= kindClaimSlot {
		return groupsLevel
	}
	return 1
}

const (
	groupsLevel  = 2
	rewriteLevel = 3
)

// anyRewritten reports whether rows say something that only level 3 can say.
func anyRewritten(rows []Row) bool {
	for i := range rows {
		if rows[i].Object.Merged() || rows[i].Cleaned {
			return true
		}
	}
	return false
}

// appendRewrite writes offsets and timestamps as differences: a part of a wide op then takes 40 bytes.
func appendRewrite(b []byte, op *Rewrite) []byte {
	b = appendID(b, 1, op.Topic)
	for i := range op.Objects {
		o := &op.Objects[i]
		b = appendMessage(b, 2, func(b []byte) []byte {
			return appendUint(appendObjectOf(b, 1, o.ID, op.Topic), 2, o.Size)
		})
	}
	last := int64(0)
	for i := range op.Parts {
		p := &op.Parts[i]
		b = appendMessage(b, 3, func(b []byte) []byte {
			b = appendUint(b, 1, uint64(p.Partition))
			b = appendUint(b, 2, uint64(p.Start))
			b = appendUint(b, 3, uint64(p.End-p.Start))
			b = appendUint(b, 4, uint64(p.Rows))
			b = appendFixed64(b, 5, p.Digest)
			b = appendBool(b, 6, p.Cleaned)
			at := p.Start
			for j := range p.Replacement {
				r := &p.Replacement[j]
				b = appendMessage(b, 7, func(b []byte) []byte {
					b = appendUint(b, 1, uint64(r.Object))
					b = appendUint(b, 2, uint64(r.Block))
					b = appendUint(b, 3, uint64(r.Base-at))
					b = appendUint(b, 4, uint64(r.End-r.Base))
					b = appendSint(b, 5, r.MaxTimestamp-last) // wraps, and wraps back
					return appendUint(b, 6, r.Size)
				})
				at, last = r.End, r.MaxTimestamp
			}
			return b
		})
	}
	return b
}

func (d *Decoder) rewrite(b []byte) (Op, error) {
	f := fields{b: b, message: "Rewrite", repeated: 1<<2 | 1<<3}
	d.rewrites = append(d.rewrites, Rewrite{})
	op := &d.rewrites[len(d.rewrites)-1]
	objects, parts, last := len(d.objects), len(d.parts), int64(0)
	for f.next() {
		switch f.num {
		case 1:
			op.Topic = f.id()
		case 2:
			f.require(len(d.objects)-objects < MaxRewriteObjects, "more than %d objects", MaxRewriteObjects)
			o, err := decodeRewrittenObject(f.bytes(), op.Topic)
			if err != nil {
				return nil, err
			}
			d.objects = append(d.objects, o)
		case 3:
			f.require(len(d.parts)-parts < MaxRewriteParts, "more than %d parts", MaxRewriteParts)
			p, err := d.rewrittenPart(f.bytes(), len(d.objects)-objects, &last)
			if err != nil {
				return nil, err
			}
			if n := len(d.parts); n > parts {
				before := &d.parts[n-1]
				f.require(p.Partition > before.Partition || p.Partition == before.Partition && p.Start >= before.End, "parts not ascending")
			}
			d.parts = append(d.parts, p)
		default:
			f.unknown()
		}
	}
	op.Objects, op.Parts = d.objects[objects:len(d.objects):len(d.objects)], d.parts[parts:len(d.parts):len(d.parts)]
	f.require(op.Topic != UUID{}, "topic missing")
	f.require(len(op.Parts) > 0, "no parts")
	return op, f.err
}

func decodeRewrittenObject(b []byte, topic UUID) (RewrittenObject, error) {
	f := fields{b: b, message: "RewrittenObject"}
	var o RewrittenObject
	for f.next() {
		switch f.num {
		case 1:
			o.ID = f.objectOf(topic)
		case 2:
			o.Size = f.uint(uint64(MaxPosition))
		default:
			f.unknown()
		}
	}
	f.require(o.ID.Seq > 0, "id missing")
	f.require(o.Size > 0, "size missing")
	return o, f.err
}

// rewrittenPart decodes a part of an op with this many objects; last is the max timestamp before it.
func (d *Decoder) rewrittenPart(b []byte, objects int, last *int64) (RewrittenPart, error) {
	f := fields{b: b, message: "RewrittenPart", repeated: 1 << 7}
	var p RewrittenPart
	first := len(d.rewritten)
	at := int64(0)
	for f.next() {
		switch f.num {
		case 1:
			p.Partition = uint32(f.uint(maxID))
		case 2:
			p.Start = int64(f.uint(maxOffset))
			at = p.Start
		case 3:
			p.End = p.Start + int64(f.uint(uint64(math.MaxInt64-p.Start)))
		case 4:
			p.Rows = uint32(f.uint(maxCount))
		case 5:
			p.Digest = f.fixed64()
		case 6:
			p.Cleaned = f.flag(1) == 1
		case 7:
			f.require(len(d.rewritten)-first < MaxRewriteRows, "more than %d rows", MaxRewriteRows)
			r, err := decodeRewrittenRow(f.bytes(), at, *last)
			if err != nil {
				return p, err
			}
			f.require(int64(r.Object) < int64(objects), "row of object %d of %d", r.Object, objects)
			at, *last = r.End, r.MaxTimestamp
			d.rewritten = append(d.rewritten, r)
		default:
			f.unknown()
		}
	}
	p.Replacement = d.rewritten[first:len(d.rewritten):len(d.rewritten)]
	f.require(p.Start < p.End, "empty range")
	f.require(p.Rows > 0, "nothing is expected")
	f.require(at <= p.End, "rows outside the range")
	f.require(len(p.Replacement) > 0 || p.Cleaned, "nothing instead")
	return p, f.err
}

// decodeRewrittenRow decodes a row after one that ends at an offset and has this max timestamp.
func decodeRewrittenRow(b []byte, at, last int64) (RewrittenRow, error) {
	f := fields{b: b, message: "RewrittenRow"}
	r := RewrittenRow{Base: at, End: at, MaxTimestamp: last}
	for f.next() {
		switch f.num {
		case 1:
			r.Object = uint32(f.uint(maxID))
		case 2:
			r.Block = uint32(f.uint(maxID))
		case 3:
			r.Base = at + int64(f.uint(uint64(math.MaxInt64-at)))
			r.End = r.Base
		case 4:
			r.End = r.Base + int64(f.uint(uint64(math.MaxInt64-r.Base)))
		case 5:
			r.MaxTimestamp = last + f.sint(math.MinInt64, math.MaxInt64)
		case 6:
			r.Size = f.uint(uint64(MaxPosition))
		default:
			f.unknown()
		}
	}
	f.require(r.Base < r.End, "no offsets")
	f.require(r.Size > 0, "no bytes")
	return r, f.err
}

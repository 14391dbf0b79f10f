package entry

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// AppendTo appends the encoding of e to b. The encoding is canonical: fields ascend, zero values are left out (but for
// identifiers, which are always there), columns are packed. Requires: the shape that decoding checks.
//
// Ops come last, so those that an Encoder made may follow the encoding of an entry without any.
func (e *Entry) AppendTo(b []byte) []byte {
	b = appendUint(b, 1, uint64(max(e.Format, Format)))
	b = appendUint(b, 2, uint64(e.FeatureLevel))
	b = appendID(b, 3, e.Incarnation)
	b = appendUint(b, 4, e.Seq)
	b = appendUint(b, 5, uint64(e.ClockMs))
	b = appendUint(b, 6, e.SeenN)
	b = appendFixed64(b, 7, e.SeenHash)
	for _, op := range e.Ops {
		b = appendOp(b, op)
	}
	return b
}

// Encoder encodes ops one by one, and finds out whether they decode. It reuses its memory; the zero value is ready. It is not safe for
// concurrent use.
type Encoder struct {
	op      []byte
	decoder Decoder
}

// encoderKeeps is up to which size of an op an Encoder keeps its memory for the next.
const encoderKeeps = 64 << 10

// Encode returns the bytes that op adds to the encoding of an entry. They are valid until the next call.
func (x *Encoder) Encode(op Op) []byte {
	if cap(x.op) > encoderKeeps {
		*x = Encoder{}
	}
	x.op = appendOp(x.op[:0], op)
	return x.op
}

// Check reports whether the op that was encoded last is one that decodes: an entry that does not would stop every agent.
func (x *Encoder) Check() error {
	if len(x.op) > MaxBytes {
		return fmt.Errorf("%w: %d bytes, the most is %d", ErrCorrupt, len(x.op), MaxBytes)
	}
	d := &x.decoder
	d.reset()
	f := fields{b: x.op, message: "Entry"}
	for f.next() {
		if _, err := d.op(f.bytes(), 0); err != nil {
			return err
		}
	}
	return f.err
}

// HeaderSize bounds the encoding of an entry without ops.
const HeaderSize = 2*6 + 18 + 3*11 + 9

// BlockSize is the number of bytes that a block adds to the encoding of an Append, but for the growth of the Append's own
// length prefixes (at most 4 bytes).
func BlockSize(block *Block) int {
	var scratch [1024]byte
	return len(appendMessage(scratch[:0], 4, func(b []byte) []byte { return appendBlock(b, block) }))
}

func appendOp(b []byte, op Op) []byte {
	return appendMessage(b, 8, func(b []byte) []byte {
		return appendMessage(b, protowire.Number(op.op()), func(b []byte) []byte { return appendBody(b, op) })
	})
}

func appendBody(b []byte, op Op) []byte {
	switch op := op.(type) {
	case *Join:
		b = appendString(b, 1, op.Name)
		for i := range op.Listeners {
			l := &op.Listeners[i]
			b = appendMessage(b, 2, func(b []byte) []byte {
				b = appendString(b, 1, l.Name)
				b = appendString(b, 2, l.Host)
				return appendUint(b, 3, uint64(l.Port))
			})
		}
		b = appendString(b, 3, op.Zone)
		b = appendString(b, 4, op.Version)
		b = appendUint(b, 5, uint64(op.MaxFeatureLevel))
	case *Leave:
		b = appendID(b, 1, op.Incarnation)
	case *Tick:
	case *CreateTopic:
		b = appendString(b, 1, op.Name)
		b = appendID(b, 2, op.ID)
		b = appendUint(b, 3, uint64(op.Partitions))
		b = appendUint(b, 4, uint64(op.ReplicationFactor))
		for i := range op.Configs {
			c := &op.Configs[i]
			b = appendMessage(b, 5, func(b []byte) []byte {
				return appendString(appendString(b, 1, c.Name), 2, c.Value)
			})
		}
		b = appendReplicas(b, 6, op.Assignment)
	case *DeleteTopic:
		b = appendID(b, 1, op.ID)
	case *CreatePartitions:
		b = appendID(b, 1, op.ID)
		b = appendUint(b, 2, uint64(op.Total))
		b = appendReplicas(b, 3, op.Assignment)
	case *AlterConfigs:
		b = appendUint(b, 1, uint64(op.ResourceType))
		b = appendString(b, 2, op.ResourceName)
		for i := range op.Changes {
			c := &op.Changes[i]
			b = appendMessage(b, 3, func(b []byte) []byte {
				b = appendString(b, 1, c.Name)
				b = appendUint(b, 2, uint64(c.Kind))
				return appendString(b, 3, c.Value)
			})
		}
		b = appendBool(b, 4, op.ReplaceAll)
	case *Append:
		b = appendObject(b, 1, op.Object)
		b = appendUint(b, 2, op.ObjectSize)
		b = appendUint(b, 3, uint64(op.Location))
		for i := range op.Blocks {
			b = appendMessage(b, 4, func(b []byte) []byte { return appendBlock(b, &op.Blocks[i]) })
		}
	case *Relocate:
		if op.IsBind() {
			b = appendObject(b, 1, op.Bind)
			return appendUint(b, 2, op.ObjectSize)
		}
		b = appendID(b, 3, op.Topic)
		b = appendUint(b, 4, uint64(op.Partition))
		b = appendUint(b, 5, uint64(op.StartOffset))
		b = appendUint(b, 6, uint64(op.EndOffset))
		b = appendRows(b, 7, op.Expected)
		b = appendRows(b, 8, op.Rows)
	case *ReserveProducerIDs:
		b = appendUint(b, 1, uint64(op.Count))
	case *SetFeatureLevel:
		b = appendUint(b, 1, uint64(op.Level))
	case *BumpCollectionEpoch:
		b = appendUint(b, 1, op.From)
	case *ExpireProducers:
		b = appendUint(b, 1, uint64(op.BeforeMs))
	case *DeleteRecords:
		b = appendID(b, 1, op.Topic)
		b = appendUint(b, 2, uint64(op.Partition))
		b = appendUint(b, 3, uint64(op.BeforeOffset))
	case *NewLogEpoch:
		b = appendUint(b, 1, op.Epoch)
	case *Rewrite:
		b = appendRewrite(b, op)
	default:
		b = appendGroupOp(b, op)
	}
	return b
}

func appendBlock(b []byte, block *Block) []byte {
	b = appendID(b, 1, block.Topic)
	b = appendUint(b, 2, uint64(block.Partition))
	b = appendUint(b, 3, uint64(block.Index))
	b = appendPacked(b, 4, block.Sizes)
	b = appendPacked(b, 5, block.Spans)
	if len(block.Timestamps) > 0 {
		b = appendMessage(b, 6, func(b []byte) []byte {
			last := int64(0)
			for _, ts := range block.Timestamps {
				b = protowire.AppendVarint(b, protowire.EncodeZigZag(ts-last)) // wraps, and wraps back
				last = ts
			}
			return b
		})
	}
	for i := range block.Runs {
		r := &block.Runs[i]
		b = appendMessage(b, 7, func(b []byte) []byte {
			b = appendUint(b, 1, uint64(r.First))
			b = appendUint(b, 2, uint64(r.Count))
			b = appendUint(b, 3, uint64(r.ProducerID))
			b = appendUint(b, 4, uint64(r.ProducerEpoch))
			b = appendUint(b, 5, uint64(r.BaseSequence))
			return appendUint(b, 6, uint64(r.Flags))
		})
	}
	b = appendUint(b, 8, uint64(block.ExpectedNextOffset))
	return appendUint(b, 9, block.FirstPosition)
}

func appendRows(b []byte, num protowire.Number, rows []Row) []byte {
	for i := range rows {
		r := &rows[i]
		b = appendMessage(b, num, func(b []byte) []byte {
			b = appendObject(b, 1, r.Object)
			b = appendUint(b, 2, r.ObjectSize)
			b = appendUint(b, 3, uint64(r.Block))
			b = appendUint(b, 4, uint64(r.BaseOffset))
			b = appendUint(b, 5, uint64(r.EndOffset))
			b = appendUint(b, 6, uint64(r.MaxTimestamp))
			b = appendBool(b, 7, r.LogAppendTime)
			b = appendUint(b, 8, r.Position)
			b = appendUint(b, 9, r.Size)
			return appendBool(b, 10, r.Cleaned)
		})
	}
	return b
}

func appendReplicas(b []byte, num protowire.Number, assignment []Replicas) []byte {
	for i := range assignment {
		nodes := assignment[i].Nodes
		b = appendMessage(b, num, func(b []byte) []byte {
			if len(nodes) == 0 {
				return b
			}
			return appendMessage(b, 1, func(b []byte) []byte {
				for _, node := range nodes {
					b = protowire.AppendVarint(b, uint64(node))
				}
				return b
			})
		})
	}
	return b
}

func appendObject(b []byte, num protowire.Number, o ObjectID) []byte {
	return appendObjectOf(b, num, o, UUID{})
}

// appendObjectOf leaves the topic out where it is the one that goes without saying.
func appendObjectOf(b []byte, num protowire.Number, o ObjectID, topic UUID) []byte {
	return appendMessage(b, num, func(b []byte) []byte {
		b = appendID(b, 1, o.Incarnation)
		b = appendUint(b, 2, o.Seq)
		b = appendUint(b, 3, o.CollectionEpoch)
		if o.Topic != topic {
			b = appendID(b, 4, o.Topic)
		}
		return b
	})
}

// appendMessage writes the body first and then moves it to make room for its length: most bodies are short, and a size
// pass over every message would be a second copy of the encoder.
func appendMessage(b []byte, num protowire.Number, body func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	start := len(b)
	b = body(append(b, 0))
	size := len(b) - start - 1
	if size < 0x80 {
		b[start] = byte(size)
		return b
	}
	var prefix [10]byte
	return slices.Replace(b, start, start+1, protowire.AppendVarint(prefix[:0], uint64(size))...)
}

func appendPacked(b []byte, num protowire.Number, column []uint64) []byte {
	if len(column) == 0 {
		return b
	}
	return appendMessage(b, num, func(b []byte) []byte {
		for _, v := range column {
			b = protowire.AppendVarint(b, v)
		}
		return b
	})
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendSint(b []byte, num protowire.Number, v int64) []byte {
	return appendUint(b, num, protowire.EncodeZigZag(v))
}

func appendFixed64(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), v)
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, num, 1)
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func appendID(b []byte, num protowire.Number, id [16]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), id[:])
}

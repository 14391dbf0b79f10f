package entry

import "google.golang.org/protobuf/encoding/protowire"

func appendGroupOp(b []byte, op Op) []byte {
	switch op := op.(type) {
	case *ClaimSlot:
		b = appendUint(b, 1, uint64(op.Slot))
		b = appendUint(b, 2, op.Epoch)
		b = appendID(b, 3, op.Owner)
	case *UpdateGroup:
		b = appendGroupHead(b, op.Slot, op.Epoch, op.Group)
		b = appendUint(b, 4, uint64(op.Generation))
		b = appendUint(b, 5, uint64(op.Kind))
		b = appendBytes(b, 6, op.Record)
		for i := range op.Puts {
			b = appendMessage(b, 7, func(b []byte) []byte {
				return appendBytes(appendString(b, 1, op.Puts[i].ID), 2, op.Puts[i].Record)
			})
		}
		for _, id := range op.Removes { // an empty one has to show, to be refused
			b = protowire.AppendString(protowire.AppendTag(b, 8, protowire.BytesType), id)
		}
		b = appendBool(b, 9, op.Complete)
	case *CommitOffsets:
		b = appendGroupHead(b, op.Slot, op.Epoch, op.Group)
		b = appendSint(b, 4, int64(op.Generation))
		for i := range op.Offsets {
			o := &op.Offsets[i]
			b = appendMessage(b, 5, func(b []byte) []byte {
				if i == 0 || o.Topic != op.Offsets[i-1].Topic {
					b = appendID(b, 1, o.Topic)
				}
				b = appendUint(b, 2, uint64(o.Partition))
				b = appendUint(b, 3, uint64(o.Offset))
				b = appendSint(b, 4, int64(o.LeaderEpoch))
				b = appendString(b, 5, o.Metadata)
				return appendSint(b, 6, o.ExpireMs)
			})
		}
	case *DeleteOffsets:
		b = appendGroupHead(b, op.Slot, op.Epoch, op.Group)
		for i := range op.Offsets {
			o := &op.Offsets[i]
			b = appendMessage(b, 4, func(b []byte) []byte {
				if i == 0 || o.Topic != op.Offsets[i-1].Topic {
					b = appendID(b, 1, o.Topic)
				}
				return appendUint(b, 2, uint64(o.Partition))
			})
		}
		b = appendUint(b, 5, uint64(op.NotAfterMs))
	case *DeleteGroup:
		b = appendGroupHead(b, op.Slot, op.Epoch, op.Group)
	}
	return b
}

func appendGroupHead(b []byte, slot uint32, epoch uint64, group string) []byte {
	b = appendUint(b, 1, uint64(slot))
	b = appendUint(b, 2, epoch)
	return appendString(b, 3, group)
}

package wal

// BuiltFrame is a frame for BuildFile. Kind 0 stands for Durable.
type BuiltFrame struct {
	Kind    Kind
	Promise int64
	Tag     []byte
	Payload []byte
	Size    uint32 // claimed payload size, if not that of Payload
}

// Mark is the kind of frame that only promises.
const Mark = kindMark

// BuildFile encodes a durable file the way the writer does, without a Log.
func BuildFile(id [16]byte, number, salt, prevNumber uint64, prevSynced int64, frames ...BuiltFrame) []byte {
	h := fileHeader{kind: Durable, id: id, number: number, salt: salt, prevNumber: prevNumber, prevSynced: prevSynced}
	b := h.appendTo(nil)
	seed, chain := keys(b)
	for _, x := range frames {
		h := frame{kind: x.Kind, chain: chain, promise: x.Promise, tagSize: uint8(len(x.Tag)),
			payloadSize: uint32(len(x.Payload)), bodyCRC: crcOf(append(append([]byte(nil), x.Tag...), x.Payload...))}
		if h.kind == 0 {
			h.kind = Durable
		}
		start := int64(len(b))
		b = appendFrame(b, h, x.Tag, [][]byte{x.Payload})
		if x.Size != 0 {
			h.payloadSize = x.Size
		}
		chain = h.put(b[start:], seed, start)
	}
	return b
}

// BuildVolume encodes the file VOLUME.
func BuildVolume(id [16]byte) []byte { return appendVolume(nil, id) }

package state

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/firnlog/firn/metastore/entry"
)

// RowsDigest is what a Rewrite expects of the rows that it replaces: all that a row says, but for whether it is in a WAL, which a
// Rewrite refuses anyway.
func RowsDigest(rows []Row) uint64 {
	d := rowDigest{h: sha256.New()}
	d.start()
	for i := range rows {
		x := &rows[i]
		d.add(&x.Object, x.ObjectSize, &row{
			block: x.Block, base: x.Base, end: x.End, maxTimestamp: x.MaxTimestamp,
			position: x.Position, size: x.Size, logAppendTime: x.LogAppendTime, cleaned: x.Cleaned,
		})
	}
	return d.sum()
}

// rowDigest is the first 8 bytes, big endian, of the SHA-256 of rows as docs/formats.md codes them.
type rowDigest struct {
	h   hash.Hash
	buf []byte // not yet given to h
}

const (
	digestTag    = "firn rows 1"
	digestBuffer = 4096
)

func (d *rowDigest) start() {
	d.h.Reset()
	d.buf = append(d.buf[:0], digestTag...)
}

// Flags of a row in the digest.
const (
	digestLogTime = 1 << iota
	digestCleaned
	digestMerged
)

func (d *rowDigest) add(id *entry.ObjectID, objectSize int64, r *row) {
	flags := byte(0)
	if r.logAppendTime {
		flags |= digestLogTime
	}
	if r.cleaned {
		flags |= digestCleaned
	}
	if id.Merged() {
		flags |= digestMerged
	}
	b := append(append(d.buf, flags), id.Incarnation[:]...)
	b = binary.BigEndian.AppendUint64(b, id.Seq)
	b = binary.BigEndian.AppendUint64(b, id.CollectionEpoch)
	if id.Merged() {
		b = append(b, id.Topic[:]...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(objectSize))
	b = binary.BigEndian.AppendUint32(b, r.block)
	b = binary.BigEndian.AppendUint64(b, uint64(r.base))
	b = binary.BigEndian.AppendUint64(b, uint64(r.end))
	b = binary.BigEndian.AppendUint64(b, uint64(r.maxTimestamp))
	b = binary.BigEndian.AppendUint64(b, uint64(r.position))
	b = binary.BigEndian.AppendUint64(b, uint64(r.size))
	if len(b) >= digestBuffer {
		d.h.Write(b)
		b = b[:0]
	}
	d.buf = b
}

func (d *rowDigest) sum() uint64 {
	d.h.Write(d.buf)
	d.buf = d.h.Sum(d.buf[:0])
	return binary.BigEndian.Uint64(d.buf)
}

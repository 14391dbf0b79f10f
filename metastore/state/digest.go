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
	d := rowDigest{h: sha256.New(), buf: make([]byte, 0, min(len(digestTag)+len(rows)*digestRowBytes, digestBuffer+digestRowBytes))}
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
	digestTag      = "firn rows 1"
	digestBuffer   = 4096
	digestRowBytes = 1 + 16 + 8 + 8 + 16 + 8 + 4 + 5*8
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
	var b [digestRowBytes]byte
	if r.logAppendTime {
		b[0] |= digestLogTime
	}
	if r.cleaned {
		b[0] |= digestCleaned
	}
	at := 1 + copy(b[1:], id.Incarnation[:])
	put := func(v uint64) {
		binary.BigEndian.PutUint64(b[at:], v)
		at += 8
	}
	put(id.Seq)
	put(id.CollectionEpoch)
	if id.Merged() {
		b[0] |= digestMerged
		at += copy(b[at:], id.Topic[:])
	}
	put(uint64(objectSize))
	binary.BigEndian.PutUint32(b[at:], r.block)
	at += 4
	put(uint64(r.base))
	put(uint64(r.end))
	put(uint64(r.maxTimestamp))
	put(uint64(r.position))
	put(uint64(r.size))
	d.buf = append(d.buf, b[:at]...)
	if len(d.buf) >= digestBuffer {
		d.h.Write(d.buf)
		d.buf = d.buf[:0]
	}
}

func (d *rowDigest) sum() uint64 {
	d.h.Write(d.buf)
	d.buf = d.h.Sum(d.buf[:0])
	return binary.BigEndian.Uint64(d.buf)
}

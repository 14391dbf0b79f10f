package entry

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// ObjectID names a segment object; its key in the bucket follows from it.
type ObjectID struct {
	Incarnation     [16]byte // of the uploader
	Seq             uint64   // from 1
	CollectionEpoch uint64   // in force when the upload started
}

// Compare orders ids by incarnation, seq, collection epoch.
func (o ObjectID) Compare(p ObjectID) int {
	if c := bytes.Compare(o.Incarnation[:], p.Incarnation[:]); c != 0 {
		return c
	}
	if c := cmp.Compare(o.Seq, p.Seq); c != 0 {
		return c
	}
	return cmp.Compare(o.CollectionEpoch, p.CollectionEpoch)
}

// Key is the object's key: data/<hash>/<collection epoch>/<incarnation>-<seq>, all lower-case hexadecimal. The hash (the
// low byte of the CRC-32C of incarnation and big-endian seq) comes first so that uploads spread over key prefixes; the
// collection epoch comes next so that the collector lists only what is old enough to collect.
func (o ObjectID) Key() string {
	return fmt.Sprintf("data/%02x/%016x/%x-%016x", o.spread(), o.CollectionEpoch, o.Incarnation, o.Seq)
}

func (o ObjectID) String() string { return o.Key() }

func (o ObjectID) spread() byte {
	var b [24]byte
	copy(b[:], o.Incarnation[:])
	binary.BigEndian.PutUint64(b[16:], o.Seq)
	return byte(crc32.Checksum(b[:], crc32.MakeTable(crc32.Castagnoli)))
}

// ParseObjectKey is the inverse of Key. It accepts nothing that Key does not make.
func ParseObjectKey(key string) (ObjectID, error) {
	var o ObjectID
	parts := strings.Split(key, "/")
	if len(parts) != 4 || parts[0] != "data" || len(parts[2]) != 16 || len(parts[3]) != 49 || parts[3][32] != '-' {
		return ObjectID{}, fmt.Errorf("object key %q: not of the form data/hash/epoch/incarnation-seq", key)
	}
	var err error
	if o.CollectionEpoch, err = strconv.ParseUint(parts[2], 16, 64); err != nil {
		return ObjectID{}, fmt.Errorf("object key %q: collection epoch: %w", key, err)
	}
	if _, err = hex.Decode(o.Incarnation[:], []byte(parts[3][:32])); err != nil {
		return ObjectID{}, fmt.Errorf("object key %q: incarnation: %w", key, err)
	}
	if o.Seq, err = strconv.ParseUint(parts[3][33:], 16, 64); err != nil {
		return ObjectID{}, fmt.Errorf("object key %q: seq: %w", key, err)
	}
	if o.Key() != key {
		return ObjectID{}, fmt.Errorf("object key %q: not canonical, want %q", key, o.Key())
	}
	return o, nil
}

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

// ObjectID names a segment object; its key in the bucket follows from it. Agents flush objects of level 0, which hold batches of
// many topics; compaction rewrites them into merged objects of one topic each.
type ObjectID struct {
	Incarnation     [16]byte // of the uploader
	Seq             uint64   // from 1
	CollectionEpoch uint64   // in force when the upload started
	Topic           UUID     // of a merged object, and part of its identity; zero: an object of level 0
}

// Merged reports whether compaction wrote the object: it then holds batches of one topic, which know their own offsets.
func (o ObjectID) Merged() bool { return o.Topic != UUID{} }

// Compare orders ids by incarnation, seq, collection epoch, topic.
func (o ObjectID) Compare(p ObjectID) int {
	if c := bytes.Compare(o.Incarnation[:], p.Incarnation[:]); c != 0 {
		return c
	}
	if c := cmp.Compare(o.Seq, p.Seq); c != 0 {
		return c
	}
	if c := cmp.Compare(o.CollectionEpoch, p.CollectionEpoch); c != 0 {
		return c
	}
	return bytes.Compare(o.Topic[:], p.Topic[:])
}

// Prefixes of the keys of objects of level 0 and of merged ones.
const (
	DataPrefix   = "data/"
	TopicsPrefix = "topics/"
)

// Key is the object's key: data/<hash>/<collection epoch>/<incarnation>-<seq>, all lower-case hexadecimal. The hash (the
// low byte of the CRC-32C of incarnation and big-endian seq) comes first so that uploads spread over key prefixes; the
// collection epoch comes next so that the collector lists only what is old enough to collect. The key of a merged object is
// topics/<topic>/<collection epoch>/<incarnation>-<seq>: an operator finds, and a rule of the bucket covers, a topic by its prefix.
func (o ObjectID) Key() string {
	if o.Merged() {
		return fmt.Sprintf("topics/%s/%016x/%x-%016x", o.Topic, o.CollectionEpoch, o.Incarnation, o.Seq)
	}
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
	if len(parts) != 4 || len(parts[2]) != 16 || len(parts[3]) != 49 || parts[3][32] != '-' {
		return ObjectID{}, fmt.Errorf("object key %q: not of the form data/hash/epoch/incarnation-seq or topics/topic/epoch/incarnation-seq", key)
	}
	var err error
	switch parts[0] {
	case "data":
	case "topics":
		if len(parts[1]) != 2*len(o.Topic) {
			return ObjectID{}, fmt.Errorf("object key %q: topic id of %d digits, want %d", key, len(parts[1]), 2*len(o.Topic))
		}
		if _, err = hex.Decode(o.Topic[:], []byte(parts[1])); err != nil {
			return ObjectID{}, fmt.Errorf("object key %q: topic: %w", key, err)
		}
	default:
		return ObjectID{}, fmt.Errorf("object key %q: begins with neither %s nor %s", key, DataPrefix, TopicsPrefix)
	}
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

// Sizes of an id in a segment's footer.
const (
	objectIDBytes = 16 + 8 + 8
	mergedIDBytes = objectIDBytes + 16
)

// AppendObjectID writes an id as segment footers carry it: incarnation (16 bytes), seq and collection epoch (8 each, big
// endian), and of a merged object the topic (16 bytes).
func AppendObjectID(b []byte, id ObjectID) []byte {
	b = append(b, id.Incarnation[:]...)
	b = binary.BigEndian.AppendUint64(b, id.Seq)
	b = binary.BigEndian.AppendUint64(b, id.CollectionEpoch)
	if id.Merged() {
		b = append(b, id.Topic[:]...)
	}
	return b
}

// ParseObjectID is the inverse of AppendObjectID.
func ParseObjectID(b []byte) (ObjectID, error) {
	if len(b) != objectIDBytes && len(b) != mergedIDBytes {
		return ObjectID{}, fmt.Errorf("%w: object id of %d bytes, want %d or, of a merged object, %d", ErrCorrupt, len(b), objectIDBytes, mergedIDBytes)
	}
	var o ObjectID
	copy(o.Incarnation[:], b)
	o.Seq = binary.BigEndian.Uint64(b[16:])
	o.CollectionEpoch = binary.BigEndian.Uint64(b[24:])
	copy(o.Topic[:], b[objectIDBytes:])
	if len(b) == mergedIDBytes && !o.Merged() {
		return ObjectID{}, fmt.Errorf("%w: object id names topic zero", ErrCorrupt)
	}
	return o, nil
}

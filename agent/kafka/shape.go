package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kbin"
)

// errMalformed: the bytes are not a request of the API and version they claim.
var errMalformed = errors.New("malformed request")

// elementsMax bounds the array elements and tags of one request.
const elementsMax = 1 << 18

// shape is the outline of an API's request. Walking it before kmsg decodes serves two ends: kmsg allocates an array of the
// length that is claimed if only as many bytes follow, 100 times what was sent; and it counts down the tags that are claimed
// even when there are no bytes left, for up to 2^32 rounds.
type shape struct {
	flexible int16 // first version with compact lengths and tags
	fields   []field
	// refused, where not zero, is a tag of the request that is not for clients, plus one.
	refused uint32
}

type fieldKind int8

const (
	fixed fieldKind = iota
	text
	nullableText
	structs    // each, each followed by tags in flexible versions
	primitives // an array of bare fields
	optional   // one struct behind a byte that says whether it is there; flexible versions only
)

type field struct {
	kind         fieldKind
	size         int   // bytes of a fixed field
	since, until int16 // versions that have it; until 0: all from since on
	elem         []field
}

func (f field) from(v int16) field { f.since = v; return f }
func (f field) to(v int16) field   { f.until = v; return f }

func listOf(elem ...field) field { return field{kind: structs, elem: elem} }

// shapes returns the outlines of all requests but Produce, which has a decoder of its own.
func shapes() map[int16]shape {
	int8f, int16f, int32f, int64f, uuid := field{size: 1}, field{size: 2}, field{size: 4}, field{size: 8}, field{size: 16}
	str, nullStr := field{kind: text}, field{kind: nullableText}
	int8s := field{kind: primitives, elem: []field{int8f}}
	int32s, strs := field{kind: primitives, elem: []field{int32f}}, field{kind: primitives, elem: []field{str}}
	return map[int16]shape{
		keyFetch: {flexible: 12, refused: 1 + 1, fields: []field{ // tag 1: a follower's state
			int32f.to(14), int32f, int32f, int32f, int8f, int32f.from(7), int32f.from(7),
			listOf(str.to(12), uuid.from(13), listOf(int32f, int32f.from(9), int64f, int32f.from(12), int64f.from(5), int32f)),
			listOf(str.to(12), uuid.from(13), int32s).from(7),
			str.from(11),
		}},
		keyListOffsets: {flexible: 6, fields: []field{
			int32f, int8f.from(2), listOf(str, listOf(int32f, int32f.from(4), int64f)), int32f.from(10),
		}},
		keyMetadata: {flexible: 9, fields: []field{
			listOf(uuid.from(10), str.to(9), nullStr.from(10)), int8f.from(4), int8f.from(8).to(10), int8f.from(8),
		}},
		keyFindCoordinator: {flexible: 3, fields: []field{str.to(3), int8f.from(1), strs.from(4)}},
		keyListGroups:      {flexible: 3, fields: []field{strs.from(4), strs.from(5)}},
		keySaslHandshake:   {flexible: math.MaxInt16, fields: []field{str}},
		keyApiVersions:     {flexible: 3, fields: []field{str.from(3), str.from(3)}},
		keyCreateTopics: {flexible: 5, fields: []field{
			listOf(str, int32f, int16f, listOf(int32f, int32s), listOf(str, nullStr)), int32f, int8f,
		}},
		keyDeleteTopics:    {flexible: 4, fields: []field{strs.to(5), listOf(nullStr, uuid).from(6), int32f}},
		keyDeleteRecords:   {flexible: 2, fields: []field{listOf(str, listOf(int32f, int64f)), int32f}},
		keyInitProducerID:  {flexible: 2, fields: []field{nullStr, int32f, int64f.from(3), int16f.from(3)}},
		keyDescribeConfigs: {flexible: 4, fields: []field{listOf(int8f, str, strs), int8f, int8f.from(3)}},
		keyAlterConfigs:    {flexible: 2, fields: []field{listOf(int8f, str, listOf(str, nullStr)), int8f}},
		keyDescribeLogDirs: {flexible: 2, fields: []field{listOf(str, int32s)}},
		keyCreatePartitions: {flexible: 2, fields: []field{
			listOf(str, int32f, listOf(int32s)), int32f, int8f,
		}},
		keyIncrementalAlterConfigs: {flexible: 1, fields: []field{
			listOf(int8f, str, listOf(str, int8f, nullStr)), int8f,
		}},
		keyDescribeCluster:     {flexible: 0, fields: []field{int8f, int8f.from(1), int8f.from(2)}},
		keyListConfigResources: {flexible: 0, fields: []field{int8s.from(1)}},
		keyDescribeTopicPartitions: {flexible: 0, fields: []field{
			listOf(str), int32f, {kind: optional, elem: []field{str, int32f}},
		}},
	}
}

// check walks body. Errors wrap errMalformed.
func (s shape) check(version int16, body []byte) error {
	w := walker{b: body, version: version, flexible: version >= s.flexible, refused: s.refused, elements: elementsMax}
	w.fields(s.fields)
	if w.flexible {
		w.tags(w.refused)
	}
	switch {
	case w.why != "":
		return fmt.Errorf("%w: %s at byte %d of %d", errMalformed, w.why, len(body)-len(w.b), len(body))
	case len(w.b) > 0:
		return fmt.Errorf("%w: %d bytes left over", errMalformed, len(w.b))
	}
	return nil
}

// walker steps over b. Once why is set it stands still.
type walker struct {
	b        []byte
	version  int16
	flexible bool
	refused  uint32
	elements int // that may still come
	why      string
}

func (w *walker) fields(fs []field) {
	for i := range fs {
		f := &fs[i]
		if w.why != "" {
			return
		}
		if w.version < f.since || f.until > 0 && w.version > f.until {
			continue
		}
		switch f.kind {
		case fixed:
			w.skip(f.size)
		case text, nullableText:
			w.text(f.kind == nullableText)
		case optional:
			there := w.b
			if w.skip(1); w.why == "" && int8(there[0]) != -1 {
				w.fields(f.elem)
				w.tags(0)
			}
		case structs, primitives:
			n := w.length(4)
			w.count(n)
			for ; n > 0 && w.why == ""; n-- {
				w.fields(f.elem)
				if w.flexible && f.kind == structs {
					w.tags(0)
				}
			}
		}
	}
}

// length reads a length of wide bytes, or compact; -1 is null.
func (w *walker) length(wide int) int {
	if w.flexible {
		return int(w.uvarint()) - 1
	}
	if len(w.b) < wide {
		w.why = "length cut off"
		return 0
	}
	var n int
	if wide == 2 {
		n = int(int16(binary.BigEndian.Uint16(w.b)))
	} else {
		n = int(int32(binary.BigEndian.Uint32(w.b)))
	}
	w.b = w.b[wide:]
	if n < -1 {
		w.why = "negative length"
	}
	return n
}

func (w *walker) uvarint() uint32 {
	v, n := kbin.Uvarint(w.b)
	if n <= 0 {
		w.why = "varint cut off"
		return 0
	}
	w.b = w.b[n:]
	return v
}

func (w *walker) text(nullable bool) {
	n := w.length(2)
	if n < 0 && !nullable && w.why == "" {
		w.why = "null where a string is needed"
	}
	w.skip(max(n, 0))
}

func (w *walker) skip(n int) {
	if w.why != "" {
		return
	}
	if n > len(w.b) {
		w.why = "field cut off"
		return
	}
	w.b = w.b[n:]
}

// count charges n elements, each of which needs a byte at least.
func (w *walker) count(n int) {
	if w.why != "" || n <= 0 {
		return
	}
	if n > len(w.b) || n > w.elements {
		w.why = fmt.Sprintf("%d elements announced", n)
		return
	}
	w.elements -= n
}

// tags steps over a tagged section. refused is a tag that may not occur, plus one.
func (w *walker) tags(refused uint32) {
	n := int(w.uvarint())
	w.count(n)
	for ; n > 0 && w.why == ""; n-- {
		if key := w.uvarint(); refused > 0 && key == refused-1 {
			w.why = "a field that is not for clients"
			return
		}
		w.skip(int(w.uvarint()))
	}
}

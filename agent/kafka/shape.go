package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// errMalformed: the bytes are not a request of the API and version they claim.
var errMalformed = errors.New("malformed request")

// elementsMax bounds the array elements and tags of one request.
const elementsMax = 1 << 18

// A request may decode into at most roomFactor times its bytes and roomSlack. kmsg's elements take up to 150 times the one or
// two bytes that they need on the wire; no client fills a large request with such.
const (
	roomFactor = 4
	roomSlack  = 1 << 20
)

// shape is the outline of an API's request. Walking it before kmsg decodes serves two ends: kmsg allocates an array of the
// length that is claimed if only as many bytes follow, 100 times what was sent; and it counts down the tags that are claimed
// even when there are no bytes left, for up to 2^32 rounds. The walk adds up what the decoder is going to allocate, and
// refuses what is out of proportion before any of it is.
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
	blob       // nullable bytes; left where they are
	kept       // bytes that the decoded request gets a copy of
	structs    // each, each followed by tags in flexible versions
	primitives // an array of bare fields
	optional   // one struct behind a byte that says whether it is there; flexible versions only
)

type field struct {
	kind         fieldKind
	size         int   // bytes of a fixed field
	since, until int16 // versions that have it; until 0: all from since on
	elem         []field
	// room is what an element takes once decoded, beside what its texts and arrays take. Filled in from kmsg's types.
	room int
}

func (f field) from(v int16) field { f.since = v; return f }
func (f field) to(v int16) field   { f.until = v; return f }

func listOf(elem ...field) field { return field{kind: structs, elem: elem} }

// shapes returns the outlines of all requests.
func shapes() map[int16]shape {
	all := outlines()
	for key, s := range all {
		if key != keyProduce { // has a decoder of its own
			s.measure(kmsg.RequestForKey(key))
		}
	}
	return all
}

// measure fills in the room of each array's elements from the types that req is made of. Arrays are the same in number and
// order there as in the outline.
func (s shape) measure(req kmsg.Request) {
	sizes := elementSizes(nil, reflect.TypeOf(req).Elem())
	var fill func(fs []field)
	fill = func(fs []field) {
		for i := range fs {
			if fs[i].kind == optional {
				fill(fs[i].elem)
			}
			if fs[i].kind != structs && fs[i].kind != primitives {
				continue
			}
			if len(sizes) == 0 {
				panic(fmt.Sprintf("kafka: the outline of %T has more arrays than the type", req))
			}
			fs[i].room, sizes = sizes[0], sizes[1:]
			fill(fs[i].elem)
		}
	}
	fill(s.fields)
	if len(sizes) > 0 {
		panic(fmt.Sprintf("kafka: the outline of %T lacks arrays that the type has", req))
	}
}

// elementSizes lists the sizes of the elements of all arrays in t, outer ones first.
func elementSizes(sizes []int, t reflect.Type) []int {
	for i := range t.NumField() {
		ft := t.Field(i).Type
		switch {
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			sizes = elementSizes(append(sizes, int(ft.Elem().Size())), ft.Elem())
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() != reflect.Uint8:
			sizes = append(sizes, int(ft.Elem().Size()))
		case ft.Kind() == reflect.Pointer && ft.Elem().Kind() == reflect.Struct:
			sizes = elementSizes(sizes, ft.Elem())
		case ft.Kind() == reflect.Struct:
			sizes = elementSizes(sizes, ft)
		}
	}
	return sizes
}

func outlines() map[int16]shape {
	int8f, int16f, int32f, int64f, uuid := field{size: 1}, field{size: 2}, field{size: 4}, field{size: 8}, field{size: 16}
	str, nullStr := field{kind: text}, field{kind: nullableText}
	data := field{kind: kept}
	int8s := field{kind: primitives, elem: []field{int8f}}
	int32s, strs := field{kind: primitives, elem: []field{int32f}}, field{kind: primitives, elem: []field{str}}
	return map[int16]shape{
		keyProduce: {flexible: 9, fields: []field{
			nullStr.from(3), int16f, int32f, produceOutline(int32f, str.to(12), uuid.from(13)),
		}},
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
		keyOffsetCommit: {flexible: 8, fields: []field{
			str, int32f, str, nullStr.from(7), int64f.to(4),
			listOf(str.to(9), uuid.from(10), listOf(int32f, int64f, int32f.from(6), nullStr)),
		}},
		keyOffsetFetch: {flexible: 6, fields: []field{
			str.to(7), listOf(str, int32s).to(7),
			listOf(str, nullStr.from(9), int32f.from(9), listOf(str.to(9), uuid.from(10), int32s)).from(8), int8f.from(7),
		}},
		keyDescribeGroups:  {flexible: 5, fields: []field{strs, int8f.from(3)}},
		keyDeleteGroups:    {flexible: 2, fields: []field{strs}},
		keyOffsetDelete:    {flexible: math.MaxInt16, fields: []field{str, listOf(str, listOf(int32f))}},
		keyFindCoordinator: {flexible: 3, fields: []field{str.to(3), int8f.from(1), strs.from(4)}},
		keyJoinGroup: {flexible: 6, fields: []field{
			str, int32f, int32f.from(1), str, nullStr.from(5), str, listOf(str, data), nullStr.from(8),
		}},
		keyHeartbeat:  {flexible: 4, fields: []field{str, int32f, str, nullStr.from(3)}},
		keyLeaveGroup: {flexible: 4, fields: []field{str, str.to(2), listOf(str, nullStr, nullStr.from(5)).from(3)}},
		keySyncGroup: {flexible: 4, fields: []field{
			str, int32f, str, nullStr.from(3), nullStr.from(5), nullStr.from(5), listOf(str, data),
		}},
		keyListGroups:    {flexible: 3, fields: []field{strs.from(4), strs.from(5)}},
		keySaslHandshake: {flexible: math.MaxInt16, fields: []field{str}},
		keyApiVersions:   {flexible: 3, fields: []field{str.from(3), str.from(3)}},
		keyCreateTopics: {flexible: 5, fields: []field{
			listOf(str, int32f, int16f, listOf(int32f, int32s), listOf(str, nullStr)), int32f, int8f,
		}},
		keyDeleteTopics:   {flexible: 4, fields: []field{strs.to(5), listOf(nullStr, uuid).from(6), int32f}},
		keyDeleteRecords:  {flexible: 2, fields: []field{listOf(str, listOf(int32f, int64f)), int32f}},
		keyInitProducerID: {flexible: 2, fields: []field{nullStr, int32f, int64f.from(3), int16f.from(3)}},
		keyOffsetForLeaderEpoch: {flexible: 4, fields: []field{
			int32f.from(3), listOf(str, listOf(int32f, int32f, int32f)),
		}},
		keyDescribeConfigs: {flexible: 4, fields: []field{listOf(int8f, str, strs), int8f, int8f.from(3)}},
		keyAlterConfigs:    {flexible: 2, fields: []field{listOf(int8f, str, listOf(str, nullStr)), int8f}},
		keyDescribeLogDirs: {flexible: 2, fields: []field{listOf(str, int32s)}},
		keyCreatePartitions: {flexible: 2, fields: []field{
			listOf(str, int32f, listOf(int32s)), int32f, int8f,
		}},
		keyIncrementalAlterConfigs: {flexible: 1, fields: []field{
			listOf(int8f, str, listOf(str, int8f, nullStr)), int8f,
		}},
		keyDescribeCluster: {flexible: 0, fields: []field{int8f, int8f.from(1), int8f.from(2)}},
		keyConsumerGroupHeartbeat: {flexible: 0, fields: []field{
			str, str, int32f, nullStr, nullStr, int32f, strs, nullStr.from(1), nullStr, listOf(uuid, int32s),
		}},
		keyConsumerGroupDescribe: {flexible: 0, fields: []field{strs, int8f}},
		keyListConfigResources:   {flexible: 0, fields: []field{int8s.from(1)}},
		keyDescribeTopicPartitions: {flexible: 0, fields: []field{
			listOf(str), int32f, {kind: optional, elem: []field{str, int32f}},
		}},
	}
}

// check walks body and returns about how many bytes the decoder is going to allocate for it. Errors wrap errMalformed.
func (s shape) check(version int16, body []byte) (room int, err error) {
	most := roomFactor*len(body) + roomSlack
	w := walker{b: body, version: version, flexible: version >= s.flexible, refused: s.refused, elements: elementsMax, room: most}
	w.fields(s.fields)
	if w.flexible {
		w.tags(w.refused)
	}
	switch {
	case w.why != "":
		return 0, fmt.Errorf("%w: %s at byte %d of %d", errMalformed, w.why, len(body)-len(w.b), len(body))
	case len(w.b) > 0:
		return 0, fmt.Errorf("%w: %d bytes left over", errMalformed, len(w.b))
	}
	return most - w.room, nil
}

// walker steps over b. Once why is set it stands still.
type walker struct {
	b        []byte
	version  int16
	flexible bool
	refused  uint32
	elements int // that may still come
	room     int // bytes that may still be allocated
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
		case blob:
			w.skip(max(w.length(4), 0))
		case kept:
			n := max(w.length(4), 0)
			w.take(textRoom + n)
			w.skip(n)
		case optional:
			there := w.b
			if w.skip(1); w.why == "" && int8(there[0]) != -1 {
				w.take(optionalRoom)
				w.fields(f.elem)
				w.tags(0)
			}
		case structs, primitives:
			n := w.length(4)
			w.count(n)
			w.take(max(n, 0) * (f.room + f.room/8)) // the allocator rounds up
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
	w.take(textRoom + max(n, 0))
	w.skip(max(n, 0))
}

// What kmsg allocates for a text beside its bytes (rounding up, and a pointer where it may be null); for a section of tags
// that it does not know, which becomes a map; and for each tag in there.
const (
	textRoom = 24
	tagsRoom = 400
	tagRoom  = 200

	optionalRoom = 256 // of a struct that may be missing
)

// take charges n bytes of what decoding allocates.
func (w *walker) take(n int) {
	if w.why != "" {
		return
	}
	if n > w.room {
		w.why = "the request decodes into many times its size"
		return
	}
	w.room -= n
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
	if n > 0 {
		w.take(tagsRoom + n*tagRoom)
	}
	for ; n > 0 && w.why == ""; n-- {
		if key := w.uvarint(); refused > 0 && key == refused-1 {
			w.why = "a field that is not for clients"
			return
		}
		w.skip(int(w.uvarint()))
	}
}

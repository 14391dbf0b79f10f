package consumer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/metastore/entry"
)

var (
	// ErrCorrupt: the bytes are no record.
	ErrCorrupt = errors.New("corrupt group record")
	// ErrVersion: a newer firn has written the record.
	ErrVersion = errors.New("group record of a newer version")
)

const recordVersion = 1

// partitionsMax bounds how many partitions a record may name: as many as a cluster can have.
const partitionsMax = 1_000_000

// header is the group's record. The package doc has the bytes.
type header struct {
	targetEpoch int32
	assignor    string
	topicsHash  uint64
}

func (h header) appendTo(b []byte) []byte {
	b = append(b, recordVersion)
	b = binary.AppendUvarint(b, uint64(h.targetEpoch))
	b = appendText(b, h.assignor)
	return binary.LittleEndian.AppendUint64(b, h.topicsHash)
}

func parseHeader(b []byte) (header, error) {
	r := reader{b: b}
	r.version()
	h := header{targetEpoch: r.int32(), assignor: r.text()}
	if hash := r.bytes(8); hash != nil {
		h.topicsHash = binary.LittleEndian.Uint64(hash)
	}
	return h, r.end("group")
}

// Flags of a member record.
const (
	flagInstance = 1 << iota
	flagRack
	flagRegex
	flagAssignor
	flagClassic

	flagsKnown = 1<<iota - 1
)

func (m *member) appendTo(b []byte) []byte {
	flags := byte(0)
	for _, f := range [...]struct {
		set  bool
		flag byte
	}{
		{m.instance != "", flagInstance}, {m.rack != "", flagRack}, {m.regex != "", flagRegex}, {m.assignor != "", flagAssignor},
		{m.classic != nil, flagClassic},
	} {
		if f.set {
			flags |= f.flag
		}
	}
	b = append(b, recordVersion, flags, byte(m.state))
	for _, s := range [...]string{m.instance, m.rack, m.regex, m.assignor} {
		if s != "" {
			b = appendText(b, s)
		}
	}
	b = appendText(b, m.clientID)
	b = appendText(b, m.clientHost)
	b = binary.AppendUvarint(b, uint64(m.rebalance.Milliseconds()))
	b = binary.AppendVarint(b, int64(m.epoch))
	b = binary.AppendVarint(b, int64(m.previous))
	b = binary.AppendUvarint(b, uint64(len(m.names)))
	for _, name := range m.names {
		b = appendText(b, name)
	}
	b = m.appendTopics(b)
	if m.classic != nil {
		b = binary.AppendUvarint(b, uint64(m.classic.session.Milliseconds()))
		b = binary.AppendUvarint(b, uint64(len(m.classic.protocols)))
		for _, p := range m.classic.protocols {
			b = appendText(b, p.Name)
			b = appendText(b, p.Metadata)
		}
	}
	return b
}

func parseMember(id string, b []byte) (*member, error) {
	r := reader{b: b, room: partitionsMax}
	m := &member{id: id}
	r.version()
	flags := r.byte()
	if flags&^flagsKnown != 0 {
		r.fail()
	}
	if m.state = memberState(r.byte()); m.state > unreleased {
		r.fail()
	}
	for _, f := range [...]struct {
		flag byte
		to   *string
	}{{flagInstance, &m.instance}, {flagRack, &m.rack}, {flagRegex, &m.regex}, {flagAssignor, &m.assignor}} {
		if flags&f.flag != 0 {
			*f.to = r.text()
		}
	}
	m.clientID, m.clientHost = r.text(), r.text()
	m.rebalance = r.millis()
	m.epoch, m.previous = r.epoch(), r.epoch()
	if n := r.count(1); n > 0 {
		m.names = make([]string, 0, n)
		for ; n > 0 && r.err == nil; n-- {
			m.names = append(m.names, r.text())
		}
	}
	r.topics(m)
	if flags&flagClassic != 0 {
		m.classic = &classicMember{session: r.millis()}
		for n := r.count(2); n > 0 && r.err == nil; n-- {
			m.classic.protocols = append(m.classic.protocols, classic.Protocol{Name: r.text(), Metadata: r.blob()})
		}
		if err := m.classic.parse(); err != nil {
			r.fail()
		}
	}
	return m, r.end("member")
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Which of a topic's partitions follow its id in a member record.
const (
	partAssigned = 1 << iota
	partRevoking
	partTarget
	partSettled // the target is what is assigned, and not written again

	partsKnown = 1<<iota - 1
)

// appendTopics writes assigned, revoking and target partitions, topic by topic.
func (m *member) appendTopics(b []byte) []byte {
	var all []entry.UUID
	for _, t := range m.assigned {
		all = append(all, t.topic)
	}
	for _, t := range m.revoking {
		all = append(all, t.topic)
	}
	for _, tp := range m.target {
		all = append(all, tp.Topic)
	}
	slices.SortFunc(all, compareTopics)
	all = slices.Compact(all)
	b = binary.AppendUvarint(b, uint64(len(all)))
	assigned, revoking, target := m.assigned, m.revoking, m.target
	for _, topic := range all {
		b = append(b, topic[:]...)
		at, parts := len(b), byte(0)
		b = append(b, 0)
		var held []int32
		if len(assigned) > 0 && assigned[0].topic == topic {
			held = assigned[0].partitions
			parts |= partAssigned
			b = appendRuns(b, held, assigned[0].since)
			assigned = assigned[1:]
		}
		if len(revoking) > 0 && revoking[0].topic == topic {
			parts |= partRevoking
			b = appendRuns(b, revoking[0].partitions, revoking[0].since)
			revoking = revoking[1:]
		}
		if len(target) > 0 && target[0].Topic == topic {
			if slices.Equal(target[0].Partitions, held) {
				parts |= partSettled
			} else {
				parts |= partTarget
				b = appendRuns(b, target[0].Partitions, nil)
			}
			target = target[1:]
		}
		b[at] = parts
	}
	return b
}

// appendRuns writes runs of neighbours (that are held since the same epoch): the gap before each, its length, its epoch.
func appendRuns(b []byte, parts, since []int32) []byte {
	runs := 0
	for i := range parts {
		if startsRun(parts, since, i) {
			runs++
		}
	}
	b = binary.AppendUvarint(b, uint64(runs))
	end := int32(0)
	for i := 0; i < len(parts); {
		n := 1
		for i+n < len(parts) && !startsRun(parts, since, i+n) {
			n++
		}
		b = binary.AppendUvarint(b, uint64(parts[i]-end))
		b = binary.AppendUvarint(b, uint64(n))
		if since != nil {
			b = binary.AppendUvarint(b, uint64(since[i]))
		}
		end = parts[i] + int32(n)
		i += n
	}
	return b
}

func startsRun(parts, since []int32, i int) bool {
	return i == 0 || parts[i] != parts[i-1]+1 || since != nil && since[i] != since[i-1]
}

// reader takes a record apart; after the first error it returns zeros.
type reader struct {
	b    []byte
	room int // partitions that may still come
	err  error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = ErrCorrupt
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) version() {
	if v := r.byte(); r.err == nil && v != recordVersion {
		r.fail()
		if v > recordVersion {
			r.err = fmt.Errorf("%w: %d, this build reads %d", ErrVersion, v, recordVersion)
		}
	}
}

// uvarint reads a number of at most limit.
func (r *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int32() int32 { return int32(r.uvarint(math.MaxInt32)) }

func (r *reader) millis() time.Duration { return time.Duration(r.int32()) * time.Millisecond }

// epoch reads a member's epoch: -2 is a static member that will be back.
func (r *reader) epoch() int32 {
	v, n := binary.Varint(r.b)
	if n <= 0 || v < epochLeaveStatic || v > math.MaxInt32 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return int32(v)
}

// count reads a number of things that take at least size bytes each.
func (r *reader) count(size int) int { return int(r.uvarint(uint64(len(r.b) / size))) }

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// blob aliases the record, which nobody modifies.
func (r *reader) blob() []byte { return r.bytes(int(r.uvarint(uint64(len(r.b))))) }

func (r *reader) text() string { return string(r.blob()) }

// topics reads what appendTopics wrote.
func (r *reader) topics(m *member) {
	var last entry.UUID
	for n, i := r.count(len(last)+1), 0; i < n && r.err == nil; i++ {
		var topic entry.UUID
		copy(topic[:], r.bytes(len(topic)))
		if i > 0 && compareTopics(last, topic) >= 0 {
			r.fail()
		}
		last = topic
		parts := r.byte()
		if parts == 0 || parts&^partsKnown != 0 || parts&partSettled != 0 && (parts&partAssigned == 0 || parts&partTarget != 0) {
			r.fail()
		}
		if parts&partAssigned != 0 {
			held, since := r.runs(true)
			m.assigned = append(m.assigned, ownedTopic{topic: topic, partitions: held, since: since})
			if parts&partSettled != 0 {
				m.target = append(m.target, TopicPartitions{Topic: topic, Partitions: held})
			}
		}
		if parts&partRevoking != 0 {
			going, since := r.runs(true)
			m.revoking = append(m.revoking, ownedTopic{topic: topic, partitions: going, since: since})
		}
		if parts&partTarget != 0 {
			wanted, _ := r.runs(false)
			m.target = append(m.target, TopicPartitions{Topic: topic, Partitions: wanted})
		}
	}
}

// runs reads the partitions of a topic.
func (r *reader) runs(withSince bool) (parts, since []int32) {
	end := uint64(0)
	for n := r.count(2); n > 0 && r.err == nil; n-- {
		start := end + r.uvarint(math.MaxInt32)
		length := r.uvarint(uint64(r.room))
		if end = start + length; end > math.MaxInt32 || length == 0 {
			r.fail()
			return nil, nil
		}
		r.room -= int(length)
		epoch := int32(0)
		if withSince {
			epoch = r.int32()
		}
		for p := start; p < end && r.err == nil; p++ {
			parts = append(parts, int32(p))
			if withSince {
				since = append(since, epoch)
			}
		}
	}
	if len(parts) == 0 {
		r.fail()
	}
	return parts, since
}

func (r *reader) end(what string) error {
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	if r.err != nil {
		return fmt.Errorf("record of a consumer group's %s: %w", what, r.err)
	}
	return nil
}

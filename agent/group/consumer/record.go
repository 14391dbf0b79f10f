package consumer

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/record"
	"github.com/firnlog/firn/metastore/entry"
)

// partitionsMax bounds how many partitions a record may name: as many as a cluster can have.
const partitionsMax = 1_000_000

// header is the group's record. The package doc has the bytes.
type header struct {
	targetEpoch int32
	assignor    string
	topicsHash  uint64
}

func (h header) appendTo(b []byte) []byte {
	b = append(b, record.Version)
	b = binary.AppendUvarint(b, uint64(h.targetEpoch))
	b = record.AppendText(b, h.assignor)
	return binary.LittleEndian.AppendUint64(b, h.topicsHash)
}

func parseHeader(b []byte) (header, error) {
	r := record.NewReader(b)
	h := header{targetEpoch: r.Int32(), assignor: r.Text()}
	if hash := r.Bytes(8); hash != nil {
		h.topicsHash = binary.LittleEndian.Uint64(hash)
	}
	return h, r.End("consumer group's group")
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
	b = append(b, record.Version, flags, byte(m.state))
	for _, s := range [...]string{m.instance, m.rack, m.regex, m.assignor} {
		if s != "" {
			b = record.AppendText(b, s)
		}
	}
	b = record.AppendText(b, m.clientID)
	b = record.AppendText(b, m.clientHost)
	b = binary.AppendUvarint(b, uint64(m.rebalance.Milliseconds()))
	b = binary.AppendVarint(b, int64(m.epoch))
	b = binary.AppendVarint(b, int64(m.previous))
	b = binary.AppendUvarint(b, uint64(len(m.names)))
	for _, name := range m.names {
		b = record.AppendText(b, name)
	}
	b = m.appendTopics(b)
	if m.classic != nil {
		b = binary.AppendUvarint(b, uint64(m.classic.session.Milliseconds()))
		b = binary.AppendUvarint(b, uint64(len(m.classic.protocols)))
		for _, p := range m.classic.protocols {
			b = record.AppendText(b, p.Name)
			b = record.AppendText(b, p.Metadata)
		}
	}
	return b
}

func parseMember(id string, b []byte) (*member, error) {
	r := reader{record.NewReader(b), partitionsMax}
	m := &member{id: id}
	flags := r.Byte()
	if flags&^flagsKnown != 0 {
		r.Fail()
	}
	if m.state = memberState(r.Byte()); m.state > unreleased {
		r.Fail()
	}
	for _, f := range [...]struct {
		flag byte
		to   *string
	}{{flagInstance, &m.instance}, {flagRack, &m.rack}, {flagRegex, &m.regex}, {flagAssignor, &m.assignor}} {
		if flags&f.flag != 0 {
			*f.to = r.Text()
		}
	}
	m.clientID, m.clientHost = r.Text(), r.Text()
	m.rebalance = r.Millis()
	m.epoch, m.previous = r.Varint(epochLeaveStatic), r.Varint(epochLeaveStatic)
	if n := r.Count(1); n > 0 {
		m.names = make([]string, 0, n)
		for ; n > 0 && r.OK(); n-- {
			m.names = append(m.names, r.Text())
		}
	}
	r.topics(m)
	if flags&flagClassic != 0 {
		m.classic = &classicMember{session: r.Millis()}
		for n := r.Count(2); n > 0 && r.OK(); n-- {
			m.classic.protocols = append(m.classic.protocols, classic.Protocol{Name: r.Text(), Metadata: r.Blob()})
		}
		if err := m.classic.parse(); err != nil {
			r.Fail()
		}
	}
	return m, r.End("consumer group's member")
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

// reader takes a record apart.
type reader struct {
	record.Reader
	room int // partitions that may still come
}

// topics reads what appendTopics wrote.
func (r *reader) topics(m *member) {
	var last entry.UUID
	for n, i := r.Count(len(last)+1), 0; i < n && r.OK(); i++ {
		var topic entry.UUID
		copy(topic[:], r.Bytes(len(topic)))
		if i > 0 && compareTopics(last, topic) >= 0 {
			r.Fail()
		}
		last = topic
		parts := r.Byte()
		if parts == 0 || parts&^partsKnown != 0 || parts&partSettled != 0 && (parts&partAssigned == 0 || parts&partTarget != 0) {
			r.Fail()
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
	for n := r.Count(2); n > 0 && r.OK(); n-- {
		start := end + r.Uvarint(math.MaxInt32)
		length := r.Uvarint(uint64(r.room))
		if end = start + length; end > math.MaxInt32 || length == 0 {
			r.Fail()
			return nil, nil
		}
		r.room -= int(length)
		epoch := int32(0)
		if withSince {
			epoch = r.Int32()
		}
		for p := start; p < end && r.OK(); p++ {
			parts = append(parts, int32(p))
			if withSince {
				since = append(since, epoch)
			}
		}
	}
	if len(parts) == 0 {
		r.Fail()
	}
	return parts, since
}

package state

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/firnlog/firn/metastore/entry"
)

// Load makes the state that a snapshot holds. It accepts only what AppendSnapshot writes, or wrote in an earlier version,
// byte for byte, and allocates in proportion to len(b). Errors wrap ErrCorrupt, ErrVersion or ErrFeatureLevel.
func Load(b []byte) (*State, error) {
	const head = len(snapshotMagic) + 1
	if len(b) < head+crcBytes || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return nil, &DamageError{Part: "magic", Reason: "it is not there"}
	}
	version := b[head-1]
	if version == 0 || version > snapshotVersion {
		return nil, fmt.Errorf("%w: %d, this build reads up to %d", ErrVersion, version, snapshotVersion)
	}
	body, sum := b[:len(b)-crcBytes], binary.LittleEndian.Uint32(b[len(b)-crcBytes:])
	if got := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)); got != sum {
		return nil, &DamageError{Part: "checksum", Position: len(body), Reason: fmt.Sprintf("CRC32C is %08x, want %08x", got, sum)}
	}
	l := loader{reader: reader{b: body[head:]}, version: version}
	l.load()
	if l.bad {
		return nil, &DamageError{Part: l.part, Position: len(body) - len(l.b), Reason: "what no writer writes"}
	}
	if l.s.featureLevel > MaxFeatureLevel {
		return nil, fmt.Errorf("%w: snapshot at %d has level %d, this build knows %d",
			ErrFeatureLevel, l.s.n, l.s.featureLevel, MaxFeatureLevel)
	}
	l.s.topicsN = l.s.n
	return l.s, nil
}

// reader takes apart what a writer wrote. After the first thing that a writer would not write, bad is set and all values
// are zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) require(ok bool) {
	if !ok {
		r.bad = true
	}
}

// uint reads a number up to most, in the fewest bytes that hold it.
func (r *reader) uint(most uint64) uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 && uint64(r.b[0]) <= most && !r.bad {
		v := r.b[0]
		r.b = r.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > most || n > 1 && r.b[n-1] == 0 || r.bad {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) positive(most uint64) uint64 {
	v := r.uint(most)
	r.require(v > 0)
	return v
}

// count reads how many elements follow that take at least size bytes each.
func (r *reader) count(most, size int) int {
	n := r.uint(uint64(most))
	if n > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) || r.bad {
		r.bad = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) id() (id [16]byte) {
	copy(id[:], r.bytes(len(id)))
	return id
}

func (r *reader) string() string { return string(r.bytes(r.count(entry.MaxString, 1))) }

// int reads a zigzag number, in the fewest bytes that hold it.
func (r *reader) int() int64 {
	v := r.uint(math.MaxUint64)
	return int64(v>>1) ^ -int64(v&1)
}

// loader builds a state from a snapshot.
type loader struct {
	reader
	s       *State
	version byte
	part    string // being read, for the error
}

// object reads an id after one of this incarnation.
func (l *loader) object(before [16]byte) entry.ObjectID {
	flags := uint64(objectUploader)
	if l.version > withoutMerged {
		flags = l.uint(objectFlags)
	}
	o := entry.ObjectID{Incarnation: before}
	if flags&objectUploader != 0 {
		o.Incarnation = l.id()
		l.require(l.version <= withoutMerged || o.Incarnation != before)
	}
	o.Seq, o.CollectionEpoch = l.positive(math.MaxUint64), l.uint(math.MaxUint64)
	if flags&objectMerged != 0 {
		o.Topic = l.id()
		l.require(o.Merged())
	}
	return o
}

func (l *loader) load() {
	l.part = "header"
	id := Identity{ID: l.id(), Epoch: l.uint(math.MaxUint64), Base: l.uint(math.MaxUint64)}
	s := New(id)
	l.s = s
	s.n = l.uint(math.MaxUint64)
	l.require(s.n >= id.Base)
	copy(s.hash[:], l.bytes(len(s.hash)))
	s.logTime = int64(l.uint(uint64(entry.MaxClockMs)))
	s.featureLevel = uint32(l.positive(math.MaxUint32))
	l.require(l.version > withoutGroups == (s.featureLevel >= groupsLevel))
	l.require(l.version > withoutMerged == (s.featureLevel >= rewriteLevel))
	s.collectionEpoch = l.positive(math.MaxInt64)
	s.reservedIDs = l.uint(1 << producerIDBits)
	s.startRing()
	l.part = "agents"
	l.agents()
	l.part = "cluster configs"
	s.configs = l.configs()
	_, _, code := parseTimestampType(s.configs, clusterTimestampType)
	l.require(code == OK)
	l.part = "objects"
	l.objects()
	for range l.count(MaxPartitions, 1) {
		l.part = "topics"
		l.topic()
		if l.bad {
			return
		}
	}
	if l.version > withoutGroups {
		l.groups()
		if l.bad {
			return
		}
		s.topics.sortReaders()
	}
	l.part = "end"
	for slot := range uint32(s.objects.made) {
		l.require(s.objects.at(slot).refs > 0)
	}
	l.require(len(l.b) == 0)
}

func (l *loader) agents() {
	x := &l.s.agents
	names := make(map[string]bool)
	byID := make(map[int32]int)
	last := int32(0)
	for i := range l.count(MaxAgents+MaxDepartedNames, 3) {
		n := node{id: int32(l.positive(math.MaxInt32)), name: l.string(), leftN: l.uint(l.s.n)}
		l.require(n.id > last && n.name != "" && len(n.name) <= MaxAgentName && !names[n.name])
		last = n.id
		names[n.name] = true
		byID[n.id] = i
		x.nodes = append(x.nodes, n)
	}
	last = 0
	for range l.count(MaxAgents, 16) {
		a := &agent{Agent: Agent{NodeID: int32(l.positive(math.MaxInt32)), Incarnation: l.id()}}
		at, known := byID[a.NodeID]
		l.require(known && a.NodeID > last && x.joined[a.Incarnation] == nil && a.Incarnation != [16]byte{})
		last = a.NodeID
		for range l.count(MaxListeners, 3) {
			a.Listeners = append(a.Listeners, entry.Listener{Name: l.string(), Host: l.string(), Port: uint32(l.uint(math.MaxUint16))})
		}
		a.Zone, a.Version = l.string(), l.string()
		a.MaxFeatureLevel = uint32(l.uint(math.MaxUint32))
		a.ClockMs = int64(l.uint(uint64(entry.MaxClockMs)))
		a.LastSeq, a.JoinedN = l.positive(math.MaxUint64), l.uint(l.s.n)
		if l.bad {
			return
		}
		l.require(x.nodes[at].leftN == 0)
		a.Name = x.nodes[at].name
		x.joined[a.Incarnation] = a
		x.addClock(a.ClockMs)
	}
	here := 0
	for i := range x.nodes {
		if x.nodes[i].leftN == 0 {
			here++
		}
	}
	l.require(here == len(x.joined) && len(x.nodes)-here <= MaxDepartedNames)
	for range l.count(MaxDeparted, 17) {
		d := departed{incarnation: l.id(), lastSeq: l.positive(math.MaxUint64)}
		_, twice := x.gone[d.incarnation]
		l.require(!twice && x.joined[d.incarnation] == nil)
		x.gone[d.incarnation] = struct{}{}
		x.departed = append(x.departed, d)
	}
}

func (l *loader) configs() []entry.Config {
	var configs []entry.Config
	for i := range l.count(MaxConfigs, 2) {
		c := entry.Config{Name: l.string(), Value: l.string()}
		l.require(c.Name != "" && (i == 0 || c.Name > configs[i-1].Name))
		configs = append(configs, c)
	}
	return configs
}

func (l *loader) objects() {
	x := &l.s.objects
	least := 6 // bytes of an object
	if l.version <= withoutMerged {
		least = 20
	}
	n := l.count(math.MaxInt32, least)
	x.reserve(n)
	var last entry.ObjectID
	born := uint64(0)
	for i := range n {
		id, size := l.object(last.Incarnation), int64(l.positive(uint64(entry.MaxPosition)))
		if l.version > withoutMerged {
			born += uint64(l.int())
			l.require(born <= l.s.n)
		}
		l.require(i == 0 || last.Compare(id) < 0)
		last = id
		if l.uint(1) == 1 {
			l.require(!id.Merged())
			x.pending[uint32(i)] = &pendingObject{holder: l.id()}
		}
		if l.bad {
			return
		}
		x.add(&id, size, born)
	}
	last = entry.ObjectID{}
	for range l.count(MaxRetired, least) {
		id := l.object(last.Incarnation)
		_, live := x.find(&id)
		l.require(!live && last.Compare(id) < 0)
		last = id
		x.retired[id] = retired{size: int64(l.positive(uint64(entry.MaxPosition))), n: l.uint(l.s.n), epoch: l.uint(l.s.collectionEpoch)}
		if l.bad {
			return
		}
	}
}

func (l *loader) topic() {
	s := l.s
	t := &Topic{Name: l.string(), ID: l.id(), state: s}
	t.ReplicationFactor = uint32(l.uint(math.MaxInt32))
	t.CreatedN, t.givenUp = l.uint(s.n), int64(l.uint(math.MaxInt64))
	configs := l.configs()
	if l.bad || !validTopicName(t.Name) || reservedTopicID(t.ID) || s.topics.named(t.Name) != nil || s.topics.byID[t.ID] != nil ||
		s.configureTopic(t, configs) != OK {
		l.bad = true
		return
	}
	if last := len(s.topics.sorted) - 1; last >= 0 {
		l.require(s.topics.sorted[last].Name < t.Name)
	}
	for range l.count(MaxPartitionsPerTopic, 1) {
		var replicas entry.Replicas
		for range l.count(MaxReplicas, 1) {
			replicas.Nodes = append(replicas.Nodes, int32(l.uint(math.MaxInt32)))
		}
		t.Assignment = append(t.Assignment, replicas)
	}
	least := 5 // bytes of a partition
	if l.version <= withoutEpochs {
		least = 4
	}
	parts := l.count(MaxPartitionsPerTopic, least)
	l.require(parts > 0 && s.topics.partitions+parts <= MaxPartitions && (len(t.Assignment) == 0 || len(t.Assignment) == parts))
	if l.bad {
		return
	}
	t.grow(parts)
	for i := range t.parts {
		t.parts[i].history = nil // grow made it of today's
		l.partition(&t.parts[i])
		if l.bad {
			l.part = fmt.Sprintf("partition %d of topic %s", i, t.Name)
			return
		}
	}
	s.topics.insert(t)
}

func (l *loader) partition(p *Partition) {
	x := &l.s.objects
	p.logStart = int64(l.uint(math.MaxInt64))
	p.next = p.logStart + int64(l.uint(uint64(math.MaxInt64-p.logStart)))
	if l.version > withoutEpochs {
		l.epochs(p)
	} else if newest := leaderEpochOf(l.s.identity.Epoch); newest > 0 {
		p.setEpochs([]EpochStart{{Epoch: newest}}) // no log was ever restored under that version: it began in this epoch
	}
	var coder rowCoder
	for range l.count(math.MaxInt32, 4) {
		var r row
		var ok bool
		if l.b, ok = coder.read(l.b, &r); !ok || r.end <= p.logStart || r.end > p.next ||
			r.cleaned && l.version <= withoutMerged || int(r.object) >= x.made ||
			p.size > math.MaxInt64-r.size {
			l.bad = true
			return
		}
		if id := x.id(x.at(r.object)); id.Merged() { // whole blocks of batches of this topic that know their time
			l.require(id.Topic == p.topic.ID && r.position == 0 && !r.logAppendTime)
		}
		p.rows.push(&r)
		p.size += r.size
		x.at(r.object).refs++
		if len(x.pending) > 0 {
			if pending := x.pending[r.object]; pending != nil {
				pending.parts = append(pending.parts, p.Ref())
			}
		}
	}
	n := l.count(MaxProducersPerPartition, 9)
	if n == 0 {
		return
	}
	p.producers = make([]producer, n)
	var id int64
	for i := range p.producers {
		l.producer(&p.producers[i], p.next)
		x := &p.producers[i]
		l.require((i == 0 || x.id > 0) && x.id <= math.MaxInt64-id) // a difference so far
		x.id += id
		id = x.id
	}
}

func (l *loader) producer(x *producer, next int64) {
	x.id = int64(l.uint(math.MaxInt64))
	x.epoch = int16(l.uint(math.MaxInt16))
	x.lastSeen = int64(l.uint(uint64(l.s.logTime)))
	x.last = uint32(l.uint(entry.MaxSequence))
	x.accepted = uint32(l.positive(acceptedKnown))
	x.count = uint8(l.positive(WindowBatches))
	var offset int64
	for j := range int(x.count) {
		delta := l.uint(uint64(next - offset))
		l.require(j == 0 || delta > 0)
		offset += int64(delta)
		x.offsets[j] = offset
		x.spans[j] = uint32(l.positive(entry.MaxSpan))
		x.ages[j] = uint32(l.uint(math.MaxUint32))
	}
}

func (l *loader) epochs(p *Partition) {
	newest := leaderEpochOf(l.s.identity.Epoch)
	n := l.count(maxLogEpoch, 2)
	epochs := make([]EpochStart, n)
	var last EpochStart
	for i := range epochs {
		e := &epochs[i]
		e.Epoch = last.Epoch + int32(l.uint(uint64(newest-last.Epoch)))
		e.Start = last.Start + int64(l.uint(uint64(p.next-last.Start)))
		l.require(i == 0 || e.Epoch > last.Epoch && e.Start > last.Start)
		last = *e
	}
	l.require(last.Epoch == newest && (n != 1 || newest > 0))
	p.setEpochs(epochs)
}

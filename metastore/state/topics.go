package state

import (
	"cmp"
	"slices"
	"strings"

	"github.com/firnlog/firn/metastore/entry"
)

// Topic is one topic. Fields are read-only; slices in it are replaced, never modified.
type Topic struct {
	ID                entry.UUID
	Name              string
	ReplicationFactor uint32           // as asked for
	Assignment        []entry.Replicas // as asked for; empty, or one per partition
	Configs           []entry.Config   // explicit ones, sorted by name
	CreatedN          uint64

	state         *State
	parts         []Partition
	logAppendTime bool
	givenUp       int64    // offsets given up so far
	readers       []*Group // that committed offsets of it, sorted by id
}

// Config is the explicit value of a topic config.
func (t *Topic) Config(name string) (string, bool) { return lookUp(t.Configs, name) }

// Partitions is the number of partitions.
func (t *Topic) Partitions() int { return len(t.parts) }

// Partition returns nil where i is not one of the topic's.
func (t *Topic) Partition(i int) *Partition {
	if i < 0 || i >= len(t.parts) {
		return nil
	}
	return &t.parts[i]
}

// LogAppendTime reports whether records get the log's time instead of the producer's.
func (t *Topic) LogAppendTime() bool { return t.logAppendTime }

// GivenUp counts the offsets of this topic that were given up.
func (t *Topic) GivenUp() int64 { return t.givenUp }

type topics struct {
	byID map[entry.UUID]*Topic
	// byName is keyed by the name with '.' replaced by '_'. Kafka allows only one topic of those that agree in that,
	// because metric names cannot tell them apart.
	byName     map[string]*Topic
	sorted     []*Topic // by name
	partitions int
}

func newTopics() topics {
	return topics{byID: make(map[entry.UUID]*Topic), byName: make(map[string]*Topic)}
}

// named finds the topic of this name or one that collides with it.
func (x *topics) named(name string) *Topic {
	if len(name) > MaxTopicName {
		return nil
	}
	var buf [MaxTopicName]byte
	key := append(buf[:0], name...)
	for i, c := range key {
		if c == '.' {
			key[i] = '_'
		}
	}
	return x.byName[string(key)]
}

func (x *topics) insert(t *Topic) {
	x.byID[t.ID] = t
	x.byName[strings.ReplaceAll(t.Name, ".", "_")] = t
	at, _ := slices.BinarySearchFunc(x.sorted, t.Name, func(t *Topic, name string) int { return cmp.Compare(t.Name, name) })
	x.sorted = slices.Insert(x.sorted, at, t)
	x.partitions += len(t.parts)
}

func (x *topics) remove(t *Topic) {
	delete(x.byID, t.ID)
	delete(x.byName, strings.ReplaceAll(t.Name, ".", "_"))
	at, _ := slices.BinarySearchFunc(x.sorted, t.Name, func(t *Topic, name string) int { return cmp.Compare(t.Name, name) })
	x.sorted = slices.Delete(x.sorted, at, at+1)
	x.partitions -= len(t.parts)
}

// validTopicName holds Kafka's rules.
func validTopicName(name string) bool {
	if name == "" || len(name) > MaxTopicName || name == "." || name == ".." {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// reservedTopicID reports ids that Kafka keeps for itself: zero and one.
func reservedTopicID(id entry.UUID) bool {
	last := id[15]
	id[15] = 0
	return id == entry.UUID{} && last <= 1
}

func (s *State) createTopic(op *entry.CreateTopic, r *Results) Code {
	if !validTopicName(op.Name) || reservedTopicID(op.ID) {
		return InvalidTopic
	}
	if other := s.topics.named(op.Name); other != nil {
		if other.Name == op.Name {
			return TopicExists
		}
		return InvalidTopic
	}
	if s.topics.byID[op.ID] != nil {
		return TopicExists
	}
	if op.Partitions == 0 || op.Partitions > MaxPartitionsPerTopic {
		return InvalidPartitions
	}
	if s.topics.partitions+int(op.Partitions) > MaxPartitions {
		return LimitExceeded
	}
	if len(op.Assignment) != 0 && len(op.Assignment) != int(op.Partitions) || !validAssignment(op.Assignment) {
		return InvalidAssignment
	}
	configs, code := newConfigs(op.Configs)
	if code != OK {
		return code
	}
	t := &Topic{
		ID: op.ID, Name: op.Name, ReplicationFactor: op.ReplicationFactor,
		Assignment: slices.Clone(op.Assignment), Configs: configs, CreatedN: s.n, state: s,
	}
	if code := s.configureTopic(t, configs); code != OK {
		return code
	}
	t.grow(int(op.Partitions))
	s.topics.insert(t)
	r.TopicsChanged = true
	return OK
}

func validAssignment(assignment []entry.Replicas) bool {
	for i := range assignment {
		if len(assignment[i].Nodes) > MaxReplicas {
			return false
		}
	}
	return true
}

// grow raises the number of partitions to total.
func (t *Topic) grow(total int) {
	parts := make([]Partition, total)
	copy(parts, t.parts)
	for i := len(t.parts); i < total; i++ {
		parts[i] = Partition{topic: t, index: int32(i)}
		parts[i].startEpoch(leaderEpochOf(t.state.identity.Epoch))
	}
	t.parts = parts
}

func (s *State) createPartitions(op *entry.CreatePartitions, r *Results) Code {
	t := s.topics.byID[op.ID]
	if t == nil {
		return UnknownTopic
	}
	have := len(t.parts)
	if int(op.Total) <= have || op.Total > MaxPartitionsPerTopic {
		return InvalidPartitions
	}
	more := int(op.Total) - have
	if s.topics.partitions+more > MaxPartitions {
		return LimitExceeded
	}
	if len(op.Assignment) != 0 && len(op.Assignment) != more || !validAssignment(op.Assignment) {
		return InvalidAssignment
	}
	if len(t.Assignment)+len(op.Assignment) > 0 { // keep one per partition, empty where none was asked for
		assignment := make([]entry.Replicas, op.Total)
		copy(assignment, t.Assignment)
		copy(assignment[have:], op.Assignment)
		t.Assignment = assignment
	}
	t.grow(int(op.Total))
	s.topics.partitions += more
	r.TopicsChanged = true
	return OK
}

func (s *State) deleteTopic(op *entry.DeleteTopic, r *Results) Code {
	t := s.topics.byID[op.ID]
	if t == nil {
		return UnknownTopic
	}
	for i := range t.parts {
		for c := t.parts[i].rows.all(); c.next(); {
			s.release(c.row.object)
		}
	}
	s.forgetTopic(t, r)
	s.topics.remove(t)
	r.TopicsChanged = true
	return OK
}

// partition finds a partition that an op names.
func (s *State) partition(topic entry.UUID, index uint32) (*Partition, Code) {
	t := s.topics.byID[topic]
	if t == nil {
		return nil, UnknownTopic
	}
	if uint64(index) >= uint64(len(t.parts)) {
		return nil, UnknownPartition
	}
	return &t.parts[index], OK
}

// changed lists p once in the results of the entry that is being applied.
func (s *State) changed(p *Partition, r *Results) {
	if p.changedN != s.n {
		p.changedN = s.n
		r.Changed = append(r.Changed, PartitionRef{Topic: p.topic.ID, Partition: p.index})
	}
}

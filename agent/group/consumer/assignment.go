package consumer

import (
	"bytes"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// TopicPartitions are partitions of one topic, ascending, each once, at least one.
type TopicPartitions struct {
	Topic      entry.UUID
	Partitions []int32
}

// Assignment is a set of partitions, sorted by topic id. It is replaced, never modified.
type Assignment []TopicPartitions

// NewAssignment makes a set of what clients send, in any order and repeated.
func NewAssignment(list []TopicPartitions) Assignment {
	all := make(Assignment, 0, len(list))
	for _, tp := range list {
		if len(tp.Partitions) > 0 {
			all = append(all, TopicPartitions{Topic: tp.Topic, Partitions: slices.Clone(tp.Partitions)})
		}
	}
	slices.SortStableFunc(all, func(a, b TopicPartitions) int { return compareTopics(a.Topic, b.Topic) })
	merged := all[:0]
	for _, tp := range all {
		if last := len(merged) - 1; last >= 0 && merged[last].Topic == tp.Topic {
			merged[last].Partitions = append(merged[last].Partitions, tp.Partitions...)
			continue
		}
		merged = append(merged, tp)
	}
	for i := range merged {
		slices.Sort(merged[i].Partitions)
		merged[i].Partitions = slices.Compact(merged[i].Partitions)
	}
	return merged
}

func compareTopics(a, b entry.UUID) int { return bytes.Compare(a[:], b[:]) }

// of returns the partitions of a topic.
func (a Assignment) of(topic entry.UUID) []int32 {
	i, ok := slices.BinarySearchFunc(a, topic, func(tp TopicPartitions, id entry.UUID) int { return compareTopics(tp.Topic, id) })
	if !ok {
		return nil
	}
	return a[i].Partitions
}

// Contains says whether a partition is in the set.
func (a Assignment) Contains(topic entry.UUID, partition int32) bool {
	_, ok := slices.BinarySearch(a.of(topic), partition)
	return ok
}

// Len counts partitions.
func (a Assignment) Len() int {
	n := 0
	for _, tp := range a {
		n += len(tp.Partitions)
	}
	return n
}

func (a Assignment) equal(b Assignment) bool {
	return slices.EqualFunc(a, b, func(x, y TopicPartitions) bool {
		return x.Topic == y.Topic && slices.Equal(x.Partitions, y.Partitions)
	})
}

// all yields every partition, sorted.
func (a Assignment) all(yield func(entry.UUID, int32) bool) {
	for _, tp := range a {
		for _, p := range tp.Partitions {
			if !yield(tp.Topic, p) {
				return
			}
		}
	}
}

// ownedTopic is TopicPartitions that remembers since which member epoch each of them is held.
type ownedTopic struct {
	topic      entry.UUID
	partitions []int32
	since      []int32 // beside partitions
}

// owned is what a member holds: an Assignment with epochs. It is replaced, never modified.
type owned []ownedTopic

// since returns the epoch a partition is held since.
func (o owned) since(topic entry.UUID, partition int32) (int32, bool) {
	i, ok := slices.BinarySearchFunc(o, topic, func(t ownedTopic, id entry.UUID) int { return compareTopics(t.topic, id) })
	if !ok {
		return 0, false
	}
	j, ok := slices.BinarySearch(o[i].partitions, partition)
	if !ok {
		return 0, false
	}
	return o[i].since[j], true
}

func (o owned) contains(topic entry.UUID, partition int32) bool {
	_, ok := o.since(topic, partition)
	return ok
}

// all yields every partition, sorted, with its epoch.
func (o owned) all(yield func(entry.UUID, int32) bool) {
	for _, t := range o {
		for _, p := range t.partitions {
			if !yield(t.topic, p) {
				return
			}
		}
	}
}

// assignment forgets the epochs.
func (o owned) assignment() Assignment {
	a := make(Assignment, len(o))
	for i, t := range o {
		a[i] = TopicPartitions{Topic: t.topic, Partitions: t.partitions}
	}
	return a
}

// same says whether both are the same partitions.
func (o owned) same(other owned) bool {
	return slices.EqualFunc(o, other, func(x, y ownedTopic) bool {
		return x.topic == y.topic && slices.Equal(x.partitions, y.partitions)
	})
}

// covers says whether every partition of a is held.
func (o owned) covers(a Assignment) bool {
	for topic, p := range a.all {
		if !o.contains(topic, p) {
			return false
		}
	}
	return true
}

// meets says whether any partition of a is held.
func (o owned) meets(a Assignment) bool {
	for topic, p := range a.all {
		if o.contains(topic, p) {
			return true
		}
	}
	return false
}

// ownedBuilder adds partitions in order of topic and number.
type ownedBuilder struct{ set owned }

func (b *ownedBuilder) add(topic entry.UUID, partition, since int32) {
	last := len(b.set) - 1
	if last < 0 || b.set[last].topic != topic {
		b.set = append(b.set, ownedTopic{topic: topic})
		last++
	}
	t := &b.set[last]
	t.partitions, t.since = append(t.partitions, partition), append(t.since, since)
}

// merge walks two sorted sets together: each partition once, with whether it is in each.
func merge(have owned, want Assignment, visit func(topic entry.UUID, partition int32, since int32, held, wanted bool)) {
	i, j := 0, 0
	for i < len(have) || j < len(want) {
		var order int
		switch {
		case i == len(have):
			order = 1
		case j == len(want):
			order = -1
		default:
			order = compareTopics(have[i].topic, want[j].Topic)
		}
		switch {
		case order < 0:
			for k, p := range have[i].partitions {
				visit(have[i].topic, p, have[i].since[k], true, false)
			}
			i++
		case order > 0:
			for _, p := range want[j].Partitions {
				visit(want[j].Topic, p, 0, false, true)
			}
			j++
		default:
			h, w := have[i], want[j].Partitions
			a, b := 0, 0
			for a < len(h.partitions) || b < len(w) {
				switch {
				case b == len(w) || a < len(h.partitions) && h.partitions[a] < w[b]:
					visit(h.topic, h.partitions[a], h.since[a], true, false)
					a++
				case a == len(h.partitions) || w[b] < h.partitions[a]:
					visit(h.topic, w[b], 0, false, true)
					b++
				default:
					visit(h.topic, w[b], h.since[a], true, true)
					a++
					b++
				}
			}
			i++
			j++
		}
	}
}

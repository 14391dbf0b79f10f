package consumer

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/metastore/entry"
)

func topicID(i int) (id entry.UUID) {
	binary.BigEndian.PutUint64(id[:], uint64(i+1))
	return id
}

// drawSpec draws topics and members, all alike or not, with previous assignments that never overlap, some of them of what is gone.
func drawSpec(t *rapid.T, alike bool) Spec {
	var s Spec
	for i := range rapid.IntRange(0, 5).Draw(t, "topics") {
		s.Topics = append(s.Topics, Topic{ID: topicID(i), Partitions: int32(rapid.IntRange(1, 12).Draw(t, "partitions"))})
	}
	n := rapid.IntRange(1, 7).Draw(t, "members")
	for m := range n {
		sub := Subscriber{ID: fmt.Sprintf("m%02d", m)}
		if rapid.Bool().Draw(t, "static") {
			sub.Instance = fmt.Sprintf("i%02d", n-m)
		}
		for topic := range s.Topics {
			if alike || rapid.IntRange(0, 2).Draw(t, "subscribes") > 0 {
				sub.Topics = append(sub.Topics, topic)
			}
		}
		s.Members = append(s.Members, sub)
	}
	if rapid.Bool().Draw(t, "fresh") {
		return s
	}
	previous := make([][]TopicPartitions, n)
	for topic := range len(s.Topics) + 1 { // one of them was deleted
		for p := range int32(rapid.IntRange(0, 14).Draw(t, "before")) {
			if m := rapid.IntRange(-1, n-1).Draw(t, "owner"); m >= 0 {
				previous[m] = append(previous[m], TopicPartitions{Topic: topicID(topic), Partitions: []int32{p}})
			}
		}
	}
	for m := range s.Members {
		s.Members[m].Previous = NewAssignment(previous[m])
	}
	return s
}

// checkComplete holds that every partition of every topic with subscribers goes to exactly one of them, and none else to anybody.
func checkComplete(t *rapid.T, s Spec, result []Assignment) (counts []int) {
	owner := make(map[string]int)
	for m, a := range result {
		counts = append(counts, a.Len())
		if !a.equal(NewAssignment(a)) {
			t.Fatalf("member %d's assignment is not sorted: %v", m, a)
		}
		for topic, p := range a.all {
			key := fmt.Sprint(topic, p)
			if other, ok := owner[key]; ok {
				t.Fatalf("%s goes to members %d and %d", key, other, m)
			}
			owner[key] = m
			i := slices.IndexFunc(s.Topics, func(x Topic) bool { return x.ID == topic })
			if i < 0 || p < 0 || p >= s.Topics[i].Partitions || !slices.Contains(s.Members[m].Topics, i) {
				t.Fatalf("member %d gets %s, which it does not subscribe to or which is not there", m, key)
			}
		}
	}
	want := 0
	for i, topic := range s.Topics {
		if slices.ContainsFunc(s.Members, func(m Subscriber) bool { return slices.Contains(m.Topics, i) }) {
			want += int(topic.Partitions)
		}
	}
	if len(owner) != want {
		t.Fatalf("%d partitions are assigned of %d", len(owner), want)
	}
	return counts
}

// moves counts partitions that a member had, could have kept, and did not.
func moves(s Spec, result []Assignment) (n, had int) {
	before, counts := kept(s)
	for _, c := range counts {
		had += c
	}
	for topic := range before {
		for p, m := range before[topic] {
			if m >= 0 && !result[m].Contains(s.Topics[topic].ID, int32(p)) {
				n++
			}
		}
	}
	return n, had
}

func TestUniformIsBalancedAndMovesTheLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t, true)
		result := assign(Uniform, s)
		counts := checkComplete(t, s, result)
		if slices.Max(counts)-slices.Min(counts) > 1 {
			t.Fatalf("not balanced within one: %v", counts)
		}
		// The most that can stay: the best choice of who gets one more.
		_, before := kept(s)
		total := 0
		for _, c := range counts {
			total += c
		}
		quota, more, stay := total/len(counts), total%len(counts), 0
		for _, had := range before {
			stay += min(had, quota)
			if had > quota && more > 0 {
				stay++
				more--
			}
		}
		if moved, had := moves(s, result); had-moved != stay {
			t.Fatalf("%d of %d stay, %d could", had-moved, had, stay)
		}
		again := s
		again.Members = slices.Clone(s.Members)
		for m := range again.Members {
			again.Members[m].Previous = result[m]
		}
		if moved, _ := moves(again, assign(Uniform, again)); moved > 0 {
			t.Fatalf("%d partitions move though nothing has changed", moved)
		}
	})
}

func TestUniformLevelsUnlikeSubscriptions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t, false)
		result := assign(Uniform, s)
		counts := checkComplete(t, s, result)
		for m, a := range result {
			for topic := range a.all {
				i := slices.IndexFunc(s.Topics, func(x Topic) bool { return x.ID == topic })
				for other, sub := range s.Members {
					if slices.Contains(sub.Topics, i) && counts[m]-counts[other] > 1 {
						t.Fatalf("member %d has %d partitions and could give one to member %d, which has %d", m, counts[m], other, counts[other])
					}
				}
			}
		}
		again := s
		again.Members = slices.Clone(s.Members)
		for m := range again.Members {
			again.Members[m].Previous = result[m]
		}
		if moved, _ := moves(again, assign(Uniform, again)); moved > 0 {
			t.Fatalf("%d partitions move though nothing has changed", moved)
		}
	})
}

func TestUniformSpreadsEachTopic(t *testing.T) {
	s := Spec{
		Topics:  []Topic{{ID: topicID(0), Partitions: 12}, {ID: topicID(1), Partitions: 12}},
		Members: []Subscriber{{ID: "a", Topics: []int{0, 1}}, {ID: "b", Topics: []int{0, 1}}},
	}
	first := assign(Uniform, Spec{Topics: s.Topics, Members: s.Members[:1]})
	s.Members[0].Previous = first[0]
	for m, a := range assign(Uniform, s) {
		if len(a) != 2 || len(a[0].Partitions) != 6 || len(a[1].Partitions) != 6 {
			t.Errorf("member %d has %v, not half of each topic", m, a)
		}
	}
}

func TestRangeGivesRangesAndPairsTopics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t, rapid.Bool().Draw(t, "alike"))
		result := assign(Range, s)
		checkComplete(t, s, result)
		for m, a := range result {
			for _, tp := range a {
				if first, n := tp.Partitions[0], len(tp.Partitions); tp.Partitions[n-1] != first+int32(n)-1 {
					t.Fatalf("member %d has no range: %v", m, tp.Partitions)
				}
			}
		}
		for i, topic := range s.Topics {
			for j, other := range s.Topics {
				same := topic.Partitions == other.Partitions
				for _, m := range s.Members {
					same = same && slices.Contains(m.Topics, i) == slices.Contains(m.Topics, j)
				}
				for m := range s.Members {
					if same && !slices.Equal(result[m].of(topic.ID), result[m].of(other.ID)) {
						t.Fatalf("member %d has other partitions of topics %d and %d", m, i, j)
					}
				}
			}
		}
	})
}

func TestRangeKeepsThePlaceOfStaticMembers(t *testing.T) {
	s := Spec{
		Topics: []Topic{{ID: topicID(0), Partitions: 5}},
		Members: []Subscriber{
			{ID: "zz", Instance: "1", Topics: []int{0}}, {ID: "aa", Instance: "2", Topics: []int{0}}, {ID: "a", Topics: []int{0}},
		},
	}
	want := assign(Range, s)
	s.Members[0].ID, s.Members[1].ID = "bb", "yy"
	for m, a := range assign(Range, s) {
		if !a.equal(want[m]) {
			t.Errorf("member %d has %v after a restart, %v before", m, a, want[m])
		}
	}
	if got := want[0].of(topicID(0)); !slices.Equal(got, []int32{0, 1}) {
		t.Errorf("instance 1 has %v, want the first two", got)
	}
}

func TestAssignmentsDoNotDependOnTheOrderOfMembers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t, rapid.Bool().Draw(t, "alike"))
		name := rapid.SampledFrom(assignorNames[:]).Draw(t, "assignor")
		result := assign(name, s)
		order := rapid.Permutation(indexes(len(s.Members))).Draw(t, "order")
		shuffled := Spec{Topics: s.Topics}
		for _, m := range order {
			shuffled.Members = append(shuffled.Members, s.Members[m])
		}
		for i, a := range assign(name, shuffled) {
			if !a.equal(result[order[i]]) {
				t.Fatalf("member %d has %v in one order, %v in another", order[i], result[order[i]], a)
			}
		}
	})
}

func indexes(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// BenchmarkAssign computes the assignment of 1 000 members after one more has come.
func BenchmarkAssign(b *testing.B) {
	const members = 1000
	for _, c := range []struct {
		name, assignor     string
		topics, partitions int
		unlike             bool
	}{
		{"uniform/1x1000", Uniform, 1, 1000, false},
		{"uniform/1000x1", Uniform, 1000, 1, false},
		{"uniform/100x1000", Uniform, 100, 1000, false},
		{"uniform/unlike/100x10", Uniform, 100, 10, true},
		{"range/1x1000", Range, 1, 1000, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			var s Spec
			for i := range c.topics {
				s.Topics = append(s.Topics, Topic{ID: topicID(i), Partitions: int32(c.partitions)})
			}
			all := indexes(c.topics)
			for m := range members {
				topics := all
				if c.unlike {
					topics = slices.DeleteFunc(slices.Clone(all), func(t int) bool { return (t+m)%3 == 0 })
				}
				s.Members = append(s.Members, Subscriber{ID: fmt.Sprintf("m%04d", m), Topics: topics})
			}
			for m, a := range assign(c.assignor, Spec{Topics: s.Topics, Members: s.Members[:members-1]}) {
				s.Members[m].Previous = a
			}
			for b.Loop() {
				assign(c.assignor, s)
			}
		})
	}
}

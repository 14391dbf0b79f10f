package consumer

import (
	"cmp"
	"slices"
	"strings"

	"github.com/firnlog/firn/metastore/entry"
)

// Names of the assignors, as clients ask for them.
const (
	Uniform = "uniform"
	Range   = "range"
)

// Assignors lists the names of all assignors; the first is used where no member asks for one.
var assignorNames = [...]string{Uniform, Range}

// Spec is what an assignor decides about.
type Spec struct {
	Topics  []Topic // that anybody subscribes to, sorted by id
	Members []Subscriber
}

// Subscriber is a member as assignors see it.
type Subscriber struct {
	ID       string
	Instance string // empty: dynamic
	Topics   []int  // indexes into Spec.Topics, ascending
	Previous Assignment
}

// assign returns an assignment for each member of s, beside s.Members: every partition of every topic goes to exactly one of
// those who subscribe to it. The result depends on s alone, and not on the order of its members.
func assign(name string, s Spec) []Assignment {
	order := make([]int, len(s.Members))
	for i := range order {
		order[i] = i
	}
	// Static members come first, by instance: their place does not change when they come back under a new member id.
	slices.SortFunc(order, func(a, b int) int {
		x, y := &s.Members[a], &s.Members[b]
		switch {
		case x.Instance != "" && y.Instance != "":
			return cmp.Or(strings.Compare(x.Instance, y.Instance), strings.Compare(x.ID, y.ID))
		case x.Instance != "":
			return -1
		case y.Instance != "":
			return 1
		}
		return strings.Compare(x.ID, y.ID)
	})
	sorted := Spec{Topics: s.Topics, Members: make([]Subscriber, len(order))}
	for to, from := range order {
		sorted.Members[to] = s.Members[from]
	}
	var o owners
	if name == Range {
		o = assignRange(sorted)
	} else {
		o = assignUniform(sorted)
	}
	result := make([]Assignment, len(order))
	for to, a := range o.assignments(sorted) {
		result[order[to]] = a
	}
	return result
}

// owners holds, by topic and partition, the index of the member that gets it; -1 is nobody.
type owners [][]int32

func newOwners(topics []Topic) owners {
	total := 0
	for _, t := range topics {
		total += int(t.Partitions)
	}
	all := make([]int32, total)
	for i := range all {
		all[i] = -1
	}
	o := make(owners, len(topics))
	for i, t := range topics {
		o[i], all = all[:t.Partitions:t.Partitions], all[t.Partitions:]
	}
	return o
}

// assignments turns the table around.
func (o owners) assignments(s Spec) []Assignment {
	counts := make([]int32, len(s.Members))
	result := make([]Assignment, len(s.Members))
	var total int32
	for _, parts := range o {
		total += int32(len(parts))
	}
	flat := make([]int32, 0, total) // of all lists, in one piece
	next := make([]int32, len(s.Members))
	for t, parts := range o {
		var touched []int32
		for _, m := range parts {
			if m >= 0 {
				if counts[m] == 0 {
					touched = append(touched, m)
				}
				counts[m]++
			}
		}
		for _, m := range touched {
			next[m] = int32(len(flat))
			flat = flat[:len(flat)+int(counts[m])]
			result[m] = append(result[m], TopicPartitions{Topic: s.Topics[t].ID, Partitions: flat[next[m]:len(flat):len(flat)]})
			counts[m] = 0
		}
		for p, m := range parts {
			if m >= 0 {
				flat[next[m]] = int32(p)
				next[m]++
			}
		}
	}
	return result
}

// assignRange gives each topic's subscribers contiguous ranges in their order, the first ones one more where it does not come
// out even. Topics with the same subscribers and as many partitions are cut alike, so that equal partitions of them meet in one
// member, for joins. It does not look at what was before: static members keep their place by their order alone.
func assignRange(s Spec) owners {
	o := newOwners(s.Topics)
	for t, subs := range subscribers(s) {
		if len(subs) == 0 {
			continue
		}
		quota, more := len(o[t])/len(subs), len(o[t])%len(subs)
		p := 0
		for i, m := range subs {
			n := quota
			if i < more {
				n++
			}
			for range n {
				o[t][p] = m
				p++
			}
		}
	}
	return o
}

// subscribers lists each topic's members.
func subscribers(s Spec) [][]int32 {
	subs := make([][]int32, len(s.Topics))
	for m := range s.Members {
		for _, t := range s.Members[m].Topics {
			subs[t] = append(subs[t], int32(m))
		}
	}
	return subs
}

// kept returns the table of what members may keep of their previous assignments, and how much each keeps.
func kept(s Spec) (owners, []int) {
	index := make(map[entry.UUID]int, len(s.Topics))
	for i, t := range s.Topics {
		index[t.ID] = i
	}
	o, counts := newOwners(s.Topics), make([]int, len(s.Members))
	for m := range s.Members {
		for _, tp := range s.Members[m].Previous {
			t, ok := index[tp.Topic]
			if !ok {
				continue
			}
			if _, ok := slices.BinarySearch(s.Members[m].Topics, t); !ok {
				continue
			}
			for _, p := range tp.Partitions {
				if p >= 0 && int(p) < len(o[t]) && o[t][p] < 0 {
					o[t][p] = int32(m)
					counts[m]++
				}
			}
		}
	}
	return o, counts
}

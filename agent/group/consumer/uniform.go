package consumer

import (
	"cmp"
	"slices"
)

// assignUniform gives members as equally many partitions as their subscriptions allow, and moves no more than that demands.
func assignUniform(s Spec) owners {
	for m := 1; m < len(s.Members); m++ {
		if !slices.Equal(s.Members[0].Topics, s.Members[m].Topics) {
			return assignUnlike(s)
		}
	}
	return assignAlike(s)
}

// assignAlike is for members that all subscribe to the same topics. Everybody gets the quotient or one more. Those who already
// have more are the ones who get one more, so the number of moves is the least there can be.
func assignAlike(s Spec) owners {
	o, counts := kept(s)
	if len(s.Members) == 0 || len(s.Members[0].Topics) == 0 {
		return o
	}
	total := 0
	for _, t := range s.Members[0].Topics {
		total += len(o[t])
	}
	limits := make([]int, len(s.Members))
	more := total % len(s.Members)
	order := make([]int, len(s.Members))
	for m := range order {
		order[m] = m
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(counts[b], counts[a]) })
	for i, m := range order {
		limits[m] = total / len(s.Members)
		if i < more {
			limits[m]++
		}
	}

	// Who has too many gives up some, spread evenly over all that it has: the rest of a topic should not go to one member.
	seen := make([]int, len(s.Members))
	var free []*int32
	for _, t := range s.Members[0].Topics {
		for p := range o[t] {
			m := o[t][p]
			if m >= 0 {
				if over := counts[m] - limits[m]; over > 0 {
					i := seen[m]
					seen[m]++
					if (i+1)*over/counts[m] > i*over/counts[m] {
						o[t][p] = -1
					}
				}
			}
			if o[t][p] < 0 {
				free = append(free, &o[t][p])
			}
		}
	}

	// What is free is dealt out one by one, in turns.
	var needy []int
	for m := range s.Members {
		if counts[m] = min(counts[m], limits[m]); counts[m] < limits[m] {
			needy = append(needy, m)
		}
	}
	for len(needy) > 0 && len(free) > 0 {
		still := needy[:0]
		for _, m := range needy {
			if len(free) == 0 {
				break
			}
			*free[0], free = int32(m), free[1:]
			if counts[m]++; counts[m] < limits[m] {
				still = append(still, m)
			}
		}
		needy = still
	}
	return o
}

// roundsMax bounds how often assignUnlike goes over all topics. Where subscriptions overlap like the links of a chain a round moves
// an imbalance on by one link only; what is not even after that many is left.
const roundsMax = 64

// assignUnlike is for members with different subscriptions. What is free goes to the subscriber who has least, topics with few
// subscribers first; then partitions move from who has more to who has less, as long as they differ by two.
func assignUnlike(s Spec) owners {
	o, counts := kept(s)
	subs := subscribers(s)
	order := make([]int, 0, len(s.Topics))
	for t := range s.Topics {
		if len(subs[t]) > 0 {
			order = append(order, t)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(subs[a]), len(subs[b])) })
	for _, t := range order {
		var heap leastFirst
		for p := range o[t] {
			if o[t][p] >= 0 {
				continue
			}
			if heap.members == nil {
				heap = newLeastFirst(subs[t], counts)
			}
			o[t][p] = heap.take()
		}
	}
	for round, moved := 0, true; moved && round < roundsMax; round++ {
		moved = false
		for _, t := range order {
			if len(subs[t]) > 1 && level(o[t], subs[t], counts) {
				moved = true
			}
		}
	}
	return o
}

// level moves partitions of one topic between its subscribers and says whether it moved any.
func level(parts []int32, subs []int32, counts []int) (moved bool) {
	least, most := subs[0], int32(-1)
	for _, m := range subs {
		if counts[m] < counts[least] {
			least = m
		}
	}
	for _, m := range parts {
		if most < 0 || counts[m] > counts[most] {
			most = m
		}
	}
	if most < 0 || counts[most]-counts[least] < 2 {
		return false
	}
	heap := newLeastFirst(subs, counts)
	// Holders give in the order of their partitions, from the last one on, each as long as it has two more than the least.
	for p := len(parts) - 1; p >= 0; p-- {
		from := parts[p]
		if counts[from]-counts[heap.members[0]] < 2 {
			continue
		}
		counts[from]--
		heap.fix(from)
		parts[p] = heap.take()
		moved = true
	}
	return moved
}

// leastFirst is a heap of members by count, then place.
type leastFirst struct {
	members []int32
	counts  []int
	places  map[int32]int
}

func newLeastFirst(members []int32, counts []int) leastFirst {
	h := leastFirst{members: slices.Clone(members), counts: counts, places: make(map[int32]int, len(members))}
	slices.SortFunc(h.members, h.compare)
	for i, m := range h.members {
		h.places[m] = i
	}
	return h
}

func (h *leastFirst) compare(a, b int32) int {
	return cmp.Or(cmp.Compare(h.counts[a], h.counts[b]), cmp.Compare(a, b))
}

// take returns the member that has least and counts one more for it.
func (h *leastFirst) take() int32 {
	m := h.members[0]
	h.counts[m]++
	h.down(0)
	return m
}

// fix restores the order after a member's count has fallen by one.
func (h *leastFirst) fix(m int32) {
	i := h.places[m]
	for i > 0 {
		parent := (i - 1) / 2
		if h.compare(h.members[parent], h.members[i]) <= 0 {
			return
		}
		h.swap(parent, i)
		i = parent
	}
}

func (h *leastFirst) down(i int) {
	for {
		small := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.members); child++ {
			if h.compare(h.members[child], h.members[small]) < 0 {
				small = child
			}
		}
		if small == i {
			return
		}
		h.swap(small, i)
		i = small
	}
}

func (h *leastFirst) swap(i, j int) {
	h.members[i], h.members[j] = h.members[j], h.members[i]
	h.places[h.members[i]], h.places[h.members[j]] = i, j
}

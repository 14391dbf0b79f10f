package gc

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Damage is what is wrong with an object that rows name.
type Damage struct {
	Object entry.ObjectID
	Kind   string
	Detail string
}

// damage is a Damage and what was done about it.
type damage struct {
	Damage
	lookedAt time.Duration // when a missing object was looked for last
	twice    bool          // and the listing agreed
}

// damagedMax bounds what is remembered; beyond it is only counted.
const damagedMax = 10_000

// damaged are the damaged objects that the collector knows.
type damaged struct {
	mu   sync.Mutex // guards byID, for Damaged; one goroutine changes it
	byID map[entry.ObjectID]*damage
}

func (x *damaged) reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID = make(map[entry.ObjectID]*damage)
}

// found records damage, and tells of it once.
func (t *T) found(d Damage) {
	x := &t.damaged
	x.mu.Lock()
	known, is := x.byID[d.Object]
	fresh := !is || known.Kind != d.Kind
	if is {
		known.Damage = d
	} else if len(x.byID) < damagedMax {
		x.byID[d.Object] = &damage{Damage: d, lookedAt: t.deps.Steady()}
	}
	x.mu.Unlock()
	if fresh {
		t.deps.Logger.Error("an object that holds records is damaged", "object", d.Object.Key(), "kind", d.Kind, "detail", d.Detail)
	}
}

// whole takes back what was found of these kinds: the object is as it should be.
func (x *damaged) whole(id entry.ObjectID, kinds ...string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if d := x.byID[id]; d != nil && slices.Contains(kinds, d.Kind) {
		delete(x.byID, id)
	}
}

func (x *damaged) remove(id entry.ObjectID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
}

// prune forgets objects that nothing names any more.
func (x *damaged) prune(meta Meta) {
	for _, d := range x.list() {
		live := false
		meta.View(func(st *state.State) { live = st.Named(d.Object) })
		if !live {
			x.remove(d.Object)
		}
	}
}

// dueAgain is a missing object that was looked for last at or before a time; nil where there is none.
func (x *damaged) dueAgain(before time.Duration) *damage {
	x.mu.Lock()
	defer x.mu.Unlock()
	var due *damage
	for _, d := range x.byID {
		if d.Kind == KindMissing && d.lookedAt <= before && (due == nil || d.Object.Compare(due.Object) < 0) {
			due = d
		}
	}
	return due
}

// list are the damaged objects, in order.
func (x *damaged) list() []Damage {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := make([]Damage, 0, len(x.byID))
	for _, d := range x.byID {
		list = append(list, d.Damage)
	}
	slices.SortFunc(list, func(a, b Damage) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Object.Compare(b.Object)) })
	return list
}

// Damaged are the damaged objects that this agent has found as the collector, in order of kind and id.
func (t *T) Damaged() []Damage { return t.damaged.list() }

// worst is how many objects a fault names.
const worst = 3

// String says what is damaged, "" where nothing is.
func (x *damaged) String() string {
	list := x.list()
	if len(list) == 0 {
		return ""
	}
	s := fmt.Sprintf("%d objects that hold records are missing or damaged", len(list))
	for i, d := range list[:min(worst, len(list))] {
		s += fmt.Sprintf("%s %s (%s)", [...]string{":", ",", ","}[i], d.Object.Key(), d.Kind)
	}
	return s + "; firn gc verify lists them"
}

func (x *damaged) gauge(m *Metrics) {
	counts := make(map[string]int)
	for _, d := range x.list() {
		counts[d.Kind]++
	}
	for _, kind := range Kinds {
		m.damaged.WithLabelValues(kind).Set(float64(counts[kind]))
	}
}

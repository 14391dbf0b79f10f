package state_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// TestObjectTable names and retires objects at random, in a growing and then a shrinking table, beside a map.
func TestObjectTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	// Few of each part, so that ids differ in one of them alone, and parts of more than 32 bits.
	parts := []uint64{1, 2, 3, 1 << 32, 1<<32 + 1, 1<<63 + 2}
	draw := func() entry.ObjectID {
		o := entry.ObjectID{Incarnation: id(byte(rng.IntN(6))), Seq: rng.Uint64N(200), CollectionEpoch: parts[rng.IntN(len(parts))]}
		if rng.IntN(4) == 0 {
			o.Seq = parts[rng.IntN(len(parts))]
		}
		if n := rng.IntN(4); n > 0 {
			o.Topic = topicID(byte(n))
		}
		return o
	}
	type known struct {
		slot uint32
		state.Object
	}
	for _, reserved := range []int{0, 1, 1000} {
		table, model := state.NewObjectTable(), make(map[entry.ObjectID]known)
		table.Reserve(reserved)
		most := 0
		for step := range 40_000 {
			o := draw()
			want, live := model[o]
			if slot, found := table.Find(o); found != live || slot != want.slot {
				t.Fatalf("%d, step %d: %v is in slot %d, %v; want %d, %v", reserved, step, o, slot, found, want.slot, live)
			}
			switch adds := step < 20_000; {
			case !live && (adds || step%4 == 0):
				want = known{Object: state.Object{ID: o, Size: rng.Int64(), Born: rng.Uint64()}}
				want.slot = table.Add(o, want.Size, want.Born)
				model[o] = want
			case live && (!adds || step%4 == 0):
				table.Remove(want.slot)
				delete(model, o)
			}
			most = max(most, len(model))
			if want, live := model[o]; live && table.At(want.slot) != want.Object {
				t.Fatalf("%d, step %d: slot %d holds %+v, want %+v", reserved, step, want.slot, table.At(want.slot), want)
			}
		}
		slots := table.Slots()
		if made, _, _ := table.Sizes(); len(slots) != len(model) || made != most {
			t.Fatalf("%d: %d objects in %d slots, want %d in %d", reserved, len(slots), made, len(model), most)
		}
		slices.SortFunc(slots, table.Compare)
		for i, slot := range slots {
			o := table.At(slot)
			if model[o.ID] != (known{slot, o}) || i > 0 && table.At(slots[i-1]).ID.Compare(o.ID) >= 0 {
				t.Fatalf("%d: slot %d holds %+v, want %+v, behind %+v", reserved, slot, o, model[o.ID], table.At(slots[max(i-1, 0)]))
			}
		}
		for _, slot := range slots {
			table.Remove(slot)
		}
		if _, uploaders, topics := table.Sizes(); uploaders != 0 || topics != 0 || len(table.Slots()) != 0 || table.LongestChain() != 0 {
			t.Errorf("%d: an empty table knows %d uploaders, %d topics, %d objects", reserved, uploaders, topics, len(table.Slots()))
		}
	}
}

// TestObjectTableSpreads: what agents name, a few uploaders' seqs of a few topics, lies evenly in the hash table. Nothing here is random.
func TestObjectTableSpreads(t *testing.T) {
	for _, c := range []struct {
		name     string
		uploader func(i int) byte
		topic    func(i int) byte
		epoch    func(i int) uint64
	}{
		{"one topic", func(int) byte { return 1 }, func(int) byte { return 1 }, func(int) uint64 { return 1 }},
		{"level 0", func(i int) byte { return byte(i % 3) }, func(int) byte { return 0 }, func(i int) uint64 { return uint64(i / 100) }},
		{"many topics", func(i int) byte { return byte(i % 7) }, func(i int) byte { return byte(i) }, func(i int) uint64 { return uint64(i / 1000) }},
	} {
		table := state.NewObjectTable()
		for i := range 20_000 {
			o := entry.ObjectID{Incarnation: id(c.uploader(i)), Seq: uint64(i + 1), CollectionEpoch: c.epoch(i)}
			if n := c.topic(i); n > 0 {
				o.Topic = topicID(n)
			}
			table.Add(o, 1, 1)
		}
		if most := table.LongestChain(); most > 10 { // of 20 000 random ones it is 7
			t.Errorf("%s: %d of 20 000 objects in one bucket", c.name, most)
		}
	}
}

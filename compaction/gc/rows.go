package gc

import (
	"fmt"
	"maps"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/segment"
)

const (
	// walkObjects and walkBlocks bound what a rowWalk knows of objects: some 3 MiB. One object may have more blocks by itself.
	walkObjects = 4096
	walkBlocks  = 64 << 10
	// walkRows and walkPartitions bound what is read under the state's lock at a time.
	walkRows       = 4096
	walkPartitions = 1024
)

// rowWalk holds rows of the log against the objects that they name. Which rows name an object nobody knows without looking at all of its
// topics' rows, and these may be millions: so objects are gathered, and the rows of their topics are looked at once for all of
// them, from the first to the last, a bounded number a step.
//
//	gathering --full, or no more objects--> walking --past the last row--> gathering
type rowWalk struct {
	objects map[entry.ObjectID][]blockOf
	blocks  int // of all objects

	// Where it goes on; topics is nil while objects are gathered.
	topics    []entry.UUID
	partition int
	offset    int64
	bad       map[entry.ObjectID]*Damage
	rows      []state.Row // kept for its memory
}

// blockOf is what rows can say of a block.
type blockOf struct {
	topic     entry.UUID
	partition int32
	size      int64 // raw
}

// add gathers an object. Requires: not walking.
func (w *rowWalk) add(id entry.ObjectID, footer *segment.Footer) {
	if len(footer.Blocks) == 0 { // a newer firn's: nothing can be said of it
		return
	}
	if w.objects == nil {
		w.objects = make(map[entry.ObjectID][]blockOf)
	}
	blocks := make([]blockOf, len(footer.Blocks))
	for i := range footer.Blocks {
		b := &footer.Blocks[i]
		blocks[i] = blockOf{b.Topic, b.Partition, b.RawSize}
	}
	w.objects[id] = blocks
	w.blocks += len(blocks)
}

// full reports whether the rows should be looked at before more objects are gathered.
func (w *rowWalk) full() bool { return len(w.objects) >= walkObjects || w.blocks >= walkBlocks }

func (w *rowWalk) walking() bool { return w.topics != nil }

// begin goes to the first row of the first topic that an object has blocks of.
func (w *rowWalk) begin() {
	topics := make(map[entry.UUID]struct{})
	for _, blocks := range w.objects {
		for i := range blocks {
			topics[blocks[i].topic] = struct{}{}
		}
	}
	w.topics = slices.SortedFunc(maps.Keys(topics), func(a, b entry.UUID) int { return slices.Compare(a[:], b[:]) })
	w.partition, w.offset, w.bad = 0, 0, make(map[entry.ObjectID]*Damage)
}

// step looks at the next rows, and reports whether there are no more of them. Rows that come, go and move meanwhile are no
// matter: what an object holds does not change, so each is right or wrong whenever it is seen.
func (w *rowWalk) step(view func(func(*state.State))) (done bool) {
	view(func(st *state.State) {
		w.rows = w.rows[:0]
		for n := 0; n < walkPartitions && len(w.topics) > 0 && len(w.rows) < walkRows; n++ {
			w.next(st)
		}
	})
	return len(w.topics) == 0
}

// next looks at rows of one partition, as far as there is room for them.
func (w *rowWalk) next(st *state.State) {
	t := st.TopicByID(w.topics[0])
	if t == nil || w.partition >= t.Partitions() {
		w.topics, w.partition, w.offset = w.topics[1:], 0, 0
		return
	}
	seen, room := len(w.rows), walkRows-len(w.rows)
	w.rows = t.Partition(w.partition).Rows(w.offset, room, w.rows)
	for i := range w.rows[seen:] {
		w.row(&w.rows[seen+i], w.topics[0])
	}
	if len(w.rows)-seen < room { // that was its last
		w.partition, w.offset = w.partition+1, 0
		return
	}
	w.offset = w.rows[len(w.rows)-1].End
}

// row looks at a row of the partition.
func (w *rowWalk) row(r *state.Row, topic entry.UUID) {
	blocks, is := w.objects[r.Object]
	if !is || w.bad[r.Object] != nil {
		return
	}
	if why := w.wrong(r, topic, blocks); why != "" {
		w.bad[r.Object] = &Damage{Object: r.Object, Kind: KindRows,
			Detail: fmt.Sprintf("offsets %d to %d of partition %d of topic %v: %s", r.Base, r.End, w.partition, topic, why)}
	}
}

// wrong says what is wrong with a row of the partition.
func (w *rowWalk) wrong(r *state.Row, topic entry.UUID, blocks []blockOf) string {
	if int(r.Block) >= len(blocks) {
		return fmt.Sprintf("the log says block %d, the object has %d", r.Block, len(blocks))
	}
	switch b := &blocks[r.Block]; {
	case b.topic != topic || int(b.partition) != w.partition:
		return fmt.Sprintf("the log says block %d, which is of partition %d of topic %v", r.Block, b.partition, b.topic)
	case r.Position+r.Size > b.size, r.Object.Merged() && (r.Position != 0 || r.Size != b.size):
		return fmt.Sprintf("the log says bytes %d to %d of block %d, which has %d", r.Position, r.Position+r.Size, r.Block, b.size)
	}
	return ""
}

// end goes back to gathering, and returns the objects that were looked at and what is wrong with some of them, in order of id.
func (w *rowWalk) end() (objects []entry.ObjectID, bad map[entry.ObjectID]*Damage) {
	objects = slices.SortedFunc(maps.Keys(w.objects), entry.ObjectID.Compare)
	bad = w.bad
	*w = rowWalk{rows: w.rows}
	return objects, bad
}

package metastore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/segment"
)

// Segments that are in the bucket, and whose ops were not archived when the log was lost, carry those ops in their footers.
// What follows finds them, checks them, and puts their batches into an order that Apply accepts.

// lostSegment is a segment with batches that have no offsets.
type lostSegment struct {
	id      entry.ObjectID
	size    uint64
	batches []lostBatch
}

// lostBatch is one of them, as the segment's intended ops describe it.
type lostBatch struct {
	place
	topic     entry.UUID
	partition uint32
	size      uint64 // raw bytes
	span      uint64 // offsets
	timestamp int64
	condition int64 // ExpectedNextOffset of the block, where this is its first batch
	producer  entry.Producer
}

// verdict says what a restore does with an object.
type verdict int

const (
	settled   verdict = iota // what it holds was given offsets, or refused, or deleted since
	abandoned                // its agent was gone before it could have been committed
	partly                   // the last of its ops may be missing
	waiting                  // batches in it were waiting for others, and the last of its ops may be missing too
	lost                     // no op that names it is known
)

// judgeObject decides by what the history shows of the object's agent.
func (w *window) judgeObject(id entry.ObjectID, retired map[entry.ObjectID]bool) verdict {
	last := w.last[id.Incarnation]
	switch {
	case w.parked[id] != nil:
		return waiting
	case id.Seq < last.seq || retired[id] && (id.Seq > last.seq || len(last.parts) == 0):
		return settled
	case w.over[id.Incarnation]:
		if id.Seq == last.seq {
			return settled
		}
		return abandoned
	case id.Seq == last.seq:
		return partly
	}
	return lost
}

// listing is what a restore finds of objects in the bucket.
type listing struct {
	// recent could still be named by an op: objects of level 0 of the collection epoch before the state's and later.
	recent []entry.ObjectID
	// missing are named by rows, and are not there.
	missing []state.Object
	// epoch is the highest collection epoch of all that is there.
	epoch uint64
}

// lostEpochs is by how many collection epochs the log may have gone on after what was archived of it. They move every ten minutes at
// most; what names a later one was not put there by firn.
const lostEpochs = 1000

// listObjects lists the objects that are in the bucket. Names begin with a hash or with a topic's id, so there are 256 places of each to look.
func listObjects(ctx context.Context, bucket objstore.Bucket, st *state.State, strange func(key string)) (*listing, error) {
	const places, workers = 256, 16
	type place struct {
		recent, named []entry.ObjectID
		odd           []string
		epoch         uint64
	}
	var (
		found [2 * places]place
		errs  [workers]error
		wg    sync.WaitGroup
	)
	newest := st.CollectionEpoch() + lostEpochs
	look := func(x *place, prefix string) error {
		for after := ""; ; {
			infos, err := bucket.List(ctx, prefix, after, 1000)
			if err != nil {
				return fmt.Errorf("list %s: %w", prefix, err)
			}
			if len(infos) == 0 {
				return nil
			}
			for k := range infos {
				after = infos[k].Key
				id, err := entry.ParseObjectKey(after)
				if err != nil || id.CollectionEpoch > newest {
					x.odd = append(x.odd, after)
					continue
				}
				x.epoch = max(x.epoch, id.CollectionEpoch)
				if !id.Merged() && id.CollectionEpoch+1 >= st.CollectionEpoch() {
					x.recent = append(x.recent, id)
				}
				if st.Named(id) {
					x.named = append(x.named, id)
				}
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(found) && errs[w] == nil; i += workers {
				prefix := fmt.Sprintf("%s%02x/", entry.DataPrefix, i)
				if i >= places {
					prefix = fmt.Sprintf("%s%02x", entry.TopicsPrefix, i-places)
				}
				if errs[w] = look(&found[i], prefix); errs[w] != nil {
					cancel()
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	out, named := &listing{}, make(map[entry.ObjectID]struct{})
	for i := range found {
		x := &found[i]
		out.recent, out.epoch = append(out.recent, x.recent...), max(out.epoch, x.epoch)
		for _, id := range x.named {
			named[id] = struct{}{}
		}
		for _, key := range x.odd {
			strange(key)
		}
	}
	for o := range st.ObjectTable() {
		if _, there := named[o.ID]; !there && !o.Pending {
			out.missing = append(out.missing, o)
		}
	}
	slices.SortFunc(out.missing, func(a, b state.Object) int { return cmp.Or(cmp.Compare(a.Born, b.Born), a.ID.Compare(b.ID)) })
	return out, nil
}

// readLost reads a segment, verifies every checksum in it, and returns its ops.
func readLost(ctx context.Context, bucket objstore.Bucket, id entry.ObjectID) (ops []*entry.Append, size uint64, err error) {
	body, err := bucket.Get(ctx, id.Key())
	if err != nil {
		return nil, 0, fmt.Errorf("read segment %s: %w", id, err)
	}
	bad := func(err error) ([]*entry.Append, uint64, error) {
		return nil, 0, fmt.Errorf("%w: segment %s: %w", ErrCorrupt, id, err)
	}
	footer, err := segment.Open(body)
	if err != nil {
		return bad(err)
	}
	if !bytes.Equal(footer.ObjectID, entry.AppendObjectID(nil, id)) {
		return bad(errors.New("its footer names another object"))
	}
	for i := range footer.Blocks {
		for _, c := range footer.Blocks[i].Chunks {
			if _, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, nil); err != nil {
				return bad(err)
			}
		}
	}
	if ops, err = entry.ParseIntended(footer.IntendedOps, uint64(len(body))); err != nil {
		return bad(err)
	}
	for _, op := range ops {
		if op.Object != id || op.Location != entry.InBucket {
			return bad(errors.New("its intended ops name another object"))
		}
		for i := range op.Blocks {
			b := &op.Blocks[i]
			end := b.FirstPosition
			for _, size := range b.Sizes {
				end += size
			}
			block, ok := footer.Block(int(b.Index))
			if !ok || block.Topic != b.Topic || uint32(block.Partition) != b.Partition || end > uint64(block.RawSize) {
				return bad(fmt.Errorf("its intended ops name bytes that it does not hold: block %d to %d", b.Index, end))
			}
		}
	}
	return ops, uint64(len(body)), nil
}

// batchesOf lists what an op names.
func batchesOf(op *entry.Append) []lostBatch {
	var out []lostBatch
	for i := range op.Blocks {
		b := &op.Blocks[i]
		at := b.FirstPosition
		runs := b.Runs
		var sequence uint32
		for j := range b.Sizes {
			x := lostBatch{
				place: place{block: b.Index, position: at}, topic: b.Topic, partition: b.Partition, size: b.Sizes[j], span: b.Spans[j],
				timestamp: b.Timestamps[j], producer: entry.NoProducer(),
			}
			if j == 0 {
				x.condition = b.ExpectedNextOffset
			}
			if len(runs) > 0 && uint32(j) >= runs[0].First {
				run := &runs[0]
				if uint32(j) == run.First {
					sequence = run.BaseSequence
				}
				x.producer = entry.Producer{
					ID: run.ProducerID, Epoch: int16(run.ProducerEpoch), BaseSequence: int32(sequence), Transactional: run.Flags&entry.Transactional != 0,
				}
				sequence = entry.NextSequence(sequence, b.Spans[j])
				if uint32(j)+1 == run.First+run.Count {
					runs = runs[1:]
				}
			}
			at += b.Sizes[j]
			out = append(out, x)
		}
	}
	return out
}

// missing picks the batches of an object that may have lost their offsets: those that wait for others, and, since ops are
// committed in order, those of the ops behind the last that is known, where it may not have been the object's last.
func (w *window) missing(st *state.State, id entry.ObjectID, ops []*entry.Append) []lostBatch {
	behind := len(ops)
	switch last := w.last[id.Incarnation]; {
	case id.Seq > last.seq:
		behind = 0
	case id.Seq == last.seq && !w.over[id.Incarnation]:
		behind = 0
		for i, op := range ops {
			for _, x := range batchesOf(op) {
				if last.proposed(x.block, x.position) || covered(st, id, &x) {
					behind = i + 1
				}
			}
		}
	}
	var out []lostBatch
	for i, op := range ops {
		for _, x := range batchesOf(op) {
			if i >= behind || w.parked[id][x.place] {
				out = append(out, x)
			}
		}
	}
	return out
}

// covered reports whether a row of the state holds the batch.
func covered(st *state.State, id entry.ObjectID, x *lostBatch) bool {
	t := st.TopicByID(x.topic)
	if t == nil || t.Partition(int(x.partition)) == nil {
		return false
	}
	rows := t.Partition(int(x.partition)).LastRows(nil) // the object is its agent's last
	return slices.ContainsFunc(rows, func(r state.Row) bool {
		return r.Object == id && r.Block == x.block && uint64(r.Position) <= x.position && x.position < uint64(r.Position+r.Size)
	})
}

// lineKey is one producer's line of sequences in one partition.
type lineKey struct {
	topic     entry.UUID
	partition uint32
	id        int64
}

// numbered is a batch by its segment and its place there.
type numbered struct {
	segment int
	*lostBatch
}

// arrange puts batches into an order that gives every acknowledged one its offset again. Segments are sorted by collection epoch,
// incarnation and seq; their batches come in that order, but none before an earlier one of the same producer in the
// same partition: a producer that went from one agent to another has batches in segments of both, and Apply takes sequences
// only in order, after the first of a producer that it does not know any.
//
// A batch that was sent again is there twice, and one copy is enough for those behind it: the other may be in a segment of much later,
// of after a restore, and behind that Apply would take no more of the segments of before. It comes in its segment's turn.
func arrange(segments []lostSegment) []numbered {
	var all []numbered
	lines := make(map[lineKey][]int)
	for i := range segments {
		for j := range segments[i].batches {
			x := &segments[i].batches[j]
			if x.producer.ID >= 0 {
				key := lineKey{x.topic, x.partition, x.producer.ID}
				lines[key] = append(lines[key], len(all))
			}
			all = append(all, numbered{i, x})
		}
	}
	again := make([]bool, len(all)) // it is not the first copy
	for _, line := range lines {
		wrapped := wraps(all, line)
		slices.SortFunc(line, func(a, b int) int {
			x, y := all[a].producer, all[b].producer
			return cmp.Or(cmp.Compare(x.Epoch, y.Epoch), cmp.Compare(wrapped(x), wrapped(y)), cmp.Compare(a, b))
		})
		for i := 1; i < len(line); i++ {
			x, y := all[line[i-1]].producer, all[line[i]].producer
			again[line[i]] = x.Epoch == y.Epoch && x.BaseSequence == y.BaseSequence
		}
	}
	out := make([]numbered, 0, len(all))
	met, passed := make([]bool, len(all)), make([]bool, len(all)) // passed: its line has gone on without it
	for i, x := range all {
		if x.producer.ID < 0 || passed[i] {
			out = append(out, x)
			continue
		}
		met[i] = true
		line := lines[lineKey{x.topic, x.partition, x.producer.ID}]
		for len(line) > 0 && (met[line[0]] || again[line[0]]) {
			if first := line[0]; met[first] {
				out = append(out, all[first])
			} else {
				passed[first] = true
			}
			line = line[1:]
		}
		lines[lineKey{x.topic, x.partition, x.producer.ID}] = line
	}
	return out
}

// wraps returns how to compare sequences of a line that may have gone from the highest to 0.
func wraps(all []numbered, line []int) func(entry.Producer) int64 {
	const quarter = (entry.MaxSequence + 1) / 4
	low, high := make(map[int16]bool), make(map[int16]bool)
	for _, i := range line {
		p := all[i].producer
		low[p.Epoch] = low[p.Epoch] || p.BaseSequence < quarter
		high[p.Epoch] = high[p.Epoch] || p.BaseSequence > 3*quarter
	}
	return func(p entry.Producer) int64 {
		if low[p.Epoch] && high[p.Epoch] && p.BaseSequence < quarter {
			return int64(p.BaseSequence) + entry.MaxSequence + 1
		}
		return int64(p.BaseSequence)
	}
}

// restoredTopic is the name of a topic whose creation was lost, and whose records were not.
func restoredTopic(id entry.UUID) string { return "firn-restored-" + id.String() }

// lostTopics are the topics that lost batches name and the state does not know, with partitions enough, by id.
func lostTopics(st *state.State, deleted map[entry.UUID]bool, segments []lostSegment) []*entry.CreateTopic {
	partitions := make(map[entry.UUID]uint32)
	for i := range segments {
		for j := range segments[i].batches {
			x := &segments[i].batches[j]
			if st.TopicByID(x.topic) == nil && !deleted[x.topic] && x.partition < state.MaxPartitionsPerTopic {
				partitions[x.topic] = max(partitions[x.topic], x.partition+1)
			}
		}
	}
	var out []*entry.CreateTopic
	for _, id := range slices.SortedFunc(maps.Keys(partitions), func(a, b entry.UUID) int { return bytes.Compare(a[:], b[:]) }) {
		out = append(out, &entry.CreateTopic{Name: restoredTopic(id), ID: id, Partitions: partitions[id], ReplicationFactor: 1})
	}
	return out
}

package merge

import (
	"errors"
	"time"

	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// troubles are the inputs that cannot be read. They are told once, counted while they last, and tried again later and later.
type troubles struct {
	m       *Merger
	objects map[entry.ObjectID]*trouble // of which nothing can be read
	places  map[place]*trouble
	// away are objects that the bucket gave no answer about, and until when rows in them wait. It may be the bucket, so nothing is told
	// but the Step's error.
	away map[entry.ObjectID]time.Time
}

// place is a partition's part of an object.
type place struct {
	object    entry.ObjectID
	topic     entry.UUID
	partition int32
}

type trouble struct {
	backoff
	since time.Time
}

// troublesMax bounds what is remembered. What is beyond it is tried again with every window.
const troublesMax = 1 << 16

// note takes an error that is about an input, and reports whether it is.
func (t *troubles) note(err error) bool {
	var input *rewrite.InputError
	if !errors.As(err, &input) {
		return false
	}
	at := place{input.Object, input.Topic, input.Partition}
	x := t.places[at]
	if input.Topic == (entry.UUID{}) {
		x = t.objects[input.Object]
	}
	now := t.m.deps.Now()
	known := x != nil
	if !known {
		x = &trouble{since: now}
		switch {
		case len(t.objects)+len(t.places) >= troublesMax:
		case input.Topic == (entry.UUID{}):
			t.objects[input.Object] = x
		default:
			t.places[at] = x
		}
	}
	x.next(now, t.m.cfg.BackoffMin, t.m.cfg.BackoffMax)
	t.count()
	if known {
		return true
	}
	log := t.m.deps.Logger.With("segment", input.Object.Key(), "error", err)
	if input.Topic != (entry.UUID{}) {
		log = log.With("topic", input.Topic, "partition", input.Partition, "start_offset", input.Start, "end_offset", input.End)
	}
	log.Error("merging leaves out what it cannot read; nothing of it is deleted, and readers of it meet the same error")
	return true
}

// barred reports whether a row should not be read now.
func (t *troubles) barred(ref state.PartitionRef, row *state.Row, now time.Time) bool {
	if len(t.objects) == 0 && len(t.places) == 0 && len(t.away) == 0 {
		return false
	}
	if until, is := t.away[row.Object]; is && now.Before(until) {
		return true
	}
	x := t.objects[row.Object]
	if x == nil {
		x = t.places[place{row.Object, ref.Topic, ref.Partition}]
	}
	return x != nil && now.Before(x.until)
}

// fine notes that an object can be read: what is in it may still be damaged.
func (t *troubles) fine(id entry.ObjectID) {
	if x := t.objects[id]; x != nil {
		delete(t.objects, id)
		t.over(id, x, "can be read again")
	}
}

// read notes that a partition's rows were read.
func (t *troubles) read(topic entry.UUID, partition int32, rows []state.Row) {
	for i := 0; i < len(rows) && len(t.places) > 0; i++ {
		at := place{rows[i].Object, topic, partition}
		if x := t.places[at]; x != nil {
			delete(t.places, at)
			t.over(at.object, x, "can be read again")
		}
	}
}

// forget drops what is about objects that nothing names any more.
func (t *troubles) forget() {
	now := t.m.deps.Now()
	for id, until := range t.away {
		if !now.Before(until) {
			delete(t.away, id)
		}
	}
	if len(t.objects) == 0 && len(t.places) == 0 {
		return
	}
	var gone []entry.ObjectID
	t.m.meta.View(func(st *state.State) {
		for id := range t.objects {
			if !st.Named(id) {
				gone = append(gone, id)
			}
		}
		for at := range t.places {
			if !st.Named(at.object) {
				gone = append(gone, at.object)
			}
		}
	})
	for _, id := range gone {
		x := t.objects[id]
		delete(t.objects, id)
		for at, other := range t.places {
			if at.object == id {
				x = other
				delete(t.places, at)
			}
		}
		if x != nil {
			t.over(id, x, "is not named any more")
		}
	}
}

func (t *troubles) over(id entry.ObjectID, x *trouble, how string) {
	t.count()
	t.m.deps.Logger.Info("what merging could not read "+how, "segment", id.Key(), "after", t.m.deps.Now().Sub(x.since).Round(time.Second))
}

func (t *troubles) count() {
	partitions := make(map[state.PartitionRef]struct{}, len(t.places))
	for at := range t.places {
		partitions[state.PartitionRef{Topic: at.topic, Partition: at.partition}] = struct{}{}
	}
	t.m.deps.Metrics.badPartitions.Set(float64(len(partitions)))
	t.m.deps.Metrics.badObjects.Set(float64(len(t.objects)))
}

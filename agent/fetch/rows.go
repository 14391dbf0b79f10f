package fetch

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// planRows is how many rows one look at the index takes.
const planRows = 8

// plan is a copy of what the index says about the offsets to read.
type plan struct {
	Result
	rows []state.Row // in order, from the one with the offset on
	more bool        // rows follow those
	// epochs are the partition's leader epochs; see state.EpochAt.
	epochs []state.EpochStart
	buf    [planRows]state.Row
	next   [1]state.Row
}

func partitionOf(st *state.State, topic entry.UUID, partition int32) *state.Partition {
	t := st.TopicByID(topic)
	if t == nil {
		return nil
	}
	return t.Partition(int(partition))
}

// plan looks up offset. What the state does not know is asked for again after a barrier: this agent may trail the one that
// told the client.
func (r *Reader) plan(ctx context.Context, topic entry.UUID, partition int32, offset int64, p *plan) error {
	for current := false; ; current = true {
		err := r.lookUp(topic, partition, offset, p)
		if err == nil || current {
			return err
		}
		if err := r.barrier(ctx); err != nil {
			return err
		}
	}
}

func (r *Reader) lookUp(topic entry.UUID, partition int32, offset int64, p *plan) (err error) {
	p.rows, p.more = p.buf[:0], false
	r.meta.View(func(st *state.State) {
		part := partitionOf(st, topic, partition)
		if part == nil {
			err = ErrUnknownTopic
			return
		}
		p.HighWatermark, p.LastStable, p.LogStart = part.Next(), part.LastStable(), part.LogStart()
		if offset < p.LogStart || offset > p.HighWatermark {
			err = fmt.Errorf("%w: %d is not in [%d, %d]", ErrOffsetOutOfRange, offset, p.LogStart, p.HighWatermark)
			return
		}
		p.epochs = part.Epochs(p.epochs[:0])
		p.rows = part.Rows(offset, planRows, p.rows)
		if n := len(p.rows); n == planRows {
			p.more = len(part.Rows(p.rows[n-1].End, 1, p.next[:0])) > 0
		}
	})
	return err
}

// replay reports whether a plan is a replay's: more follows than a tail reader has before it. That is more rows than a look takes, or
// anything of a large object, or more of small merged ones than a run. What a flush wrote is merged within minutes, so a reader of merged rows
// is behind by that, and it is bytes that it costs, not rows: one may have 256 MiB. It may have little in each of many partitions, too.
func (r *Reader) replay(p *plan, offset int64) bool {
	if p.more || len(p.rows) > 0 && !r.cache.whole(objectOf(&p.rows[0])) {
		return true
	}
	merged := int64(0)
	for i := range p.rows {
		if row := &p.rows[i]; row.Object.Merged() {
			merged += remaining(row, offset)
		}
	}
	return merged > r.cache.cfg.RunBytes
}

// remaining is about how many bytes of a row lie behind offset.
func remaining(row *state.Row, offset int64) int64 {
	left := row.End - max(offset, row.Base)
	if left <= 0 {
		return 0
	}
	return int64(float64(row.Size) * float64(left) / float64(row.End-row.Base))
}

// isSorted reports whether err already says what a caller of Reader does next.
func isSorted(err error) bool {
	return errors.Is(err, ErrStorage) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnavailable)
}

package merge

import (
	"context"

	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// writer puts rows of a topic's partitions into merged objects and sends these on.
type writer struct {
	m      *Merger
	topic  entry.UUID
	src    *rewrite.Source
	up     *uploads
	shared *output // of several partitions; nil: none was begun
}

// output is an object on its way, with what it is to replace.
type output struct {
	*rewrite.Output
	parts []rewrite.Part
	last  int32 // the partition of the last block, -1 before the first
}

func (w *writer) begin() (*output, error) {
	o, err := w.m.env.NewOutput(w.topic)
	if err != nil {
		return nil, err
	}
	return &output{Output: o, last: -1}, nil
}

// close frees what was not flushed.
func (w *writer) close() {
	if w.shared != nil {
		w.shared.Close()
		w.shared = nil
	}
}

// copy copies rows, an unbroken run of a partition: into an object with others, or, where they are many bytes, into one of their own or
// several. Partitions ascend from call to call. After an error that is about these rows the writer can go on.
func (w *writer) copy(ctx context.Context, in rewrite.Input, rows []state.Row) error {
	cfg := &w.m.cfg
	var total int64
	for i := range rows {
		total += rows[i].Size
	}
	if total < cfg.OwnBytes {
		if w.shared != nil && (w.shared.last >= in.Partition || w.shared.RawSize()+total > cfg.ObjectBytes) {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
		if w.shared == nil {
			o, err := w.begin()
			if err != nil {
				return err
			}
			w.shared = o
		}
		return w.block(ctx, w.shared, in, rows)
	}
	// In equal shares, so that the last is no crumb; rows stay whole.
	shares := max(total/cfg.ObjectBytes, 1)
	for first := 0; first < len(rows); {
		end, bytes := first, int64(0)
		for end < len(rows) && (end == first || shares == 1 || bytes < total/shares) {
			bytes += rows[end].Size
			end++
		}
		if err := w.own(ctx, in, rows[first:end]); err != nil {
			return err
		}
		first = end
	}
	return nil
}

// own copies rows into an object of their own.
func (w *writer) own(ctx context.Context, in rewrite.Input, rows []state.Row) error {
	o, err := w.begin()
	if err != nil {
		return err
	}
	if err := w.block(ctx, o, in, rows); err != nil {
		o.Close()
		return err
	}
	return w.up.send(ctx, w.topic, o)
}

// block copies rows into a block of o. After an error the block is nobody's: no part names it.
func (w *writer) block(ctx context.Context, o *output, in rewrite.Input, rows []state.Row) error {
	if err := o.Begin(in.Partition); err != nil {
		return err
	}
	o.last = in.Partition
	r := w.src.Read(in, rows)
	var err error
	for err == nil && r.Next(ctx) {
		b := r.Batch()
		err = o.Add(ctx, b.Raw, &b.Header)
	}
	row, filled := o.End()
	if err == nil {
		err = r.Err()
	}
	if err == nil {
		w.m.bad.read(w.topic, in.Partition, rows)
	}
	if err != nil || !filled { // all of it may be below the log start by now
		return err
	}
	part := rewrite.PartOf(in.Partition, rows)
	part.Replacement = []rewrite.Row{row}
	o.parts = append(o.parts, part)
	w.m.deps.Metrics.rows.Add(float64(len(rows)))
	for i := range rows {
		w.m.deps.Metrics.bytes.Add(float64(rows[i].Size))
	}
	return nil
}

// flush sends the object of several partitions on.
func (w *writer) flush(ctx context.Context) error {
	o := w.shared
	if o == nil {
		return nil
	}
	w.shared = nil
	return w.up.send(ctx, w.topic, o)
}

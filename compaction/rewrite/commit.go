package rewrite

import (
	"context"
	"fmt"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Part is a range of a partition whose rows are to be replaced.
type Part struct {
	Partition  int32
	Start, End int64 // offsets; no row of the partition crosses them
	// Rows and Digest are what the range holds: see state.RowsDigest.
	Rows    int
	Digest  uint64
	Cleaned bool // key compaction has been over the replacement, which only then may be empty
	// Replacement ascends and lies within the range; at most entry.MaxRewriteRows.
	Replacement []Row
}

// PartOf is a part that replaces these rows, the neighbours that they are, without its replacement. They keep their word on whether
// key compaction has been over them.
func PartOf(partition int32, rows []state.Row) Part {
	return Part{
		Partition: partition, Start: rows[0].Base, End: rows[len(rows)-1].End,
		Rows: len(rows), Digest: state.RowsDigest(rows), Cleaned: rows[0].Cleaned,
	}
}

// Outcome says what became of a part.
type Outcome int8

// The outcomes.
const (
	Unknown  Outcome = iota // the log gave no answer: look again what the rows are
	Applied                 // the index names the replacement
	Conflict                // the rows were others: rewritten, deleted or in part deleted by somebody else
	Gone                    // the topic is gone
	Stale                   // the object is of a collection epoch that has passed: write it again
)

func (o Outcome) String() string {
	return [...]string{"unknown", "applied", "conflict", "gone", "stale"}[o]
}

// Commit has the index name the replacements of parts of a topic, and reports what became of each: of Outcomes, in the order of parts.
// Parts are judged one by one: that one fails says nothing of the others. The parts travel in as many ops as OpBytes makes of them.
//
// An error (ctx's, or the metastore client's end) leaves parts Unknown; so does a crash. Either way nothing has to be undone.
func (e *Env) Commit(ctx context.Context, topic entry.UUID, objects []Object, parts []Part) ([]Outcome, error) {
	outcomes := make([]Outcome, len(parts))
	order := make([]int, len(parts))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if c := int(parts[a].Partition) - int(parts[b].Partition); c != 0 {
			return c
		}
		return int(max(-1, min(1, parts[a].Start-parts[b].Start)))
	})
	for len(order) > 0 {
		op, n := e.pack(topic, objects, parts, order)
		if err := e.propose(ctx, op, parts, order[:n], outcomes); err != nil {
			return outcomes, err
		}
		order = order[n:]
	}
	return outcomes, nil
}

// pack puts the first parts of order into an op, as many as fit, and at least one.
func (e *Env) pack(topic entry.UUID, objects []Object, parts []Part, order []int) (op *entry.Rewrite, n int) {
	op = &entry.Rewrite{Topic: topic}
	const partBytes, rowBytes, objectBytes = 40, 32, 48 // at most about; small numbers take less
	size, rows := 64, 0
	index := make(map[int]uint32, 1)
	for _, i := range order {
		p := &parts[i]
		need := partBytes + rowBytes*len(p.Replacement)
		fresh := 0
		for j := range p.Replacement {
			if _, known := index[p.Replacement[j].Object]; !known {
				fresh++
			}
		}
		need += objectBytes * fresh
		if n > 0 && (size+need > e.cfg.OpBytes || rows+p.Rows > entry.RewriteRowsMax || n == entry.MaxRewriteParts || len(op.Objects)+fresh > entry.MaxRewriteObjects) {
			break
		}
		size += need
		rows += p.Rows
		n++
		part := entry.RewrittenPart{
			Partition: uint32(p.Partition), Start: p.Start, End: p.End, Rows: uint32(p.Rows), Digest: p.Digest, Cleaned: p.Cleaned,
		}
		for j := range p.Replacement {
			r := &p.Replacement[j]
			at, known := index[r.Object]
			if !known {
				at = uint32(len(op.Objects))
				index[r.Object] = at
				op.Objects = append(op.Objects, entry.RewrittenObject{ID: objects[r.Object].ID, Size: uint64(objects[r.Object].Size)})
			}
			part.Replacement = append(part.Replacement, entry.RewrittenRow{
				Object: at, Block: r.Block, Base: r.Base, End: r.End, MaxTimestamp: r.MaxTimestamp, Size: uint64(r.Size),
			})
		}
		op.Parts = append(op.Parts, part)
	}
	return op, n
}

// propose sorts the answer to an op whose parts are those named.
func (e *Env) propose(ctx context.Context, op *entry.Rewrite, parts []Part, named []int, outcomes []Outcome) error {
	res, err := e.deps.Meta.Propose(ctx, op)
	if err != nil {
		return fmt.Errorf("swap rows of topic %s: %w", op.Topic, err)
	}
	all := func(o Outcome) {
		for _, i := range named {
			outcomes[i] = o
		}
	}
	m := e.deps.Metrics
	switch res.Code {
	case state.OK:
	case state.UnknownTopic:
		all(Gone)
		m.conflicts.Add(float64(len(named)))
		return nil
	case state.StaleCollectionEpoch:
		all(Stale)
		m.staleParts.Add(float64(len(named)))
		return nil
	default: // ours to have kept
		return fmt.Errorf("swap rows of topic %s: %v", op.Topic, res.Code)
	}
	for k, i := range named {
		if res.Parts[k] == state.OK {
			outcomes[i] = Applied
			m.swapped.Add(float64(parts[i].Rows))
			continue
		}
		outcomes[i] = Conflict
		m.conflicts.Inc()
		e.deps.Logger.Debug("rows were not swapped", "topic", op.Topic, "partition", parts[i].Partition, "start", parts[i].Start, "end", parts[i].End, "code", res.Parts[k])
	}
	return nil
}

package gc

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// Loss is a range of offsets that is given up because the object that holds them is missing.
type Loss struct {
	Topic     string     `json:"topic"`
	TopicID   entry.UUID `json:"topic_id"`
	Partition int32      `json:"partition"`
	Object    string     `json:"object"`
	Start     int64      `json:"start_offset"`
	End       int64      `json:"end_offset"` // exclusive
	Bytes     int64      `json:"bytes"`      // raw
	// LogStart: nothing older is left, so that the log start offset moves to End. Else the range becomes a gap.
	LogStart bool `json:"moves_log_start"`

	expected []state.Row
}

// forgetRows is how many rows of a partition are looked at under the lock at a time.
const forgetRows = 4096

// Losses finds what giving up objects would lose, in order of topics and partitions, ranges ascending.
func Losses(view func(func(*state.State)), objects []entry.ObjectID) []Loss {
	wanted := make(map[entry.ObjectID]bool, len(objects))
	topics := make(map[entry.UUID]bool)
	all := false
	for _, id := range objects {
		wanted[id] = true
		topics[id.Topic] = true
		all = all || !id.Merged()
	}
	type part struct {
		id    entry.UUID
		name  string
		parts int
	}
	var parts []part
	view(func(st *state.State) {
		for t := range st.Topics() {
			if all || topics[t.ID] {
				parts = append(parts, part{t.ID, t.Name, t.Partitions()})
			}
		}
	})
	var lost []Loss
	var rows []state.Row
	for _, t := range parts {
		for p := range t.parts {
			prefix := true // everything before was lost too
			for from := int64(0); ; from = rows[len(rows)-1].End {
				rows = rows[:0]
				view(func(st *state.State) {
					if live := st.TopicByID(t.id); live != nil && p < live.Partitions() {
						part := live.Partition(p)
						rows = part.Rows(max(from, part.LogStart()), forgetRows, rows)
					}
				})
				for i := range rows {
					r := &rows[i]
					if !wanted[r.Object] {
						prefix = false
						continue
					}
					last := len(lost) - 1
					if last >= 0 && lost[last].TopicID == t.id && lost[last].Partition == int32(p) && lost[last].End == r.Base && lost[last].Object == r.Object.Key() {
						lost[last].End, lost[last].Bytes = r.End, lost[last].Bytes+r.Size
						lost[last].expected = append(lost[last].expected, *r)
						continue
					}
					lost = append(lost, Loss{
						Topic: t.name, TopicID: t.id, Partition: int32(p), Object: r.Object.Key(), Start: r.Base, End: r.End, Bytes: r.Size,
						LogStart: prefix, expected: []state.Row{*r},
					})
				}
				if len(rows) < forgetRows {
					break
				}
			}
		}
	}
	return lost
}

// giveUp gives up objects by an operator's word, if the bucket lacks every one of them.
func (t *T) giveUp(ctx context.Context, keys []string) ([]Loss, error) {
	ids, err := parseKeys(keys)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		_, err := t.deps.Bucket.Head(ctx, id.Key())
		switch {
		case err == nil:
			return nil, fmt.Errorf("object %s is there: nothing is given up", id.Key())
		case !errors.Is(err, objstore.ErrNotFound):
			return nil, fmt.Errorf("look for object %s: %w", id.Key(), err)
		}
	}
	lost := Losses(t.deps.Meta.View, ids)
	for i := range lost {
		if err := t.lose(ctx, &lost[i]); err != nil {
			return lost[:i], err
		}
	}
	for _, id := range ids {
		t.damaged.remove(id)
	}
	return lost, nil
}

// lose proposes that a range is given up: by moving the log start past it where nothing older is left, else as a gap.
func (t *T) lose(ctx context.Context, l *Loss) error {
	var op entry.Op
	if l.LogStart {
		op = &entry.DeleteRecords{Topic: l.TopicID, Partition: uint32(l.Partition), BeforeOffset: l.End}
	} else {
		r := &entry.Relocate{Topic: l.TopicID, Partition: uint32(l.Partition), StartOffset: l.Start, EndOffset: l.End}
		for _, row := range l.expected {
			r.Expected = append(r.Expected, entry.Row{
				Object: row.Object, ObjectSize: uint64(row.ObjectSize), Block: row.Block, BaseOffset: row.Base, EndOffset: row.End,
				MaxTimestamp: row.MaxTimestamp, LogAppendTime: row.LogAppendTime, Position: uint64(row.Position), Size: uint64(row.Size),
			})
		}
		op = r
	}
	res, err := t.deps.Meta.Propose(ctx, op)
	if err != nil {
		return fmt.Errorf("give up offsets %d to %d of %s-%d: %w", l.Start, l.End, l.Topic, l.Partition, err)
	}
	if res.Code != state.OK {
		return fmt.Errorf("give up offsets %d to %d of %s-%d: %v; ask again", l.Start, l.End, l.Topic, l.Partition, res.Code)
	}
	t.deps.Metrics.forgotten.Add(float64(l.End - l.Start))
	t.deps.Logger.Warn("offsets given up: their object is missing", "topic", l.Topic, "partition", l.Partition, "base_offset", l.Start,
		"end_offset", l.End, "object", l.Object, "moves_log_start", l.LogStart)
	return nil
}

// expired moves log starts past an object that a rule of the bucket took. What is not at the start of its partition stays an alarm:
// rules take the oldest first.
func (t *T) expired(ctx context.Context, id entry.ObjectID) error {
	left := false
	for _, l := range Losses(t.deps.Meta.View, []entry.ObjectID{id}) {
		if !l.LogStart {
			left = true
			continue
		}
		if err := t.lose(ctx, &l); err != nil {
			return err
		}
	}
	if !left {
		t.damaged.remove(id)
	}
	return nil
}

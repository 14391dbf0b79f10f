package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
)

// DeskCell is the cell where operators ask and the collector answers; docs/formats.md has it.
const DeskCell = "gc"

// deskFormat is the newest format of the cell that this build reads.
const deskFormat = 1

// What operators ask for.
const (
	AskRun    = "run"    // a sweep, now
	AskForget = "forget" // giving up offsets whose objects are missing
)

// Desk is the value of the cell: the last request and, where their ids are the same, its answer.
type Desk struct {
	Format  int     `json:"format"`
	Request Request `json:"request"`
	Answer  Answer  `json:"answer"`
}

// Request is what an operator asks for.
type Request struct {
	ID      string   `json:"id"` // unique
	Kind    string   `json:"kind"`
	Accept  bool     `json:"accept,omitempty"`  // of run: however many orphans there are
	Objects []string `json:"objects,omitempty"` // of forget: keys
}

// Answer is what came of it.
type Answer struct {
	ID    string       `json:"id,omitempty"`
	Agent string       `json:"agent,omitempty"` // incarnation of the collector
	Error string       `json:"error,omitempty"`
	Sweep *SweepReport `json:"sweep,omitempty"`
	Lost  []Loss       `json:"lost,omitempty"`
}

// ErrNewerDesk: a newer firn has written the cell.
var ErrNewerDesk = errors.New("written by a newer firn")

// ParseDesk reads the cell's value. ErrNewerDesk: this build does not know its format. Any other error: it is not to be read, and whoever
// waits for its answer has to ask again.
func ParseDesk(b []byte) (Desk, error) {
	var d Desk
	err := json.Unmarshal(b, &d)
	var head struct {
		Format int `json:"format"`
	}
	if json.Unmarshal(b, &head) == nil && head.Format > deskFormat {
		return Desk{}, fmt.Errorf("cell operator/%s of the metastore: %w: it has format %d, this firn knows %d; run a newer firn", DeskCell, ErrNewerDesk,
			head.Format, deskFormat)
	}
	if err == nil && d.Format < 1 {
		err = fmt.Errorf("format %d", d.Format)
	}
	if err != nil {
		return Desk{}, fmt.Errorf("cell operator/%s of the metastore cannot be read, ask again: %w", DeskCell, err)
	}
	return d, nil
}

// UnmarshalJSON reads a loss, with a topic's id as firn wrote it until it was text, too: a list of 16 numbers.
func (l *Loss) UnmarshalJSON(b []byte) error {
	type plain Loss
	v := struct {
		*plain
		TopicID json.RawMessage `json:"topic_id"`
	}{plain: (*plain)(l)}
	if err := json.Unmarshal(b, &v); err != nil || len(v.TopicID) == 0 {
		return err
	}
	if v.TopicID[0] == '[' {
		return json.Unmarshal(v.TopicID, (*[len(l.TopicID)]byte)(&l.TopicID))
	}
	return json.Unmarshal(v.TopicID, &l.TopicID)
}

// ErrBusy: the collector has not answered an earlier request yet.
var ErrBusy = errors.New("an earlier request is not answered yet")

// Ask puts a request on the desk. Where one waits there that was not answered, it is ErrBusy, unless replace says to forget that one. What
// cannot be read nobody answers: it gives way, unless a newer firn wrote it.
func Ask(ctx context.Context, cells Cells, r Request, replace bool) error {
	cell, err := cells.Load(ctx, DeskCell)
	if err != nil {
		return fmt.Errorf("read cell operator/%s: %w", DeskCell, err)
	}
	if cell.Version > 0 && !replace {
		d, err := ParseDesk(cell.Value)
		if errors.Is(err, ErrNewerDesk) {
			return err
		}
		if err == nil && d.Request.ID != d.Answer.ID {
			return fmt.Errorf("%w: %s, request %s", ErrBusy, d.Request.Kind, d.Request.ID)
		}
	}
	value, err := json.Marshal(Desk{Format: deskFormat, Request: r})
	if err != nil {
		return err
	}
	if _, err := cells.Swap(ctx, DeskCell, cell.Version, value); err != nil {
		return fmt.Errorf("write cell operator/%s: %w", DeskCell, err)
	}
	return nil
}

// Answered reads the answer to a request; nil where there is none yet. Where another request lies on the desk it is ErrBusy: the answer
// is not to be had any more.
func Answered(ctx context.Context, cells Cells, id string) (*Answer, error) {
	cell, err := cells.Load(ctx, DeskCell)
	if err != nil {
		return nil, fmt.Errorf("read cell operator/%s: %w", DeskCell, err)
	}
	d, err := ParseDesk(cell.Value)
	switch {
	case err != nil:
		return nil, err
	case d.Request.ID != id:
		return nil, fmt.Errorf("%w: request %s was put in the place of %s", ErrBusy, d.Request.ID, id)
	case d.Answer.ID != id:
		return nil, nil
	}
	return &d.Answer, nil
}

// desk is the collector's side.
type desk struct {
	cell   log.Cell
	desk   Desk
	readAt time.Duration
	reply  *Answer // that is still to be written
}

// serve does what an operator has asked for.
func (t *T) serve(ctx context.Context) (bool, error) {
	d := &t.desk
	if d.reply != nil {
		return true, t.answer(ctx, *d.reply)
	}
	now := t.deps.Steady()
	if t.busy && now-d.readAt < Interval { // a sweep is a thousand steps
		return false, nil
	}
	d.readAt = now
	cell, err := t.deps.Cells.Load(ctx, DeskCell)
	if err != nil {
		return false, fmt.Errorf("look whether an operator asks for anything: %w", err)
	}
	if cell.Version == d.cell.Version {
		return false, nil
	}
	asked, err := ParseDesk(cell.Value)
	d.cell, d.desk = cell, asked
	if errors.Is(err, ErrNewerDesk) {
		return false, err
	}
	if err != nil { // it stays so, and all else goes on
		t.deps.Logger.Warn("what an operator asked for cannot be read", "error", err)
		return false, nil
	}
	if asked.Request.ID == asked.Answer.ID {
		return false, nil
	}
	switch r := asked.Request; r.Kind {
	case AskRun:
		t.deps.Logger.Info("an operator asks for a sweep", "request", r.ID, "accept", r.Accept)
		clear(t.retry)
		clear(t.retained)
		clear(t.locked)
		t.begin(r.Accept, r.ID)
		return true, nil
	case AskForget:
		t.deps.Logger.Warn("an operator gives up what missing objects held", "request", r.ID, "objects", len(r.Objects))
		lost, err := t.giveUp(ctx, r.Objects)
		a := Answer{Lost: lost}
		if err != nil {
			a.Error = err.Error()
		}
		return true, t.answer(ctx, a)
	default:
		return true, t.answer(ctx, Answer{Error: fmt.Sprintf("this firn knows no request %q", r.Kind)})
	}
}

// answer answers the request that was taken up. What cannot be written is written with the next Step.
func (t *T) answer(ctx context.Context, a Answer) error {
	d := &t.desk
	d.reply = &a
	inc := t.deps.Meta.Incarnation()
	a.ID, a.Agent = d.desk.Request.ID, inc.String()
	reply := Desk{Format: deskFormat, Request: d.desk.Request, Answer: a}
	value, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	cell, err := t.deps.Cells.Swap(ctx, DeskCell, d.cell.Version, value)
	switch {
	case err == nil:
		d.cell, d.desk, d.reply = cell, reply, nil
		return nil
	case errors.Is(err, log.ErrConflict): // another request lies there by now, or another collector has answered
		d.reply = nil
		return nil
	}
	return fmt.Errorf("answer an operator: %w", err)
}

// parseKeys reads the keys of objects.
func parseKeys(keys []string) ([]entry.ObjectID, error) {
	ids := make([]entry.ObjectID, len(keys))
	var errs []error
	for i, key := range keys {
		id, err := entry.ParseObjectKey(key)
		if err != nil {
			errs = append(errs, err)
		}
		ids[i] = id
	}
	return ids, errors.Join(errs...)
}

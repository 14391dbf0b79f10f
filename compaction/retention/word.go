package retention

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

// WordCell is the cell that keeps a Word.
const WordCell = "retention"

// wordFormat is the newest format of the cell that this build reads.
const wordFormat = 1

// Word is what is known of the time from before, and from operators. docs/formats.md has the cell.
type Word struct {
	Format    int   `json:"format"`
	TrustedMS int64 `json:"trusted_ms"`          // the log time that was last right
	ByBucket  bool  `json:"by_bucket,omitempty"` // the log is ahead, and the bucket's clock is right
}

// parseWord reads the cell's value.
func parseWord(b []byte) (*Word, error) {
	var w Word
	if err := json.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("cell operator/%s of the metastore: %w", WordCell, err)
	}
	if w.Format < 1 || w.Format > wordFormat {
		return nil, fmt.Errorf("cell operator/%s of the metastore has format %d, this firn knows %d; run a newer firn", WordCell, w.Format, wordFormat)
	}
	return &w, nil
}

// keepInterval is how far the cell may trail the log time that is trusted. Below the judge's lead, or a restart would look like a jump.
const keepInterval = 20 * time.Minute

// wordCell is the cell and what of it was read or written last.
type wordCell struct {
	cells Cells
	last  log.Cell
	word  Word
}

// load reads the cell; nil where there is none.
func (c *wordCell) load(ctx context.Context) (*Word, error) {
	cell, err := c.cells.Load(ctx, WordCell)
	if err != nil {
		return nil, fmt.Errorf("read what time was trusted: %w", err)
	}
	if c.last = cell; cell.Version == 0 {
		c.word = Word{}
		return nil, nil //nolint:nilnil // there is none
	}
	w, err := parseWord(cell.Value)
	if err != nil {
		return nil, err
	}
	c.word = *w
	return w, nil
}

// keep writes the cell where it says something else than w. It is done again with the next look where it fails.
func (c *wordCell) keep(ctx context.Context, w *Word) {
	if w == nil || w.ByBucket == c.word.ByBucket && since(w.TrustedMS, c.word.TrustedMS) < keepInterval {
		return
	}
	w.Format = wordFormat
	value, err := json.Marshal(w)
	if err != nil {
		return
	}
	cell, err := c.cells.Swap(ctx, WordCell, c.last.Version, value)
	switch {
	case err == nil:
		c.last, c.word = cell, *w
	case errors.Is(err, log.ErrConflict): // another agent's look, or an operator's word
		_, _ = c.load(ctx)
	}
}

// Approve writes an operator's word: that log time is right, or, where the bucket has a clock, that the bucket's is.
func Approve(ctx context.Context, cells Cells, w Word) error {
	c := wordCell{cells: cells}
	for range approveAttempts {
		before, err := c.load(ctx)
		if err != nil {
			return err
		}
		if before != nil {
			w.TrustedMS = max(w.TrustedMS, before.TrustedMS)
		}
		w.Format = wordFormat
		value, err := json.Marshal(w)
		if err != nil {
			return err
		}
		if _, err = c.cells.Swap(ctx, WordCell, c.last.Version, value); !errors.Is(err, log.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("write cell operator/%s: %w", WordCell, log.ErrConflict)
}

// approveAttempts is how often an agent may be quicker.
const approveAttempts = 10

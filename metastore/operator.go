package metastore

import (
	"context"

	"github.com/firnlog/firn/metastore/log"
)

// operatorCells lie beside the log, for what operators and background duties tell each other: small, changed by compare-and-swap,
// kept over restarts and no part of the state. A restore begins without them.
const operatorCells = "operator/"

// Cells are the cells of operators and duties. Safe for concurrent use.
type Cells struct{ log log.Log }

// CellsOf are those beside a log, for whoever does not join it.
func CellsOf(l log.Log) Cells { return Cells{l} }

// Cells are those of the client's log.
func (c *Client) Cells() Cells { return Cells{c.log} }

// Load reads a cell; its version is 0 where there is none.
func (c Cells) Load(ctx context.Context, name string) (log.Cell, error) {
	return c.log.Load(ctx, operatorCells+name)
}

// Swap replaces a cell whose version is still the one given, 0 to make it. log.ErrConflict: it is not. After log.ErrUnavailable it
// may have happened.
func (c Cells) Swap(ctx context.Context, name string, version uint64, value []byte) (log.Cell, error) {
	return c.log.Swap(ctx, operatorCells+name, version, value, nil)
}

// OwnsBucket reads the bucket's marker: nil where the bucket belongs to this client's log, and the log was not given up for one that
// was restored from the bucket. Who deletes asks before.
func (c *Client) OwnsBucket(ctx context.Context) error {
	return checkMarker(ctx, c.bucket, c.identity)
}

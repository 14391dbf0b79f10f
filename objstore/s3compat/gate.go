package s3compat

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/firnlog/firn/objstore"
)

// Gate is what every call passes first: keys that fit, a caller that still waits, a bucket that is open. The zero value
// is open and has no prefix. Safe for concurrent use.
type Gate struct {
	Prefix string // stands before every key in the store; "" or ends in '/'

	closed atomic.Bool
}

// Check returns nil where the call may go on.
func (g *Gate) Check(ctx context.Context, step string, keys ...string) error {
	for _, key := range keys {
		if err := objstore.ValidateKey(key); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		if size := len(g.Prefix) + len(key); size > objstore.KeyBytesMax {
			return fmt.Errorf("%s: key %.80q… is %d bytes long with the bucket's prefix, at most %d: %w",
				step, key, size, objstore.KeyBytesMax, objstore.ErrInvalid)
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if g.closed.Load() {
		return fmt.Errorf("%s: %w", step, objstore.ErrClosed)
	}
	return nil
}

// Close lets no further call through.
func (g *Gate) Close() { g.closed.Store(true) }

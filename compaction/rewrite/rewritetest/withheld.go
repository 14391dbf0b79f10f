package rewritetest

import (
	"context"

	"github.com/firnlog/firn/objstore"
)

// Withheld is a bucket that does not hand out one object, as where a rule of somebody else's put it into an archive.
type Withheld struct {
	objstore.Bucket
	Key string
}

// Get refuses the object.
func (b *Withheld) Get(ctx context.Context, key string) ([]byte, error) {
	if key == b.Key {
		return nil, objstore.ErrDenied
	}
	return b.Bucket.Get(ctx, key)
}

// GetRange refuses the object.
func (b *Withheld) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	if key == b.Key {
		return nil, objstore.ErrDenied
	}
	return b.Bucket.GetRange(ctx, key, position, size)
}

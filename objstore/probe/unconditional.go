package probe

import (
	"context"
	"io"

	"github.com/firnlog/firn/objstore"
)

// unconditional is a bucket in a store that refuses conditional puts. firn's keys are unique, so that it loses a tripwire and
// nothing else.
type unconditional struct{ objstore.Bucket }

// Put implements objstore.Bucket.
func (u unconditional) Put(ctx context.Context, key string, body []byte, _ objstore.PutOptions) error {
	return u.Bucket.Put(ctx, key, body, objstore.PutOptions{})
}

// PutFrom implements objstore.Bucket.
func (u unconditional) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, _ objstore.PutOptions) error {
	return u.Bucket.PutFrom(ctx, key, body, size, objstore.PutOptions{})
}

package metastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/firnlog/firn/objstore"
)

// transitFormat is the layout of the marker of a bucket that no agent may use: a copy goes into it, or its cluster has left.
// Builds that know of neither refuse it as newer than they are.
const transitFormat = 3

// Claim is whose a bucket is, for whoever copies it.
type Claim struct {
	LogID   string
	Epoch   uint64 // newest log epoch that a restore opened, 0 for none
	Copying bool   // a copy into the bucket has not been finished
	MovedTo string // where the cluster went; "" for nowhere

	raw []byte // the marker as it is
}

// ReadClaim wraps objstore.ErrNotFound where the bucket is nobody's.
func ReadClaim(ctx context.Context, bucket objstore.Bucket) (*Claim, error) {
	m, body, err := getMarker(ctx, bucket)
	if err != nil {
		return nil, err
	}
	if m.LogID == "" {
		return nil, fmt.Errorf("%w: object %s in the bucket names no log", ErrForeign, MarkerKey)
	}
	return &Claim{LogID: m.LogID, Epoch: m.newest(), Copying: m.Copying, MovedTo: m.MovedTo, raw: body}, nil
}

// Same reports whether both markers are the same to the byte.
func (c *Claim) Same(o *Claim) bool { return string(c.raw) == string(o.raw) }

// ClaimCopy takes a bucket for a copy of c's: no agent starts on it until FinishCopy. It must be unclaimed, or left, which the
// caller has seen.
func (c *Claim) ClaimCopy(ctx context.Context, target objstore.Bucket, left bool) error {
	return putMarker(ctx, target, marker{Format: transitFormat, LogID: c.LogID, Copying: true}, objstore.PutOptions{IfAbsent: !left})
}

// FinishCopy gives the target c's own marker: from now on agents may start on it.
func (c *Claim) FinishCopy(ctx context.Context, target objstore.Bucket) error {
	if err := target.Put(ctx, MarkerKey, c.raw, objstore.PutOptions{}); err != nil {
		return fmt.Errorf("write the bucket's marker %s: %w", MarkerKey, err)
	}
	return nil
}

// Leave marks the bucket that c was read from as left: no agent starts on it any more.
func (c *Claim) Leave(ctx context.Context, source objstore.Bucket, to string) error {
	return putMarker(ctx, source, marker{Format: transitFormat, LogID: c.LogID, MovedTo: to}, objstore.PutOptions{})
}

func putMarker(ctx context.Context, bucket objstore.Bucket, m marker, opts objstore.PutOptions) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	// A marker that is there already may be our own, of an attempt before; the caller reads it back.
	if err := bucket.Put(ctx, MarkerKey, body, opts); err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("write the bucket's marker %s: %w", MarkerKey, err)
	}
	return nil
}

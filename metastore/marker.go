package metastore

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
)

// MarkerKey names the object that says whose bucket this is.
const MarkerKey = "firn-cluster.json"

// markerFormat is the layout of the bucket that this build reads and writes.
const markerFormat = 1

type marker struct {
	Format int    `json:"format"`
	LogID  string `json:"log_id"`
}

// checkMarker makes sure that bucket and log belong together, and with claim takes an unclaimed bucket. Two clusters in one bucket
// would collect each other's objects.
func checkMarker(ctx context.Context, bucket objstore.Bucket, identity log.Identity, claim bool) error {
	mine := marker{Format: markerFormat, LogID: hex.EncodeToString(identity.ID[:])}
	for range 3 {
		body, err := bucket.Get(ctx, MarkerKey)
		switch {
		case err == nil:
			var found marker
			if err := json.Unmarshal(body, &found); err != nil {
				return fmt.Errorf("%w: object %s in the bucket is not a firn marker: %w", ErrForeign, MarkerKey, err)
			}
			if found.Format > markerFormat {
				return fmt.Errorf("%w: the bucket has layout %d, this firn knows up to %d; run a newer firn", ErrNewer, found.Format, markerFormat)
			}
			if found.LogID != mine.LogID {
				return fmt.Errorf("%w: the bucket belongs to log %s, the metastore holds log %s; "+
					"use the bucket and the metastore of one cluster, or an empty prefix", ErrForeign, found.LogID, mine.LogID)
			}
			return nil
		case !errors.Is(err, objstore.ErrNotFound):
			return fmt.Errorf("read the bucket's marker %s: %w", MarkerKey, err)
		case !claim:
			return fmt.Errorf("%w: the bucket holds no firn cluster (no object %s)", ErrForeign, MarkerKey)
		}
		body, err = json.Marshal(mine)
		if err != nil {
			return err
		}
		if err := bucket.Put(ctx, MarkerKey, body, objstore.PutOptions{IfAbsent: true}); err != nil && !errors.Is(err, objstore.ErrExists) {
			return fmt.Errorf("write the bucket's marker %s: %w", MarkerKey, err)
		}
	}
	return fmt.Errorf("%w: marker %s was written but cannot be read back", objstore.ErrUnavailable, MarkerKey)
}

package metastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
)

// ErrNeedsRestore: the bucket holds a cluster whose log is gone, or is being put back. Only an operator can go on.
var ErrNeedsRestore = errors.New("the metastore's log needs a restore")

// Identify says which log an agent is about to follow, and makes a new one only for a bucket that is nobody's.
//
// Why the bucket is asked first: an etcd that has lost its data looks like a new one. An agent that took it for one would
// found another log beside the cluster's bucket, and leave the etcd unfit for the restore that it needs.
func Identify(ctx context.Context, l log.Log, bucket objstore.Bucket) (log.Identity, error) {
	if _, err := nobodys(ctx, l, bucket); err != nil {
		return log.Identity{}, err
	}
	return identify(ctx, l)
}

// lookUp is Identify for who only looks: where there is no log it makes none, so that an etcd that has lost its data stays fit
// for a restore, whatever an operator asks it first.
func lookUp(ctx context.Context, l log.Log, bucket objstore.Bucket) (log.Identity, error) {
	switch empty, err := nobodys(ctx, l, bucket); {
	case err != nil:
		return log.Identity{}, err
	case empty:
		return log.Identity{}, fmt.Errorf("%w: etcd holds no log, and the bucket no firn cluster (no object %s): point at the etcd, the prefix and the bucket of one",
			ErrForeign, MarkerKey)
	}
	identity, err := l.Identity(ctx)
	if err != nil {
		return identity, fmt.Errorf("read the log's identity: %w", err)
	}
	return identity, nil
}

// nobodys reports whether there is no log and no cluster's bucket; a cluster's bucket without its log is ErrNeedsRestore. The log is
// made before the bucket is claimed: where the bucket is somebody's, a second look shows the log of an agent that starts at
// the same time.
func nobodys(ctx context.Context, l log.Log, bucket objstore.Bucket) (bool, error) {
	f, ok := log.FounderOf(l)
	if !ok {
		return false, nil
	}
	standing, err := f.Standing(ctx)
	if err != nil {
		return false, fmt.Errorf("look at the metastore: %w", err)
	}
	if standing.Identity.Epoch > 0 {
		return false, nil
	}
	m, err := readMarker(ctx, bucket)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return true, nil
	case err != nil:
		return false, err
	}
	if standing, err = f.Standing(ctx); err != nil {
		return false, fmt.Errorf("look at the metastore: %w", err)
	}
	if standing.Identity.Epoch > 0 {
		return false, nil
	}
	return false, fmt.Errorf("%w: the bucket belongs to log %s, and etcd holds none; use the bucket and the etcd of one cluster, "+
		"or an empty prefix; where etcd has lost its data run firn metastore restore", ErrNeedsRestore, m.LogID)
}

// identify reads the identity of a log that an agent can follow, and makes one where there is none.
func identify(ctx context.Context, l log.Log) (log.Identity, error) {
	identity, err := l.Identity(ctx)
	if err != nil {
		return identity, fmt.Errorf("read the log's identity: %w", err)
	}
	if identity.Epoch == 1 { // never restored
		return identity, nil
	}
	plan, _, err := loadRestoring(ctx, l)
	switch {
	case err != nil:
		return identity, err
	case plan != nil && !plan.Done:
		return identity, fmt.Errorf("%w: a restore into epoch %d is under way or was interrupted; run firn metastore restore again, with the same etcd and bucket",
			ErrNeedsRestore, plan.Epoch)
	}
	return identity, nil
}

// restoreCell says of a log that was restored how, and whether it is complete: agents wait for that.
const restoreCell = "restore"

const restoringFormat = 1

// restoring is the value of restoreCell: what a restore decided before it changed anything, so that one that is started
// again decides the same.
type restoring struct {
	Format       int    `json:"format"`
	Epoch        uint64 `json:"epoch"`
	Base         uint64 `json:"base"`          // n of the last entry that the archive gave
	Hash         string `json:"hash"`          // chain hash there, hex
	Head         string `json:"archive"`       // key of the archive range that holds it; "": none
	AcceptDamage bool   `json:"accept_damage"` // as the operator said
	FromStart    bool   `json:"from_start"`
	Chosen       string `json:"chosen"` // the head that the operator chose, or ""
	Done         bool   `json:"done"`
}

func loadRestoring(ctx context.Context, l log.Log) (*restoring, log.Cell, error) {
	cell, err := l.Load(ctx, restoreCell)
	if err != nil {
		return nil, cell, fmt.Errorf("read how the log was restored: %w", err)
	}
	if cell.Version == 0 {
		return nil, cell, nil
	}
	var r restoring
	if err := json.Unmarshal(cell.Value, &r); err != nil {
		return nil, cell, fmt.Errorf("%w: cell %s: %w", ErrCorrupt, restoreCell, err)
	}
	if r.Format > restoringFormat {
		return nil, cell, fmt.Errorf("%w: cell %s has format %d, this firn knows up to %d", ErrNewer, restoreCell, r.Format, restoringFormat)
	}
	return &r, cell, nil
}

package metastore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// snapshotCell names the newest snapshot that was read back and agreed with a live agent.
const snapshotCell = "snapshot"

// pointer is the value of snapshotCell.
type pointer struct {
	Format int    `json:"format"`
	N      uint64 `json:"n"`
	Object string `json:"object"`
	SHA256 string `json:"sha256"`
	// Trimmed: entries up to here may be gone from the log. Invariant: Trimmed <= N, and everything up to N is archived.
	Trimmed uint64 `json:"trimmed"`
	// Deleted: entries up to here are gone from the log. Invariant: Deleted <= Trimmed. What lies between was to be deleted
	// when the pointer moved; whoever takes up the duty deletes it again.
	Deleted uint64 `json:"deleted"`
	// TrimRevision is the cursor up to which entries with the keys of (Deleted, Trimmed] are to be deleted. A later entry
	// under such a key is a late copy of its commit, with a number of its own: deleting that would tear a hole into the log.
	TrimRevision int64 `json:"trim_revision"`
	// Archive is the archive range that held N when the snapshot was made: where a trimmer finds the keys below N.
	Archive string `json:"archive"`
}

const pointerFormat = 1

// snapshotKey carries the writer, so that two shadow replayers never overwrite each other.
func snapshotKey(epoch, n uint64, writer log.Incarnation) string {
	return fmt.Sprintf("metastore/snapshot/%016x/%016x-%s", epoch, n, writer)
}

func loadPointer(ctx context.Context, l log.Log) (pointer, log.Cell, error) {
	cell, err := l.Load(ctx, snapshotCell)
	if err != nil {
		return pointer{}, cell, fmt.Errorf("read the snapshot pointer: %w", err)
	}
	if cell.Version == 0 {
		return pointer{}, cell, nil
	}
	p, err := parsePointer(cell.Value)
	return p, cell, err
}

// parsePointer reads the value of snapshotCell and checks what its writers keep to.
func parsePointer(value []byte) (pointer, error) {
	var p pointer
	if err := json.Unmarshal(value, &p); err != nil {
		return p, fmt.Errorf("%w: snapshot pointer, cell %q of the metastore: %w", ErrCorrupt, snapshotCell, err)
	}
	switch {
	case p.Format > pointerFormat:
		return p, fmt.Errorf("%w: snapshot pointer has format %d, this firn knows up to %d; run a newer firn", ErrNewer, p.Format, pointerFormat)
	case p.Format < 1 || p.Object == "" || p.Trimmed > p.N || p.Deleted > p.Trimmed:
		return p, fmt.Errorf("%w: snapshot pointer, cell %q of the metastore: format %d, object %q, n=%d, trimmed to n=%d, deleted to n=%d", ErrCorrupt, snapshotCell,
			p.Format, p.Object, p.N, p.Trimmed, p.Deleted)
	}
	return p, nil
}

// loadNewest returns the state of the newest snapshot, or an empty one where there is none.
func loadNewest(ctx context.Context, l log.Log, bucket objstore.Bucket, identity log.Identity) (*state.State, error) {
	p, _, err := loadPointer(ctx, l)
	if err != nil {
		return nil, err
	}
	if p.Object == "" {
		return state.New(state.Identity{ID: identity.ID, Epoch: identity.Epoch, Base: identity.Base}), nil
	}
	return readSnapshot(ctx, bucket, identity, p)
}

func readSnapshot(ctx context.Context, bucket objstore.Bucket, identity log.Identity, p pointer) (*state.State, error) {
	body, err := bucket.Get(ctx, p.Object)
	if err != nil {
		return nil, mend(fmt.Errorf("read snapshot: %w", err), "snapshot", p.Object)
	}
	st, err := checkSnapshot(body, identity, p)
	return st, mend(err, "snapshot", p.Object)
}

// mend tells an operator what to do about an object that is damaged or not there. Nothing goes on without it: what it held
// would be skipped.
func mend(err error, what, key string) error {
	if errors.Is(err, ErrCorrupt) || errors.Is(err, objstore.ErrNotFound) {
		return fmt.Errorf("%w; firn inspect %s --bucket URL %s says what is wrong with it: put it back from a copy or an older version of it in the bucket; "+
			"docs/operations.md, Damaged data, has what else there is",
			err, what, key)
	}
	return err
}

// checkSnapshot judges the bytes of the snapshot that p names.
func checkSnapshot(body []byte, identity log.Identity, p pointer) (*state.State, error) {
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != p.SHA256 {
		return nil, fmt.Errorf("%w: snapshot %s: SHA-256 is %x, the pointer says %s", ErrCorrupt, p.Object, sum, p.SHA256)
	}
	st, err := state.Load(body)
	switch {
	case errors.Is(err, state.ErrVersion), errors.Is(err, state.ErrFeatureLevel):
		return nil, fmt.Errorf("%w: snapshot %s: %w; run a newer firn", ErrNewer, p.Object, err)
	case err != nil:
		return nil, fmt.Errorf("%w: snapshot %s: %w", ErrCorrupt, p.Object, err)
	}
	if st.Identity().ID != identity.ID || st.N() != p.N {
		return nil, fmt.Errorf("%w: snapshot %s is of log %x at n=%d, expected log %x at n=%d",
			ErrForeign, p.Object, st.Identity().ID, st.N(), identity.ID, p.N)
	}
	return st, nil
}

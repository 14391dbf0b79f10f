package metastore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
)

// MarkerKey names the object that says whose bucket this is.
const MarkerKey = "firn-cluster.json"

// markerFormat is the newest layout of the bucket that this build reads. Buckets are of the first until their log is restored.
const (
	markerFormat      = 2
	firstMarkerFormat = 1
)

type marker struct {
	Format int    `json:"format"`
	LogID  string `json:"log_id"`
	// BucketID is random, made with the marker: it tells this bucket from another that an agent of the same log claimed. "" in those of
	// builds that had none.
	BucketID string `json:"bucket_id,omitempty"`
	// Epochs are the log epochs that restores opened, ascending (format 2). What the archive holds of an earlier epoch
	// beyond a later one's base was written by agents of a log that had been given up.
	Epochs []markedEpoch `json:"epochs,omitempty"`
	// Of a bucket in transit (format 3), see Claim.
	Copying bool   `json:"copying,omitempty"`
	MovedTo string `json:"moved_to,omitempty"`
}

// markedEpoch is one restore.
type markedEpoch struct {
	Epoch uint64 `json:"epoch"`
	Base  uint64 `json:"base"` // n of the last entry before it
	Hash  string `json:"hash"` // chain hash there, hex
}

// newest is the log epoch that the bucket's log is in, 0 where it was never restored.
func (m *marker) newest() uint64 {
	if len(m.Epochs) == 0 {
		return 0
	}
	return m.Epochs[len(m.Epochs)-1].Epoch
}

// end is the n of the last entry that counts of a log epoch: where the next restore found the archive's end.
func (m *marker) end(epoch uint64) uint64 {
	end := uint64(math.MaxUint64)
	for _, later := range m.Epochs {
		if later.Epoch > epoch {
			end = min(end, later.Base)
		}
	}
	return end
}

// readMarker wraps objstore.ErrNotFound where the bucket has none.
func readMarker(ctx context.Context, bucket objstore.Bucket) (*marker, error) {
	m, _, err := getMarker(ctx, bucket)
	switch {
	case err != nil:
		return nil, err
	case m.Copying:
		return nil, fmt.Errorf("%w: a copy into this bucket has not been finished: run `firn bucket copy --agents-are-stopped` to its end, "+
			"or start from the bucket that is copied", ErrForeign)
	case m.MovedTo != "":
		return nil, fmt.Errorf("%w: the cluster of this bucket was moved to %s: start agents with that as --bucket", ErrForeign, m.MovedTo)
	}
	return m, nil
}

// getMarker is readMarker of any bucket that this firn knows the layout of, also one in transit.
func getMarker(ctx context.Context, bucket objstore.Bucket) (*marker, []byte, error) {
	body, err := bucket.Get(ctx, MarkerKey)
	if err != nil {
		return nil, nil, fmt.Errorf("read the bucket's marker %s: %w", MarkerKey, err)
	}
	var m marker
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, nil, fmt.Errorf("%w: object %s in the bucket is not a firn marker: %w", ErrForeign, MarkerKey, err)
	}
	if transit := m.Copying || m.MovedTo != ""; m.Format > markerFormat && !(transit && m.Format == transitFormat) {
		return nil, nil, fmt.Errorf("%w: the bucket has layout %d, this firn knows up to %d; run a newer firn", ErrNewer, m.Format, markerFormat)
	}
	return &m, body, nil
}

// checkMarker makes sure that the bucket belongs to the log.
func checkMarker(ctx context.Context, bucket objstore.Bucket, identity log.Identity) error {
	_, err := takeMarker(ctx, bucket, identity, false)
	return err
}

// takeMarker returns the marker of the log's bucket, and with claim takes an unclaimed bucket. Two clusters in one bucket would collect
// each other's objects.
func takeMarker(ctx context.Context, bucket objstore.Bucket, identity log.Identity, claim bool) (*marker, error) {
	mine := marker{Format: firstMarkerFormat, LogID: hex.EncodeToString(identity.ID[:]), BucketID: strings.ToLower(rand.Text())}
	for range 3 {
		found, err := readMarker(ctx, bucket)
		switch {
		case err == nil:
			if found.LogID != mine.LogID {
				return nil, fmt.Errorf("%w: the bucket belongs to log %s, the metastore holds log %s; "+
					"use the bucket and the metastore of one cluster, or an empty prefix", ErrForeign, found.LogID, mine.LogID)
			}
			return found, found.supersedes(identity)
		case !errors.Is(err, objstore.ErrNotFound):
			return nil, err
		case !claim:
			return nil, fmt.Errorf("%w: %w (no object %s)", ErrForeign, errUnclaimed, MarkerKey)
		}
		body, err := json.Marshal(mine)
		if err != nil {
			return nil, err
		}
		if err := bucket.Put(ctx, MarkerKey, body, objstore.PutOptions{IfAbsent: true}); err != nil && !errors.Is(err, objstore.ErrExists) {
			return nil, fmt.Errorf("write the bucket's marker %s: %w", MarkerKey, err)
		}
	}
	return nil, fmt.Errorf("%w: marker %s was written but cannot be read back", objstore.ErrUnavailable, MarkerKey)
}

// settleBucket makes sure that bucket and log belong together, for an agent that starts. Only who finds the log empty may claim a bucket
// that is nobody's: every entry is of an agent that had claimed the cluster's bucket before it joined, so that a log with entries
// beside an unclaimed bucket is a wrong --bucket, and what were acknowledged from there the other agents would never find.
//
// Agents of a new log that are started together with different buckets each find theirs unclaimed. So the log has the last word: the first
// to write its bucket's id into it wins, before it joins, and no agent joins with another bucket.
func settleBucket(ctx context.Context, l log.Log, bucket objstore.Bucket, identity log.Identity, agent string) error {
	head, err := l.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the log's head: %w", err)
	}
	m, err := takeMarker(ctx, bucket, identity, head == 0)
	if errors.Is(err, errUnclaimed) && head > 0 {
		return fmt.Errorf("%w, and the metastore holds a log of %d entries, %x: it is not the bucket, or the prefix, of that cluster; look at --bucket. "+
			"Where it is, and the object was deleted, put it back from a copy or an older version", err, head, identity.ID)
	}
	if err != nil {
		return err
	}
	for range 3 {
		known, err := m.isTheLogs(ctx, l)
		if err != nil || known || m.BucketID == "" {
			return err
		}
		value, err := json.Marshal(chosenBucket{Format: chosenFormat, BucketID: m.BucketID, Agent: agent})
		if err != nil {
			return err
		}
		if _, err = l.Swap(ctx, bucketCell, 0, value, nil); err == nil {
			return nil
		}
		if !errors.Is(err, log.ErrConflict) { // else the cell is there now, and stays
			return fmt.Errorf("write into the metastore which bucket is the cluster's: %w", err)
		}
	}
	return fmt.Errorf("%w: cell %s of the metastore comes and goes", log.ErrUnavailable, bucketCell)
}

// checkBucket makes sure that bucket and log belong together, for who only looks.
func checkBucket(ctx context.Context, l log.Log, bucket objstore.Bucket, identity log.Identity) error {
	m, err := takeMarker(ctx, bucket, identity, false)
	if err != nil {
		return err
	}
	_, err = m.isTheLogs(ctx, l)
	return err
}

// bucketCell says which of the buckets that agents of a log have claimed is the cluster's. It is written once, by the first agent or by the
// restore that makes the log; one whose bucket has no id does without, and one that an older build restored begins without it.
const bucketCell = "bucket"

const chosenFormat = 1

type chosenBucket struct {
	Format   int    `json:"format"`
	BucketID string `json:"bucket_id"`
	Agent    string `json:"agent,omitempty"` // that wrote it; "" where a restore did
}

// isTheLogs is false where the log does not know its bucket yet, and an error where it is another than that of this marker.
func (m *marker) isTheLogs(ctx context.Context, l log.Log) (known bool, err error) {
	cell, err := l.Load(ctx, bucketCell)
	if err != nil {
		return false, fmt.Errorf("read which bucket is the cluster's: %w", err)
	}
	if cell.Version == 0 {
		return false, nil
	}
	var chosen chosenBucket
	if err := json.Unmarshal(cell.Value, &chosen); err != nil {
		return false, fmt.Errorf("%w: cell %s: %w", ErrCorrupt, bucketCell, err)
	}
	if chosen.Format > chosenFormat {
		return false, fmt.Errorf("%w: cell %s has format %d, this firn knows up to %d", ErrNewer, bucketCell, chosen.Format, chosenFormat)
	}
	if chosen.BucketID != m.BucketID {
		who := fmt.Sprintf("agent %q was the first of this cluster to start, with", chosen.Agent)
		if chosen.Agent == "" {
			who = "this cluster's log was restored from"
		}
		return false, fmt.Errorf("%w: %s another bucket, or prefix, than this one: look at --bucket of both. "+
			"Object %s in the cluster's has bucket_id %s, here it has %q; where nothing else of firn's is here, delete it", ErrForeign, who,
			MarkerKey, chosen.BucketID, m.BucketID)
	}
	return true, nil
}

// errUnclaimed: a bucket without a marker.
var errUnclaimed = errors.New("the bucket holds no firn cluster")

// errGivenUp: another log was restored from the bucket since this one was used.
var errGivenUp = errors.New("a log that was given up")

// supersedes refuses a log that was given up: another one was restored from the bucket since.
func (m *marker) supersedes(identity log.Identity) error {
	if newest := m.newest(); newest > identity.Epoch {
		return fmt.Errorf("%w: %w: the bucket's was restored into epoch %d, this metastore holds epoch %d; "+
			"use the etcd that was restored to, and take this one away", ErrForeign, errGivenUp, newest, identity.Epoch)
	}
	return nil
}

// checkSuperseded is checkMarker for a log that is in use: only a newer epoch ends it, whatever else became of the marker.
func checkSuperseded(ctx context.Context, bucket objstore.Bucket, identity log.Identity) error {
	m, err := readMarker(ctx, bucket)
	if err != nil || m.LogID != hex.EncodeToString(identity.ID[:]) {
		return nil //nolint:nilerr // a marker that cannot be read says nothing
	}
	return m.supersedes(identity)
}

// mark notes in the marker that a log epoch was opened, unless it says so already.
func mark(ctx context.Context, bucket objstore.Bucket, id [16]byte, epoch markedEpoch) error {
	m, err := readMarker(ctx, bucket)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		m = &marker{LogID: hex.EncodeToString(id[:])}
	case err != nil:
		return err
	}
	if m.newest() >= epoch.Epoch {
		return nil
	}
	m.Format, m.Epochs = markerFormat, append(m.Epochs, epoch)
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := bucket.Put(ctx, MarkerKey, body, objstore.PutOptions{}); err != nil {
		return fmt.Errorf("write the bucket's marker %s: %w", MarkerKey, err)
	}
	return nil
}

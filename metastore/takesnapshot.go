package metastore

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
)

// SnapshotReport says what a snapshot holds and where it is.
type SnapshotReport struct {
	LogID     string `json:"log_id"`
	Epoch     uint64 `json:"epoch"`
	N         uint64 `json:"n"` // everything up to here is in it, and in the archive
	Object    string `json:"object"`
	Bytes     int    `json:"bytes"`
	SHA256    string `json:"sha256"`
	ChainHash string `json:"chain_hash"`
	Archived  int    `json:"archived_entries"` // that were not in the bucket before
	Made      bool   `json:"made"`             // false: the newest snapshot was at the head already
}

// Lines renders the report for people.
func (r *SnapshotReport) Lines() []string {
	made := "made"
	if !r.Made {
		made = "was there already: nothing happened since"
	}
	return []string{
		fmt.Sprintf("snapshot      n=%d, %s", r.N, made),
		fmt.Sprintf("object        %s, %d bytes", r.Object, r.Bytes),
		fmt.Sprintf("sha256        %s", r.SHA256),
		fmt.Sprintf("chain hash    %s", r.ChainHash),
		fmt.Sprintf("archived      %d entries that were not in the bucket before", r.Archived),
		fmt.Sprintf("log           %s, epoch %d", r.LogID, r.Epoch),
	}
}

// snapshotAttempts is how often a snapshot starts over because an agent archived or trimmed at the same time.
const snapshotAttempts = 10

// TakeSnapshot brings the bucket up to the log's head, now: it archives what is not archived yet and makes a snapshot of
// it, as an agent that archives does every few seconds and every 100 000 entries. Agents may run meanwhile: the archive and
// the pointer move by compare-and-swap, and whoever loses starts again from the bucket. It registers nothing and trims nothing.
//
// An agent compares a snapshot with its own state. Here what agents say of their states in their entries is compared
// instead: a replay that differs from any of them is ErrDiverged.
func TakeSnapshot(ctx context.Context, l log.Log, bucket objstore.Bucket) (*SnapshotReport, error) {
	if _, err := lookUp(ctx, l, bucket); err != nil {
		return nil, err
	}
	identity, err := identify(ctx, l)
	if err != nil {
		return nil, err
	}
	if err := checkBucket(ctx, l, bucket, identity); err != nil {
		return nil, err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the head: %w", err)
	}
	c := &Client{log: l, bucket: bucket, identity: identity, cfg: Config{Metrics: NewMetrics(nil), Logger: slog.New(slog.DiscardHandler)}}
	for attempt := 1; ; attempt++ {
		r, err := c.takeSnapshot(ctx, head)
		if !errors.Is(err, log.ErrConflict) && !errors.Is(err, log.ErrTrimmed) || attempt == snapshotAttempts {
			return r, err
		}
	}
}

// takeSnapshot makes one attempt to have a snapshot at or after head.
func (c *Client) takeSnapshot(ctx context.Context, head uint64) (*SnapshotReport, error) {
	var writer log.Incarnation
	_, _ = crand.Read(writer[:]) // never fails
	a, err := c.newArchivist(ctx, writer)
	if err != nil {
		return nil, err
	}
	a.alone = true
	r := &SnapshotReport{LogID: fmt.Sprintf("%x", c.identity.ID), Epoch: c.identity.Epoch}
	for a.shadow.N() < head {
		entries, _, _, err := c.log.Read(ctx, a.shadow.N(), sequences(a.shadow), readBytes)
		if err != nil {
			return nil, fmt.Errorf("read the log: %w", err)
		}
		if len(entries) == 0 {
			break
		}
		if err := a.archive(ctx, entries); err != nil {
			return nil, err
		}
		r.Archived += len(entries)
	}
	if a.pointer.Object == "" || a.pointer.N < a.shadow.N() {
		if err := a.snapshot(ctx); err != nil {
			return nil, err
		}
		r.Made = true
	}
	hash := a.shadow.ChainHash()
	r.N, r.Object, r.SHA256, r.ChainHash = a.pointer.N, a.pointer.Object, a.pointer.SHA256, fmt.Sprintf("%x", hash)
	info, err := c.bucket.Head(ctx, r.Object)
	if err != nil {
		return nil, fmt.Errorf("look at the snapshot: %w", err)
	}
	r.Bytes = int(info.Size)
	return r, nil
}

// compareSeen holds the shadow against what the proposer of an entry says of its own state.
func (a *archivist) compareSeen(e *entry.Entry) error {
	ours, known := a.shadow.HashAt(e.SeenN)
	if e.SeenN == 0 || !known || binary.BigEndian.Uint64(ours[:8]) == e.SeenHash {
		return nil
	}
	return fmt.Errorf("%w: at n=%d a replay gives chain hash %x, agent %s had %016x", ErrDiverged, e.SeenN, ours[:8],
		log.Incarnation(e.Incarnation), e.SeenHash)
}

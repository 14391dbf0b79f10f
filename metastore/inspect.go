package metastore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// Look examines a metastore from outside: it registers nothing and changes nothing.
type Look func(ctx context.Context, l log.Log, bucket objstore.Bucket) (*Report, error)

// Report is what an operator wants to know of a metastore.
type Report struct {
	LogID           string            `json:"log_id"`
	Epoch           uint64            `json:"epoch"`
	Head            uint64            `json:"head_n"`
	ArchivedTo      uint64            `json:"archived_n"`
	SnapshotN       uint64            `json:"snapshot_n"`
	TrimmedTo       uint64            `json:"trimmed_n"`
	Replayed        uint64            `json:"replayed_entries,omitempty"`
	ChainHash       string            `json:"chain_hash,omitempty"`
	Topics          int               `json:"topics"`
	Partitions      int               `json:"partitions"`
	Objects         int               `json:"objects"`
	CollectionEpoch uint64            `json:"collection_epoch"`
	FeatureLevel    uint32            `json:"feature_level"`
	Groups          int               `json:"groups"`
	Offsets         int               `json:"committed_offsets"`
	Agents          []AgentReport     `json:"agents"`
	Store           map[string]string `json:"store"`
	Problems        []string          `json:"problems"`
}

// AgentReport is one joined agent.
type AgentReport struct {
	Name        string `json:"name"`
	NodeID      int32  `json:"node_id"`
	Incarnation string `json:"incarnation"`
	Registered  bool   `json:"registered"`
	Entries     uint64 `json:"entries"`
}

// Lines renders the report for people.
func (r *Report) Lines() []string {
	lines := []string{
		fmt.Sprintf("log           %s, epoch %d", r.LogID, r.Epoch),
		fmt.Sprintf("head          n=%d", r.Head),
		fmt.Sprintf("archived to   n=%d", r.ArchivedTo),
		fmt.Sprintf("snapshot at   n=%d", r.SnapshotN),
		fmt.Sprintf("trimmed to    n=%d", r.TrimmedTo),
		fmt.Sprintf("state         %d topics, %d partitions, %d objects, collection epoch %d, feature level %d",
			r.Topics, r.Partitions, r.Objects, r.CollectionEpoch, r.FeatureLevel),
	}
	if r.Groups > 0 {
		lines = append(lines, fmt.Sprintf("groups        %d, with %d committed offsets", r.Groups, r.Offsets))
	}
	if r.Replayed > 0 {
		lines = append(lines, fmt.Sprintf("replayed      %d entries, chain hash %s", r.Replayed, r.ChainHash))
	}
	for _, a := range r.Agents {
		lines = append(lines, fmt.Sprintf("agent         %s, node id %d, incarnation %s, registered %v, %d entries", a.Name, a.NodeID, a.Incarnation, a.Registered, a.Entries))
	}
	keys := make([]string, 0, len(r.Store))
	for k := range r.Store {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		lines = append(lines, fmt.Sprintf("store         %s: %s", k, r.Store[k]))
	}
	for _, p := range r.Problems {
		lines = append(lines, "PROBLEM       "+p)
	}
	return lines
}

// Status reports from the newest snapshot and the tail.
func Status(ctx context.Context, l log.Log, bucket objstore.Bucket) (*Report, error) {
	r, identity, p, err := look(ctx, l, bucket)
	if err != nil {
		return nil, err
	}
	st, err := loadNewest(ctx, l, bucket, identity)
	if err != nil {
		return nil, err
	}
	v := replayer{st: st, report: r}
	if err := v.tail(ctx, l, bucket, identity); err != nil {
		return nil, err
	}
	v.finish(ctx, l, p)
	r.Replayed, r.ChainHash = 0, ""
	return r, nil
}

// Verify replays the whole archive and the tail from nothing and compares with every chain hash and snapshot on the way.
// What differs is a problem in the report, not an error.
func Verify(ctx context.Context, l log.Log, bucket objstore.Bucket) (*Report, error) {
	r, identity, p, err := look(ctx, l, bucket)
	if err != nil {
		return nil, err
	}
	v := replayer{st: state.New(state.Identity{ID: identity.ID, Epoch: identity.Epoch, Base: identity.Base}), report: r, pointer: p}
	if p.Object != "" {
		if v.snapshot, err = readSnapshot(ctx, bucket, identity, p); err != nil {
			if err := r.found(err); err != nil {
				return nil, err
			}
		}
	}
	if err := v.archive(ctx, l, bucket, identity); err != nil {
		return nil, err
	}
	if err := v.tail(ctx, l, bucket, identity); err != nil {
		return nil, err
	}
	v.finish(ctx, l, p)
	return r, nil
}

// look reads what is outside of the state.
func look(ctx context.Context, l log.Log, bucket objstore.Bucket) (*Report, log.Identity, pointer, error) {
	identity, err := lookUp(ctx, l, bucket)
	if err != nil {
		return nil, identity, pointer{}, err
	}
	if err := checkBucket(ctx, l, bucket, identity); err != nil {
		return nil, identity, pointer{}, err
	}
	p, _, err := loadPointer(ctx, l)
	if err != nil {
		return nil, identity, p, err
	}
	r := &Report{LogID: fmt.Sprintf("%x", identity.ID), Epoch: identity.Epoch, SnapshotN: p.N, TrimmedTo: p.Deleted, Problems: []string{}}
	if r.Head, err = l.Head(ctx); err != nil {
		return nil, identity, p, fmt.Errorf("read the head: %w", err)
	}
	if r.Store, err = l.Status(ctx); err != nil {
		return nil, identity, p, fmt.Errorf("read the store's status: %w", err)
	}
	cell, err := l.Load(ctx, archiveCell)
	if err != nil {
		return nil, identity, p, fmt.Errorf("read the archive's head: %w", err)
	}
	if key := string(cell.Value); key != "" {
		a, err := readRange(ctx, bucket, identity, key)
		if err == nil {
			r.ArchivedTo = a.last()
		} else if err := r.found(err); err != nil {
			return nil, identity, p, err
		}
	}
	return r, identity, p, nil
}

// replayer applies entries to a state of its own and notes what does not fit.
type replayer struct {
	st       *state.State
	report   *Report
	pointer  pointer
	snapshot *state.State // to compare with at its n; nil where there is none
	apply    applier
	// epoch is the collection epoch, and epochN the n of the entry that moved it last, or of where the replay began.
	epoch, epochN uint64
}

func (v *replayer) problem(format string, args ...any) {
	v.report.Problems = append(v.report.Problems, fmt.Sprintf(format, args...))
}

// found makes damage a problem. What says nothing of the data, such as a bucket that cannot be reached, stays an error.
func (v *replayer) found(err error) error {
	return v.report.found(err)
}

func (r *Report) found(err error) error {
	for _, damage := range []error{ErrCorrupt, ErrForeign, ErrNewer, objstore.ErrNotFound} {
		if errors.Is(err, damage) {
			r.Problems = append(r.Problems, err.Error())
			return nil
		}
	}
	return err
}

func (v *replayer) take(e log.Entry) error {
	decoded, err := v.apply.decoder.Decode(e.Value)
	if err == nil {
		err = v.st.Apply(e.N, e.Value, decoded, &v.apply.results)
	}
	if err != nil {
		return fmt.Errorf("entry n=%d of %v cannot be applied: %w", e.N, e.Key, err)
	}
	v.report.Replayed++
	if epoch := v.st.CollectionEpoch(); epoch != v.epoch {
		v.epoch, v.epochN = epoch, e.N
	}
	if s := v.snapshot; s != nil && s.N() == e.N {
		if want, got := s.AppendSnapshot(nil), v.st.AppendSnapshot(nil); !bytes.Equal(want, got) {
			v.problem("snapshot %s at n=%d is not the state that the history gives: SHA-256 %x in the snapshot, %x replayed", v.pointer.Object, e.N,
				sha256.Sum256(want), sha256.Sum256(got))
		}
	}
	return nil
}

// beginning is the state that the first range of an archive continues, nil where it is not to be found: an empty one, or that of
// a snapshot from which the log was restored when there was no archive left.
func beginning(ctx context.Context, bucket objstore.Bucket, identity log.Identity, a *archiveRange) (*state.State, error) {
	if st := before(a); st != nil {
		return st, nil
	}
	m, err := readMarker(ctx, bucket)
	if err != nil {
		return nil, err
	}
	h := history{bucket: bucket, marker: m, identity: identity}
	snapshots, err := h.list(ctx, snapshotPrefix, "")
	if err != nil {
		return nil, err
	}
	for _, o := range snapshots {
		if o.last+1 != a.first() {
			continue
		}
		st, err := h.begin(ctx, o)
		switch {
		case unusable(err):
		case err != nil:
			return nil, err
		case st.ChainHash() == a.before:
			return st, nil
		}
	}
	return nil, nil
}

// archive walks the chain to its first range, then replays forward. Keys are held, not entries: history is long.
func (v *replayer) archive(ctx context.Context, l log.Log, bucket objstore.Bucket, identity log.Identity) error {
	cell, err := l.Load(ctx, archiveCell)
	if err != nil {
		return fmt.Errorf("read the archive's head: %w", err)
	}
	var keys []string
	var earliest *archiveRange
	for key := string(cell.Value); key != ""; {
		a, err := readRange(ctx, bucket, identity, key)
		if errors.Is(err, objstore.ErrNotFound) && earliest != nil { // what lies before may have got too old to be kept
			listed, listErr := bucket.List(ctx, key, "", 1)
			if listErr != nil {
				return fmt.Errorf("list %s: %w", key, listErr)
			}
			st, beginErr := beginning(ctx, bucket, identity, earliest)
			if beginErr != nil {
				return beginErr
			}
			if st != nil && len(listed) == 0 {
				break
			}
		}
		if err != nil { // and with it the way to what lies before
			return v.found(err)
		}
		earliest = a
		keys = append(keys, key)
		key = a.previous
	}
	for i, key := range slices.Backward(keys) {
		a, err := readRange(ctx, bucket, identity, key)
		if err != nil {
			return v.found(err)
		}
		if i == len(keys)-1 {
			st, err := beginning(ctx, bucket, identity, a)
			if err != nil {
				return err
			}
			if st != nil {
				v.st = st
			}
		}
		if a.first() != v.st.N()+1 {
			v.problem("archive object %s starts at n=%d, the one before ends at n=%d", key, a.first(), v.st.N())
			return nil
		}
		if hash := v.st.ChainHash(); hash != a.before {
			v.problem("archive object %s continues another history: it records chain hash %x before n=%d, the objects before it give %x", key, a.before, a.first(), hash)
		}
		for _, e := range a.entries {
			if err := v.take(e); err != nil {
				v.problem("archive object %s: %v; firn inspect archive --bucket URL %[1]s shows it", key, err)
				return nil
			}
		}
		if hash := v.st.ChainHash(); hash != a.after {
			v.problem("archive object %s records chain hash %x after n=%d, its entries give %x", key, a.after, a.last(), hash)
		}
	}
	return nil
}

// tail applies what the log holds beyond the state.
func (v *replayer) tail(ctx context.Context, l log.Log, bucket objstore.Bucket, identity log.Identity) error {
	for {
		entries, _, more, err := l.Read(ctx, v.st.N(), sequences(v.st), readBytes)
		if errors.Is(err, log.ErrTrimmed) {
			before := v.st.N()
			keys, err := archiveKeys(ctx, l, bucket, identity, before)
			if err != nil {
				return v.found(err)
			}
			for _, key := range keys {
				a, err := readRange(ctx, bucket, identity, key)
				if err != nil {
					return v.found(err)
				}
				for _, e := range a.above(v.st.N()) {
					if err := v.take(e); err != nil {
						v.problem("archive object %s: %v", key, err)
						return nil
					}
				}
			}
			if v.st.N() == before {
				v.problem("entries after n=%d are neither in the log nor in the archive", before)
				return nil
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		for _, e := range entries {
			if err := v.take(e); err != nil {
				v.problem("%v", err)
				return nil
			}
		}
		if !more {
			return nil
		}
	}
}

func (v *replayer) finish(ctx context.Context, l log.Log, p pointer) {
	r, st := v.report, v.st
	hash := st.ChainHash()
	r.ChainHash = fmt.Sprintf("%x at n=%d", hash[:8], st.N())
	r.Topics, r.Partitions = st.TopicCount(), st.PartitionCount()
	r.Objects, _ = st.ObjectCount()
	r.CollectionEpoch, r.FeatureLevel = st.CollectionEpoch(), st.FeatureLevel()
	r.Groups, r.Offsets = st.GroupCount(), st.OffsetCount()
	live := make(map[log.Incarnation]bool)
	if members, err := l.Members(ctx); err == nil {
		for _, m := range members {
			live[m.Incarnation] = true
		}
	}
	for _, a := range st.Agents() {
		inc := log.Incarnation(a.Incarnation)
		r.Agents = append(r.Agents, AgentReport{Name: a.Name, NodeID: a.NodeID, Incarnation: inc.String(), Registered: live[inc], Entries: a.LastSeq})
	}
	if st.N() < p.N {
		v.problem("the snapshot at n=%d lies beyond what could be replayed, n=%d", p.N, st.N())
	}
}

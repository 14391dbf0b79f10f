package metastore

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// Archive is the content of one archive object.
type Archive struct {
	LogID    [16]byte
	Epoch    uint64   // log epoch
	Before   [32]byte // chain hash before the first entry
	After    [32]byte // and after the last
	Previous string   // key of the range before; "" in the first
	Entries  []log.Entry
}

// ParseArchive reads an archive object. name is for the error, which is a *DamageError or ErrNewer.
func ParseArchive(name string, b []byte) (*Archive, error) {
	a, err := parseArchive(name, b)
	if err != nil {
		return nil, err
	}
	return &Archive{LogID: a.identity.ID, Epoch: a.identity.Epoch, Before: a.before, After: a.after, Previous: a.previous, Entries: a.entries}, nil
}

// ErrNoEntry: the log has no entry of this number.
var ErrNoEntry = errors.New("no such entry")

// FindEntry returns entry n, wherever it is kept, and says where that was. Entries are not decoded on the way, so one that
// cannot be is found like any other. It changes nothing.
func FindEntry(ctx context.Context, l log.Log, bucket objstore.Bucket, n uint64) (e log.Entry, source string, err error) {
	identity, err := lookUp(ctx, l, bucket)
	if err != nil {
		return e, "", err
	}
	if err := checkBucket(ctx, l, bucket, identity); err != nil {
		return e, "", err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return e, "", fmt.Errorf("read the head: %w", err)
	}
	if n == 0 || n > head {
		return e, "", fmt.Errorf("%w: n=%d, the log has 1 to %d", ErrNoEntry, n, head)
	}
	keys, err := archiveKeys(ctx, l, bucket, identity, n-1)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return e, "", fmt.Errorf("%w: n=%d: what held it is not in the bucket, which keeps history for --history-keep: %w", ErrNoEntry, n, err)
	case err != nil:
		return e, "", err
	}
	if len(keys) > 0 {
		a, err := readRange(ctx, bucket, identity, keys[0])
		if err != nil {
			return e, "", err
		}
		if n < a.first() || n > a.last() {
			return e, "", fmt.Errorf("%w: n=%d lies between archive objects, the next is %s", ErrCorrupt, n, keys[0])
		}
		return a.entries[n-a.first()], "archive object " + keys[0], nil
	}
	e, err = readTail(ctx, l, bucket, identity, n)
	return e, "the log", err
}

// readTail reads entry n from the log itself: from the newest snapshot on, and over what was archived since, because the log
// proves the numbers of its entries from what comes before them.
func readTail(ctx context.Context, l log.Log, bucket objstore.Bucket, identity log.Identity, n uint64) (log.Entry, error) {
	st, err := loadNewest(ctx, l, bucket, identity)
	if err != nil {
		return log.Entry{}, err
	}
	after, last := st.N(), sequences(st)
	take := func(entries []log.Entry) (log.Entry, bool) {
		for _, e := range entries {
			if e.N == n {
				return e, true
			}
			after = e.N
			last[e.Key.Incarnation] = max(last[e.Key.Incarnation], e.Key.Seq)
		}
		return log.Entry{}, false
	}
	for {
		entries, _, more, err := l.Read(ctx, after, last, readBytes)
		if errors.Is(err, log.ErrTrimmed) {
			before := after
			keys, err := archiveKeys(ctx, l, bucket, identity, after)
			if err != nil {
				return log.Entry{}, err
			}
			for _, key := range keys {
				a, err := readRange(ctx, bucket, identity, key)
				if err != nil {
					return log.Entry{}, err
				}
				if e, ok := take(a.above(after)); ok {
					return e, nil
				}
			}
			if after == before {
				return log.Entry{}, fmt.Errorf("%w: entries after n=%d are neither in the log nor in the archive", ErrCorrupt, after)
			}
			continue
		}
		if err != nil {
			return log.Entry{}, fmt.Errorf("read the log: %w", err)
		}
		if e, ok := take(entries); ok {
			return e, nil
		}
		if !more {
			return log.Entry{}, fmt.Errorf("%w: n=%d, the log ends at n=%d", ErrNoEntry, n, after)
		}
	}
}

// TopicNames gives the names of topics as the newest snapshot has them, by id.
func TopicNames(ctx context.Context, l log.Log, bucket objstore.Bucket) (map[[16]byte]string, error) {
	identity, err := lookUp(ctx, l, bucket)
	if err != nil {
		return nil, err
	}
	st, err := loadNewest(ctx, l, bucket, identity)
	if err != nil {
		return nil, err
	}
	return topicNames(st), nil
}

func topicNames(st *state.State) map[[16]byte]string {
	names := make(map[[16]byte]string)
	for t := range st.Topics() {
		names[t.ID] = t.Name
	}
	return names
}

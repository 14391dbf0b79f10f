package metastore

import (
	"context"
	"fmt"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// Observed is the cluster's state as it was read from outside, without joining.
type Observed struct {
	State    *state.State // nobody else has it
	Archived uint64       // n up to which the bucket alone gave the log, before State was read
	EpochN   uint64       // an n at which the state had its collection epoch already
}

// Observe reads the newest snapshot and the log's tail. It registers nothing and changes nothing.
func Observe(ctx context.Context, l log.Log, bucket objstore.Bucket) (*Observed, error) {
	r, identity, _, err := look(ctx, l, bucket)
	if err != nil {
		return nil, err
	}
	st, err := loadNewest(ctx, l, bucket, identity)
	if err != nil {
		return nil, err
	}
	v := replayer{st: st, report: r, epoch: st.CollectionEpoch(), epochN: st.N()}
	if err := v.tail(ctx, l, bucket, identity); err != nil {
		return nil, err
	}
	if len(r.Problems) > 0 {
		return nil, fmt.Errorf("%w: %s; firn metastore verify says more", ErrCorrupt, r.Problems[0])
	}
	return &Observed{State: st, Archived: r.ArchivedTo, EpochN: v.epochN}, nil
}

package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/segment"
	"github.com/firnlog/firn/wal"
)

// ErrClosed: the pipeline is closed, or was before the outcome of a part was known. Clients may retry: what was committed
// all the same is found by the idempotent producer's sequences.
var ErrClosed = errors.New("ingest pipeline closed")

// ErrSpillLost: a batch that waited on the disk for its upload could not be read back. It is in no object and in no op:
// its producer sends it again.
var ErrSpillLost = errors.New("spilled batch lost")

// ErrLock: the bucket does not lock the object as the topic's config promises, so the batch was not stored. An operator has to
// act: the bucket has no object lock, or the credentials may not use it.
var ErrLock = errors.New("object lock refused by the bucket")

// Metastore is what the pipeline needs of metastore.Client.
type Metastore interface {
	// Submit queues an op; done is called exactly once, in log order. See metastore.Client.
	Submit(op entry.Op, done func(state.OpResult, error))
	// View runs fn under the state's read lock.
	View(fn func(*state.State))
	// Incarnation names the objects of this agent.
	Incarnation() log.Incarnation
	// Subscribe sends on ch whenever one of refs changed.
	Subscribe(refs []state.PartitionRef, ch chan<- struct{}) (cancel func())
}

// Spill holds staged batches that do not fit into memory. It need not be durable: nothing unacknowledged is replayed.
// All methods are safe for concurrent use. See SpillTo.
type Spill interface {
	// Append stores payload and does not keep the slice. An error that is not ctx's own means that there is no room now:
	// the caller waits until something was answered or freed.
	Append(ctx context.Context, payload []byte) (wal.Ref, error)
	// Read returns the payload, in dst[:0] where dst has room for ref.Size bytes.
	Read(ref wal.Ref, dst []byte) ([]byte, error)
	// Free gives the space back.
	Free(ref wal.Ref)
}

// SpillTo makes a Spill of a write-ahead log.
func SpillTo(l *wal.Log) Spill { return walSpill{l} }

type walSpill struct{ *wal.Log }

func (s walSpill) Append(ctx context.Context, payload []byte) (wal.Ref, error) {
	return s.Log.Append(ctx, wal.Spill, nil, payload)
}

// Sink takes what was just uploaded; the read cache implements it. It keeps body, which never changes again.
type Sink interface {
	Put(id entry.ObjectID, body []byte, footer *segment.Footer)
}

// Config are the tunables; the zero value of each is its default.
type Config struct {
	// TargetBytes is the raw size at which a segment is closed. Default 8 MiB. One batch may exceed it.
	TargetBytes int
	// FlushInterval is the longest that a staged batch waits while a slot is free. Default 250 ms.
	FlushInterval time.Duration
	// UploadSlots is how many uploads run at once. Default 4.
	UploadSlots int
	// EagerUploads is below how many running uploads a staged batch waits for nothing. More of them buy latency with
	// requests; see the package doc. Default 1.
	EagerUploads int
	// MemoryBytes bounds the raw bytes staged or in flight in memory; beyond it Stage spills, or blocks where there is no
	// Spill. A request of more than half of it may come in beside as much. Spilled segments that are being uploaded, or were and wait for their commit, come on top: at most
	// UploadSlots * (TargetBytes + one batch).
	// Default 64 MiB.
	MemoryBytes int64
	// OpBytes is about where an append op is split. Default 48 KiB.
	OpBytes int
	// UploadTimeout bounds one attempt of a put; its outcome is then unknown and it is tried again. Default 30 s.
	UploadTimeout time.Duration
	// RetryMin and RetryMax bound the pause between attempts, which doubles. Defaults 50 ms and 5 s.
	RetryMin, RetryMax time.Duration
	// GapWait is how long a batch whose predecessor is missing waits for it. Default 2 s.
	GapWait time.Duration
	// Compress lets segments compress what shrinks; it costs CPU here and in every reader.
	Compress bool
	// Rand jitters retries; a seeded one makes a simulation repeatable. Default: seeded by the runtime.
	Rand *rand.Rand
	// Logger gets one line per change of condition, not per batch. Default: discard.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	check := func(name string, v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
		if *v < 0 {
			errs = append(errs, fmt.Errorf("ingest: %s is negative: %d", name, *v))
		}
	}
	count := func(name string, v *int, def int64) {
		w := int64(*v)
		check(name, &w, def)
		*v = int(w)
	}
	period := func(name string, v *time.Duration, def time.Duration) { check(name, (*int64)(v), int64(def)) }
	count("target bytes", &c.TargetBytes, 8<<20)
	count("upload slots", &c.UploadSlots, 4)
	check("memory bytes", &c.MemoryBytes, 64<<20)
	count("eager uploads", &c.EagerUploads, 1)
	count("op bytes", &c.OpBytes, 48<<10)
	period("flush interval", &c.FlushInterval, 250*time.Millisecond)
	period("upload timeout", &c.UploadTimeout, 30*time.Second)
	period("retry min", &c.RetryMin, 50*time.Millisecond)
	period("retry max", &c.RetryMax, 5*time.Second)
	period("gap wait", &c.GapWait, 2*time.Second)
	if c.RetryMax < c.RetryMin {
		errs = append(errs, fmt.Errorf("ingest: retry max %v is below retry min %v", c.RetryMax, c.RetryMin))
	}
	if c.OpBytes > log.MaxValueBytes/2 {
		errs = append(errs, fmt.Errorf("ingest: op bytes %d exceed %d", c.OpBytes, log.MaxValueBytes/2))
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return errors.Join(errs...)
}

package metered

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/firnlog/firn/objstore"
)

// Op is the method that was called.
type Op string

// One Op for each method of objstore.Bucket but Close; PutFrom is a put.
const (
	OpPut      Op = "put"
	OpGet      Op = "get"
	OpGetRange Op = "get_range"
	OpHead     Op = "head"
	OpList     Op = "list"
	OpDelete   Op = "delete"
)

// Ops returns every Op, for observers that prepare their series.
func Ops() []Op { return []Op{OpPut, OpGet, OpGetRange, OpHead, OpList, OpDelete} }

// Outcome is the class of a call's error.
type Outcome string

// The outcomes: one for each sentinel of objstore, and three more.
const (
	OutcomeOK          Outcome = "ok"
	OutcomeNotFound    Outcome = "not_found"
	OutcomeExists      Outcome = "exists"
	OutcomeRange       Outcome = "range"
	OutcomeInvalid     Outcome = "invalid"
	OutcomeDenied      Outcome = "denied"
	OutcomeRetained    Outcome = "retained"
	OutcomeUnavailable Outcome = "unavailable"
	OutcomeClosed      Outcome = "closed"
	OutcomeCancelled   Outcome = "cancelled" // the caller's context ended
	OutcomeOther       Outcome = "other"     // an error without a class: a bug of the driver
)

// Outcomes returns every Outcome.
func Outcomes() []Outcome {
	return []Outcome{
		OutcomeOK, OutcomeNotFound, OutcomeExists, OutcomeRange, OutcomeInvalid, OutcomeDenied, OutcomeRetained, OutcomeUnavailable, OutcomeClosed,
		OutcomeCancelled, OutcomeOther,
	}
}

// OutcomeOf returns the class of err. Where an error has two, the one that needs a person comes first.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeOK
	}
	for _, class := range []struct {
		sentinel error
		outcome  Outcome
	}{
		{objstore.ErrDenied, OutcomeDenied},
		{objstore.ErrInvalid, OutcomeInvalid},
		{objstore.ErrRetained, OutcomeRetained},
		{objstore.ErrUnavailable, OutcomeUnavailable},
		{objstore.ErrNotFound, OutcomeNotFound},
		{objstore.ErrExists, OutcomeExists},
		{objstore.ErrRange, OutcomeRange},
		{objstore.ErrClosed, OutcomeClosed},
		{context.Canceled, OutcomeCancelled},
		{context.DeadlineExceeded, OutcomeCancelled},
	} {
		if errors.Is(err, class.sentinel) {
			return class.outcome
		}
	}
	return OutcomeOther
}

// Observer learns of a call when it returns. It must be safe for concurrent use and must not block.
type Observer interface {
	// Observe reports one call. bytes counts the bodies moved: for a put those offered, whatever came of it, for a get
	// those returned, else 0. Retries inside a driver are part of the call.
	Observe(op Op, outcome Outcome, seconds float64, bytes int64)
}

// ErrorObserver is an Observer that also wants the errors of calls that failed in a way that is the bucket's fault, before
// Observe is called with their class.
type ErrorObserver interface {
	Failed(op Op, err error)
}

// ClassObserver is an Observer that also wants the storage class that each put asked for, "" for none.
type ClassObserver interface {
	PutIn(class string)
}

// Bucket reports the calls of another bucket.
type Bucket struct {
	inner    objstore.Bucket
	observer Observer
}

var _ objstore.Bucket = (*Bucket)(nil)

// New decorates inner; Close closes inner.
func New(inner objstore.Bucket, observer Observer) *Bucket {
	return &Bucket{inner: inner, observer: observer}
}

// Unwrap implements objstore.Unwrapper.
func (b *Bucket) Unwrap() objstore.Bucket { return b.inner }

func (b *Bucket) observe(op Op, start time.Time, err error, bytes int) {
	outcome := OutcomeOf(err)
	switch outcome {
	case OutcomeUnavailable, OutcomeDenied, OutcomeOther:
		if o, ok := b.observer.(ErrorObserver); ok {
			o.Failed(op, err)
		}
	}
	b.observer.Observe(op, outcome, time.Since(start).Seconds(), int64(bytes))
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	start := time.Now()
	err := b.inner.Put(ctx, key, body, opts)
	b.putIn(opts.StorageClass)
	b.observe(OpPut, start, err, len(body))
	return err
}

func (b *Bucket) putIn(class string) {
	if o, ok := b.observer.(ClassObserver); ok {
		o.PutIn(class)
	}
}

// PutFrom implements objstore.Bucket; it is a put like any other.
func (b *Bucket) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	start := time.Now()
	err := b.inner.PutFrom(ctx, key, body, size, opts)
	b.putIn(opts.StorageClass)
	b.observe(OpPut, start, err, int(size))
	return err
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	start := time.Now()
	body, err := b.inner.Get(ctx, key)
	b.observe(OpGet, start, err, len(body))
	return body, err
}

// GetRange implements objstore.Bucket.
func (b *Bucket) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	start := time.Now()
	body, err := b.inner.GetRange(ctx, key, position, size)
	b.observe(OpGetRange, start, err, len(body))
	return body, err
}

// Head implements objstore.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (objstore.Info, error) {
	start := time.Now()
	info, err := b.inner.Head(ctx, key)
	b.observe(OpHead, start, err, 0)
	return info, err
}

// List implements objstore.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	start := time.Now()
	infos, err := b.inner.List(ctx, prefix, after, limit)
	b.observe(OpList, start, err, 0)
	return infos, err
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	start := time.Now()
	err := b.inner.Delete(ctx, keys...)
	b.observe(OpDelete, start, err, 0)
	return err
}

// Close implements objstore.Bucket.
func (b *Bucket) Close() error { return b.inner.Close() }

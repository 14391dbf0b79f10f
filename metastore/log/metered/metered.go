package metered

import (
	"context"
	"errors"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

// Op is the method that was called.
type Op string

// One Op for each method of log.Log but Close.
const (
	OpIdentity   Op = "identity"
	OpRegister   Op = "register"
	OpUnregister Op = "unregister"
	OpMembers    Op = "members"
	OpCommit     Op = "commit"
	OpHead       Op = "head"
	OpRead       Op = "read"
	OpWatch      Op = "watch"
	OpTrim       Op = "trim"
	OpLoad       Op = "load"
	OpSwap       Op = "swap"
	OpStatus     Op = "status"
)

// Ops returns every Op, for observers that prepare their series.
func Ops() []Op {
	return []Op{
		OpIdentity, OpRegister, OpUnregister, OpMembers, OpCommit, OpHead, OpRead, OpWatch, OpTrim, OpLoad, OpSwap, OpStatus,
	}
}

// Outcome is the class of a call's error.
type Outcome string

// The outcomes: one for each sentinel of package log, and three more. A commit that was judged is ok, whatever the judgement.
const (
	OutcomeOK          Outcome = "ok"
	OutcomeFull        Outcome = "full"
	OutcomeUnavailable Outcome = "unavailable"
	OutcomeWatchLost   Outcome = "watch_lost"
	OutcomeConflict    Outcome = "conflict"
	OutcomeTrimmed     Outcome = "trimmed"
	OutcomeTooLarge    Outcome = "too_large"
	OutcomeRefused     Outcome = "refused"
	OutcomeClosed      Outcome = "closed"
	OutcomeCancelled   Outcome = "cancelled" // the caller's context ended
	OutcomeOther       Outcome = "other"     // an error of the caller's own, or one without a class
)

// OutcomeOf returns the class of err.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeOK
	}
	for _, class := range []struct {
		sentinel error
		outcome  Outcome
	}{
		{log.ErrRefused, OutcomeRefused},
		{log.ErrFull, OutcomeFull},
		{log.ErrWatchLost, OutcomeWatchLost},
		{log.ErrTrimmed, OutcomeTrimmed},
		{log.ErrConflict, OutcomeConflict},
		{log.ErrTooLarge, OutcomeTooLarge},
		{log.ErrClosed, OutcomeClosed},
		{log.ErrUnavailable, OutcomeUnavailable},
		{context.Canceled, OutcomeCancelled},
		{context.DeadlineExceeded, OutcomeUnavailable},
	} {
		if errors.Is(err, class.sentinel) {
			return class.outcome
		}
	}
	return OutcomeOther
}

// Observer learns of a call when it returns. It must be safe for concurrent use and must not block.
type Observer interface {
	// Observe reports one call. That of a watch is as long as the watch was.
	Observe(op Op, outcome Outcome, took time.Duration)
}

// Log reports the calls of another log.
type Log struct {
	inner    log.Log
	observer Observer
}

var _ log.Log = (*Log)(nil)

// New decorates inner; Close closes inner.
func New(inner log.Log, observer Observer) *Log { return &Log{inner: inner, observer: observer} }

// Unwrap is for log.FounderOf.
func (l *Log) Unwrap() log.Log { return l.inner }

func (l *Log) observe(op Op, start time.Time, err error) {
	l.observer.Observe(op, OutcomeOf(err), time.Since(start))
}

// Identity implements log.Log.
func (l *Log) Identity(ctx context.Context) (log.Identity, error) {
	start := time.Now()
	i, err := l.inner.Identity(ctx)
	l.observe(OpIdentity, start, err)
	return i, err
}

// Register implements log.Log.
func (l *Log) Register(ctx context.Context, incarnation log.Incarnation, info []byte, ttl time.Duration) (log.Registration, error) {
	start := time.Now()
	r, err := l.inner.Register(ctx, incarnation, info, ttl)
	l.observe(OpRegister, start, err)
	return r, err
}

// Unregister implements log.Log.
func (l *Log) Unregister(ctx context.Context, incarnation log.Incarnation) error {
	start := time.Now()
	err := l.inner.Unregister(ctx, incarnation)
	l.observe(OpUnregister, start, err)
	return err
}

// Members implements log.Log.
func (l *Log) Members(ctx context.Context) ([]log.Member, error) {
	start := time.Now()
	m, err := l.inner.Members(ctx)
	l.observe(OpMembers, start, err)
	return m, err
}

// Commit implements log.Log.
func (l *Log) Commit(ctx context.Context, identity log.Identity, key log.Key, value []byte) (log.Outcome, error) {
	start := time.Now()
	o, err := l.inner.Commit(ctx, identity, key, value)
	l.observe(OpCommit, start, err)
	return o, err
}

// Head implements log.Log.
func (l *Log) Head(ctx context.Context) (uint64, error) {
	start := time.Now()
	n, err := l.inner.Head(ctx)
	l.observe(OpHead, start, err)
	return n, err
}

// Read implements log.Log.
func (l *Log) Read(ctx context.Context, after uint64, lastSeq map[log.Incarnation]uint64, maxBytes int) ([]log.Entry, log.Cursor, bool, error) {
	start := time.Now()
	entries, cursor, more, err := l.inner.Read(ctx, after, lastSeq, maxBytes)
	l.observe(OpRead, start, err)
	return entries, cursor, more, err
}

// Watch implements log.Log.
func (l *Log) Watch(ctx context.Context, from log.Cursor, fn func([]log.Entry) error) error {
	start := time.Now()
	err := l.inner.Watch(ctx, from, fn)
	l.observe(OpWatch, start, err)
	return err
}

// Trim implements log.Log.
func (l *Log) Trim(ctx context.Context, keys []log.Key, upTo log.Cursor) error {
	start := time.Now()
	err := l.inner.Trim(ctx, keys, upTo)
	l.observe(OpTrim, start, err)
	return err
}

// Load implements log.Log.
func (l *Log) Load(ctx context.Context, name string) (log.Cell, error) {
	start := time.Now()
	c, err := l.inner.Load(ctx, name)
	l.observe(OpLoad, start, err)
	return c, err
}

// Swap implements log.Log.
func (l *Log) Swap(ctx context.Context, name string, version uint64, value []byte, owner log.Registration) (log.Cell, error) {
	start := time.Now()
	c, err := l.inner.Swap(ctx, name, version, value, owner)
	l.observe(OpSwap, start, err)
	return c, err
}

// Status implements log.Log.
func (l *Log) Status(ctx context.Context) (map[string]string, error) {
	start := time.Now()
	s, err := l.inner.Status(ctx)
	l.observe(OpStatus, start, err)
	return s, err
}

// Close implements log.Log.
func (l *Log) Close() error { return l.inner.Close() }

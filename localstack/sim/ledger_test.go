package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore"
)

// ledger keeps every segment that was ever in the bucket, and how far the log and its archive had come whenever one was deleted. It
// lies below the faults: what it has seen happened.
type ledger struct {
	objstore.Bucket
	log *memlog.Log

	mu      sync.Mutex // guards the rest
	bodies  map[string][]byte
	stored  map[string]time.Time // when, last
	deleted map[string]deletion
	missed  int // reads of what was deleted
}

// deletion is what stood in the log when an object went. A restore could have started from any state between.
type deletion struct {
	archived uint64 // n that the archive reached
	head     uint64 // n of the log
}

func newLedger(b objstore.Bucket, s *memlog.Store) *ledger {
	return &ledger{
		Bucket: b, log: s.Open("ledger"), bodies: map[string][]byte{}, stored: map[string]time.Time{}, deleted: map[string]deletion{},
	}
}

// Unwrap is for who looks for abilities of the bucket below.
func (l *ledger) Unwrap() objstore.Bucket { return l.Bucket }

func isSegment(key string) bool {
	return strings.HasPrefix(key, "data/") || strings.HasPrefix(key, "topics/")
}

func (l *ledger) keep(key string, body []byte) {
	if !isSegment(key) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies[key], l.stored[key] = bytes.Clone(body), time.Now()
	delete(l.deleted, key)
}

// Put implements objstore.Bucket.
func (l *ledger) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	err := l.Bucket.Put(ctx, key, body, opts)
	if err == nil {
		l.keep(key, body)
	}
	return err
}

// PutFrom implements objstore.Bucket.
func (l *ledger) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	b := make([]byte, size)
	if _, err := body.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return l.Put(ctx, key, b, opts)
}

// Get implements objstore.Bucket.
func (l *ledger) Get(ctx context.Context, key string) ([]byte, error) {
	l.look(key)
	return l.Bucket.Get(ctx, key)
}

// GetRange implements objstore.Bucket.
func (l *ledger) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	l.look(key)
	return l.Bucket.GetRange(ctx, key, position, size)
}

// look counts reads of what is gone.
func (l *ledger) look(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, gone := l.deleted[key]; gone {
		l.missed++
	}
}

// Delete implements objstore.Bucket.
func (l *ledger) Delete(ctx context.Context, keys ...string) error {
	d, err := l.now()
	if err != nil {
		return err
	}
	l.mu.Lock()
	for _, key := range keys {
		if _, twice := l.deleted[key]; isSegment(key) && !twice {
			l.deleted[key] = d
		}
	}
	l.mu.Unlock()
	return l.Bucket.Delete(ctx, keys...)
}

// now reads how far things have come. The ledger's way to the log has no faults.
func (l *ledger) now() (deletion, error) {
	head, err := l.log.Head(context.Background())
	if err != nil {
		return deletion{}, err
	}
	cell, err := l.log.Load(context.Background(), "archive")
	if err != nil {
		return deletion{}, err
	}
	d := deletion{head: head}
	if len(cell.Value) > 0 { // metastore/archive/EPOCH/FIRST-LAST-WRITER
		key := string(cell.Value)
		var first uint64
		if _, err := fmt.Sscanf(key[strings.LastIndexByte(key, '/')+1:], "%016x-%016x-", &first, &d.archived); err != nil {
			return deletion{}, fmt.Errorf("the archive's head %q: %w", key, err)
		}
	}
	return d, nil
}

// body is what was last stored under a key, whether or not it is still there.
func (l *ledger) body(key string) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.bodies[key]
	return b, ok
}

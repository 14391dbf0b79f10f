package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/objstore"
)

// Bucket is an objstore.Bucket in memory.
type Bucket struct {
	mu      sync.RWMutex // guards the fields below, held for lookups only, never while a body is copied
	closed  bool
	objects map[string]object
	keys    []string // Invariant: the keys of objects, ascending

	now        func() time.Time // time.Now, or a test's
	ownClock   bool             // now is of SetClock
	rules      []objstore.Rule
	versioning objstore.VersioningState
	locking    objstore.LockSettings
}

// object is immutable once it is in the map: a put replaces it, so readers may copy body without the lock.
type object struct {
	body    []byte
	modTime time.Time
	tags    []objstore.Tag // in the order of their keys
	lock    objstore.Lock
}

var _ objstore.Bucket = (*Bucket)(nil)

// New returns an empty bucket.
func New() *Bucket {
	return &Bucket{objects: make(map[string]object), now: time.Now}
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if err := objstore.ValidateKey(key); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if err := objstore.ValidatePut(int64(len(body)), opts); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	added := object{body: bytes.Clone(body), tags: sorted(opts.Tags)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("put %s: %w", key, objstore.ErrClosed)
	}
	added.modTime = b.now()
	var err error
	if added.lock, err = b.lockOfLocked(opts.Lock, added.modTime); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	there, taken := b.objects[key]
	switch {
	case taken && opts.IfAbsent:
		return fmt.Errorf("put %s: %w", key, objstore.ErrExists)
	case taken && there.retainedAt(added.modTime):
		return fmt.Errorf("put %s: %w until %v", key, objstore.ErrRetained, there.lock.Until)
	case !taken:
		i, _ := slices.BinarySearch(b.keys, key)
		b.keys = slices.Insert(b.keys, i, key)
	}
	b.objects[key] = added
	return nil
}

// PutFrom implements objstore.Bucket.
func (b *Bucket) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	if err := objstore.ValidatePut(size, opts); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	whole, err := io.ReadAll(objstore.NewBody(body, size))
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return b.Put(ctx, key, whole, opts)
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	found, err := b.lookup(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	body := make([]byte, len(found.body))
	copy(body, found.body)
	return body, nil
}

// GetRange implements objstore.Bucket.
func (b *Bucket) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	if err := objstore.ValidateRange(position, size); err != nil {
		return nil, fmt.Errorf("get range of %s: %w", key, err)
	}
	found, err := b.lookup(ctx, "get range of", key)
	if err != nil {
		return nil, err
	}
	if have := int64(len(found.body)); position+size > have {
		return nil, fmt.Errorf("get range of %s, %d bytes from %d of %d: %w", key, size, position, have, objstore.ErrRange)
	}
	return bytes.Clone(found.body[position : position+size]), nil
}

// Head implements objstore.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (objstore.Info, error) {
	found, err := b.lookup(ctx, "head", key)
	if err != nil {
		return objstore.Info{}, err
	}
	return found.info(key), nil
}

// List implements objstore.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	if err := objstore.ValidateList(prefix, after, limit); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return nil, fmt.Errorf("list %s: %w", prefix, objstore.ErrClosed)
	}
	start := sort.Search(len(b.keys), func(i int) bool { return b.keys[i] >= prefix && b.keys[i] > after })
	var infos []objstore.Info
	for _, key := range b.keys[start:] {
		if len(infos) == limit || !strings.HasPrefix(key, prefix) {
			break
		}
		infos = append(infos, b.objects[key].info(key))
	}
	return infos, nil
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := objstore.ValidateDelete(keys); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("delete: %w", objstore.ErrClosed)
	}
	now := b.now()
	var kept error
	for _, key := range keys {
		there, found := b.objects[key]
		if !found {
			continue
		}
		if there.retainedAt(now) {
			kept = fmt.Errorf("delete %s: %w until %v", key, objstore.ErrRetained, there.lock.Until)
			continue
		}
		i, _ := slices.BinarySearch(b.keys, key)
		b.keys = slices.Delete(b.keys, i, i+1)
		delete(b.objects, key)
	}
	return kept
}

// Close implements objstore.Bucket; it drops what the bucket held.
func (b *Bucket) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.objects, b.keys = nil, nil
	return nil
}

func (b *Bucket) lookup(ctx context.Context, step, key string) (object, error) {
	if err := ctx.Err(); err != nil {
		return object{}, fmt.Errorf("%s %s: %w", step, key, err)
	}
	if err := objstore.ValidateKey(key); err != nil {
		return object{}, fmt.Errorf("%s: %w", step, err)
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return object{}, fmt.Errorf("%s %s: %w", step, key, objstore.ErrClosed)
	}
	found, ok := b.objects[key]
	if !ok {
		return object{}, fmt.Errorf("%s %s: %w", step, key, objstore.ErrNotFound)
	}
	return found, nil
}

func (o object) info(key string) objstore.Info {
	return objstore.Info{Key: key, Size: int64(len(o.body)), ModTime: o.modTime}
}

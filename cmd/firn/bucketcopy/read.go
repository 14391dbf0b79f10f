package bucketcopy

import (
	"context"
	"io"
	"sync"

	"github.com/firnlog/firn/objstore"
)

// lister walks a bucket in the order of keys.
type lister struct {
	bucket objstore.Bucket
	page   []objstore.Info
	last   string // key of the newest object that was listed
	done   bool
}

func newLister(b objstore.Bucket) *lister { return &lister{bucket: b} }

// next returns the object after the last one; false where there is none.
func (l *lister) next(ctx context.Context) (objstore.Info, bool, error) {
	if err := l.fill(ctx); err != nil || len(l.page) == 0 {
		return objstore.Info{}, false, err
	}
	info := l.page[0]
	l.page = l.page[1:]
	return info, true, nil
}

// seek goes on to key and returns its object, nil where the bucket has none. Keys must rise.
func (l *lister) seek(ctx context.Context, key string) (*objstore.Info, error) {
	for {
		if err := l.fill(ctx); err != nil || len(l.page) == 0 {
			return nil, err
		}
		switch info := l.page[0]; {
		case info.Key == key:
			return &info, nil
		case info.Key > key:
			return nil, nil
		}
		l.page = l.page[1:]
	}
}

func (l *lister) fill(ctx context.Context) error {
	if len(l.page) > 0 || l.done {
		return nil
	}
	page, err := l.bucket.List(ctx, "", l.last, objstore.ListLimitMax)
	if err != nil {
		return err
	}
	if l.page, l.done = page, len(page) == 0; !l.done {
		l.last = page[len(page)-1].Key
	}
	return nil
}

// windowed reads an object through a window in memory. It belongs to one transfer, whose context it has.
type windowed struct {
	ctx    context.Context
	bucket objstore.Bucket
	key    string
	size   int64

	mu    sync.Mutex // guards the rest, over a read of the bucket: a driver reads from one goroutine at a time
	start int64
	held  []byte
}

// ReadAt implements io.ReaderAt.
func (w *windowed) ReadAt(p []byte, position int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	done := 0
	for done < len(p) {
		at := position + int64(done)
		if at >= w.size {
			return done, io.EOF
		}
		if at < w.start || at >= w.start+int64(len(w.held)) {
			held, err := w.bucket.GetRange(w.ctx, w.key, at, min(window, w.size-at))
			if err != nil {
				return done, err
			}
			w.start, w.held = at, held
		}
		done += copy(p[done:], w.held[at-w.start:])
	}
	return done, nil
}

package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/firnlog/firn/objstore"
)

// elementBytesMax is NAME_MAX of every file system in common use.
const elementBytesMax = 255

// copyBytes is a piece of a PutFrom.
const copyBytes = 256 << 10

// Bucket is an objstore.Bucket in a directory.
type Bucket struct {
	root string // absolute
	disk disk
	temp *tempDir
	dirs directories

	lastTemp atomic.Uint64 // number of the newest temp file; only rises

	mu     sync.Mutex // guards closed, and calls.Add against calls.Wait
	closed bool
	calls  sync.WaitGroup // calls under way; Close waits for them
}

var (
	_ objstore.Bucket = (*Bucket)(nil)
)

// Open makes a bucket of the directory root, creating it where it does not exist, and removes temp files that crashed
// processes left there. An error wraps objstore.ErrDenied or objstore.ErrUnavailable and names the directory.
func Open(root string) (*Bucket, error) {
	return open(root, osDisk{})
}

func open(root string, d disk) (*Bucket, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open file bucket %s: %w: %w", root, objstore.ErrInvalid, err)
	}
	if err := makeRoot(d, root); err != nil {
		return nil, fmt.Errorf("open file bucket: %w", classify(err))
	}
	if err := probeWritable(root); err != nil {
		return nil, fmt.Errorf("open file bucket: directory %s is not writable for uid %d: %w", root, os.Geteuid(), classify(err))
	}
	temp, err := openTempDir(filepath.Join(root, tempName))
	if err != nil {
		return nil, fmt.Errorf("open file bucket %s: %w", root, classify(err))
	}
	b := &Bucket{root: root, disk: d, temp: temp}
	b.dirs.init()
	return b, nil
}

// Put implements objstore.Bucket. In a directory that is known it makes nine system calls of its own: open, write, fsync,
// close; rename, or link and unlink; open, fsync, close. The two fsyncs are what it costs.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	return b.put(ctx, key, int64(len(body)), opts, func(f io.Writer) error {
		_, err := f.Write(body)
		return err
	})
}

// PutFrom implements objstore.Bucket. It is Put but for the write, which is many.
func (b *Bucket) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	lent := objstore.NewBody(body, size)
	return b.put(ctx, key, size, opts, func(f io.Writer) error { return copyBody(ctx, f, lent) })
}

// copyBody looks at the context between two pieces: a large body on a slow disk takes its time. Each piece is synced on its own: one sync of
// all of it would hold up every other sync of the file system meanwhile, those of flushes and of an etcd on the same disk.
func copyBody(ctx context.Context, f io.Writer, body io.Reader) error {
	piece := make([]byte, copyBytes)
	for {
		n, err := io.ReadFull(body, piece)
		if n > 0 {
			if _, err := f.Write(piece[:n]); err != nil {
				return err
			}
			if s, ok := f.(interface{ Sync() error }); ok {
				if err := s.Sync(); err != nil {
					return err
				}
			}
		}
		switch {
		case errors.Is(err, objstore.ErrInvalid):
			return err // the body's own
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil // all of it
		case err != nil:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// put stores what write writes.
func (b *Bucket) put(ctx context.Context, key string, size int64, opts objstore.PutOptions, write func(io.Writer) error) error {
	if err := b.enter(ctx, "put", key); err != nil {
		return err
	}
	defer b.calls.Done()
	if err := b.publish(ctx, key, size, opts, write); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

func (b *Bucket) publish(ctx context.Context, key string, size int64, opts objstore.PutOptions, write func(io.Writer) error) error {
	if err := objstore.ValidatePut(size, opts); err != nil {
		return err
	}
	if opts.Lock.Mode != objstore.LockNone {
		return fmt.Errorf("a file cannot be locked against its owner; use a store with object lock: %w", objstore.ErrInvalid)
	}
	dir := dirOf(key)
	if err := b.ensureDir(dir); err != nil {
		return err
	}
	temp := filepath.Join(b.temp.path, strconv.FormatUint(b.lastTemp.Add(1), 10))
	if err := b.writeTemp(ctx, temp, write); err != nil {
		_ = b.disk.remove(temp) // best effort: Open removes it otherwise
		return err
	}
	give := b.replace
	if opts.IfAbsent {
		give = b.create
	}
	err := give(temp, key)
	if err != nil && !errors.Is(err, objstore.ErrExists) {
		_ = b.disk.remove(temp)
		return err
	}
	// Also after ErrExists: that object may be our own, linked by an attempt that never got as far as this fsync, and
	// the caller will take the answer for a success.
	if syncErr := b.syncDir(dir); syncErr != nil {
		return syncErr
	}
	return err
}

// writeTemp leaves a complete, fsynced file at path, or an error.
func (b *Bucket) writeTemp(ctx context.Context, path string, write func(io.Writer) error) error {
	f, err := b.disk.create(path)
	if err != nil {
		return classify(err)
	}
	err = write(f)
	if err == nil {
		err = ctx.Err() // before the fsync, the expensive step
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = ctx.Err() // last chance to give up without an effect
	}
	return classify(err)
}

// replace gives the temp file its name, over what is there.
func (b *Bucket) replace(temp, key string) error {
	err := b.disk.rename(temp, b.path(key))
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("the key is a directory here: %w: %w", objstore.ErrInvalid, err)
	}
	return b.classifyPublish(err)
}

// create gives the temp file its name where that is free, and in any case takes its temp name away.
func (b *Bucket) create(temp, key string) error {
	err := b.disk.link(temp, b.path(key))
	_ = b.disk.remove(temp)
	if !errors.Is(err, fs.ErrExist) {
		return b.classifyPublish(err)
	}
	if info, statErr := os.Lstat(b.path(key)); statErr == nil && info.IsDir() {
		return fmt.Errorf("the key is a directory here: %w: %w", objstore.ErrInvalid, err)
	}
	return objstore.ErrExists
}

func (b *Bucket) classifyPublish(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		b.dirs.forget() // someone removed a directory behind our back; the caller's retry makes it again
	}
	return classify(err)
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	return b.read(ctx, "get", key, func(f *os.File, have int64) ([]byte, error) {
		body := make([]byte, have)
		_, err := io.ReadFull(f, body)
		return body, err
	})
}

// GetRange implements objstore.Bucket.
func (b *Bucket) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	if err := objstore.ValidateRange(position, size); err != nil {
		return nil, fmt.Errorf("get range of %s: %w", key, err)
	}
	return b.read(ctx, "get range of", key, func(f *os.File, have int64) ([]byte, error) {
		if position+size > have {
			return nil, fmt.Errorf("%d bytes from %d of %d: %w", size, position, have, objstore.ErrRange)
		}
		body := make([]byte, size)
		_, err := f.ReadAt(body, position)
		return body, err
	})
}

// Head implements objstore.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := b.enter(ctx, "head", key); err != nil {
		return objstore.Info{}, err
	}
	defer b.calls.Done()
	info, err := os.Lstat(b.path(key))
	if err == nil && !info.Mode().IsRegular() {
		err = objstore.ErrNotFound
	}
	if err != nil {
		return objstore.Info{}, fmt.Errorf("head %s: %w", key, classifyRead(err))
	}
	return objstore.Info{Key: key, Size: info.Size(), ModTime: info.ModTime()}, nil
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	if err := objstore.ValidateDelete(keys); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := b.enter(ctx, "delete", keys...); err != nil {
		return err
	}
	defer b.calls.Done()
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		err := classifyRead(b.disk.remove(b.path(key)))
		if err != nil && !errors.Is(err, objstore.ErrNotFound) {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
	return nil
}

// Close implements objstore.Bucket. It waits for the calls under way.
func (b *Bucket) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	b.mu.Unlock()
	b.calls.Wait()
	if !first {
		return nil
	}
	if err := b.temp.close(); err != nil {
		return fmt.Errorf("close file bucket %s: %w", b.root, err)
	}
	return nil
}

// enter checks what every call checks and registers the call; after nil the caller must end it with b.calls.Done.
func (b *Bucket) enter(ctx context.Context, step string, keys ...string) error {
	for _, key := range keys {
		if err := validateKey(key); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	subject := step
	if len(keys) > 0 {
		subject += " " + keys[0]
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("%s: %w", subject, objstore.ErrClosed)
	}
	b.calls.Add(1)
	return nil
}

// read opens the object and hands it, with its size, to take. A put never writes to a file that is visible, so what is
// open stays whole while others put and delete.
func (b *Bucket) read(
	ctx context.Context, step, key string, take func(f *os.File, have int64) ([]byte, error),
) ([]byte, error) {
	if err := b.enter(ctx, step, key); err != nil {
		return nil, err
	}
	defer b.calls.Done()
	body, err := b.readFile(key, take)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", step, key, classifyRead(err))
	}
	return body, nil
}

func (b *Bucket) readFile(key string, take func(f *os.File, have int64) ([]byte, error)) ([]byte, error) {
	f, err := os.Open(b.path(key))
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only: nothing to lose
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, objstore.ErrNotFound
	}
	return take(f, info.Size())
}

func (b *Bucket) path(key string) string { return b.root + "/" + key }

// dirOf returns the directory part of a key, "" for the root.
func dirOf(key string) string { return key[:max(0, strings.LastIndexByte(key, '/'))] }

func validateKey(key string) error {
	if err := objstore.ValidateKey(key); err != nil {
		return err
	}
	for i, element := range strings.Split(key, "/") {
		if len(element) > elementBytesMax {
			return fmt.Errorf("element %.80q… of the key is %d bytes long, a file name takes %d: %w",
				element, len(element), elementBytesMax, objstore.ErrInvalid)
		}
		if i == 0 && element == tempName {
			return fmt.Errorf("key %.80q starts with %s, which this driver keeps for itself: %w", key, tempName, objstore.ErrInvalid)
		}
	}
	return nil
}

// classify wraps a file system's error in the sentinel that says what to do next; nil and what has a class pass.
func classify(err error) error {
	switch {
	case err == nil, hasClass(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %w", objstore.ErrDenied, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return fmt.Errorf("%w: %w", objstore.ErrInvalid, err)
	}
	return fmt.Errorf("%w: %w", objstore.ErrUnavailable, err)
}

// classifyRead is classify where the name may well be absent, or be a directory.
func classifyRead(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR) {
		return objstore.ErrNotFound
	}
	return classify(err)
}

func hasClass(err error) bool {
	for _, class := range []error{
		objstore.ErrNotFound, objstore.ErrExists, objstore.ErrRange, objstore.ErrInvalid, objstore.ErrDenied, objstore.ErrUnavailable,
		objstore.ErrRetained,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

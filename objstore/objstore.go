package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// What a caller does next decides the class of an error. Drivers wrap one of these with the step, the key and the cause.
var (
	// ErrNotFound: no object has this key.
	ErrNotFound = errors.New("object not found")
	// ErrExists: a Put with IfAbsent met an object under its key. It may be the caller's own earlier attempt.
	ErrExists = errors.New("object exists")
	// ErrRange: the range asked for does not lie inside the object.
	ErrRange = errors.New("range outside the object")
	// ErrInvalid: the key, the argument or the option can never work; asking again changes nothing.
	ErrInvalid = errors.New("invalid argument")
	// ErrDenied: the store refuses these credentials, or has no such bucket; an operator has to act.
	ErrDenied = errors.New("access denied")
	// ErrUnsupported: the store has no such ability. It is an ErrInvalid too.
	ErrUnsupported = fmt.Errorf("not supported by this store: %w", ErrInvalid)
	// ErrStorageClass: the store does not know the storage class. It is an ErrInvalid too.
	ErrStorageClass = fmt.Errorf("storage class that the store does not know: %w", ErrInvalid)
	// ErrRetained: an object lock keeps the object, whoever asks; it can go once the lock has run out.
	ErrRetained = errors.New("object retained by a lock")
	// ErrUnavailable: throttled, timed out, unreachable or broken. The outcome of a Put or Delete is unknown; retrying is safe.
	ErrUnavailable = errors.New("object store unavailable")
	// ErrClosed: the call came after Close.
	ErrClosed = errors.New("bucket closed")
)

// Info describes one object.
type Info struct {
	Key     string
	Size    int64     // bytes
	ModTime time.Time // the store's clock at the last put; never used to decide anything
}

// PutOptions are the tunables of a Put; the zero value is an unconditional put.
type PutOptions struct {
	// IfAbsent asks the store to refuse (ErrExists) where the key is taken. A tripwire, not a lock: see the package doc.
	IfAbsent bool
	// Tags are set on the object, for the store's own rules. Drivers without tags (file) drop them.
	Tags []Tag
	// StorageClass is the store's name of a class, "" for its default. Drivers without classes (file, mem) drop it.
	StorageClass string
	// Lock keeps the object from being deleted or replaced. A driver or bucket that cannot keep it refuses with ErrInvalid.
	Lock Lock
}

// Tag is a label of an object. Keys are unique in one object.
type Tag struct{ Key, Value string }

// LockMode says who may lift a lock early.
type LockMode string

// The modes, in the store's words but for the zero value.
const (
	LockNone       LockMode = ""
	LockGovernance LockMode = "GOVERNANCE" // whoever has a special permission; firn never uses it
	LockCompliance LockMode = "COMPLIANCE" // nobody
)

// Lock is an object's retention: until then it cannot be deleted or replaced. The zero value is none.
type Lock struct {
	Mode  LockMode
	Until time.Time
}

// Bucket stores immutable objects. All methods are safe for concurrent use and return promptly when ctx ends.
//
// A key is 1 to 1024 bytes of [A-Za-z0-9._=/-], does not start or end with '/', and has no empty, "." or ".." element;
// anything else is ErrInvalid. A driver may refuse more keys than that, with ErrInvalid, and says so in its package doc.
type Bucket interface {
	// Put stores body under key, whole or not at all, durable on return. The driver does not keep body. Without IfAbsent
	// it replaces what is there, and a reader sees the old object or the new one.
	Put(ctx context.Context, key string, body []byte, opts PutOptions) error
	// PutFrom is Put of the size bytes that body starts with: the same one request, without holding them in memory. body is
	// read concurrently with nothing else, perhaps several times, and not after PutFrom has returned. Where it fails or ends
	// before size, nothing is stored and the error wraps ErrInvalid and body's own.
	PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts PutOptions) error
	// Get returns the whole object. The caller owns the slice.
	Get(ctx context.Context, key string) ([]byte, error)
	// GetRange returns exactly size bytes from position, or ErrRange where the object is shorter. size > 0, position >= 0.
	GetRange(ctx context.Context, key string, position, size int64) ([]byte, error)
	// Head returns the object's size and time.
	Head(ctx context.Context, key string) (Info, error)
	// List returns up to limit objects whose keys start with prefix and are greater than after, in byte order of keys.
	// An empty answer means there are no more; a short one does not. 0 < limit <= 1000. Neither prefix nor after has to
	// be a key: any string that a key could start with will do, and "" means all.
	List(ctx context.Context, prefix, after string, limit int) ([]Info, error)
	// Delete removes the keys; one that does not exist is not an error. Up to 1000 keys a call. After an error any of
	// the keys may be gone. ErrRetained: a lock keeps at least one of them. A bucket with versions hides what it deletes
	// and keeps it.
	Delete(ctx context.Context, keys ...string) error
	// Close frees connections; further calls fail with ErrClosed. Safe twice.
	Close() error
}

package log

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Incarnation is one start of one process: 128 random bits, never reused.
type Incarnation [16]byte

func (i Incarnation) String() string { return hex.EncodeToString(i[:]) }

// Key names an entry: the seq-th of an incarnation. Seq is contiguous from 1.
// Requires: seq s+1 is tried only once s is known to be in the log. Read relies on it.
type Key struct {
	Incarnation Incarnation
	Seq         uint64
}

func (k Key) String() string { return fmt.Sprintf("%s/%016x", k.Incarnation, k.Seq) }

// Entry is one value of the log with its place in it.
type Entry struct {
	N     uint64 // dense, from base+1
	Key   Key
	Value []byte // immutable
}

// Identity says which log this is. It changes only by disaster recovery; an agent that sees another one than it started
// with stops.
type Identity struct {
	ID      [16]byte // random, made at genesis
	Epoch   uint64   // log epoch: 1, bumped by recovery
	Base    uint64   // n of the last entry before this epoch
	Cluster string   // of the store below, for diagnosis
}

// Outcome is a definite answer to Commit.
type Outcome int

const (
	// Committed: this call put the entry.
	Committed Outcome = iota + 1
	// Exists: the entry key is there, put by an earlier attempt of the same proposer.
	Exists
	// Fenced: the registration is gone. The entry is not there now and never will be under this key... unless an earlier
	// attempt put it and it was trimmed since; whoever has applied up to the head knows.
	Fenced
	// WrongLog: the identity changed.
	WrongLog
)

var (
	// ErrUnavailable: no definite answer. After a Commit the outcome is unknown: retry the same key with the same bytes.
	ErrUnavailable = errors.New("metastore log unavailable")
	// ErrFull comes with ErrUnavailable: the store takes no writes until an operator makes room. Reads go on.
	ErrFull = errors.New("metastore store full")
	// ErrTooLarge: the value can never be stored.
	ErrTooLarge = errors.New("entry too large")
	// ErrTrimmed: entries asked for are no longer in the log; read them from the archive.
	ErrTrimmed = errors.New("entries trimmed")
	// ErrWatchLost: the watch ended or cannot go on (no leader, compacted, slow consumer); read and watch anew.
	ErrWatchLost = errors.New("watch lost")
	// ErrRefused: the store is one that firn does not run on (too old, another cluster's, no permission).
	ErrRefused = errors.New("metastore refused")
	// ErrDenied: refused for who we are: user, password, certificate or permission. It is an ErrRefused.
	ErrDenied = fmt.Errorf("%w: not allowed", ErrRefused)
	// ErrReplaced comes with ErrRefused: in the place of the log that was known there is another one, or an older state of it.
	// Nothing that it says may be applied, and it does not come right by itself.
	ErrReplaced = errors.New("another log in the place of the one known")
	// ErrConflict: a cell was changed by somebody else or its owner is gone; an incarnation was registered before.
	ErrConflict = errors.New("changed by somebody else")
	// ErrClosed: the log was closed by its owner.
	ErrClosed = errors.New("metastore log closed")
)

// MaxValueBytes bounds an entry (etcd's request limit is 1.5 MiB).
const MaxValueBytes = 1 << 20

// Registration is an agent's live claim to an incarnation.
type Registration interface {
	// Lost is closed once the registration is known to be gone; an outage of the store alone does not close it, for leases
	// may well outlive that. Nothing may rely on it still being held: etcd fences.
	Lost() <-chan struct{}
	// Close deletes the registration: from then on no commit of this incarnation can succeed. Safe twice. After an error it
	// is no longer kept alive, and may be closed again.
	Close(ctx context.Context) error
}

// Member is a registration as others see it.
type Member struct {
	Incarnation Incarnation
	Info        []byte
}

// Cell is a small named value changed by compare-and-swap: the snapshot pointer, a duty's holder.
type Cell struct {
	Value   []byte
	Version uint64 // 0: the cell does not exist
}

// Log orders entries. All methods are safe for concurrent use and honour ctx; any error but the ones documented wraps
// ErrUnavailable.
type Log interface {
	// Identity reads the identity, creating a new log where there is none.
	Identity(ctx context.Context) (Identity, error)
	// Register claims incarnation for as long as the owner keeps it alive; it lapses ttl after the owner stops. Once only:
	// after any error take a new incarnation, because an attempt that lands late would unfence the old one (ErrConflict).
	Register(ctx context.Context, incarnation Incarnation, info []byte, ttl time.Duration) (Registration, error)
	// Unregister deletes another's registration: after it returns nil, no commit of that incarnation can succeed.
	Unregister(ctx context.Context, incarnation Incarnation) error
	// Members lists live registrations (linearizable), in order of incarnation.
	Members(ctx context.Context) ([]Member, error)
	// Commit makes one attempt of the transaction in the package doc. value is not kept by the caller's side after return
	// except under the same key. An error that wraps ErrUnavailable means unknown.
	Commit(ctx context.Context, identity Identity, key Key, value []byte) (Outcome, error)
	// Head is the n of the last committed entry (linearizable): every entry committed before the call is <= head.
	Head(ctx context.Context) (uint64, error)
	// Read returns entries after `after` in order, dense, up to the head at one instant, and a cursor from which Watch
	// sees everything later. lastSeq is the last applied seq of each incarnation known at `after`; it lets the store
	// read per incarnation instead of the whole log. At most about maxBytes are returned (more reports whether entries
	// up to that head remain; then call again), at least one where there is any. lastSeq is a hint: with a wrong or missing
	// one Read is slower and may need history to prove its numbers. ErrTrimmed where an entry up to the head is gone or
	// unproven; ErrRefused where `after` is ahead of the head, which no honest log can bring about.
	Read(ctx context.Context, after uint64, lastSeq map[Incarnation]uint64, maxBytes int) (entries []Entry, cursor Cursor, more bool, err error)
	// Watch delivers every entry after the cursor, in order, to fn, from one goroutine, until ctx ends, fn returns an
	// error (returned as is), or the watch is lost (wraps ErrWatchLost). While the watch is healthy fn is called at least
	// every second, with nil entries where there are none (the store has delivered all that it had), so silence means
	// trouble. Stores may repeat or skip through their own bugs: the caller checks n. The zero Cursor is before everything.
	Watch(ctx context.Context, from Cursor, fn func(entries []Entry) error) error
	// Trim deletes those of these entries that lie at or before upTo, a cursor that Read gave (the caller knows that they are
	// archived and in a snapshot), and lets the store forget their history. At most 1000 a call. Deleting a key re-arms its
	// guard, so a late copy of its commit may come back under it, as another entry: a call that is repeated with the cursor
	// of the first one spares it. Calls go up in n: history is forgotten up to the newest entry trimmed.
	Trim(ctx context.Context, keys []Key, upTo Cursor) error
	// Load reads a cell; Swap replaces it where its version is still the one given (0: create) or returns ErrConflict.
	// A Swap with ErrUnavailable may have happened. With a non-nil owner the cell vanishes with that registration.
	Load(ctx context.Context, name string) (Cell, error)
	Swap(ctx context.Context, name string, version uint64, value []byte, owner Registration) (Cell, error)
	// Status is for people: endpoints, versions, sizes.
	Status(ctx context.Context) (map[string]string, error)
	// Close ends watches and connections; it does not touch registrations (they lapse). Safe twice.
	Close() error
}

// Cursor is a place in the store's history; meaningful only to the log that made it.
type Cursor struct{ Revision int64 }

package objstore

import (
	"context"
	"time"
)

// What follows are abilities that some buckets have beside Bucket. As finds them behind decorators.

// Unwrapper is a decorator that says what it decorates, so that abilities are found behind it.
type Unwrapper interface {
	Unwrap() Bucket
}

// As returns the outermost bucket, of b and what it decorates, that has the ability T. What a decorator does to calls of
// Bucket it does not do to those of an ability.
func As[T any](b Bucket) (T, bool) {
	for b != nil {
		if able, ok := b.(T); ok {
			return able, true
		}
		decorator, ok := b.(Unwrapper)
		if !ok {
			break
		}
		b = decorator.Unwrap()
	}
	var none T
	return none, false
}

// Expiry is a rule of the store's own by which objects of a bucket vanish without firn's doing.
type Expiry struct {
	Rule       string // its name in the store; "" where it has none
	Prefix     string // in the store's names; "" for all objects
	TaggedOnly bool   // only objects that carry certain tags
	What       string // what it does and when, such as "deletes after 7 days"
}

// ExpiryReader says which of the store's own rules take away objects of the bucket. An error is one of this package's; stores
// that know no such rules answer ErrInvalid, those that do not let us read them ErrDenied.
type ExpiryReader interface {
	Expiries(ctx context.Context) ([]Expiry, error)
}

// Warner says what an operator should know about a bucket that works, one line each.
type Warner interface {
	Warnings() []string
}

// RuleStore reads and replaces the lifecycle rules of the store's bucket, which is more than ours: others may have rules in it,
// and objects beside ours. A Rule that came from Rules and goes back to SetRules unchanged is written as the store had it.
type RuleStore interface {
	// Rules returns the rules in the store's order; none is an empty answer, not an error.
	Rules(ctx context.Context) ([]Rule, error)
	// SetRules replaces all rules. ErrInvalid: a rule that cannot be, or a changed rule with parts that firn does not know,
	// which writing it would lose; nothing is written then. The store has no condition for this write: whoever changes the
	// rules between a Rules and a SetRules is overwritten.
	SetRules(ctx context.Context, rules []Rule) error
	// KeyPrefix is what stands before every key of ours in the store's names, which the prefixes of rules are in.
	KeyPrefix() string
}

// VersioningState says whether the store's bucket keeps what is replaced and deleted.
type VersioningState string

// The states, in the store's words but for the zero value.
const (
	VersioningOff       VersioningState = ""
	VersioningEnabled   VersioningState = "Enabled"
	VersioningSuspended VersioningState = "Suspended" // what was kept is kept on
)

// Versioning reads and sets whether the store's bucket keeps versions. One that was on can be suspended, never off again.
type Versioning interface {
	VersioningState(ctx context.Context) (VersioningState, error)
	SetVersioning(ctx context.Context, state VersioningState) error
}

// LockSettings are the store's bucket's own about object lock. Default retention holds for objects put without a Lock.
type LockSettings struct {
	Enabled     bool
	Mode        LockMode // default retention; LockNone for none
	Days, Years int      // of it: one of them, where there is a mode
}

// LockConfig reads and sets object lock. Most stores can only have it enabled when a bucket is made, and never disabled.
type LockConfig interface {
	LockSettings(ctx context.Context) (LockSettings, error)
	SetLockSettings(ctx context.Context, settings LockSettings) error
	// ObjectLock is the retention of one object, the zero Lock for none.
	ObjectLock(ctx context.Context, key string) (Lock, error)
}

// Tagger reads and replaces the tags of an object. Tags come in the order of their keys.
type Tagger interface {
	Tags(ctx context.Context, key string) ([]Tag, error)
	SetTags(ctx context.Context, key string, tags []Tag) error
}

// Clock tells the store's time, to about a second: a clock that is no agent's, to hold agents' clocks against. ErrInvalid: it has
// none but the process's, as a directory.
type Clock interface {
	Now(ctx context.Context) (time.Time, error)
}

// Version is one version of an object in a bucket that keeps them, or a marker that it was deleted.
type Version struct {
	Info
	ID           string
	Latest       bool
	DeleteMarker bool
	StorageClass string // "" where the store does not say
}

// VersionStore reaches what a bucket with versioning hides.
type VersionStore interface {
	// ListVersions returns up to limit versions of keys that start with prefix, in byte order of keys, the newest of a key
	// first, after the version (afterKey, afterID); "" and "" for the start. An empty answer means there are no more.
	// 0 < limit <= 1000.
	ListVersions(ctx context.Context, prefix, afterKey, afterID string, limit int) ([]Version, error)
	// DeleteVersion removes one version for good; one that does not exist is not an error. ErrRetained: a lock keeps it.
	DeleteVersion(ctx context.Context, key, id string) error
}

// DeniedError is an ErrDenied that knows which permission is missing.
type DeniedError struct {
	Action   string // in the store's names, such as s3:GetLifecycleConfiguration
	Resource string // what it is needed on, such as arn:aws:s3:::snow
	Err      error
}

// Error says what to allow.
func (e *DeniedError) Error() string {
	return e.Err.Error() + " (allow " + e.Action + " on " + e.Resource + ")"
}

// Unwrap returns the refusal.
func (e *DeniedError) Unwrap() error { return e.Err }

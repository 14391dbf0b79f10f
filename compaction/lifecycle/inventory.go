package lifecycle

import (
	"time"
)

// Inventory is what the bucket says of itself.
type Inventory struct {
	Rules      []Rule
	Versioning Versioning
	Lock       BucketLock

	// What could not be read, nil for nothing: wraps objstore.ErrInvalid where the store knows no such thing, objstore.ErrDenied where
	// the credentials may not.
	RulesErr, VersioningErr, LockErr error

	// ClassErr says of storage classes why no object could be put in them. Those that the store takes, or was not asked about, are not in it.
	ClassErr map[string]error
	// MoveErr says of storage classes why no rule could be written that moves objects to them; the others are not in it.
	MoveErr map[string]error
}

// Versioning says whether the bucket keeps what is deleted.
type Versioning string

// The states of versioning.
const (
	VersioningOff       Versioning = ""
	VersioningEnabled   Versioning = "Enabled"
	VersioningSuspended Versioning = "Suspended" // what was kept is kept; nothing more
)

// BucketLock is the bucket's own object lock.
type BucketLock struct {
	Enabled bool
	// Mode and Days are those of objects that are put without a lock of their own; Days is 0 for none.
	Mode string
	Days int
}

func (l BucketLock) period() time.Duration { return time.Duration(l.Days) * 24 * time.Hour }

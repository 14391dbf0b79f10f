package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/objstore"
)

// Store is what a bucket can be asked about itself. Errors wrap those of objstore: ErrInvalid where the store knows no such thing,
// ErrDenied where the credentials may not.
type Store interface {
	Rules(ctx context.Context) ([]Rule, error)
	// SetRules replaces all of them.
	SetRules(ctx context.Context, rules []Rule) error
	Versioning(ctx context.Context) (Versioning, error)
	Lock(ctx context.Context) (BucketLock, error)
	Tags(ctx context.Context, key string) ([]Tag, error)
	// SetTags replaces all of an object's.
	SetTags(ctx context.Context, key string, tags []Tag) error
}

// Look asks the bucket for all that it says of itself. The error is one that asking again may mend; what is refused for good is in
// the inventory.
func Look(ctx context.Context, store Store) (*Inventory, error) {
	var inv Inventory
	var err error
	for _, ask := range []struct {
		what string
		do   func() error
		kept *error
	}{
		{"read the bucket's lifecycle rules", func() error { inv.Rules, err = store.Rules(ctx); return err }, &inv.RulesErr},
		{"read whether the bucket keeps versions", func() error { inv.Versioning, err = store.Versioning(ctx); return err }, &inv.VersioningErr},
		{"read whether the bucket locks objects", func() error { inv.Lock, err = store.Lock(ctx); return err }, &inv.LockErr},
	} {
		switch err := ask.do(); {
		case err == nil:
		case errors.Is(err, objstore.ErrInvalid), errors.Is(err, objstore.ErrDenied):
			*ask.kept = err
		default:
			return nil, fmt.Errorf("%s: %w", ask.what, err)
		}
	}
	return &inv, nil
}

// needs names the action that is missing where a store refuses a step.
func needs(step, action string, err error) error {
	switch {
	case errors.Is(err, objstore.ErrDenied):
		return fmt.Errorf("%s: these credentials lack %s: %w", step, action, err)
	case errors.Is(err, objstore.ErrInvalid):
		return fmt.Errorf("%s: the store does not take it: %w", step, err)
	}
	return fmt.Errorf("%s: %w", step, err)
}

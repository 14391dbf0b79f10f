package mem

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/objstore"
)

var (
	_ objstore.RuleStore  = (*Bucket)(nil)
	_ objstore.Versioning = (*Bucket)(nil)
	_ objstore.LockConfig = (*Bucket)(nil)
	_ objstore.Tagger     = (*Bucket)(nil)
	_ objstore.Clock      = (*Bucket)(nil)
)

// SetClock gives the bucket a clock: what it stamps objects with, and judges locks by. The default is the process's.
func (b *Bucket) SetClock(now func() time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now, b.ownClock = now, true
}

// Now implements objstore.Clock: it is the clock of SetClock. Without one the bucket has none that the process has not.
func (b *Bucket) Now(ctx context.Context) (now time.Time, err error) {
	err = b.with(ctx, "read the clock", func() error {
		if !b.ownClock {
			return fmt.Errorf("memory has no clock: %w", objstore.ErrInvalid)
		}
		now = b.now()
		return nil
	})
	return now, err
}

// KeyPrefix implements objstore.RuleStore.
func (b *Bucket) KeyPrefix() string { return "" }

// Rules implements objstore.RuleStore. They are kept and have no effect.
func (b *Bucket) Rules(ctx context.Context) (rules []objstore.Rule, err error) {
	err = b.with(ctx, "read the lifecycle rules", func() error {
		rules = cloneRules(b.rules)
		return nil
	})
	return rules, err
}

// SetRules implements objstore.RuleStore.
func (b *Bucket) SetRules(ctx context.Context, rules []objstore.Rule) error {
	return b.with(ctx, "set the lifecycle rules", func() error {
		if err := objstore.ValidateRules(rules); err != nil {
			return err
		}
		b.rules = cloneRules(rules)
		return nil
	})
}

func cloneRules(rules []objstore.Rule) []objstore.Rule {
	cloned := slices.Clone(rules)
	for i := range cloned {
		r := &cloned[i]
		r.Filter.Tags, r.Transitions = slices.Clone(r.Filter.Tags), slices.Clone(r.Transitions)
		r.NoncurrentTransitions = slices.Clone(r.NoncurrentTransitions)
		r.Unknown, r.Raw = slices.Clone(r.Unknown), slices.Clone(r.Raw)
	}
	return cloned
}

// VersioningState implements objstore.Versioning.
func (b *Bucket) VersioningState(ctx context.Context) (state objstore.VersioningState, err error) {
	err = b.with(ctx, "read the state of versioning", func() error {
		state = b.versioning
		return nil
	})
	return state, err
}

// SetVersioning implements objstore.Versioning. The state is kept and told; no version is.
func (b *Bucket) SetVersioning(ctx context.Context, state objstore.VersioningState) error {
	return b.with(ctx, "set the state of versioning", func() error {
		if err := objstore.ValidateVersioning(state); err != nil {
			return err
		}
		b.versioning = state
		return nil
	})
}

// LockSettings implements objstore.LockConfig.
func (b *Bucket) LockSettings(ctx context.Context) (settings objstore.LockSettings, err error) {
	err = b.with(ctx, "read the lock settings", func() error {
		settings = b.locking
		return nil
	})
	return settings, err
}

// SetLockSettings implements objstore.LockConfig. There are no versions here: what a lock keeps can be neither replaced nor
// deleted until the bucket's clock is past it.
func (b *Bucket) SetLockSettings(ctx context.Context, settings objstore.LockSettings) error {
	return b.with(ctx, "set the lock settings", func() error {
		if err := objstore.ValidateLockSettings(settings); err != nil {
			return err
		}
		if b.locking.Enabled && !settings.Enabled {
			return fmt.Errorf("object lock stays enabled for good: %w", objstore.ErrInvalid)
		}
		b.locking = settings
		return nil
	})
}

// ObjectLock implements objstore.LockConfig.
func (b *Bucket) ObjectLock(ctx context.Context, key string) (objstore.Lock, error) {
	found, err := b.lookup(ctx, "read the lock of", key)
	return found.lock, err
}

// Tags implements objstore.Tagger.
func (b *Bucket) Tags(ctx context.Context, key string) ([]objstore.Tag, error) {
	found, err := b.lookup(ctx, "read the tags of", key)
	return slices.Clone(found.tags), err
}

// SetTags implements objstore.Tagger.
func (b *Bucket) SetTags(ctx context.Context, key string, tags []objstore.Tag) error {
	if err := objstore.ValidateKey(key); err != nil {
		return fmt.Errorf("set the tags: %w", err)
	}
	return b.with(ctx, "set the tags of "+key, func() error {
		if err := objstore.ValidateTags(tags); err != nil {
			return err
		}
		there, ok := b.objects[key]
		if !ok {
			return objstore.ErrNotFound
		}
		there.tags = sorted(tags)
		b.objects[key] = there
		return nil
	})
}

// with runs do on an open bucket, under its mutex.
func (b *Bucket) with(ctx context.Context, step string, do func() error) error {
	err := ctx.Err()
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.closed {
			err = objstore.ErrClosed
		} else {
			err = do()
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	return nil
}

// lockOfLocked is the retention of an object that is put now: its own, or the bucket's default.
func (b *Bucket) lockOfLocked(own objstore.Lock, now time.Time) (objstore.Lock, error) {
	switch {
	case own.Mode != objstore.LockNone && !b.locking.Enabled:
		return objstore.Lock{}, fmt.Errorf("object lock is not enabled in this bucket: %w", objstore.ErrInvalid)
	case own.Mode != objstore.LockNone && !own.Until.After(now):
		return objstore.Lock{}, fmt.Errorf("a lock until %v, which is past: %w", own.Until, objstore.ErrInvalid)
	case own.Mode == objstore.LockNone && b.locking.Mode != objstore.LockNone:
		return objstore.Lock{Mode: b.locking.Mode, Until: now.AddDate(b.locking.Years, 0, b.locking.Days)}, nil
	}
	return own, nil
}

func (o object) retainedAt(now time.Time) bool { return o.lock.Until.After(now) }

func sorted(tags []objstore.Tag) []objstore.Tag {
	return slices.SortedFunc(slices.Values(tags), func(a, b objstore.Tag) int { return strings.Compare(a.Key, b.Key) })
}

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
	// KeyPrefix stands before every key in the names that rules are in; "" or ends in '/'.
	KeyPrefix() string
	Rules(ctx context.Context) ([]Rule, error)
	// SetRules replaces all of them.
	SetRules(ctx context.Context, rules []Rule) error
	Versioning(ctx context.Context) (Versioning, error)
	Lock(ctx context.Context) (BucketLock, error)
	Tags(ctx context.Context, key string) ([]Tag, error)
	// SetTags replaces all of an object's.
	SetTags(ctx context.Context, key string, tags []Tag) error
}

// NewStore finds what a bucket can be asked behind its decorators. A store without rules, locks or tags answers objstore.ErrInvalid;
// one without versions has none.
func NewStore(bucket objstore.Bucket) Store {
	var s store
	s.rules, _ = objstore.As[objstore.RuleStore](bucket)
	s.versions, _ = objstore.As[objstore.Versioning](bucket)
	s.locks, _ = objstore.As[objstore.LockConfig](bucket)
	s.tagger, _ = objstore.As[objstore.Tagger](bucket)
	return s
}

// store is the Store of a bucket; what it cannot is nil.
type store struct {
	rules    objstore.RuleStore
	versions objstore.Versioning
	locks    objstore.LockConfig
	tagger   objstore.Tagger
}

func lacks(what string) error {
	return fmt.Errorf("this kind of bucket has no %s: %w", what, objstore.ErrInvalid)
}

func (s store) KeyPrefix() string {
	if s.rules == nil {
		return ""
	}
	return s.rules.KeyPrefix()
}

func (s store) Rules(ctx context.Context) ([]Rule, error) {
	if s.rules == nil {
		return nil, lacks("lifecycle rules")
	}
	found, err := s.rules.Rules(ctx)
	rules := make([]Rule, len(found))
	for i := range found {
		rules[i] = ruleOf(&found[i])
	}
	return rules, err
}

// ruleOf keeps the rule as it came, too.
func ruleOf(r *objstore.Rule) Rule {
	rule := Rule{
		ID: r.ID, Enabled: r.Enabled, Prefix: r.Filter.Prefix, Tags: tagsOf(r.Filter.Tags), SizeAbove: r.Filter.SizeAbove, SizeBelow: r.Filter.SizeBelow,
		ExpireDays: r.Expiration.Days, ExpireDate: r.Expiration.Date, ExpireMarkers: r.Expiration.DeleteMarkers,
		NoncurrentDays: r.NoncurrentExpiration.Days, NoncurrentKeep: r.NoncurrentExpiration.Keep, AbortDays: r.AbortUploadsDays,
		Unknown: r.Unknown, raw: r,
	}
	for _, m := range r.Transitions {
		rule.Moves = append(rule.Moves, Move(m))
	}
	return rule
}

func (s store) SetRules(ctx context.Context, rules []Rule) error {
	if s.rules == nil {
		return lacks("lifecycle rules")
	}
	list := make([]objstore.Rule, len(rules))
	for i := range rules {
		r := &rules[i]
		if r.raw != nil { // nothing that came from the store is changed
			list[i] = *r.raw
			continue
		}
		list[i] = objstore.Rule{
			ID: r.ID, Enabled: r.Enabled,
			Filter:               objstore.Filter{Prefix: r.Prefix, Tags: storeTags(r.Tags), SizeAbove: r.SizeAbove, SizeBelow: r.SizeBelow},
			Expiration:           objstore.Expiration{Days: r.ExpireDays, Date: r.ExpireDate, DeleteMarkers: r.ExpireMarkers},
			NoncurrentExpiration: objstore.NoncurrentExpiration{Days: r.NoncurrentDays, Keep: r.NoncurrentKeep},
			AbortUploadsDays:     r.AbortDays,
		}
		for _, m := range r.Moves {
			list[i].Transitions = append(list[i].Transitions, objstore.Transition(m))
		}
	}
	return s.rules.SetRules(ctx, list)
}

func (s store) Versioning(ctx context.Context) (Versioning, error) {
	if s.versions == nil {
		return VersioningOff, nil
	}
	v, err := s.versions.VersioningState(ctx)
	return Versioning(v), err
}

func (s store) Lock(ctx context.Context) (BucketLock, error) {
	if s.locks == nil {
		return BucketLock{}, nil
	}
	l, err := s.locks.LockSettings(ctx)
	return BucketLock{Enabled: l.Enabled, Mode: string(l.Mode), Days: l.Days + 365*l.Years}, err
}

func (s store) Tags(ctx context.Context, key string) ([]Tag, error) {
	if s.tagger == nil {
		return nil, lacks("tags")
	}
	tags, err := s.tagger.Tags(ctx, key)
	return tagsOf(tags), err
}

func (s store) SetTags(ctx context.Context, key string, tags []Tag) error {
	if s.tagger == nil {
		return lacks("tags")
	}
	return s.tagger.SetTags(ctx, key, storeTags(tags))
}

func tagsOf(tags []objstore.Tag) (list []Tag) {
	for _, t := range tags {
		list = append(list, Tag(t))
	}
	return list
}

func storeTags(tags []Tag) (list []objstore.Tag) {
	for _, t := range tags {
		list = append(list, objstore.Tag(t))
	}
	return list
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
	switch denied := (*objstore.DeniedError)(nil); {
	case errors.As(err, &denied): // says so itself
	case errors.Is(err, objstore.ErrDenied):
		return fmt.Errorf("%s: these credentials lack %s: %w", step, action, err)
	case errors.Is(err, objstore.ErrInvalid):
		return fmt.Errorf("%s: the store does not take it: %w", step, err)
	}
	return fmt.Errorf("%s: %w", step, err)
}

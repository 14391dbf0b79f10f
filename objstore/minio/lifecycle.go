package minio

import (
	"context"
	"fmt"

	"github.com/minio/minio-go/v7/pkg/lifecycle"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

// noRules is how a store says that it has no lifecycle rules at all.
const noRules = "NoSuchLifecycleConfiguration"

// Expiries implements objstore.ExpiryReader.
func (b *Bucket) Expiries(ctx context.Context) ([]objstore.Expiry, error) {
	if err := b.gate.Check(ctx, "read the lifecycle rules"); err != nil {
		return nil, err
	}
	var rules []s3compat.Rule
	err := b.attempt(ctx, func(ctx context.Context, a *answer) error {
		found, err := b.client.GetBucketLifecycle(ctx, b.options.Bucket)
		if err != nil {
			if a.said() == noRules {
				return nil
			}
			return err
		}
		for _, r := range found.Rules {
			rules = append(rules, rule(r))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the lifecycle rules: %w", err)
	}
	return s3compat.Expiries(rules, b.gate.Prefix), nil
}

// said is the store's code in an answer that was no success, "" for none.
func (a *answer) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.code
}

func rule(r lifecycle.Rule) s3compat.Rule {
	f := r.RuleFilter
	rule := s3compat.Rule{
		ID: r.ID, Enabled: r.Status == "Enabled", ExpireDays: int(r.Expiration.Days), ExpireDate: r.Expiration.Date.Time,
		Tagged: f.Tag.Key != "" || len(f.And.Tags) > 0,
	}
	for _, prefix := range []string{f.Prefix, f.And.Prefix, r.Prefix} { // at most one of them is given
		if prefix != "" {
			rule.Prefix = prefix
		}
	}
	if r.Transition.StorageClass != "" {
		rule.Moves = append(rule.Moves, s3compat.Move{Class: r.Transition.StorageClass, Days: int(r.Transition.Days)})
	}
	return rule
}

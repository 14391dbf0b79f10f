package s3

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

// noRules is how a store says that it has no lifecycle rules at all.
const noRules = "NoSuchLifecycleConfiguration"

// Warnings implements objstore.Warner.
func (b *Bucket) Warnings() []string { return b.options.Warnings() }

// Expiries implements objstore.ExpiryReader.
func (b *Bucket) Expiries(ctx context.Context) ([]objstore.Expiry, error) {
	if err := b.gate.Check(ctx, "read the lifecycle rules"); err != nil {
		return nil, err
	}
	out, err := b.client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &b.options.Bucket})
	if err != nil {
		if api := (smithy.APIError)(nil); errors.As(err, &api) && api.ErrorCode() == noRules {
			return nil, nil
		}
		return nil, fmt.Errorf("read the lifecycle rules: %w", classify(ctx, err))
	}
	rules := make([]s3compat.Rule, len(out.Rules))
	for i, r := range out.Rules {
		rules[i] = rule(r)
	}
	return s3compat.Expiries(rules, b.gate.Prefix), nil
}

func rule(r types.LifecycleRule) s3compat.Rule {
	rule := s3compat.Rule{ID: aws.ToString(r.ID), Enabled: r.Status == types.ExpirationStatusEnabled}
	if f := r.Filter; f != nil {
		rule.Prefix, rule.Tagged = aws.ToString(f.Prefix), f.Tag != nil
		if f.And != nil {
			rule.Prefix, rule.Tagged = aws.ToString(f.And.Prefix), len(f.And.Tags) > 0
		}
	} else {
		//nolint:staticcheck // SA1019: rules from before there were filters have their prefix here
		rule.Prefix = aws.ToString(r.Prefix)
	}
	if e := r.Expiration; e != nil {
		rule.ExpireDays, rule.ExpireDate = int(aws.ToInt32(e.Days)), aws.ToTime(e.Date)
	}
	for _, t := range r.Transitions {
		rule.Moves = append(rule.Moves, s3compat.Move{Class: string(t.StorageClass), Days: int(aws.ToInt32(t.Days))})
	}
	return rule
}

package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
)

// bucketCommand is what show, check and apply share: a bucket, and the cluster whose data lies in it.
type bucketCommand struct {
	*admin
	serving serving // an agent's settings, so that it takes an agent's configuration file
}

func bucketFlags(cmd *cobra.Command, e env) *bucketCommand {
	b := &bucketCommand{}
	b.serving.set = b.serving.declare()
	b.serving.set.Flags(cmd.Flags(), groupBucket)
	b.admin = adminFlags(cmd, e)
	return b
}

// bucketFacts is a bucket beside the topics of its cluster.
type bucketFacts struct {
	url     string // without secrets
	bucket  objstore.Bucket
	store   lifecycle.Store
	site    lifecycle.Site
	inv     *lifecycle.Inventory
	topics  []lifecycle.Topic
	ledger  *lifecycle.Ledger // nil: there is none
	keeps   int64             // ms, of topics that do not say themselves
	keepSet bool              // somebody set it
}

// with gathers the facts and has do act on them.
func (b *bucketCommand) with(ctx context.Context, do func(ctx context.Context, adm *kadm.Client, f *bucketFacts) error) error {
	s := &b.serving
	problems := resolve(s.set, b.env)
	if !s.set.Given("bucket") {
		problems = append(problems, s.set.Missing("bucket", "it is what this command is about")...)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %w", client.ErrUsage, errors.Join(problems...))
	}
	return b.do(ctx, func(ctx context.Context, adm *kadm.Client) error {
		bucket, err := s.openBucket(ctx, s.bucket)
		if err != nil {
			return err
		}
		defer func() { _ = bucket.Close() }()
		f := &bucketFacts{url: open.Redacted(s.bucket), bucket: bucket, store: lifecycle.NewStore(bucket)}
		if err := f.gather(ctx, adm); err != nil {
			return err
		}
		return do(ctx, adm, f)
	})
}

func (f *bucketFacts) gather(ctx context.Context, adm *kadm.Client) error {
	meta, err := adm.BrokerMetadata(ctx)
	if err != nil {
		return fmt.Errorf("ask for the cluster's id: %w", err)
	}
	f.site = lifecycle.Site{Cluster: meta.Cluster, Prefix: f.store.KeyPrefix()}
	if err := f.belongs(ctx); err != nil {
		return err
	}
	if f.inv, err = lifecycle.Look(ctx, f.store); err != nil {
		return err
	}
	switch f.ledger, err = lifecycle.ReadLedger(ctx, f.bucket); {
	case errors.Is(err, objstore.ErrNotFound), errors.Is(err, lifecycle.ErrLedger):
		f.ledger = nil
	case err != nil:
		return err
	}
	if f.topics, err = bucketTopics(ctx, adm); err != nil {
		return err
	}
	if f.ledger != nil {
		f.ledger.Observe(f.topics) // in memory: agents keep it
	}
	return f.defaultRetention(ctx, adm)
}

// belongs holds the bucket's marker against the cluster: rules for one must not be written into another's bucket.
func (f *bucketFacts) belongs(ctx context.Context) error {
	body, err := f.bucket.Get(ctx, metastore.MarkerKey)
	if errors.Is(err, objstore.ErrNotFound) {
		return fmt.Errorf("%s holds no firn cluster: there is no %s", f.url, metastore.MarkerKey)
	}
	if err != nil {
		return fmt.Errorf("read whose bucket %s is: %w", f.url, err)
	}
	var marker struct {
		LogID string `json:"log_id"`
	}
	if err := json.Unmarshal(body, &marker); err != nil {
		return fmt.Errorf("read whose bucket %s is: %s: %w", f.url, metastore.MarkerKey, err)
	}
	id, err := hex.DecodeString(marker.LogID)
	if owner := base64.RawURLEncoding.EncodeToString(id); err != nil || owner != f.site.Cluster {
		return fmt.Errorf("%s is the bucket of cluster %s, and these brokers are of %s: name the right ones", f.url, owner, f.site.Cluster)
	}
	return nil
}

// bucketTopics are the cluster's topics with what is in force for them.
func bucketTopics(ctx context.Context, adm *kadm.Client) ([]lifecycle.Topic, error) {
	details, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	names := details.Names()
	if len(names) == 0 {
		return nil, nil
	}
	configs, err := adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe the settings of topics: %w", err)
	}
	sizes := partitionSizes(ctx, adm, details, names)
	topics := make([]lifecycle.Topic, 0, len(names))
	for _, c := range configs {
		if c.Err != nil {
			return nil, client.TopicError("describe the settings of", c.Name, c.Err, c.ErrMessage)
		}
		values := make(map[string]string, len(c.Configs))
		for _, v := range c.Configs {
			values[v.Key] = v.MaybeValue()
		}
		if _, firn := values["firn.bucket.lifecycle"]; !firn {
			return nil, fmt.Errorf("topic %s has no firn.bucket.lifecycle: these are not the brokers of a firn cluster, or of an older one", c.Name)
		}
		t := lifecycle.Topic{ID: [16]byte(details[c.Name].ID), Name: c.Name}
		t.Settings = topicconfig.Parse(func(name string) (string, bool) { v, ok := values[name]; return v, ok }, topicconfig.Unset)
		for _, size := range sizes[c.Name] {
			t.Bytes += size
		}
		topics = append(topics, t)
	}
	return topics, nil
}

// defaultRetention is what topics without a retention of their own have.
func (f *bucketFacts) defaultRetention(ctx context.Context, adm *kadm.Client) error {
	views, err := describeConfigs(ctx, adm, resource{kind: "cluster"})
	if err != nil {
		return err
	}
	set := make(map[string]string)
	for _, v := range views {
		if v.Source == kmsg.ConfigSourceDynamicDefaultBrokerConfig.String() && v.Value != nil {
			set[v.Key] = *v.Value
		}
	}
	spec, _ := topicconfig.Lookup("retention.ms")
	value, source := spec.Resolve(topicconfig.Unset, func(name string) (string, bool) { v, ok := set[name]; return v, ok })
	f.keepSet = source == topicconfig.FromCluster
	f.keeps, err = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	return err
}

// retentionText words a retention in ms.
func retentionText(ms int64) string {
	const hour = int64(time.Hour / time.Millisecond)
	switch {
	case ms < 0:
		return "for ever"
	case ms > 0 && ms%topicconfig.MSPerDay == 0:
		return fmt.Sprintf("%d d", ms/topicconfig.MSPerDay)
	case ms > 0 && ms%hour == 0:
		return fmt.Sprintf("%d h", ms/hour)
	}
	return (time.Duration(ms) * time.Millisecond).String()
}

// parseRetention reads a retention: a number of days as 7d, a duration such as 36h, or forever.
func parseRetention(s string) (ms int64, err error) {
	bad := fmt.Errorf("%w: --default-retention: %q is not a retention: write 7d, 36h or forever", client.ErrUsage, s)
	if s == "forever" || s == "-1" {
		return -1, nil
	}
	if count, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(count, 10, 32)
		if err != nil || n <= 0 {
			return 0, bad
		}
		return n * topicconfig.MSPerDay, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Minute {
		return 0, bad
	}
	return d.Milliseconds(), nil
}

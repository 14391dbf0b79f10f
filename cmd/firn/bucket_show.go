package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
)

// bucketView is what bucket show prints.
type bucketView struct {
	Bucket           string              `json:"bucket"`
	Cluster          string              `json:"cluster_id"`
	Versioning       string              `json:"versioning"`  // "off", "Enabled", "Suspended" or why that is not known
	ObjectLock       string              `json:"object_lock"` // in words
	DefaultRetention int64               `json:"default_retention_ms"`
	DefaultIsSet     bool                `json:"default_retention_set"` // by somebody, in log.retention.ms or its kin
	Rules            []lifecycle.Rule    `json:"rules"`                 // of this cluster's
	Foreign          []lifecycle.Rule    `json:"foreign_rules"`
	RulesError       string              `json:"rules_error,omitempty"`
	Classes          []bucketClass       `json:"classes"`
	Follows          []bucketFollows     `json:"follows,omitempty"` // authoritative topics
	Held             []lifecycle.Hold    `json:"held,omitempty"`    // classes that have no rule until tags are put right
	Findings         []lifecycle.Finding `json:"findings"`
}

// bucketClass is how some topics' merged objects lie in the bucket.
type bucketClass struct {
	Lifecycle    string   `json:"lifecycle"`       // off, mirror or authoritative
	Class        string   `json:"class,omitempty"` // of mirrored topics
	Why          string   `json:"why,omitempty"`   // why no rule deletes them
	StorageClass string   `json:"storage_class,omitempty"`
	Lock         string   `json:"lock,omitempty"`
	Topics       []string `json:"topics"`
	Bytes        int64    `json:"bytes"` // of records
}

// bucketFollows is a topic whose retention is the bucket's to say.
type bucketFollows struct {
	Topic  string        `json:"topic"`
	Tag    lifecycle.Tag `json:"tag"`    // of its objects, for rules
	Prefix string        `json:"prefix"` // where they lie, for rules
	Rule   string        `json:"rule"`   // that counts; "" for none
	Days   int           `json:"days"`   // 0: kept for ever
}

func newBucketShow(e env) *cobra.Command {
	var b *bucketCommand
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show a bucket's rules, versions and lock, and what topics ask of it",
		Long: `Show what the bucket does by itself, versions, object lock and lifecycle rules (firn's own and others'), beside the cluster's
topics: their retention classes and how much lies in each, and the retention of topics that name none. Findings are those of
firn bucket check.`,
		Example: "  firn bucket show --bucket 's3://my-bucket/firn?region=eu-central-1' --brokers firn.example.net:9092",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return b.with(cmd.Context(), func(_ context.Context, _ *kadm.Client, f *bucketFacts) error {
				v := f.view()
				if b.output == "json" {
					return writeJSON(e.Stdout, v)
				}
				return printBucket(e.Stdout, v)
			})
		},
	}
	b = bucketFlags(cmd, e)
	return cmd
}

func (f *bucketFacts) view() *bucketView {
	v := &bucketView{
		Bucket: f.url, Cluster: f.site.Cluster, Versioning: "off", ObjectLock: "off", DefaultRetention: f.keeps, DefaultIsSet: f.keepSet,
		Rules: []lifecycle.Rule{}, Foreign: []lifecycle.Rule{}, Classes: f.classes(),
		Findings: lifecycle.Check(f.site, f.inv, f.topics, f.ledger),
	}
	if v.Findings == nil {
		v.Findings = []lifecycle.Finding{}
	}
	if err := f.inv.VersioningErr; err != nil {
		v.Versioning = unknownText(err)
	} else if f.inv.Versioning != lifecycle.VersioningOff {
		v.Versioning = strings.ToLower(string(f.inv.Versioning))
	}
	switch l := f.inv.Lock; {
	case f.inv.LockErr != nil:
		v.ObjectLock = unknownText(f.inv.LockErr)
	case l.Enabled && l.Days > 0:
		v.ObjectLock = fmt.Sprintf("on, by default %d days (%s)", l.Days, strings.ToLower(l.Mode))
	case l.Enabled:
		v.ObjectLock = "on, none by default"
	}
	if f.inv.RulesErr != nil {
		v.RulesError = unknownText(f.inv.RulesErr)
	}
	for _, r := range f.inv.Rules {
		if f.site.Ours(&r) {
			v.Rules = append(v.Rules, r)
		} else {
			v.Foreign = append(v.Foreign, r)
		}
	}
	v.Held = f.held()
	for i := range f.topics {
		if t := &f.topics[i]; t.Settings.BucketLifecycle == topicconfig.LifecycleAuthoritative {
			days, rule := lifecycle.Follow(f.site, f.inv.Rules, t)
			v.Follows = append(v.Follows, bucketFollows{t.Name, t.Label(), f.site.TopicPrefix(t), rule, days})
		}
	}
	return v
}

// held are the classes that may have no rule now.
func (f *bucketFacts) held() []lifecycle.Hold {
	if f.ledger == nil {
		return lifecycle.NewLedger(0).Held(f.topics, 0)
	}
	return f.ledger.Held(f.topics, max(f.ledger.RunMS, nowMS()))
}

func unknownText(err error) string {
	if errors.Is(err, objstore.ErrInvalid) {
		return "none: " + err.Error()
	}
	return "not known: " + err.Error()
}

// classes groups topics that lie alike.
func (f *bucketFacts) classes() []bucketClass {
	list := []bucketClass{}
	for i := range f.topics {
		t := &f.topics[i]
		s := &t.Settings
		c := bucketClass{Lifecycle: s.BucketLifecycle.String(), StorageClass: s.StorageClass}
		if l := t.Label(); l.Key == lifecycle.TagClass {
			_, c.Why = lifecycle.ClassOf(s)
			c.Class = l.Value
		}
		if s.Locked() {
			c.Lock = fmt.Sprintf("%v %d d", s.LockMode, s.LockDays)
		}
		at := slices.IndexFunc(list, func(o bucketClass) bool {
			return o.Lifecycle == c.Lifecycle && o.Class == c.Class && o.Why == c.Why && o.StorageClass == c.StorageClass && o.Lock == c.Lock
		})
		if at < 0 {
			at = len(list)
			list = append(list, c)
		}
		list[at].Topics = append(list[at].Topics, t.Name)
		list[at].Bytes += t.Bytes
	}
	slices.SortFunc(list, func(a, b bucketClass) int {
		return strings.Compare(a.Lifecycle+a.Class+a.Why+a.StorageClass+a.Lock, b.Lifecycle+b.Class+b.Why+b.StorageClass+b.Lock)
	})
	return list
}

func printBucket(out io.Writer, v *bucketView) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	from := "built in; set it with firn bucket apply --default-retention"
	if v.DefaultIsSet {
		from = "set for the cluster"
	}
	_, _ = fmt.Fprintf(w, "bucket\t%s\ncluster\t%s\nversions\t%s\nobject lock\t%s\ndefault retention\t%s (%s)\n",
		v.Bucket, v.Cluster, v.Versioning, v.ObjectLock, retentionText(v.DefaultRetention), from)
	if v.RulesError != "" {
		_, _ = fmt.Fprintf(w, "rules\t%s\n", v.RulesError)
	} else {
		_, _ = fmt.Fprintf(w, "rules\t%d of firn's, %d of others, of at most %d\n", len(v.Rules), len(v.Foreign), lifecycle.MaxRules)
	}
	_ = w.Flush() // the next table has columns of its own
	if len(v.Rules)+len(v.Foreign) > 0 {
		_, _ = fmt.Fprintln(w, "\nRULE\tWHAT IT DOES")
		for _, rules := range [][]lifecycle.Rule{v.Rules, v.Foreign} {
			for i := range rules {
				id := rules[i].ID
				if id == "" {
					id = "(no id)"
				}
				_, _ = fmt.Fprintf(w, "%s\t%v\n", id, &rules[i])
			}
		}
		_ = w.Flush()
	}
	if len(v.Classes) > 0 {
		_, _ = fmt.Fprintln(w, "\nLIFECYCLE\tCLASS\tSTORAGE\tLOCK\tTOPICS\tSIZE\t")
		for _, c := range v.Classes {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Lifecycle, dash(c.Class), dash(c.StorageClass), dash(c.Lock), topicsText(c.Topics), bytesText(float64(c.Bytes)), c.Why)
		}
		_ = w.Flush()
	}
	if len(v.Follows) > 0 {
		_, _ = fmt.Fprintln(w, "\nFOLLOWS\tRULE\tDAYS\tTAG\tPREFIX")
		for _, x := range v.Follows {
			days := "for ever"
			if x.Days > 0 {
				days = strconv.Itoa(x.Days)
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s=%s\t%s\n", x.Topic, dash(x.Rule), days, x.Tag.Key, x.Tag.Value, x.Prefix)
		}
		_ = w.Flush()
	}
	for _, h := range v.Held {
		of := ""
		if h.Topic != "" {
			of = " for the sake of topic " + h.Topic
		}
		_, _ = fmt.Fprintf(w, "\nclass %s has no rule for now%s: %s\n", h.Class, of, h.Why)
	}
	_, _ = fmt.Fprintln(w)
	writeFindings(w, v.Findings)
	return w.Flush()
}

// topicsText names a few topics and counts the rest.
func topicsText(names []string) string {
	const some = 3
	if len(names) <= some {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:some], ", "), len(names)-some)
}

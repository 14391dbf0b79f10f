package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/objstore"
)

// bucketApplied is what bucket apply prints.
type bucketApplied struct {
	Bucket           string          `json:"bucket"`
	Cluster          string          `json:"cluster_id"`
	DryRun           bool            `json:"dry_run,omitempty"`
	Applied          bool            `json:"applied"` // false also where there was nothing to do
	Plan             *lifecycle.Plan `json:"plan"`
	DefaultRetention *int64          `json:"default_retention_ms,omitempty"` // where it was asked for
	Note             string          `json:"note,omitempty"`
	LeftOut          []leftOut       `json:"left_out,omitempty"` // what the store refused
}

// leftOut is a storage class that the store's rules do not know.
type leftOut struct {
	Class  string   `json:"class"`
	Topics []string `json:"topics"`
	Error  string   `json:"error"`
}

func newBucketApply(e env) *cobra.Command {
	var b *bucketCommand
	var dry, yes, versions bool
	var keep string
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Write the lifecycle rules that topics ask for, and the default retention",
		Long: `Compare the bucket's lifecycle rules with those that topics with firn.bucket.lifecycle=mirror ask for, print what differs, ask,
and write them. Rules of others go back as they came. Agents do the same by themselves where their credentials may; this is for
where they may not, and for those who do not want to wait. Classes that some objects must leave first are held. Transitions to a storage
class that the store's rules do not know are left out, and named: exit code 3.

--versions adds rules that end what a bucket with versions keeps of deleted objects, though no topic is mirrored.
--default-retention sets how long topics keep records that do not say so themselves (log.retention.ms of the cluster), such as 7d,
36h or forever. Topics that have no retention.ms of their own follow at once, those that are there already too.`,
		Example: "  firn bucket apply --bucket 's3://my-bucket/firn' --dry-run\n  firn bucket apply --bucket 's3://my-bucket/firn' --default-retention 7d --yes",
		Args:    arguments(cobra.NoArgs),
	}
	b = bucketFlags(cmd, e)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print what would be done, change nothing")
	yesFlag(cmd, &yes)
	cmd.Flags().BoolVar(&versions, "versions", false, "end old versions after a week, in a bucket that keeps them")
	cmd.Flags().StringVar(&keep, "default-retention", "", "how long topics keep records that do not say so themselves: 7d, 36h or forever")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var ms *int64
		if keep != "" {
			v, err := parseRetention(keep)
			if err != nil {
				return err
			}
			ms = &v
		}
		return b.apply(cmd.Context(), ms, versions, dry, yes)
	}
	return cmd
}

// apply looks and asks, then looks again and acts: what is done is what was shown, however long the answer took.
func (b *bucketCommand) apply(ctx context.Context, keep *int64, versions, dry, yes bool) error {
	shown := &bucketApplied{DryRun: dry, DefaultRetention: keep}
	todo := false
	err := b.with(ctx, func(_ context.Context, _ *kadm.Client, f *bucketFacts) (err error) {
		if todo, err = shown.look(f, versions); err != nil || b.output == "json" {
			return err
		}
		return shown.print(b.env.Stdout, f)
	})
	if err != nil {
		return err
	}
	if todo && !dry {
		if err := confirm(ctx, b.env, yes, "change "+shown.Bucket+" as above"); err != nil {
			return err
		}
		if err := b.with(ctx, func(ctx context.Context, adm *kadm.Client, f *bucketFacts) error {
			return shown.act(ctx, adm, f, versions)
		}); err != nil {
			return err
		}
	}
	switch {
	case b.output == "json":
		err = writeJSON(b.env.Stdout, shown)
	case dry:
		_, err = fmt.Fprintln(b.env.Stdout, "nothing was changed")
	case shown.Applied:
		_, err = fmt.Fprintln(b.env.Stdout, "applied")
	}
	for _, l := range shown.LeftOut {
		err = errors.Join(err, fmt.Errorf("%w: transitions of topic %s to storage class %s were left out, which the store's rules do not know: %s; "+
			"set firn.storage.transition.class to one that they know", errCheck, strings.Join(l.Topics, ", "), l.Class, l.Error))
	}
	return err
}

// look finds what there is to do.
func (a *bucketApplied) look(f *bucketFacts, versions bool) (todo bool, err error) {
	a.Bucket, a.Cluster, a.Plan = f.url, f.site.Cluster, &lifecycle.Plan{}
	wanted := versions
	for i := range f.topics {
		wanted = wanted || f.topics[i].Label().Key == lifecycle.TagClass
	}
	switch {
	case f.inv.RulesErr == nil:
		if a.Plan, err = lifecycle.NewPlan(f.site, f.inv.Rules, f.topics, f.held(), versions); err != nil {
			return false, err
		}
	case wanted && errors.Is(f.inv.RulesErr, objstore.ErrInvalid) && a.DefaultRetention != nil && !versions:
		a.Note = "no rules are written: " + f.inv.RulesErr.Error() + "; topics with firn.bucket.lifecycle=mirror do without, firn deletes by itself"
	case wanted && errors.Is(f.inv.RulesErr, objstore.ErrInvalid):
		return false, fmt.Errorf("read the bucket's lifecycle rules: %w; set firn.bucket.lifecycle=off, firn deletes by itself", f.inv.RulesErr)
	case wanted:
		return false, fmt.Errorf("read the bucket's lifecycle rules: %w", f.inv.RulesErr)
	}
	return a.Plan.Changed() || a.keeps(f), nil
}

// keeps says whether the default retention is to be set.
func (a *bucketApplied) keeps(f *bucketFacts) bool {
	return a.DefaultRetention != nil && !(f.keepSet && f.keeps == *a.DefaultRetention)
}

func (a *bucketApplied) print(w io.Writer, f *bucketFacts) error {
	if err := a.Plan.Write(w); err != nil || a.DefaultRetention == nil {
		return err
	}
	if a.Note != "" {
		if _, err := fmt.Fprintln(w, "note: "+a.Note); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "default retention: %s, was %s\n", retentionText(*a.DefaultRetention), retentionText(f.keeps))
	return err
}

// act does what was shown, where it is still what there is to do.
func (a *bucketApplied) act(ctx context.Context, adm *kadm.Client, f *bucketFacts, versions bool) error {
	now := &bucketApplied{DryRun: a.DryRun, DefaultRetention: a.DefaultRetention}
	if _, err := now.look(f, versions); err != nil {
		return err
	}
	was, err := json.Marshal(a)
	if err != nil {
		return err
	}
	is, err := json.Marshal(now)
	if err != nil {
		return err
	}
	if !bytes.Equal(was, is) {
		return errors.New("the bucket or its topics changed since that was shown, nothing was changed: run it again")
	}
	if a.Plan.Changed() {
		unknown := make(map[string]error)
		if _, err := lifecycle.WriteRules(ctx, f.store, now.Plan, unknown); err != nil {
			return fmt.Errorf("write the bucket's lifecycle rules: %w", err)
		}
		for _, class := range slices.Sorted(maps.Keys(unknown)) {
			a.LeftOut = append(a.LeftOut, leftOut{Class: class, Topics: lifecycle.Moving(f.topics, class), Error: unknown[class].Error()})
		}
	}
	if now.keeps(f) {
		value := strconv.FormatInt(*a.DefaultRetention, 10)
		changes := []change{{Op: "set", Key: "log.retention.ms", Value: &value}}
		if err := alterConfigs(ctx, adm, resource{kind: "cluster"}, changes, false); err != nil {
			return err
		}
	}
	a.Applied = true
	return nil
}

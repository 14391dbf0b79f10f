package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/compaction/lifecycle"
)

// nowMS is the wall clock as log time is counted.
func nowMS() int64 { return time.Now().UnixMilli() }

// bucketChecked is what bucket check prints.
type bucketChecked struct {
	Bucket   string              `json:"bucket"`
	Cluster  string              `json:"cluster_id"`
	Topics   int                 `json:"topics"`
	Failing  int                 `json:"failing"` // findings for which the exit code is 3
	Findings []lifecycle.Finding `json:"findings"`
}

func newBucketCheck(e env) *cobra.Command {
	var b *bucketCommand
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find what of a bucket's rules, versions and lock contradicts topics",
		Long: `Hold the bucket's lifecycle rules, versions and object lock against what topics promise. A finding says which rule meets which
topic, what would happen when, and how to mend it:
  loses    data that a topic promises would be deleted, or is not locked as promised
  hides    live data would move to a class that cannot be read at once
  stops    the store refuses what a topic asks for, so that its records are not merged: a storage class that it does not know
  costs    what firn deletes would stay and be paid for; agents tell here, too, of classes that the store's rules do not know
  unknown  firn may not look; the missing permission is named

Exit code 3 where something loses, hides or stops. Agents look for the same at their start and every ten minutes. Where topics ask for a
storage class, an object of a few bytes is put in it below probe/, and deleted.`,
		Example: "  firn bucket check --bucket 's3://my-bucket/firn?region=eu-central-1' --brokers firn.example.net:9092 -o json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return b.with(cmd.Context(), func(ctx context.Context, _ *kadm.Client, f *bucketFacts) (err error) {
				if f.inv.ClassErr, err = lifecycle.AskClasses(ctx, f.bucket, f.topics, make(map[string]bool)); err != nil {
					return err
				}
				v := f.view()
				c := bucketChecked{Bucket: f.url, Cluster: f.site.Cluster, Topics: len(f.topics), Findings: v.Findings}
				for _, found := range v.Findings {
					if found.Fails() {
						c.Failing++
					}
				}
				if b.output == "json" {
					err = writeJSON(e.Stdout, c)
				} else {
					writeFindings(e.Stdout, v.Findings)
				}
				if err == nil && c.Failing > 0 {
					return fmt.Errorf("%w: %d of %d findings lose or hide data, or stop firn's work", errCheck, c.Failing, len(v.Findings))
				}
				return err
			})
		},
	}
	b = bucketFlags(cmd, e)
	return cmd
}

func writeFindings(w io.Writer, list []lifecycle.Finding) {
	if len(list) == 0 {
		_, _ = fmt.Fprintln(w, "nothing contradicts what topics promise")
		return
	}
	for _, f := range list {
		at := ""
		if f.Rule != "" {
			at = fmt.Sprintf("rule %q, ", f.Rule)
		}
		switch {
		case f.Topics > 1:
			at += fmt.Sprintf("topic %s and %d more: ", f.Topic, f.Topics-1)
		case f.Topic != "":
			at += "topic " + f.Topic + ": "
		case at != "":
			at = at[:len(at)-2] + ": "
		}
		_, _ = fmt.Fprintf(w, "%-9s%s%s\n         mend: %s\n", string(f.Severity)+":", at, f.What, f.Mend)
	}
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/compaction/retention"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

func newGC(e env) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "gc",
		Short: "What is deleted from the bucket, what is missing from it, and whether it is whole",
		Long: `Look at what the agents delete from the bucket, and decide where they will not without an operator. The commands read etcd and the
bucket as they are, without joining the cluster; run, forget and approve leave a word in etcd that an agent acts on.`,
	})
	var flags metastoreFlags
	flags.set = flags.declare()
	f := cmd.PersistentFlags()
	flags.set.Flags(f, groupEtcd, groupBucket)
	f.StringVarP(&flags.output, "output", "o", "text", "text or json")
	cmd.AddCommand(newGCPlan(e, &flags), newGCRun(e, &flags), newGCVerify(e, &flags), newGCForget(e, &flags), newGCApprove(e, &flags))
	return cmd
}

// observing reads the cluster's state with each call.
func observing(l log.Log, bucket objstore.Bucket) gc.Observe {
	return func(ctx context.Context) (*metastore.Observed, error) { return metastore.Observe(ctx, l, bucket) }
}

// devFlag has a command read what a firn dev left.
func devFlag(cmd *cobra.Command, flags *metastoreFlags) {
	cmd.Flags().StringVar(&flags.dev, "dev", "", "data directory of a firn dev that is stopped, in place of --etcd and --bucket")
}

func newGCPlan(e env, flags *metastoreFlags) *cobra.Command {
	var show int
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "What would be deleted now and why, and what is held back and why",
		Long: `List the bucket, judge every object and every partition as agents do, and print what would go: objects that nothing names any more,
and records that are older or more than their topics promise to keep. Changes nothing.`,
		Example: "  firn gc plan --config /etc/firn/firn.yaml\n  firn gc plan --config /etc/firn/firn.yaml --show 1000 -o json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.run(cmd.Context(), e, func(ctx context.Context, l log.Log, bucket objstore.Bucket) (finding, error) {
				return gc.Survey(ctx, observing(l, bucket), bucket, show)
			})
		},
	}
	devFlag(cmd, flags)
	cmd.Flags().IntVar(&show, "show", 20, "objects to name, of those that would be deleted")
	return cmd
}

// asked is a request to the collecting agent and its answer.
type asked struct {
	Request gc.Request `json:"request"`
	Answer  gc.Answer  `json:"answer"`
}

// Lines renders the answer for people.
func (a *asked) Lines() []string {
	lines := []string{fmt.Sprintf("answered      by agent %s", a.Answer.Agent)}
	if s := a.Answer.Sweep; s != nil {
		what := ", that will be deleted"
		switch {
		case s.Orphans == 0:
			what = ""
		case s.Breaker != "":
			what = ", none of them deleted without your word, see below"
		}
		lines = append(lines,
			fmt.Sprintf("listed        %d objects, %d of them named", s.Listed, s.Named),
			fmt.Sprintf("orphans       %d%s", s.Orphans, what),
			fmt.Sprintf("held back     %d too young, %d that go as the log says or when it is archived, %d kept by a lock", s.Young, s.Waiting, s.Retained))
		if s.Unknown > 0 {
			lines = append(lines, fmt.Sprintf("unknown       %d that the bucket said nothing of when asked: they are kept", s.Unknown))
		}
		if s.Foreign > 0 {
			lines = append(lines, fmt.Sprintf("foreign       %d keys that are not firn's, left alone", s.Foreign))
		}
		if s.Missing+s.Resized > 0 {
			lines = append(lines, fmt.Sprintf("DAMAGED       %d objects are missing, %d have another size; firn gc verify", s.Missing, s.Resized))
		}
		if s.Breaker != "" {
			lines = append(lines, "NOTE          "+s.Breaker)
		}
	}
	return append(lines, lossLines(a.Answer.Lost)...)
}

func lossLines(lost []gc.Loss) (lines []string) {
	for _, l := range lost {
		how := "becomes a gap"
		if l.LogStart {
			how = "the log start moves past it"
		}
		lines = append(lines, fmt.Sprintf("lost          %s-%d, offsets %d to %d, %d bytes of %s: %s", l.Topic, l.Partition, l.Start, l.End-1, l.Bytes, l.Object, how))
	}
	return lines
}

// answerInterval is how often the answer is looked for.
const answerInterval = 500 * time.Millisecond

// askCollector puts a request to the collecting agent and waits for the answer.
func askCollector(ctx context.Context, cells metastore.Cells, r gc.Request, replace bool, wait time.Duration) (*asked, error) {
	r.ID = rand.Text()
	if err := gc.Ask(ctx, cells, r, replace); err != nil {
		if errors.Is(err, gc.ErrBusy) {
			return nil, fmt.Errorf("%w; wait for it, or take its place with --replace", err)
		}
		return nil, err
	}
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	tick := time.NewTicker(answerInterval)
	defer tick.Stop()
	for {
		answer, err := gc.Answered(ctx, cells, r.ID)
		switch {
		case err != nil:
			return nil, err
		case answer != nil && answer.Error != "":
			return &asked{r, *answer}, errors.New(answer.Error)
		case answer != nil:
			return &asked{r, *answer}, nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return nil, fmt.Errorf("no agent has answered for %v: is one running, and does firn metastore status say feature level 3? "+
				"The request stays, and is done when one comes: %w", wait, context.DeadlineExceeded)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// waiting declares the flags of commands that ask.
func waiting(cmd *cobra.Command, replace *bool, wait *time.Duration) {
	cmd.Flags().BoolVar(replace, "replace", false, "forget an earlier request that no agent has answered")
	cmd.Flags().DurationVar(wait, "wait", 10*time.Minute, "how long to wait for an agent's answer")
}

func newGCRun(e env, flags *metastoreFlags) *cobra.Command {
	var r gc.Request
	var replace bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Have the collecting agent sweep the bucket now",
		Long: `Ask the agent that collects to list the whole bucket now, instead of once a day, and print what it found. What it may delete it deletes
after it has answered, as fast as --deletes-per-hour of the agents lets it.

Where a sweep finds suspiciously many objects that nothing names, agents stop deleting. firn gc plan shows these objects; --accept says that they
may go. Exit code 3 where objects are missing, or where it would have needed --accept.`,
		Example: "  firn gc run --config /etc/firn/firn.yaml\n  firn gc run --config /etc/firn/firn.yaml --accept",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.Kind = gc.AskRun
			var answer *asked
			err := flags.run(cmd.Context(), e, func(ctx context.Context, l log.Log, _ objstore.Bucket) (finding, error) {
				var err error
				answer, err = askCollector(ctx, metastore.CellsOf(l), r, replace, wait)
				return answer, err
			})
			if err != nil || answer == nil || answer.Answer.Sweep == nil {
				return err
			}
			switch s := answer.Answer.Sweep; {
			case s.Missing+s.Resized > 0:
				return fmt.Errorf("%w: %d objects that the log names are missing or of another size", errCheck, s.Missing+s.Resized)
			case s.Breaker != "":
				return fmt.Errorf("%w: %s", errCheck, s.Breaker)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&r.Accept, "accept", false, "delete the orphans that the sweep finds, however many")
	waiting(cmd, &replace, &wait)
	return cmd
}

func newGCVerify(e env, flags *metastoreFlags) *cobra.Command {
	var opts gc.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Whether every object that the log names is in the bucket, and with --deep whether it is whole",
		Long: `List the bucket and hold it against every object that the log names: is it there, and of the right size. With --deep read all of them and check
every checksum, of chunks and of record batches, and that the log's rows lie within their blocks: as many bytes are read as are stored. Changes
nothing. Exit code 3 where something is missing or damaged.`,
		Example: "  firn gc verify --config /etc/firn/firn.yaml\n  firn gc verify --config /etc/firn/firn.yaml --deep --parallel 16 -o json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var report *gc.VerifyReport
			err := flags.run(cmd.Context(), e, func(ctx context.Context, l log.Log, bucket objstore.Bucket) (finding, error) {
				var err error
				report, err = gc.Verify(ctx, observing(l, bucket), bucket, opts)
				return report, err
			})
			if err == nil && len(report.Damage) > 0 {
				return fmt.Errorf("%w: %d objects are missing or damaged, the first: %s, %s", errCheck, len(report.Damage), report.Damage[0].Object, report.Damage[0].Kind)
			}
			return err
		},
	}
	devFlag(cmd, flags)
	cmd.Flags().BoolVar(&opts.Deep, "deep", false, "read every object and check every checksum")
	cmd.Flags().IntVar(&opts.Parallel, "parallel", 4, "objects to read at a time")
	return cmd
}

func newGCForget(e env, flags *metastoreFlags) *cobra.Command {
	var yes, replace bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "forget KEY...",
		Short: "Give up the records of objects that are missing for good",
		Long: `Give up what missing objects held, so that readers get past it. Nothing else ever does that, but a rule of the bucket that firn has read: until
then readers of these offsets get KAFKA_STORAGE_ERROR. Put the objects back from a copy or an older version if there is one.

Print exactly which offsets of which partitions would be lost, and ask. Where nothing older is left of a partition its log start moves; else the
range becomes a gap that readers skip, and that is counted as given up. An object that is there is refused, and then nothing is changed.`,
		Example: "  firn gc forget --config /etc/firn/firn.yaml topics/0f…/0000000000000007/5c…-0000000000000003",
		Args:    arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.run(cmd.Context(), e, func(ctx context.Context, l log.Log, bucket objstore.Bucket) (finding, error) {
				lost, err := losses(ctx, l, bucket, args)
				if err != nil {
					return nil, err
				}
				for _, line := range lossLines(lost) {
					_, _ = fmt.Fprintln(e.Stderr, line)
				}
				if err := confirm(ctx, e, yes, fmt.Sprintf("give up %d ranges of offsets", len(lost))); err != nil {
					return nil, err
				}
				answer, err := askCollector(ctx, metastore.CellsOf(l), gc.Request{Kind: gc.AskForget, Objects: args}, replace, wait)
				return answer, err
			})
		},
	}
	yesFlag(cmd, &yes)
	waiting(cmd, &replace, &wait)
	return cmd
}

// losses says what forgetting objects would lose, and refuses what is none of the log's or is there.
func losses(ctx context.Context, l log.Log, bucket objstore.Bucket, keys []string) ([]gc.Loss, error) {
	obs, err := metastore.Observe(ctx, l, bucket)
	if err != nil {
		return nil, err
	}
	ids := make([]entry.ObjectID, len(keys))
	for i, key := range keys {
		if ids[i], err = entry.ParseObjectKey(key); err != nil {
			return nil, fmt.Errorf("%w: %w", client.ErrUsage, err)
		}
		if !obs.State.Named(ids[i]) {
			return nil, fmt.Errorf("the log names no object %s: there is nothing to give up", key)
		}
		_, err := bucket.Head(ctx, key)
		switch {
		case err == nil:
			return nil, fmt.Errorf("object %s is in the bucket: nothing is given up", key)
		case !errors.Is(err, objstore.ErrNotFound):
			return nil, fmt.Errorf("look for object %s: %w", key, err)
		}
	}
	return gc.Losses(func(fn func(*state.State)) { fn(obs.State) }, ids), nil
}

// approval says what was approved.
type approval struct {
	LogTime    string `json:"log_time"`
	BucketTime string `json:"bucket_time,omitempty"`
	Approved   string `json:"approved"`
}

// Lines renders the approval for people.
func (a *approval) Lines() []string {
	lines := []string{"log time      " + a.LogTime}
	if a.BucketTime != "" {
		lines = append(lines, "bucket time   "+a.BucketTime)
	}
	return append(lines, "approved      "+a.Approved)
}

func newGCApprove(e env, flags *metastoreFlags) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "approve",
		Short: "Say which time is right, where retention deletes nothing because clocks contradict each other",
		Long: `Retention judges by log time, which is the agents' clocks' and never goes back. Where the bucket's clock contradicts it, or where the bucket has none
and log time has jumped by more than a month, nothing is deleted until an operator has looked. Set the wrong clock right first.

With a bucket that has a clock, the word is that the bucket's is right: what is old is judged by it for as long as log time is ahead. Without, the
word is that log time is right as it is now: what is old by it is deleted. Both times are printed before it asks.`,
		Example: "  firn gc approve --config /etc/firn/firn.yaml\n  firn gc approve --dev ./data",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.run(cmd.Context(), e, func(ctx context.Context, l log.Log, bucket objstore.Bucket) (finding, error) {
				return approve(ctx, e, l, bucket, yes)
			})
		},
	}
	yesFlag(cmd, &yes)
	devFlag(cmd, flags)
	return cmd
}

func approve(ctx context.Context, e env, l log.Log, bucket objstore.Bucket, yes bool) (finding, error) {
	obs, err := metastore.Observe(ctx, l, bucket)
	if err != nil {
		return nil, err
	}
	logMS := obs.State.LogTime()
	a := &approval{LogTime: time.UnixMilli(logMS).UTC().Format(time.RFC3339), Approved: "log time is right"}
	word := retention.Word{TrustedMS: logMS}
	if clock, ok := objstore.As[objstore.Clock](bucket); ok {
		now, err := clock.Now(ctx)
		switch {
		case err == nil:
			if _, holds := retention.Ahead(logMS, now.UnixMilli()); !holds {
				return nil, fmt.Errorf("log time, %s, is not ahead of the bucket's, %s: there is nothing to approve", a.LogTime, now.UTC().Format(time.RFC3339))
			}
			a.BucketTime, a.Approved, word.ByBucket = now.UTC().Format(time.RFC3339), "the bucket's time is right", true
		case !errors.Is(err, objstore.ErrInvalid): // else it has none
			return nil, fmt.Errorf("ask the bucket for its time: %w", err)
		}
	}
	for _, line := range a.Lines() {
		_, _ = fmt.Fprintln(e.Stderr, line)
	}
	if err := confirm(ctx, e, yes, "delete what is too old by it"); err != nil {
		return nil, err
	}
	return a, retention.Approve(ctx, metastore.CellsOf(l), word)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

// resetView is what reset prints.
type resetView struct {
	Group      string               `json:"group"`
	DryRun     bool                 `json:"dry_run,omitempty"`
	Partitions []resetPartitionView `json:"partitions"`
}

type resetPartitionView struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Was       *int64 `json:"was"` // null where the group had no offset
	Offset    int64  `json:"offset"`
	// Wanted is what was asked for where the log does not hold that.
	Wanted *int64 `json:"wanted,omitempty"`
}

// resetFlags are the ways to say where to.
type resetFlags struct {
	earliest, latest bool
	offset, shift    int64
	datetime         string
	duration         string
}

func newGroupReset(e env) *cobra.Command {
	var a *admin
	var f resetFlags
	var topics []string
	var all, dry bool
	cmd := &cobra.Command{
		Use:   "reset GROUP",
		Short: "Move the committed offsets of a group that has no members",
		Long: `Move the committed offsets of a group, so that its members read on from there when they come back. The group must not have
members: they would commit over it. Offsets are kept within the log: below its start they become the start, beyond its end
the end.

Topics are named with --topic, as a whole or by partition; --all-topics are those that the group has committed offsets of. A
group that is not there yet is made where topics are named.

--to-datetime takes RFC 3339 (2024-03-01T12:00:00Z) or @milliseconds since 1970, --by-duration 90s, 15m, 1h30m, 7d: the first
record that is not older, or the end.`,
		Example: `  firn group reset billing --all-topics --to-earliest --dry-run
  firn group reset billing --topic events --topic clicks:0,2 --to-datetime 2024-03-01T12:00:00Z
  firn group reset billing --topic events --shift-by -100
  firn group reset billing --all-topics --by-duration 7d`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := f.position(cmd.Flags().Changed, time.Now())
			if err != nil {
				return err
			}
			wanted, err := parseTopicPartitions(topics)
			if err != nil {
				return err
			}
			if all == (len(wanted) > 0) {
				return fmt.Errorf("%w: say which topics: either --topic, or --all-topics", client.ErrUsage)
			}
			return a.doRaw(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				v, err := resetGroup(ctx, kadm.NewClient(cl), args[0], wanted, to, dry)
				return errors.Join(a.printReset(v), err)
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().BoolVar(&f.earliest, "to-earliest", false, "to the start of the log")
	cmd.Flags().BoolVar(&f.latest, "to-latest", false, "to the end of the log")
	cmd.Flags().Int64Var(&f.offset, "to-offset", 0, "to an offset")
	cmd.Flags().Int64Var(&f.shift, "shift-by", 0, "by so many records forward, or back where negative")
	cmd.Flags().StringVar(&f.datetime, "to-datetime", "", "to the first record that is not older than a time")
	cmd.Flags().StringVar(&f.duration, "by-duration", "", "to the first record that is not older than a time ago")
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "topic to move, or some of its partitions as topic:0,2; may be repeated")
	cmd.Flags().BoolVar(&all, "all-topics", false, "move all topics that the group has committed offsets of")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print what would be done, change nothing")
	cmd.ValidArgsFunction = completeGroups(a.remote, 1)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("topic", completeTopics(a.remote, 0)))
	for _, flag := range []string{"to-offset", "shift-by", "to-datetime", "by-duration"} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions))
	}
	return cmd
}

// position is the one that was given. Errors wrap client.ErrUsage.
func (f *resetFlags) position(given func(flag string) bool, now time.Time) (p position, err error) {
	var flags []string
	for _, flag := range []string{"to-earliest", "to-latest", "to-offset", "shift-by", "to-datetime", "by-duration"} {
		if given(flag) {
			flags = append(flags, flag)
		}
	}
	if len(flags) != 1 {
		return p, fmt.Errorf("%w: say where to, with one of --to-earliest, --to-latest, --to-offset, --shift-by, --to-datetime and --by-duration", client.ErrUsage)
	}
	switch flags[0] {
	case "to-earliest":
		return position{kind: "start"}, nil
	case "to-latest":
		return position{kind: "end"}, nil
	case "to-offset":
		if f.offset < 0 {
			return p, fmt.Errorf("%w: --to-offset: %d is below 0", client.ErrUsage, f.offset)
		}
		return position{kind: "offset", offset: f.offset}, nil
	case "shift-by":
		return position{kind: "shift", offset: f.shift}, nil
	case "to-datetime":
		p, err = parsePosition("to-datetime", f.datetime, now)
		if err != nil || p.kind != "time" {
			return p, fmt.Errorf("%w: --to-datetime: %q is no time, use for example 2024-03-01T12:00:00Z or @1709294400000", client.ErrUsage, f.datetime)
		}
		return p, nil
	}
	d, err := parseDays(f.duration)
	if err != nil || d < 0 {
		return p, fmt.Errorf("%w: --by-duration: %q is no duration, use for example 90s, 15m, 1h30m or 7d", client.ErrUsage, f.duration)
	}
	return position{kind: "time", time: now.Add(-d)}, nil
}

// resetGroup plans and, unless it is dry, commits. The error is about partitions that are not in the view.
func resetGroup(ctx context.Context, adm *kadm.Client, name string, wanted []topicPartitions, to position, dry bool) (*resetView, error) {
	if err := refuseActive(ctx, adm, name); err != nil {
		return nil, err
	}
	committed, err := adm.FetchOffsets(ctx, name)
	if err != nil && !client.NotFound(err) {
		return nil, groupError("fetch the offsets of", name, err)
	}
	committed.KeepFunc(func(o kadm.OffsetResponse) bool { return o.Err == nil && o.At >= 0 })
	found := map[string][]int32{}
	if len(wanted) > 0 {
		if found, err = findPartitions(ctx, adm, "reset", wanted); err != nil {
			return nil, err
		}
	} else {
		committed.Each(func(o kadm.OffsetResponse) { found[o.Topic] = append(found[o.Topic], o.Partition) })
		if len(found) == 0 {
			return nil, fmt.Errorf("reset group %q: it has committed no offsets, name topics with --topic: %w", name, client.ErrNotFound)
		}
	}
	topics := slices.Sorted(maps.Keys(found))
	b, err := listBounds(ctx, adm, false, topics...)
	if err != nil {
		return nil, err
	}
	v := &resetView{Group: name, DryRun: dry, Partitions: []resetPartitionView{}}
	offsets := kadm.Offsets{}
	var problems []error
	for _, topic := range topics {
		for _, partition := range slices.Sorted(slices.Values(found[topic])) {
			p := resetPartitionView{Topic: topic, Partition: partition}
			if o, ok := committed.Lookup(topic, partition); ok {
				p.Was = &o.At
			}
			target := to
			if to.kind == "shift" {
				if p.Was == nil {
					problems = append(problems, fmt.Errorf("reset group %q: topic %q partition %d has no committed offset to shift: %w", name, topic, partition, client.ErrNotFound))
					continue
				}
				target = position{kind: "offset", offset: shifted(*p.Was, to.offset)}
			}
			if err := b.clamp(ctx, target, &p); err != nil {
				return nil, err
			}
			v.Partitions = append(v.Partitions, p)
			offsets.AddOffset(topic, partition, p.Offset, -1)
		}
	}
	if dry || len(v.Partitions) == 0 {
		return v, errors.Join(problems...)
	}
	answers, err := adm.CommitOffsets(ctx, name, offsets)
	if err != nil {
		return nil, errors.Join(append(problems, groupError("reset", name, err))...)
	}
	v.Partitions = slices.DeleteFunc(v.Partitions, func(p resetPartitionView) bool {
		answer, ok := answers.Lookup(p.Topic, p.Partition)
		err := errors.Join(answer.Err, missing(ok))
		if err != nil {
			problems = append(problems, groupError(fmt.Sprintf("reset topic %q partition %d of", p.Topic, p.Partition), name, err))
		}
		return err != nil
	})
	return v, errors.Join(problems...)
}

// shifted adds without going over the largest offset.
func shifted(offset, by int64) int64 {
	if by > 0 && offset > math.MaxInt64-by {
		return math.MaxInt64
	}
	return offset + by
}

// refuseActive makes sure that nobody is a member. A group that is not there has none.
func refuseActive(ctx context.Context, adm *kadm.Client, name string) error {
	views, problems := findGroups(ctx, adm, []string{name})
	if len(views) == 1 && (len(views[0].Members) > 0 || views[0].State != "Empty" && views[0].State != "Dead") {
		return fmt.Errorf("reset group %q: it is %s and has %d members, who would commit over it; stop them first", name, views[0].State, len(views[0].Members))
	}
	if err := errors.Join(problems...); err != nil && !client.NotFound(err) {
		return err
	}
	return nil
}

// clamp finds the offset of a position, kept within the log.
func (b *bounds) clamp(ctx context.Context, to position, p *resetPartitionView) (err error) {
	if to.kind != "offset" {
		p.Offset, err = b.find(ctx, to, p.Topic, p.Partition)
		return err
	}
	start, startOK := b.starts.Lookup(p.Topic, p.Partition)
	end, endOK := b.ends.Lookup(p.Topic, p.Partition)
	if !startOK || !endOK {
		return fmt.Errorf("topic %q has no partition %d: %w", p.Topic, p.Partition, client.ErrNotFound)
	}
	p.Offset = min(max(to.offset, start.Offset), end.Offset)
	if p.Offset != to.offset {
		p.Wanted = &to.offset
	}
	return nil
}

func (a *admin) printReset(v *resetView) error {
	if v == nil {
		return nil
	}
	if a.output == "json" {
		return writeJSON(a.env.Stdout, v)
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	now := "NOW"
	if v.DryRun {
		now = "WOULD BE"
	}
	_, _ = fmt.Fprintf(w, "TOPIC\tPARTITION\tWAS\t%s\tNOTE\n", now)
	for _, p := range v.Partitions {
		note := ""
		if p.Wanted != nil {
			note = "the log does not hold " + strconv.FormatInt(*p.Wanted, 10)
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\n", p.Topic, p.Partition, offsetText(p.Was), p.Offset, dash(note))
	}
	return w.Flush()
}

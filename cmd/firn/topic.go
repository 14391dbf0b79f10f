package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/cmd/firn/client"
)

func newTopic(e env) *cobra.Command {
	cmd := group(&cobra.Command{Use: "topic", Short: "Create, list, describe, alter, empty and delete topics of any Kafka"})
	cmd.AddCommand(newTopicCreate(e))
	cmd.AddCommand(newTopicList(e))
	cmd.AddCommand(newTopicDescribe(e))
	cmd.AddCommand(newTopicAlter(e))
	cmd.AddCommand(newTopicDelete(e))
	cmd.AddCommand(newTopicDeleteRecords(e))
	return cmd
}

// topicConfigs is the completion of --config: any topic tells what settings topics have.
func topicConfigs(a *admin, suffix string) completer {
	complete := completeConfigs(a.remote, func(args []string) (resource, bool) {
		if len(args) == 0 {
			return resource{"topic", ""}, true
		}
		return resource{"topic", args[0]}, true
	}, suffix)
	return complete
}

func newTopicCreate(e env) *cobra.Command {
	var a *admin
	var partitions, replicas int
	var settings []string
	cmd := &cobra.Command{
		Use:               "create TOPIC...",
		Short:             "Create topics and wait until they can be written to",
		Example:           "  firn topic create orders --partitions 12 --config retention.ms=86400000",
		Args:              arguments(cobra.MinimumNArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, names []string) error {
			if partitions != -1 && (partitions < 1 || partitions > math.MaxInt32) {
				return fmt.Errorf("%w: --partitions: %d is neither -1 nor at least 1", client.ErrUsage, partitions)
			}
			if replicas != -1 && (replicas < 1 || replicas > math.MaxInt16) {
				return fmt.Errorf("%w: --replication-factor: %d is neither -1 nor between 1 and %d", client.ErrUsage, replicas, math.MaxInt16)
			}
			configs, err := client.Configs(settings)
			if err != nil {
				return err
			}
			topics := client.Topics{Names: names, Partitions: int32(partitions), ReplicationFactor: int16(replicas), Configs: configs}
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				if err := topics.Create(ctx, adm); err != nil {
					return err
				}
				return a.done("created", names)
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().IntVar(&partitions, "partitions", -1, "partitions of each topic, -1 for the broker's default")
	cmd.Flags().IntVar(&replicas, "replication-factor", -1, "replicas of each partition, -1 for the broker's default")
	cmd.Flags().StringArrayVar(&settings, "config", nil, "topic setting as key=value, may be repeated")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("config", topicConfigs(a, "=")))
	return cmd
}

func newTopicDelete(e env) *cobra.Command {
	var a *admin
	var yes bool
	cmd := &cobra.Command{
		Use:     "delete TOPIC...",
		Short:   "Delete topics and all their records",
		Example: "  firn topic delete orders audit --yes",
		Args:    arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := confirm(cmd.Context(), e, yes, "delete topic "+strings.Join(names, ", ")+" with all records"); err != nil {
				return err
			}
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				answers, err := adm.DeleteTopics(ctx, names...)
				if err != nil {
					return fmt.Errorf("delete topics: %w", err)
				}
				var deleted []string
				var errs []error
				for _, name := range slices.Sorted(maps.Keys(answers)) { // kadm's own order is that of ids, which are random
					answer := answers[name]
					if answer.Err != nil {
						errs = append(errs, client.TopicError("delete", answer.Topic, answer.Err, answer.ErrMessage))
						continue
					}
					deleted = append(deleted, answer.Topic)
				}
				return errors.Join(append(errs, a.done("deleted", deleted))...)
			})
		},
	}
	a = adminFlags(cmd, e)
	yesFlag(cmd, &yes)
	cmd.ValidArgsFunction = completeTopics(a.remote, 0)
	return cmd
}

// done prints what happened to topics.
func (a *admin) done(what string, names []string) error {
	if a.output == "json" {
		return writeJSON(a.env.Stdout, map[string][]string{what: append([]string{}, names...)})
	}
	for _, name := range names {
		if _, err := fmt.Fprintf(a.env.Stdout, "%s %s\n", what, name); err != nil {
			return err
		}
	}
	return nil
}

// topicView is a topic as list prints it.
type topicView struct {
	Name              string `json:"name"`
	ID                string `json:"id"`
	Internal          bool   `json:"internal"`
	PartitionCount    int    `json:"partition_count"`
	ReplicationFactor int    `json:"replication_factor"`
}

// describedView is a topic as describe prints it.
type describedView struct {
	topicView
	SizeBytes  *int64          `json:"size_bytes"` // null where the brokers do not tell
	Partitions []partitionView `json:"partitions"`
	Configs    []configView    `json:"configs"`
}

type partitionView struct {
	Partition     int32   `json:"partition"`
	Leader        int32   `json:"leader"`
	LeaderEpoch   int32   `json:"leader_epoch"`
	Replicas      []int32 `json:"replicas"`
	ISR           []int32 `json:"isr"`
	LogStart      *int64  `json:"log_start_offset"` // null where nobody answers for the partition
	HighWatermark *int64  `json:"high_watermark"`
	SizeBytes     *int64  `json:"size_bytes"` // of one replica
}

func viewOf(d kadm.TopicDetail) topicView {
	return topicView{
		Name: d.Topic, ID: base64.RawURLEncoding.EncodeToString(d.ID[:]), Internal: d.IsInternal,
		PartitionCount: len(d.Partitions), ReplicationFactor: d.Partitions.NumReplicas(),
	}
}

func newTopicList(e env) *cobra.Command {
	var a *admin
	var internal bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List topics",
		Example: "  firn topic list\n  firn topic list -o json | jq -r '.[].name'",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				details, err := adm.ListTopicsWithInternal(ctx)
				if err != nil {
					return fmt.Errorf("list topics: %w", err)
				}
				views := []topicView{}
				for _, d := range details.Sorted() {
					if d.Err != nil {
						return client.TopicError("list", d.Topic, d.Err, "")
					}
					if internal || !d.IsInternal {
						views = append(views, viewOf(d))
					}
				}
				return a.printList(views)
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().BoolVar(&internal, "internal", false, "list the brokers' own topics too")
	return cmd
}

func (a *admin) printList(views []topicView) error {
	if a.output == "json" {
		return writeJSON(a.env.Stdout, views)
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TOPIC\tPARTITIONS\tREPLICAS")
	for _, v := range views {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\n", v.Name, v.PartitionCount, v.ReplicationFactor)
	}
	return w.Flush()
}

func newTopicDescribe(e env) *cobra.Command {
	var a *admin
	var all bool
	cmd := &cobra.Command{
		Use:   "describe TOPIC...",
		Short: "Show partitions, leaders, offsets, sizes and settings of topics",
		Long: `Show partitions, leaders, offsets, sizes and settings of topics. Settings are those that differ from their default, or
with --all all of them. What the brokers do not tell is shown as a dash, and as null in JSON.`,
		Example: "  firn topic describe orders\n  firn topic describe orders -o json | jq '.[0].partitions[].high_watermark'",
		Args:    arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				views, problems := describe(ctx, adm, names, all)
				if len(views) > 0 {
					if err := a.printDescribed(views); err != nil {
						return err
					}
				}
				return problems
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().BoolVar(&all, "all", false, "show settings that have their default too")
	cmd.ValidArgsFunction = completeTopics(a.remote, 0)
	return cmd
}

// describe looks topics up. The error is about those that are not among the views.
func describe(ctx context.Context, adm *kadm.Client, names []string, all bool) ([]describedView, error) {
	details, err := adm.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	var found []string
	var problems []error
	for _, d := range details.Sorted() {
		if d.Err != nil {
			problems = append(problems, client.TopicError("describe", d.Topic, d.Err, ""))
			continue
		}
		found = append(found, d.Topic)
	}
	if len(found) == 0 {
		return nil, errors.Join(problems...)
	}
	starts, err := adm.ListStartOffsets(ctx, found...)
	if err != nil && len(starts) == 0 {
		return nil, fmt.Errorf("list log start offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, found...)
	if err != nil && len(ends) == 0 {
		return nil, fmt.Errorf("list high watermarks: %w", err)
	}
	sizes := partitionSizes(ctx, adm, details, found)
	views := []describedView{}
	for _, topic := range found {
		d := details[topic]
		v := describedView{topicView: viewOf(d), Partitions: []partitionView{}, Configs: []configView{}}
		known := true
		var total int64
		for _, p := range d.Partitions.Sorted() {
			pv := partitionView{
				p.Partition, p.Leader, p.LeaderEpoch, p.Replicas, p.ISR,
				offsetOf(starts, topic, p.Partition), offsetOf(ends, topic, p.Partition), nil,
			}
			if size, ok := sizes[topic][p.Partition]; ok {
				pv.SizeBytes = &size
				total += size
			} else {
				known = false
			}
			v.Partitions = append(v.Partitions, pv)
		}
		if known {
			v.SizeBytes = &total
		}
		configs, err := describeConfigs(ctx, adm, resource{"topic", topic})
		if err != nil {
			problems = append(problems, err)
		}
		for _, c := range configs {
			if all || !c.isDefault() {
				v.Configs = append(v.Configs, c)
			}
		}
		views = append(views, v)
	}
	return views, errors.Join(problems...)
}

// offsetOf returns a listed offset, or nil where there was no answer.
func offsetOf(listed kadm.ListedOffsets, topic string, partition int32) *int64 {
	if o, ok := listed.Lookup(topic, partition); ok && o.Err == nil {
		return &o.Offset
	}
	return nil
}

// partitionSizes returns the size of the largest replica of each partition. Brokers that do not serve this, or do not
// allow it, have no sizes: that is no reason not to show the rest.
func partitionSizes(ctx context.Context, adm *kadm.Client, details kadm.TopicDetails, topics []string) map[string]map[int32]int64 {
	wanted := kadm.TopicsSet{}
	for _, topic := range topics {
		wanted.Add(topic, details[topic].Partitions.Numbers()...)
	}
	sizes := map[string]map[int32]int64{}
	described, _ := adm.DescribeAllLogDirs(ctx, wanted)
	described.Each(func(dir kadm.DescribedLogDir) {
		if dir.Err != nil {
			return
		}
		dir.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			if p.IsFuture {
				return
			}
			if sizes[p.Topic] == nil {
				sizes[p.Topic] = map[int32]int64{}
			}
			sizes[p.Topic][p.Partition] = max(sizes[p.Topic][p.Partition], p.Size)
		})
	})
	return sizes
}

func (a *admin) printDescribed(views []describedView) error {
	if a.output == "json" {
		return writeJSON(a.env.Stdout, views)
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	for i, v := range views {
		if i > 0 {
			_, _ = fmt.Fprintln(w)
		}
		_, _ = fmt.Fprintf(w, "topic %s, id %s, %d partitions, %d replicas, size %s\n", v.Name, v.ID, v.PartitionCount, v.ReplicationFactor, sizeText(v.SizeBytes))
		_, _ = fmt.Fprintln(w, "PARTITION\tLEADER\tEPOCH\tREPLICAS\tISR\tLOG START\tHIGH WATERMARK\tSIZE")
		for _, p := range v.Partitions {
			_, _ = fmt.Fprintf(w, "%d\t%d\t%d\t%v\t%v\t%s\t%s\t%s\n", p.Partition, p.Leader, p.LeaderEpoch, p.Replicas, p.ISR,
				offsetText(p.LogStart), offsetText(p.HighWatermark), sizeText(p.SizeBytes))
		}
		_ = w.Flush() // the next table has columns of its own
		if len(v.Configs) > 0 {
			writeConfigs(w, v.Configs)
			_ = w.Flush()
		}
	}
	return w.Flush()
}

func offsetText(offset *int64) string {
	if offset == nil {
		return "-"
	}
	return strconv.FormatInt(*offset, 10)
}

func sizeText(size *int64) string {
	if size == nil {
		return "-"
	}
	return bytesText(float64(*size))
}

// bytesText words a number of bytes.
func bytesText(n float64) string {
	unit := 0
	for n >= 1024 && unit < 5 {
		n /= 1024
		unit++
	}
	name := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
	if unit == 0 {
		return fmt.Sprintf("%.0f %s", n, name)
	}
	return fmt.Sprintf("%.1f %s", n, name)
}

// alteredView is what alter prints for each topic.
type alteredView struct {
	Name       string   `json:"name"`
	DryRun     bool     `json:"dry_run,omitempty"`
	Partitions *int     `json:"partitions,omitempty"`
	Changes    []change `json:"changes"`
}

func newTopicAlter(e env) *cobra.Command {
	var a *admin
	var partitions int
	var set, unset []string
	var dry bool
	cmd := &cobra.Command{
		Use:   "alter TOPIC...",
		Short: "Add partitions to topics and change their settings",
		Long: `Add partitions to topics and change their settings. What is not named stays. Settings are changed first; where that is
refused no partition is added.`,
		Example: `  firn topic alter orders --partitions 24
  firn topic alter orders --config retention.ms=86400000 --config cleanup.policy+=compact --delete-config retention.bytes`,
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			more := cmd.Flags().Changed("partitions")
			if more && (partitions < 1 || partitions > math.MaxInt32) {
				return fmt.Errorf("%w: --partitions: %d is not at least 1", client.ErrUsage, partitions)
			}
			changes, err := parseChanges("--config", set, unset)
			if err != nil {
				return err
			}
			if !more && len(changes) == 0 {
				return fmt.Errorf("%w: nothing to alter, give --partitions, --config or --delete-config", client.ErrUsage)
			}
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				if _, err := findTopics(ctx, adm, "alter", names, nil); err != nil {
					return err
				}
				var altered []alteredView
				var errs []error
				for _, name := range names {
					v := alteredView{Name: name, DryRun: dry, Changes: append([]change{}, changes...)}
					if more {
						v.Partitions = &partitions
					}
					if err := alterTopic(ctx, adm, v); err != nil {
						errs = append(errs, err)
						continue
					}
					altered = append(altered, v)
				}
				return errors.Join(append(errs, a.printAltered(altered))...)
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().IntVar(&partitions, "partitions", 0, "partitions that each topic is to have, more than now")
	cmd.Flags().StringArrayVar(&set, "config", nil, "setting to change as key=value; for a list also key+=value and key-=value; may be repeated")
	cmd.Flags().StringArrayVar(&unset, "delete-config", nil, "setting to put back to its default, may be repeated")
	dryRunFlag(cmd, &dry)
	cmd.ValidArgsFunction = completeTopics(a.remote, 0)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("config", topicConfigs(a, "=")))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("delete-config", topicConfigs(a, "")))
	return cmd
}

// alterTopic does what v says.
func alterTopic(ctx context.Context, adm *kadm.Client, v alteredView) error {
	if len(v.Changes) > 0 {
		if err := alterConfigs(ctx, adm, resource{"topic", v.Name}, v.Changes, v.DryRun); err != nil {
			return err
		}
	}
	if v.Partitions == nil {
		return nil
	}
	update := adm.UpdatePartitions
	if v.DryRun {
		update = adm.ValidateUpdatePartitions
	}
	answers, err := update(ctx, *v.Partitions, v.Name)
	if err != nil {
		return fmt.Errorf("add partitions to topic %q: %w", v.Name, err)
	}
	for _, answer := range answers {
		if answer.Err != nil {
			return client.TopicError("add partitions to", v.Name, answer.Err, answer.ErrMessage)
		}
	}
	return nil
}

func (a *admin) printAltered(altered []alteredView) error {
	if a.output == "json" {
		return writeJSON(a.env.Stdout, append([]alteredView{}, altered...))
	}
	for _, v := range altered {
		res := resource{"topic", v.Name}
		if err := writeChanges(a.env.Stdout, res, v.Changes, v.DryRun); err != nil {
			return err
		}
		if v.Partitions != nil {
			said := "now has"
			if v.DryRun {
				said = "would have"
			}
			if _, err := fmt.Fprintf(a.env.Stdout, "%s: %s %d partitions\n", res, said, *v.Partitions); err != nil {
				return err
			}
		}
	}
	return nil
}

// emptiedView is what delete-records prints.
type emptiedView struct {
	Topic      string                 `json:"topic"`
	Partitions []emptiedPartitionView `json:"partitions"`
}

type emptiedPartitionView struct {
	Partition int32 `json:"partition"`
	LogStart  int64 `json:"log_start_offset"`
}

func newTopicDeleteRecords(e env) *cobra.Command {
	var a *admin
	var before string
	var partitions []int
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete-records TOPIC --before POSITION",
		Short: "Delete the oldest records of a topic",
		Long: `Delete the records of a topic, or of some of its partitions, that lie before a position. Log start offsets rise to it.

` + positionHelp,
		Example: `  firn topic delete-records orders --before end --yes
  firn topic delete-records orders --before -1000 --partition 0,1
  firn topic delete-records orders --before -7d`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			topic := args[0]
			if before == "" {
				return fmt.Errorf("%w: --before: say up to where, for example end", client.ErrUsage)
			}
			to, err := parsePosition("before", before, time.Now())
			if err != nil {
				return err
			}
			if err := confirm(cmd.Context(), e, yes, "delete records of topic "+topic+" before "+before); err != nil {
				return err
			}
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				v, err := deleteRecords(ctx, adm, topic, partitions, to)
				return errors.Join(a.printEmptied(v), err)
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().StringVar(&before, "before", "", "POSITION before which records are deleted")
	cmd.Flags().IntSliceVar(&partitions, "partition", nil, "partitions to delete from, all if not given")
	yesFlag(cmd, &yes)
	cmd.ValidArgsFunction = completeTopics(a.remote, 1)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("before", cobra.FixedCompletions([]string{"end"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// deleteRecords deletes what lies before a position. The error is about the partitions that are not in the view.
func deleteRecords(ctx context.Context, adm *kadm.Client, topic string, partitions []int, to position) (emptiedView, error) {
	v := emptiedView{Topic: topic, Partitions: []emptiedPartitionView{}}
	found, err := findTopics(ctx, adm, "delete records of", []string{topic}, partitions)
	if err != nil {
		return v, err
	}
	b, err := listBounds(ctx, adm, false, topic)
	if err != nil {
		return v, err
	}
	offsets := kadm.Offsets{}
	for _, partition := range found[topic] {
		offset, err := b.find(ctx, to, topic, partition)
		if err != nil {
			return v, err
		}
		offsets.AddOffset(topic, partition, offset, -1)
	}
	answers, err := adm.DeleteRecords(ctx, offsets)
	var errs []error
	if err != nil {
		errs = append(errs, fmt.Errorf("delete records of topic %q: %w", topic, err))
	}
	for _, partition := range slices.Sorted(maps.Keys(answers[topic])) {
		answer := answers[topic][partition]
		if answer.Err != nil {
			errs = append(errs, client.TopicError(fmt.Sprintf("delete records of partition %d of", partition), topic, answer.Err, ""))
			continue
		}
		v.Partitions = append(v.Partitions, emptiedPartitionView{partition, answer.LowWatermark})
	}
	return v, errors.Join(errs...)
}

func (a *admin) printEmptied(v emptiedView) error {
	if len(v.Partitions) == 0 {
		return nil
	}
	if a.output == "json" {
		return writeJSON(a.env.Stdout, v)
	}
	for _, p := range v.Partitions {
		if _, err := fmt.Fprintf(a.env.Stdout, "topic %s partition %d: starts at offset %d\n", v.Topic, p.Partition, p.LogStart); err != nil {
			return err
		}
	}
	return nil
}

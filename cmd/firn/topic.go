package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
)

// topicCommand is what the commands below topic share.
type topicCommand struct {
	env     env
	brokers []string
	timeout time.Duration
	output  string
}

func newTopic(e env) *cobra.Command {
	cmd := group(&cobra.Command{Use: "topic", Short: "Create, list, describe and delete topics of any Kafka"})
	cmd.AddCommand(newTopicCreate(e))
	cmd.AddCommand(newTopicList(e))
	cmd.AddCommand(newTopicDescribe(e))
	cmd.AddCommand(newTopicDelete(e))
	return cmd
}

func (t *topicCommand) flags(cmd *cobra.Command) {
	brokersFlag(cmd, t.env, &t.brokers)
	cmd.Flags().DurationVar(&t.timeout, "timeout", 30*time.Second, "how long to wait for the brokers")
	outputFlag(cmd, &t.output)
}

// admin opens a client and calls do with it, all within the timeout.
func (t *topicCommand) admin(ctx context.Context, do func(ctx context.Context, adm *kadm.Client) error) error {
	if t.timeout <= 0 {
		return fmt.Errorf("%w: --timeout: %s is not above 0", client.ErrUsage, t.timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	cl, err := connect(ctx, t.brokers)
	if err != nil {
		return err
	}
	defer cl.Close()
	return do(ctx, kadm.NewClient(cl))
}

func newTopicCreate(e env) *cobra.Command {
	t := &topicCommand{env: e}
	var partitions, replicas int
	var settings []string
	cmd := &cobra.Command{
		Use:     "create TOPIC...",
		Short:   "Create topics and wait until they can be written to",
		Example: "  firn topic create orders --partitions 12 --config retention.ms=86400000",
		Args:    arguments(cobra.MinimumNArgs(1)),
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
			return t.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				if err := topics.Create(ctx, adm); err != nil {
					return err
				}
				return t.done("created", names)
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().IntVar(&partitions, "partitions", -1, "partitions of each topic, -1 for the broker's default")
	cmd.Flags().IntVar(&replicas, "replication-factor", -1, "replicas of each partition, -1 for the broker's default")
	cmd.Flags().StringArrayVar(&settings, "config", nil, "topic setting as key=value, may be repeated")
	return cmd
}

func newTopicDelete(e env) *cobra.Command {
	t := &topicCommand{env: e}
	cmd := &cobra.Command{
		Use:   "delete TOPIC...",
		Short: "Delete topics and all their records",
		Args:  arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			return t.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				answers, err := adm.DeleteTopics(ctx, names...)
				if err != nil {
					return fmt.Errorf("delete topics: %w", err)
				}
				var deleted []string
				var errs []error
				for _, a := range answers.Sorted() {
					if a.Err != nil {
						errs = append(errs, client.TopicError("delete", a.Topic, a.Err, a.ErrMessage))
						continue
					}
					deleted = append(deleted, a.Topic)
				}
				return errors.Join(append(errs, t.done("deleted", deleted))...)
			})
		},
	}
	t.flags(cmd)
	return cmd
}

// done prints what happened to topics.
func (t *topicCommand) done(what string, names []string) error {
	if t.output == "json" {
		return writeJSON(t.env.Stdout, map[string][]string{what: slices.Concat([]string{}, names)})
	}
	for _, name := range names {
		if _, err := fmt.Fprintf(t.env.Stdout, "%s %s\n", what, name); err != nil {
			return err
		}
	}
	return nil
}

// topicView is a topic as list and describe print it.
type topicView struct {
	Name              string          `json:"name"`
	ID                string          `json:"id"`
	Internal          bool            `json:"internal"`
	PartitionCount    int             `json:"partition_count"`
	ReplicationFactor int             `json:"replication_factor"`
	Partitions        []partitionView `json:"partitions,omitempty"`
	Configs           []configView    `json:"configs,omitempty"`
}

type partitionView struct {
	Partition     int32   `json:"partition"`
	Leader        int32   `json:"leader"`
	Replicas      []int32 `json:"replicas"`
	ISR           []int32 `json:"isr"`
	LogStart      int64   `json:"log_start_offset"`
	HighWatermark int64   `json:"high_watermark"`
}

type configView struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

func viewOf(d kadm.TopicDetail) topicView {
	return topicView{
		Name: d.Topic, ID: d.ID.String(), Internal: d.IsInternal,
		PartitionCount: len(d.Partitions), ReplicationFactor: d.Partitions.NumReplicas(),
	}
}

func newTopicList(e env) *cobra.Command {
	t := &topicCommand{env: e}
	var internal bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List topics",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
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
				return t.printList(views)
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&internal, "internal", false, "list the brokers' own topics too")
	return cmd
}

func (t *topicCommand) printList(views []topicView) error {
	if t.output == "json" {
		return writeJSON(t.env.Stdout, views)
	}
	w := tabwriter.NewWriter(t.env.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TOPIC\tPARTITIONS\tREPLICAS")
	for _, v := range views {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\n", v.Name, v.PartitionCount, v.ReplicationFactor)
	}
	return w.Flush()
}

func newTopicDescribe(e env) *cobra.Command {
	t := &topicCommand{env: e}
	var defaults bool
	cmd := &cobra.Command{
		Use:   "describe TOPIC...",
		Short: "Show partitions, offsets and settings of topics",
		Args:  arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			return t.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				views, err := describe(ctx, adm, names, defaults)
				if err != nil {
					return err
				}
				return t.printDescribed(views)
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&defaults, "defaults", false, "show settings that have their default too")
	return cmd
}

func describe(ctx context.Context, adm *kadm.Client, names []string, defaults bool) ([]topicView, error) {
	details, err := adm.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	for _, d := range details.Sorted() {
		if d.Err != nil {
			return nil, client.TopicError("describe", d.Topic, d.Err, "")
		}
	}
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err = errors.Join(err, starts.Error()); err != nil {
		return nil, fmt.Errorf("list log start offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("list high watermarks: %w", err)
	}
	configs, err := adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe topic settings: %w", err)
	}
	views := []topicView{}
	for _, d := range details.Sorted() {
		v := viewOf(d)
		for _, p := range d.Partitions.Sorted() {
			start, _ := starts.Lookup(d.Topic, p.Partition)
			end, _ := ends.Lookup(d.Topic, p.Partition)
			v.Partitions = append(v.Partitions, partitionView{p.Partition, p.Leader, p.Replicas, p.ISR, start.Offset, end.Offset})
		}
		resource, err := configs.On(d.Topic, nil)
		if err = errors.Join(err, resource.Err); err != nil {
			return nil, client.TopicError("describe settings of", d.Topic, err, resource.ErrMessage)
		}
		for _, c := range resource.Configs {
			if defaults || c.Source == kmsg.ConfigSourceDynamicTopicConfig {
				v.Configs = append(v.Configs, configView{c.Key, c.MaybeValue(), c.Source.String()})
			}
		}
		slices.SortFunc(v.Configs, func(a, b configView) int { return strings.Compare(a.Key, b.Key) })
		views = append(views, v)
	}
	return views, nil
}

func (t *topicCommand) printDescribed(views []topicView) error {
	if t.output == "json" {
		return writeJSON(t.env.Stdout, views)
	}
	w := tabwriter.NewWriter(t.env.Stdout, 0, 0, 2, ' ', 0)
	for _, v := range views {
		_, _ = fmt.Fprintf(w, "topic %s, id %s, %d partitions, %d replicas\n", v.Name, v.ID, v.PartitionCount, v.ReplicationFactor)
		for _, c := range v.Configs {
			_, _ = fmt.Fprintf(w, "  %s=%s (%s)\n", c.Key, c.Value, c.Source)
		}
		_, _ = fmt.Fprintln(w, "PARTITION\tLEADER\tREPLICAS\tISR\tLOG START\tHIGH WATERMARK")
		for _, p := range v.Partitions {
			_, _ = fmt.Fprintf(w, "%d\t%d\t%v\t%v\t%d\t%d\n", p.Partition, p.Leader, p.Replicas, p.ISR, p.LogStart, p.HighWatermark)
		}
	}
	return w.Flush()
}

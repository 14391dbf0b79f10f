package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

// consumeCommand prints records.
type consumeCommand struct {
	env        env
	brokers    []string
	from       string
	partitions []int
	count      int
	exitAtEnd  bool
	layout     string
	output     string
}

func newConsume(e env) *cobra.Command {
	c := &consumeCommand{env: e}
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Print records of a topic, without a consumer group",
		Long: `Print records of a topic, without a consumer group, until interrupted.

--from is start, end, an offset, or a time such as 2024-03-01T12:00:00Z.

` + formatHelp,
		Example: "  firn consume orders --from start --exit-at-end --format '%p/%o %k=%v\\n'",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.output == "json" && cmd.Flags().Changed("format") {
				return fmt.Errorf("%w: --format and -o json exclude each other, drop one", client.ErrUsage)
			}
			return c.run(cmd.Context(), args[0])
		},
	}
	brokersFlag(cmd, e, &c.brokers)
	cmd.Flags().StringVar(&c.from, "from", "end", "where to start: start, end, an offset, or an RFC 3339 time")
	cmd.Flags().IntSliceVar(&c.partitions, "partition", nil, "partitions to read, all if not given")
	cmd.Flags().IntVar(&c.count, "count", 0, "records to print before exiting, 0 for no limit")
	cmd.Flags().BoolVar(&c.exitAtEnd, "exit-at-end", false, "exit once the end that partitions have now is reached")
	cmd.Flags().StringVar(&c.layout, "format", `%v\n`, "how to print a record, see above")
	outputFlag(cmd, &c.output)
	return cmd
}

// position is a parsed --from.
type position struct {
	kind   string // "start", "end", "offset" or "time"
	offset int64
	time   time.Time
}

// parsePosition reads a --from. Errors wrap client.ErrUsage.
func parsePosition(s string) (position, error) {
	if s == "start" || s == "end" {
		return position{kind: s}, nil
	}
	if offset, err := strconv.ParseInt(s, 10, 64); err == nil && offset >= 0 {
		return position{kind: "offset", offset: offset}, nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return position{kind: "time", time: at}, nil
	}
	return position{}, fmt.Errorf("%w: --from: %q is neither start, end, an offset, nor a time such as 2024-03-01T12:00:00Z", client.ErrUsage, s)
}

// span is what to read of a partition: offsets from next up to end, which is ignored unless the command exits there.
type span struct {
	next, end int64
}

// planPartition finds the span of one partition whose offsets are start to end. atTime is the first offset at the
// wanted time, or -1 where there is none.
func (p position) planPartition(partition int32, start, end, atTime int64) (span, error) {
	switch p.kind {
	case "start":
		return span{start, end}, nil
	case "end":
		return span{end, end}, nil
	case "time":
		if atTime < 0 {
			return span{end, end}, nil
		}
		return span{atTime, end}, nil
	}
	if p.offset < start || p.offset > end {
		return span{}, fmt.Errorf("partition %d holds offsets %d up to, not including, %d: --from %d lies outside", partition, start, end, p.offset)
	}
	return span{p.offset, end}, nil
}

func (c *consumeCommand) run(ctx context.Context, topic string) error {
	from, err := parsePosition(c.from)
	if err != nil {
		return err
	}
	show, err := c.printer()
	if err != nil {
		return err
	}
	if c.count < 0 {
		return fmt.Errorf("%w: --count: %d is below 0", client.ErrUsage, c.count)
	}
	cl, err := connect(ctx, c.brokers,
		kgo.KeepControlRecords(), // not printed, but the last offset of a partition may be one
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMinBytes(1),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // starts are resolved here; a jump later on is an error
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	spans, err := c.plan(ctx, kadm.NewClient(cl), topic, from)
	if err != nil {
		return err
	}
	if c.exitAtEnd {
		maps.DeleteFunc(spans, func(_ int32, s span) bool { return s.next >= s.end })
		if len(spans) == 0 {
			return nil
		}
	}
	at := map[int32]kgo.Offset{}
	for partition, s := range spans {
		at[partition] = kgo.NewOffset().At(s.next)
	}
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: at})
	return c.consume(ctx, cl, spans, show)
}

// plan looks up what to read of each wanted partition.
func (c *consumeCommand) plan(ctx context.Context, adm *kadm.Client, topic string, from position) (map[int32]span, error) {
	details, err := adm.ListTopics(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("look up topic %q: %w", topic, err)
	}
	if err := details[topic].Err; err != nil {
		return nil, client.TopicError("consume", topic, err, "")
	}
	wanted := details[topic].Partitions.Numbers()
	if len(c.partitions) > 0 {
		existing := wanted
		wanted = nil
		for _, p := range c.partitions {
			if !slices.ContainsFunc(existing, func(e int32) bool { return int(e) == p }) {
				return nil, fmt.Errorf("%w: --partition: topic %q has no partition %d, it has %d partitions", client.ErrUsage, topic, p, len(existing))
			}
			wanted = append(wanted, int32(p))
		}
	}
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return nil, fmt.Errorf("list the start of topic %q: %w", topic, err)
	}
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("list the end of topic %q: %w", topic, err)
	}
	var times kadm.ListedOffsets
	if from.kind == "time" {
		times, err = adm.ListOffsetsAfterMilli(ctx, from.time.UnixMilli(), topic)
		if err = errors.Join(err, times.Error()); err != nil {
			return nil, fmt.Errorf("list offsets of topic %q at %s: %w", topic, c.from, err)
		}
	}
	spans := map[int32]span{}
	for _, partition := range wanted {
		start, _ := starts.Lookup(topic, partition)
		end, _ := ends.Lookup(topic, partition)
		atTime, ok := times.Lookup(topic, partition)
		if !ok {
			atTime.Offset = -1
		}
		if spans[partition], err = from.planPartition(partition, start.Offset, end.Offset, atTime.Offset); err != nil {
			return nil, fmt.Errorf("topic %q: %w", topic, err)
		}
	}
	return spans, nil
}

// consume prints records until there are enough, the ends are reached, or ctx ends, which is no error.
func (c *consumeCommand) consume(ctx context.Context, cl *kgo.Client, spans map[int32]span, show printer) (err error) {
	out := bufio.NewWriter(c.env.Stdout)
	defer func() { err = errors.Join(err, out.Flush()) }()
	printed := 0
	for {
		fetches := cl.PollFetches(ctx)
		select {
		case <-ctx.Done():
			return nil
		default:
		}
		for _, e := range fetches.Errors() {
			return fmt.Errorf("read topic %q partition %d: %w", e.Topic, e.Partition, e.Err)
		}
		for iter := fetches.RecordIter(); !iter.Done(); {
			r := iter.Next()
			s, wanted := spans[r.Partition]
			if c.exitAtEnd && (!wanted || r.Offset >= s.end) {
				continue
			}
			if !r.Attrs.IsControl() {
				if err := show(out, r); err != nil {
					return err
				}
				if printed++; printed == c.count {
					return nil
				}
			}
			if c.exitAtEnd && r.Offset+1 >= s.end {
				delete(spans, r.Partition)
			}
		}
		if c.exitAtEnd && len(spans) == 0 {
			return nil
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
	}
}

// printer writes one record.
type printer func(w *bufio.Writer, r *kgo.Record) error

func (c *consumeCommand) printer() (printer, error) {
	if c.output == "json" {
		return func(w *bufio.Writer, r *kgo.Record) error { return writeJSONLine(w, recordViewOf(r)) }, nil
	}
	f, err := parseFormat(c.layout)
	if err != nil {
		return nil, err
	}
	var line []byte
	return func(w *bufio.Writer, r *kgo.Record) error {
		line = f.append(line[:0], r)
		_, err := w.Write(line)
		return err
	}, nil
}

// recordView is a record as -o json prints it. Bytes that are not UTF-8 are in base64, and the field's encoding says so.
type recordView struct {
	Topic     string       `json:"topic"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Timestamp int64        `json:"timestamp_ms"`
	Key       *textView    `json:"key"`
	Value     *textView    `json:"value"`
	Headers   []headerView `json:"headers,omitempty"`
}

type headerView struct {
	Key   string    `json:"key"`
	Value *textView `json:"value"`
}

// textView is a byte string in JSON: {"text": …} or {"base64": …}.
type textView struct {
	Text   *string `json:"text,omitempty"`
	Base64 *string `json:"base64,omitempty"`
}

func textViewOf(b []byte) *textView {
	if b == nil {
		return nil
	}
	text := string(b)
	if utf8.Valid(b) {
		return &textView{Text: &text}
	}
	text = base64.StdEncoding.EncodeToString(b)
	return &textView{Base64: &text}
}

func recordViewOf(r *kgo.Record) recordView {
	v := recordView{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(),
		Key: textViewOf(r.Key), Value: textViewOf(r.Value),
	}
	for _, h := range r.Headers {
		v.Headers = append(v.Headers, headerView{h.Key, textViewOf(h.Value)})
	}
	return v
}

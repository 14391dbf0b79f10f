package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

// consumeCommand prints records.
type consumeCommand struct {
	env        env
	remote     *remote
	from, to   string
	offsets    []string
	partitions []int
	count      int
	exitAtEnd  bool
	isolation  string
	layout     string
	output     string
	group      string
}

func newConsume(e env) *cobra.Command {
	c := &consumeCommand{env: e}
	cmd := &cobra.Command{
		Use:   "consume TOPIC...",
		Short: "Print records of topics, alone or as a member of a consumer group",
		Long: `Print records of topics until interrupted; with --to, --exit-at-end or --count until there. Within a partition records come
in their order; across partitions in no particular one.

With --group the partitions are shared with the other members of that group, each goes on from what the group has committed,
and what was printed is committed: after every few seconds, when partitions go to another member, and at the end. --from then
counts only for partitions of which nothing is committed.

` + positionHelp + `

` + formatHelp + `

-o json prints a JSON object a line, which firn produce --format json takes.`,
		Example: `  firn consume orders --from start --exit-at-end --format '%p/%o %k=%v\n'
  firn consume orders --from -10 --exit-at-end
  firn consume orders --from -1h --to end -o json | firn produce copy --format json
  firn consume orders --partition 3 --offset 3:1200 --count 1 --format '%T{rfc3339} %v{hex}\n'
  firn consume orders clicks --group billing --from start -o json`,
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.output == "json" && cmd.Flags().Changed("format") {
				return fmt.Errorf("%w: --format and -o json exclude each other, drop one", client.ErrUsage)
			}
			if !cmd.Flags().Changed("group") {
				return c.run(cmd.Context(), args)
			}
			for _, flag := range []string{"to", "offset", "partition", "exit-at-end"} {
				if cmd.Flags().Changed(flag) {
					return fmt.Errorf("%w: --%s: the partitions of a group are handed out by the group, use --count or leave out --group", client.ErrUsage, flag)
				}
			}
			return c.runGroup(cmd.Context(), args)
		},
	}
	c.remote = remoteFlags(cmd, e)
	cmd.ValidArgsFunction = completeTopics(c.remote, 0)
	cmd.Flags().StringVar(&c.from, "from", "end", "POSITION to start from")
	cmd.Flags().StringVar(&c.to, "to", "", "POSITION to end before; without it there is no end")
	cmd.Flags().StringArrayVar(&c.offsets, "offset", nil, "POSITION to start a partition from instead, as partition:position, may be repeated")
	cmd.Flags().IntSliceVar(&c.partitions, "partition", nil, "partitions to read, all if not given")
	cmd.Flags().IntVar(&c.count, "count", 0, "records to print before exiting, 0 for no limit")
	cmd.Flags().BoolVar(&c.exitAtEnd, "exit-at-end", false, "exit once the end that partitions have now is reached")
	cmd.Flags().StringVar(&c.group, "group", "", "consumer group to be a member of")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("group", completeGroups(c.remote, 0)))
	choiceFlag(cmd, &c.isolation, "isolation", "", "uncommitted", "uncommitted|committed", "whether records of open and aborted transactions are read")
	cmd.Flags().StringVar(&c.layout, "format", `%v\n`, "how to print a record, see above")
	outputFlag(cmd, &c.output)
	for flag, words := range map[string][]string{"from": {"start", "end"}, "to": {"end"}} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
	}
	return cmd
}

// place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

// span is what to read of a partition: offsets from next up to, not including, end.
type span struct {
	next, end int64
}

// endless is the end of a span that has none.
const endless = math.MaxInt64

// plan is a parsed command line.
type plan struct {
	from    position
	to      *position
	offsets map[int32]position
}

// parse reads the positions of the command line. Errors wrap client.ErrUsage.
func (c *consumeCommand) parse(topics []string, now time.Time) (p plan, err error) {
	if p.from, err = parsePosition("from", c.from, now); err != nil {
		return p, err
	}
	if c.to != "" {
		to, err := parsePosition("to", c.to, now)
		if err != nil {
			return p, err
		}
		p.to = &to
	}
	if c.count < 0 {
		return p, fmt.Errorf("%w: --count: %d is below 0", client.ErrUsage, c.count)
	}
	if len(c.offsets) > 0 && len(topics) > 1 {
		return p, fmt.Errorf("%w: --offset: it is for one topic, and there are %d", client.ErrUsage, len(topics))
	}
	p.offsets = map[int32]position{}
	for _, o := range c.offsets {
		left, right, ok := strings.Cut(o, ":")
		partition, err := strconv.ParseInt(left, 10, 32)
		if !ok || err != nil || partition < 0 {
			return p, fmt.Errorf("%w: --offset: %q is not partition:position, for example 3:1200", client.ErrUsage, o)
		}
		if _, twice := p.offsets[int32(partition)]; twice {
			return p, fmt.Errorf("%w: --offset: partition %d is given twice, give it once", client.ErrUsage, partition)
		}
		if p.offsets[int32(partition)], err = parsePosition("offset", right, now); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (c *consumeCommand) run(ctx context.Context, topics []string) error {
	p, err := c.parse(topics, time.Now())
	if err != nil {
		return err
	}
	show, err := c.printer()
	if err != nil {
		return err
	}
	isolation := kgo.ReadUncommitted()
	if c.isolation == "committed" {
		isolation = kgo.ReadCommitted()
	}
	cl, err := c.remote.connect(ctx,
		kgo.KeepRetryableFetchErrors(),
		kgo.KeepControlRecords(), // not printed, but the last offset of a partition may be one
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMinBytes(1),
		kgo.FetchIsolationLevel(isolation),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // starts are resolved here; a jump later on is an error
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	spans, err := c.spans(ctx, kadm.NewClient(cl), topics, p)
	if err != nil {
		return err
	}
	maps.DeleteFunc(spans, func(_ place, s span) bool { return s.next >= s.end })
	if len(spans) == 0 {
		return nil
	}
	at := map[string]map[int32]kgo.Offset{}
	for where, s := range spans {
		if at[where.topic] == nil {
			at[where.topic] = map[int32]kgo.Offset{}
		}
		at[where.topic][where.partition] = kgo.NewOffset().At(s.next)
	}
	cl.AddConsumePartitions(at)
	return c.consume(ctx, cl, spans, show)
}

// spans looks up what to read of each wanted partition.
func (c *consumeCommand) spans(ctx context.Context, adm *kadm.Client, topics []string, p plan) (map[place]span, error) {
	wanted, err := findTopics(ctx, adm, "consume", topics, c.partitions)
	if err != nil {
		return nil, err
	}
	b, err := listBounds(ctx, adm, c.isolation == "committed", topics...)
	if err != nil {
		return nil, err
	}
	spans := map[place]span{}
	for topic, partitions := range wanted {
		for _, partition := range partitions {
			from, ok := p.offsets[partition]
			if !ok {
				from = p.from
			}
			s := span{end: endless}
			if s.next, err = b.find(ctx, from, topic, partition); err != nil {
				return nil, err
			}
			switch {
			case p.to == nil:
			case p.to.kind == "offset": // may lie in the future
				s.end = p.to.offset
			default:
				if s.end, err = b.find(ctx, *p.to, topic, partition); err != nil {
					return nil, err
				}
			}
			if c.exitAtEnd {
				end, _ := b.ends.Lookup(topic, partition)
				s.end = min(s.end, end.Offset)
			}
			spans[place{topic, partition}] = s
		}
	}
	for partition := range p.offsets {
		if _, ok := spans[place{topics[0], partition}]; !ok {
			return nil, fmt.Errorf("--offset: partition %d of topic %q is not among those that are read: %w", partition, topics[0], client.ErrNotFound)
		}
	}
	return spans, nil
}

// consume prints records until there are enough or all spans are read. The end of ctx is an error only where there was to
// be another.
func (c *consumeCommand) consume(ctx context.Context, cl *kgo.Client, spans map[place]span, show printer) (err error) {
	out := bufio.NewWriter(c.env.Stdout)
	defer func() { err = errors.Join(err, out.Flush()) }()
	tails := newTails(cl, c.isolation == "committed")
	vain := inVain{w: c.env.Stderr}
	printed := 0
	for {
		fetches := tails.poll(ctx, spans)
		if err := ctx.Err(); err != nil {
			if c.count > 0 || c.exitAtEnd || c.to != "" {
				return fmt.Errorf("stopped after %d records: %w", printed, err)
			}
			return nil
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, context.DeadlineExceeded) || vain.read(e) { // of poll
				continue
			}
			return fmt.Errorf("read topic %q partition %d: %w", e.Topic, e.Partition, e.Err)
		}
		if fetches.NumRecords() == 0 {
			tails.pass(ctx, spans)
		}
		for iter := fetches.RecordIter(); !iter.Done(); {
			r := iter.Next()
			where := place{r.Topic, r.Partition}
			s, wanted := spans[where]
			if !wanted || r.Offset >= s.end {
				delete(spans, where)
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
			s.next = r.Offset + 1
			spans[where] = s
			if s.next >= s.end {
				delete(spans, where)
			}
		}
		if len(spans) == 0 {
			return nil
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
	}
}

// inVain tells once of each partition whose records the agents cannot get from the bucket: clients try again for ever, as they do while
// leaders move, and nothing else would say why nothing comes.
type inVain struct {
	w    io.Writer
	told map[place]bool
}

// read reports whether an error is one of reading after which the client tries again. What is of no topic is of its group, and told.
func (v *inVain) read(e kgo.FetchError) bool {
	if e.Topic == "" {
		return false
	}
	at := place{e.Topic, e.Partition}
	if errors.Is(e.Err, kerr.KafkaStorageError) && !v.told[at] {
		if v.told == nil {
			v.told = make(map[place]bool)
		}
		v.told[at] = true
		_, _ = fmt.Fprintf(v.w, "firn: topic %q partition %d cannot be read from where it is kept, and is tried again until it can: %v\n", e.Topic, e.Partition, e.Err)
	}
	return kerr.IsRetriable(e.Err)
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

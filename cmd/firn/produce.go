package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

const (
	batchBytesDefault = 1_000_012 // as Kafka's own clients and brokers
	batchBytesMax     = 64 << 20
	lingerMax         = time.Minute
)

// failuresNamed is how many failed records are named one by one.
const failuresNamed = 10

// produceCommand sends lines, JSON lines or whole files.
type produceCommand struct {
	env              env
	remote           *remote
	files            []string
	wholeFile        bool
	format           string
	separator        string
	headersSeparator string
	key              string
	nullValue        string
	headers          []string
	timestamp        string
	partition        int
	keepPartitions   bool
	partitioner      string
	codec            string
	acks             string
	idempotent       bool
	batchBytes       int
	linger           time.Duration
	timeout          time.Duration
	quiet            bool
	output           string
	given            func(flag string) bool
}

func newProduce(e env) *cobra.Command {
	p := &produceCommand{env: e}
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Send lines of standard input or of files as records",
		Long: `Send each line of standard input, or of files, as a record, without its line end.

With --key-separator a line is a key, the separator and a value; with --headers-separator headers come before that, as
name=value,name=value and the separator. A line that has no separator ends the command.

--format json takes JSON lines as firn consume -o json prints them, so that keys, values, headers, nulls, bytes of any kind
and timestamps come out as they went in. Only value is needed, and a string will do: {"key": "a", "value": "b"}.

On a terminal a bar on standard error shows how far it is. At the end a line there says how many records were acknowledged
and how many were not; -o json prints that to standard output instead. The first failures are named by file, line and
reason. Input is read as fast as records are acknowledged, in bounded memory.`,
		Example: `  echo 'alice:hello' | firn produce greetings --key-separator :
  firn produce orders --file orders.jsonl --format json
  firn produce images --file a.png --file b.png --whole-file --batch-bytes 8000000
  firn consume orders --from start --exit-at-end -o json | firn produce copy --format json`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return p.run(cmd.Context(), args[0]) },
	}
	p.given = func(flag string) bool { return cmd.Flags().Changed(flag) }
	p.remote = remoteFlags(cmd, e)
	cmd.ValidArgsFunction = completeTopics(p.remote, 1)
	f := cmd.Flags()
	f.StringArrayVar(&p.files, "file", nil, "file to read instead of standard input, which is -; may be repeated")
	f.BoolVar(&p.wholeFile, "whole-file", false, "send each file as one record")
	choiceFlag(cmd, &p.format, "format", "", "lines", "lines|json", "what a line of input is")
	f.StringVar(&p.separator, "key-separator", "", "text between key and value; without it records have no key")
	f.StringVar(&p.headersSeparator, "headers-separator", "", "text between headers, which come first, and the rest")
	f.StringVar(&p.key, "key", "", "key of every record")
	f.StringVar(&p.nullValue, "null-value", "", "value that stands for null, which deletes a key of a compacted topic")
	f.StringArrayVar(&p.headers, "header", nil, "header of every record as key=value, may be repeated")
	f.StringVar(&p.timestamp, "timestamp", "", "time of every record, in RFC 3339, as @milliseconds or as a time ago such as -1h; without it the time of sending, or that of the JSON")
	f.IntVar(&p.partition, "partition", -1, "partition to send to, -1 to choose by --partitioner")
	f.BoolVar(&p.keepPartitions, "keep-partitions", false, "with --format json, send each record to the partition it names")
	choiceFlag(cmd, &p.partitioner, "partitioner", "", "key", "key|round-robin|sticky", "how a partition is chosen: by hash of the key as Kafka's clients do, by turns, or one a batch whatever the key")
	choiceFlag(cmd, &p.codec, "codec", "", "none", client.CodecNames, "compression of record batches")
	choiceFlag(cmd, &p.acks, "acks", "", "all", "all|1|0", "replicas that must have a record before it counts as sent")
	f.BoolVar(&p.idempotent, "idempotent", true, "let the broker drop repetitions that retries cause; needs --acks all")
	f.IntVar(&p.batchBytes, "batch-bytes", batchBytesDefault, "most bytes of a record batch, and so of a record")
	f.DurationVar(&p.linger, "linger", 5*time.Millisecond, "how long to wait for more records to fill a batch")
	f.DurationVar(&p.timeout, "timeout", 2*time.Minute, "how long to try to send one record")
	f.BoolVar(&p.quiet, "quiet", false, "no bar and no counts")
	outputFlag(cmd, &p.output)
	for _, flag := range []string{"key-separator", "headers-separator", "key", "null-value", "header", "timestamp"} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions))
	}
	return cmd
}

// check returns what cannot be in the command line. Errors wrap client.ErrUsage.
func (p *produceCommand) check() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{client.ErrUsage}, args...)...))
	}
	if p.idempotent && p.acks != "all" {
		wrong("--acks %s: an idempotent producer needs all, add --idempotent=false", p.acks)
	}
	if p.partition < -1 || p.partition > math.MaxInt32 {
		wrong("--partition: %d is neither -1 nor a partition", p.partition)
	}
	if p.timeout < time.Second {
		wrong("--timeout: %s is below 1s", p.timeout)
	}
	if p.batchBytes < 1<<10 || p.batchBytes > batchBytesMax {
		wrong("--batch-bytes: %d is not between %d and %d", p.batchBytes, 1<<10, batchBytesMax)
	}
	if p.linger < 0 || p.linger > lingerMax {
		wrong("--linger: %s is not between 0s and %s", p.linger, lingerMax)
	}
	for _, flag := range []string{"key-separator", "headers-separator"} {
		if value := map[string]string{"key-separator": p.separator, "headers-separator": p.headersSeparator}[flag]; p.given(flag) && value == "" {
			wrong("--%s: it is empty, give the text between the two", flag)
		}
	}
	if p.given("key") && p.separator != "" {
		wrong("--key and --key-separator exclude each other, drop one")
	}
	if p.format == "json" {
		for _, flag := range []string{"key-separator", "headers-separator", "key", "null-value", "whole-file"} {
			if p.given(flag) {
				wrong("--%s: with --format json the JSON says it, drop one", flag)
			}
		}
	}
	if p.keepPartitions && (p.format != "json" || p.partition >= 0) {
		wrong("--keep-partitions: it is for --format json without --partition")
	}
	if p.wholeFile {
		if len(p.files) == 0 {
			wrong("--whole-file: name the files with --file")
		}
		for _, flag := range []string{"key-separator", "headers-separator"} {
			if p.given(flag) {
				wrong("--%s: with --whole-file all of a file is the value, drop one", flag)
			}
		}
	}
	return errors.Join(errs...)
}

func (p *produceCommand) options(topic string) ([]kgo.Opt, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	codec, err := client.Codec(p.codec)
	if err != nil {
		return nil, err
	}
	acks, err := client.Acks(p.acks)
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.DefaultProduceTopic(topic),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(int32(p.batchBytes)),
		kgo.RequiredAcks(acks),
		kgo.ProducerLinger(p.linger),
		kgo.MaxBufferedRecords(100_000),
		kgo.MaxBufferedBytes(64 << 20),
		kgo.UnknownTopicRetries(4),
		kgo.AllowAutoTopicCreation(), // where the broker allows it too
	}
	switch {
	case p.partition >= 0 || p.keepPartitions:
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	case p.partitioner == "round-robin":
		opts = append(opts, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	case p.partitioner == "sticky":
		opts = append(opts, kgo.RecordPartitioner(kgo.StickyPartitioner()))
	default:
		opts = append(opts, kgo.RecordPartitioner(kgo.UniformBytesPartitioner(64<<10, true, true, nil)))
	}
	if !p.idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	return opts, nil
}

// parser returns what makes a record of a line.
func (p *produceCommand) parser() (func(line []byte) (*kgo.Record, error), error) {
	headers, err := parseHeaders("--header", p.headers)
	if err != nil {
		return nil, err
	}
	var at time.Time
	if p.timestamp != "" {
		parsed, err := parsePosition("timestamp", p.timestamp, time.Now())
		if err != nil || parsed.kind != "time" {
			return nil, fmt.Errorf("%w: --timestamp: %q is not a time such as 2024-03-01T12:00:00Z, @1709294400000 or -1h", client.ErrUsage, p.timestamp)
		}
		at = parsed.time
	}
	return func(line []byte) (*kgo.Record, error) {
		r := &kgo.Record{Value: line}
		var err error
		if p.format == "json" {
			r, err = parseRecord(line)
		} else {
			err = p.split(r)
		}
		if err != nil {
			return nil, err
		}
		r.Headers = append(r.Headers, headers...)
		if !at.IsZero() {
			r.Timestamp = at
		}
		if !p.keepPartitions {
			r.Partition = int32(max(p.partition, 0))
		}
		return r, nil
	}, nil
}

// split takes headers and key off a record's value.
func (p *produceCommand) split(r *kgo.Record) error {
	if p.headersSeparator != "" {
		left, rest, ok := bytes.Cut(r.Value, []byte(p.headersSeparator))
		if !ok {
			return fmt.Errorf("no headers separator %q", p.headersSeparator)
		}
		r.Value = rest
		if len(left) > 0 {
			headers, err := parseHeaders("headers", strings.Split(string(left), ","))
			if err != nil {
				return errors.New(strings.TrimPrefix(err.Error(), client.ErrUsage.Error()+": ")) // it is the input that is wrong
			}
			r.Headers = headers
		}
	}
	if p.separator != "" {
		key, value, ok := bytes.Cut(r.Value, []byte(p.separator))
		if !ok {
			return fmt.Errorf("no key separator %q", p.separator)
		}
		r.Key, r.Value = key, value
	}
	if p.given("key") {
		r.Key = []byte(p.key)
	}
	if p.given("null-value") && string(r.Value) == p.nullValue {
		r.Value = nil
	}
	return nil
}

func (p *produceCommand) run(ctx context.Context, topic string) error {
	opts, err := p.options(topic)
	if err != nil {
		return err
	}
	parse, err := p.parser()
	if err != nil {
		return err
	}
	sources, err := findSources(p.env.Stdin, p.files)
	if err != nil {
		return err
	}
	cl, err := p.remote.connect(ctx, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	if p.partition >= 0 {
		if err := p.findPartition(ctx, cl, topic); err != nil {
			return err
		}
	}
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s := &sending{cl: cl, deadlines: deadlines{parent: context.WithoutCancel(ctx), timeout: p.timeout}, topic: topic, stop: stop, progress: progress{label: topic, began: time.Now()}}
	s.progress.total = total(sources)
	if columns, is := p.env.terminal(p.env.Stderr); is && !p.quiet {
		if p.typed(sources) {
			_, _ = fmt.Fprintln(p.env.Stderr, "each line is a record; end with Ctrl-D on a line of its own")
		} else {
			s.progress.start(p.env.Stderr, columns)
		}
	}
	inputErr := p.read(reading, sources, parse, s)
	if errors.Is(inputErr, errGivenUp) {
		inputErr = nil // the records say why
	}
	// What was read is sent, also after a signal or a bad line; the records' deadlines bound the wait.
	flushing, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout+10*time.Second)
	defer cancel()
	flushErr := cl.Flush(flushing)
	s.deadlines.end()
	s.progress.stop()
	return errors.Join(inputErr, flushErr, p.report(s))
}

// findPartition makes sure that the topic, where it is there, has the partition that was asked for.
func (p *produceCommand) findPartition(ctx context.Context, cl *kgo.Client, topic string) error {
	_, err := findTopics(ctx, kadm.NewClient(cl), "produce to", []string{topic}, []int{p.partition})
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil // the broker may make it; if not, the record's error says so
	}
	return err
}

// typed says whether somebody types the input, who does not want a bar between the lines.
func (p *produceCommand) typed(sources []source) bool {
	_, is := p.env.terminal(p.env.Stdin)
	for _, s := range sources {
		if is && s.path == "" {
			return true
		}
	}
	return false
}

// total adds up the sizes of sources, -1 where one is not known.
func total(sources []source) int64 {
	var sum int64
	for _, s := range sources {
		if s.size < 0 {
			return -1
		}
		sum += s.size
	}
	return sum
}

// read sends what the sources hold.
func (p *produceCommand) read(ctx context.Context, sources []source, parse func([]byte) (*kgo.Record, error), s *sending) error {
	for _, src := range sources {
		r, done, err := src.open(p.env.Stdin, &s.progress.read)
		if err != nil {
			return err
		}
		if p.wholeFile {
			err = p.readFile(ctx, src.name, r, parse, s)
		} else {
			err = eachLine(ctx, src.name, r, func(number int, line []byte) error {
				record, err := parse(line)
				if err != nil {
					return err
				}
				s.send(record, src.name, number)
				return nil
			})
		}
		done()
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *produceCommand) readFile(ctx context.Context, name string, r io.Reader, parse func([]byte) (*kgo.Record, error), s *sending) error {
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before %s: %w", name, context.Cause(ctx))
	}
	content, err := readWhole(name, r)
	if err != nil {
		return err
	}
	record, err := parse(content)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.send(record, name, 0)
	return nil
}

// errGivenUp stops the reading of input whose records cannot be sent, whatever they are.
var errGivenUp = errors.New("given up")

// deadlines hands out contexts that end after a timeout, one for all records of a second. The client's own timeout of
// records counts from their timestamps, which may be those of records copied from elsewhere.
type deadlines struct {
	parent  context.Context // not ended by a signal
	timeout time.Duration
	current context.Context
	renew   time.Time
	cancels []context.CancelFunc
}

// next returns the context of a record that is sent now.
func (d *deadlines) next() context.Context {
	if now := time.Now(); d.current == nil || now.After(d.renew) {
		var cancel context.CancelFunc
		d.current, cancel = context.WithTimeout(d.parent, d.timeout)
		d.renew = now.Add(time.Second)
		if len(d.cancels) > int(d.timeout/time.Second)+1 { // the oldest has ended by itself
			d.cancels[0]()
			d.cancels = d.cancels[1:]
		}
		d.cancels = append(d.cancels, cancel)
	}
	return d.current
}

// end releases all contexts, once no record needs them.
func (d *deadlines) end() {
	for _, cancel := range d.cancels {
		cancel()
	}
}

// sending is a run of produce: it sends records and counts outcomes.
type sending struct {
	cl        *kgo.Client
	deadlines deadlines
	topic     string
	stop      context.CancelCauseFunc // of reading
	progress  progress

	mu     sync.Mutex // guards failed
	failed []error    // the first failuresNamed
}

// send sends a record that was read from a line of a source, or from a whole one where line is 0.
func (s *sending) send(r *kgo.Record, source string, line int) {
	size := int64(len(r.Key) + len(r.Value))
	s.cl.Produce(s.deadlines.next(), r, func(_ *kgo.Record, err error) {
		if err == nil {
			s.progress.records.Add(1)
			s.progress.bytes.Add(size)
			return
		}
		s.fail(err, source, line)
	})
}

func (s *sending) fail(err error, source string, line int) {
	if client.NotFound(err) || client.Denied(err) || client.NoAnswer(err) {
		s.stop(errGivenUp) // the next record would fare no better
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.progress.failed.Add(1) > failuresNamed {
		return
	}
	where := source
	if line > 0 {
		where = fmt.Sprintf("%s line %d", source, line)
	}
	err = fmt.Errorf("%s: %w", where, client.TopicError("produce to", s.topic, err, ""))
	s.failed = append(s.failed, err)
}

// producedView is the outcome as -o json prints it.
type producedView struct {
	Topic        string  `json:"topic"`
	Acknowledged int64   `json:"acknowledged"`
	Failed       int64   `json:"failed"`
	Bytes        int64   `json:"bytes"` // of keys and values of acknowledged records
	Seconds      float64 `json:"seconds"`
}

// report prints the counts and returns the failures.
func (p *produceCommand) report(s *sending) error {
	took := time.Since(s.progress.began)
	v := producedView{s.topic, s.progress.records.Load(), s.progress.failed.Load(), s.progress.bytes.Load(), math.Round(took.Seconds()*1000) / 1000}
	var err error
	switch {
	case p.output == "json":
		err = writeJSON(p.env.Stdout, v)
	case !p.quiet:
		seconds := max(took.Seconds(), 0.001)
		_, _ = fmt.Fprintf(p.env.Stderr, "%d records acknowledged, %d failed; %s in %.1f s, %.0f records/s, %s/s\n", v.Acknowledged, v.Failed,
			bytesText(float64(v.Bytes)), seconds, float64(v.Acknowledged)/seconds, bytesText(float64(v.Bytes)/seconds))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := s.failed
	if more := v.Failed - int64(len(errs)); more > 0 {
		errs = append(errs, fmt.Errorf("and %d more records failed", more))
	}
	return errors.Join(append(errs, err)...)
}

// parseHeaders reads headers given as key=value. Errors wrap client.ErrUsage.
func parseHeaders(what string, list []string) ([]kgo.RecordHeader, error) {
	var headers []kgo.RecordHeader
	for _, h := range list {
		key, value, ok := strings.Cut(h, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%w: %s: %q is not key=value", client.ErrUsage, what, h)
		}
		headers = append(headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	return headers, nil
}

package main

import (
	"bufio"
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
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

// lineBytesMax bounds one line of input.
const lineBytesMax = 16 << 20

// produceCommand sends lines of standard input.
type produceCommand struct {
	env        env
	brokers    []string
	separator  string
	partition  int
	headers    []string
	codec      string
	acks       string
	idempotent bool
	timeout    time.Duration
}

func newProduce(e env) *cobra.Command {
	p := &produceCommand{env: e}
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Send each line of standard input as a record",
		Long: `Send each line of standard input as a record, without its line end.

With --key-separator a line is a key, the separator and a value; a line without the separator ends the command.
Counts go to standard error. The exit code is 1 if any record was not acknowledged.`,
		Example: "  echo 'alice:hello' | firn produce greetings --key-separator :",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE:    func(cmd *cobra.Command, args []string) error { return p.run(cmd.Context(), args[0]) },
	}
	brokersFlag(cmd, e, &p.brokers)
	cmd.Flags().StringVar(&p.separator, "key-separator", "", "text between key and value; without it records have no key")
	cmd.Flags().IntVar(&p.partition, "partition", -1, "partition to send to, -1 to choose by key")
	cmd.Flags().StringArrayVar(&p.headers, "header", nil, "header of every record as key=value, may be repeated")
	choiceFlag(cmd, &p.codec, "codec", "", "none", client.CodecNames, "compression of record batches")
	choiceFlag(cmd, &p.acks, "acks", "", "all", "all|1|0", "replicas that must have a record before it counts as sent")
	cmd.Flags().BoolVar(&p.idempotent, "idempotent", true, "let the broker drop repetitions that retries cause; needs --acks all")
	cmd.Flags().DurationVar(&p.timeout, "timeout", 2*time.Minute, "how long to try to send one record")
	return cmd
}

func (p *produceCommand) options(topic string) ([]kgo.Opt, error) {
	codec, err := client.Codec(p.codec)
	if err != nil {
		return nil, err
	}
	acks, err := client.Acks(p.acks)
	if err != nil {
		return nil, err
	}
	switch {
	case p.idempotent && p.acks != "all":
		return nil, fmt.Errorf("%w: --acks %s: an idempotent producer needs all, add --idempotent=false", client.ErrUsage, p.acks)
	case p.partition < -1 || p.partition > math.MaxInt32:
		return nil, fmt.Errorf("%w: --partition: %d is neither -1 nor a partition", client.ErrUsage, p.partition)
	case p.timeout < time.Second:
		return nil, fmt.Errorf("%w: --timeout: %s is below 1s", client.ErrUsage, p.timeout)
	}
	opts := []kgo.Opt{
		kgo.DefaultProduceTopic(topic),
		kgo.ProducerBatchCompression(codec),
		kgo.RequiredAcks(acks),
		kgo.ProducerLinger(5 * time.Millisecond),
		kgo.RecordDeliveryTimeout(p.timeout),
		kgo.MaxBufferedRecords(100_000),
		kgo.MaxBufferedBytes(64 << 20),
		kgo.UnknownTopicRetries(4),
		kgo.AllowAutoTopicCreation(), // where the broker allows it too
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(64<<10, true, true, nil)),
	}
	if p.partition >= 0 {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	if !p.idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	return opts, nil
}

func (p *produceCommand) run(ctx context.Context, topic string) error {
	opts, err := p.options(topic)
	if err != nil {
		return err
	}
	headers, err := parseHeaders(p.headers)
	if err != nil {
		return err
	}
	cl, err := connect(ctx, p.brokers, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	var sent sentCount
	inputErr := eachLine(ctx, p.env.Stdin, func(number int, line []byte) error {
		record := &kgo.Record{Value: line, Headers: headers, Partition: int32(max(p.partition, 0))}
		if p.separator != "" {
			key, value, ok := bytes.Cut(line, []byte(p.separator))
			if !ok {
				return fmt.Errorf("standard input line %d: no key separator %q", number, p.separator)
			}
			record.Key, record.Value = key, value
		}
		cl.Produce(context.WithoutCancel(ctx), record, func(_ *kgo.Record, err error) { sent.add(number, err) })
		return nil
	})
	// What was read is sent, also after a signal or a bad line; RecordDeliveryTimeout bounds the wait.
	flushing, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout+10*time.Second)
	defer cancel()
	flushErr := cl.Flush(flushing)
	return errors.Join(inputErr, flushErr, sent.report(p.env.Stderr, topic))
}

// sentCount counts outcomes.
type sentCount struct {
	mu          sync.Mutex // guards everything below
	ok, failed  int
	first       error
	firstNumber int // line of first
}

func (s *sentCount) add(number int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.ok++
		return
	}
	if s.failed++; s.first == nil {
		s.first, s.firstNumber = err, number
	}
}

// report prints the counts and returns the first error.
func (s *sentCount) report(w io.Writer, topic string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(w, "%d records acknowledged, %d failed\n", s.ok, s.failed)
	if s.first != nil {
		return fmt.Errorf("send line %d to topic %q: %w", s.firstNumber, topic, s.first)
	}
	return nil
}

func parseHeaders(list []string) ([]kgo.RecordHeader, error) {
	var headers []kgo.RecordHeader
	for _, h := range list {
		key, value, ok := strings.Cut(h, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%w: --header: %q is not key=value", client.ErrUsage, h)
		}
		headers = append(headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	return headers, nil
}

// eachLine calls do with each line of r, counted from 1, in memory of its own, until the end, an error of do or of r, or
// the end of ctx. A read that blocks does not hold up the end of ctx.
func eachLine(ctx context.Context, r io.Reader, do func(number int, line []byte) error) error {
	lines := make(chan []byte)
	ended := make(chan error, 1)
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		scanner := bufio.NewScanner(r)
		scanner.Buffer(make([]byte, 0, 64<<10), lineBytesMax)
		for scanner.Scan() {
			select {
			case lines <- bytes.Clone(scanner.Bytes()):
			case <-reading.Done():
				return
			}
		}
		ended <- scanner.Err()
	}()
	for number := 1; ; number++ {
		select {
		case line := <-lines:
			if err := do(number, line); err != nil {
				return err
			}
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("standard input line %d: %w (a line may have %d bytes)", number, err, lineBytesMax)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("standard input: stopped after line %d: %w", number-1, ctx.Err())
		}
	}
}

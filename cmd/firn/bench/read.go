package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

func consumerOptions(brokers []string, security []kgo.Opt, at map[string]map[int32]kgo.Offset) []kgo.Opt {
	return append(client.Options(brokers, security...),
		kgo.ConsumePartitions(at),
		kgo.FetchMinBytes(1),
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMaxBytes(64<<20),
		kgo.FetchMaxPartitionBytes(8<<20),
		kgo.BrokerMaxReadBytes(256<<20),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
	)
}

// arrivals reads what a load sends while it is sent.
type arrivals struct {
	client   *kgo.Client
	load     *load
	records  int64
	foreign  error
	latency  *hdrhistogram.Histogram
	finished chan struct{} // closed when the reading goroutine has ended; the fields above are then settled
}

// openArrivals starts at the end of every partition of the topic, each of which is known before it returns: no record
// sent afterwards is missed.
func openArrivals(ctx context.Context, l *load, adm *kadm.Client, brokers []string) (*arrivals, error) {
	ends, err := listEnds(ctx, adm, l.topic)
	if err != nil {
		return nil, err
	}
	at := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) { at[o.Partition] = kgo.NewOffset().At(o.Offset) })
	cl, err := kgo.NewClient(consumerOptions(brokers, l.cfg.Security, map[string]map[int32]kgo.Offset{l.topic: at})...)
	if err != nil {
		return nil, fmt.Errorf("open the consumer: %w", err)
	}
	return &arrivals{client: cl, load: l, latency: newHistogram(), finished: make(chan struct{})}, nil
}

// read counts until ctx ends, or until expected, once it is told, have arrived.
func (a *arrivals) read(ctx context.Context, expected <-chan int64) {
	defer close(a.finished)
	want := int64(-1)
	for ctx.Err() == nil && (want < 0 || a.records < want) {
		polling, cancel := context.WithTimeout(ctx, 100*time.Millisecond) // so that expected is looked at
		fetches := a.client.PollFetches(polling)
		cancel()
		now := time.Since(a.load.start)
		fetches.EachRecord(func(r *kgo.Record) {
			intended, err := a.load.payload.intendedOf(r.Value)
			if err != nil {
				a.foreign = err
				return
			}
			a.records++
			if intended >= a.load.cfg.Warmup {
				observe(a.latency, now-intended)
			}
		})
		select {
		case want = <-expected:
		default:
		}
	}
}

// replay reads the topic from its start to the ends it has now.
func replay(ctx context.Context, cfg Config, brokers []string, adm *kadm.Client, topic string) (Phase, error) {
	ends, err := listEnds(ctx, adm, topic)
	if err != nil {
		return Phase{}, err
	}
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return Phase{}, fmt.Errorf("list the start of topic %q: %w", topic, err)
	}
	at := map[int32]kgo.Offset{}
	left := map[int32]int64{} // by partition, the offset to reach
	ends.Each(func(o kadm.ListedOffset) {
		if start, ok := starts.Lookup(topic, o.Partition); ok && start.Offset < o.Offset {
			at[o.Partition] = kgo.NewOffset().At(start.Offset)
			left[o.Partition] = o.Offset
		}
	})
	if len(at) == 0 {
		return Phase{}, fmt.Errorf("replay topic %q: it holds no records", topic)
	}
	bounded, cancel := context.WithTimeout(ctx, cfg.ReplayTimeout)
	defer cancel()
	cpuBefore, _ := cpuSeconds()
	start := time.Now()
	// A fresh client, opened inside the measured time: connecting is part of starting to read.
	cl, err := kgo.NewClient(append(consumerOptions(brokers, cfg.Security, map[string]map[int32]kgo.Offset{topic: at}), kgo.KeepControlRecords())...)
	if err != nil {
		return Phase{}, fmt.Errorf("open the consumer: %w", err)
	}
	defer cl.Close()
	p := Phase{Name: "replay"}
	for len(left) > 0 && bounded.Err() == nil {
		fetches := cl.PollFetches(bounded)
		fetches.EachError(func(_ string, partition int32, err error) {
			if bounded.Err() == nil && p.FirstError == "" {
				p.FirstError = fmt.Sprintf("partition %d: %v", partition, err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) {
			end, reading := left[r.Partition]
			if !reading {
				return // written after the start of the replay
			}
			if !r.Attrs.IsControl() {
				p.Records++
				p.Bytes += int64(len(r.Key) + len(r.Value))
			}
			if r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	p.Seconds = time.Since(start).Seconds()
	p.CPUSeconds = -1
	if cpuAfter, ok := cpuSeconds(); ok {
		p.CPUSeconds = cpuAfter - cpuBefore
	}
	p.throughput()
	if len(left) > 0 {
		if err := ctx.Err(); err != nil {
			return p, err
		}
		return p, fmt.Errorf("replay topic %q: %d partitions not read to their end within %s %s", topic, len(left), cfg.ReplayTimeout, p.FirstError)
	}
	return p, nil
}

func listEnds(ctx context.Context, adm *kadm.Client, topic string) (kadm.ListedOffsets, error) {
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("list the end of topic %q: %w", topic, err)
	}
	return ends, nil
}

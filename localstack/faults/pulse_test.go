//go:build interop

package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// pulse is a producer and a consumer at a steady, low rate over all partitions: how long clients wait is seen in it.
type pulse struct {
	partitions int
	topic      string
	producer   *kgo.Client
	consumer   *kgo.Client
	stop       context.CancelFunc
	halted     context.CancelFunc // ends the producing
	wg         sync.WaitGroup

	mu    sync.Mutex // guards the rest
	next  []uint64   // by partition: number of the next record
	acked []uint64   // by partition: one past the highest number acknowledged
	read  []uint64   // by partition: the next number to be read
	// Since the last call of lap: how long acknowledgements took, and the longest that nothing was acknowledged or read.
	latencies         []time.Duration
	lastAck, lastRead time.Time
	ackGap, readGap   time.Duration
	wrong             []string
}

const pulseEvery = 20 * time.Millisecond

// startPulse makes a topic and works on it until the test ends.
func startPulse(t *testing.T, brokers, topic string, partitions int) *pulse {
	t.Helper()
	p := &pulse{partitions: partitions, topic: topic, next: make([]uint64, partitions), acked: make([]uint64, partitions), read: make([]uint64, partitions)}
	opts := []kgo.Opt{kgo.SeedBrokers(brokers), kgo.RecordRetries(math.MaxInt), kgo.AlwaysRetryEOF(), kgo.MetadataMinAge(250 * time.Millisecond)}
	var err error
	if p.producer, err = kgo.NewClient(append(opts, kgo.DefaultProduceTopic(p.topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProduceRequestTimeout(5*time.Second), kgo.MaxBufferedRecords(100_000))...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := kadm.NewClient(p.producer).CreateTopic(ctx, int32(partitions), 1, nil, p.topic); err != nil {
		t.Fatal(err)
	}
	if p.consumer, err = kgo.NewClient(append(opts, kgo.ConsumeTopics(p.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(time.Second))...); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.lap()
	producing, halted := context.WithCancel(running)
	p.halted = halted
	p.wg.Go(func() { p.produce(running, producing) })
	p.wg.Go(func() { p.consume(running) })
	t.Cleanup(p.close)
	return p
}

func (p *pulse) close() {
	p.stop()
	p.producer.Close()
	p.consumer.Close()
	p.wg.Wait()
}

func (p *pulse) produce(ctx, producing context.Context) {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-producing.Done():
			return
		case <-tick.C:
		}
		partition := i % p.partitions
		p.mu.Lock()
		number := p.next[partition]
		p.next[partition]++
		p.mu.Unlock()
		sent := time.Now()
		p.producer.TryProduce(context.Background(), &kgo.Record{Partition: int32(partition), Value: binary.BigEndian.AppendUint64(nil, number)}, func(r *kgo.Record, err error) {
			now := time.Now()
			p.mu.Lock()
			defer p.mu.Unlock()
			switch {
			case ctx.Err() != nil: // the test is over
			case err != nil:
				p.wrong = append(p.wrong, fmt.Sprintf("partition %d record %d, sent at %v: %v", partition, number, sent.Format(time.TimeOnly), err))
				return
			case r.Offset != int64(number):
				p.wrong = append(p.wrong, fmt.Sprintf("partition %d record %d is acknowledged at offset %d", partition, number, r.Offset))
			}
			p.acked[partition] = max(p.acked[partition], number+1)
			p.latencies = append(p.latencies, now.Sub(sent))
			p.ackGap, p.lastAck = max(p.ackGap, now.Sub(p.lastAck)), now
		})
	}
}

func (p *pulse) consume(ctx context.Context) {
	for {
		fetches := p.consumer.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		p.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			if number := binary.BigEndian.Uint64(r.Value); number != p.read[r.Partition] || r.Offset != int64(number) {
				p.wrong = append(p.wrong, fmt.Sprintf("partition %d: record %d read at offset %d after %d", r.Partition, number, r.Offset, p.read[r.Partition]))
			}
			p.read[r.Partition]++
			p.readGap, p.lastRead = max(p.readGap, now.Sub(p.lastRead)), now
		})
		p.mu.Unlock()
	}
}

// halt ends the producing, and waits until all that was sent is acknowledged and read.
func (p *pulse) halt(ctx context.Context, t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("a minute passed"))
	defer cancel()
	p.halted()
	must(t, p.producer.Flush(ctx))
	p.check(t)
	until(ctx, t, "everything is read", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if ctx.Err() != nil {
			t.Logf("acknowledged %v\nread         %v\nsent         %v", p.acked, p.read, p.next)
		}
		return slices.Equal(p.read, p.acked)
	})
}

// ends are, by partition, one past the last offset acknowledged.
func (p *pulse) ends() []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	ends := make([]int64, p.partitions)
	for i, n := range p.acked {
		ends[i] = int64(n)
	}
	return ends
}

// lap is what clients saw since the last one.
func (p *pulse) lap() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	slices.Sort(p.latencies)
	line := "nothing acknowledged"
	if n := len(p.latencies); n > 0 {
		line = fmt.Sprintf("%4d acks, p50 %v, max %v; nothing acknowledged for %v, nothing read for %v", n, round(p.latencies[n/2]), round(p.latencies[n-1]),
			round(max(p.ackGap, now.Sub(p.lastAck))), round(max(p.readGap, now.Sub(p.lastRead))))
	}
	p.latencies, p.ackGap, p.readGap = nil, 0, 0
	p.lastAck, p.lastRead = now, now
	return line
}

// settle waits until what is sent from now on is acknowledged and read, in every partition.
func (p *pulse) settle(ctx context.Context, t *testing.T) {
	t.Helper()
	p.mu.Lock()
	from := slices.Clone(p.next)
	p.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, 90*time.Second, errors.New("90 s passed"))
	defer cancel()
	until(ctx, t, "every partition is written and read again", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if ctx.Err() != nil {
			t.Logf("acknowledged %v\nread         %v\nwanted more than %v\nwrong %q", p.acked, p.read, from, p.wrong)
		}
		for i, n := range from {
			if p.acked[i] <= n || p.read[i] <= n {
				return false
			}
		}
		return true
	})
}

// check fails the test for whatever was not right.
func (p *pulse) check(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.wrong[:min(len(p.wrong), 20)] {
		t.Error(w)
	}
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

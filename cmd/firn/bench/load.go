package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"github.com/firnlog/firn/cmd/firn/client"
)

// flushTimeout bounds the wait for outstanding records after the last send.
const flushTimeout = 30 * time.Second

// load sends records by schedule or in a closed loop, and counts what comes of them.
type load struct {
	cfg     Config
	topic   string
	payload payload
	start   time.Time // of the phase
	values  *sync.Pool
	room    *semaphore.Weighted // closed loop only: bytes that may still be sent
}

// tally is what one producer counts.
type tally struct {
	mu         sync.Mutex // guards everything below
	sent       int64
	acked      int64 // whole phase
	counted    int64 // acknowledged after the warmup and before the end
	ack, lag   *hdrhistogram.Histogram
	firstError error
}

func newTally() *tally { return &tally{ack: newHistogram(), lag: newHistogram()} }

func newLoad(cfg Config, topic string, p payload) *load {
	return &load{
		cfg: cfg, topic: topic, payload: p,
		values: &sync.Pool{New: func() any { b := make([]byte, 0, cfg.RecordBytes); return &b }},
		room:   semaphore.NewWeighted(int64(cfg.InFlightBytes)),
	}
}

func (l *load) options() ([]kgo.Opt, error) {
	codec, err := client.Codec(l.cfg.Codec)
	if err != nil {
		return nil, err
	}
	acks, err := client.Acks(l.cfg.Acks)
	if err != nil {
		return nil, err
	}
	brokers, err := client.Brokers(l.cfg.Brokers)
	if err != nil {
		return nil, err
	}
	buffered := l.cfg.InFlightBytes / l.cfg.Producers
	if l.cfg.Max {
		buffered = l.cfg.InFlightBytes // room is the bound, and is shared
	}
	opts := append(client.Options(brokers, l.cfg.Security...),
		kgo.ProducerBatchCompression(codec),
		kgo.RequiredAcks(acks),
		kgo.ProducerLinger(l.cfg.Linger),
		kgo.ProducerBatchMaxBytes(int32(l.cfg.BatchBytes)),
		kgo.BrokerMaxWriteBytes(int32(max(100<<20, 2*l.cfg.BatchBytes))),
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(64<<10, true, true, nil)),
		kgo.MaxBufferedRecords(math.MaxInt32), // bytes are the bound
		kgo.MaxBufferedBytes(buffered),
		kgo.ProduceRequestTimeout(10*time.Second),
		kgo.RecordDeliveryTimeout(flushTimeout),
	)
	if l.cfg.Acks != "all" && l.cfg.Acks != "-1" {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5))
	}
	return opts, nil
}

// end is when the last record is meant to be sent, from the start of the phase.
func (l *load) end() time.Duration { return l.cfg.Warmup + l.cfg.Duration }

// open connects the producers, so that connections and metadata are not charged to the first records. It returns what
// closes them.
func (l *load) open(ctx context.Context) (clients []*kgo.Client, closeAll func(), err error) {
	closeAll = func() {
		for _, cl := range clients {
			cl.Close()
		}
	}
	opts, err := l.options()
	if err != nil {
		return nil, nil, err
	}
	for i := range l.cfg.Producers {
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("open producer %d: %w", i, err)
		}
		clients = append(clients, cl)
		if err := cl.Ping(ctx); err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("reach a broker: %w", err)
		}
	}
	return clients, closeAll, nil
}

// run sends for the time of a phase, which begins at l.start, waits for outstanding records, and sums up.
func (l *load) run(ctx context.Context, name string, clients []*kgo.Client) (Phase, error) {
	tallies := make([]*tally, l.cfg.Producers)
	before, _ := cpuSeconds()
	var sending sync.WaitGroup
	for i, cl := range clients {
		tallies[i] = newTally()
		sending.Go(func() {
			l.produce(ctx, i, cl, tallies[i])
			flushing, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
			defer cancel()
			_ = cl.Flush(flushing) // what is still out counts as an error below
		})
	}
	sending.Wait()
	p := l.sum(name, tallies)
	if after, ok := cpuSeconds(); ok {
		p.CPUSeconds = after - before
	} else {
		p.CPUSeconds = -1
	}
	return p, ctx.Err()
}

func (l *load) sum(name string, tallies []*tally) Phase {
	ack, lag := newHistogram(), newHistogram()
	p := Phase{Name: name, Seconds: l.cfg.Duration.Seconds()}
	for _, t := range tallies {
		t.mu.Lock()
		p.Sent += t.sent
		p.Errors += t.sent - t.acked
		p.Records += t.counted
		ack.Merge(t.ack)
		lag.Merge(t.lag)
		if p.FirstError == "" && t.firstError != nil {
			p.FirstError = t.firstError.Error()
		}
		t.mu.Unlock()
	}
	if p.Errors > 0 && p.FirstError == "" {
		p.FirstError = fmt.Sprintf("no answer within %s after the last send", flushTimeout)
	}
	p.Bytes = p.Records * int64(l.cfg.recordSize())
	p.Ack, p.Lag = latencyOf(ack), latencyOf(lag)
	p.throughput()
	return p
}

// produce is one producer's loop.
func (l *load) produce(ctx context.Context, id int, cl *kgo.Client, t *tally) {
	rng := rand.New(rand.NewPCG(l.cfg.Seed, uint64(id)))
	countMax := int64(l.cfg.RecordsMax / l.cfg.Producers)
	if !l.cfg.Max {
		interval := l.cfg.interval()
		s := schedule{first: time.Duration(interval * float64(id) / float64(l.cfg.Producers)), interval: interval, end: l.end()}
		s.follow(ctx, l.start, countMax, func(i int64, intended time.Duration) { l.send(ctx, rng, cl, t, i, intended, func() {}) })
		return
	}
	bounded, cancel := context.WithDeadline(ctx, l.start.Add(l.end()))
	defer cancel()
	size := int64(l.cfg.recordSize())
	for i := range countMax {
		if l.room.Acquire(bounded, size) != nil {
			return
		}
		intended := time.Since(l.start)
		if intended >= l.end() {
			l.room.Release(size)
			return
		}
		l.send(ctx, rng, cl, t, i, intended, func() { l.room.Release(size) })
	}
}

// send produces one record; done is called once its outcome is known.
func (l *load) send(ctx context.Context, rng *rand.Rand, cl *kgo.Client, t *tally, i int64, intended time.Duration, done func()) {
	value := l.values.Get().(*[]byte) // the pool makes nothing else
	*value = l.payload.appendValue((*value)[:0], intended, i)
	record := &kgo.Record{Topic: l.topic, Value: *value}
	if l.cfg.Keys > 0 {
		record.Key = binary.BigEndian.AppendUint64(make([]byte, 0, keyBytes), rng.Uint64N(uint64(l.cfg.Keys)))
	}
	measured := intended >= l.cfg.Warmup
	late := time.Since(l.start) - intended
	t.mu.Lock()
	t.sent++
	if measured {
		observe(t.lag, late)
	}
	t.mu.Unlock()
	// Blocks where the client's buffer is full: later records are then late, and are charged for it.
	cl.Produce(context.WithoutCancel(ctx), record, func(_ *kgo.Record, err error) {
		now := time.Since(l.start)
		t.settle(err, measured, now-intended, now >= l.cfg.Warmup && now < l.end())
		l.values.Put(value)
		done()
	})
}

// settle counts one outcome. measured says that the record was meant for the measured time, counted that its
// acknowledgement fell into it.
func (t *tally) settle(err error, measured bool, latency time.Duration, counted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		if t.firstError == nil {
			t.firstError = err
		}
		return
	}
	t.acked++
	if counted {
		t.counted++
	}
	if measured {
		observe(t.ack, latency)
	}
}

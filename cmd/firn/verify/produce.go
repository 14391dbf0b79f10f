package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/localstack/check"
)

// attemptsMax bounds how often a plain producer sends one record.
const attemptsMax = 20

// producer sends records from one goroutine, so that its send order is that of its numbers.
type producer struct {
	id      uint32
	cfg     Config
	run     uint64
	topics  []string
	history *check.History
	tap     check.Tap
	limiter *rate.Limiter // shared by all producers; nil is no limit
	rng     *rand.Rand
	client  *kgo.Client
	lost    *lostConnections

	counters []uint32      // by key
	slots    chan struct{} // one token per record without a final outcome
	again    chan send     // records to send once more; as large as slots, so that a promise never blocks
	retries  atomic.Int64
}

// send is a record on its way.
type send struct {
	number    uint32
	partition int // flat
	attempts  int
	record    *kgo.Record
}

// lostConnections counts connections that end before we close them.
type lostConnections struct {
	n       atomic.Int64
	closing atomic.Bool
}

// OnBrokerDisconnect implements kgo.HookBrokerDisconnect.
func (l *lostConnections) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) {
	if !l.closing.Load() {
		l.n.Add(1)
	}
}

func newProducer(id int, r *runner) (*producer, error) {
	codec, err := client.Codec(r.cfg.Codec)
	if err != nil {
		return nil, err
	}
	p := &producer{
		id: uint32(id), cfg: r.cfg, run: r.run, topics: r.topics, history: r.history, tap: r.tap, limiter: r.limiter,
		rng: rand.New(rand.NewPCG(r.cfg.Seed, uint64(id))), lost: &lostConnections{},
		counters: make([]uint32, r.cfg.Keys),
		slots:    make(chan struct{}, r.cfg.InFlight), again: make(chan send, r.cfg.InFlight),
	}
	opts := append(client.Options(r.shuffledBrokers(p.rng), r.cfg.Security...),
		kgo.WithHooks(p.lost),
		kgo.ProducerBatchCompression(codec),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.ProduceRequestTimeout(10*time.Second),
		kgo.MaxBufferedRecords(r.cfg.InFlight+1), // InFlight blocks first: Produce itself never does
		kgo.UnknownTopicRetries(-1),
	)
	if r.cfg.Idempotent {
		opts = append(opts, kgo.RecordRetries(math.MaxInt32), kgo.AlwaysRetryEOF()) // five requests in flight, the client's fixed choice
	} else {
		// One attempt each: a retry inside the client would not be counted.
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.RecordRetries(0), kgo.MaxProduceRequestsInflightPerBroker(5))
	}
	p.client, err = kgo.NewClient(opts...)
	return p, err
}

// loop produces until ctx ends or numbers run out, then waits for outstanding records until drained ends. The client is
// closed on return, and what had no outcome by then is unknown.
func (p *producer) loop(ctx, drained context.Context) {
	defer func() {
		p.lost.closing.Store(true)
		p.client.Close()
	}()
	for p.next(ctx) {
	}
	for range cap(p.slots) {
		for taken := false; !taken; {
			select {
			case p.slots <- struct{}{}:
				taken = true
			case s := <-p.again:
				p.retry(drained, s)
			case <-drained.Done():
				return
			}
		}
	}
}

// next sends one record, new or once more; it reports false at the end.
func (p *producer) next(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case s := <-p.again:
		p.retry(ctx, s)
		return true
	case p.slots <- struct{}{}:
	}
	if p.limiter != nil && p.limiter.Wait(ctx) != nil {
		<-p.slots
		return false
	}
	number, ok := p.history.Assign()
	if !ok {
		<-p.slots
		return false
	}
	p.produce(p.build(number))
	return true
}

// retry pauses, then sends s and whatever else waits once more.
func (p *producer) retry(ctx context.Context, s send) {
	timer := time.NewTimer(client.Backoff(s.attempts))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done(): // sent once more all the same: the drain waits for it
	}
	for {
		s.attempts++
		p.retries.Add(1)
		p.history.Retry(s.number)
		p.produce(s)
		select {
		case s = <-p.again:
		default:
			return
		}
	}
}

// build makes record number and registers it. A key's records all go to one partition.
func (p *producer) build(number uint32) send {
	key := p.rng.IntN(p.cfg.Keys)
	flat := int((uint64(p.id)*uint64(p.cfg.Keys) + uint64(key)) % uint64(len(p.topics)*p.cfg.Partitions))
	value := check.AppendValue(nil, check.Value{
		Run: p.run, Number: number, Producer: p.id, Key: uint32(key), Counter: p.counters[key],
	}, p.cfg.RecordBytes)
	p.counters[key]++
	keyBytes := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, p.id), uint32(key))
	p.history.Send(number, p.id, flat, check.BodyDigest(keyBytes, value))
	return send{number: number, partition: flat, attempts: 1, record: &kgo.Record{
		Topic: p.topics[flat/p.cfg.Partitions], Partition: int32(flat % p.cfg.Partitions), Key: keyBytes, Value: value,
		Headers: []kgo.RecordHeader{{Key: "firn-verify", Value: value[4:12]}},
	}}
}

func (p *producer) produce(s send) {
	// Not the run's context: a record cancelled under way would have an unknown outcome for no reason.
	p.client.Produce(context.Background(), s.record, func(r *kgo.Record, err error) { p.settle(s, r.Offset, err) })
}

// settle notes the outcome of a send. It runs on the client's goroutine and must not block.
func (p *producer) settle(s send, offset int64, err error) {
	switch {
	case err == nil:
		var fate check.Fate
		if offset, fate = p.tap.Ack(s.partition, offset); fate == check.FateFail {
			p.history.Fail(s.number)
		} else {
			p.history.Ack(s.number, offset)
		}
	case definite(err):
		p.history.Fail(s.number)
	case !p.cfg.Idempotent && s.attempts < attemptsMax && !errors.Is(err, kgo.ErrClientClosed):
		// The client keeps what it sets in a record it was given; a fresh one is sent.
		s.record = &kgo.Record{
			Topic: s.record.Topic, Partition: int32(s.partition % p.cfg.Partitions),
			Key: s.record.Key, Value: s.record.Value, Headers: s.record.Headers,
		}
		p.again <- s
		return // keeps its slot
	default:
		p.history.Unknown(s.number)
	}
	<-p.slots
}

// definite reports whether an error says that the record was not stored. Everything else, timeouts above all, leaves
// the outcome unknown.
func definite(err error) bool {
	for _, refused := range []error{
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.InvalidRequiredAcks,
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.InvalidTopicException, kerr.PolicyViolation,
		kerr.UnsupportedCompressionType, kerr.UnsupportedForMessageFormat,
	} {
		if errors.Is(err, refused) {
			return true
		}
	}
	return false
}

package sim_test

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/firnlog/firn/localstack/check"
	"github.com/firnlog/firn/objstore/batch"
)

// maker makes batches of records that say who they are.
type maker struct {
	topic    *topic
	plan     *plan
	rng      *rand.Rand
	identity uint32 // of the producer, in records
	counter  uint32
}

// think is the pause before the next batch: bursts that fill the pipeline, with pauses that spread them over the storm.
func (m *maker) think() time.Duration {
	if m.rng.IntN(2) == 0 {
		return time.Duration(1 + m.rng.Int64N(int64(5*time.Millisecond)))
	}
	return time.Duration(1 + m.rng.Int64N(int64(4*m.plan.storm)/int64(m.plan.batches)))
}

// make returns a batch of new records for a partition, or nil where the topic has had its share.
func (m *maker) make(partition int) *outBatch {
	type record struct{ key, value, identity []byte }
	k := m.topic.keeping
	var records []record
	b := &outBatch{partition: partition, since: time.Now()}
	for range 1 + m.rng.IntN(m.plan.recordsMax) {
		number, ok := m.topic.history.Assign()
		if !ok {
			break
		}
		var key, identity []byte
		if k.compact || m.rng.IntN(3) > 0 {
			key = []byte{byte('a' + m.rng.IntN(max(k.keys, 8)))}
		}
		value := check.AppendValue(nil, check.Value{
			Run: m.topic.run, Number: number, Producer: m.identity, Counter: m.counter,
		}, check.ValueBytesMin+m.rng.IntN(m.plan.valueMax))
		m.counter++
		if k.compact && m.rng.IntN(8) == 0 {
			identity, value = value, nil
		}
		m.topic.history.SendKept(number, m.identity, partition, check.BodyDigest(key, value), check.Kept{
			Key: key, Tombstone: value == nil, SentMS: time.Now().UnixMilli(),
		})
		b.numbers, records = append(b.numbers, number), append(records, record{key, value, identity})
	}
	if len(records) == 0 {
		return nil
	}
	codec := batch.CodecNone
	switch m.rng.IntN(12) {
	case 0:
		codec = batch.CodecSnappy
	case 1:
		codec = batch.CodecLZ4
	case 2:
		codec = batch.CodecGzip
	}
	stamp := time.Now().UnixMilli()
	b.build = func(who *batch.Producer) []byte {
		builder := batch.NewBuilder(batch.BuildOptions{Codec: codec, Producer: who})
		for _, r := range records {
			if r.identity != nil {
				builder.Add(stamp, r.key, r.value, batch.HeaderPair{Key: check.IdentityHeader, Value: r.identity})
			} else {
				builder.Add(stamp, r.key, r.value)
			}
		}
		raw, err := builder.Build(nil)
		if err != nil {
			panic(err) // of a constant codec and a few records
		}
		return raw
	}
	return b
}

// plain is a producer without idempotence: one request at a time, tried again while its outcome is unknown, so that its
// records may be in the log more than once, though never more often than they were sent.
type plain struct {
	*client
	topic   *topic
	maker   *maker
	left    int
	produce int16 // version
}

func (p *plain) run(ctx context.Context) {
	defer p.leave()
	defer p.doing("")
	for ; p.left > 0; p.left-- {
		b := p.maker.make(p.rng.IntN(p.topic.partitionCount()))
		if b == nil || !p.deliver(ctx, b) {
			return
		}
		if !pause(ctx, p.maker.think()) {
			return
		}
	}
}

// deliver sends a batch until its outcome is known.
func (p *plain) deliver(ctx context.Context, b *outBatch) bool {
	for {
		if p.topic.closing() || !p.somewhere(ctx) {
			p.topic.unknown(b)
			return false
		}
		if b.attempts++; b.attempts > 1 {
			p.topic.retried(b)
		}
		p.doing("producing to %s", p.link.node.name)
		response, err := p.link.call(produceRequest(p.topic, p.produce, []*outBatch{b}, func(*outBatch) *batch.Producer { return nil }))
		if err != nil {
			p.life.logf("%s: %v", p.name, err)
			p.leave()
			// An attempt without an answer may still come into the log behind what is sent from now on.
			p.maker.identity = p.topic.nextIdentity()
			continue
		}
		answer := produced(response, b.partition)
		switch {
		case answer == nil:
			p.life.find("protocol", "%s: no answer for partition %d", p.name, b.partition)
			p.topic.unknown(b)
			return false
		case answer.ErrorCode == errNone:
			p.topic.acked(b, answer.BaseOffset)
			return true
		case p.topic.gone(answer.ErrorCode) || passing(answer.ErrorCode):
			p.life.logf("%s: partition %d: code %d, again", p.name, b.partition, answer.ErrorCode)
			p.leave()
			p.maker.identity = p.topic.nextIdentity()
			if !pause(ctx, 100*time.Millisecond) {
				p.topic.unknown(b)
				return false
			}
		default:
			p.life.find("produce_refused", "%s: partition %d: code %d", p.name, b.partition, answer.ErrorCode)
			p.topic.unknown(b)
			return true
		}
	}
}

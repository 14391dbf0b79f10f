package sim_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack/check"
	"github.com/firnlog/firn/objstore/batch"
)

// topic is one topic from its creation to its deletion or the end of the life, with everything that clients were told of it.
type topic struct {
	life    *life
	name    string
	id      [16]byte
	run     uint64
	history *check.History

	partitions atomic.Int32 // as acknowledged
	deleted    atomic.Bool  // its deletion was asked for
	halted     atomic.Bool  // clients are to stop, done or not
	ends       atomic.Pointer[[]int64]
	identities atomic.Uint32
	short      bool // it is deleted before everything is read
	keeping    keeping
}

// recordsMax bounds the records of a topic.
const recordsMax = 3000

func newTopic(l *life, name string, k keeping) *topic {
	l.mu.Lock()
	run := l.plan.seed<<8 | uint64(len(l.topics)+1)
	l.mu.Unlock()
	h, err := check.New(check.Config{Run: run, Partitions: partitionsMax, RecordsMax: recordsMax, Policy: k.policy(l.plan)})
	if err != nil {
		panic(err) // of constants
	}
	t := &topic{life: l, name: name, run: run, history: h, keeping: k}
	l.mu.Lock()
	l.topics = append(l.topics, t)
	l.mu.Unlock()
	return t
}

func (t *topic) partitionCount() int  { return int(t.partitions.Load()) }
func (t *topic) closing() bool        { return t.halted.Load() }
func (t *topic) nextIdentity() uint32 { return t.identities.Add(1) }

// finalEnds are the ends of all partitions once nothing is produced any more, or nil.
func (t *topic) finalEnds() []int64 {
	if p := t.ends.Load(); p != nil {
		return *p
	}
	return nil
}

// gone says that an error means that the topic does not exist, and that this may well be.
func (t *topic) gone(code int16) bool {
	return t.deleted.Load() && (code == errUnknownTopic || code == errUnknownTopicID)
}

func (t *topic) acked(b *outBatch, base int64) {
	for i, number := range b.numbers {
		t.history.Ack(number, base+int64(i))
	}
}

func (t *topic) unknown(b *outBatch) {
	for _, number := range b.numbers {
		t.history.Unknown(number)
	}
}

func (t *topic) retried(b *outBatch) {
	for _, number := range b.numbers {
		t.history.Retry(number)
	}
}

type kafkaError int16

func (e kafkaError) Error() string { return fmt.Sprintf("kafka error code %d", int16(e)) }

// topicsProducer notes a producer id that was handed out: none may be twice.
func (l *life) topicsProducer(id int64, who string) {
	l.mu.Lock()
	before, twice := l.ids[id]
	l.ids[id] = who
	l.mu.Unlock()
	if twice {
		l.find("producer_id", "id %d was given to %s and to %s", id, before, who)
	}
}

// runTopics lives through the life's topics: one that stays, and perhaps one that is deleted and made again under its name.
func (l *life) runTopics(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() {
		t := newTopic(l, "stays", keeping{})
		if newAdmin(l, t).create(ctx, l.plan.partitions) {
			l.runTopic(ctx, t, l.plan.batches)
		}
	})
	for f, k := range map[fault]keeping{keyedTopic: l.plan.keyed, agingTopic: l.plan.aging} {
		if l.plan.on[f] {
			all.Go(func() {
				t := newTopic(l, string(f), k)
				if newAdmin(l, t).create(ctx, 1+int(l.plan.seed%2)) {
					l.runTopic(ctx, t, 1+l.plan.batches/2)
					l.count(f, 1)
				}
			})
		}
	}
	if l.plan.on[topicRecreate] {
		all.Go(func() {
			r := stream(l.plan.seed, "recreate")
			for number := 0; number == 0 || !l.isHealed() && number < 4; number++ {
				t := newTopic(l, "comes-and-goes", keeping{})
				admin := newAdmin(l, t)
				t.short = r.IntN(2) == 0
				if !admin.create(ctx, 1+r.IntN(2)) {
					return
				}
				stop := func() {}
				if t.short {
					timer := time.AfterFunc(time.Duration(r.Int64N(int64(5*time.Second))), func() { admin.delete(ctx) })
					stop = func() { timer.Stop() }
				}
				l.runTopic(ctx, t, 1+r.IntN(8))
				stop()
				admin.delete(ctx)
				// What was in flight when clients stopped must not come into the next topic of this name.
				if !pause(ctx, 2*answerWithin) {
					return
				}
				l.count(topicRecreate, 1)
			}
		})
	}
	all.Wait()
}

// runTopic has producers and consumers work on a topic until everything is produced and everybody has read everything.
func (l *life) runTopic(ctx context.Context, t *topic, batches int) {
	p := l.plan
	var producers, others sync.WaitGroup
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range p.idempotent {
		c := newClient(l, fmt.Sprintf("idempotent %d of %s %x", i, t.name, t.run))
		producer := &idempotent{
			client: c, topic: t, left: batches, newIDs: c.rng.IntN(2) == 0, produce: int16(3 + c.rng.IntN(10)), id: -1,
			maker: &maker{topic: t, plan: p, rng: c.rng, identity: t.nextIdentity()},
		}
		producers.Go(func() { producer.run(working) })
	}
	for i := range p.plain {
		c := newClient(l, fmt.Sprintf("plain %d of %s %x", i, t.name, t.run))
		producer := &plain{
			client: c, topic: t, left: batches, produce: int16(3 + c.rng.IntN(10)),
			maker: &maker{topic: t, plan: p, rng: c.rng, identity: t.nextIdentity()},
		}
		producers.Go(func() { producer.run(working) })
	}
	for i := range p.consumers {
		c := l.newConsumer(t, fmt.Sprintf("consumer %d of %s %x", i, t.name, t.run))
		others.Go(func() { c.run(working) })
	}
	if p.on[groupReads] && t.name == "stays" {
		l.startReaders(working, t, &others)
	}
	if p.on[partitionsGrow] && t.name == "stays" {
		others.Go(func() { newAdmin(l, t).grow(working) })
	}
	producers.Wait()
	if t.closing() {
		others.Wait()
		return
	}
	select {
	case <-l.healed:
	case <-working.Done():
	}
	c := l.newConsumer(t, fmt.Sprintf("ends of %s %x", t.name, t.run))
	if ends := c.finalEnds(working); ends != nil {
		t.ends.Store(&ends)
		// Every agent shows everything once more: the same bytes at the same offsets.
		for _, n := range l.nodes {
			drain := l.newConsumer(t, fmt.Sprintf("drain of %s %x at %s", t.name, t.run, n.name))
			others.Go(func() { drain.drain(working, n) })
		}
	}
	others.Wait()
}

func (l *life) newConsumer(t *topic, name string) *consumer {
	c := newClient(l, name)
	return &consumer{
		client: c, topic: t, reader: t.history.Reader(), checker: batch.NewValidator(),
		fetch: int16(4 + c.rng.IntN(14)), offsets: int16(1 + c.rng.IntN(10)), sessions: c.rng.IntN(2) == 0,
		roams: []float64{0, 0.1, 0.5}[c.rng.IntN(3)], carries: c.rng.IntN(3) == 0,
	}
}

// finalEnds asks for the ends of all partitions until it has them.
func (c *consumer) finalEnds(ctx context.Context) []int64 {
	defer c.leave()
	defer c.doing("")
	for c.somewhere(ctx) && !c.topic.closing() {
		count := c.topic.partitionCount()
		var floors [partitionsMax]int64
		for i := range count {
			floors[i] = c.topic.history.ListFloor(i)
		}
		c.doing("listing the ends at %s", c.link.node.name)
		ends, ok := c.ask(-1, count)
		for i, end := range ends {
			if ok = ok && end != failedOffset; ok {
				c.topic.history.Listed(c.broker(), i, floors[i], end)
			}
		}
		if ok {
			return append(ends, make([]int64, partitionsMax-count)...)
		}
		c.leave()
		if !pause(ctx, 100*time.Millisecond) {
			break
		}
	}
	return nil
}

// drain reads everything from one agent.
func (c *consumer) drain(ctx context.Context, n *node) {
	c.fixed = true
	defer c.leave()
	defer c.doing("")
	for ctx.Err() == nil && !c.topic.closing() && !c.reader.Done(c.topic.finalEnds()) {
		if c.link == nil {
			k, err := c.life.connect(ctx, n, c.name)
			if err != nil {
				if !pause(ctx, 200*time.Millisecond) {
					return
				}
				continue
			}
			c.link = k
			c.session, c.epoch, c.inSession = 0, 0, nil
		}
		if !c.poll() {
			c.leave()
			if !pause(ctx, 100*time.Millisecond) {
				return
			}
		}
	}
}

// admin makes, grows and deletes a topic.
type admin struct {
	*client
	topic *topic
}

func newAdmin(l *life, t *topic) *admin {
	return &admin{newClient(l, fmt.Sprintf("admin of %s %x", t.name, t.run)), t}
}

func (a *admin) create(ctx context.Context, partitions int) bool {
	defer a.leave()
	defer a.doing("")
	req := kmsg.NewPtrCreateTopicsRequest()
	req.SetVersion(int16(2 + a.rng.IntN(6)))
	req.TimeoutMillis = 10_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = a.topic.name, int32(partitions), 1
	configs := a.topic.keeping.configs()
	if a.life.plan.logAppendTime {
		configs["message.timestamp.type"] = "LogAppendTime"
	}
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = name, kmsg.StringPtr(configs[name])
		rt.Configs = append(rt.Configs, rc)
	}
	req.Topics = append(req.Topics, rt)
	_, ok := a.call(ctx, req, func(r kmsg.Response) bool {
		switch code := r.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; {
		case code == errNone, code == errTopicExists:
			return false
		case passing(code):
			return true
		default:
			a.life.find("create_refused", "topic %s: code %d", a.topic.name, code)
			return true
		}
	})
	if !ok {
		return false
	}
	return a.describe(ctx, partitions)
}

// describe learns the topic's id and compares what Metadata says with what was made.
func (a *admin) describe(ctx context.Context, partitions int) bool {
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(int16(10 + a.rng.IntN(4)))
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(a.topic.name)
	req.Topics = append(req.Topics, rt)
	answer, ok := a.call(ctx, req, func(r kmsg.Response) bool {
		m := r.(*kmsg.MetadataResponse)
		if len(m.Topics) != 1 {
			a.life.find("protocol", "metadata of one topic holds %d", len(m.Topics))
			return true
		}
		if code := m.Topics[0].ErrorCode; code != errNone && !passing(code) {
			a.life.find("metadata_refused", "topic %s, acknowledged: code %d", a.topic.name, code)
		}
		return m.Topics[0].ErrorCode != errNone
	})
	if !ok {
		return false
	}
	m := answer.(*kmsg.MetadataResponse)
	if got := len(m.Topics[0].Partitions); got != partitions {
		a.life.find("metadata", "topic %s has %d partitions, made with %d", a.topic.name, got, partitions)
		partitions = min(got, partitionsMax)
	}
	brokers := map[int32]bool{}
	for _, b := range m.Brokers {
		brokers[b.NodeID] = true
	}
	for _, p := range m.Topics[0].Partitions {
		if !brokers[p.Leader] {
			a.life.find("metadata", "partition %d of %s has leader %d, which is no broker", p.Partition, a.topic.name, p.Leader)
		}
	}
	a.topic.id = m.Topics[0].TopicID
	a.topic.partitions.Store(int32(partitions))
	return true
}

// grow adds partitions in the middle of the storm.
func (a *admin) grow(ctx context.Context) {
	defer a.leave()
	defer a.doing("")
	if !pause(ctx, time.Duration(a.rng.Int64N(int64(a.life.plan.storm)))) {
		return
	}
	total := a.topic.partitionCount() + 1 + a.rng.IntN(2)
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.SetVersion(int16(a.rng.IntN(4)))
	req.TimeoutMillis = 10_000
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic, rt.Count = a.topic.name, int32(total)
	req.Topics = append(req.Topics, rt)
	_, ok := a.call(ctx, req, func(r kmsg.Response) bool {
		switch code := r.(*kmsg.CreatePartitionsResponse).Topics[0].ErrorCode; {
		case code == errNone:
			return false
		case code == errInvalidPartitions: // an earlier attempt did it
			return false
		case !passing(code):
			a.life.find("grow_refused", "topic %s to %d partitions: code %d", a.topic.name, total, code)
		}
		return true
	})
	if ok {
		a.topic.partitions.Store(int32(total))
		a.life.count(partitionsGrow, 1)
		a.life.logf("topic %s has %d partitions now", a.topic.name, total)
	}
}

// delete removes the topic and has its clients stop.
func (a *admin) delete(ctx context.Context) {
	c := newClient(a.life, a.name+" deleting") // may run beside others
	defer c.leave()
	defer c.doing("")
	a.topic.deleted.Store(true)
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.SetVersion(int16(1 + c.rng.IntN(6)))
	req.TimeoutMillis = 10_000
	if req.Version >= 6 {
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.TopicID = a.topic.id
		req.Topics = append(req.Topics, rt)
	} else {
		req.TopicNames = []string{a.topic.name}
	}
	c.call(ctx, req, func(r kmsg.Response) bool {
		switch code := r.(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode; {
		case code == errNone, code == errUnknownTopic, code == errUnknownTopicID:
			return false
		case !passing(code):
			c.life.find("delete_refused", "topic %s: code %d", a.topic.name, code)
		}
		return true
	})
	a.topic.halted.Store(true)
}

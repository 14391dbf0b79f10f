package sim_test

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/objstore/batch"
)

// outBatch is one record batch on its way into one partition.
type outBatch struct {
	partition int
	numbers   []uint32 // of its records
	sequence  int32
	build     func(*batch.Producer) []byte
	since     time.Time // when it was made
	attempts  int
	flying    bool  // in a request without an answer
	timedOut  bool  // answered REQUEST_TIMED_OUT since it was last sent: it keeps its place in the log, or never had one
	before    int64 // the offset at which a later batch of its partition is acknowledged; 0: none is
}

// idempotent is an idempotent producer as Java's and franz-go are: up to five requests in flight, retries with the same
// sequences over another agent, never an answer on a guess. Where a batch takes too long it gives up every batch that was
// sent, with unknown outcome, and goes on with the next producer epoch, as Java does, or with a new producer id, as franz-go
// does.
type idempotent struct {
	*client
	topic    *topic
	maker    *maker
	id       int64
	epoch    int16
	newIDs   bool // new id instead of next epoch
	lanes    [partitionsMax]lane
	flights  int
	left     int // batches still to be made
	nextSend time.Time
	produce  int16 // version
}

// lane is a partition's batches without an answer, in order of their sequences.
type lane struct {
	next    int32
	waiting []*outBatch
}

// flight is a request in flight.
type flight struct {
	sent    sent
	batches []*outBatch
}

// landing is what became of a flight.
type landing struct {
	flight   flight
	response kmsg.Response
	err      error
}

const flightsMax = 5

func (p *idempotent) run(ctx context.Context) {
	defer p.leave()
	defer p.doing("")
	if !p.identify(ctx) {
		return
	}
	for p.left > 0 || p.unanswered() > 0 {
		if p.topic.closing() {
			p.giveUp()
			return
		}
		if !p.somewhere(ctx) {
			p.giveUp()
			return
		}
		p.serve(ctx)
		p.leave()
		if p.tired() && !p.restart(ctx) {
			return
		}
	}
}

// identify asks for a producer id.
func (p *idempotent) identify(ctx context.Context) bool {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.SetVersion(int16(p.rng.IntN(6)))
	req.TransactionTimeoutMillis = 60_000
	answer, ok := p.call(ctx, req, func(r kmsg.Response) bool { return r.(*kmsg.InitProducerIDResponse).ErrorCode != errNone })
	if !ok {
		return false
	}
	r := answer.(*kmsg.InitProducerIDResponse)
	if r.ProducerID == p.id {
		p.life.find("producer_id", "%s was given id %d twice", p.name, r.ProducerID)
	}
	p.life.topicsProducer(r.ProducerID, p.name)
	p.id, p.epoch = r.ProducerID, r.ProducerEpoch
	return true
}

// serve sends and receives over one connection until that fails or there is nothing left.
func (p *idempotent) serve(ctx context.Context) {
	flying := make(chan flight, flightsMax)
	landed := make(chan landing, flightsMax)
	k := p.link
	receiver := make(chan struct{})
	go func() {
		defer close(receiver)
		failed := error(nil)
		for f := range flying {
			l := landing{flight: f, err: failed}
			if failed == nil {
				l.response, l.err = k.receive(f.sent)
				failed = l.err
			}
			landed <- l
		}
	}()
	failed := false
	for !failed && (p.left > 0 || p.unanswered() > 0) && !p.tired() && !p.topic.closing() && ctx.Err() == nil {
		var send <-chan time.Time
		if p.flights < flightsMax {
			if batches := p.take(); len(batches) > 0 {
				f := flight{batches: batches}
				var err error
				if f.sent, err = k.send(p.request(batches)); err != nil {
					p.life.logf("%s: %v", p.name, err)
					failed = true // what was on the way may have arrived
				}
				p.flights++
				flying <- f
				continue
			}
			if p.left > 0 {
				send = time.After(max(time.Until(p.nextSend), time.Millisecond))
			}
		}
		p.doing("producing, %d in flight to %s, %d unanswered, %d to come", p.flights, k.node.name, p.unanswered(), p.left)
		select {
		case l := <-landed:
			failed = p.land(l) || failed
		case <-send:
		case <-time.After(time.Second):
		}
	}
	k.close()
	close(flying)
	<-receiver
	for p.flights > 0 {
		p.land(<-landed)
	}
}

// take returns the batches of the next request: of each partition at most one, the first that is not in flight.
func (p *idempotent) take() []*outBatch {
	var batches []*outBatch
	if p.left > 0 && !time.Now().Before(p.nextSend) {
		partition := p.rng.IntN(p.topic.partitionCount())
		lane := &p.lanes[partition]
		if len(lane.waiting) < flightsMax {
			b := p.maker.make(partition)
			if b == nil {
				p.left = 0
			} else {
				b.sequence = lane.next
				lane.next += int32(len(b.numbers))
				lane.waiting = append(lane.waiting, b)
				p.left--
			}
		}
		p.nextSend = time.Now().Add(p.maker.think())
	}
	for i := range p.lanes {
		for _, b := range p.lanes[i].waiting {
			if !b.flying {
				batches = append(batches, b)
				break
			}
		}
	}
	for _, b := range batches {
		if b.attempts++; b.attempts > 1 {
			p.life.sometimes("batches_resent")
		}
		b.flying, b.timedOut = true, false
	}
	return batches
}

func (p *idempotent) request(batches []*outBatch) *kmsg.ProduceRequest {
	who := func(b *outBatch) *batch.Producer {
		return &batch.Producer{ID: p.id, Epoch: p.epoch, BaseSequence: b.sequence}
	}
	return produceRequest(p.topic, p.produce, batches, who)
}

// produceRequest is what a producer sends for batches of different partitions.
func produceRequest(t *topic, version int16, batches []*outBatch, who func(*outBatch) *batch.Producer) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(version)
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = t.name
	for _, b := range batches {
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = int32(b.partition), b.build(who(b))
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

// produced finds a partition in an answer to a Produce request.
func produced(response kmsg.Response, partition int) *kmsg.ProduceResponseTopicPartition {
	r := response.(*kmsg.ProduceResponse)
	for i := range r.Topics {
		for j := range r.Topics[i].Partitions {
			if p := &r.Topics[i].Partitions[j]; int(p.Partition) == partition {
				return p
			}
		}
	}
	return nil
}

// land takes an answer. It reports whether the connection is of no use any more.
func (p *idempotent) land(l landing) (failed bool) {
	p.flights--
	if l.err != nil {
		p.life.logf("%s: %v", p.name, l.err)
	}
	for _, b := range l.flight.batches {
		b.flying = false
		if l.err != nil {
			continue
		}
		answer := produced(l.response, b.partition)
		if answer == nil {
			p.life.find("protocol", "%s: no answer for partition %d", p.name, b.partition)
			failed = true
			continue
		}
		failed = p.judge(b, answer) || failed
	}
	return failed || l.err != nil
}

func (p *idempotent) judge(b *outBatch, answer *kmsg.ProduceResponseTopicPartition) (failed bool) {
	lane := &p.lanes[b.partition]
	head := lane.waiting[0] == b
	settle := func() {
		for i := range lane.waiting {
			if lane.waiting[i] == b {
				lane.waiting = append(lane.waiting[:i:i], lane.waiting[i+1:]...)
				return
			}
		}
	}
	switch code := answer.ErrorCode; {
	case code == errNone:
		// A batch that took too long is answered so within its request's own timeout while it stays where it was. Those after it
		// may then be acknowledged first, which says that it is stored: its own acknowledgement follows when it is sent again.
		for _, earlier := range lane.waiting {
			if earlier == b {
				break
			}
			if !earlier.timedOut {
				p.life.find("order", "%s: partition %d acknowledged sequence %d before %d", p.name, b.partition, b.sequence, earlier.sequence)
			}
			if earlier.before == 0 {
				earlier.before = answer.BaseOffset // its own is below
			}
		}
		if b.before > 0 && answer.BaseOffset >= b.before {
			p.life.find("order", "%s: partition %d sequence %d is at %d, a later one at %d", p.name, b.partition, b.sequence, answer.BaseOffset, b.before)
		}
		p.topic.acked(b, answer.BaseOffset)
		settle()
	case code == errDuplicateSequence:
		// Stored, at an offset that the agent no longer knows.
		p.life.sometimes("duplicates_beyond_window")
		p.topic.unknown(b)
		settle()
	case code == errOutOfOrder:
		p.life.sometimes("out_of_order_answers")
		if head && b.attempts > 0 {
			p.life.find("out_of_order", "%s (id %d epoch %d): partition %d refuses sequence %d, and everything before it is acknowledged",
				p.name, p.id, p.epoch, b.partition, b.sequence)
			b.since = time.Time{} // gives up
		}
		return true
	case p.topic.gone(code), passing(code):
		b.timedOut = code == errTimedOut
		p.life.logf("%s: partition %d sequence %d: code %d, again", p.name, b.partition, b.sequence, code)
		return true
	default:
		p.life.find("produce_refused", "%s (id %d epoch %d): partition %d sequence %d: code %d", p.name, p.id, p.epoch, b.partition, b.sequence, code)
		b.since = time.Time{}
		return true
	}
	return false
}

func (p *idempotent) unanswered() (n int) {
	for i := range p.lanes {
		n += len(p.lanes[i].waiting)
	}
	return n
}

// abandonAfter is how long a producer with less patience waits for a batch.
const abandonAfter = 4 * time.Second

// tired says that a batch waits for too long.
func (p *idempotent) tired() bool {
	for i := range p.lanes {
		for _, b := range p.lanes[i].waiting {
			if b.since.IsZero() || p.life.plan.on[abandons] && !p.life.isHealed() && time.Since(b.since) > abandonAfter {
				return true
			}
		}
	}
	return false
}

// giveUp leaves every batch without an answer with its outcome unknown.
func (p *idempotent) giveUp() {
	for i := range p.lanes {
		for _, b := range p.lanes[i].waiting {
			p.topic.unknown(b)
		}
		p.lanes[i] = lane{}
	}
}

// restart gives up what is unanswered and goes on so that nothing of it can be taken for something new.
func (p *idempotent) restart(ctx context.Context) bool {
	p.life.count(abandons, 1)
	p.life.logf("%s gives up %d batches of id %d epoch %d", p.name, p.unanswered(), p.id, p.epoch)
	p.giveUp()
	if !p.newIDs {
		p.epoch++
		return true
	}
	p.maker.identity = p.topic.nextIdentity() // nothing fences the old id: it is another producer
	return p.identify(ctx)
}

package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/localstack/check"
)

const (
	fetchWait         = 200 * time.Millisecond
	fetchBytesMax     = 8 << 20
	partitionBytesMax = 1 << 20
	requestTimeout    = 15 * time.Second
	rosterAge         = time.Second            // how long a list of brokers is used
	notServedAge      = 500 * time.Millisecond // how long a broker is not asked again for what it does not serve
)

// roamer talks to a broker of its own choice with every request. One goroutine uses it.
type roamer struct {
	run    *runner
	rng    *rand.Rand
	client *kgo.Client
	lost   *lostConnections
	log    *slog.Logger

	roster    []peer
	rosterDue time.Time
	last      int32 // broker of the request before; 0 with lastKnown false at first
	lastKnown bool
	skip      map[int32]map[int]time.Time // by broker and flat partition, until when not to ask
	fetched   map[int32]bool              // brokers that served records
	seen      Sometimes
}

// peer is a broker to ask: by its id, or by an address the user gave, whose id is negative.
type peer struct {
	id     int32
	broker *kgo.Broker
}

func newRoamer(r *runner, stream uint64) (*roamer, error) {
	o := &roamer{
		run: r, rng: rand.New(rand.NewPCG(r.cfg.Seed, 1<<32+stream)), lost: &lostConnections{}, log: r.cfg.logger(),
		skip: map[int32]map[int]time.Time{}, fetched: map[int32]bool{},
	}
	var err error
	o.client, err = kgo.NewClient(append(client.Options(r.shuffledBrokers(o.rng), r.cfg.Security...), kgo.WithHooks(o.lost))...)
	return o, err
}

// pick returns a random broker, from a list renewed every second so that brokers which join are found.
func (o *roamer) pick(ctx context.Context) peer {
	if now := time.Now(); now.After(o.rosterDue) {
		o.rosterDue = now.Add(rosterAge)
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = []kmsg.MetadataRequestTopic{}
		asked, cancel := context.WithTimeout(ctx, requestTimeout)
		if answer, err := req.RequestWith(asked, o.client); err != nil {
			o.seen.FetchErrors++
		} else {
			o.roster = o.roster[:0]
			for _, b := range answer.Brokers {
				o.roster = append(o.roster, peer{b.NodeID, o.client.Broker(int(b.NodeID))})
			}
			for i, seed := range o.client.SeedBrokers() {
				o.roster = append(o.roster, peer{int32(-1 - i), seed})
			}
		}
		cancel()
	}
	if len(o.roster) == 0 {
		return peer{-1, o.client.SeedBrokers()[0]}
	}
	p := o.roster[o.rng.IntN(len(o.roster))]
	if o.lastKnown && p.id != o.last {
		o.seen.BrokerSwitches++
	}
	o.last, o.lastKnown = p.id, true
	return p
}

// judged reports whether a broker's fetched watermarks can be held against its earlier ones: an address may lead to
// another broker each time.
func (o *roamer) judged(p peer) bool { return p.id >= 0 && !o.run.cfg.BehindProxy }

// wanted lists the partitions, flat, that the reader has not finished and that the broker may serve.
func (o *roamer) wanted(p peer, reader *check.Reader, ends []int64) []int {
	now := time.Now()
	var list []int
	for flat := range o.run.partitions() {
		if (ends != nil && reader.Next(flat) >= ends[flat]) || now.Before(o.skip[p.id][flat]) {
			continue
		}
		list = append(list, flat)
	}
	// Order decides who is served first when a response is full.
	o.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

func (o *roamer) notServed(p peer, flat int) {
	o.seen.NotServed++
	if o.skip[p.id] == nil {
		o.skip[p.id] = map[int]time.Time{}
	}
	o.skip[p.id][flat] = time.Now().Add(notServedAge)
}

// follow reads until ctx ends, or until the reader has reached the ends once they are known.
func (o *roamer) follow(ctx context.Context, reader *check.Reader) {
	failures := 0
	for ctx.Err() == nil {
		ends := o.run.finalEnds()
		if ends != nil && reader.Done(ends) {
			return
		}
		p := o.pick(ctx)
		flats := o.wanted(p, reader, ends)
		if len(flats) > 0 {
			if o.fetch(ctx, p, reader, flats) {
				failures = 0
				continue
			}
		}
		failures++
		pause(ctx, client.Backoff(failures)/4)
	}
}

// fetch asks one broker for the given partitions. It reports whether the next request may follow at once.
func (o *roamer) fetch(ctx context.Context, p peer, reader *check.Reader, flats []int) bool {
	req, floors := o.request(p, reader, flats)
	asked, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := p.broker.Request(asked, req)
	if err != nil {
		if ctx.Err() == nil {
			o.seen.FetchErrors++
			o.log.Debug("fetch", "agent", p.id, "error", err)
		}
		return false
	}
	resp := answer.(*kmsg.FetchResponse) // franz-go answers a request with its response kind
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		o.seen.FetchErrors++
		return false
	}
	served := false
	for i := range resp.Topics {
		topic, ok := o.run.topicIndex(resp.Topics[i].Topic, resp.Topics[i].TopicID)
		if !ok {
			o.run.history.Damaged(p.id, 0, -1, fmt.Errorf("fetch answered with topic %q id %x, which was not asked for", resp.Topics[i].Topic, resp.Topics[i].TopicID))
			continue
		}
		for j := range resp.Topics[i].Partitions {
			rp := &resp.Topics[i].Partitions[j]
			flat := topic*o.run.cfg.Partitions + int(rp.Partition)
			if floor, asked := floors[flat]; asked && o.partition(p, reader, flat, floor, rp) {
				served = true
			}
		}
	}
	return served
}

func (o *roamer) request(p peer, reader *check.Reader, flats []int) (*kmsg.FetchRequest, map[int]int64) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(fetchWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = fetchBytesMax
	req.SessionEpoch = -1 // no session: each request stands for itself and may go anywhere
	floors := make(map[int]int64, len(flats))
	at := map[int]int{} // by topic, its place in req.Topics
	for _, flat := range flats {
		topic := flat / o.run.cfg.Partitions
		i, ok := at[topic]
		if !ok {
			i = len(req.Topics)
			at[topic] = i
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = o.run.topics[topic], o.run.ids[topic]
			req.Topics = append(req.Topics, t)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition = int32(flat % o.run.cfg.Partitions)
		rp.FetchOffset = reader.Next(flat)
		rp.PartitionMaxBytes = partitionBytesMax
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
		floors[flat] = 0
		if o.judged(p) {
			floors[flat] = o.run.history.FetchFloor(p.id, flat)
		}
	}
	return req, floors
}

// partition judges one partition of an answer. It reports false where the broker did not serve it.
func (o *roamer) partition(p peer, reader *check.Reader, flat int, floor int64, rp *kmsg.FetchResponseTopicPartition) bool {
	offset := reader.Next(flat)
	h := o.run.history
	if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			// Never asked outside what some broker has shown to exist, so no broker may say so.
			h.Refused(p.id, flat, offset, err)
		case kerr.IsRetriable(err):
			o.seen.FetchErrors++
		default:
			h.Refused(p.id, flat, offset, err)
		}
		o.notServed(p, flat)
		return false
	}
	parsed, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Topic: o.run.topics[flat/o.run.cfg.Partitions], Partition: rp.Partition, Offset: offset, KeepControlRecords: true,
	}, rp, o.run.decompressor, nil)
	if parsed.Err != nil {
		h.Damaged(p.id, flat, offset, parsed.Err)
		o.notServed(p, flat)
		return false
	}
	watermark := rp.HighWatermark
	if n := len(parsed.Records); n > 0 && watermark <= parsed.Records[n-1].Offset {
		h.FetchWatermark(p.id, flat, parsed.Records[n-1].Offset+1, watermark) // shows what it says does not exist
	} else if o.judged(p) {
		h.FetchWatermark(p.id, flat, floor, watermark)
	}
	if len(parsed.Records) == 0 {
		return true
	}
	o.fetched[p.id] = true
	if o.run.producing.Load() {
		o.seen.TailReads += len(parsed.Records)
	}
	reader.Read(p.id, flat, o.run.tap.Read(flat, recordsOf(parsed.Records)))
	return true
}

func recordsOf(list []*kgo.Record) []check.Record {
	records := make([]check.Record, len(list))
	for i, r := range list {
		records[i] = check.Record{Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			records[i].Headers = append(records[i].Headers, check.Header{Key: h.Key, Value: h.Value})
		}
	}
	return records
}

// watch lists ends through random brokers until ctx ends.
func (o *roamer) watch(ctx context.Context) {
	for ctx.Err() == nil {
		o.list(ctx, o.pick(ctx), make([]int64, o.run.partitions()))
		pause(ctx, fetchWait)
	}
}

// settleEnds lists until every partition's end is known. The error wraps ctx's.
func (o *roamer) settleEnds(ctx context.Context) ([]int64, error) {
	ends := make([]int64, o.run.partitions())
	for i := range ends {
		ends[i] = -1
	}
	for tries := 1; ; tries++ {
		o.list(ctx, o.pick(ctx), ends)
		missing := slices.Index(ends, -1)
		if missing < 0 {
			return ends, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("list the end of partition %d of %s: %w",
				missing%o.run.cfg.Partitions, o.run.topics[missing/o.run.cfg.Partitions], ctx.Err())
		}
		pause(ctx, client.Backoff(tries)/4)
	}
}

// list asks one broker for the ends of all partitions, judges them, and fills in those it answers.
func (o *roamer) list(ctx context.Context, p peer, ends []int64) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	floors := make([]int64, len(ends))
	for i, topic := range o.run.topics {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		for partition := range o.run.cfg.Partitions {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = int32(partition), -1 // latest
			t.Partitions = append(t.Partitions, rp)
			flat := i*o.run.cfg.Partitions + partition
			floors[flat] = o.run.history.ListFloor(flat)
		}
		req.Topics = append(req.Topics, t)
	}
	asked, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := p.broker.Request(asked, req)
	if err != nil {
		if ctx.Err() == nil {
			o.seen.FetchErrors++
		}
		return
	}
	resp := answer.(*kmsg.ListOffsetsResponse) // franz-go answers a request with its response kind
	for _, t := range resp.Topics {
		topic, ok := o.run.topicIndex(t.Topic, [16]byte{})
		if !ok {
			continue
		}
		for _, rp := range t.Partitions {
			flat := topic*o.run.cfg.Partitions + int(rp.Partition)
			if rp.ErrorCode != 0 || rp.Partition < 0 || int(rp.Partition) >= o.run.cfg.Partitions {
				o.seen.NotServed++
				continue
			}
			end := o.run.tap.End(flat, rp.Offset)
			o.run.history.Listed(p.id, flat, floors[flat], end)
			o.seen.EndsListed++
			ends[flat] = end
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

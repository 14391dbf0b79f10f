package sim_test

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack/check"
	"github.com/firnlog/firn/objstore/batch"
)

// consumer reads every partition of a topic from offset 0, each fetch perhaps from another agent than the one before, with
// incremental fetch sessions or without, and asks for the ends of partitions in between.
type consumer struct {
	*client
	topic    *topic
	reader   *check.Reader
	checker  *batch.Validator
	fetch    int16 // versions
	offsets  int16
	sessions bool
	roams    float64 // chance to leave an agent after a fetch
	fixed    bool    // stays with the agent it was given
	// carries: a session is carried over to the next connection, as behind a load balancer that the client does not see.
	carries bool

	session   int32
	epoch     int32
	inSession map[int]int64                   // by partition, the offset that the agent believes we want
	logStart  [agentsMax][partitionsMax]int64 // as each agent told
}

func (c *consumer) run(ctx context.Context) {
	defer c.leave()
	defer c.doing("")
	for ctx.Err() == nil && !c.topic.closing() {
		if ends := c.topic.finalEnds(); ends != nil && c.reader.Done(ends) {
			return
		}
		if !c.connect(ctx) {
			return
		}
		var ok bool
		switch c.rng.IntN(12) {
		case 0:
			ok = c.list()
		default:
			ok = c.poll()
		}
		if !ok || !c.fixed && c.rng.Float64() < c.roams {
			c.leave()
		}
		if !ok && !pause(ctx, time.Duration(10+c.rng.IntN(200))*time.Millisecond) {
			return
		}
	}
}

func (c *consumer) connect(ctx context.Context) bool {
	if c.link == nil && !c.carries {
		c.session, c.epoch, c.inSession = 0, 0, nil
	}
	return c.somewhere(ctx)
}

// broker names the agent that the client is connected to, as the checker wants it.
func (c *consumer) broker() int32 { return int32(c.link.node.index) }

// poll is one fetch. False: the connection is of no use.
func (c *consumer) poll() bool {
	h := c.topic.history
	req := c.request()
	var floors [partitionsMax]int64
	for i := range floors {
		floors[i] = h.FetchFloor(c.broker(), i)
	}
	c.doing("fetching from %s at %v", c.link.node.name, c.positions())
	response, err := c.link.call(req)
	if err != nil {
		c.life.logf("%s: %v", c.name, err)
		clear(c.inSession) // the agent may never have learnt of these positions
		return false
	}
	r := response.(*kmsg.FetchResponse)
	switch r.ErrorCode {
	case errNone:
	case errSessionNotFound, errSessionEpoch, errSessionTopicID:
		c.session, c.epoch, c.inSession = 0, 0, nil
		c.life.sometimes("fetch_sessions_lost")
		return true
	default:
		if !c.topic.gone(r.ErrorCode) && !passing(r.ErrorCode) {
			c.life.find("fetch_refused", "%s from %s: code %d", c.name, c.link.node.name, r.ErrorCode)
		}
		return false
	}
	if c.sessions && c.fetch >= 7 {
		c.session = r.SessionID
		if c.epoch++; c.session == 0 {
			c.epoch, c.inSession = 0, nil
		} else if c.epoch > 1 {
			c.life.sometimes("incremental_fetches")
		}
	}
	ok := true
	for i := range r.Topics {
		rt := &r.Topics[i]
		if c.fetch >= 13 && rt.TopicID != c.topic.id || c.fetch < 13 && rt.Topic != c.topic.name {
			c.life.find("protocol", "%s was shown topic %q %x", c.name, rt.Topic, rt.TopicID)
			continue
		}
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			if rp.Partition < 0 || rp.Partition >= partitionsMax {
				c.life.find("protocol", "%s was shown partition %d", c.name, rp.Partition)
				continue
			}
			ok = c.take(rp, floors[rp.Partition]) && ok
		}
	}
	return ok
}

func (c *consumer) positions() (at []int64) {
	for i := range c.topic.partitionCount() {
		at = append(at, c.reader.Next(i))
	}
	return at
}

// request asks for all partitions, or of a session for those that moved.
func (c *consumer) request() *kmsg.FetchRequest {
	pick := func(values ...int32) int32 { return values[c.rng.IntN(len(values))] }
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(c.fetch)
	req.ReplicaID = -1
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = pick(0, 100, 500), pick(0, 1, 1, 2000), pick(1, 500, 1<<20)
	sessions := c.sessions && c.fetch >= 7
	if sessions {
		req.SessionID, req.SessionEpoch = c.session, c.epoch
	} else {
		req.SessionID, req.SessionEpoch = 0, -1
	}
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = c.topic.name, c.topic.id
	if c.fetch >= 13 {
		rt.Topic = ""
	}
	for _, i := range c.rng.Perm(c.topic.partitionCount()) {
		at := c.reader.Next(i)
		known, listed := c.inSession[i]
		if sessions && c.epoch > 0 && listed && known == at {
			continue
		}
		if sessions {
			if c.inSession == nil {
				c.inSession = map[int]int64{}
			}
			c.inSession[i] = at
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(i), at, pick(1, 400, 1<<20)
		rp.CurrentLeaderEpoch, rp.LastFetchedEpoch, rp.LogStartOffset = -1, -1, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	if len(rt.Partitions) > 0 {
		req.Topics = append(req.Topics, rt)
	}
	return req
}

// take judges one partition of an answer.
func (c *consumer) take(rp *kmsg.FetchResponseTopicPartition, floor int64) bool {
	h, i, at := c.topic.history, int(rp.Partition), c.reader.Next(int(rp.Partition))
	delete(c.inSession, i) // asked for again, whatever comes of it
	switch code := rp.ErrorCode; {
	case code == errNone:
	case c.topic.gone(code) || passing(code):
		return false
	case (code == errCorruptMessage || code == errStorage) && c.life.damaged():
		c.life.sometimes("damage_noticed")
		return false
	case code == errOffsetOutOfRange && c.topic.keeping.delete:
		return c.expire(i, at)
	default:
		h.Refused(c.broker(), i, at, kafkaError(code))
		return false
	}
	h.FetchWatermark(c.broker(), i, floor, rp.HighWatermark)
	if c.fetch >= 5 {
		told := &c.logStart[c.broker()][i]
		if rp.LogStartOffset < *told || rp.LogStartOffset > rp.HighWatermark {
			c.life.find("log_start", "%s: partition %d of %s: log start %d after %d, high watermark %d",
				c.link.node.name, i, c.topic.name, rp.LogStartOffset, *told, rp.HighWatermark)
		}
		*told = max(*told, rp.LogStartOffset)
	}
	if rp.LastStableOffset > rp.HighWatermark {
		c.life.find("last_stable", "partition %d: last stable offset %d above high watermark %d", i, rp.LastStableOffset, rp.HighWatermark)
	}
	records, end, err := c.records(rp, at)
	if err != nil {
		h.Damaged(c.broker(), i, at, err)
		return false
	}
	c.reader.NowMS = time.Now().UnixMilli()
	c.reader.Read(c.broker(), i, records)
	if c.topic.keeping.compact { // what is missing at the end of the last batch was compacted away
		c.reader.Skip(c.broker(), i, end)
	}
	return true
}

// expire goes on from the log start, where that is why an offset is out of range.
func (c *consumer) expire(partition int, at int64) bool {
	starts, ok := c.ask(-2, c.topic.partitionCount())
	if !ok || partition >= len(starts) || starts[partition] == failedOffset {
		return false
	}
	if starts[partition] <= at {
		c.topic.history.Refused(c.broker(), partition, at, kafkaError(errOffsetOutOfRange))
		return false
	}
	c.reader.NowMS = time.Now().UnixMilli()
	c.reader.Expire(c.broker(), partition, starts[partition])
	c.life.sometimes("expired_readers")
	return true
}

// records takes batches apart, and tells where the last one ends. Records before the position are dropped where their batch reaches it, as clients do.
func (c *consumer) records(rp *kmsg.FetchResponseTopicPartition, at int64) (records []check.Record, end int64, err error) {
	s := batch.Split(rp.RecordBatches)
	for s.Next() {
		head := s.Header()
		if err := batch.VerifyCRC(s.Raw()); err != nil {
			return nil, 0, err
		}
		end = head.BaseOffset + head.Span()
		if end > rp.HighWatermark {
			c.life.find("beyond_watermark", "partition %d: batch [%d, %d) beyond high watermark %d", rp.Partition, head.BaseOffset, end, rp.HighWatermark)
		}
		err := c.checker.Walk(s.Raw(), batch.Limits{}, func(r batch.Record) error {
			offset := head.BaseOffset + int64(r.OffsetDelta)
			if offset < at && end > at {
				return nil
			}
			record := check.Record{Offset: offset, Timestamp: r.Timestamp, Key: cloneBytes(r.Key), Value: cloneBytes(r.Value)}
			for key, value := range r.Headers.All() {
				record.Headers = append(record.Headers, check.Header{Key: string(key), Value: cloneBytes(value)})
			}
			records = append(records, record)
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return records, end, s.Err()
}

// cloneBytes keeps nil apart from empty.
func cloneBytes(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// list asks for the ends, the starts, or offsets by time.
func (c *consumer) list() bool {
	what := []int64{-1, -1, -2, -3, time.Now().Add(-5 * time.Second).UnixMilli()}[c.rng.IntN(5)]
	if what == -3 && c.offsets < 7 {
		what = -1
	}
	count := c.topic.partitionCount()
	var floors [partitionsMax]int64
	for i := range count {
		floors[i] = c.topic.history.ListFloor(i)
	}
	c.doing("listing offsets at %s", c.link.node.name)
	ends, ok := c.ask(what, count)
	if !ok {
		return false
	}
	for i, end := range ends {
		switch {
		case end == failedOffset:
			ok = false
		case what == -1:
			c.topic.history.Listed(c.broker(), i, floors[i], end)
		case what == -2:
			if end != 0 && !c.topic.keeping.delete {
				c.life.find("log_start", "%s lists log start %d of partition %d; nothing was ever deleted", c.link.node.name, end, i)
			}
		case end < -1:
			c.life.find("list_offsets", "%s lists offset %d for time %d", c.link.node.name, end, what)
		}
	}
	return ok
}

// failedOffset stands for an offset that could not be had now.
const failedOffset = -1 << 40

// ask is one ListOffsets for the first count partitions.
func (c *consumer) ask(timestamp int64, count int) (offsets [](int64), ok bool) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.SetVersion(c.offsets)
	req.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = c.topic.name
	for i := range count {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = int32(i), timestamp, -1
		rt.Partitions = append(rt.Partitions, rp)
		offsets = append(offsets, failedOffset)
	}
	req.Topics = append(req.Topics, rt)
	response, err := c.link.call(req)
	if err != nil {
		c.life.logf("%s: %v", c.name, err)
		return nil, false
	}
	for _, rt := range response.(*kmsg.ListOffsetsResponse).Topics {
		for _, rp := range rt.Partitions {
			switch code := rp.ErrorCode; {
			case int(rp.Partition) >= count:
				c.life.find("protocol", "%s lists partition %d", c.link.node.name, rp.Partition)
			case code == errNone:
				offsets[rp.Partition] = rp.Offset
			case c.topic.gone(code) || passing(code), code == errCorruptMessage && c.life.damaged(), code == errStorage && c.life.damaged():
			default:
				c.life.find("list_refused", "%s: partition %d of %s: code %d", c.link.node.name, rp.Partition, c.topic.name, code)
			}
		}
	}
	return offsets, true
}

package kafka_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore/batch"
)

func outcome(res *kmsg.ProduceResponse) kmsg.ProduceResponseTopicPartition {
	return res.Topics[0].Partitions[0]
}

func TestReadingNeverWaitsForACommit(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		c := dial(t, server(t, a))
		producer := &batch.Producer{ID: 5}
		var ids []int32
		var reqs []kmsg.Request
		for i := range 5 {
			producer.BaseSequence = int32(i)
			reqs = append(reqs, produceRequest(9, "t", 0, records(t, batch.BuildOptions{Producer: producer}, strings.Repeat("x", 10_000+i))))
			ids = append(ids, c.send(reqs[i]))
		}
		meta := kmsg.NewPtrMetadataRequest()
		meta.Version = 9
		last := c.send(meta)
		faketime.Wait()
		a.mu.Lock()
		if staged := len(a.entries); staged != 2+5 {
			t.Errorf("%d entries: all five batches should be staged while none is answered", staged)
		}
		a.mu.Unlock()
		close(gate)
		for i, id := range ids {
			res, _ := c.receive(id, reqs[i]).(*kmsg.ProduceResponse)
			if p := outcome(res); p.ErrorCode != 0 || p.BaseOffset != int64(i) {
				t.Errorf("batch %d: code %d, offset %d", i, p.ErrorCode, p.BaseOffset)
			}
		}
		c.receive(last, meta) // in request order, though it was ready long before
	})
}

func TestAnExactDuplicateGetsItsOriginalOffset(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		c := dial(t, server(t, a))
		c.produce("t", 0, "before")
		raw := records(t, batch.BuildOptions{Producer: &batch.Producer{ID: 9}}, "a", "b")
		for range 2 {
			if p := outcome(ask[*kmsg.ProduceResponse](c, produceRequest(12, "t", 0, raw))); p.ErrorCode != 0 || p.BaseOffset != 1 {
				t.Errorf("code %d, offset %d", p.ErrorCode, p.BaseOffset)
			}
		}
		gap := records(t, batch.BuildOptions{Producer: &batch.Producer{ID: 9, BaseSequence: 77}}, "c")
		if p := outcome(ask[*kmsg.ProduceResponse](c, produceRequest(12, "t", 0, gap))); p.ErrorCode != 45 || p.BaseOffset != -1 {
			t.Errorf("a gap: code %d, offset %d", p.ErrorCode, p.BaseOffset)
		}
	})
}

func TestWhatIsNoGoodIsRefusedPartitionByPartition(t *testing.T) {
	good := func(t *testing.T) []byte { return records(t, batch.BuildOptions{}, "a") }
	damaged := func(t *testing.T) []byte { b := good(t); b[len(b)-1]++; return b }
	for name, tc := range map[string]struct {
		raw   func(t *testing.T) []byte
		topic string
		part  int32
		ver   int16
		acks  int16
		txn   bool
		code  int16
	}{
		"no such topic":      {raw: good, topic: "absent", code: 3},
		"no such partition":  {raw: good, part: 1, code: 3},
		"negative partition": {raw: good, part: -1, code: 3},
		"damaged":            {raw: damaged, code: 2},
		"empty":              {raw: func(*testing.T) []byte { return nil }, code: 87},
		"two batches":        {raw: func(t *testing.T) []byte { return append(good(t), good(t)...) }, code: 87},
		"too large": {
			raw: func(t *testing.T) []byte { return records(t, batch.BuildOptions{}, strings.Repeat("x", 2<<20)) }, code: 10,
		},
		"transactional id": {raw: good, txn: true, code: 53},
		"transactional batch": {raw: func(t *testing.T) []byte {
			return records(t, batch.BuildOptions{Transactional: true, Producer: &batch.Producer{ID: 1}}, "a")
		}, code: 53},
		"zstd too early": {
			raw: func(t *testing.T) []byte { return records(t, batch.BuildOptions{Codec: batch.CodecZstd}, "a") }, ver: 6, code: 76,
		},
		"acks": {raw: good, acks: 2, code: 21},
		"no key in a compacted topic": {topic: "compacted", code: 87, raw: func(t *testing.T) []byte {
			b := batch.NewBuilder(batch.BuildOptions{})
			b.Add(time.Now().UnixMilli(), []byte("k"), nil)
			b.Add(time.Now().UnixMilli(), nil, []byte("v"))
			raw, err := b.Build(nil)
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}},
		"timestamp": {code: 32, raw: func(t *testing.T) []byte {
			b := batch.NewBuilder(batch.BuildOptions{})
			b.Add(time.Now().Add(2*time.Hour).UnixMilli(), nil, []byte("v"))
			raw, err := b.Build(nil)
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}},
	} {
		t.Run(name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				a := newCluster(t).join("a")
				a.topic("t", 1)
				a.topic("compacted", 1, entry.Config{Name: "cleanup.policy", Value: "compact"})
				c := dial(t, server(t, a))
				topic, version := tc.topic, tc.ver
				if topic == "" {
					topic = "t"
				}
				if version == 0 {
					version = 11
				}
				req := produceRequest(version, topic, tc.part, tc.raw(t))
				if tc.acks != 0 {
					req.Acks = tc.acks
				}
				if tc.txn {
					id := "txn"
					req.TransactionID = &id
				}
				// Beside it, a batch that is good and stored unless the whole request is refused.
				beside := produceRequest(version, "t", 0, good(t))
				req.Topics = append(req.Topics, beside.Topics...)
				res := ask[*kmsg.ProduceResponse](c, req)
				p := outcome(res)
				if p.ErrorCode != tc.code || p.BaseOffset != -1 {
					t.Errorf("code %d (%v), offset %d", p.ErrorCode, p.ErrorMessage, p.BaseOffset)
				}
				if p.ErrorMessage == nil && version >= 8 && tc.code != 3 {
					t.Error("no words with the code")
				}
				if tc.code == 87 && name == "no key in a compacted topic" && (len(p.ErrorRecords) != 1 || p.ErrorRecords[0].RelativeOffset != 1) {
					t.Errorf("the record to blame: %+v", p.ErrorRecords)
				}
				whole := tc.txn || tc.acks != 0
				if got := res.Topics[1].Partitions[0]; (got.ErrorCode == 0) == whole {
					t.Errorf("the batch beside it: code %d", got.ErrorCode)
				}
			})
		})
	}
}

func TestAcksZero(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		c := dial(t, server(t, a))
		req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "a"))
		req.Acks = 0
		c.send(req)
		// The next answer is the next request's.
		if base := c.produce("t", 0, "b"); base != 1 {
			t.Errorf("offset %d", base)
		}
		req.Topics[0].Topic = "absent"
		c.send(req)
		c.closed()
	})
}

// An agent that trails knows nothing of a topic made elsewhere: it must not tell a producer that there is none.
func TestProduceToATopicMadeElsewhere(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		b.with(func(b *agent) { b.behind = true })
		a.topic("t", 1)
		c := dial(t, server(t, b))
		if base := c.produce("t", 0, "x"); base != 0 {
			t.Errorf("offset %d", base)
		}
		a.topic("u", 1)
		b.with(func(b *agent) { b.barrierErr = errors.New("no quorum") })
		p := outcome(ask[*kmsg.ProduceResponse](c, produceRequest(9, "u", 0, records(t, batch.BuildOptions{}, "a"))))
		if p.ErrorCode != 7 {
			t.Errorf("without a barrier: code %d, which is not one to retry", p.ErrorCode)
		}
	})
}

// Version 13 names topics by their ids, so that a topic made anew is another one.
func TestProduceByTopicID(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		b.with(func(b *agent) { b.behind = true })
		c := dial(t, server(t, b))
		produce := func(id entry.UUID, partition int32) (code int16, offset int64) {
			t.Helper()
			req := produceRequest(13, "", partition, records(t, batch.BuildOptions{}, "x"))
			req.Topics[0].TopicID = id
			res := ask[*kmsg.ProduceResponse](c, req)
			if res.Topics[0].TopicID != id {
				t.Errorf("the answer is for %x", res.Topics[0].TopicID)
			}
			return outcome(res).ErrorCode, outcome(res).BaseOffset
		}
		expect := func(what string, id entry.UUID, partition int32, wantCode int16, wantOffset int64) {
			t.Helper()
			if code, offset := produce(id, partition); code != wantCode || offset != wantOffset {
				t.Errorf("%s: code %d, offset %d", what, code, offset)
			}
		}
		id := a.topic("t", 1)
		expect("a topic made elsewhere", id, 0, 0, 0)
		expect("an unknown partition", id, 1, 3, -1)
		expect("an unknown id", entry.UUID{1, 2}, 0, 100, -1)
		expect("no id", entry.UUID{}, 0, 100, -1)
		cl.commit(a.incarnation, &entry.DeleteTopic{ID: id})
		cl.commit(a.incarnation, &entry.CreateTopic{Name: "t", ID: entry.UUID{0x43}, Partitions: 1})
		expect("deleted, which this agent learns from the log", id, 0, 100, -1)
		expect("the one of the same name", entry.UUID{0x43}, 0, 0, 0)
		expect("the old one again", id, 0, 100, -1)
		b.with(func(b *agent) { b.barrierErr = errors.New("no quorum") })
		expect("without a barrier", entry.UUID{1, 3}, 0, 7, -1)
	})
}

func TestAClosedPipelineIsAnsweredWithRetry(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		a.with(func(a *agent) { a.stageErr = ingest.ErrClosed })
		c := dial(t, server(t, a))
		if p := outcome(ask[*kmsg.ProduceResponse](c, produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "a")))); p.ErrorCode != 7 {
			t.Errorf("code %d", p.ErrorCode)
		}
	})
}

// full is a produce path without room.
type full struct {
	*agent
	room chan struct{}
}

func (f full) Stage(ctx context.Context, _ []*ingest.Part, _ func()) error {
	select {
	case <-f.room:
	case <-ctx.Done():
	}
	return ingest.ErrClosed
}

// What waits for room in the produce path holds no decompressor: ten thousand connections may wait.
func TestWaitingForRoomHoldsNoValidator(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		f := full{a, make(chan struct{})}
		s, err := kafka.New(kafka.Config{}, a, f, a, groups(t, a))
		if err != nil {
			t.Fatal(err)
		}
		made := s.CountValidators()
		t.Cleanup(s.Close)
		const connections = 100
		for range connections {
			dial(t, s).send(produceRequest(9, "t", 0, records(t, batch.BuildOptions{Codec: batch.CodecZstd}, "a")))
		}
		faketime.Wait()
		// Some are made all the same: one for each that validates at the same time, and a pool may forget what it holds.
		if n := made.Load(); n > connections*6/10 {
			t.Errorf("%d validators for %d requests that wait", n, connections)
		}
		close(f.room)
	})
}

// A client that goes away leaves its batches to be committed, and its buffers come back when they are.
func TestClientGoesAwayWithBatchesInFlight(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		s := server(t, a)
		c := dial(t, s)
		c.send(produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", 200_000))))
		faketime.Wait()
		if s.InFlight() {
			t.Error("nothing is in flight")
		}
		c.close()
		faketime.Wait()
		if s.InFlight() {
			t.Error("a staged batch was given back")
		}
		close(gate)
		faketime.Wait()
		if !s.InFlight() {
			t.Error("bytes are still in flight")
		}
		other := dial(t, s)
		res := ask[*kmsg.FetchResponse](other, fetchRequest(12, "t", id, 0, 0))
		if values, _ := valuesOf(t, res.Topics[0].Partitions[0].RecordBatches, 0); len(values) != 1 {
			t.Errorf("%d records", len(values))
		}
	})
}

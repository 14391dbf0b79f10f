package kafka_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
)

func only(t *testing.T, res *kmsg.FetchResponse) kmsg.FetchResponseTopicPartition {
	t.Helper()
	if res.ErrorCode != 0 || len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
		t.Fatalf("%+v", res)
	}
	return res.Topics[0].Partitions[0]
}

// Sizes around where a compact length grows, so that records are moved and not.
func TestFetchOfEveryVersionAndSize(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		s := server(t, a)
		c := dial(t, s)
		for i, size := range []int{1, 40, 10_000, 16_200, 16_300, 100_000, 1_000_000} {
			name := fmt.Sprintf("t%d", i)
			id := a.topic(name, 1)
			value := strings.Repeat("v", size)
			c.produce(name, 0, value)
			for _, version := range []int16{4, 5, 7, 11, 12, 13, 17} {
				p := only(t, ask[*kmsg.FetchResponse](c, fetchRequest(version, name, id, 0, 0)))
				values, next := valuesOf(t, p.RecordBatches, 0)
				if p.ErrorCode != 0 || len(values) != 1 || values[0] != value || next != 1 {
					t.Fatalf("version %d, %d bytes: code %d, %d records", version, size, p.ErrorCode, len(values))
				}
				if p.HighWatermark != 1 || p.LastStableOffset != 1 || version >= 5 && p.LogStartOffset != 0 {
					t.Errorf("version %d: high watermark %d, last stable %d, log start %d", version, p.HighWatermark, p.LastStableOffset, p.LogStartOffset)
				}
			}
		}
		// Two batches past 2 MiB: a compact length of four bytes.
		id := a.topic("large", 1)
		for range 3 {
			c.produce("large", 0, strings.Repeat("v", 1_000_000))
		}
		req := fetchRequest(12, "large", id, 0, 0)
		req.MaxBytes, req.Topics[0].Partitions[0].PartitionMaxBytes = math.MaxInt32, math.MaxInt32
		if values, _ := valuesOf(t, only(t, ask[*kmsg.FetchResponse](c, req)).RecordBatches, 0); len(values) != 3 {
			t.Errorf("%d records of 3", len(values))
		}
	})
}

func TestLimits(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 3)
		s := server(t, a)
		c := dial(t, s)
		for p := range int32(3) {
			for range 4 {
				c.produce("t", p, strings.Repeat("x", 1000))
			}
		}
		fetch := func(version int16, most, each int32) (got [3]int) {
			t.Helper()
			req := fetchRequest(version, "t", id, 0, 0)
			addFetch(req, "t", id, 1, 0)
			addFetch(req, "t", id, 2, 0)
			req.MaxBytes = most
			for i := range req.Topics {
				req.Topics[i].Partitions[0].PartitionMaxBytes = each
			}
			res := ask[*kmsg.FetchResponse](c, req)
			for _, rt := range res.Topics {
				for _, rp := range rt.Partitions {
					values, _ := valuesOf(t, rp.RecordBatches, 0)
					got[rp.Partition] = len(values)
				}
			}
			return got
		}
		for _, tc := range []struct {
			most, each int32
			want       [3]int
		}{
			{1 << 20, 1 << 20, [3]int{4, 4, 4}},
			{1 << 20, 2500, [3]int{2, 2, 2}},
			{1 << 20, 1, [3]int{1, 0, 0}},    // the first batch always (KIP-74), no other beyond the limit
			{1, 1 << 20, [3]int{1, 0, 0}},    //
			{0, 0, [3]int{1, 0, 0}},          //
			{5500, 1 << 20, [3]int{4, 1, 0}}, // what is left goes to the next
			{5500, 2500, [3]int{2, 2, 1}},    //
			{-5, -5, [3]int{1, 0, 0}},        // nonsense does no harm
			{math.MaxInt32, math.MaxInt32, [3]int{4, 4, 4}},
		} {
			for _, version := range []int16{4, 12, 13} {
				if got := fetch(version, tc.most, tc.each); got != tc.want {
					t.Errorf("version %d, max bytes %d, %d a partition: %v, want %v", version, tc.most, tc.each, got, tc.want)
				}
			}
		}
	})
}

func TestLongPollWakesOnApply(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 2)
		s := server(t, a)
		producer, consumer := dial(t, s), dial(t, s)
		req := fetchRequest(13, "", id, 0, 0)
		req.MaxWaitMillis = 30_000
		sent := consumer.send(req)
		time.Sleep(5 * time.Second)
		faketime.Wait()
		if a.reads != 0 {
			t.Errorf("%d reads while there was nothing", a.reads)
		}
		producer.produce("t", 1, "not asked for")
		start := time.Now()
		producer.produce("t", 0, "a")
		res, _ := consumer.receive(sent, req).(*kmsg.FetchResponse)
		if values, _ := valuesOf(t, only(t, res).RecordBatches, 0); len(values) != 1 || time.Since(start) != 0 {
			t.Errorf("%v after %v", values, time.Since(start))
		}
		// At the end nothing comes until the wait is over.
		req.Topics[0].Partitions[0].FetchOffset = 1
		start = time.Now()
		res = ask[*kmsg.FetchResponse](consumer, req)
		if p := only(t, res); len(p.RecordBatches) != 0 || p.HighWatermark != 1 || time.Since(start) != 30*time.Second {
			t.Errorf("%+v after %v", p, time.Since(start))
		}
		if n := a.subscriptions(); n != 0 {
			t.Errorf("%d subscriptions are left", n)
		}
	})
}

func TestMinBytes(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a)
		producer, consumer := dial(t, s), dial(t, s)
		req := fetchRequest(13, "", id, 0, 0)
		req.MaxWaitMillis, req.MinBytes = 10_000, 2500
		sent := consumer.send(req)
		start := time.Now()
		for range 3 {
			time.Sleep(time.Second)
			producer.produce("t", 0, strings.Repeat("x", 1000))
		}
		res, _ := consumer.receive(sent, req).(*kmsg.FetchResponse)
		values, _ := valuesOf(t, only(t, res).RecordBatches, 0)
		if took := time.Since(start); len(values) != 3 || took > 4*time.Second {
			t.Errorf("%d records after %v", len(values), took)
		}
		// Fewer come when the wait is over.
		req.MinBytes = 1 << 20
		start = time.Now()
		values, _ = valuesOf(t, only(t, ask[*kmsg.FetchResponse](consumer, req)).RecordBatches, 0)
		if took := time.Since(start); len(values) != 3 || took != 10*time.Second {
			t.Errorf("%d records after %v", len(values), took)
		}
		if a.reads > 20 {
			t.Errorf("%d reads", a.reads)
		}
	})
}

// Records that are there but do not fit are as good as min_bytes: waiting gets no more of them into the answer.
func TestAFullAnswerDoesNotWaitForMinBytes(t *testing.T) {
	for name, tune := range map[string]func(*kmsg.FetchRequest){
		"a partition's limit":         func(req *kmsg.FetchRequest) { req.Topics[0].Partitions[0].PartitionMaxBytes = 2500 },
		"the request's limit":         func(req *kmsg.FetchRequest) { req.MaxBytes = 2500 },
		"room for one partition":      func(req *kmsg.FetchRequest) { req.MaxBytes, req.Topics[0].Partitions[0].FetchOffset = 1500, 8 },
		"more than the server's most": func(req *kmsg.FetchRequest) { req.Topics = req.Topics[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				a := newCluster(t).join("a")
				id := a.topic("t", 2)
				c := dial(t, server(t, a, func(c *kafka.Config) { c.FetchBytesMax = 4000 }))
				for range 9 {
					c.produce("t", 0, strings.Repeat("x", 1000))
				}
				c.produce("t", 1, strings.Repeat("x", 4000)) // more than FetchBytesMax, and nothing follows it
				req := fetchRequest(13, "", id, 0, 0)
				addFetch(req, "", id, 1, 0)
				req.MaxWaitMillis, req.MinBytes = 3000, 1<<20
				tune(req)
				start := time.Now()
				res := ask[*kmsg.FetchResponse](c, req)
				if took := time.Since(start); took != 0 || len(res.Topics[0].Partitions[0].RecordBatches) == 0 {
					t.Errorf("%d bytes after %v", len(res.Topics[0].Partitions[0].RecordBatches), took)
				}
			})
		})
	}
}

// A partition whose bytes do not come holds up an answer once, gets an error to retry, and lets the others go first then.
func TestReadsThatHangEndInTime(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 3)
		c := dial(t, server(t, a, func(c *kafka.Config) { c.FetchReadTimeout = 7 * time.Second }))
		req := fetchRequest(13, "", id, 0, 0)
		for p := range int32(3) {
			c.produce("t", p, "x")
			if p > 0 {
				addFetch(req, "", id, p, 0)
			}
		}
		a.with(func(a *agent) { a.stuck = map[int32]bool{0: true, 1: true} })
		req.SessionEpoch, req.MaxWaitMillis = 0, 60_000
		codes := func() string {
			t.Helper()
			start := time.Now()
			res := ask[*kmsg.FetchResponse](c, req)
			if took := time.Since(start); took != 7*time.Second {
				t.Errorf("took %v", took)
			}
			req.SessionID, req.Topics = res.SessionID, nil
			req.SessionEpoch++
			var got []string
			for _, rt := range res.Topics {
				for _, rp := range rt.Partitions {
					got = append(got, fmt.Sprintf("%d:%d:%v", rp.Partition, rp.ErrorCode, len(rp.RecordBatches) > 0))
				}
			}
			return strings.Join(got, " ")
		}
		for i, want := range []string{
			"0:78:false 1:78:false 2:78:false",
			"1:78:false 2:78:false 0:78:false",
			"2:0:true 0:78:false 1:78:false",
		} {
			if got := codes(); got != want {
				t.Errorf("answer %d: %s, want %s", i+1, got, want)
			}
		}
	})
}

// Replays that are told to come later leave the answer to the others, and go behind them next time. Alone they make a long poll.
func TestReplaysThatAreToComeLater(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 3)
		c := dial(t, server(t, a))
		req := fetchRequest(13, "", id, 0, 0)
		for p := range int32(3) {
			c.produce("t", p, "x")
			if p > 0 {
				addFetch(req, "", id, p, 0)
			}
		}
		soon := time.Now().Add(3 * time.Second)
		a.with(func(a *agent) { a.later = map[int32]time.Time{0: soon, 2: soon} })
		req.SessionEpoch, req.MaxWaitMillis, req.MinBytes = 0, 60_000, 1
		fetched := func() (order string, took time.Duration) {
			t.Helper()
			start := time.Now()
			res := ask[*kmsg.FetchResponse](c, req)
			req.SessionID, req.Topics = res.SessionID, nil
			req.SessionEpoch++
			for _, rt := range res.Topics {
				for _, rp := range rt.Partitions {
					order += fmt.Sprintf("%d:%d:%v ", rp.Partition, rp.ErrorCode, len(rp.RecordBatches) > 0)
				}
			}
			return order, time.Since(start)
		}
		if got, took := fetched(); got != "0:0:false 1:0:true 2:0:false " || took != 0 {
			t.Errorf("%s after %v", got, took)
		}
		moved := kmsg.NewFetchRequestTopic()
		moved.TopicID = id
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.FetchOffset, part.PartitionMaxBytes, part.CurrentLeaderEpoch = 1, 1, 1<<20, -1
		moved.Partitions = append(moved.Partitions, part)
		req.Topics = append(req.Topics, moved)
		got, took := fetched()
		if took < 2900*time.Millisecond || took > 3100*time.Millisecond || !strings.Contains(got, "0:0:true") || !strings.Contains(got, "2:0:true") {
			t.Errorf("%s after %v", got, took)
		}
		// No longer than the client wants.
		a.with(func(a *agent) { a.later = map[int32]time.Time{0: time.Now().Add(time.Hour)} })
		alone := fetchRequest(13, "", id, 0, 0)
		alone.MaxWaitMillis, alone.MinBytes = 500, 1
		start := time.Now()
		if p := only(t, ask[*kmsg.FetchResponse](c, alone)); p.ErrorCode != 0 || len(p.RecordBatches) != 0 || time.Since(start) != 500*time.Millisecond {
			t.Errorf("%+v after %v", p, time.Since(start))
		}
	})
}

func TestGoingAwayEndsALongPoll(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		c := dial(t, server(t, a))
		req := fetchRequest(13, "", id, 0, 0)
		req.MaxWaitMillis = 3_600_000
		c.send(req)
		faketime.Wait()
		if a.subscriptions() != 1 {
			t.Fatal("nobody waits")
		}
		c.close()
		faketime.Wait()
		if a.subscriptions() != 0 {
			t.Error("the wait goes on")
		}
	})
}

func TestErrorsThatClientsActOnAreProven(t *testing.T) {
	type ask1 struct {
		version int16
		offset  int64
		part    int32
		epoch   int32
		name    string
		want    int16 // after a barrier
		without int16 // where none can be had
	}
	for name, tc := range map[string]ask1{
		"beyond the end":    {version: 12, offset: 2, want: 1, without: 78},
		"below the start":   {version: 12, offset: -1, want: 1, without: 78},
		"unknown name":      {version: 12, name: "absent", want: 3, without: 78},
		"unknown id":        {version: 13, name: "absent", want: 100, without: 78},
		"unknown partition": {version: 13, part: 9, want: 3, without: 78},
		"future epoch":      {version: 12, epoch: 3, want: 75, without: 75},
	} {
		t.Run(name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				a := newCluster(t).join("a")
				id := a.topic("t", 1)
				c := dial(t, server(t, a))
				c.produce("t", 0, "x")
				topic := "t"
				if tc.name != "" {
					topic, id = tc.name, entry.UUID{9}
				}
				req := fetchRequest(tc.version, topic, id, tc.part, tc.offset)
				req.MaxWaitMillis = 60_000 // errors do not wait
				req.Topics[0].Partitions[0].CurrentLeaderEpoch = tc.epoch
				start := time.Now()
				if p := only(t, ask[*kmsg.FetchResponse](c, req)); p.ErrorCode != tc.want || p.HighWatermark > 0 && tc.want != 1 {
					t.Errorf("code %d, want %d", p.ErrorCode, tc.want)
				}
				a.with(func(a *agent) { a.barrierErr = errors.New("no quorum") })
				if p := only(t, ask[*kmsg.FetchResponse](c, req)); p.ErrorCode != tc.without {
					t.Errorf("without a barrier: code %d, want %d", p.ErrorCode, tc.without)
				}
				if time.Since(start) != 0 {
					t.Errorf("took %v", time.Since(start))
				}
			})
		})
	}
}

// A consumer that moved here from an agent that is ahead must not be told to start over (H21).
func TestAConsumerAheadOfThisAgent(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		id := a.topic("t", 1)
		b.with(func(b *agent) { b.behind = true })
		dial(t, server(t, a)).produce("t", 0, "x", "y")
		req := fetchRequest(13, "", id, 0, 1)
		p := only(t, ask[*kmsg.FetchResponse](dial(t, server(t, b)), req))
		if values, _ := valuesOf(t, p.RecordBatches, 1); p.ErrorCode != 0 || len(values) != 1 {
			t.Errorf("code %d, %v", p.ErrorCode, values)
		}
	})
}

func TestReadErrorsLeaveNoBytesBehind(t *testing.T) {
	for err, code := range map[error]int16{
		fetch.ErrStorage: 56, fetch.ErrCorrupt: 2, fetch.ErrUnavailable: 78, fetch.ErrOffsetOutOfRange: 1,
		errors.New("never heard of"): -1, fetch.ErrUnknownTopic: 100,
	} {
		faketime.Test(t, func(t *testing.T) {
			a := newCluster(t).join("a")
			id := a.topic("t", 1)
			c := dial(t, server(t, a))
			c.produce("t", 0, "x")
			a.with(func(a *agent) { a.readErr = fmt.Errorf("read: %w", err) })
			req := fetchRequest(13, "", id, 0, 0)
			req.MaxWaitMillis = 60_000
			if p := only(t, ask[*kmsg.FetchResponse](c, req)); p.ErrorCode != code || len(p.RecordBatches) != 0 || p.HighWatermark != -1 {
				t.Errorf("%v: code %d, %d bytes, high watermark %d", err, p.ErrorCode, len(p.RecordBatches), p.HighWatermark)
			}
		})
	}
}

func TestIncrementalSession(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 3)
		s := server(t, a)
		producer, c := dial(t, s), dial(t, s)
		// A full fetch starts the session.
		req := fetchRequest(13, "", id, 0, 0)
		addFetch(req, "", id, 1, 0)
		addFetch(req, "", id, 2, 0)
		req.SessionEpoch = 0
		res := ask[*kmsg.FetchResponse](c, req)
		if res.SessionID == 0 || res.ErrorCode != 0 || len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 3 {
			t.Fatalf("%+v", res)
		}
		next := fetchRequest(13, "", id, 0, 0)
		next.Topics, next.SessionID, next.SessionEpoch, next.MaxWaitMillis = nil, res.SessionID, 1, 1000
		step := func() map[int32]int {
			t.Helper()
			res := ask[*kmsg.FetchResponse](c, next)
			if res.ErrorCode != 0 || res.SessionID != next.SessionID {
				t.Fatalf("code %d, session %d", res.ErrorCode, res.SessionID)
			}
			next.SessionEpoch++
			next.Topics, next.ForgottenTopics = nil, nil
			got := make(map[int32]int)
			for _, rt := range res.Topics {
				for _, rp := range rt.Partitions {
					values, _ := valuesOf(t, rp.RecordBatches, 0)
					got[rp.Partition] = len(values)
				}
			}
			return got
		}
		if got := step(); len(got) != 0 {
			t.Errorf("nothing changed, but %v", got)
		}
		producer.produce("t", 1, "a", "b")
		if got := step(); len(got) != 1 || got[1] != 2 {
			t.Errorf("after two records in partition 1: %v", got)
		}
		addFetch(next, "", id, 1, 2) // they are read
		if got := step(); len(got) != 0 {
			t.Errorf("after reading them: %v", got)
		}
		forgotten := kmsg.NewFetchRequestForgottenTopic()
		forgotten.TopicID, forgotten.Partitions = id, []int32{0}
		next.ForgottenTopics = append(next.ForgottenTopics, forgotten)
		producer.produce("t", 0, "nobody asks for this")
		if got := step(); len(got) != 0 {
			t.Errorf("a forgotten partition: %v", got)
		}
		// What is wrong with the session is told at the top.
		wrong := *next
		wrong.SessionEpoch = 77
		if res := ask[*kmsg.FetchResponse](c, &wrong); res.ErrorCode != 71 {
			t.Errorf("another epoch: code %d", res.ErrorCode)
		}
		wrong.SessionID++
		if res := ask[*kmsg.FetchResponse](c, &wrong); res.ErrorCode != 70 {
			t.Errorf("another session: code %d", res.ErrorCode)
		}
		wrong = *next
		wrong.Version = 12
		if res := ask[*kmsg.FetchResponse](c, &wrong); res.ErrorCode != 106 {
			t.Errorf("names in a session of ids: code %d", res.ErrorCode)
		}
		if got := step(); len(got) != 0 {
			t.Errorf("after those: %v", got)
		}
		next.SessionEpoch = -1
		if res := ask[*kmsg.FetchResponse](c, next); res.ErrorCode != 0 || res.SessionID != 0 || s.Sessions() != 0 {
			t.Errorf("the end: %+v, %d sessions", res, s.Sessions())
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"), func(c *kafka.Config) { c.FetchSessions = 2 })
		start := func() int32 {
			req := fetchRequest(13, "", entry.UUID{5}, 0, 0)
			req.SessionEpoch = 0
			id, parts, code := s.Begin(req)
			if parts != 1 || code != 0 {
				t.Fatalf("session %d of %d parts, code %d", id, parts, code)
			}
			return id
		}
		goOn := func(id, epoch int32) int16 {
			req := fetchRequest(13, "", entry.UUID{5}, 0, 0)
			req.SessionID, req.SessionEpoch = id, epoch
			_, _, code := s.Begin(req)
			return code
		}
		first, second := start(), start()
		if code := goOn(first, 1); code != 0 {
			t.Errorf("code %d", code)
		}
		time.Sleep(2*time.Minute - 1)
		if id := start(); id != 0 || s.Sessions() != 2 {
			t.Errorf("session %d of %d took the place of one in use", id, s.Sessions())
		}
		if code := goOn(first, 2); code != 0 {
			t.Errorf("code %d", code)
		}
		time.Sleep(time.Nanosecond)
		third := start() // in place of the second, which was not used for longest
		if third == 0 || s.Sessions() != 2 || goOn(second, 1) != 70 || goOn(first, 3) != 0 || goOn(third, 1) != 0 {
			t.Errorf("session %d, %d sessions", third, s.Sessions())
		}
		if kafka.NextEpoch(math.MaxInt32) != 1 {
			t.Error("the epoch after the last is 1")
		}
	})
}

// What returned records goes to the end, so that a partition that always has some starves no other.
func TestPartitionsTakeTurnsInASession(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 2)
		s := server(t, a)
		c := dial(t, s)
		for range 3 {
			c.produce("t", 0, strings.Repeat("x", 5000))
			c.produce("t", 1, strings.Repeat("x", 5000))
		}
		req := fetchRequest(13, "", id, 0, 0)
		addFetch(req, "", id, 1, 0)
		req.SessionEpoch, req.MaxBytes = 0, 5500
		served := func(res *kmsg.FetchResponse) int32 {
			at := int32(-1)
			for _, rt := range res.Topics {
				for _, rp := range rt.Partitions {
					if len(rp.RecordBatches) > 0 {
						at = rp.Partition
					}
				}
			}
			return at
		}
		res := ask[*kmsg.FetchResponse](c, req)
		turns := []int32{served(res)}
		req.SessionID, req.Topics = res.SessionID, nil
		for range 3 {
			req.SessionEpoch++
			turns = append(turns, served(ask[*kmsg.FetchResponse](c, req)))
		}
		if got := fmt.Sprint(turns); got != "[0 1 0 1]" {
			t.Errorf("turns %s", got)
		}
	})
}

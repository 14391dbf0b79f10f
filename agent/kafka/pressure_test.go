package kafka_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore/batch"
)

// Whoever needs nothing more goes on while others wait: a request whose answer takes no room would else start over and over.
func TestNothingIsThereWhileOthersWait(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		b := kafka.NewBudget(10, nil)
		ctx, cancel := context.WithCancel(t.Context())
		_ = b.Take(ctx, 8)
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.Take(ctx, 10) })
		faketime.Wait()
		if !b.More(0) || b.More(1) {
			t.Errorf("nothing more: %t; one more, ahead of who waits: %t", b.More(0), b.More(1))
		}
		cancel()
		wg.Wait()
	})
}

// Those who hold a budget are looked through about once a second, not once for each that waits.
func TestManyWhoWaitPressNoMoreThanOne(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		var pressed atomic.Int64
		b := kafka.NewBudget(10, func() { pressed.Add(1) })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_ = b.Take(ctx, 10)
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				_ = b.Take(ctx, 1)
			})
		}
		wg.Wait()
		if n := pressed.Load(); n < 15 || n > 45 {
			t.Errorf("pressed %d times in 20 s", n)
		}
	})
}

// A consumer that is slow to take an answer holds nothing that producers wait for.
func TestProducersThatWaitCostNoConsumer(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.ProduceBytesMax, c.RequestBytesMax, c.ConnectionInFlightBytes, c.InFlightBytes = 1<<20, 1<<20, 1<<20, 1<<20
			c.StallTimeout = time.Hour
		})
		visit(t, s, "10.0.0.1").produce("t", 0, strings.Repeat("x", 900_000))
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		consumer, req := visit(t, s, "10.0.0.1"), fetchRequest(13, "", id, 0, 0)
		answer := consumer.send(req)
		large := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", 900_000)))
		large.TimeoutMillis = 120_000
		for range 2 { // the second has no room
			visit(t, s, "10.0.0.1").send(large)
		}
		defer close(gate)
		time.Sleep(time.Minute)
		if res, _ := consumer.receive(answer, req).(*kmsg.FetchResponse); len(only(t, res).RecordBatches) < 900_000 {
			t.Error("the answer is not all there")
		}
	})
}

// Requests that wait behind a long poll hold what others wait for: the long poll ends.
func TestWhatIsBehindALongPollMakesRoom(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		a.topic("other", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.ProduceBytesMax, c.RequestBytesMax, c.ConnectionInFlightBytes, c.InFlightBytes = 1<<20, 1<<20, 1<<20, 2<<20
		})
		for range 2 {
			c := visit(t, s, "10.0.0.1")
			req := fetchRequest(13, "", id, 0, 0)
			req.MaxWaitMillis = 300_000
			c.send(req)
			c.send(produceRequest(9, "other", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", 1_000_000))))
			defer func() {
				for range 2 {
					_, _ = c.frame()
				}
			}()
		}
		patient := visit(t, s, "10.0.0.2") // holds nothing: it is left alone
		poll := fetchRequest(13, "", id, 0, 0)
		poll.MaxWaitMillis = 60_000
		polled := patient.send(poll)
		faketime.Wait()
		start := time.Now()
		visit(t, s, "10.0.0.1").produce("other", 0, strings.Repeat("x", 900_000))
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("a producer waited %v", took)
		}
		patient.receive(polled, poll)
		if took := time.Since(start); took < time.Minute {
			t.Errorf("a long poll that holds nothing ended after %v", took)
		}
	})
}

// An answer is no larger than what was taken of the budget, and one batch: where records are larger than the topic's average
// it is larger only if there is room.
func TestAnswersOfLargeRecordsAreChargedFor(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.FetchBytesMax, c.FetchInFlightBytes, c.StallTimeout = 1<<20, 3<<19, time.Hour
		})
		c := visit(t, s, "10.0.0.1")
		from := c.produce("t", 0, strings.Split(strings.Repeat("x,", 20_000), ",")...) + 20_001
		for range 8 {
			c.produce("t", 0, strings.Repeat("y", 100_000))
		}
		if got := only(t, ask[*kmsg.FetchResponse](c, fetchRequest(13, "", id, 0, from))); len(got.RecordBatches) < 800_000 {
			t.Errorf("with room for all: %d bytes", len(got.RecordBatches))
		}
		visit(t, s, "10.0.0.1").send(fetchRequest(13, "", id, 0, from)) // takes nothing
		faketime.Wait()
		start := time.Now()
		req := fetchRequest(13, "", id, 0, from)
		req.MinBytes, req.MaxWaitMillis = 1<<20, 60_000
		got := only(t, ask[*kmsg.FetchResponse](c, req))
		if n := len(got.RecordBatches); n < 100_000 || n > 600_000 {
			t.Errorf("with room for some: %d bytes", n)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("an answer that cannot get any fuller came after %v", took)
		}
	})
}

// A queue that never runs empty does not grow by what went through it.
func TestQueuesStayShort(t *testing.T) {
	if room := kafka.QueueRoom(100_000); room < 2 || room > 64 {
		t.Errorf("room for %d", room)
	}
}

// A connection that once had a large answer keeps nothing of it.
func TestLargeAnswersLeaveNothingBehind(t *testing.T) {
	a := newCluster(t).join("a")
	a.topic("t", 10_000)
	s := server(t, a)
	meta := kmsg.NewPtrMetadataRequest()
	meta.Version = 12
	const n = 30
	var clients []*client
	live := func() uint64 {
		runtime.GC()
		runtime.GC() // pools let go at the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, size := live(), 0
	for range n {
		c := dial(t, s)
		clients = append(clients, c)
		c.send(meta)
		b, err := c.frame()
		if err != nil {
			t.Fatal(err)
		}
		size = len(b)
	}
	if kept := int64(live()) - int64(before); kept > int64(n*size/4) {
		t.Errorf("%d connections keep %d bytes of answers of %d", n, kept, size)
	}
	runtime.KeepAlive(clients)
}

// Of a Produce without acks, what was refused ends the connection although other partitions are late: it is lost.
func TestALateProduceWithoutAcksTellsWhatWasRefused(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		gate := make(chan struct{})
		defer close(gate)
		a.with(func(a *agent) { a.gate = gate })
		c := dial(t, server(t, a, func(c *kafka.Config) { c.ProduceTimeoutMax = 2 * time.Second }))
		req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "a"))
		req.Acks = 0
		absent := req.Topics[0].Partitions[0]
		absent.Partition = 7
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, absent)
		c.send(req)
		start := time.Now()
		c.closed()
		if took := time.Since(start); took > 5*time.Second { // not for being idle
			t.Errorf("closed after %v", took)
		}
	})
}

// A connection whose first request is still being served has asked for something, and makes room for nobody.
func TestTheFirstRequestUnderWayIsNotDisplaced(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) { c.Connections = 2 })
		c := visit(t, s, "10.0.0.1")
		req := fetchRequest(13, "", id, 0, 0)
		req.MaxWaitMillis = 20_000
		sent := c.send(req)
		time.Sleep(5 * time.Second)
		for i := range 3 {
			visit(t, s, fmt.Sprint("10.0.0.", 2+i))
			time.Sleep(2 * time.Second)
		}
		c.receive(sent, req)
	})
}

// counted counts the reads that brought something.
type counted struct {
	net.Conn
	reads atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.reads.Add(1)
	}
	return n, err
}

// A small request takes one read, and many that come together no more than that.
func TestSmallRequestsTakeOneRead(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"))
		ours, theirs := net.Pipe()
		nc := &counted{Conn: theirs}
		c := &client{t: t, nc: ours, out: make(chan []byte, 64)}
		var wg sync.WaitGroup
		wg.Go(func() { s.Serve1(nc) })
		wg.Go(func() {
			for b := range c.out {
				_, _ = ours.Write(b)
			}
		})
		defer wg.Wait()
		defer c.close()
		req := kmsg.NewPtrApiVersionsRequest()
		for range 10 {
			ask[*kmsg.ApiVersionsResponse](c, req)
		}
		if n := nc.reads.Load(); n != 10 {
			t.Errorf("%d reads for 10 requests", n)
		}
		var together []byte
		for i := range int32(5) {
			together = append(together, kmsg.NewRequestFormatter().AppendRequest(nil, req, c.correlation+1+i)...)
		}
		c.write(together)
		for range 5 {
			c.correlation++
			c.receive(c.correlation, req)
		}
		if n := nc.reads.Load(); n != 11 {
			t.Errorf("%d reads for 5 requests at once", n-10)
		}
	})
}

// What new connections sent and what waits for an outage to end keeps no other new connection from sending.
func TestAnOutageCutsOffNoNewProducer(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.ProduceBytesMax, c.RequestBytesMax, c.ConnectionInFlightBytes, c.InFlightBytes = 1<<20, 1<<20, 1<<20, 8<<20
			c.StrangerBytes = 1 << 20
		})
		gate := make(chan struct{})
		defer close(gate)
		a.with(func(a *agent) { a.gate = gate })
		req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", 600_000)))
		req.TimeoutMillis = 60_000
		for range 4 {
			c := visit(t, s, "10.0.0.1")
			defer func(id int32) {
				if res, _ := c.receive(id, req).(*kmsg.ProduceResponse); outcome(res).ErrorCode != 7 {
					t.Errorf("code %d", outcome(res).ErrorCode)
				}
			}(c.send(req))
		}
	})
}

// However much of the budget of small requests is taken, one small request of each connection goes without.
func TestOneSmallRequestGoesWithout(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) { c.QueuedBytes, c.WorkBytes = 64<<10, 64<<10 })
		for i := range 3 { // three quarters of it each
			c := visit(t, s, fmt.Sprint("10.0.0.", 1+i))
			poll := fetchRequest(13, "", id, 0, 0)
			poll.MaxWaitMillis = 300_000
			c.send(poll)
			large := kmsg.NewPtrMetadataRequest()
			large.Version, large.Topics = 12, []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr(strings.Repeat("x", 32_000))}}
			c.send(large)
			c.send(large)
		}
		faketime.Wait()
		start := time.Now()
		ask[*kmsg.ApiVersionsResponse](visit(t, s, "10.0.0.9"), kmsg.NewPtrApiVersionsRequest())
		if took := time.Since(start); took > 0 {
			t.Errorf("a client that asks for little waited %v", took)
		}
	})
}

// What a fetch session took is there again when it has ended, or has let partitions go.
func TestFetchSessionsGiveBackWhatTheyTook(t *testing.T) {
	s := server(t, newCluster(t).join("a"), func(c *kafka.Config) { c.FetchSessionBytes = 100_000 })
	for i := range 20 {
		full := fetchRequest(13, "", entry.UUID{1}, 0, 0)
		full.SessionEpoch = 0
		for p := int32(1); p < 200; p++ {
			addFetch(full, "", entry.UUID{1}, p, 0)
		}
		id, _, _ := s.Begin(full)
		if id == 0 {
			t.Fatalf("round %d: no room for a session", i)
		}
		less := fetchRequest(13, "", entry.UUID{1}, 0, 0)
		less.Topics, less.SessionID, less.SessionEpoch = nil, id, 1
		gone := kmsg.NewFetchRequestForgottenTopic()
		gone.TopicID = entry.UUID{1}
		for p := range int32(199) {
			gone.Partitions = append(gone.Partitions, p)
		}
		less.ForgottenTopics = []kmsg.FetchRequestForgottenTopic{gone}
		if _, parts, code := s.Begin(less); parts != 1 || code != 0 {
			t.Fatalf("round %d: %d partitions are left, code %d", i, parts, code)
		}
		other, _, _ := s.Begin(full)
		if other == 0 {
			t.Fatalf("round %d: partitions that were let go are still counted", i)
		}
		for _, id := range []int32{id, other} {
			end := fetchRequest(13, "", entry.UUID{1}, 0, 0)
			end.SessionID, end.SessionEpoch = id, -1
			s.Begin(end)
		}
	}
}

package kafka_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
)

// largest notes the largest Produce that a client sent.
type largest struct{ bytes atomic.Int64 }

func (l *largest) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, n int, _, _ time.Duration, err error) {
	if key == 0 && err == nil && int64(n) > l.bytes.Load() {
		l.bytes.Store(int64(n))
	}
}

// A client with its own defaults puts the batches of all partitions into one request, which may be six times what was once taken.
// It is refused for its size by closing the connection, and such a client sends the same again for ever.
func TestOneRequestForManyPartitions(t *testing.T) {
	const partitions, size = 200, 120_000
	agents := stacks(t, 1, func(c *kafka.Config) { c.InFlightBytes = 96 << 20 }) // as with 512 MiB of memory
	var sent largest
	cl := kclient(t, agents, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(time.Minute), kgo.WithHooks(&sent))
	createTopic(t, cl, "wide", partitions, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	noise := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(noise)
	for p := range int32(partitions) {
		cl.Produce(ctx, &kgo.Record{Topic: "wide", Partition: p, Key: fmt.Append(nil, p), Value: noise}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("partition %d: %v", p, err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if n := sent.bytes.Load(); n < partitions*size {
		t.Fatalf("the largest request was of %d bytes: the client did not do what it is here for", n)
	}
	seen := make(map[int32]bool)
	for _, r := range consume(t, agents, "wide", partitions) {
		if string(r.Key) != fmt.Sprint(r.Partition) || string(r.Value) != string(noise) {
			t.Errorf("partition %d holds another record", r.Partition)
		}
		seen[r.Partition] = true
	}
	if len(seen) != partitions {
		t.Errorf("records in %d partitions", len(seen))
	}
}

const large = 16 << 20 // up to where a connection is given what it claims

// largeTune is a server that takes requests beyond that, with as little beside them as it may have.
func largeTune(c *kafka.Config) {
	c.ProduceBytesMax, c.ConnectionInFlightBytes, c.InFlightBytes, c.StrangerBytes = 24<<20, large, 32<<20, 32<<20
	c.FrameTimeout = time.Hour
}

// largeProduce is a Produce of 21 MiB.
func largeProduce(t *testing.T) (req *kmsg.ProduceRequest, frame []byte) { return wideProduce(t, 22) }

// wideProduce is a Produce of a megabyte for each partition.
func wideProduce(t *testing.T, partitions int32) (req *kmsg.ProduceRequest, frame []byte) {
	t.Helper()
	raw := records(t, batch.BuildOptions{}, string(make([]byte, 1_000_000)))
	req = produceRequest(9, "t", 0, raw)
	for p := range partitions - 1 {
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = p+1, raw
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, part)
	}
	return req, kmsg.NewRequestFormatter().AppendRequest(nil, req, 0)
}

// Nobody may begin with a large request.
func TestALargeRequestIsNoConnectionsFirst(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"), largeTune)
		first := visit(t, s, "10.0.0.1")
		head := make([]byte, 100)
		binary.BigEndian.PutUint32(head, large+1)
		first.write(head)
		first.closed()
		second := visit(t, s, "10.0.0.1")
		binary.BigEndian.PutUint32(head, large)
		second.write(head)
		faketime.Wait()
		if n := s.Connections(); n != 1 {
			t.Errorf("%d connections: the one that announces 16 MiB should be left", n)
		}
	})
}

// Large requests, however many, are read no further than strangers are until there is room for them, and all get through: the
// budgets never hold more than they have.
func TestLargeRequestsWaitForRoom(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 22)
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		s := server(t, a, largeTune)
		req, frame := largeProduce(t)
		const producers = 3
		var taken [producers]atomic.Int64
		var clients [producers]*client
		var wg sync.WaitGroup
		for i := range clients {
			c := visit(t, s, fmt.Sprintf("10.0.0.%d", i+1))
			ask[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest())
			clients[i] = c
			wg.Go(func() {
				for b := frame; len(b) > 0; { // a pipe: what was written was read
					n, err := c.nc.Write(b[:min(len(b), 64<<10)])
					if err != nil {
						t.Error(err)
						return
					}
					taken[i].Add(int64(n))
					b = b[n:]
				}
			})
			faketime.Wait()
		}
		if whole, part := taken[0].Load(), taken[1].Load(); whole != int64(len(frame)) || part < large-1<<20 || part > large+1<<20 {
			t.Errorf("of %d bytes the first sent %d, the second %d", len(frame), whole, part)
		}
		close(gate)
		wg.Wait()
		for i, c := range clients {
			res := c.receive(0, req).(*kmsg.ProduceResponse)
			for _, p := range res.Topics[0].Partitions {
				if p.ErrorCode != 0 {
					t.Errorf("producer %d, partition %d: code %d", i, p.Partition, p.ErrorCode)
				}
			}
		}
	})
}

// Who announces large requests holds nothing for it, not even where it has sent one before.
func TestLargeClaimsHoldNothing(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 22)
		s := server(t, a, largeTune)
		req, frame := largeProduce(t)
		for range 10 {
			c := visit(t, s, "10.0.0.1")
			ask[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest())
			c.write(frame)
			c.receive(0, req)
			c.write(frame[:20_000])
		}
		faketime.Wait()
		start := time.Now()
		visit(t, s, "10.0.0.1").produce("t", 0, string(make([]byte, 900_000)))
		visit(t, s, "10.0.0.2").produce("t", 0, string(make([]byte, 900_000)))
		if took := time.Since(start); took != 0 {
			t.Errorf("producers waited %v", took)
		}
	})
}

// feed sends pieces of 256 KiB with pauses between them, until all is sent, the server hangs up or stop is closed.
func feed(c *client, b []byte, pause time.Duration, stop <-chan struct{}) {
	for len(b) > 0 {
		n, err := c.nc.Write(b[:min(len(b), 256<<10)])
		if err != nil {
			return
		}
		b = b[n:]
		select {
		case <-time.After(pause):
		case <-stop:
			return
		}
	}
}

// Behind a load balancer all clients may have one address: a large request that takes all that one address gets leaves some of it to the others,
// however slow it comes.
func TestALargeRequestLeavesRoomToOthersOfItsAddress(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 41)
		s := server(t, a, largeTune, func(c *kafka.Config) { c.ProduceBytesMax = 48 << 20 }) // of 32 MiB one address gets 24
		_, frame := wideProduce(t, 41)
		var others []*client
		for _, from := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.1"} {
			c := visit(t, s, from)
			c.produce("t", 0, string(make([]byte, 1_000_000))) // a connection's first of a size is a stranger's
			others = append(others, c)
		}
		slow := visit(t, s, "10.0.0.1")
		ask[*kmsg.ApiVersionsResponse](slow, kmsg.NewPtrApiVersionsRequest())
		feed(slow, frame[:30<<20], time.Millisecond, nil) // 16 MiB of it as a stranger's
		start := time.Now()
		for _, c := range others {
			c.produce("t", 0, string(make([]byte, 1_000_000)))
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("producers waited %v", took)
		}
	})
}

// Who sends a large request and stalls, or sends a little now and then, is left alone until somebody wants to send another. Then it is
// ended, and the next one goes through; small requests never wait.
func TestASlowLargeRequestMakesWay(t *testing.T) {
	for name, tc := range map[string]struct{ pause, within time.Duration }{
		"stalled": {time.Hour, 8 * time.Second},        // --pressure-timeout, and a look a second
		"slow":    {3 * time.Second, 32 * time.Second}, // --frame-timeout
	} {
		t.Run(name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				a := newCluster(t).join("a")
				a.topic("t", 22)
				reg := prometheus.NewRegistry()
				s := server(t, a, largeTune, func(c *kafka.Config) { c.FrameTimeout, c.Metrics = 30*time.Second, kafka.NewMetrics(reg) })
				req, frame := largeProduce(t)
				other := visit(t, s, "10.0.0.1")
				other.produce("t", 0, string(make([]byte, 1_000_000)))
				slow, stop, stopped := visit(t, s, "10.0.0.1"), make(chan struct{}), make(chan struct{})
				ask[*kmsg.ApiVersionsResponse](slow, kmsg.NewPtrApiVersionsRequest())
				go func() {
					defer close(stopped)
					feed(slow, frame, tc.pause, stop)
				}()
				defer func() { close(stop); <-stopped }()
				time.Sleep(20 * time.Second)
				if n := s.Connections(); n != 2 {
					t.Fatal("ended although nobody waits")
				}
				next := visit(t, s, "10.0.0.1")
				ask[*kmsg.ApiVersionsResponse](next, kmsg.NewPtrApiVersionsRequest())
				start := time.Now()
				next.write(frame)
				faketime.Wait()
				other.produce("t", 0, string(make([]byte, 1_000_000)))
				if took := time.Since(start); took != 0 {
					t.Errorf("a small request waited %v", took)
				}
				next.receive(0, req)
				if took := time.Since(start); took == 0 || took > tc.within {
					t.Errorf("the next large request was answered after %v", took)
				}
				slow.closed()
				if waited := largeWait(t, reg); waited < time.Second || waited > tc.within {
					t.Errorf("the metric says that it waited for %v", waited)
				}
			})
		})
	}
}

// A large request that waits for what strangers hold is not ended for that afterwards, though another waits to be read: it is our time.
func TestALargeRequestIsGivenItsTimeAfterAWait(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 22)
		s := server(t, a, largeTune, func(c *kafka.Config) { c.FrameTimeout = 30 * time.Second })
		arrive := func(from string) *client {
			c := visit(t, s, from)
			ask[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest())
			return c
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		stop, end := make(chan struct{}), make(chan struct{})
		defer close(end)
		claim := make([]byte, 4+large)
		binary.BigEndian.PutUint32(claim, large)
		var holders []*client
		for _, from := range []string{"10.0.0.1", "10.0.0.2"} { // half of the strangers' budget each, and no slower than they may be
			c := arrive(from)
			feed(c, claim[:large/2+256<<10], 0, nil)
			wg.Go(func() { feed(c, claim[large/2+256<<10:], 4*time.Second, stop) })
			holders = append(holders, c)
		}
		req, frame := largeProduce(t)
		first, second := arrive("10.0.0.3"), arrive("10.0.0.4")
		wg.Go(func() { feed(first, frame, 200*time.Millisecond, end) })
		faketime.Wait()
		second.write(frame)
		time.Sleep(40 * time.Second)
		if n := s.Connections(); n != 4 {
			t.Fatalf("%d connections are left: this shows nothing", n)
		}
		close(stop)
		for _, c := range holders {
			c.close()
		}
		first.receive(0, req)
		second.receive(0, req)
	})
}

// largeWait is how long large requests waited for their turn, by the metric.
func largeWait(t *testing.T, reg *prometheus.Registry) (waited time.Duration) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "firn_kafka_budget_wait_seconds_total" && m.GetLabel()[0].GetValue() == "large" {
				waited += time.Duration(m.GetCounter().GetValue() * float64(time.Second))
			}
		}
	}
	return waited
}

// Who waits until its large request is read holds nothing and wants no memory: nobody is hurried for it who sends no large request.
func TestWaitingToSendALargeRequestHurriesNobodyElse(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 22)
		s := server(t, a, largeTune)
		_, frame := largeProduce(t)
		var clients []*client
		for range 2 {
			c := visit(t, s, "10.0.0.1")
			ask[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest())
			clients = append(clients, c)
		}
		small := visit(t, s, "10.0.0.1")
		req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, string(make([]byte, 1_000_000))))
		ask[*kmsg.ProduceResponse](small, req)
		polling := visit(t, s, "10.0.0.1")
		poll := fetchRequest(13, "", id, 1, 0)
		poll.MaxWaitMillis = 60_000
		polled := polling.send(poll)
		polling.send(produceRequest(9, "t", 2, records(t, batch.BuildOptions{}, "behind it")))
		start := time.Now()
		var wg sync.WaitGroup
		defer wg.Wait()
		stop := make(chan struct{})
		defer close(stop)
		wg.Go(func() { feed(clients[0], frame, time.Second, stop) })
		faketime.Wait()
		clients[1].write(frame) // waits
		wg.Go(func() { feed(small, kmsg.NewRequestFormatter().AppendRequest(nil, req, 0), 8*time.Second, stop) })
		small.receive(0, req)
		if took := time.Since(start); took < 24*time.Second {
			t.Errorf("the small request was there after %v: this shows nothing", took)
		}
		polling.receive(polled, poll)
		if took := time.Since(start); took < time.Minute {
			t.Errorf("a long poll ended after %v", took)
		}
	})
}

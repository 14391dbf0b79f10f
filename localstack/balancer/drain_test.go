package balancer_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// A drain waits for nobody who has nothing to wait for: idle connections and long polls end at once, and busy producers lose
// nothing.
func TestDrainUnderLoad(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	c := start(t, 3, nil)
	victim := c.members[0]
	admin := c.client()
	if _, err := kadm.NewClient(admin).CreateTopic(t.Context(), 1, -1, nil, "silent"); err != nil {
		t.Fatal(err)
	}
	admin.Close()
	c.await("the agent knows the topic", func() (known bool) {
		victim.Metastore().View(func(st *state.State) { known = st.TopicByName("silent") != nil })
		return known && victim.Status().Connections == 0
	})
	idle, err := net.Dial("tcp", victim.kafka)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()

	// A long poll at the very agent, of a topic that nobody writes to. A drain owes an answer to what the agent has read, so nobody else
	// asks it for anything until it is seen to have read that.
	poll := kmsg.NewPtrFetchRequest()
	poll.Version, poll.MaxWaitMillis, poll.MinBytes, poll.MaxBytes, poll.SessionEpoch = 12, 300_000, 1<<20, 1<<20, -1
	of := kmsg.NewFetchRequestTopic()
	of.Topic = "silent"
	of.Partitions = append(of.Partitions, kmsg.FetchRequestTopicPartition{FetchOffset: 0, PartitionMaxBytes: 1, CurrentLeaderEpoch: -1, LastFetchedEpoch: -1, LogStartOffset: -1})
	poll.Topics = append(poll.Topics, of)
	long, err := net.Dial("tcp", victim.kafka)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	if _, err := long.Write(kmsg.NewRequestFormatter().AppendRequest(nil, poll, 1)); err != nil {
		t.Fatal(err)
	}
	c.await("the agent has both connections and the request", func() bool { s := victim.Status(); return s.Connections == 2 && s.Unanswered == 1 })

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var busy sync.WaitGroup
	for range 3 {
		producer := c.client(kgo.DefaultProduceTopic("t"), kgo.ProducerLinger(time.Millisecond))
		busy.Go(func() {
			var acked sync.WaitGroup
			for ctx.Err() == nil {
				acked.Add(1)
				producer.Produce(t.Context(), kgo.SliceRecord(make([]byte, 500)), func(_ *kgo.Record, err error) {
					defer acked.Done()
					if err != nil {
						t.Errorf("produce: %v", err)
					}
				})
				time.Sleep(time.Millisecond) // a rate
			}
			acked.Wait()
		})
	}
	waiting := c.client(kgo.ConsumeTopics("silent"), kgo.FetchMinBytes(1<<20), kgo.FetchMaxWait(5*time.Minute))
	busy.Go(func() {
		for ctx.Err() == nil {
			waiting.PollFetches(ctx)
		}
	})
	c.await("the agent is busy", func() bool { return victim.Status().Connections > 2 })

	done := make(chan time.Duration)
	go func() { done <- c.drain(0) }() // fails where it takes more than its bound, which long polls are longer than
	c.await("it is not ready", func() bool { h := victim.Health(); return !h.Ready })
	for what, nc := range map[string]net.Conn{"idle": idle, "long poll": long} {
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		answer, err := io.ReadAll(nc)
		if err != nil || (len(answer) > 0) != (what == "long poll") {
			t.Errorf("%s: %d bytes, then %v", what, len(answer), err)
		}
	}
	t.Logf("drained in %v", <-done)
	cancel()
	busy.Wait()
}

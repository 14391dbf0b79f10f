package kafka_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// worker is a franz-go consumer in a group of the consumer protocol.
type worker struct {
	cl   *kgo.Client
	done chan struct{}

	mu    sync.Mutex // guards the rest
	holds map[string]bool
	read  map[string]bool
}

func startWorker(t *testing.T, agents []*stack, opts ...kgo.Opt) *worker {
	t.Helper()
	w := &worker{done: make(chan struct{}), holds: map[string]bool{}, read: map[string]bool{}}
	change := func(has bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, list map[string][]int32) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for topic, partitions := range list {
				for _, p := range partitions {
					if has {
						w.holds[fmt.Sprintf("%s-%d", topic, p)] = true
					} else {
						delete(w.holds, fmt.Sprintf("%s-%d", topic, p))
					}
				}
			}
		}
	}
	w.cl = kclient(t, agents, append([]kgo.Opt{
		kgo.ConsumerGroup("workers"), kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(100 * time.Millisecond), kgo.FetchMaxWait(50 * time.Millisecond),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)),
	}, opts...)...)
	go func() {
		defer close(w.done)
		for {
			fetches := w.cl.PollFetches(context.Background())
			if fetches.IsClientClosed() {
				return
			}
			w.mu.Lock()
			fetches.EachRecord(func(r *kgo.Record) { w.read[string(r.Value)] = true })
			w.mu.Unlock()
		}
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *worker) stop() {
	w.cl.Close()
	<-w.done
}

// share waits until the workers share so many partitions evenly.
func share(t *testing.T, partitions int, workers ...*worker) {
	t.Helper()
	var state string
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var all []string
		least, most := partitions, 0
		state = ""
		for _, w := range workers {
			w.mu.Lock()
			n := len(w.holds)
			for p := range w.holds {
				all = append(all, p)
			}
			w.mu.Unlock()
			least, most = min(least, n), max(most, n)
			state += fmt.Sprint(n, " ")
		}
		slices.Sort(all)
		if len(all) == partitions && len(slices.Compact(all)) == partitions && most-least <= 1 {
			return
		}
	}
	t.Fatalf("workers hold %sof %d partitions", state, partitions)
}

// franz-go's consumers of KIP-848 share partitions as they come and go, over a hand-over of their coordinator, and read every
// record.
func TestFranzGoInGroupsOfTheConsumerProtocol(t *testing.T) {
	agents := stacks(t, 2)
	producer := kclient(t, agents, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	createTopic(t, producer, "jobs", 6, nil)
	produced := 0
	produce := func() {
		t.Helper()
		for range 120 {
			produced++
			if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: "jobs", Value: fmt.Append(nil, produced)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	everything := func(workers ...*worker) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
			all := map[string]bool{}
			for _, w := range workers {
				w.mu.Lock()
				for v := range w.read {
					all[v] = true
				}
				w.mu.Unlock()
			}
			if len(all) == produced {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d records were read", len(all), produced)
			}
		}
	}

	first := startWorker(t, agents, kgo.ConsumeTopics("jobs"))
	produce()
	share(t, 6, first)
	everything(first)
	second := startWorker(t, agents, kgo.ConsumeTopics("jobs"))
	share(t, 6, first, second)
	third := startWorker(t, agents, kgo.ConsumeRegex(), kgo.ConsumeTopics("^jo"))
	share(t, 6, first, second, third)
	produce()
	everything(first, second, third)

	described, err := kadm.NewClient(producer).DescribeConsumerGroups(t.Context(), "workers")
	if err != nil || described["workers"].Err != nil || len(described["workers"].Members) != 3 {
		t.Errorf("described: %+v, %v", described, err)
	}
	listed, err := kadm.NewClient(producer).ListGroups(t.Context())
	if err != nil || listed["workers"].ProtocolType != "consumer" {
		t.Errorf("listed: %+v, %v", listed, err)
	}

	owner := 0
	if _, mine := agents[1].groups.OwnerOf("workers"); mine {
		owner = 1
	}
	if err := agents[owner].groups.HandOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	produce()
	everything(first, second, third)
	share(t, 6, first, second, third)

	third.stop()
	share(t, 6, first, second)
	second.stop()
	share(t, 6, first)
	produce()
	everything(first, second, third)
}

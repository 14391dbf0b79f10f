package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// readers are the members of a group, each a client of its own, and what they read.
type readers struct {
	mu   sync.Mutex // guards the rest
	seen map[string]int
}

// consume runs a member until ctx ends. It commits what it has read after each poll.
func (r *readers) consume(ctx context.Context, t *testing.T, cl *kgo.Client) {
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		fetches.EachError(func(topic string, partition int32, err error) {
			if !errors.Is(err, context.Canceled) && !errors.Is(err, kgo.ErrClientClosed) {
				t.Logf("fetch %s/%d: %v", topic, partition, err)
			}
		})
		r.mu.Lock()
		fetches.EachRecord(func(rec *kgo.Record) { r.seen[string(rec.Value)]++ })
		r.mu.Unlock()
		if err := cl.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
			t.Logf("commit: %v", err)
		}
	}
}

func (r *readers) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// A client whose connections are split over all agents produces exactly once and reads in groups, while agents are drained,
// killed and started again.
func TestOneClientOverAllAgents(t *testing.T) {
	t.Run("classic", func(t *testing.T) { oneClientOverAllAgents(t, t.Context()) })
	t.Run("consumer", func(t *testing.T) {
		oneClientOverAllAgents(t, context.WithValue(t.Context(), "opt_in_kafka_next_gen_balancer_beta", true)) //nolint:staticcheck // the library wants a string
	})
}

// oneClientOverAllAgents has groups of the protocol that the clients' context asks for.
func oneClientOverAllAgents(t *testing.T, protocol context.Context) {
	c := start(t, 3, nil)
	const topic = "events"
	ctx, cancel := context.WithCancel(protocol)
	defer cancel()
	read := &readers{seen: make(map[string]int)}
	var members sync.WaitGroup
	for i := range 3 {
		cl := c.client(kgo.WithContext(protocol), kgo.ConsumerGroup("readers"), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.ClientID(fmt.Sprintf("reader-%d", i)),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(10*time.Second), kgo.HeartbeatInterval(300*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond))
		members.Go(func() { read.consume(ctx, t, cl) })
	}
	producer := c.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(2*time.Millisecond))
	sent := 0
	produce := func(n int) {
		t.Helper()
		bounded, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		var acked sync.WaitGroup
		for range n {
			acked.Add(1)
			value := strconv.Itoa(sent)
			sent++
			producer.Produce(bounded, kgo.StringRecord(value), func(_ *kgo.Record, err error) {
				defer acked.Done()
				if err != nil {
					t.Errorf("produce %s: %v", value, err)
				}
			})
		}
		acked.Wait()
	}
	caughtUp := func(after string) time.Duration {
		t.Helper()
		began := time.Now()
		c.await("the group has read everything after "+after, func() bool { return read.count() == sent })
		return time.Since(began)
	}
	produce(300)
	caughtUp("the start")

	for _, end := range []struct {
		how  string
		stop func(i int)
	}{{"a drain", func(i int) { t.Logf("drained in %v", c.drain(i)) }}, {"a crash", c.kill}} {
		var busy sync.WaitGroup
		busy.Go(func() { produce(300) })
		coordinator := c.coordinator("readers")
		end.stop(coordinator)
		busy.Wait()
		t.Logf("the group caught up %v after %s of its coordinator", caughtUp(end.how), end.how)
		c.begin(coordinator)
		c.retarget()
		produce(100)
		caughtUp("the agent came back")
	}

	// Once in the log, whatever was sent again.
	cancel()
	members.Wait()
	ends, err := kadm.NewClient(c.client()).ListEndOffsets(t.Context(), topic)
	if err != nil || ends.Error() != nil {
		t.Fatal(err, ends.Error())
	}
	var total int64
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	if total != int64(sent) {
		t.Errorf("the log holds %d records of %d that were sent", total, sent)
	}
}

// Questions that clients ask of every broker, or of several groups at once, count each thing once, whoever is asked.
func TestAnswersOfAllAgentsTogether(t *testing.T) {
	c := start(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	adm := kadm.NewClient(c.client())
	if _, err := adm.CreateTopic(ctx, 4, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	const groups = 40
	var names []string
	for i := range groups {
		name := fmt.Sprintf("group-%02d", i)
		names = append(names, name)
		offsets := kadm.Offsets{}
		offsets.AddOffset("t", int32(i%4), int64(i), -1)
		if err := adm.CommitAllOffsets(ctx, name, offsets); err != nil {
			t.Fatalf("commit of %s: %v", name, err)
		}
	}
	for range 3 { // another agent each time
		cl := c.client()
		adm := kadm.NewClient(cl)
		listed, err := adm.ListGroups(ctx)
		if err != nil || !slices.Equal(slices.Sorted(maps.Keys(listed)), names) {
			t.Errorf("listed %d groups, %v", len(listed), err)
		}
		described, err := adm.DescribeGroups(ctx, names...)
		if err != nil || len(described) != groups || described.Error() != nil {
			t.Errorf("described %d groups, %v, %v", len(described), err, described.Error())
		}
		for _, d := range described {
			if d.State != "Empty" {
				t.Errorf("group %s is %q", d.Group, d.State)
			}
		}
		fetched := adm.FetchManyOffsets(ctx, names...)
		if len(fetched) != groups || fetched.Error() != nil {
			t.Errorf("offsets of %d groups, %v", len(fetched), fetched.Error())
		}
		for i, name := range names {
			if o, ok := fetched[name].Fetched.Lookup("t", int32(i%4)); !ok || o.At != int64(i) {
				t.Errorf("group %s committed %+v", name, o)
			}
		}
		dirs, err := adm.DescribeAllLogDirs(ctx, nil)
		partitions := 0
		for _, d := range dirs {
			d.Each(func(dir kadm.DescribedLogDir) { dir.Topics.Each(func(kadm.DescribedLogDirPartition) { partitions++ }) })
		}
		if err != nil || partitions != 4 {
			t.Errorf("sizes of %d partitions, %v", partitions, err)
		}
	}
	deleted, err := adm.DeleteGroups(ctx, names[:groups/2]...)
	if err != nil || len(deleted) != groups/2 || deleted.Error() != nil {
		t.Errorf("deleted %d groups, %v, %v", len(deleted), err, deleted.Error())
	}
	if listed, err := adm.ListGroups(ctx); err != nil || len(listed) != groups/2 {
		t.Errorf("%d groups are left, %v", len(listed), err)
	}
}

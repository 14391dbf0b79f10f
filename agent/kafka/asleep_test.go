package kafka_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// What came by a connection from before the process was asleep is not passed on: its client may have committed more by another
// agent since. Who connects again is served.
func TestCommitsFromBeforeASleep(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		id := a.topic("t", 1)
		c.coordinate(b)
		passed := &tallied{others: others{}}
		sa := server(t, a, func(c *kafka.Config) { behind(nil)(c); c.Peers = passed })
		passed.others[b.nodeID] = server(t, b, behind(others{}))
		commit := groupRequests(t, id, "g")[0]

		old, busy := dial(t, sa), dial(t, sa)
		old.receive(old.send(commit), commit)
		busy.receive(busy.send(commit), commit)
		before := passed.n.Load()
		sa.Asleep(time.Second) // a busy machine
		old.receive(old.send(commit), commit)
		if n := passed.n.Load(); n != before+1 {
			t.Fatalf("%d commits are passed on, want %d", n, before+1)
		}
		sa.Asleep(3 * time.Second)
		for _, cl := range []*client{old, busy} {
			cl.send(commit)
			cl.closed()
		}
		if n := passed.n.Load(); n != before+1 {
			t.Errorf("%d commits from before the sleep are passed on", n-before-1)
		}
		waited := dial(t, sa) // perhaps since before it
		waited.send(commit)
		waited.closed()
		time.Sleep(1500 * time.Millisecond)
		sa.Asleep(0)
		fresh := dial(t, sa)
		if res, ok := fresh.receive(fresh.send(commit), commit).(*kmsg.OffsetCommitResponse); !ok || passed.n.Load() != before+2 {
			t.Errorf("after the sleep: %+v, %d passed on", res, passed.n.Load())
		}
	})
}

// What other agents passed on before the process was asleep is not done either; what they pass on later is.
func TestCommitsPassedOnBeforeASleep(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		id := a.topic("t", 1)
		c.coordinate(b)
		sb := server(t, b, behind(others{}))
		cl := dial(t, server(t, a, behind(others{b.nodeID: sb})))
		commit, _ := groupRequests(t, id, "g")[0].(*kmsg.OffsetCommitRequest)
		commit.Generation, commit.Topics[0].Partitions[0].Offset = -1, 7
		code := func() int16 {
			res, _ := cl.receive(cl.send(commit), commit).(*kmsg.OffsetCommitResponse)
			return res.Topics[0].Partitions[0].ErrorCode
		}
		if code := code(); code != 0 {
			t.Fatalf("code %d", code)
		}
		sb.Asleep(3 * time.Second)
		if code := code(); !again(code) {
			t.Errorf("code %d", code)
		}
		time.Sleep(2 * time.Second)
		sb.Asleep(0)
		if code := code(); code != 0 {
			t.Errorf("code %d after it woke up", code)
		}
	})
}

// handOver gives the coordination of a group from one agent to another.
func (c *cluster) handOver(group string, from, to *agent) {
	slot := state.SlotOf(group)
	var epoch uint64
	from.View(func(st *state.State) { epoch = st.Slot(slot).Epoch })
	if res := c.commit(from.incarnation, &entry.ClaimSlot{Slot: uint32(slot), Epoch: epoch, Owner: to.incarnation}); res.Code != state.OK {
		c.t.Errorf("claim: %v", res.Code)
	}
}

// takenBack is the way to a coordinator that gives its groups to the agent that asks, and is gone.
type takenBack func()

func (f takenBack) Forward(context.Context, int32, peer.Request) ([]byte, error) {
	f()
	return nil, errNobody
}

// A commit that could not be passed on is not done by this agent, which has become the coordinator meanwhile: its client may have gone on
// by way of another. It is told to look for the coordinator again.
func TestCommitsThatCouldNotBePassedOn(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		id := a.topic("t", 1)
		s, _ := grouped(t, a, func(cfg *kafka.Config) {
			behind(nil)(cfg)
			cfg.Peers = takenBack(func() { c.handOver("g", b, a) })
		})
		c.handOver("g", a, b)
		cl := dial(t, s)
		commit := commitRequest(9, "t", id, 0, 7)
		if code := cl.commit(commit); !again(code) {
			t.Errorf("code %d of a commit that could not be passed on", code)
		}
		if code := cl.commit(commit); code != 0 {
			t.Errorf("code %d of the next", code)
		}
	})
}

// A commit that stood in line behind what took long is not done any more: its client may have gone on by way of another agent.
func TestCommitsThatStoodInLine(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		id := a.topic("t", 1)
		s, _ := grouped(t, a, func(cfg *kafka.Config) {
			behind(nil)(cfg)
			cfg.Peers = takenBack(func() { time.Sleep(3 * time.Second); c.handOver("g", b, a) })
		})
		c.handOver("g", a, b)
		cl := dial(t, s)
		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Group, beat.MemberID = "g", "m"
		commit := commitRequest(9, "t", id, 0, 7)
		first, second := cl.send(beat), cl.send(commit)
		cl.receive(first, beat)
		res, _ := cl.receive(second, commit).(*kmsg.OffsetCommitResponse)
		if code := res.Topics[0].Partitions[0].ErrorCode; !again(code) {
			t.Errorf("code %d of a commit that stood in line for 3 s", code)
		}
		if code := cl.commit(commit); code != 0 {
			t.Errorf("code %d of the next", code)
		}
	})
}

// A commit behind a long poll is done however long that takes: clients that use one connection for everything send it so.
func TestCommitsBehindALongPoll(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s, _ := grouped(t, a)
		cl := dial(t, s)
		poll := kmsg.NewPtrFetchRequest()
		poll.Version, poll.MaxWaitMillis, poll.MinBytes, poll.MaxBytes, poll.SessionEpoch = 12, 5000, 1, 1<<20, -1
		rt := kmsg.NewFetchRequestTopic()
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.CurrentLeaderEpoch, rp.LastFetchedEpoch, rp.PartitionMaxBytes = -1, -1, 1<<20
		rt.Topic, rt.Partitions = "t", append(rt.Partitions, rp)
		poll.Topics = append(poll.Topics, rt)
		commit := commitRequest(9, "t", id, 0, 7)
		began := time.Now()
		first, second := cl.send(poll), cl.send(commit)
		cl.receive(first, poll)
		if took := time.Since(began); took < 3*time.Second {
			t.Fatalf("the poll took %v", took)
		}
		if res, _ := cl.receive(second, commit).(*kmsg.OffsetCommitResponse); res.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Errorf("code %d", res.Topics[0].Partitions[0].ErrorCode)
		}
	})
}

// fallsAsleep is the way to other agents on which the server falls asleep.
type fallsAsleep struct {
	s    *kafka.Server
	sent bool
}

func (f *fallsAsleep) Forward(_ context.Context, _ int32, q peer.Request) ([]byte, error) {
	f.s.Asleep(3 * time.Second)
	err := q.Still()
	if err == nil {
		f.sent, err = true, errNobody
	}
	return nil, err
}

// A request that is being passed on when the process falls asleep does not leave when it wakes.
func TestFallingAsleepWhilePassingOn(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		id := a.topic("t", 1)
		c.coordinate(b)
		var way fallsAsleep
		way.s = server(t, a, func(cfg *kafka.Config) { behind(nil)(cfg); cfg.Peers = &way })
		cl := dial(t, way.s)
		if code := cl.commit(commitRequest(9, "t", id, 0, 7)); !again(code) || way.sent {
			t.Errorf("code %d, sent: %v", code, way.sent)
		}
	})
}

// A server looks for sleeps by itself, from when it serves until it ends.
func TestAServerThatIsAwake(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		s := server(t, c.join("a"))
		ln := quiet{make(chan struct{}), new(sync.Once)}
		served := make(chan error, 1)
		go func() { served <- s.Serve("kafka", ln) }()
		req := kmsg.NewPtrMetadataRequest()
		cl := dial(t, s)
		for range 5 {
			cl.receive(cl.send(req), req)
			time.Sleep(time.Minute)
		}
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		<-served
		time.Sleep(time.Minute) // nobody looks any more
		cl.close()
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

// quiet is a listener that nobody connects to.
type quiet struct {
	closed chan struct{}
	once   *sync.Once
}

func (q quiet) Accept() (net.Conn, error) { <-q.closed; return nil, net.ErrClosed }
func (q quiet) Close() error              { q.once.Do(func() { close(q.closed) }); return nil }
func (q quiet) Addr() net.Addr            { return nil }

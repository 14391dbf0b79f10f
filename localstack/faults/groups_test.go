//go:build interop

package faults

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack"
)

var groupsDuration = flag.Duration("faults.groups", 20*time.Second, "how long agents are taken away from groups, in each mode")

// watched is a consumer group of several members, what was delivered to it, and what it committed.
type watched struct {
	name    string
	topic   string
	members []*kgo.Client
	admin   *kadm.Client
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu        sync.Mutex // guards the rest
	delivered []int64    // by partition: one past the highest offset delivered
	again     int        // deliveries of what had been delivered
	committed []int64    // by partition: the highest offset whose commit was acknowledged
	fetched   []int64    // by partition: what OffsetFetch said last
	// next is told of the first acknowledgement of a commit that was sent after since.
	since time.Time
	next  chan time.Time
	// stall is the longest time between two acknowledged commits since mark was called, last the time of the last one.
	stall time.Duration
	last  time.Time
	wrong []string
}

const (
	groupPartitions = 24
	groupMembers    = 4
)

// startGroup has members consume a topic and commit after every poll. nextGen has them speak the protocol of KIP-848.
func startGroup(t *testing.T, brokers, topic string, nextGen bool) *watched {
	t.Helper()
	g := &watched{
		name: "classic", topic: topic, delivered: make([]int64, groupPartitions), committed: make([]int64, groupPartitions),
		fetched: make([]int64, groupPartitions), next: make(chan time.Time, 1),
	}
	base := context.Background()
	if nextGen {
		g.name = "consumer"
		base = context.WithValue(base, "opt_in_kafka_next_gen_balancer_beta", true) //nolint:staticcheck // the library wants a string
	}
	running, stop := context.WithCancel(base)
	g.stop = stop
	for range groupMembers {
		left := &uncommitted{ends: make(map[int32]int64)}
		cl, err := kgo.NewClient(kgo.OnPartitionsRevoked(left.given), kgo.OnPartitionsLost(left.given), kgo.SeedBrokers(brokers), kgo.WithContext(base), kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.AlwaysRetryEOF(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond), kgo.MetadataMinAge(250*time.Millisecond),
			kgo.RequestTimeoutOverhead(5*time.Second), kgo.BlockRebalanceOnPoll(), kgo.HeartbeatInterval(time.Second), kgo.RebalanceTimeout(20*time.Second))
		must(t, err)
		g.members = append(g.members, cl)
		g.wg.Go(func() { g.consume(running, cl, left) })
	}
	admin, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.AlwaysRetryEOF(), kgo.MetadataMinAge(250*time.Millisecond), kgo.RequestTimeoutOverhead(5*time.Second))
	must(t, err)
	g.admin = kadm.NewClient(admin)
	g.wg.Go(func() { g.look(running) })
	t.Cleanup(g.close)
	return g
}

func (g *watched) close() {
	g.stop()
	g.wg.Wait() // a member that is in a poll while it is closed would never end
	for _, cl := range g.members {
		cl.CloseAllowingRebalance()
	}
	g.admin.Close()
}

// uncommitted is what a member was delivered and has not committed, by partition.
type uncommitted struct {
	mu   sync.Mutex // guards ends
	ends map[int32]int64
}

// given forgets what was given up or lost: who gets it is delivered it again.
func (u *uncommitted) given(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, partitions := range lost {
		for _, p := range partitions {
			delete(u.ends, p)
		}
	}
}

// also adds what was delivered, and returns all.
func (u *uncommitted) also(ends map[int32]int64) map[int32]kgo.EpochOffset {
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.Copy(u.ends, ends)
	all := make(map[int32]kgo.EpochOffset, len(u.ends))
	for p, end := range u.ends {
		all[p] = kgo.EpochOffset{Epoch: -1, Offset: end}
	}
	return all
}

// done forgets what was committed.
func (u *uncommitted) done(partition int32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.ends, partition)
}

func (g *watched) consume(ctx context.Context, cl *kgo.Client, left *uncommitted) {
	for {
		polling, polled := context.WithTimeout(ctx, time.Second) // what was refused is tried again even where nothing comes
		fetches := cl.PollRecords(polling, 1000)
		polled()
		if ctx.Err() != nil {
			cl.AllowRebalance()
			return
		}
		ends := make(map[int32]int64)
		g.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			number, end := int64(binary.BigEndian.Uint64(r.Value)), g.delivered[r.Partition]
			if before, ok := ends[r.Partition]; ok && r.Offset != before || r.Offset > end || number != r.Offset {
				g.wrong = append(g.wrong, fmt.Sprintf("%s: partition %d: record %d delivered at offset %d; the group had been given all below %d, this poll all below %d", g.name, r.Partition, number, r.Offset, end, before))
			}
			if r.Offset < end {
				g.again++
			}
			g.delivered[r.Partition] = max(end, r.Offset+1)
			ends[r.Partition] = r.Offset + 1
		})
		g.mu.Unlock()
		offsets := left.also(ends)
		if len(offsets) == 0 {
			cl.AllowRebalance()
			continue
		}
		sent := time.Now()
		bound, cancel := context.WithTimeout(ctx, 30*time.Second)
		g.commit(bound, cl, offsets, sent, left)
		cancel()
		cl.AllowRebalance()
	}
}

// commit commits, and notes what was acknowledged. A commit that is refused is no matter: somebody else has the partition, or the
// next one says as much.
func (g *watched) commit(ctx context.Context, cl *kgo.Client, offsets map[int32]kgo.EpochOffset, sent time.Time, left *uncommitted) {
	cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{g.topic: offsets}, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			return
		}
		now := time.Now()
		acked := false
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode == 0 {
					acked = true
					left.done(p.Partition)
					g.committed[p.Partition] = max(g.committed[p.Partition], offsets[p.Partition].Offset)
				}
			}
		}
		if acked {
			g.stall, g.last = max(g.stall, now.Sub(g.last)), now
		}
		if acked && !g.since.IsZero() && sent.After(g.since) {
			g.since = time.Time{}
			g.next <- now
		}
	})
}

// look asks for the committed offsets again and again: none may go back, none may be below what was acknowledged before it was asked.
func (g *watched) look(ctx context.Context) {
	for ctx.Err() == nil {
		g.mu.Lock()
		floor := slices.Clone(g.committed)
		g.mu.Unlock()
		bound, cancel := context.WithTimeout(ctx, 5*time.Second)
		resp, err := g.admin.FetchOffsets(bound, g.name)
		cancel()
		if err == nil {
			g.judge(floor, resp)
		}
		wait(ctx, 100*time.Millisecond)
	}
}

func (g *watched) judge(floor []int64, resp kadm.OffsetResponses) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range floor {
		r, ok := resp.Lookup(g.topic, int32(p))
		switch {
		case ok && r.Err != nil:
		case !ok && floor[p] > 0:
			g.wrong = append(g.wrong, fmt.Sprintf("%s: partition %d: no committed offset, %d was acknowledged", g.name, p, floor[p]))
		case ok && r.At < max(floor[p], g.fetched[p]):
			g.wrong = append(g.wrong, fmt.Sprintf("%s: partition %d: committed offset %d, %d was acknowledged and %d seen before", g.name, p, r.At, floor[p], g.fetched[p]))
		case ok:
			g.fetched[p] = r.At
		}
	}
}

// mark is a moment, and tells when the group next made progress after it: committed what it was given.
type mark struct {
	at   time.Time
	next <-chan time.Time
}

func (g *watched) mark() mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.next:
	default:
	}
	g.since = time.Now()
	g.stall, g.last = 0, g.since
	return mark{g.since, g.next}
}

// reach waits until the group was given, and has committed, everything below the given ends.
func (g *watched) reach(ctx context.Context, t *testing.T, ends []int64) {
	t.Helper()
	until(ctx, t, g.name+": everything is delivered and committed", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		for p, end := range ends {
			if g.delivered[p] < end || g.committed[p] < end {
				return false
			}
		}
		return true
	})
}

// coordinator is the agent that coordinates the group, where clients are told so.
func (g *watched) coordinator(ctx context.Context, t *testing.T, s *localstack.Stack) *localstack.Agent {
	t.Helper()
	var found *localstack.Agent
	until(ctx, t, "the group has a coordinator", func() bool {
		bound, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		r := g.admin.FindGroupCoordinators(bound, g.name)[g.name]
		for _, a := range s.Agents {
			if r.Err == nil && a.Kafka == net.JoinHostPort(r.Host, fmt.Sprint(r.Port)) {
				found = a
			}
		}
		return found != nil
	})
	return found
}

// TestGroupsWhileAgentsAreTakenAway: members of groups of both protocols consume 24 partitions while agents, the coordinator as well as
// others, are killed, paused and drained one after another. Every record reaches the group at least once and the log exactly once, in
// order, and no committed offset goes back.
func TestGroupsWhileAgentsAreTakenAway(t *testing.T) {
	t.Run("direct", func(t *testing.T) { groupsUnderFaults(t, false) })
	t.Run("proxy", func(t *testing.T) { groupsUnderFaults(t, true) })
}

func groupsUnderFaults(t *testing.T, proxy bool) {
	s := start(t, func(o *localstack.Options) { o.Proxy, o.ProxyProtocol = proxy, proxy })
	ctx, cancel := context.WithTimeoutCause(t.Context(), *groupsDuration+6*time.Minute, fmt.Errorf("far too long"))
	defer cancel()
	p := startPulse(t, s.HAProxy.Kafka, "grouped", groupPartitions)
	groups := []*watched{startGroup(t, s.HAProxy.Kafka, "grouped", false), startGroup(t, s.HAProxy.Kafka, "grouped", true)}
	settle := func() {
		p.settle(ctx, t)
		ends := p.ends()
		for _, g := range groups {
			g.reach(ctx, t, ends)
		}
	}
	settle()

	took, stalls := make(map[string][]time.Duration), make(map[string][]time.Duration)
	faults := []struct {
		name string
		do   func(a *localstack.Agent)
		mend func(a *localstack.Agent, since time.Time)
	}{
		{"kill -9", func(a *localstack.Agent) { must(t, a.Kill()) }, func(a *localstack.Agent, _ time.Time) { must(t, a.Start()) }},
		{"drain", func(a *localstack.Agent) { must(t, a.Signal(syscall.SIGTERM)) }, func(a *localstack.Agent, _ time.Time) {
			must(t, a.Await(ctx))
			must(t, a.Start())
		}},
		{"pause", func(a *localstack.Agent) { must(t, a.Pause()) }, func(a *localstack.Agent, since time.Time) {
			wait(ctx, time.Until(since.Add(15*time.Second))) // longer than a registration lasts
			must(t, a.Resume())
		}},
	}
	end := time.Now().Add(*groupsDuration)
	for turn := 0; time.Now().Before(end) || turn < len(faults); turn++ {
		f, a, whom := faults[turn%len(faults)], s.Agents[turn%len(s.Agents)], "an agent"
		// Who coordinates is no client's business behind a load balancer; there the agents simply take turns.
		if victim := groups[turn%len(groups)]; !proxy && turn/len(faults)%3 < 2 {
			a, whom = victim.coordinator(ctx, t, s), "the coordinator"
		}
		marks := make([]mark, len(groups))
		for i, g := range groups {
			marks[i] = g.mark()
		}
		f.do(a)
		for i, g := range groups {
			select {
			case at := <-marks[i].next:
				took[f.name] = append(took[f.name], at.Sub(marks[i].at))
			case <-ctx.Done():
				t.Fatalf("%s, %s: %s makes no progress: %v", f.name, a.Name(), g.name, context.Cause(ctx))
			}
		}
		f.mend(a, marks[0].at)
		must(t, a.AwaitReady(ctx))
		settle()
		line := ""
		for i, g := range groups {
			stall := g.stalled()
			stalls[f.name] = append(stalls[f.name], stall)
			line += fmt.Sprintf("; %s goes on after %v, at most %v without progress", g.name, round(took[f.name][len(took[f.name])-len(groups)+i]), round(stall))
		}
		t.Logf("%s, %s %s%s", f.name, whom, a.Name(), line)
	}
	for _, f := range faults {
		t.Logf("%-8s %3d times; to the group's next progress %s; longest without progress until all was well again %s", f.name, len(took[f.name]), spread(took[f.name]), spread(stalls[f.name]))
	}

	p.halt(ctx, t)
	ends := p.ends()
	for _, g := range groups {
		g.reach(ctx, t, ends)
		g.mu.Lock()
		t.Logf("%s: %d records, %d of them delivered again", g.name, sum(g.delivered), g.again)
		for _, w := range g.wrong[:min(len(g.wrong), 20)] {
			t.Error(w)
		}
		g.mu.Unlock()
	}
	p.check(t)
}

// stalled is the longest time without progress since mark.
func (g *watched) stalled() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stall
}

func spread(d []time.Duration) string {
	d = slices.Sorted(slices.Values(d))
	return fmt.Sprintf("p50 %v, max %v", round(d[len(d)/2]), round(d[len(d)-1]))
}

func sum(all []int64) (n int64) {
	for _, v := range all {
		n += v
	}
	return n
}

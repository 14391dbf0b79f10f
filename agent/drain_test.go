package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

// deafRules is a bucket whose rules are read without an answer, whatever becomes of who asks.
type deafRules struct {
	*mem.Bucket
	once           sync.Once
	asked, release chan struct{}
}

func (b *deafRules) Rules(context.Context) ([]objstore.Rule, error) {
	b.once.Do(func() { close(b.asked) })
	<-b.release
	return nil, nil
}

func (b *deafRules) SetRules(context.Context, []objstore.Rule) error { return nil }
func (b *deafRules) KeyPrefix() string                               { return "" }

// lines keeps what is logged. Safe for concurrent use.
type lines struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) with(what string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, what) {
			found = append(found, line)
		}
	}
	return found
}

// TestADrainDoesNotWaitForADeafDuty drains while a background step does not heed the end of its context: it is left behind, and
// the rest of the drain is done as ever.
func TestADrainDoesNotWaitForADeafDuty(t *testing.T) {
	rules := &deafRules{Bucket: mem.New(), asked: make(chan struct{}), release: make(chan struct{})}
	var log lines
	n := start(t, func(s *setup) {
		s.bucket = rules
		s.cfg.LevelPatience, s.cfg.LifecycleInterval = time.Second, time.Second
		s.parts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	var once sync.Once
	release := func() { once.Do(func() { close(rules.release) }) }
	t.Cleanup(release)
	n.SetDutiesMax(10 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-rules.asked:
	case <-ctx.Done():
		t.Fatal("the duty does not begin")
	}
	if err := n.Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
	if told := log.with("is cut off"); len(told) != 1 || !strings.Contains(told[0], "lifecycle") {
		t.Errorf("told of the duty: %q", told)
	}
	if len(log.with("drained")) != 1 {
		t.Error("the drain did not come to its end")
	}
	release()
}

// TestADrainTellsMembersBeforeItHangsUp drains a coordinator: its members' requests are answered after the hand-over, so that they learn of it
// without a connection that breaks, and it names its successor.
func TestADrainTellsMembersBeforeItHangsUp(t *testing.T) {
	c := newTeam(t)
	a, b := c.join("a"), c.join("b")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(a.cfg.Advertise))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).BrokerMetadata(ctx); err != nil { // the client learns of the agents
		t.Fatal(err)
	}
	to := cl.Broker(int(a.Health().NodeID))
	owner := func(of *mate, name string) (owner string) {
		of.Metastore().View(func(st *state.State) {
			if x, ok := st.AgentByIncarnation(st.Slot(state.SlotOf(name)).Owner); ok {
				owner = x.Name
			}
		})
		return owner
	}
	join := kmsg.NewPtrJoinGroupRequest()
	join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = 60_000, 60_000, "consumer"
	join.Protocols = append(join.Protocols, kmsg.JoinGroupRequestProtocol{Name: "range", Metadata: []byte{0, 0, 0, 0, 0, 0}})
	await(t, "the other has the slots that prefer it", func() (has bool) {
		a.Metastore().View(func(st *state.State) {
			for i := range state.Slots {
				x, ok := st.AgentByIncarnation(st.Slot(i).Owner)
				has = has || ok && x.Name == "b"
			}
		})
		return has
	})
	await(t, "a member of a group of the agent's", func() bool {
		for i := 0; i < 1000 && (join.Group == "" || owner(a, join.Group) != "a"); i++ {
			join.Group, join.MemberID = fmt.Sprint("group-", i), ""
		}
		answer, err := to.Request(ctx, join)
		if err != nil {
			t.Fatal(err)
		}
		joined, _ := answer.(*kmsg.JoinGroupResponse)
		join.MemberID = joined.MemberID
		return joined.ErrorCode == 0
	})

	a.SetMembersTime(patience) // until the test has seen enough
	draining, enough := context.WithCancel(ctx)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_ = a.Drain(draining) // it is cut off
	}()
	defer func() { enough(); <-drained }()
	await(t, "the group is another's", func() bool { return owner(a, join.Group) == "b" })
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.MemberID = join.Group, join.MemberID
	answer, err := to.Request(ctx, beat)
	if err != nil {
		t.Fatalf("a member asks after the hand-over: %v", err)
	}
	if told, _ := answer.(*kmsg.HeartbeatResponse); told.ErrorCode != 16 { // NOT_COORDINATOR
		t.Errorf("a member is told %d", told.ErrorCode)
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = join.Group, []string{join.Group}
	if answer, err = to.Request(ctx, find); err != nil {
		t.Fatalf("a member looks for the coordinator: %v", err)
	}
	if found, _ := answer.(*kmsg.FindCoordinatorResponse); found.Coordinators[0].NodeID != b.Health().NodeID {
		t.Errorf("the coordinator is %+v", found.Coordinators[0])
	}
}

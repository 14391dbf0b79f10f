package group_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// replicated is a log and the one state that all coordinators of a test see.
type replicated struct {
	t    *testing.T
	mu   sync.Mutex // guards the rest
	st   *state.State
	seqs map[log.Incarnation]uint64
	subs map[chan<- struct{}]bool
	ops  int // of groups
}

// replica is one agent's metastore client.
type replica struct {
	*replicated
	me log.Incarnation
}

func (r *replicated) apply(me log.Incarnation, op entry.Op) state.OpResult {
	r.mu.Lock()
	r.seqs[me]++
	e := &entry.Entry{Format: entry.Format, FeatureLevel: r.st.FeatureLevel(), Incarnation: me, Seq: r.seqs[me], ClockMs: time.Now().UnixMilli(), Ops: []entry.Op{op}}
	var res state.Results
	if err := r.st.Apply(r.st.N()+1, e.AppendTo(nil), e, &res); err != nil || res.EntryCode != state.OK {
		r.t.Errorf("%T: %v, %v", op, err, res.EntryCode)
	}
	out := res.Ops[0]
	if _, ok := op.(*entry.UpdateGroup); ok {
		r.ops++
	}
	subs := make([]chan<- struct{}, 0, len(r.subs))
	for ch := range r.subs {
		subs = append(subs, ch)
	}
	r.mu.Unlock()
	for _, ch := range subs {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	return out
}

func (r *replica) Offer(op entry.Op, done func(state.OpResult, error)) func() {
	r.Submit(op, done)
	return func() {}
}
func (r *replica) Submit(op entry.Op, done func(state.OpResult, error)) { done(r.apply(r.me, op), nil) }
func (r *replica) Incarnation() log.Incarnation                         { return r.me }
func (r *replica) Sure() time.Duration                                  { return time.Hour }

func (r *replica) View(fn func(*state.State)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(r.st)
}

func (r *replica) SubscribeCluster(ch chan<- struct{}) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[ch] = true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subs, ch)
	}
}

// coordinated runs fn in a bubble with a coordinator that owns every slot.
func coordinated(t *testing.T, cfg group.Config, fn func(t *testing.T, w *coordinatedWorld)) {
	faketime.Test(t, func(t *testing.T) {
		w := &coordinatedWorld{t: t, cfg: cfg, log: &replicated{
			t: t, st: state.New(state.Identity{ID: [16]byte{7}, Epoch: 1}), seqs: make(map[log.Incarnation]uint64), subs: make(map[chan<- struct{}]bool),
		}}
		first := log.Incarnation{1}
		w.log.apply(first, &entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel})
		if w.log.st.FeatureLevel() < 2 {
			w.log.apply(first, &entry.SetFeatureLevel{Level: 2})
		}
		w.c = w.start(first)
		defer func() { w.c.Close() }()
		fn(t, w)
	})
}

type coordinatedWorld struct {
	t   *testing.T
	cfg group.Config
	log *replicated
	me  log.Incarnation

	clients sync.WaitGroup
	mu      sync.Mutex         // guards c against clients
	c       *group.Coordinator // that owns the slots
}

func (w *coordinatedWorld) coordinator() *group.Coordinator {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.c
}

func (w *coordinatedWorld) start(me log.Incarnation) *group.Coordinator {
	c, err := group.New(w.cfg, &replica{w.log, me})
	if err != nil {
		w.t.Fatal(err)
	}
	c.Start()
	w.me = me
	for i := range state.Slots {
		w.log.mu.Lock()
		slot := w.log.st.Slot(i)
		w.log.mu.Unlock()
		if slot.Owner != [16]byte(me) {
			w.log.apply(me, &entry.ClaimSlot{Slot: uint32(i), Epoch: slot.Epoch, Owner: me})
		}
	}
	faketime.Wait()
	return c
}

// failOver ends the coordinator and has another agent take its slots.
func (w *coordinatedWorld) failOver(me byte) {
	w.c.Close()
	next, last := log.Incarnation{me}, w.me
	w.log.apply(next, &entry.Join{Name: fmt.Sprint("agent-", me), MaxFeatureLevel: state.MaxFeatureLevel})
	w.log.apply(next, &entry.Leave{Incarnation: last})
	c := w.start(next)
	w.mu.Lock()
	w.c = c
	w.mu.Unlock()
}

func (w *coordinatedWorld) topic(name string, partitions uint32) {
	id := entry.UUID{0x42}
	copy(id[1:], name)
	if res := w.log.apply(w.me, &entry.CreateTopic{Name: name, ID: id, Partitions: partitions, ReplicationFactor: 1}); res.Code != state.OK {
		w.t.Fatalf("create topic %s: %v", name, res.Code)
	}
}

func (w *coordinatedWorld) beat(h consumer.Heartbeat, code step.Code) consumer.HeartbeatAnswer {
	w.t.Helper()
	h.Version = 1
	a, got, err := w.c.ConsumerHeartbeat(context.Background(), "g", h)
	if err != nil || got != code {
		w.t.Fatalf("code %d (%s) %v, want %d", got, a.Message, err, code)
	}
	return a
}

func joining(id string) consumer.Heartbeat {
	return consumer.Heartbeat{MemberID: id, RebalanceMs: 30_000, Names: []string{"t"}, Owned: []consumer.TopicPartitions{}}
}

func beating(id string, epoch int32, owned consumer.Assignment) consumer.Heartbeat {
	h := consumer.Heartbeat{MemberID: id, MemberEpoch: epoch, RebalanceMs: -1}
	if owned != nil {
		h.Owned = owned
	}
	return h
}

func TestAConsumerGroupOutlivesItsCoordinator(t *testing.T) {
	coordinated(t, group.Config{}, func(t *testing.T, w *coordinatedWorld) {
		w.topic("t", 4)
		first := w.beat(joining("m1"), step.None)
		if first.Assignment.Len() != 4 {
			t.Fatalf("alone it has %d of 4", first.Assignment.Len())
		}
		w.beat(joining("m2"), step.None)
		told := w.beat(beating("m1", 1, nil), step.None)
		w.failOver(2)
		if a := w.beat(beating("m2", 2, nil), step.None); a.Assigned {
			t.Fatalf("after a fail-over m2 has %v, which m1 has not given up", a.Assignment)
		}
		w.beat(beating("m1", 1, told.Assignment), step.None)
		w.failOver(3)
		second := w.beat(beating("m2", 2, nil), step.None)
		if second.Assignment.Len() != 2 || second.MemberEpoch != 2 {
			t.Fatalf("m2 has %+v", second)
		}
		w.beat(beating("m1", 2, told.Assignment), step.None)
		ops := w.log.ops
		for range 5 {
			time.Sleep(5 * time.Second)
			w.beat(beating("m1", 2, nil), step.None)
			w.beat(beating("m2", 2, nil), step.None)
		}
		if w.log.ops != ops {
			t.Errorf("heartbeats wrote %d times", w.log.ops-ops)
		}
		d, code, err := w.c.DescribeConsumer(context.Background(), "g")
		if err != nil || code != step.None || d.State != "Stable" || d.Epoch != 2 || len(d.Members) != 2 {
			t.Errorf("described: %+v, %d, %v", d, code, err)
		}
		time.Sleep(46 * time.Second) // both fall silent
		faketime.Wait()
		if d, _, _ := w.c.DescribeConsumer(context.Background(), "g"); d.State != "Empty" {
			t.Errorf("the group is %s after its members' sessions", d.State)
		}
		w.beat(beating("m1", 2, nil), step.UnknownMemberID)
		if a := w.beat(joining("m1"), step.None); a.MemberEpoch < 3 || a.Assignment.Len() != 4 {
			t.Errorf("joined again: %+v", a)
		}
	})
}

// What members subscribe to is known before the first of them sends a heartbeat to a new coordinator: nothing of it is deleted.
func TestOffsetsOfAConsumerGroupOutliveItsCoordinator(t *testing.T) {
	const retention, interval = 2 * time.Hour, time.Hour
	coordinated(t, group.Config{OffsetsRetention: retention, ExpireInterval: interval, Consumer: consumer.Config{SessionTimeout: 3 * interval}}, func(t *testing.T, w *coordinatedWorld) {
		w.topic("named", 1)
		w.topic("matched", 1)
		time.Sleep(time.Second)
		req := joining("m")
		expression := "mat.*"
		req.Names, req.Regex = []string{"named"}, &expression
		a := w.beat(req, step.None)
		var both []entry.GroupPartition
		commit := group.Commit{Group: "g", Member: "m", Generation: a.MemberEpoch, Version: 9}
		w.log.mu.Lock()
		for _, name := range []string{"named", "matched"} {
			id := w.log.st.TopicByName(name).ID
			both = append(both, entry.GroupPartition{Topic: id})
			commit.Offsets = append(commit.Offsets, at(id, 0, 1))
		}
		w.log.mu.Unlock()
		if codes, code := w.c.CommitOffsets(t.Context(), &commit); code != step.None || slices.Max(codes) != step.None {
			t.Fatal(code, codes)
		}
		time.Sleep(retention + interval/2)
		w.beat(beating("m", a.MemberEpoch, nil), step.None)
		w.failOver(2)
		if codes, code := w.c.DeleteOffsets(t.Context(), "g", both); code != step.None || slices.Contains(codes, step.None) {
			t.Errorf("delete: %v, %v", code, codes)
		}
		time.Sleep(interval + time.Minute)
		w.log.mu.Lock()
		defer w.log.mu.Unlock()
		if n := w.log.st.Group("g").OffsetCount(); n != 2 {
			t.Errorf("%d offsets are left", n)
		}
	})
}

// Whatever one member says of itself, the group is written and loaded as before, and the others notice nothing.
func TestMembersThatSayTooMuchAreTheirOwnTrouble(t *testing.T) {
	coordinated(t, group.Config{}, func(t *testing.T, w *coordinatedWorld) {
		w.topic("t", 2)
		a := w.beat(joining("m"), step.None)
		giant := strings.Repeat("x", 300<<10)
		for why, spoil := range map[string]func(h *consumer.Heartbeat){
			"expression": func(h *consumer.Heartbeat) { h.Regex = &giant },
			"instance":   func(h *consumer.Heartbeat) { h.Instance = &giant },
			"rack":       func(h *consumer.Heartbeat) { h.Rack = &giant },
			"member id":  func(h *consumer.Heartbeat) { h.MemberID = giant },
			"no text":    func(h *consumer.Heartbeat) { h.MemberID = "\xff" },
		} {
			h := joining("loud")
			h.Version = 1
			spoil(&h)
			if _, code, _ := w.c.ConsumerHeartbeat(t.Context(), "g", h); code != step.InvalidRequest {
				t.Errorf("%s: %v", why, code)
			}
		}
		h := joining("talks")
		h.ClientID = giant
		w.beat(h, step.None)
		h = beating("talks", -1, nil)
		w.beat(h, step.None)

		for why, x := range map[string]struct {
			spoil func(r *classic.JoinRequest)
			want  step.Code
		}{
			"no session":            {func(r *classic.JoinRequest) { r.SessionTimeout = -1 }, step.InvalidSessionTimeout},
			"giant metadata":        {func(r *classic.JoinRequest) { r.Protocols[0].Metadata = append(r.Protocols[0].Metadata, giant...) }, step.InvalidRequest},
			"giant id":              {func(r *classic.JoinRequest) { r.MemberID = giant }, step.UnknownMemberID},
			"no text":               {func(r *classic.JoinRequest) { r.MemberID = "\xff" }, step.UnknownMemberID},
			"no time for rebalance": {func(r *classic.JoinRequest) { r.RebalanceTimeout = -time.Millisecond }, step.None},
		} {
			req := loner("")
			x.spoil(&req)
			_, code, err := w.c.Join(t.Context(), "g", req)
			if code != x.want || err != nil {
				t.Errorf("classic, %s: %v, %v", why, code, err)
			}
		}
		w.failOver(2)
		w.beat(beating("m", a.MemberEpoch, nil), step.None)
	})
}

func TestWhatIsNoMemberOfAConsumerGroup(t *testing.T) {
	coordinated(t, group.Config{}, func(t *testing.T, w *coordinatedWorld) {
		w.beat(beating("m1", 3, nil), step.UnknownMemberID)
		w.beat(beating("m1", -1, nil), step.UnknownMemberID)
		if _, code, _ := w.c.DescribeConsumer(context.Background(), "g"); code != step.GroupIDNotFound {
			t.Errorf("a group that is not there is described with code %d", code)
		}
		if a := w.beat(joining("m1"), step.None); a.Assignment.Len() != 0 {
			t.Errorf("assigned %v of a topic that is not there", a.Assignment)
		}
		w.topic("t", 3)
		if a := w.beat(beating("m1", 1, nil), step.None); a.Assignment.Len() != 3 || a.MemberEpoch != 2 {
			t.Errorf("the topic was made: %+v", a)
		}
		h := joining("m2")
		h.Names, h.Regex = nil, new("t.*")
		w.topic("t2", 2)
		w.beat(h, step.None)
		if a := w.beat(beating("m2", 3, nil), step.None); a.Assignment.Len() > 0 {
			_ = a
		}
	})
}

// old is a consumer of the classic protocol with the range assignor, eager. It lives until its context ends.
type old struct {
	w *coordinatedWorld

	mu         sync.Mutex // guards the rest
	id         string
	generation int32
	given      []byte
	rounds     int // of joining and syncing
}

func (w *coordinatedWorld) old(ctx context.Context) *old {
	o := &old{w: w}
	w.clients.Go(func() {
		for ctx.Err() == nil {
			o.round(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	return o
}

func (o *old) now() (id string, given []byte, rounds int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.id, o.given, o.rounds
}

// round sends a heartbeat, and joins and syncs where that is what the answer demands. It leads where it is told to.
func (o *old) round(ctx context.Context) {
	o.mu.Lock()
	id, generation := o.id, o.generation
	o.mu.Unlock()
	c := o.w.coordinator()
	if generation > 0 {
		if code, err := c.Heartbeat(ctx, "g", id, "", generation); err != nil || code == step.None || code == step.NotCoordinator || code == step.NotAvailable {
			return
		} else if code != step.RebalanceInProgress && code != step.IllegalGeneration {
			o.w.t.Errorf("heartbeat of %s: %d", id, code)
		}
	}
	j, code, err := c.Join(ctx, "g", classic.JoinRequest{
		MemberID: id, SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute, ProtocolType: consumer.ConsumerProtocol, KnownIDs: true,
		Protocols: []classic.Protocol{{Name: "range", Metadata: []byte{0, 0, 0, 0, 0, 1, 0, 1, 't', 0xff, 0xff, 0xff, 0xff}}},
	})
	if code == step.MemberIDRequired {
		o.mu.Lock()
		o.id, o.generation = j.MemberID, -1
		o.mu.Unlock()
		return
	}
	if err != nil || code != step.None {
		return // to try again
	}
	s := classic.SyncRequest{MemberID: id, Generation: j.Generation, ProtocolType: consumer.ConsumerProtocol, Protocol: "range"}
	if j.Leader == id {
		s.Assignments = map[string][]byte{}
		for i, m := range j.Members { // two partitions for each
			s.Assignments[m.ID] = []byte{0, 0, 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 2, 0, 0, 0, byte(2 * i), 0, 0, 0, byte(2*i + 1), 0xff, 0xff, 0xff, 0xff}
		}
	}
	synced, code, err := c.Sync(ctx, "g", s)
	if err != nil || code != step.None {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.id, o.generation, o.given = id, j.Generation, synced.Assignment
	o.rounds++
}

// partitions of topic t in an assignment.
func partitions(given []byte) (list []int) {
	if len(given) < 13 {
		return nil
	}
	for b := given[13 : len(given)-4]; len(b) >= 4; b = b[4:] {
		list = append(list, int(b[3]))
	}
	return list
}

func TestAGroupChangesItsProtocolAndBackWhileItsMembersGoOn(t *testing.T) {
	coordinated(t, group.Config{}, func(t *testing.T, w *coordinatedWorld) {
		w.topic("t", 4)
		ctx, cancel := context.WithCancel(context.Background())
		defer w.clients.Wait()
		defer cancel()
		members := []*old{w.old(ctx), w.old(ctx)}
		all := func() (list []int) {
			time.Sleep(8 * time.Second) // less than a session
			faketime.Wait()
			for _, o := range members {
				_, given, _ := o.now()
				list = append(list, partitions(given)...)
			}
			slices.Sort(list)
			return list
		}
		if got := all(); !slices.Equal(got, []int{0, 1, 2, 3}) {
			t.Fatalf("two classic members have %v", got)
		}
		a := w.beat(joining("new"), step.None)
		if a.Assignment.Len() != 0 {
			t.Fatalf("the new member is given what others have: %+v", a)
		}
		w.failOver(2)
		if got := all(); len(got) != 3 {
			t.Fatalf("the classic members have %v; they have joined again for the new one", got)
		}
		a = w.beat(beating("new", a.MemberEpoch, a.Assignment), step.None)
		if a.Assignment.Len() != 1 || slices.Contains(all(), int(a.Assignment[0].Partitions[0])) {
			t.Errorf("the new member has %v, the others %v", a.Assignment, all())
		}
		if d, code, _ := w.c.DescribeConsumer(ctx, "g"); code != step.None || len(d.Members) != 3 || d.State != "Stable" {
			t.Fatalf("the group: %+v, %d", d, code)
		}
		_, _, rounds := members[0].now()
		for range 3 {
			all()
			w.beat(beating("new", a.MemberEpoch, nil), step.None)
		}
		if _, _, still := members[0].now(); still != rounds {
			t.Errorf("a classic member joined %d times in a group that is stable", still-rounds)
		}

		w.beat(beating("new", -1, nil), step.None)
		if _, code, _ := w.c.DescribeConsumer(ctx, "g"); code != step.GroupIDNotFound {
			t.Fatalf("the last member of the consumer protocol has gone, and the group is one still: code %d", code)
		}
		w.failOver(3)
		if got := all(); !slices.Equal(got, []int{0, 1, 2, 3}) {
			t.Errorf("classic again, the two have %v", got)
		}
	})
}

// A classic member whose record of the other protocol the state would not take keeps the group from being upgraded, and from being
// disturbed by who tries.
func TestAMemberThatIsTooLargeForAnUpgrade(t *testing.T) {
	coordinated(t, group.Config{}, func(t *testing.T, w *coordinatedWorld) {
		w.topic("t", 1)
		req := loner("")
		names := make([]byte, 6, 128<<10)
		for i := range 6000 {
			names = append(names, 0, 16)
			names = fmt.Appendf(names, "%016d", i)
			names[4], names[5] = byte((i+1)>>8), byte(i+1)
		}
		req.Protocols[0].Metadata = append(names, 0, 0, 0, 0)
		req.Protocols = append(req.Protocols, classic.Protocol{Name: "other", Metadata: []byte{1}})
		j, code, err := w.c.Join(t.Context(), "g", req)
		if code != step.None || err != nil {
			t.Fatal(code, err)
		}
		if _, code, _ := w.c.Sync(t.Context(), "g", classic.SyncRequest{MemberID: j.MemberID, Generation: j.Generation}); code != step.None {
			t.Fatal(code)
		}
		for range 3 {
			w.beat(joining("new"), step.GroupIDNotFound)
			if code, err := w.c.Heartbeat(t.Context(), "g", j.MemberID, "", j.Generation); code != step.None || err != nil {
				t.Errorf("heartbeat: %v, %v", code, err)
			}
		}
		if _, _, err := w.c.Leave(t.Context(), "g", []classic.LeaveRequest{{MemberID: j.MemberID}}); err != nil {
			t.Fatal(err)
		}
		a := w.beat(joining("new"), step.None)
		if _, code, _ := w.c.Join(t.Context(), "g", req); code != step.InvalidRequest {
			t.Errorf("join: %v", code)
		}
		w.beat(beating("new", a.MemberEpoch, nil), step.None)
	})
}

// Classic members that have what their group's epoch gives them go on under it when it is downgraded, as in Kafka: they may commit,
// and hear that they are to join again rather than that they have lost everything.
func TestAClassicMemberLosesNothingByADowngrade(t *testing.T) {
	for why, goes := range map[string]func(w *coordinatedWorld){
		"it left":       func(w *coordinatedWorld) { w.beat(beating("new", -1, nil), step.None) },
		"it was silent": func(*coordinatedWorld) { time.Sleep(50 * time.Second) },
	} {
		coordinated(t, group.Config{}, func(t *testing.T, w *coordinatedWorld) {
			w.topic("t", 1)
			w.beat(joining("new"), step.None)
			req := loner("")
			req.SessionTimeout, req.RebalanceTimeout = time.Minute, 5*time.Minute
			j, code, err := w.c.Join(t.Context(), "g", req)
			if code != step.None || err != nil {
				t.Fatal(code, err)
			}
			heartbeat := func() step.Code {
				code, err := w.c.Heartbeat(t.Context(), "g", j.MemberID, "", j.Generation)
				if err != nil {
					t.Fatal(err)
				}
				return code
			}
			if _, code, _ := w.c.Sync(t.Context(), "g", classic.SyncRequest{MemberID: j.MemberID, Generation: j.Generation}); code != step.None {
				t.Fatal(code)
			}
			if code := heartbeat(); code != step.None {
				t.Fatalf("before: %v", code)
			}
			goes(w)
			if code := heartbeat(); code != step.RebalanceInProgress {
				t.Errorf("%s: %v", why, code)
			}
			w.log.mu.Lock()
			id := w.log.st.TopicByName("t").ID
			w.log.mu.Unlock()
			if codes, code := w.c.CommitOffsets(t.Context(), &group.Commit{Group: "g", Member: j.MemberID, Generation: j.Generation, Version: 8,
				Offsets: []entry.GroupOffset{at(id, 0, 5)}}); code != step.None || codes[0] != step.None {
				t.Errorf("%s: commit %v, %v", why, code, codes)
			}
		})
	}
}

func TestUpgradesAreRefusedByPolicy(t *testing.T) {
	cfg := group.Config{Consumer: consumer.Config{Migration: consumer.Disabled}}
	coordinated(t, cfg, func(t *testing.T, w *coordinatedWorld) {
		w.topic("t", 4)
		ctx, cancel := context.WithCancel(context.Background())
		defer w.clients.Wait()
		defer cancel()
		o := w.old(ctx)
		time.Sleep(5 * time.Second)
		w.beat(joining("new"), step.GroupIDNotFound)
		time.Sleep(5 * time.Second)
		id, given, rounds := o.now()
		if rounds != 1 || len(given) == 0 {
			t.Errorf("with a refused member the classic one has joined %d times", rounds)
		}
		cancel()
		w.clients.Wait()
		if codes, code, err := w.c.Leave(context.Background(), "g", []classic.LeaveRequest{{MemberID: id}}); err != nil || code != step.None || !slices.Equal(codes, []step.Code{step.None}) {
			t.Fatalf("leaving: %v, %d, %v", codes, code, err)
		}
		if a := w.beat(joining("new"), step.None); a.Assignment.Len() != 4 {
			t.Errorf("a group without members takes anybody: %+v", a)
		}
		_, code, err := w.c.Join(context.Background(), "g", classic.JoinRequest{
			SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute, ProtocolType: consumer.ConsumerProtocol,
			Protocols: []classic.Protocol{{Name: "range", Metadata: []byte{0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}}},
		})
		if err != nil || code != step.InconsistentProtocol {
			t.Errorf("a classic member joins a consumer group: %d, %v", code, err)
		}
		w.beat(beating("new", -1, nil), step.None)
		ctx, cancel = context.WithCancel(context.Background())
		defer cancel()
		o = w.old(ctx)
		time.Sleep(5 * time.Second)
		if _, given, _ := o.now(); len(given) == 0 {
			t.Error("a consumer group without members takes no classic member")
		}
	})
}

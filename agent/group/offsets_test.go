package group_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
)

// at is an offset to commit.
func at(topic entry.UUID, partition uint32, offset int64) entry.GroupOffset {
	return entry.GroupOffset{Topic: topic, Partition: partition, Offset: offset, LeaderEpoch: -1, ExpireMs: -1}
}

// reads is what a consumer says when it joins: version 0, topics, no user data.
func reads(topics ...string) []byte {
	b := []byte{0, 0, 0, 0, 0, byte(len(topics))}
	for _, name := range topics {
		b = append(append(b, 0, byte(len(name))), name...)
	}
	return append(b, 0, 0, 0, 0)
}

// join makes a group of one member and returns its id and generation.
func join(t *testing.T, c *group.Coordinator, id, protocolType string, metadata []byte) (member string, generation int32) {
	t.Helper()
	j, code, err := c.Join(t.Context(), id, classic.JoinRequest{
		ClientID: "c", Host: "/127.0.0.1", SessionTimeout: 30 * time.Second, RebalanceTimeout: 30 * time.Second,
		ProtocolType: protocolType, Protocols: []classic.Protocol{{Name: "range", Metadata: metadata}},
	})
	if err != nil || code != step.None {
		t.Fatalf("join: %v, %v", code, err)
	}
	return j.MemberID, j.Generation
}

func syncUp(t *testing.T, c *group.Coordinator, id, member string, generation int32) {
	t.Helper()
	_, code, err := c.Sync(t.Context(), id, classic.SyncRequest{MemberID: member, Generation: generation, Assignments: map[string][]byte{member: {1}}})
	if err != nil || code != step.None {
		t.Fatalf("sync: %v, %v", code, err)
	}
}

func TestCommitOffsets(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		topic := l.topic("orders", 3)
		c := coordinator(t, l)
		commit := func(req group.Commit) ([]step.Code, step.Code) { return c.CommitOffsets(t.Context(), &req) }
		one := []entry.GroupOffset{at(topic, 0, 5)}

		// Nobody's group: anybody commits who says that he is nobody.
		if codes, code := commit(group.Commit{Group: "simple", Generation: -1, Offsets: []entry.GroupOffset{
			at(topic, 0, 1), at(topic, 2, 3), at(topic, 9, 1), at(entry.UUID{9}, 0, 1),
		}}); code != step.None || !slices.Equal(codes, []step.Code{0, 0, step.UnknownTopicOrPartition, step.UnknownTopicOrPartition}) {
			t.Errorf("%v, %v", codes, code)
		}
		if l.offset("simple", topic, 0) != 1 || l.offset("simple", topic, 2) != 3 {
			t.Error("not committed")
		}
		for why, x := range map[string]struct {
			req  group.Commit
			want step.Code
		}{
			"a generation of a group that is not there": {group.Commit{Group: "absent", Member: "m", Generation: 3}, step.GroupIDNotFound},
			"a member where there are none":             {group.Commit{Group: "simple", Member: "m", Generation: 3}, step.UnknownMemberID},
			"an id that no group has":                   {group.Commit{Group: "", Generation: -1}, step.InvalidGroupID},
		} {
			x.req.Offsets = one
			if codes, code := commit(x.req); code != x.want || codes != nil {
				t.Errorf("%s: %v, %v, want %v", why, codes, code, x.want)
			}
		}

		member, generation := join(t, c, "g", "consumer", reads("orders"))
		mine := group.Commit{Group: "g", Member: member, Generation: generation, Offsets: one}
		if _, code := commit(mine); code != step.RebalanceInProgress {
			t.Errorf("while the rebalance completes: %v", code)
		}
		syncUp(t, c, "g", member, generation)
		if codes, code := commit(mine); code != step.None || l.offset("g", topic, 0) != 5 || len(codes) != 1 {
			t.Errorf("a member: %v", code)
		}
		for why, x := range map[string]struct {
			req  group.Commit
			want step.Code
		}{
			"another generation": {group.Commit{Group: "g", Member: member, Generation: generation + 1}, step.IllegalGeneration},
			"another member":     {group.Commit{Group: "g", Member: "x", Generation: generation}, step.UnknownMemberID},
			"another instance":   {group.Commit{Group: "g", Member: member, Instance: "i", Generation: generation}, step.UnknownMemberID},
			"nobody":             {group.Commit{Group: "g", Generation: -1}, step.UnknownMemberID},
		} {
			x.req.Offsets = []entry.GroupOffset{at(topic, 0, 99)}
			if _, code := commit(x.req); code != x.want {
				t.Errorf("%s: %v, want %v", why, code, x.want)
			}
		}
		if l.offset("g", topic, 0) != 5 {
			t.Error("a refused commit counts")
		}
		if _, code, _ := c.Leave(t.Context(), "g", []classic.LeaveRequest{{MemberID: member}}); code != step.None {
			t.Fatal(code)
		}
		if _, code := commit(group.Commit{Group: "g", Generation: -1, Offsets: []entry.GroupOffset{at(topic, 0, 2)}}); code != step.None || l.offset("g", topic, 0) != 2 {
			t.Errorf("an administrator, once all have left: %v", code)
		}
	})
}

// A commit is answered when it is applied, and not with success where another owns the slot meanwhile.
func TestCommitIsFenced(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		topic := l.topic("orders", 1)
		c := coordinator(t, l)
		l.hold()
		type outcome struct {
			codes []step.Code
			code  step.Code
		}
		done := make(chan outcome, 1)
		go func() {
			codes, code := c.CommitOffsets(t.Context(), &group.Commit{Group: "g", Generation: -1, Offsets: []entry.GroupOffset{at(topic, 0, 1)}})
			done <- outcome{codes, code}
		}()
		faketime.Wait()
		select {
		case o := <-done:
			t.Fatalf("answered before it was applied: %+v", o)
		default:
		}
		other := log.Incarnation{2}
		l.must(other, &entry.Join{Name: "b", MaxFeatureLevel: 2})
		slot, epoch := l.slotOf("g")
		l.must(other, &entry.ClaimSlot{Slot: slot, Epoch: epoch, Owner: other})
		l.release()
		if o := <-done; o.code != step.NotCoordinator || l.offset("g", topic, 0) != -1 {
			t.Errorf("%+v", o)
		}
		if code := c.CheckFetch("g", "", -1); code != step.NotCoordinator {
			t.Errorf("fetch: %v", code)
		}
	})
}

// Where the log gives no answer the outcome is open, and nobody is told that it was refused.
func TestCommitOfUnknownOutcome(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		topic := l.topic("orders", 1)
		c := coordinator(t, l)
		req := &group.Commit{Group: "g", Generation: -1, Offsets: []entry.GroupOffset{at(topic, 0, 1)}}
		l.hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, code := c.CommitOffsets(ctx, req); code != step.NotAvailable {
			t.Errorf("out of time: %v", code)
		}
		l.release()
		if l.offset("g", topic, 0) != -1 {
			t.Error("what nobody waits for was not taken back")
		}
		l.fail(errors.New("gone"))
		if _, code := c.CommitOffsets(t.Context(), req); code != step.NotAvailable {
			t.Errorf("without a log: %v", code)
		}
	})
}

// A large commit takes several ops, and is committed whole.
func TestCommitInParts(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		topic := l.topic("orders", 200)
		c := coordinator(t, l)
		req := &group.Commit{Group: "g", Generation: -1}
		for i := range uint32(200) {
			o := at(topic, i, int64(i)+1)
			o.Metadata = string(make([]byte, 4096))
			req.Offsets = append(req.Offsets, o)
		}
		codes, code := c.CommitOffsets(t.Context(), req)
		if code != step.None || len(codes) != 200 || slices.ContainsFunc(codes, func(c step.Code) bool { return c != step.None }) {
			t.Fatalf("%v, %v", code, codes)
		}
		if l.offset("g", topic, 0) != 1 || l.offset("g", topic, 199) != 200 {
			t.Error("not all of it")
		}
	})
}

// Very many offsets go into several ops, to be committed and to be deleted; the last ones of each count as the first ones do.
func TestVeryManyOffsets(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		const many = 6000
		topic := l.topic("orders", many)
		c := coordinator(t, l)
		req := &group.Commit{Group: "g", Generation: -1}
		var gone []entry.GroupPartition
		for i := range uint32(many) {
			req.Offsets = append(req.Offsets, at(topic, i, 7))
			gone = append(gone, entry.GroupPartition{Topic: topic, Partition: i})
		}
		gone = append(gone, entry.GroupPartition{Topic: topic, Partition: many})
		if codes, code := c.CommitOffsets(t.Context(), req); code != step.None || len(codes) != many || slices.Max(codes) != step.None || l.offset("g", topic, many-1) != 7 {
			t.Errorf("commit: %v, %d codes", code, len(codes))
		}
		codes, code := c.DeleteOffsets(t.Context(), "g", gone)
		if code != step.None || len(codes) != many+1 || slices.Max(codes[:many]) != step.None || codes[many] != step.UnknownTopicOrPartition || l.offset("g", topic, many-1) != -1 {
			t.Errorf("delete: %v, %d codes", code, len(codes))
		}
	})
}

func TestDeleteOffsetsAndGroups(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		orders, clicks := l.topic("orders", 2), l.topic("clicks", 1)
		c := coordinator(t, l)
		del := func(id string, list ...entry.GroupPartition) ([]step.Code, step.Code) {
			return c.DeleteOffsets(t.Context(), id, list)
		}
		place := func(topic entry.UUID, p uint32) entry.GroupPartition {
			return entry.GroupPartition{Topic: topic, Partition: p}
		}
		if _, code := del("absent", place(orders, 0)); code != step.GroupIDNotFound {
			t.Errorf("offsets of no group: %v", code)
		}
		if code := c.DeleteGroup(t.Context(), "absent"); code != step.GroupIDNotFound {
			t.Errorf("no group: %v", code)
		}
		for _, id := range []string{"g", "opaque"} {
			if _, code := c.CommitOffsets(t.Context(), &group.Commit{Group: id, Generation: -1, Offsets: []entry.GroupOffset{at(orders, 0, 1), at(orders, 1, 1), at(clicks, 0, 1)}}); code != step.None {
				t.Fatal(code)
			}
		}
		member, generation := join(t, c, "g", "consumer", reads("orders"))
		if codes, code := del("g", place(orders, 0), place(clicks, 0), place(orders, 1)); code != step.None ||
			!slices.Equal(codes, []step.Code{step.GroupSubscribedToTopic, step.None, step.GroupSubscribedToTopic}) {
			t.Errorf("%v, %v", codes, code)
		}
		if l.offset("g", clicks, 0) != -1 || l.offset("g", orders, 0) != 1 {
			t.Error("another offset was deleted")
		}
		if code := c.DeleteGroup(t.Context(), "g"); code != step.NonEmptyGroup {
			t.Errorf("a group with a member: %v", code)
		}
		join(t, c, "opaque", "connect", []byte("whatever"))
		if _, code := del("opaque", place(orders, 0)); code != step.NonEmptyGroup {
			t.Errorf("members who do not say what they read: %v", code)
		}
		syncUp(t, c, "g", member, generation)
		if _, code, _ := c.Leave(t.Context(), "g", []classic.LeaveRequest{{MemberID: member}}); code != step.None {
			t.Fatal(code)
		}
		if codes, code := del("g", place(orders, 0), place(orders, 0), place(clicks, 0)); code != step.None || !slices.Equal(codes, []step.Code{0, 0, 0}) {
			t.Errorf("of an empty group: %v, %v", codes, code)
		}
		if code := c.DeleteGroup(t.Context(), "g"); code != step.None || l.exists("g") {
			t.Errorf("an empty group: %v", code)
		}
	})
}

func TestDescribeAndList(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		orders := l.topic("orders", 1)
		c := coordinator(t, l)
		if _, code := c.CommitOffsets(t.Context(), &group.Commit{Group: "simple", Generation: -1, Offsets: []entry.GroupOffset{at(orders, 0, 1)}}); code != step.None {
			t.Fatal(code)
		}
		member, generation := join(t, c, "billing", "consumer", reads("orders"))
		if d, code := c.Describe("billing"); code != step.None || d.State != "CompletingRebalance" || d.Protocol != "" || len(d.Members) != 1 || d.Members[0].Metadata != nil {
			t.Errorf("%v: %+v", code, d)
		}
		syncUp(t, c, "billing", member, generation)
		d, code := c.Describe("billing")
		if code != step.None || d.State != "Stable" || d.ProtocolType != "consumer" || d.Protocol != "range" || d.Members[0].ID != member ||
			!slices.Equal(d.Members[0].Metadata, reads("orders")) || !slices.Equal(d.Members[0].Assignment, []byte{1}) {
			t.Errorf("%v: %+v", code, d)
		}
		if d, code := c.Describe("simple"); code != step.None || d.State != "Empty" || d.ProtocolType != "" {
			t.Errorf("%v: %+v", code, d)
		}
		if _, code := c.Describe("absent"); code != step.GroupIDNotFound {
			t.Errorf("absent: %v", code)
		}
		want := []group.Listing{
			{ID: "billing", Type: "classic", ProtocolType: "consumer", State: "Stable", Members: 1}, {ID: "simple", Type: "classic", State: "Empty"},
		}
		if got, code := c.List(); code != step.None || !slices.Equal(got, want) {
			t.Errorf("%+v", got)
		}
		if _, code, _ := c.Leave(t.Context(), "billing", []classic.LeaveRequest{{MemberID: member}}); code != step.None {
			t.Fatal(code)
		}
		faketime.Wait()
		want[0].State, want[0].Members = "Empty", 0
		if got, code := c.List(); code != step.None || !slices.Equal(got, want) {
			t.Errorf("%+v", got)
		}
		// Another owner lists them, and not this one.
		other := log.Incarnation{2}
		l.must(other, &entry.Join{Name: "b", MaxFeatureLevel: 2})
		for _, id := range []string{"billing", "simple"} {
			slot, epoch := l.slotOf(id)
			l.must(other, &entry.ClaimSlot{Slot: slot, Epoch: epoch, Owner: other})
		}
		if got, code := c.List(); code != step.None || len(got) != 0 {
			t.Errorf("groups of others: %+v", got)
		}
	})
}

// What nobody uses goes after the retention, on log time: of groups without members since the last one left, of groups with
// members what they do not read any more.
func TestOffsetsExpire(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		orders, clicks := l.topic("orders", 2), l.topic("clicks", 1)
		const retention, interval = 24 * time.Hour, time.Hour
		c := coordinator(t, l, func(cfg *group.Config) { cfg.OffsetsRetention, cfg.ExpireInterval = retention, interval })
		commit := func(req group.Commit) {
			t.Helper()
			if codes, code := c.CommitOffsets(t.Context(), &req); code != step.None || slices.Max(codes) != step.None {
				t.Fatal(code, codes)
			}
		}
		// pass lets time pass, with the log's clock, sessions kept alive.
		var alive func()
		pass := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				time.Sleep(25 * time.Second)
				l.tick()
				if alive != nil {
					alive()
				}
			}
			faketime.Wait()
		}
		short := at(orders, 1, 7)
		short.ExpireMs = time.Now().Add(2 * time.Hour).UnixMilli()
		commit(group.Commit{Group: "simple", Generation: -1, Offsets: []entry.GroupOffset{at(orders, 0, 5), short}})
		commit(group.Commit{Group: "busy", Generation: -1, Offsets: []entry.GroupOffset{at(orders, 0, 5), at(clicks, 0, 6)}})
		member, generation := join(t, c, "busy", "consumer", reads("orders"))
		syncUp(t, c, "busy", member, generation)
		alive = func() {
			if code, _ := c.Heartbeat(t.Context(), "busy", member, "", generation); code != step.None {
				t.Fatalf("heartbeat: %v", code)
			}
		}
		pass(4 * time.Hour)
		if l.offset("simple", orders, 0) != 5 || l.offset("simple", orders, 1) != -1 {
			t.Errorf("after 4 h: %d, %d", l.offset("simple", orders, 0), l.offset("simple", orders, 1))
		}
		pass(20*time.Hour - 10*time.Minute)
		commit(group.Commit{Group: "simple", Generation: -1, Offsets: []entry.GroupOffset{at(orders, 1, 8)}})
		pass(2 * time.Hour)
		if l.offset("simple", orders, 0) != -1 || l.offset("simple", orders, 1) != 8 {
			t.Errorf("after 26 h: %d, and committed since %d", l.offset("simple", orders, 0), l.offset("simple", orders, 1))
		}
		if l.offset("busy", orders, 0) != 5 || l.offset("busy", clicks, 0) != -1 {
			t.Errorf("a group with a member: of what it reads %d, of what it does not %d", l.offset("busy", orders, 0), l.offset("busy", clicks, 0))
		}
		alive = nil
		if _, code, _ := c.Leave(t.Context(), "busy", []classic.LeaveRequest{{MemberID: member}}); code != step.None {
			t.Fatal(code)
		}
		pass(retention - interval)
		if l.offset("busy", orders, 0) != 5 {
			t.Error("gone before it was out of use for as long as the retention")
		}
		pass(3 * interval)
		if l.exists("busy") || l.exists("simple") {
			t.Errorf("groups without members and offsets: busy %v, simple %v", l.exists("busy"), l.exists("simple"))
		}
	})
}

// A commit that is under way when a group is found empty is not taken along.
func TestExpiryDoesNotRaceACommit(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		orders := l.topic("orders", 1)
		c := coordinator(t, l, func(cfg *group.Config) { cfg.OffsetsRetention, cfg.ExpireInterval = 90*time.Minute, time.Hour })
		req := &group.Commit{Group: "g", Generation: -1, Offsets: []entry.GroupOffset{at(orders, 0, 1)}}
		if _, code := c.CommitOffsets(t.Context(), req); code != step.None {
			t.Fatal(code)
		}
		time.Sleep(119 * time.Minute)
		l.tick()
		l.hold()
		done := make(chan step.Code, 1)
		go func() {
			_, code := c.CommitOffsets(t.Context(), req)
			done <- code
		}()
		time.Sleep(10 * time.Minute) // the offset is found to be overdue, behind the commit
		l.release()
		faketime.Wait()
		if code := <-done; code != step.None || l.offset("g", orders, 0) != 1 {
			t.Errorf("%v; committed is %d", code, l.offset("g", orders, 0))
		}
	})
}

// Members of the consumer protocol commit under their epoch; what is behind is told so, and groups of theirs are looked at with
// the API of their own.
func TestOffsetsOfConsumerGroups(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		orders, clicks := l.topic("orders", 1), l.topic("clicks", 1)
		c := coordinator(t, l)
		beat := func(member string, epoch int32, names []string, owned []consumer.TopicPartitions) consumer.HeartbeatAnswer {
			t.Helper()
			a, code, err := c.ConsumerHeartbeat(t.Context(), "g", consumer.Heartbeat{
				Version: 1, MemberID: member, MemberEpoch: epoch, ClientID: "c", ClientHost: "/127.0.0.1", RebalanceMs: 30_000, Names: names, Owned: owned,
			})
			if code != step.None || err != nil {
				t.Fatalf("heartbeat: %v, %v, %s", code, err, a.Message)
			}
			return a
		}
		a := beat("m", 0, []string{"orders"}, []consumer.TopicPartitions{})
		for !a.Assigned || len(a.Assignment) == 0 {
			a = beat("m", a.MemberEpoch, nil, nil)
		}
		commit := func(member string, epoch int32, version int16, offset int64) step.Code {
			_, code := c.CommitOffsets(t.Context(), &group.Commit{
				Group: "g", Member: member, Generation: epoch, Version: version, Offsets: []entry.GroupOffset{at(orders, 0, offset), at(clicks, 0, offset)},
			})
			return code
		}
		for why, x := range map[string]struct {
			member  string
			epoch   int32
			version int16
			want    step.Code
		}{
			"another member":                  {"x", a.MemberEpoch, 9, step.UnknownMemberID},
			"nobody, while there is a member": {"", -1, 9, step.UnknownMemberID},
			"an epoch to come":                {"m", a.MemberEpoch + 1, 9, step.StaleMemberEpoch},
			"a version that cannot say so":    {"m", a.MemberEpoch, 8, step.UnsupportedVersion},
		} {
			if code := commit(x.member, x.epoch, x.version, 99); code != x.want {
				t.Errorf("%s: %v, want %v", why, code, x.want)
			}
		}
		if code := commit("m", a.MemberEpoch, 9, 5); code != step.None || l.offset("g", orders, 0) != 5 {
			t.Errorf("%v; committed is %d", code, l.offset("g", orders, 0))
		}
		for why, x := range map[string]struct {
			member string
			epoch  int32
			want   step.Code
		}{
			"anybody": {"", -1, step.None}, "the member": {"m", a.MemberEpoch, step.None},
			"another epoch": {"m", a.MemberEpoch + 1, step.StaleMemberEpoch}, "another member": {"x", a.MemberEpoch, step.UnknownMemberID},
		} {
			if code := c.CheckFetch("g", x.member, x.epoch); code != x.want {
				t.Errorf("fetch by %s: %v, want %v", why, code, x.want)
			}
		}
		if codes, code := c.DeleteOffsets(t.Context(), "g", []entry.GroupPartition{{Topic: orders}, {Topic: clicks}}); code != step.None ||
			!slices.Equal(codes, []step.Code{step.GroupSubscribedToTopic, step.None}) {
			t.Errorf("delete offsets: %v, %v", codes, code)
		}
		if code := c.DeleteGroup(t.Context(), "g"); code != step.NonEmptyGroup {
			t.Errorf("delete: %v", code)
		}
		if _, code := c.Describe("g"); code != step.GroupIDNotFound {
			t.Errorf("described as a classic group: %v", code)
		}
		want := []group.Listing{{ID: "g", Type: "consumer", ProtocolType: "consumer", State: "Stable", Members: 1}}
		if got, code := c.List(); code != step.None || !slices.Equal(got, want) {
			t.Errorf("%+v", got)
		}
		beat("m", -1, nil, nil)
		if code := commit("", -1, 9, 1); code != step.None || l.offset("g", orders, 0) != 1 {
			t.Errorf("an administrator, once all have left: %v", code)
		}
		if code := c.DeleteGroup(t.Context(), "g"); code != step.None || l.exists("g") {
			t.Errorf("delete: %v", code)
		}
	})
}

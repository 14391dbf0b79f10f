package kafka_test

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
)

// grouped is a server of an agent that coordinates every group.
func grouped(t *testing.T, a *agent, tune ...func(*kafka.Config)) (*kafka.Server, *group.Coordinator) {
	t.Helper()
	a.coordinate(a)
	c, err := group.New(group.Config{Classic: classic.Config{SessionMin: time.Second}}, a)
	if err != nil {
		t.Fatal(err)
	}
	cfg := kafka.Config{}
	for _, f := range tune {
		f(&cfg)
	}
	s, err := kafka.New(cfg, a, a, a, c)
	if err != nil {
		t.Fatal(err)
	}
	s.Poison()
	c.Start()
	t.Cleanup(func() {
		s.Close()
		c.Close()
		if !s.InFlight() || !s.Idle() {
			t.Error("bytes of a budget were not given back")
		}
	})
	return s, c
}

func joinRequest(version int16, member string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.ProtocolType = version, "g", member, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 30_000
	req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: "range", Metadata: []byte("topics of " + string(rune('0'+version)))})
	return req
}

// join joins as clients of this version do.
func (c *client) join(version int16) *kmsg.JoinGroupResponse {
	c.t.Helper()
	res := ask[*kmsg.JoinGroupResponse](c, joinRequest(version, ""))
	if version >= 4 {
		if res.ErrorCode != 79 || res.MemberID == "" || res.Generation != -1 {
			c.t.Fatalf("version %d without an id: %+v", version, res)
		}
		res = ask[*kmsg.JoinGroupResponse](c, joinRequest(version, res.MemberID))
	}
	if res.ErrorCode != 0 || res.MemberID == "" {
		c.t.Fatalf("version %d: %+v", version, res)
	}
	return res
}

// Every version of the four APIs of the classic protocol, from joining to leaving, each in a group that the one before left.
func TestClassicGroupsInEveryVersion(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s, _ := grouped(t, newCluster(t).join("a"))
		for version := int16(0); version <= 9; version++ {
			c := dial(t, s)
			joined := c.join(version)
			if joined.LeaderID != joined.MemberID || len(joined.Members) != 1 || *joined.Protocol != "range" ||
				string(joined.Members[0].ProtocolMetadata) != "topics of "+string(rune('0'+version)) {
				t.Fatalf("version %d: %+v", version, joined)
			}
			if version >= 7 && (joined.ProtocolType == nil || *joined.ProtocolType != "consumer") {
				t.Errorf("version %d: protocol type %v", version, joined.ProtocolType)
			}
			sync := kmsg.NewPtrSyncGroupRequest()
			sync.Version, sync.Group, sync.MemberID, sync.Generation = min(version, 5), "g", joined.MemberID, joined.Generation
			sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: joined.MemberID, MemberAssignment: []byte("partition 7")}}
			if sync.Version >= 5 {
				if res := ask[*kmsg.SyncGroupResponse](c, sync); res.ErrorCode != 23 {
					t.Errorf("a sync of version 5 that does not name the protocol: %+v", res)
				}
				sync.ProtocolType, sync.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
			}
			if res := ask[*kmsg.SyncGroupResponse](c, sync); res.ErrorCode != 0 || string(res.MemberAssignment) != "partition 7" {
				t.Errorf("sync version %d: %+v", sync.Version, res)
			}
			beat := kmsg.NewPtrHeartbeatRequest()
			beat.Version, beat.Group, beat.MemberID, beat.Generation = min(version, 4), "g", joined.MemberID, joined.Generation
			if res := ask[*kmsg.HeartbeatResponse](c, beat); res.ErrorCode != 0 {
				t.Errorf("heartbeat version %d: %+v", beat.Version, res)
			}
			beat.Generation++
			if res := ask[*kmsg.HeartbeatResponse](c, beat); res.ErrorCode != 22 {
				t.Errorf("heartbeat version %d of another generation: %+v", beat.Version, res)
			}
			leave := kmsg.NewPtrLeaveGroupRequest()
			leave.Version, leave.Group, leave.MemberID = min(version, 5), "g", joined.MemberID
			leave.Members = []kmsg.LeaveGroupRequestMember{{MemberID: joined.MemberID}, {MemberID: "nobody"}}
			res := ask[*kmsg.LeaveGroupResponse](c, leave)
			switch {
			case res.ErrorCode != 0:
				t.Errorf("leave version %d: %+v", leave.Version, res)
			case leave.Version >= 3 && (len(res.Members) != 2 || res.Members[0].ErrorCode != 0 || res.Members[1].ErrorCode != 25):
				t.Errorf("leave version %d: %+v", leave.Version, res.Members)
			}
			if res := ask[*kmsg.LeaveGroupResponse](c, leave); leave.Version < 3 && res.ErrorCode != 25 {
				t.Errorf("leaving twice, version %d: %+v", leave.Version, res)
			}
			c.close()
		}
	})
}

func TestGroupsThatCannotBe(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a")
		s, _ := grouped(t, a)
		c := dial(t, s)
		for _, bad := range []struct {
			what string
			req  func(req *kmsg.JoinGroupRequest)
			code int16
		}{
			{"no id", func(r *kmsg.JoinGroupRequest) { r.Group = "" }, 24},
			{"an id that is no text", func(r *kmsg.JoinGroupRequest) { r.Group = "\xff\xfe" }, 24},
			{"an endless id", func(r *kmsg.JoinGroupRequest) { r.Group = string(make([]byte, 2000)) }, 24},
			{"a session of no time", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 1 }, 26},
			{"a session that is negative", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = -1 }, 26},
			{"a member that nobody knows", func(r *kmsg.JoinGroupRequest) { r.MemberID = "nobody" }, 25},
			{"no protocols", func(r *kmsg.JoinGroupRequest) { r.Protocols = nil }, 23},
			{"giant metadata", func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Metadata = make([]byte, 300<<10) }, 42},
		} {
			req := joinRequest(9, "")
			bad.req(req)
			if res := ask[*kmsg.JoinGroupResponse](c, req); res.ErrorCode != bad.code {
				t.Errorf("%s: code %d, want %d", bad.what, res.ErrorCode, bad.code)
			}
		}
		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Version, beat.Group, beat.MemberID = 4, "other", "nobody"
		if res := ask[*kmsg.HeartbeatResponse](c, beat); res.ErrorCode != 25 {
			t.Errorf("heartbeat to a group that is not there: code %d", res.ErrorCode)
		}
		// An agent that does not coordinate the group says so.
		b := cl.join("b")
		other := dial(t, server(t, b))
		if res := ask[*kmsg.HeartbeatResponse](other, beat); res.ErrorCode != 16 {
			t.Errorf("heartbeat to another agent: code %d", res.ErrorCode)
		}
		if res := ask[*kmsg.JoinGroupResponse](other, joinRequest(9, "")); res.ErrorCode != 16 {
			t.Errorf("join at another agent: code %d", res.ErrorCode)
		}
	})
}

// A client id that is no text, or has no end, makes an id that the log can carry.
func TestMemberIDsAreText(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s, _ := grouped(t, newCluster(t).join("a"))
		for _, id := range []string{"\xff\xfe", string(make([]byte, 5000)), ""} {
			c := dial(t, s)
			c.correlation++
			req := joinRequest(2, "")
			c.write(kmsg.NewRequestFormatter(kmsg.FormatterClientID(id)).AppendRequest(nil, req, c.correlation))
			res, _ := c.receive(c.correlation, req).(*kmsg.JoinGroupResponse)
			if res.ErrorCode != 0 {
				t.Errorf("client id of %d bytes: code %d", len(id), res.ErrorCode)
			}
			leave := kmsg.NewPtrLeaveGroupRequest()
			leave.Group, leave.MemberID = "g", res.MemberID
			ask[*kmsg.LeaveGroupResponse](c, leave)
		}
	})
}

// A join that waits for other members holds no memory that others need, keeps the order of its connection's answers, and ends
// with its connection.
func TestAJoinThatWaits(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s, _ := grouped(t, newCluster(t).join("a"))
		first := dial(t, s)
		joined := first.join(5)
		second := dial(t, s)
		res := ask[*kmsg.JoinGroupResponse](second, joinRequest(5, ""))
		req := joinRequest(5, res.MemberID)
		waits := second.send(req)
		faketime.Wait() // so that what comes next is the one request that needs no room
		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Version, beat.Group, beat.MemberID, beat.Generation = 3, "g", res.MemberID, 2
		behind := second.send(beat)
		faketime.Wait()
		if !s.Idle() {
			t.Error("a join that waits holds memory")
		}
		rejoined := ask[*kmsg.JoinGroupResponse](first, joinRequest(5, joined.MemberID))
		got, _ := second.receive(waits, req).(*kmsg.JoinGroupResponse)
		if got.Generation != rejoined.Generation || got.LeaderID != joined.MemberID {
			t.Errorf("%+v", got)
		}
		if res, _ := second.receive(behind, beat).(*kmsg.HeartbeatResponse); res.ErrorCode != 0 {
			t.Errorf("the heartbeat behind it: %+v", res)
		}
		// The rebalance timeout counts from when the connection of who waited is gone, too.
		third := dial(t, s)
		res = ask[*kmsg.JoinGroupResponse](third, joinRequest(5, ""))
		third.send(joinRequest(5, res.MemberID))
		faketime.Wait()
		third.close()
		faketime.Wait()
		began := time.Now()
		rejoin := joinRequest(5, joined.MemberID)
		waits = first.send(rejoin)
		if again := ask[*kmsg.JoinGroupResponse](second, joinRequest(5, got.MemberID)); again.ErrorCode != 0 {
			t.Errorf("%+v", again)
		}
		if res, _ := first.receive(waits, rejoin).(*kmsg.JoinGroupResponse); res.ErrorCode != 0 || len(res.Members) != 2 {
			t.Errorf("%+v", res)
		}
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("the group waited %v for who had gone", took)
		}
	})
}

// A join that holds up requests which hold memory ends where others wait for that.
func TestJoinsMakeRoom(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s, _ := grouped(t, a, func(c *kafka.Config) {
			c.ProduceBytesMax, c.RequestBytesMax = 1<<20, 1<<20
			c.InFlightBytes, c.ConnectionInFlightBytes, c.StrangerBytes = 1<<20, 1<<20, 1<<20
		})
		raw := records(t, batch.BuildOptions{}, strings.Repeat("x", 700_000))
		dial(t, s).join(5) // whom the other waits for
		other := visit(t, s, "10.0.0.2")
		ask[*kmsg.ProduceResponse](other, produceRequest(9, "t", 0, raw)) // no stranger any more
		greedy := visit(t, s, "10.0.0.1")
		ask[*kmsg.ApiVersionsResponse](greedy, kmsg.NewPtrApiVersionsRequest())
		res := ask[*kmsg.JoinGroupResponse](greedy, joinRequest(5, ""))
		join := joinRequest(5, res.MemberID)
		waits := greedy.send(join)
		behind := produceRequest(9, "t", 0, raw)
		held := greedy.send(behind)
		faketime.Wait()
		began := time.Now()
		if p := ask[*kmsg.ProduceResponse](other, produceRequest(9, "t", 0, raw)); p.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Errorf("produce: %+v", p)
		}
		if took := time.Since(began); took > 9*time.Second { // less than the session of who is waited for
			t.Errorf("a producer waited %v for a join", took)
		}
		if res, _ := greedy.receive(waits, join).(*kmsg.JoinGroupResponse); res.ErrorCode != 15 {
			t.Errorf("the join: %+v", res)
		}
		if res, _ := greedy.receive(held, behind).(*kmsg.ProduceResponse); res.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Errorf("what was behind it: %+v", res)
		}
	})
}

package kafka_test

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
)

func heartbeatOf(version int16, member string, epoch int32) *kmsg.ConsumerGroupHeartbeatRequest {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch = version, "g", member, epoch
	if epoch == 0 {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames = 30_000, []string{"t"}
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	return req
}

// owning is a heartbeat that says what a member has.
func owning(member string, epoch int32, a *kmsg.ConsumerGroupHeartbeatResponseAssignment) *kmsg.ConsumerGroupHeartbeatRequest {
	req := heartbeatOf(1, member, epoch)
	req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	for _, t := range a.Topics {
		req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: t.TopicID, Partitions: t.Partitions})
	}
	return req
}

// A member of each version joins a group, has its partitions, is described, and leaves.
func TestConsumerGroupsInEveryVersion(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		s, _ := grouped(t, a)
		id := a.topic("t", 3)
		for version := int16(0); version <= 1; version++ {
			c := dial(t, s)
			join := heartbeatOf(version, "", 0)
			if version > 0 {
				join.MemberID = "mine"
				join.SubscribedTopicNames, join.SubscribedTopicRegex = nil, kmsg.StringPtr("t|other")
			}
			joined := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, join)
			if joined.ErrorCode != 0 || joined.MemberID == nil || *joined.MemberID == "" || joined.MemberEpoch < 1 || joined.HeartbeatIntervalMillis != 5000 {
				t.Fatalf("version %d: %+v", version, joined)
			}
			if version > 0 && *joined.MemberID != "mine" {
				t.Errorf("the member's id is %s", *joined.MemberID)
			}
			if as := joined.Assignment; as == nil || len(as.Topics) != 1 || as.Topics[0].TopicID != id || !slices.Equal(as.Topics[0].Partitions, []int32{0, 1, 2}) {
				t.Fatalf("version %d: assigned %+v", version, as)
			}
			beat := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, heartbeatOf(version, *joined.MemberID, joined.MemberEpoch))
			if beat.ErrorCode != 0 || beat.Assignment != nil || beat.MemberEpoch != joined.MemberEpoch {
				t.Errorf("version %d: a heartbeat is answered %+v", version, beat)
			}

			describe := kmsg.NewPtrConsumerGroupDescribeRequest()
			describe.Version, describe.Groups = version, []string{"g", "nobody's", ""}
			described := ask[*kmsg.ConsumerGroupDescribeResponse](c, describe)
			if len(described.Groups) != 3 || described.Groups[1].ErrorCode != 69 || described.Groups[1].ErrorMessage == nil || described.Groups[2].ErrorCode != 24 {
				t.Fatalf("described: %+v", described)
			}
			g := described.Groups[0]
			if g.ErrorCode != 0 || g.State != "Stable" || g.AssignorName != "uniform" || g.Epoch != joined.MemberEpoch || g.AssignmentEpoch != g.Epoch || len(g.Members) != 1 {
				t.Fatalf("version %d: described %+v", version, g)
			}
			m := g.Members[0]
			if m.MemberID != *joined.MemberID || m.ClientID != "test" || m.ClientHost == "" || m.MemberEpoch != g.Epoch || version > 0 && m.MemberType != 1 {
				t.Errorf("version %d: member %+v", version, m)
			}
			for _, as := range []kmsg.Assignment{m.Assignment, m.TargetAssignment} {
				if len(as.TopicPartitions) != 1 || as.TopicPartitions[0].Topic != "t" || as.TopicPartitions[0].TopicID != id || len(as.TopicPartitions[0].Partitions) != 3 {
					t.Errorf("version %d: described with %+v", version, as)
				}
			}
			left := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, heartbeatOf(version, *joined.MemberID, -1))
			if left.ErrorCode != 0 || left.MemberEpoch != -1 {
				t.Errorf("version %d: leaving is answered %+v", version, left)
			}
			if beat := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, heartbeatOf(version, *joined.MemberID, joined.MemberEpoch)); beat.ErrorCode != 25 || beat.ErrorMessage == nil {
				t.Errorf("version %d: one that has left is answered %+v", version, beat)
			}
		}
	})
}

func TestHeartbeatsThatAreRefused(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		s, _ := grouped(t, a)
		a.topic("t", 3)
		c := dial(t, s)
		static := func(member string, epoch int32) *kmsg.ConsumerGroupHeartbeatRequest {
			req := heartbeatOf(1, member, epoch)
			req.InstanceID = kmsg.StringPtr("instance")
			return req
		}
		joined := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, static("m", 0))
		if joined.ErrorCode != 0 {
			t.Fatalf("%+v", joined)
		}
		with := func(change func(req *kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatRequest {
			req := heartbeatOf(1, "other", 0)
			change(req)
			return req
		}
		for _, x := range []struct {
			name string
			req  *kmsg.ConsumerGroupHeartbeatRequest
			code int16
		}{
			{"an expression", with(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicRegex = kmsg.StringPtr("(") }), 128},
			{"an assignor", with(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.ServerAssignor = kmsg.StringPtr("mine") }), 112},
			{"no subscription", with(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = nil }), 42},
			{"no ownership", with(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Topics = nil }), 42},
			{"no group", with(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group = "" }), 42},
			{"an epoch", heartbeatOf(1, "m", -9), 42},
			{"a later epoch", static("m", 7), 110},
			{"a stranger", heartbeatOf(1, "stranger", 3), 25},
			{"an instance that is taken", static("thief", 0), 111},
			{"an instance of another", static("thief", 1), 82},
		} {
			res := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, x.req)
			if res.ErrorCode != x.code || res.ErrorMessage == nil || *res.ErrorMessage == "" || res.Assignment != nil {
				t.Errorf("%s: %+v, want code %d", x.name, res, x.code)
			}
		}
	})
}

// Two members hand partitions over, and one of them falls silent.
func TestMembersShareAndTakeOver(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		s, _ := grouped(t, a)
		a.topic("t", 4)
		one, two := dial(t, s), dial(t, s)
		first := ask[*kmsg.ConsumerGroupHeartbeatResponse](one, heartbeatOf(1, "one", 0))
		second := ask[*kmsg.ConsumerGroupHeartbeatResponse](two, heartbeatOf(1, "two", 0))
		if second.Assignment == nil || len(second.Assignment.Topics) != 0 {
			t.Fatalf("the second has %+v", second.Assignment)
		}
		told := ask[*kmsg.ConsumerGroupHeartbeatResponse](one, heartbeatOf(1, "one", first.MemberEpoch))
		if told.Assignment == nil || len(told.Assignment.Topics[0].Partitions) != 2 {
			t.Fatalf("the first is told %+v", told)
		}
		if res := ask[*kmsg.ConsumerGroupHeartbeatResponse](one, owning("one", first.MemberEpoch, told.Assignment)); res.MemberEpoch != second.MemberEpoch {
			t.Fatalf("the first is at %+v", res)
		}
		given := ask[*kmsg.ConsumerGroupHeartbeatResponse](two, heartbeatOf(1, "two", second.MemberEpoch))
		if given.Assignment == nil || len(given.Assignment.Topics) != 1 || len(given.Assignment.Topics[0].Partitions) != 2 {
			t.Fatalf("the second is given %+v", given.Assignment)
		}
		epoch := second.MemberEpoch
		for range 10 { // the first says nothing more
			time.Sleep(5 * time.Second)
			faketime.Wait()
			res := ask[*kmsg.ConsumerGroupHeartbeatResponse](two, heartbeatOf(1, "two", epoch))
			if epoch = res.MemberEpoch; res.ErrorCode != 0 {
				t.Fatalf("%+v", res)
			}
			if res.Assignment != nil {
				given = res
			}
		}
		if len(given.Assignment.Topics[0].Partitions) != 4 {
			t.Errorf("after 50 s the second has %+v", given.Assignment)
		}
		if res := ask[*kmsg.ConsumerGroupHeartbeatResponse](one, heartbeatOf(1, "one", first.MemberEpoch)); res.ErrorCode != 25 {
			t.Errorf("the first comes back to %+v", res)
		}
	})
}

// The feature group.version is there from the level on that has groups.
func TestFeatures(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		ask18 := func(s *kafka.Server, version int16) *kmsg.ApiVersionsResponse {
			req := kmsg.NewPtrApiVersionsRequest()
			req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = version, "c", "1"
			return ask[*kmsg.ApiVersionsResponse](dial(t, s), req)
		}
		before := ask18(server(t, a), 3)
		if len(before.SupportedFeatures) != 1 || len(before.FinalizedFeatures) != 0 {
			t.Errorf("at the level before: %+v", before)
		}
		s, _ := grouped(t, a)
		for version := int16(0); version <= 4; version++ {
			res := ask18(s, version)
			if version < 3 {
				continue
			}
			if len(res.SupportedFeatures) != 1 || len(res.FinalizedFeatures) != 1 {
				t.Fatalf("version %d: %+v", version, res)
			}
			can, does := res.SupportedFeatures[0], res.FinalizedFeatures[0]
			if can.Name != "group.version" || can.MinVersion != 1 || can.MaxVersion != 1 || does.Name != can.Name || does.MinVersionLevel != 1 || does.MaxVersionLevel != 1 || res.FinalizedFeaturesEpoch < 2 {
				t.Errorf("version %d: %+v", version, res)
			}
		}
	})
}

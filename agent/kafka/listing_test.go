package kafka_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/state"
)

func TestLogDirsOfAllAgentsAddUp(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		agents := []*agent{cl.join("a"), cl.join("b"), cl.join("c")}
		clients := make([]*client, len(agents))
		for i, a := range agents {
			clients[i] = dial(t, server(t, a, func(c *kafka.Config) { c.LogDir = "s3://bucket" }))
		}
		agents[0].topic("t", 20)
		agents[0].topic("u", 3)
		agents[0].topic("empty", 1)
		for i := range int32(20) {
			clients[i%3].produce("t", i, strings.Repeat("x", int(i)))
		}
		clients[0].produce("u", 2, "y", "y")
		want := make(map[string]int64)
		agents[0].View(func(st *state.State) {
			for topic := range st.Topics() {
				for i := range topic.Partitions() {
					want[fmt.Sprint(topic.Name, "-", i)] = topic.Partition(i).Size()
				}
			}
		})
		if want["t-19"] < 80 || want["u-2"] < 60 || want["empty-0"] != 0 {
			t.Fatalf("sizes %v", want)
		}
		ask3 := func(version int16, topics []kmsg.DescribeLogDirsRequestTopic) map[string]int64 {
			t.Helper()
			got := make(map[string]int64)
			for i, c := range clients {
				req := kmsg.NewPtrDescribeLogDirsRequest()
				req.Version, req.Topics = version, topics
				res := ask[*kmsg.DescribeLogDirsResponse](c, req)
				if res.ErrorCode != 0 || len(res.Dirs) != 1 || res.Dirs[0].Dir != "s3://bucket" || res.Dirs[0].ErrorCode != 0 ||
					res.Dirs[0].TotalBytes != -1 || res.Dirs[0].UsableBytes != -1 {
					t.Fatalf("agent %d: %+v", i, res)
				}
				for _, rt := range res.Dirs[0].Topics {
					meta := metadataOf(c, rt.Topic).Topics[0]
					for _, p := range rt.Partitions {
						name := fmt.Sprint(rt.Topic, "-", p.Partition)
						if _, twice := got[name]; twice || p.OffsetLag != 0 || p.IsFuture {
							t.Errorf("%s: twice, or %+v", name, p)
						}
						if meta.Partitions[p.Partition].Leader != agents[i].nodeID {
							t.Errorf("%s is reported by agent %d, not its leader", name, agents[i].nodeID)
						}
						got[name] = p.Size
					}
				}
			}
			return got
		}
		for version := int16(1); version <= 4; version++ {
			if got := ask3(version, nil); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("version %d: %v, want %v", version, got, want)
			}
		}
		some := []kmsg.DescribeLogDirsRequestTopic{
			{Topic: "u", Partitions: []int32{2, 2, 9, -1}}, {Topic: "absent", Partitions: []int32{0}}, {Topic: "u", Partitions: []int32{0}},
		}
		if got := fmt.Sprint(ask3(4, some)); got != fmt.Sprint(map[string]int64{"u-0": 0, "u-2": want["u-2"]}) {
			t.Errorf("of some: %v", got)
		}
		if got := ask3(4, []kmsg.DescribeLogDirsRequestTopic{}); len(got) != 0 {
			t.Errorf("of none: %v", got)
		}
		// What is deleted does not count.
		ask[*kmsg.DeleteRecordsResponse](clients[0], deletion("u", 2, -1))
		if got := ask3(4, nil)["u-2"]; got != 0 {
			t.Errorf("after deletion: %d bytes", got)
		}
		agents[0].with(func(a *agent) { a.barrierErr = errors.New("no quorum") })
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Version = 4
		if res := ask[*kmsg.DescribeLogDirsResponse](clients[0], req); res.ErrorCode != 7 || res.Dirs[0].ErrorCode != 7 {
			t.Errorf("without a barrier: %+v", res)
		}
	})
}

func TestListConfigResources(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a")
		cl.join("b")
		a.topic("t", 1)
		a.topic("u", 1)
		c := dial(t, server(t, a))
		list := func(version int16, types ...int8) string {
			t.Helper()
			req := kmsg.NewPtrListConfigResourcesRequest()
			req.Version, req.ResourceTypes = version, types
			res := ask[*kmsg.ListConfigResourcesResponse](c, req)
			var names []string
			for _, r := range res.ConfigResources {
				names = append(names, fmt.Sprint(r.Type, ":", r.Name))
			}
			return fmt.Sprintf("%d%v", res.ErrorCode, names)
		}
		for _, tc := range []struct {
			version int16
			types   []int8
			want    string
		}{
			{0, nil, "0[]"},
			{1, nil, "0[2:t 2:u 4:1 4:2 8:1 8:2]"},
			{1, []int8{2}, "0[2:t 2:u]"},
			{1, []int8{8}, "0[8:1 8:2]"},
			{1, []int8{32, 16}, "0[]"},
			{1, []int8{2, 3}, "35[]"},
		} {
			if got := list(tc.version, tc.types...); got != tc.want {
				t.Errorf("version %d of %v: %s, want %s", tc.version, tc.types, got, tc.want)
			}
		}
		a.with(func(a *agent) { a.barrierErr = errors.New("no quorum") })
		if got := list(1, 2); got != "7[]" {
			t.Errorf("without a barrier: %s", got)
		}
	})
}

func TestDescribeTopicPartitionsInPages(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a")
		cl.join("b")
		ids := map[string]any{"a": a.topic("a", 3), "b": a.topic("b", 1), "c": a.topic("c", 4)}
		c := dial(t, server(t, a))
		page := func(limit int32, cursor string, topics ...string) (string, *kmsg.DescribeTopicPartitionsResponse) {
			t.Helper()
			req := kmsg.NewPtrDescribeTopicPartitionsRequest()
			req.ResponsePartitionLimit = limit
			for _, n := range topics {
				req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: n})
			}
			if name, at, ok := strings.Cut(cursor, "-"); ok {
				req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: name}
				_, _ = fmt.Sscan(at, &req.Cursor.Partition)
			}
			res := ask[*kmsg.DescribeTopicPartitionsResponse](c, req)
			var got []string
			for _, rt := range res.Topics {
				got = append(got, fmt.Sprint(*rt.Topic, ":", rt.ErrorCode))
				for _, p := range rt.Partitions {
					got = append(got, fmt.Sprint(p.Partition))
				}
			}
			if n := res.NextCursor; n != nil {
				got = append(got, fmt.Sprint("next ", n.Topic, "-", n.Partition))
			}
			return strings.Join(got, " "), res
		}
		for _, tc := range []struct {
			limit  int32
			cursor string
			topics []string
			want   string
		}{
			{2000, "", nil, "a:0 0 1 2 b:0 0 c:0 0 1 2 3"},
			{math.MaxInt32, "", []string{"c", "a", "c"}, "a:0 0 1 2 c:0 0 1 2 3"},
			{2, "", nil, "a:0 0 1 next a-2"},
			{2, "a-2", nil, "a:0 2 b:0 0 next c-0"},
			{3, "", nil, "a:0 0 1 2 next b-0"},
			{4, "c-0", nil, "c:0 0 1 2 3"},
			{0, "c-3", nil, "c:0 3"},
			{-5, "c-2", nil, "c:0 2 next c-3"},
			{2, "b-0", []string{"a", "c"}, "a:42 c:42"}, // the cursor's topic was not asked for
			{2, "b-0", []string{"a", "b", "c"}, "b:0 0 c:0 0 next c-1"},
			{2, "bb-0", nil, "c:0 0 1 next c-2"}, // the cursor's topic is gone
			{2000, "c-4", nil, "c:0"},
			{2000, "", []string{"absent", "b", "!"}, "!:17 absent:3 b:0 0"},
			{2000, "a--1", []string{"a", "b"}, "a:42 b:42"},
		} {
			if got, _ := page(tc.limit, tc.cursor, tc.topics...); got != tc.want {
				t.Errorf("limit %d from %q of %v: %q, want %q", tc.limit, tc.cursor, tc.topics, got, tc.want)
			}
		}
		_, res := page(2000, "")
		meta := metadataOf(c, "a", "b", "c")
		for i, rt := range res.Topics {
			if any(state.PartitionRef{Topic: rt.TopicID}.Topic) != ids[*rt.Topic] || rt.AuthorizedOperations == math.MinInt32 {
				t.Errorf("%+v", rt)
			}
			for j, p := range rt.Partitions {
				want := meta.Topics[i].Partitions[j]
				if p.LeaderID != want.Leader || p.LeaderEpoch != want.LeaderEpoch || fmt.Sprint(p.Replicas, p.ISR) != fmt.Sprint(want.Replicas, want.ISR) ||
					p.EligibleLeaderReplicas == nil || len(p.OfflineReplicas) > 0 {
					t.Errorf("%s-%d: %+v, Metadata says %+v", *rt.Topic, j, p, want)
				}
			}
		}
		a.with(func(a *agent) { a.barrierErr = errors.New("no quorum") })
		if got, _ := page(2000, "", "a", "absent"); got != "a:0 0 1 2 absent:5" {
			t.Errorf("without a barrier: %q", got)
		}
		if got, _ := page(2000, "b-0"); got != "b:0 0 c:0 0 1 2 3" {
			t.Errorf("without a barrier: %q", got)
		}
	})
}

func TestListGroupsIsEmptyAndCorrect(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := dial(t, server(t, newCluster(t).join("a")))
		for version := int16(0); version <= 5; version++ {
			req := kmsg.NewPtrListGroupsRequest()
			req.Version, req.StatesFilter, req.TypesFilter = version, []string{"Stable", "no such state"}, []string{"consumer"}
			if res := ask[*kmsg.ListGroupsResponse](c, req); res.ErrorCode != 0 || len(res.Groups) != 0 {
				t.Errorf("version %d: %+v", version, res)
			}
		}
	})
}

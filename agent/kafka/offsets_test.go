package kafka_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// commitRequest commits one offset, of nobody's group.
func commitRequest(version int16, topic string, id entry.UUID, partition int32, offset int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = version, "g", -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Partition, rp.Offset = partition, offset
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// commit is the code of the one partition that a request commits.
func (c *client) commit(req *kmsg.OffsetCommitRequest) int16 {
	c.t.Helper()
	res := ask[*kmsg.OffsetCommitResponse](c, req)
	if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 || res.Topics[0].Partitions[0].Partition != req.Topics[0].Partitions[0].Partition {
		c.t.Fatalf("%+v", res)
	}
	return res.Topics[0].Partitions[0].ErrorCode
}

// fetchedPartition is a partition of an OffsetFetch in any version.
type fetchedPartition struct {
	offset   int64
	epoch    int32
	metadata string
	code     int16
}

// committed asks what group g has committed of some partitions of a topic; nil is everything.
func (c *client) committed(version int16, topic string, id entry.UUID, partitions ...int32) (list map[int32]fetchedPartition, code int16) {
	c.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.Group = version, "g"
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = "g"
	if partitions != nil {
		req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: topic, Partitions: partitions}}
		g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: topic, TopicID: id, Partitions: partitions}}
	}
	req.Groups = append(req.Groups, g)
	res := ask[*kmsg.OffsetFetchResponse](c, req)
	list = make(map[int32]fetchedPartition)
	add := func(name string, p kmsg.OffsetFetchResponseGroupTopicPartition) {
		if name != topic {
			c.t.Errorf("topic %q", name)
		}
		list[p.Partition] = fetchedPartition{p.Offset, p.LeaderEpoch, *p.Metadata, p.ErrorCode}
	}
	if version < 8 {
		for _, t := range res.Topics {
			for _, p := range t.Partitions {
				add(t.Topic, kmsg.OffsetFetchResponseGroupTopicPartition(p))
			}
		}
		return list, res.ErrorCode
	}
	for _, t := range res.Groups[0].Topics {
		name := t.Topic
		if version >= 10 {
			if name = topic; t.TopicID != id {
				c.t.Errorf("topic %x", t.TopicID)
			}
		}
		for _, p := range t.Partitions {
			add(name, p)
		}
	}
	return list, res.Groups[0].ErrorCode
}

// What is committed in any version is fetched in any version.
func TestOffsetsInEveryVersion(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 3)
		s, _ := grouped(t, a)
		c := dial(t, s)
		offset := int64(100)
		for commits := int16(2); commits <= 10; commits++ {
			for fetches := int16(1); fetches <= 10; fetches++ {
				offset++
				req := commitRequest(commits, "t", id, 1, offset)
				where := fmt.Sprint("at ", offset)
				req.Topics[0].Partitions[0].LeaderEpoch, req.Topics[0].Partitions[0].Metadata = 7, &where
				if code := c.commit(req); code != 0 {
					t.Fatalf("commit %d: code %d", commits, code)
				}
				want := fetchedPartition{offset, -1, where, 0}
				if commits >= 6 && fetches >= 5 {
					want.epoch = 7
				}
				got, code := c.committed(fetches, "t", id, 0, 1)
				if nothing := (fetchedPartition{-1, -1, "", 0}); code != 0 || len(got) != 2 || got[0] != nothing || got[1] != want {
					t.Errorf("commit %d, fetch %d: code %d, %+v, want %+v", commits, fetches, code, got, want)
				}
				if fetches < 2 {
					continue
				}
				if got, code := c.committed(fetches, "t", id); code != 0 || len(got) != 1 || got[1] != want {
					t.Errorf("commit %d, fetch all %d: code %d, %+v", commits, fetches, code, got)
				}
			}
		}
	})
}

// Kafka's code for each commit that cannot be.
func TestCommitsThatCannotBe(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a")
		id := a.topic("t", 1)
		s, _ := grouped(t, a)
		c := dial(t, s)
		long, odd, text := strings.Repeat("x", 4097), "\xff\xfe", strings.Repeat("x", 4096)
		for _, bad := range []struct {
			what    string
			version int16
			change  func(r *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition)
			code    int16
		}{
			{"a topic that is not there", 9, func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) { r.Topics[0].Topic = "u" }, 3},
			{"an id that is nobody's", 10, func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) {
				r.Topics[0].TopicID = entry.UUID{99}
			}, 100},
			{"a name where an id is needed", 10, func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) {
				r.Topics[0].TopicID = entry.UUID{}
			}, 100},
			{"a partition that is not there", 2, func(_ *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition) { p.Partition = 1 }, 3},
			{"a negative partition", 10, func(_ *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition) { p.Partition = -1 }, 3},
			{"giant metadata", 9, func(_ *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition) { p.Metadata = &long }, 12},
			{"a negative offset", 9, func(_ *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition) { p.Offset = -1 }, 1},
			{"a leader epoch below none", 9, func(_ *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition) { p.LeaderEpoch = -2 }, 1},
			{"no group", 9, func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) { r.Group = "" }, 24},
			{"a group that is no text", 9, func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) { r.Group = odd }, 24},
			{"an endless group", 9, func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) {
				r.Group = strings.Repeat("g", 1025)
			}, 24},
			{"a generation of a group that is not there", 9, func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) {
				r.Generation, r.MemberID = 1, "m"
			}, 69},
			{"the same, of an old client", 8, func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) {
				r.Generation, r.MemberID = 1, "m"
			}, 22},
		} {
			req := commitRequest(bad.version, "t", id, 0, 5)
			bad.change(req, &req.Topics[0].Partitions[0])
			if code := c.commit(req); code != bad.code {
				t.Errorf("%s: code %d, want %d", bad.what, code, bad.code)
			}
		}
		if got, _ := c.committed(9, "t", id); len(got) != 0 {
			t.Errorf("committed %+v", got)
		}
		// What is unusual and yet taken: all the metadata there may be, bytes that are no text, no time to keep it, no metadata at all.
		for what, change := range map[string]func(r *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition){
			"much metadata": func(_ *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition) { p.Metadata = &text },
			"odd metadata":  func(_ *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition) { p.Metadata = &odd },
			"an endless retention": func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) {
				r.RetentionTimeMillis = 1<<63 - 1
			},
			"no retention": func(r *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitRequestTopicPartition) {
				r.RetentionTimeMillis = 0
			},
			"a large offset": func(_ *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition) { p.Offset = 1<<63 - 1 },
		} {
			req := commitRequest(4, "t", id, 0, 5)
			change(req, &req.Topics[0].Partitions[0])
			if code := c.commit(req); code != 0 {
				t.Errorf("%s: code %d", what, code)
			}
			got, _ := c.committed(9, "t", id)
			if got[0].offset != req.Topics[0].Partitions[0].Offset {
				t.Errorf("%s: %+v", what, got)
			}
			if m := req.Topics[0].Partitions[0].Metadata; m != nil && got[0].metadata != strings.ToValidUTF8(*m, "\uFFFD") {
				t.Errorf("%s: another metadata of %d bytes", what, len(got[0].metadata))
			}
		}
		// Another agent does not coordinate the group.
		other := dial(t, server(t, cl.join("b")))
		if code := other.commit(commitRequest(9, "t", id, 0, 5)); code != 16 {
			t.Errorf("commit to another agent: code %d", code)
		}
		for version := int16(1); version <= 10; version++ {
			got, code := other.committed(version, "t", id, 0)
			if version == 1 {
				code = got[0].code
			}
			if code != 16 {
				t.Errorf("fetch %d from another agent: code %d, %+v", version, code, got)
			}
		}
	})
}

// An unknown group has committed nothing, and that is no error (T6). Members of it there are none.
func TestOffsetsOfUnknownGroups(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s, _ := grouped(t, a)
		c := dial(t, s)
		for version := int16(1); version <= 10; version++ {
			got, code := c.committed(version, "t", id, 0, 7)
			if nothing := (fetchedPartition{-1, -1, "", 0}); code != 0 || got[0] != nothing || got[7] != nothing {
				t.Errorf("version %d: code %d, %+v", version, code, got)
			}
			if version < 2 {
				continue
			}
			if got, code := c.committed(version, "t", id); code != 0 || len(got) != 0 {
				t.Errorf("version %d, all: code %d, %+v", version, code, got)
			}
		}
		if got, code := c.committed(9, "absent", entry.UUID{}, 0); code != 0 || got[0] != (fetchedPartition{-1, -1, "", 0}) {
			t.Errorf("an unknown topic: code %d, %+v", code, got)
		}
		if got, code := c.committed(10, "absent", entry.UUID{99}, 0); code != 0 || got[0].code != 100 || got[0].offset != -1 {
			t.Errorf("an unknown topic id: code %d, %+v", code, got)
		}
	})
}

// Many groups in one request, each once.
func TestOffsetFetchOfManyGroups(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 2)
		s, _ := grouped(t, a)
		c := dial(t, s)
		c.commit(commitRequest(9, "t", id, 1, 5))
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version, req.RequireStable = 8, true
		for _, name := range []string{"g", "absent", "g", ""} {
			g := kmsg.NewOffsetFetchRequestGroup()
			g.Group = name
			g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{1, 0, 1}}}
			req.Groups = append(req.Groups, g)
		}
		res := ask[*kmsg.OffsetFetchResponse](c, req)
		var got []string
		for _, g := range res.Groups {
			line := fmt.Sprintf("%s %d", g.Group, g.ErrorCode)
			for _, t := range g.Topics {
				for _, p := range t.Partitions {
					line += fmt.Sprintf(" %d=%d/%d", p.Partition, p.Offset, p.ErrorCode)
				}
			}
			got = append(got, line)
		}
		if want := []string{"g 0 1=5/0 0=-1/0 1=-1/42", "absent 0 1=-1/0 0=-1/0 1=-1/0", "g 42", " 24"}; !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
}

// What another agent has taken is not missed: a fetch takes a barrier, and where that fails says so.
func TestOffsetFetchIsNeverOlderThanACommit(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a")
		id := a.topic("t", 1)
		s, _ := grouped(t, a)
		c := dial(t, s)
		c.commit(commitRequest(9, "t", id, 0, 5))
		a.with(func(a *agent) { a.behind = true })
		var epoch uint64
		slot := state.SlotOf("g")
		a.View(func(st *state.State) { epoch = st.Slot(slot).Epoch })
		if res := cl.commit(a.incarnation, &entry.CommitOffsets{Slot: uint32(slot), Epoch: epoch, Group: "g", Generation: -1,
			Offsets: []entry.GroupOffset{{Topic: id, Offset: 6, LeaderEpoch: -1, ExpireMs: -1}}}); res.Code != state.OK {
			t.Fatal(res.Code)
		}
		if got, code := c.committed(9, "t", id, 0); code != 0 || got[0].offset != 6 {
			t.Errorf("code %d, %+v", code, got)
		}
		a.with(func(a *agent) { a.barrierErr = errors.New("no answer") })
		for version := int16(1); version <= 10; version++ {
			got, code := c.committed(version, "t", id, 0)
			if version == 1 {
				code = got[0].code
			}
			if code != 14 { // COORDINATOR_LOAD_IN_PROGRESS
				t.Errorf("version %d without a barrier: code %d, %+v", version, code, got)
			}
		}
		a.with(func(a *agent) { a.barrierErr, a.behind, a.proposeErr = nil, false, errors.New("no answer") })
		if code := c.commit(commitRequest(9, "t", id, 0, 7)); code != 15 { // COORDINATOR_NOT_AVAILABLE
			t.Errorf("a commit of unknown outcome: code %d", code)
		}
	})
}

func TestGroupsAreLookedAt(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a")
		id := a.topic("t", 1)
		s, _ := grouped(t, a)
		c := dial(t, s)
		joined := c.join(5)
		simple := commitRequest(9, "t", id, 0, 5)
		simple.Group = "simple"
		c.commit(simple)

		list := func(version int16, states, types []string) (names []string) {
			t.Helper()
			req := kmsg.NewPtrListGroupsRequest()
			req.Version, req.StatesFilter, req.TypesFilter = version, states, types
			for _, g := range ask[*kmsg.ListGroupsResponse](c, req).Groups {
				names = append(names, strings.Join([]string{g.Group, g.ProtocolType, g.GroupState, g.GroupType}, "/"))
			}
			return names
		}
		for _, x := range []struct {
			version       int16
			states, types []string
			want          []string
		}{
			{0, nil, nil, []string{"g/consumer//", "simple///"}},
			{3, nil, nil, []string{"g/consumer//", "simple///"}},
			{4, nil, nil, []string{"g/consumer/CompletingRebalance/", "simple//Empty/"}},
			{5, []string{}, []string{}, []string{"g/consumer/CompletingRebalance/classic", "simple//Empty/classic"}},
			{4, []string{"empty", "Dead"}, nil, []string{"simple//Empty/"}},
			{5, []string{"completingrebalance"}, []string{"Classic"}, []string{"g/consumer/CompletingRebalance/classic"}},
			{5, nil, []string{"consumer"}, nil},
			{5, []string{"no such"}, nil, nil},
		} {
			if got := list(x.version, x.states, x.types); !slices.Equal(got, x.want) {
				t.Errorf("list %d %v %v: %q", x.version, x.states, x.types, got)
			}
		}
		describe := func(version int16, groups ...string) []kmsg.DescribeGroupsResponseGroup {
			t.Helper()
			req := kmsg.NewPtrDescribeGroupsRequest()
			req.Version, req.Groups, req.IncludeAuthorizedOperations = version, groups, true
			return ask[*kmsg.DescribeGroupsResponse](c, req).Groups
		}
		for version := int16(0); version <= 6; version++ {
			got := describe(version, "g", "simple", "absent", "g")
			if len(got) != 3 {
				t.Fatalf("version %d: %+v", version, got)
			}
			g, none := got[0], got[2]
			if g.ErrorCode != 0 || g.State != "CompletingRebalance" || g.ProtocolType != "consumer" || len(g.Members) != 1 || g.Members[0].MemberID != joined.MemberID ||
				g.Members[0].ClientHost == "" || len(g.Members[0].ProtocolMetadata) != 0 {
				t.Errorf("version %d: %+v", version, g)
			}
			if version >= 3 && g.AuthorizedOperations != 1<<3|1<<6|1<<8|1<<10|1<<11 {
				t.Errorf("version %d: operations %b", version, g.AuthorizedOperations)
			}
			if got[1].State != "Empty" || got[1].ErrorCode != 0 {
				t.Errorf("version %d: %+v", version, got[1])
			}
			if none.State != "Dead" || none.ErrorCode != 0 && version < 6 || version >= 6 && (none.ErrorCode != 69 || none.ErrorMessage == nil || *none.ErrorMessage == "") {
				t.Errorf("version %d: %+v", version, none)
			}
		}
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Version, sync.Group, sync.MemberID, sync.Generation = 3, "g", joined.MemberID, joined.Generation
		sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: joined.MemberID, MemberAssignment: []byte("partition 7")}}
		ask[*kmsg.SyncGroupResponse](c, sync)
		if g := describe(6, "g")[0]; g.State != "Stable" || g.Protocol != "range" || string(g.Members[0].MemberAssignment) != "partition 7" || len(g.Members[0].ProtocolMetadata) == 0 {
			t.Errorf("%+v", g)
		}
		// Another agent lists none of them, and describes none.
		other := dial(t, server(t, cl.join("b")))
		if got := ask[*kmsg.ListGroupsResponse](other, kmsg.NewPtrListGroupsRequest()); len(got.Groups) != 0 || got.ErrorCode != 0 {
			t.Errorf("%+v", got)
		}
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Version, req.Groups = 5, []string{"g"}
		if got := ask[*kmsg.DescribeGroupsResponse](other, req).Groups; got[0].ErrorCode != 16 {
			t.Errorf("%+v", got)
		}
		// Who is unsure what it coordinates says so, and no group seems to be gone.
		a.unsure.Store(true)
		if got := ask[*kmsg.ListGroupsResponse](c, kmsg.NewPtrListGroupsRequest()); got.ErrorCode != 15 || len(got.Groups) != 0 {
			t.Errorf("%+v", got)
		}
		a.unsure.Store(false)
	})
}

func TestGroupsAndOffsetsAreDeleted(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 2)
		s, _ := grouped(t, a)
		c := dial(t, s)
		deletion := func(group, topic string, partitions ...int32) *kmsg.OffsetDeleteResponse {
			req := kmsg.NewPtrOffsetDeleteRequest()
			req.Group = group
			rt := kmsg.NewOffsetDeleteRequestTopic()
			rt.Topic = topic
			for _, p := range partitions {
				rt.Partitions = append(rt.Partitions, kmsg.OffsetDeleteRequestTopicPartition{Partition: p})
			}
			req.Topics = append(req.Topics, rt)
			return ask[*kmsg.OffsetDeleteResponse](c, req)
		}
		if res := deletion("g", "t", 0); res.ErrorCode != 69 {
			t.Errorf("offsets of no group: %+v", res)
		}
		c.commit(commitRequest(9, "t", id, 0, 5))
		c.commit(commitRequest(9, "t", id, 1, 5))
		if res := deletion("g", "t", 0, 2, -1); res.ErrorCode != 0 || res.Topics[0].Partitions[0].ErrorCode != 0 || res.Topics[0].Partitions[1].ErrorCode != 3 || res.Topics[0].Partitions[2].ErrorCode != 3 {
			t.Errorf("%+v", res)
		}
		if res := deletion("g", "absent", 0); res.ErrorCode != 0 || res.Topics[0].Partitions[0].ErrorCode != 3 {
			t.Errorf("%+v", res)
		}
		if got, _ := c.committed(9, "t", id); len(got) != 1 || got[1].offset != 5 {
			t.Errorf("left: %+v", got)
		}
		joined := c.join(3)
		if res := deletion("g", "t", 1); res.ErrorCode != 68 { // its member does not say what it reads, in a form that is known
			t.Errorf("%+v", res)
		}
		remove := func(version int16, groups ...string) (codes []int16) {
			t.Helper()
			req := kmsg.NewPtrDeleteGroupsRequest()
			req.Version, req.Groups = version, groups
			for i, g := range ask[*kmsg.DeleteGroupsResponse](c, req).Groups {
				if g.Group != groups[i] {
					t.Errorf("%+v", g)
				}
				codes = append(codes, g.ErrorCode)
			}
			return codes
		}
		for version := int16(0); version <= 2; version++ {
			if codes := remove(version, "g", "absent", ""); !slices.Equal(codes, []int16{68, 69, 24}) {
				t.Errorf("version %d: %v", version, codes)
			}
		}
		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group, leave.MemberID = "g", joined.MemberID
		ask[*kmsg.LeaveGroupResponse](c, leave)
		if codes := remove(2, "g"); !slices.Equal(codes, []int16{0}) {
			t.Errorf("%v", codes)
		}
		if got, code := c.committed(9, "t", id); code != 0 || len(got) != 0 {
			t.Errorf("code %d, %+v", code, got)
		}
		a.with(func(a *agent) { a.barrierErr = errors.New("no answer") })
		if codes := remove(2, "g"); !slices.Equal(codes, []int16{15}) {
			t.Errorf("without a barrier: %v", codes)
		}
		if res := deletion("g", "t", 0); res.ErrorCode != 15 {
			t.Errorf("without a barrier: %+v", res)
		}
	})
}

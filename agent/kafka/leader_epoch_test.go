package kafka_test

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
)

// afterRestore is a cluster that was restored: offsets 0 to 2 of topic t are of leader epoch 0, 3 and 4 of epoch 2.
func afterRestore(t *testing.T) (*agent, entry.UUID, *client) {
	a := newCluster(t).join("a")
	id := a.topic("t", 1)
	c := dial(t, server(t, a))
	c.produce("t", 0, "x", "y", "z")
	a.commit(a.incarnation, &entry.NewLogEpoch{Epoch: 3})
	c.produce("t", 0, "v", "w")
	return a, id, c
}

func endOfEpoch(version int16, current, asked int32) *kmsg.OffsetForLeaderEpochRequest {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.Version, req.ReplicaID = version, -1
	rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
	rt.Topic = "t"
	rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	rp.CurrentLeaderEpoch, rp.LeaderEpoch = current, asked
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a, _, c := afterRestore(t)
		for _, tc := range []struct {
			current, asked int32
			code           int16
			epoch          int32
			end            int64
		}{
			{-1, 0, 0, 0, 3}, {2, 0, 0, 0, 3}, {2, 1, 0, 0, 3}, {2, 2, 0, 2, 5}, {2, 3, 0, -1, -1}, {2, -1, 0, -1, -1},
			{0, 0, 74, -1, -1}, {1, 0, 74, -1, -1}, {3, 0, 75, -1, -1},
		} {
			for version := int16(2); version <= 4; version++ {
				p := ask[*kmsg.OffsetForLeaderEpochResponse](c, endOfEpoch(version, tc.current, tc.asked)).Topics[0].Partitions[0]
				if p.ErrorCode != tc.code || p.LeaderEpoch != tc.epoch || p.EndOffset != tc.end {
					t.Errorf("version %d, current %d, epoch %d: code %d, epoch %d ends at %d; want %d, %d, %d", version, tc.current,
						tc.asked, p.ErrorCode, p.LeaderEpoch, p.EndOffset, tc.code, tc.epoch, tc.end)
				}
			}
		}
		req := endOfEpoch(3, 2, 0)
		for _, change := range []func(){
			func() { req.Topics[0].Partitions[0].Partition = 9 },
			func() { req.Topics[0].Partitions[0].Partition = -1 },
			func() { req.Topics[0].Topic, req.Topics[0].Partitions[0].Partition = "absent", 0 },
		} {
			change()
			if p := ask[*kmsg.OffsetForLeaderEpochResponse](c, req).Topics[0].Partitions[0]; p.ErrorCode != 3 || p.EndOffset != -1 {
				t.Errorf("%s partition %d: %+v", req.Topics[0].Topic, p.Partition, p)
			}
		}
		a.with(func(a *agent) { a.barrierErr = errors.New("no quorum") })
		if p := ask[*kmsg.OffsetForLeaderEpochResponse](c, endOfEpoch(2, 2, 2)).Topics[0].Partitions[0]; p.ErrorCode != 78 || p.EndOffset != -1 {
			t.Errorf("without a barrier: %+v", p)
		}
	})
}

// What an agent that trails does not know yet must not look like a truncation (H21).
func TestLeaderEpochsOfAnAgentBehind(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		id := a.topic("t", 1)
		b.with(func(b *agent) { b.behind = true })
		dial(t, server(t, a)).produce("t", 0, "x", "y")
		c := dial(t, server(t, b))
		req := fetchRequest(13, "", id, 0, 1)
		req.Topics[0].Partitions[0].LastFetchedEpoch = 0
		b.with(func(b *agent) { b.barrierErr = errors.New("no quorum") })
		if p := only(t, ask[*kmsg.FetchResponse](c, req)); p.ErrorCode != 78 || p.DivergingEpoch.EndOffset != -1 {
			t.Errorf("without a barrier: %+v", p)
		}
		b.with(func(b *agent) { b.barrierErr = nil })
		if p := only(t, ask[*kmsg.FetchResponse](c, req)); p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
			t.Errorf("with a barrier: %+v", p)
		}
		if p := ask[*kmsg.OffsetForLeaderEpochResponse](c, endOfEpoch(2, -1, 0)).Topics[0].Partitions[0]; p.EndOffset != 2 {
			t.Errorf("end %+v", p)
		}
	})
}

// A commit of a partition that was added is not refused by an agent that trails: a refused one is not tried again. The simulator found it.
func TestCommitsOfAPartitionThatAnAgentBehindDoesNotKnow(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		id := a.topic("t", 1)
		cl.coordinate(b)
		b.with(func(b *agent) { b.behind = true })
		if r := a.commit(a.incarnation, &entry.CreatePartitions{ID: id, Total: 2}); r.Code != 0 {
			t.Fatal(r.Code)
		}
		req, _ := groupRequests(t, id, "g")[0].(*kmsg.OffsetCommitRequest)
		req.Topics[0].Partitions[0].Partition, req.Generation = 1, -1
		res := ask[*kmsg.OffsetCommitResponse](dial(t, server(t, b)), req)
		if code := res.Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Errorf("code %d", code)
		}
	})
}

func TestFetchByLeaderEpoch(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a, id, c := afterRestore(t)
		for _, tc := range []struct {
			name          string
			current, last int32
			offset        int64
			code          int16
			epoch         int32 // that the logs part at, -1: they do not
			end           int64
		}{
			{"says nothing", -1, -1, 2, 0, -1, -1},
			{"current", 2, 0, 3, 0, -1, -1},
			{"behind", 0, 0, 2, 74, -1, -1},
			{"ahead", 3, 2, 2, 75, -1, -1},
			{"has read what was taken back", 2, 0, 4, 0, 0, 3},
			{"has read far beyond the end", 2, 0, 400, 0, 0, 3},
			{"has read in an epoch that gave nothing", 2, 1, 3, 0, 0, 3},
			{"has read to the end", 2, 2, 5, 0, -1, -1},
			{"an epoch of the future", 2, 7, 3, 1, -1, -1},
		} {
			for _, version := range []int16{12, 13, 17} {
				req := fetchRequest(version, "t", id, 0, tc.offset)
				p := &req.Topics[0].Partitions[0]
				p.CurrentLeaderEpoch, p.LastFetchedEpoch = tc.current, tc.last
				req.MaxWaitMillis = 1000
				start := time.Now()
				got := only(t, ask[*kmsg.FetchResponse](c, req))
				if got.ErrorCode != tc.code || got.DivergingEpoch.Epoch != tc.epoch || got.DivergingEpoch.EndOffset != tc.end {
					t.Errorf("%s, version %d: code %d, parts at %+v", tc.name, version, got.ErrorCode, got.DivergingEpoch)
				}
				parted := tc.end >= 0
				if parted && (len(got.RecordBatches) > 0 || time.Since(start) > 0) {
					t.Errorf("%s, version %d: %d bytes of records after %v", tc.name, version, len(got.RecordBatches), time.Since(start))
				}
				if tc.code == 0 && !parted && tc.offset < 5 && len(got.RecordBatches) == 0 {
					t.Errorf("%s, version %d: no records", tc.name, version)
				}
			}
		}
		// Before version 12 only the current epoch is told.
		req := fetchRequest(11, "t", id, 0, 4)
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = 0
		if got := only(t, ask[*kmsg.FetchResponse](c, req)); got.ErrorCode != 74 {
			t.Errorf("version 11, behind: code %d", got.ErrorCode)
		}
		// In a session it is told until the client has moved.
		req = fetchRequest(13, "t", id, 0, 4)
		req.SessionEpoch = 0
		req.Topics[0].Partitions[0].CurrentLeaderEpoch, req.Topics[0].Partitions[0].LastFetchedEpoch = 2, 0
		res := ask[*kmsg.FetchResponse](c, req)
		if only(t, res).DivergingEpoch.EndOffset != 3 {
			t.Errorf("session: %+v", res)
		}
		again := fetchRequest(13, "t", id, 0, 4)
		again.Topics, again.SessionID, again.SessionEpoch = nil, res.SessionID, 1
		if only(t, ask[*kmsg.FetchResponse](c, again)).DivergingEpoch.EndOffset != 3 {
			t.Error("session, again: it is not told where the logs part")
		}
		req.SessionID, req.SessionEpoch = res.SessionID, 2
		req.Topics[0].Partitions[0].FetchOffset = 3
		if got := only(t, ask[*kmsg.FetchResponse](c, req)); got.ErrorCode != 0 || len(got.RecordBatches) == 0 || got.DivergingEpoch.EndOffset != -1 {
			t.Errorf("session, after truncating: %+v", got)
		}
		_ = a
	})
}

func TestListOffsetsAndMetadataTellLeaderEpochs(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a, _, c := afterRestore(t)
		for _, tc := range []struct {
			at      int64
			current int32
			code    int16
			offset  int64
			epoch   int32
		}{
			{-1, 2, 0, 5, 2}, {-2, 2, 0, 0, 0}, {0, -1, 0, 0, 0}, {1 << 60, 2, 0, -1, -1}, {-1, 0, 74, -1, -1}, {-1, 3, 75, -1, -1},
		} {
			req := kmsg.NewPtrListOffsetsRequest()
			req.Version = 7
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Timestamp, rp.CurrentLeaderEpoch = tc.at, tc.current
			req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{rp}}}
			p := ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0]
			if p.ErrorCode != tc.code || p.Offset != tc.offset || p.LeaderEpoch != tc.epoch {
				t.Errorf("at %d, current %d: %+v", tc.at, tc.current, p)
			}
		}
		a.topic("young", 2)
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 9
		for _, topic := range ask[*kmsg.MetadataResponse](c, req).Topics {
			for _, p := range topic.Partitions {
				if p.LeaderEpoch != 2 {
					t.Errorf("%s partition %d: leader epoch %d", *topic.Topic, p.Partition, p.LeaderEpoch)
				}
			}
		}
	})
}

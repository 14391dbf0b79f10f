package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// OffsetForLeaderEpoch (23), versions 2 to 4. Consumers ask it after a leader epoch has risen, which it does when the
// metastore's log was restored from the bucket: whether what they read last is still there, and if not, where their log and
// this one part. Older versions are of followers, and of clients that do not say which epoch they take for the current one.

// offsetForLeaderEpoch answers from the state, after a barrier: an end that another agent has moved would look like a
// truncation.
func (s *Server) offsetForLeaderEpoch(ctx context.Context, req *kmsg.OffsetForLeaderEpochRequest) *kmsg.OffsetForLeaderEpochResponse {
	lagging := s.barrier(ctx)
	res := kmsg.NewPtrOffsetForLeaderEpochResponse()
	res.Version = req.Version
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		for j := range t.Partitions {
			p := &t.Partitions[j]
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, -1, -1
			code := codeOffsetNotAvailable // clients of any version ask again
			if lagging == nil {
				s.meta.View(func(st *state.State) { code = endOfEpoch(st, t.Topic, p, &rp) })
			}
			if rp.ErrorCode = int16(code); code != codeNone {
				s.cfg.Metrics.failed(keyOffsetForLeaderEpoch, code)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		res.Topics = append(res.Topics, rt)
	}
	return res
}

func endOfEpoch(
	st *state.State, name string, p *kmsg.OffsetForLeaderEpochRequestTopicPartition, rp *kmsg.OffsetForLeaderEpochResponseTopicPartition,
) errorCode {
	t := st.TopicByName(name)
	if t == nil || t.Partition(int(p.Partition)) == nil {
		return codeUnknownTopicOrPartition
	}
	part := t.Partition(int(p.Partition))
	if code := judgeLeaderEpoch(p.CurrentLeaderEpoch, part.LeaderEpoch()); code != codeNone {
		return code
	}
	rp.LeaderEpoch, rp.EndOffset = part.EpochEnd(p.LeaderEpoch)
	return codeNone
}

package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
)

// OffsetDelete (47), version 0: what a group committed for some partitions. Topics that a member reads are
// GROUP_SUBSCRIBED_TO_TOPIC; where members do not say what they read, any member is in the way (NON_EMPTY_GROUP). A partition of
// which nothing is committed is as the client wants it.

func (s *Server) offsetDelete(req *kmsg.OffsetDeleteRequest) *kmsg.OffsetDeleteResponse {
	ctx, cancel := s.detached()
	defer cancel()
	res := kmsg.NewPtrOffsetDeleteResponse()
	res.Version = req.Version
	refs := make([]topicRef, len(req.Topics))
	for i := range refs {
		refs[i].name = req.Topics[i].Topic
	}
	fail := func(code errorCode) *kmsg.OffsetDeleteResponse {
		res.ErrorCode, res.Topics = int16(code), nil
		s.cfg.Metrics.failed(keyOffsetDelete, code)
		return res
	}
	if s.barrier(ctx) != nil || s.findTopics(ctx, refs, false) != nil {
		return fail(codeCoordinatorNotAvailable)
	}
	var wanted []entry.GroupPartition
	var asked []*int16 // where the outcomes go
	res.Topics = make([]kmsg.OffsetDeleteResponseTopic, len(req.Topics))
	for i := range req.Topics {
		t, rt := &req.Topics[i], &res.Topics[i]
		*rt = kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p, rp := t.Partitions[j].Partition, &rt.Partitions[j]
			*rp = kmsg.NewOffsetDeleteResponseTopicPartition()
			rp.Partition = p
			if !refs[i].found || p < 0 || p >= refs[i].partitions {
				rp.ErrorCode = int16(codeUnknownTopicOrPartition)
				s.cfg.Metrics.failed(keyOffsetDelete, codeUnknownTopicOrPartition)
				continue
			}
			wanted = append(wanted, entry.GroupPartition{Topic: refs[i].id, Partition: uint32(p)})
			asked = append(asked, &rp.ErrorCode)
		}
	}
	outcomes, code := s.groups.DeleteOffsets(ctx, req.Group, wanted)
	if code != step.None {
		return fail(groupCode(code))
	}
	for i := range asked {
		if code := groupCode(outcomes[i]); code != codeNone {
			*asked[i] = int16(code)
			s.cfg.Metrics.failed(keyOffsetDelete, code)
		}
	}
	return res
}

package kafka

import (
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
)

// OffsetCommit (8), versions 2 to 10; with topic ids instead of names in 10. What comes behind it on its connection waits for
// it, as in Kafka: a client that commits and then asks what is committed must not hear of less. A partition that does not
// exist is found out here, after a barrier; who may commit is for the group's coordinator to say, and in the end for the
// state machine. Offsets and epochs below zero, which Kafka stores, are OFFSET_OUT_OF_RANGE: nobody could read on from there.

func (s *Server) offsetCommit(r *request, req *kmsg.OffsetCommitRequest) *kmsg.OffsetCommitResponse {
	ctx, cancel := s.detached()
	defer cancel()
	commit := group.Commit{Group: req.Group, Member: req.MemberID, Generation: req.Generation, Version: req.Version}
	if req.InstanceID != nil {
		commit.Instance = *req.InstanceID
	}
	byID := req.Version >= 10
	refs, partitions := make([]topicRef, len(req.Topics)), 0
	for i := range refs {
		partitions += len(req.Topics[i].Partitions)
		refs[i] = topicRef{name: req.Topics[i].Topic, id: req.Topics[i].TopicID}
		for _, p := range req.Topics[i].Partitions {
			refs[i].asked = max(refs[i].asked, p.Partition)
		}
	}
	all := codeNone
	if r.late { // an older commit must not come after a newer one
		all = codeCoordinatorNotAvailable
	} else if err := s.findTopics(ctx, refs, byID); err != nil {
		all = codeCoordinatorNotAvailable
	}
	expire := int64(-1)
	if req.Version < 5 && req.RetentionTimeMillis >= 0 {
		expire = min(time.Now().UnixMilli()+min(req.RetentionTimeMillis, entry.MaxClockMs), entry.MaxClockMs)
	}

	res := kmsg.NewPtrOffsetCommitResponse()
	res.Version = req.Version
	res.Topics = make([]kmsg.OffsetCommitResponseTopic, len(req.Topics))
	commit.Offsets = make([]entry.GroupOffset, 0, partitions)
	asked := make([]*int16, 0, partitions) // where the outcomes go
	for i := range req.Topics {
		t, rt := &req.Topics[i], &res.Topics[i]
		*rt = kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		rt.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p, rp := &t.Partitions[j], &rt.Partitions[j]
			*rp = kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition = p.Partition
			metadata := ""
			if p.Metadata != nil {
				metadata = strings.ToValidUTF8(*p.Metadata, "\uFFFD") // as Kafka reads it; the log carries nothing else
			}
			code := all
			switch {
			case code != codeNone:
			case !refs[i].found && byID:
				code = codeUnknownTopicID
			case !refs[i].found, p.Partition < 0, p.Partition >= refs[i].partitions:
				code = codeUnknownTopicOrPartition
			case len(metadata) > s.cfg.OffsetMetadataMax:
				code = codeOffsetMetadataTooLarge
			case p.Offset < 0, p.LeaderEpoch < -1:
				code = codeOffsetOutOfRange
			default:
				commit.Offsets = append(commit.Offsets, entry.GroupOffset{
					Topic: refs[i].id, Partition: uint32(p.Partition), Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: metadata, ExpireMs: expire,
				})
				asked = append(asked, &rp.ErrorCode)
			}
			rp.ErrorCode = int16(code)
		}
	}
	if len(commit.Offsets) > 0 {
		outcomes, code := s.groups.CommitOffsets(ctx, &commit)
		for i := range asked {
			c := commitCode(code, req.Version)
			if code == step.None {
				c = groupCode(outcomes[i])
			}
			if c == codeUnknownTopicOrPartition && byID {
				c = codeUnknownTopicID
			}
			*asked[i] = int16(c)
		}
	}
	for i := range res.Topics {
		for j := range res.Topics[i].Partitions {
			if code := errorCode(res.Topics[i].Partitions[j].ErrorCode); code != codeNone {
				s.cfg.Metrics.failed(keyOffsetCommit, code)
			}
		}
	}
	return res
}

// commitCode is a group's code as clients of a version know it.
func commitCode(code step.Code, version int16) errorCode {
	switch {
	case code == step.GroupIDNotFound && version < 9:
		return codeIllegalGeneration
	case code == step.StaleMemberEpoch && version < 9: // a member of the new protocol speaks 9 at least
		return codeUnsupportedVersion
	}
	return groupCode(code)
}

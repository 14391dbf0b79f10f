package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// DescribeTopicPartitions (75), version 0: Metadata in pages. Topics come in order of their names, whatever the order in
// which they were asked for, and the cursor of one page is where the next one starts.

// partitionsPerPage bounds the partitions of an answer whatever the client asks for.
const partitionsPerPage = 2000

func (s *Server) describeTopicPartitions(
	ctx context.Context, who audience, req *kmsg.DescribeTopicPartitionsRequest,
) *kmsg.DescribeTopicPartitionsResponse {
	res := kmsg.NewPtrDescribeTopicPartitionsResponse()
	res.Version = req.Version
	from, firstPartition := "", int32(0)
	if c := req.Cursor; c != nil {
		named := func(t kmsg.DescribeTopicPartitionsRequestTopic) bool { return t.Topic == c.Topic }
		// The protocol has a place for the code at each topic only.
		if c.Partition < 0 || len(req.Topics) > 0 && !slices.ContainsFunc(req.Topics, named) {
			for i := range req.Topics {
				rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
				rt.Topic, rt.ErrorCode = &req.Topics[i].Topic, int16(codeInvalidRequest)
				res.Topics = append(res.Topics, rt)
			}
			s.cfg.Metrics.failed(keyDescribeTopicPartitions, codeInvalidRequest)
			return res
		}
		from, firstPartition = c.Topic, c.Partition
	}
	var topics []metadataTopic
	if len(req.Topics) == 0 {
		if err := s.barrier(ctx); err != nil { // as with Metadata, what is known is better than nothing
			s.cfg.Logger.Debug("describing topics without a barrier", "error", err)
		}
		s.meta.View(func(st *state.State) {
			for t := range st.Topics() {
				if t.Name >= from {
					topics = append(topics, metadataTopic{name: t.Name, id: t.ID, view: viewTopicEpochs(st, t)})
				}
			}
		})
	} else {
		for i := range req.Topics {
			if name := req.Topics[i].Topic; name >= from {
				topics = append(topics, metadataTopic{name: name})
			}
		}
		slices.SortFunc(topics, func(a, b metadataTopic) int { return strings.Compare(a.name, b.name) })
		topics = slices.CompactFunc(topics, func(a, b metadataTopic) bool { return a.name == b.name })
		_ = s.lookUpTopics(ctx, topics) // its failure is in the codes
	}
	var nodes []node
	s.meta.View(func(st *state.State) { nodes = who.nodes(st) })

	room := min(max(req.ResponsePartitionLimit, 1), partitionsPerPage)
	for i := range topics {
		m := &topics[i]
		if room == 0 {
			res.NextCursor = cursorAt(m.name, 0)
			break
		}
		rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
		rt.Topic, rt.TopicID, rt.ErrorCode = &m.name, m.id, int16(m.code)
		first := int32(0)
		if m.name == from {
			first = firstPartition
		}
		switch {
		case m.code != codeNone:
			s.cfg.Metrics.failed(keyDescribeTopicPartitions, m.code)
		case first < m.view.partitions:
			rt.AuthorizedOperations = topicOperations
			end := min(first+min(room, m.view.partitions-first), m.view.partitions)
			for p := first; p < end; p++ {
				rt.Partitions = append(rt.Partitions, s.describedPartition(m, p, nodes, who.zone))
			}
			room -= end - first
			if end < m.view.partitions {
				res.NextCursor = cursorAt(m.name, end)
			}
		default:
			rt.AuthorizedOperations = topicOperations
		}
		res.Topics = append(res.Topics, rt)
		if res.NextCursor != nil {
			break
		}
	}
	return res
}

func cursorAt(topic string, partition int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = topic, partition
	return &c
}

func (s *Server) describedPartition(
	m *metadataTopic, p int32, nodes []node, zone string,
) kmsg.DescribeTopicPartitionsResponseTopicPartition {
	rp := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
	rp.Partition, rp.LeaderEpoch = p, m.view.leaderEpoch(p)
	rp.LeaderID, rp.Replicas = m.view.replicas(p, nodes, zone)
	rp.ISR = rp.Replicas
	// There is no replica that lags behind: none is eligible beyond those in sync. Empty, as Kafka has it, not null.
	rp.EligibleLeaderReplicas, rp.LastKnownELR = []int32{}, []int32{}
	if rp.LeaderID < 0 {
		rp.ErrorCode = int16(codeLeaderNotAvailable)
	}
	return rp
}

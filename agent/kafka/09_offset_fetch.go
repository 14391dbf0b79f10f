package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// OffsetFetch (9), versions 1 to 10: one group up to 7, many from 8 on, topic ids instead of names in 10. No topics given (null,
// from 2 on) means all. A barrier is taken first, so that no answer is older than a commit that anybody has acknowledged. A
// group that does not exist has committed nothing, and that is no error: clients take GROUP_ID_NOT_FOUND for fatal. There are
// no transactions, so every offset is stable.

// notLoaded is the code by which clients of OffsetFetch ask again; of others some take any for fatal.
const notLoaded = codeCoordinatorLoading

func (s *Server) offsetFetch(ctx context.Context, req *kmsg.OffsetFetchRequest) *kmsg.OffsetFetchResponse {
	lagging := s.barrier(ctx)
	res := kmsg.NewPtrOffsetFetchResponse()
	res.Version = req.Version
	if req.Version >= 8 {
		seen := make(map[string]bool, len(req.Groups))
		for i := range req.Groups {
			g := &req.Groups[i]
			if seen[g.Group] { // what is told of a group is many times its name
				twice := kmsg.NewOffsetFetchResponseGroup()
				twice.Group, twice.ErrorCode = g.Group, int16(codeInvalidRequest)
				s.cfg.Metrics.failed(keyOffsetFetch, codeInvalidRequest)
				res.Groups = append(res.Groups, twice)
				continue
			}
			seen[g.Group] = true
			res.Groups = append(res.Groups, s.fetchGroup(g, req.Version, lagging))
		}
		return res
	}
	asked := kmsg.NewOffsetFetchRequestGroup()
	asked.Group = req.Group
	if req.Topics != nil || req.Version < 2 {
		asked.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, 0, len(req.Topics))
	}
	for i := range req.Topics {
		asked.Topics = append(asked.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: req.Topics[i].Topic, Partitions: req.Topics[i].Partitions})
	}
	g := s.fetchGroup(&asked, req.Version, lagging)
	if res.ErrorCode = g.ErrorCode; req.Version < 2 && g.ErrorCode != 0 { // there is no place for it but the partitions
		g.Topics = unanswered(&asked, g.ErrorCode)
	}
	for i := range g.Topics {
		t := kmsg.NewOffsetFetchResponseTopic()
		t.Topic = g.Topics[i].Topic
		t.Partitions = make([]kmsg.OffsetFetchResponseTopicPartition, 0, len(g.Topics[i].Partitions))
		for _, p := range g.Topics[i].Partitions {
			t.Partitions = append(t.Partitions, kmsg.OffsetFetchResponseTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode,
			})
		}
		res.Topics = append(res.Topics, t)
	}
	return res
}

// unanswered has a code for every partition.
func unanswered(asked *kmsg.OffsetFetchRequestGroup, code int16) []kmsg.OffsetFetchResponseGroupTopic {
	list := make([]kmsg.OffsetFetchResponseGroupTopic, 0, len(asked.Topics))
	for i := range asked.Topics {
		t := kmsg.NewOffsetFetchResponseGroupTopic()
		t.Topic = asked.Topics[i].Topic
		for _, partition := range asked.Topics[i].Partitions {
			p := committedNothing(partition)
			p.ErrorCode = code
			t.Partitions = append(t.Partitions, p)
		}
		list = append(list, t)
	}
	return list
}

// fetchGroup answers for one group.
func (s *Server) fetchGroup(asked *kmsg.OffsetFetchRequestGroup, version int16, lagging error) kmsg.OffsetFetchResponseGroup {
	g := kmsg.NewOffsetFetchResponseGroup()
	g.Group = asked.Group
	member := ""
	if asked.MemberID != nil {
		member = *asked.MemberID
	}
	code := notLoaded
	if lagging == nil {
		code = fetchCode(s.groups.CheckFetch(asked.Group, member, asked.MemberEpoch))
	}
	if code != codeNone {
		g.ErrorCode = int16(code)
		s.cfg.Metrics.failed(keyOffsetFetch, code)
		return g
	}
	s.meta.View(func(st *state.State) {
		if asked.Topics == nil {
			g.Topics = allCommitted(st, st.Group(asked.Group))
			return
		}
		of := st.Group(asked.Group)
		seen := make(map[place]bool)
		g.Topics = make([]kmsg.OffsetFetchResponseGroupTopic, 0, len(asked.Topics))
		for i := range asked.Topics {
			g.Topics = append(g.Topics, s.fetchTopic(st, of, &asked.Topics[i], version, seen))
		}
	})
	return g
}

// fetchCode is a group's code as clients of OffsetFetch know it.
func fetchCode(code step.Code) errorCode {
	switch code {
	case step.GroupIDNotFound:
		return codeNone
	case step.NotAvailable:
		return notLoaded
	}
	return groupCode(code)
}

// place is a partition of a topic.
type place struct {
	topic     entry.UUID
	partition int32
}

// fetchTopic answers for one topic. A name that is nobody's has no offsets; an id that is nobody's is an error. A partition that
// was seen is not answered again.
func (s *Server) fetchTopic(
	st *state.State, of *state.Group, asked *kmsg.OffsetFetchRequestGroupTopic, version int16, seen map[place]bool,
) kmsg.OffsetFetchResponseGroupTopic {
	t := kmsg.NewOffsetFetchResponseGroupTopic()
	t.Topic, t.TopicID = asked.Topic, asked.TopicID
	id, unknown := entry.UUID(asked.TopicID), false
	if version >= 10 {
		unknown = st.TopicByID(id) == nil
	} else if have := st.TopicByName(asked.Topic); have != nil {
		id = have.ID
	}
	t.Partitions = make([]kmsg.OffsetFetchResponseGroupTopicPartition, 0, len(asked.Partitions))
	for _, partition := range asked.Partitions {
		p := committedNothing(partition)
		if unknown {
			p.ErrorCode = int16(codeUnknownTopicID)
			s.cfg.Metrics.failed(keyOffsetFetch, codeUnknownTopicID)
		} else if of != nil {
			if o, ok := of.Offset(id, partition); ok && seen[place{id, partition}] {
				p.ErrorCode = int16(codeInvalidRequest)
				s.cfg.Metrics.failed(keyOffsetFetch, codeInvalidRequest)
			} else if ok {
				p = committed(&o)
				seen[place{id, partition}] = true
			}
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t
}

// allCommitted is everything that a group has committed.
func allCommitted(st *state.State, g *state.Group) []kmsg.OffsetFetchResponseGroupTopic {
	list := []kmsg.OffsetFetchResponseGroupTopic{}
	if g == nil {
		return list
	}
	for o := range g.Offsets() {
		if n := len(list); n == 0 || list[n-1].TopicID != o.Topic {
			t := kmsg.NewOffsetFetchResponseGroupTopic()
			t.TopicID = o.Topic
			if have := st.TopicByID(o.Topic); have != nil {
				t.Topic = have.Name
			}
			list = append(list, t)
		}
		t := &list[len(list)-1]
		t.Partitions = append(t.Partitions, committed(&o))
	}
	return list
}

func committed(o *state.Offset) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = o.Partition, o.Offset, o.LeaderEpoch, &o.Metadata
	return p
}

func committedNothing(partition int32) kmsg.OffsetFetchResponseGroupTopicPartition {
	nothing := ""
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = partition, -1, -1, &nothing
	return p
}

package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// ConsumerGroupDescribe (69), versions 0 and 1; from 1 on with what protocol each member speaks. Groups of the classic protocol are not
// found here: clients ask DescribeGroups then.
func (s *Server) consumerGroupDescribe(ctx context.Context, req *kmsg.ConsumerGroupDescribeRequest) (reply, error) {
	res := kmsg.NewPtrConsumerGroupDescribeResponse()
	res.Version = req.Version
	for _, id := range req.Groups {
		d, code, err := s.groups.DescribeConsumer(ctx, id)
		if err != nil {
			return reply{}, err
		}
		g := kmsg.NewConsumerGroupDescribeResponseGroup()
		g.Group, g.ErrorCode = id, s.groupCode(keyConsumerGroupDescribe, code)
		switch code {
		case step.None:
			s.describeConsumerGroup(&g, &d)
		case step.GroupIDNotFound:
			g.ErrorMessage = orNull(fmt.Sprintf("Group %s is not a consumer group.", id))
		}
		res.Groups = append(res.Groups, g)
	}
	return say(res), nil
}

func (s *Server) describeConsumerGroup(g *kmsg.ConsumerGroupDescribeResponseGroup, d *consumer.Description) {
	g.State, g.Epoch, g.AssignmentEpoch, g.AssignorName = d.State, d.Epoch, d.TargetEpoch, d.Assignor
	names := make(map[entry.UUID]string)
	s.meta.View(func(st *state.State) {
		for i := range d.Members {
			for _, a := range [...]consumer.Assignment{d.Members[i].Assigned, d.Members[i].Target} {
				for _, tp := range a {
					if t := st.TopicByID(tp.Topic); t != nil {
						names[tp.Topic] = t.Name
					}
				}
			}
		}
	})
	assignment := func(a consumer.Assignment) (out kmsg.Assignment) {
		for _, tp := range a {
			if name, ok := names[tp.Topic]; ok { // else it was deleted
				t := kmsg.NewAssignmentTopicPartition()
				t.TopicID, t.Topic, t.Partitions = tp.Topic, name, tp.Partitions
				out.TopicPartitions = append(out.TopicPartitions, t)
			}
		}
		return out
	}
	for i := range d.Members {
		of := &d.Members[i]
		m := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		m.MemberID, m.InstanceID, m.RackID, m.MemberEpoch = of.ID, orNull(of.Instance), orNull(of.Rack), of.Epoch
		m.ClientID, m.ClientHost = of.ClientID, of.ClientHost
		m.SubscribedTopics, m.SubscribedTopicRegex = of.Names, orNull(of.Regex)
		m.Assignment, m.TargetAssignment = assignment(of.Assigned), assignment(of.Target)
		if m.MemberType = 1; of.Classic {
			m.MemberType = 0
		}
		g.Members = append(g.Members, m)
	}
}

package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
)

// ConsumerGroupHeartbeat (68), versions 0 and 1 (KIP-848): a member joins (epoch 0), leaves (-1; -2: a static one that will be back),
// or says that it lives and what it has, and is told what it is to have. From 1 on members bring ids of their own and may
// subscribe by a regular expression.
func (s *Server) consumerGroupHeartbeat(ctx context.Context, r *request, req *kmsg.ConsumerGroupHeartbeatRequest) (reply, error) {
	h := consumer.Heartbeat{
		Version: req.Version, MemberID: req.MemberID, MemberEpoch: req.MemberEpoch, ClientID: r.clientID, ClientHost: r.conn.host(),
		Instance: req.InstanceID, Rack: req.RackID, RebalanceMs: req.RebalanceTimeoutMillis, Names: req.SubscribedTopicNames,
		Regex: req.SubscribedTopicRegex, Assignor: req.ServerAssignor,
	}
	if req.Topics != nil {
		h.Owned = make([]consumer.TopicPartitions, len(req.Topics))
		for i := range req.Topics {
			h.Owned[i] = consumer.TopicPartitions{Topic: req.Topics[i].TopicID, Partitions: req.Topics[i].Partitions}
		}
	}
	if h.MemberEpoch == 0 && ctx.Err() == nil {
		// A topic that was made by way of another agent a moment ago should be there. Where there is no telling, it will be at
		// one of the next heartbeats.
		_ = s.meta.Barrier(ctx)
	}
	answer, code, err := s.groups.ConsumerHeartbeat(ctx, req.Group, h)
	if err != nil {
		return reply{}, err
	}
	res := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	res.Version, res.ErrorCode = req.Version, s.groupCode(keyConsumerGroupHeartbeat, code)
	if code != step.None {
		res.ErrorMessage = orNull(answer.Message)
		return say(res), nil
	}
	res.MemberID, res.MemberEpoch, res.HeartbeatIntervalMillis = &answer.MemberID, answer.MemberEpoch, int32(answer.Interval.Milliseconds())
	if answer.Assigned {
		a := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
		for _, tp := range answer.Assignment {
			t := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
			t.TopicID, t.Partitions = tp.Topic, tp.Partitions
			a.Topics = append(a.Topics, t)
		}
		res.Assignment = &a
	}
	return say(res), nil
}

package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/step"
)

// DescribeGroups (15), versions 0 to 6: groups of the classic protocol, and those that only have offsets. One that is not there is
// described as Dead, from 6 on with GROUP_ID_NOT_FOUND; so is one of the new protocol, which ConsumerGroupDescribe describes.
// A member's metadata is told while the group is stable, as in Kafka.

const stateDead = "Dead"

func (s *Server) describeGroups(ctx context.Context, req *kmsg.DescribeGroupsRequest) *kmsg.DescribeGroupsResponse {
	if err := s.barrier(ctx); err != nil { // what is not known yet is told as not being there
		s.cfg.Logger.Debug("describing groups without a barrier", "error", err)
	}
	res := kmsg.NewPtrDescribeGroupsResponse()
	res.Version = req.Version
	seen := make(map[string]bool, len(req.Groups))
	for _, id := range req.Groups { // each once: what is told of a group is many times its name
		if !seen[id] {
			res.Groups = append(res.Groups, s.describeGroup(id, req))
			seen[id] = true
		}
	}
	return res
}

func (s *Server) describeGroup(id string, req *kmsg.DescribeGroupsRequest) kmsg.DescribeGroupsResponseGroup {
	g := kmsg.NewDescribeGroupsResponseGroup()
	g.Group = id
	d, code := s.groups.Describe(id)
	switch {
	case code == step.GroupIDNotFound && req.Version < 6:
		g.State, g.AuthorizedOperations = stateDead, operations(req.IncludeAuthorizedOperations, groupOperations)
		return g
	case code == step.GroupIDNotFound:
		why := fmt.Sprintf("Group %s not found.", id)
		g.State, g.ErrorMessage = stateDead, &why
	}
	if code != step.None {
		g.ErrorCode = int16(code)
		s.cfg.Metrics.failed(keyDescribeGroups, groupCode(code))
		return g
	}
	g.State, g.ProtocolType, g.Protocol = d.State, d.ProtocolType, d.Protocol
	g.AuthorizedOperations = operations(req.IncludeAuthorizedOperations, groupOperations)
	for i := range d.Members {
		m := kmsg.NewDescribeGroupsResponseGroupMember()
		of := &d.Members[i]
		m.MemberID, m.ClientID, m.ClientHost = of.ID, of.ClientID, of.Host
		if of.InstanceID != "" {
			m.InstanceID = &of.InstanceID
		}
		m.ProtocolMetadata, m.MemberAssignment = of.Metadata, of.Assignment
		g.Members = append(g.Members, m)
	}
	return g
}

package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// LeaveGroup (13), versions 0 to 5; from 3 on of many members at once, each with a code of its own. Before that there is one
// member, and its code is the answer's.
func (s *Server) leaveGroup(ctx context.Context, _ *request, req *kmsg.LeaveGroupRequest) (reply, error) {
	members := []classic.LeaveRequest{{MemberID: req.MemberID}}
	if req.Version >= 3 {
		members = make([]classic.LeaveRequest, len(req.Members))
		for i := range req.Members {
			m := &req.Members[i]
			members[i] = classic.LeaveRequest{MemberID: m.MemberID, InstanceID: orEmpty(m.InstanceID), Reason: orEmpty(m.Reason)}
		}
	}
	codes, code, err := s.groups.Leave(ctx, req.Group, members)
	if err != nil {
		return reply{}, err
	}
	if code == step.None && req.Version < 3 {
		code = codes[0]
	}
	res := kmsg.NewPtrLeaveGroupResponse()
	res.Version, res.ErrorCode = req.Version, s.groupCode(keyLeaveGroup, code)
	if code != step.None || req.Version < 3 {
		return say(res), nil
	}
	for i := range req.Members {
		m := kmsg.NewLeaveGroupResponseMember()
		m.MemberID, m.InstanceID, m.ErrorCode = req.Members[i].MemberID, req.Members[i].InstanceID, s.groupCode(keyLeaveGroup, codes[i])
		res.Members = append(res.Members, m)
	}
	return say(res), nil
}

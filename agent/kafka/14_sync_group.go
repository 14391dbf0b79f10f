package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// SyncGroup (14), versions 0 to 5; from 5 on the member says which protocol it believes to be in force.
func (s *Server) syncGroup(ctx context.Context, r *request, req *kmsg.SyncGroupRequest) (reply, error) {
	res := kmsg.NewPtrSyncGroupResponse()
	res.Version = req.Version
	if req.Version >= 5 && (orEmpty(req.ProtocolType) == "" || orEmpty(req.Protocol) == "") {
		res.ErrorCode = s.groupCode(keySyncGroup, step.InconsistentProtocol)
		return say(res), nil
	}
	sync := classic.SyncRequest{
		MemberID: req.MemberID, InstanceID: orEmpty(req.InstanceID), Generation: req.Generation,
		ProtocolType: orEmpty(req.ProtocolType), Protocol: orEmpty(req.Protocol),
	}
	if len(req.GroupAssignment) > 0 {
		sync.Assignments = make(map[string][]byte, len(req.GroupAssignment))
		for i := range req.GroupAssignment {
			sync.Assignments[req.GroupAssignment[i].MemberID] = req.GroupAssignment[i].MemberAssignment
		}
	}
	group := req.Group
	var synced *classic.Synced
	code := step.NotAvailable
	crowded, err := s.leisurely(ctx, r, func(ctx context.Context) (int, error) {
		sy, c, err := s.groups.Sync(ctx, group, sync)
		if err != nil {
			return 0, err
		}
		if synced, code = sy, c; sy == nil {
			return 0, nil
		}
		return len(sy.Assignment), nil
	})
	if err != nil {
		return reply{}, err
	}
	if crowded {
		code = step.NotAvailable
	}
	if res.ErrorCode = s.groupCode(keySyncGroup, code); code == step.None && synced != nil {
		res.ProtocolType, res.Protocol, res.MemberAssignment = &synced.ProtocolType, &synced.Protocol, synced.Assignment
	}
	return say(res), nil
}

package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Heartbeat (12), versions 0 to 4.
func (s *Server) heartbeat(ctx context.Context, _ *request, req *kmsg.HeartbeatRequest) (reply, error) {
	code, err := s.groups.Heartbeat(ctx, req.Group, req.MemberID, orEmpty(req.InstanceID), req.Generation)
	if err != nil {
		return reply{}, err
	}
	res := kmsg.NewPtrHeartbeatResponse()
	res.Version, res.ErrorCode = req.Version, s.groupCode(keyHeartbeat, code)
	return say(res), nil
}

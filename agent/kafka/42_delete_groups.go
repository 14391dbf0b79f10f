package kafka

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteGroups (42), versions 0 to 2: groups without members, with all that they committed. Each is one op.

func (s *Server) deleteGroups(req *kmsg.DeleteGroupsRequest) *kmsg.DeleteGroupsResponse {
	ctx, cancel := s.detached()
	defer cancel()
	lagging := s.barrier(ctx)
	res := kmsg.NewPtrDeleteGroupsResponse()
	res.Version = req.Version
	res.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(req.Groups))
	slots := make(chan struct{}, deletionsMax)
	var wg sync.WaitGroup
	for i, id := range req.Groups {
		g := &res.Groups[i]
		*g = kmsg.NewDeleteGroupsResponseGroup()
		g.Group = id
		if lagging != nil {
			g.ErrorCode = int16(codeCoordinatorNotAvailable)
			s.cfg.Metrics.failed(keyDeleteGroups, codeCoordinatorNotAvailable)
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if code := groupCode(s.groups.DeleteGroup(ctx, id)); code != codeNone {
				g.ErrorCode = int16(code)
				s.cfg.Metrics.failed(keyDeleteGroups, code)
			}
		})
	}
	wg.Wait()
	return res
}

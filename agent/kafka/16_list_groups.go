package kafka

import "github.com/twmb/franz-go/pkg/kmsg"

// ListGroups (16), versions 0 to 5. There are no groups yet, whatever the filters ask for, and that is no error: tools list
// groups before they do anything else.
func (s *Server) listGroups(req *kmsg.ListGroupsRequest) *kmsg.ListGroupsResponse {
	res := kmsg.NewPtrListGroupsResponse()
	res.Version = req.Version
	return res
}

package kafka

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/step"
)

// ListGroups (16), versions 0 to 5: the groups that this agent coordinates, so that a list put together from all agents has each
// once. An agent that is unsure which those are says so, as Kafka does: what is missing from a list would be taken for deleted. Filters
// of states (from 4 on) and of types (5) do not mind case, and take what is no state or type for one that no group has.
func (s *Server) listGroups(req *kmsg.ListGroupsRequest) *kmsg.ListGroupsResponse {
	res := kmsg.NewPtrListGroupsResponse()
	res.Version = req.Version
	list, code := s.groups.List()
	if res.ErrorCode = s.groupCode(keyListGroups, code); code != step.None {
		return res
	}
	for i := range list {
		l := &list[i]
		if !amongWords(req.StatesFilter, l.State) || !amongWords(req.TypesFilter, l.Type) {
			continue
		}
		g := kmsg.NewListGroupsResponseGroup()
		g.Group, g.ProtocolType, g.GroupState, g.GroupType = l.ID, l.ProtocolType, l.State, l.Type
		res.Groups = append(res.Groups, g)
	}
	return res
}

// amongWords reports whether a filter lets a word through; an empty one lets all.
func amongWords(filter []string, word string) bool {
	for _, f := range filter {
		if strings.EqualFold(f, word) {
			return true
		}
	}
	return len(filter) == 0
}

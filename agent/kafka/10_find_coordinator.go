package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// FindCoordinator (10), versions 0 to 6; from 4 on many keys at once. A group's coordinator is the live agent that owns its
// slot; while nobody does, clients ask again. So they do, of another agent where they can, where it would be this one and it is cut
// off from the log: it answers no member, and who was sent here would come straight back. Behind a load balancer the coordinator is always
// that: a client told otherwise would ask again over the same connection, to this agent. Transactions have none: TRANSACTIONAL_ID_AUTHORIZATION_FAILED ends the client's attempt.

// Types of coordinator.
const (
	ofGroup       = 0
	ofTransaction = 1
	ofShare       = 2
)

func (s *Server) findCoordinator(who audience, req *kmsg.FindCoordinatorRequest) *kmsg.FindCoordinatorResponse {
	var nodes []node
	s.meta.View(func(st *state.State) { nodes = who.nodes(st) })
	res := kmsg.NewPtrFindCoordinatorResponse()
	res.Version = req.Version
	keys := req.CoordinatorKeys
	if req.Version < 4 {
		keys = []string{req.CoordinatorKey}
	}
	for _, key := range keys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Port = key, -1, -1
		code, why := codeNone, ""
		switch req.CoordinatorType {
		case ofGroup:
			owner, _ := s.groups.OwnerOf(key)
			owner = who.self(owner)
			if i := slices.IndexFunc(nodes, func(n node) bool { return n.id == owner }); i >= 0 {
				c.NodeID, c.Host, c.Port = nodes[i].id, nodes[i].host, nodes[i].port
			} else {
				code, why = codeCoordinatorNotAvailable, "no agent coordinates the group at the moment"
			}
		case ofTransaction:
			code, why = codeTransactionalIDDenied, whyNoTransactions
		case ofShare:
			code, why = codeInvalidRequest, "this cluster does not serve share groups"
		default:
			code, why = codeInvalidRequest, "no such type of coordinator"
		}
		if c.ErrorCode = int16(code); code != codeNone {
			c.ErrorMessage = &why
			s.cfg.Metrics.failed(keyFindCoordinator, code)
		}
		res.Coordinators = append(res.Coordinators, c)
	}
	if req.Version < 4 {
		c := &res.Coordinators[0]
		res.ErrorCode, res.ErrorMessage, res.NodeID, res.Host, res.Port = c.ErrorCode, c.ErrorMessage, c.NodeID, c.Host, c.Port
	}
	return res
}

package kafka

import (
	"context"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Offsets is what the protocol needs of group.Coordinator for committed offsets, and for looking at groups. Its methods return
// step.NotCoordinator for groups of others.
type Offsets interface {
	// CommitOffsets returns when the commit is applied here, with an outcome for each offset where the code is step.None.
	CommitOffsets(ctx context.Context, c *group.Commit) ([]step.Code, step.Code)
	// CheckFetch says whether a member, or nobody (empty, below 0), may read what the group committed.
	CheckFetch(id, member string, epoch int32) step.Code
	// DeleteOffsets deletes what the group committed, but for topics that a member reads: those are step.GroupSubscribedToTopic
	// among the outcomes.
	DeleteOffsets(ctx context.Context, id string, partitions []entry.GroupPartition) ([]step.Code, step.Code)
	// DeleteGroup deletes a group without members.
	DeleteGroup(ctx context.Context, id string) step.Code
	// Describe is step.GroupIDNotFound for a group of another protocol, too.
	Describe(id string) (group.Description, step.Code)
	// List lists the groups that this agent coordinates; some may be missing where the code is step.NotAvailable.
	List() ([]group.Listing, step.Code)
}

// groupCode is a group's code as the protocol has it: the numbers are the same.
func groupCode(c step.Code) errorCode { return errorCode(c) }

// detached is a context for what is done although the client that asked for it has hung up, as in Kafka, but not although the server has
// closed.
func (s *Server) detached() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.serving, s.cfg.BarrierTimeout)
}

// topicRef is a topic that a request names by its name or its id.
type topicRef struct {
	name       string
	id         entry.UUID
	partitions int32
	found      bool
	asked      int32 // the highest partition that is asked for
}

// findTopics looks topics up, with a barrier where one is missing, or a partition of it: this agent may not know yet. An error says that nobody can tell yet.
func (s *Server) findTopics(ctx context.Context, refs []topicRef, byID bool) error {
	return s.fresh(ctx, func(st *state.State) (complete bool) {
		complete = true
		for i := range refs {
			r := &refs[i]
			var t *state.Topic
			if byID {
				t = st.TopicByID(r.id)
			} else {
				t = st.TopicByName(r.name)
			}
			if r.found = t != nil; !r.found {
				complete = false
				continue
			}
			r.name, r.id, r.partitions = t.Name, t.ID, int32(t.Partitions())
			complete = complete && r.asked < r.partitions
		}
		return complete
	})
}

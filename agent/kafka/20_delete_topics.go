package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// DeleteTopics (20), versions 1 to 6; from 6 on by name or id. A topic under an object lock is deleted once nothing is left of
// it: see locked.
func (s *Server) deleteTopics(ctx context.Context, req *kmsg.DeleteTopicsRequest) *kmsg.DeleteTopicsResponse {
	ctx, cancel := s.adminTime(ctx, req.TimeoutMillis)
	defer cancel()
	var topics []metadataTopic
	for _, name := range req.TopicNames {
		topics = append(topics, metadataTopic{name: name})
	}
	both := make(map[int]bool) // named by name and id at once
	for i, t := range req.Topics {
		if t.Topic != nil {
			topics = append(topics, metadataTopic{name: *t.Topic})
			both[i] = t.TopicID != [16]byte{}
		} else {
			topics = append(topics, metadataTopic{id: t.TopicID, byID: true})
		}
	}
	_ = s.lookUpTopics(ctx, topics) // its failure is in the codes

	res := kmsg.NewPtrDeleteTopicsResponse()
	res.Version = req.Version
	done := make(map[entry.UUID]bool)
	for i := range topics {
		m := &topics[i]
		var no *refusal
		switch {
		case both[i]:
			no = refused(codeInvalidRequest, "a topic is named either by name or by id")
		case m.code == codeLeaderNotAvailable:
			no = refused(codeRequestTimedOut, "the metastore does not answer")
		case m.code == codeInvalidTopic: // such a topic cannot be there
			no = refused(codeUnknownTopicOrPartition, "no topic %q", m.name)
		case m.code != codeNone:
			no = refused(m.code, "no such topic")
		case done[m.id]:
			no = refused(codeInvalidRequest, "topic %s is named more than once", m.name)
		default:
			done[m.id] = true
			if no = s.locked(m.id); no != nil {
				break
			}
			if no = s.propose(ctx, &entry.DeleteTopic{ID: m.id}); no != nil && m.byID && no.code == codeUnknownTopicOrPartition {
				no.code = codeUnknownTopicID
			}
		}
		rt := kmsg.NewDeleteTopicsResponseTopic()
		if m.name != "" || !m.byID {
			rt.Topic = &m.name
		}
		rt.TopicID = m.id
		rt.ErrorCode, rt.ErrorMessage = s.tell(keyDeleteTopics, no)
		res.Topics = append(res.Topics, rt)
	}
	return res
}

// locked refuses what would take away records under an object lock. Retention takes none before the lock on it has ended, so
// what a locked topic still holds counts as locked; once that is nothing, the topic may go.
func (s *Server) locked(id entry.UUID) *refusal {
	var view topicView
	var held int64
	s.meta.View(func(st *state.State) {
		t := st.TopicByID(id)
		if t == nil {
			return
		}
		view = viewTopic(st, t)
		for i := range t.Partitions() {
			p := t.Partition(i)
			held += p.Next() - p.LogStart()
		}
	})
	if view.partitions == 0 || held == 0 {
		return nil
	}
	if settings := s.settings.settings(&view); settings.Locked() {
		return refused(codePolicyViolation, "topic %s holds %d records under an object lock (%v, %d days): it can be deleted once retention has taken them away",
			view.name, held, settings.LockMode, settings.LockDays)
	}
	return nil
}

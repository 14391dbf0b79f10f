package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
)

// CreatePartitions (37), versions 0 to 3.
func (s *Server) createPartitions(ctx context.Context, req *kmsg.CreatePartitionsRequest) *kmsg.CreatePartitionsResponse {
	ctx, cancel := s.adminTime(ctx, req.TimeoutMillis)
	defer cancel()
	lagging := s.barrier(ctx)
	topics := make([]metadataTopic, len(req.Topics))
	times := make(map[string]int)
	for i := range req.Topics {
		topics[i].name = req.Topics[i].Topic
		times[topics[i].name]++
	}
	if err := s.lookUpTopics(ctx, topics); lagging == nil {
		lagging = err
	}
	res := kmsg.NewPtrCreatePartitionsResponse()
	res.Version = req.Version
	for i := range req.Topics {
		m := &topics[i]
		var no *refusal
		switch {
		case times[m.name] == 0:
			continue
		case times[m.name] > 1:
			no, times[m.name] = refused(codeInvalidRequest, "topic %s is named more than once", m.name), 0
		case lagging != nil:
			no = refused(codeRequestTimedOut, "the metastore does not answer: %v", lagging)
		case m.code != codeNone:
			no = refused(m.code, "no such topic")
		default:
			no = s.growTopic(ctx, &m.view, &req.Topics[i], req.ValidateOnly)
		}
		rt := kmsg.NewCreatePartitionsResponseTopic()
		rt.Topic = m.name
		rt.ErrorCode, rt.ErrorMessage = s.tell(keyCreatePartitions, no)
		res.Topics = append(res.Topics, rt)
	}
	return res
}

func (s *Server) growTopic(
	ctx context.Context, view *topicView, t *kmsg.CreatePartitionsRequestTopic, validateOnly bool,
) *refusal {
	more := int(t.Count) - int(view.partitions)
	switch {
	case more == 0:
		return refused(codeInvalidPartitions, "topic %s already has %d partitions", view.name, view.partitions)
	case more < 0:
		return refused(codeInvalidPartitions, "topic %s has %d partitions: they can only grow", view.name, view.partitions)
	case t.Count > s.cfg.PartitionsMax:
		return refused(codeInvalidPartitions, "%d partitions: at most %d", t.Count, s.cfg.PartitionsMax)
	case t.Assignment != nil && len(t.Assignment) != more:
		return refused(codeInvalidAssignment, "%d partitions are new, %d assigned", more, len(t.Assignment))
	}
	op := &entry.CreatePartitions{ID: view.id, Total: uint32(t.Count)}
	for i := range t.Assignment {
		if no := checkReplicas(t.Assignment[i].Replicas, view.replication); no != nil {
			return no
		}
		op.Assignment = append(op.Assignment, entry.Replicas{Nodes: t.Assignment[i].Replicas})
	}
	if validateOnly {
		return nil
	}
	return s.propose(ctx, op)
}

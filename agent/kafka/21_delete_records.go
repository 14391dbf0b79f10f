package kafka

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// DeleteRecords (21), versions 0 to 2. Each partition is one op, and its answer is what the state machine made of it: the
// log start offset in force. An offset below it is no error. Any agent takes any partition.

// toHighWatermark asks for everything that is there.
const toHighWatermark = -1

// deletionsMax bounds the ops of one request that are under way at a time. They share entries, so a few are enough.
const deletionsMax = 64

func (s *Server) deleteRecords(ctx context.Context, req *kmsg.DeleteRecordsRequest) *kmsg.DeleteRecordsResponse {
	ctx, cancel := s.adminTime(ctx, req.TimeoutMillis)
	defer cancel()
	lagging := s.barrier(ctx) // the policy that counts is the one in force now
	res := kmsg.NewPtrDeleteRecordsResponse()
	res.Version = req.Version
	res.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(req.Topics))
	slots := make(chan struct{}, deletionsMax)
	var wg sync.WaitGroup
	for i := range req.Topics {
		t, rt := &req.Topics[i], &res.Topics[i]
		*rt = kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(t.Partitions))
		view, deletable := s.deletable(t.Topic)
		for j := range t.Partitions {
			p, rp := &t.Partitions[j], &rt.Partitions[j]
			*rp = kmsg.NewDeleteRecordsResponseTopicPartition()
			rp.Partition, rp.LowWatermark = p.Partition, -1
			var code errorCode
			switch {
			case lagging != nil:
				code = codeRequestTimedOut
			case p.Partition < 0 || p.Partition >= view.partitions:
				code = codeUnknownTopicOrPartition
			case !deletable:
				code = codePolicyViolation
			case p.Offset < toHighWatermark:
				code = codeOffsetOutOfRange
			}
			if code != codeNone {
				s.cfg.Metrics.failed(keyDeleteRecords, code)
				rp.ErrorCode = int16(code)
				continue
			}
			op := &entry.DeleteRecords{Topic: view.id, Partition: uint32(p.Partition), BeforeOffset: p.Offset}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				out, err := s.meta.Propose(ctx, op)
				if code := s.codeOfOp(out, err); code != codeNone {
					s.cfg.Metrics.failed(keyDeleteRecords, code)
					rp.ErrorCode = int16(code)
					return
				}
				rp.LowWatermark = out.LogStartOffset
			})
		}
	}
	wg.Wait()
	return res
}

// deletable looks a topic up, and says whether its policy lets records go otherwise than by compaction: Kafka refuses
// DeleteRecords where only compact is set, because a reader counts on the last record of every key. Under an object lock
// nothing goes before its time, whoever asks.
func (s *Server) deletable(name string) (view topicView, ok bool) {
	s.meta.View(func(st *state.State) {
		if t := st.TopicByName(name); t != nil {
			view = viewTopic(st, t)
		}
	})
	if view.partitions == 0 {
		return view, false
	}
	settings := s.settings.settings(&view)
	return view, (settings.Delete || !settings.Compact) && !settings.Locked()
}

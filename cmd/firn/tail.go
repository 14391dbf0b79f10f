package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// silence is how long a bounded read hears nothing before it looks whether anything is left.
const silence = time.Second

// tails notices that nothing is left to read below the end of a partition although its last offset never came: that may
// be of an aborted record, or of one that key compaction removed, and the client passes over those without a word.
type tails struct {
	cl        *kgo.Client
	isolation kgo.IsolationLevel
	level     int8 // the same on the wire
}

func newTails(cl *kgo.Client, committed bool) *tails {
	if committed {
		return &tails{cl, kgo.ReadCommitted(), 1}
	}
	return &tails{cl, kgo.ReadUncommitted(), 0}
}

// poll waits for records; where a span has an end, for no longer than silence.
func (t *tails) poll(ctx context.Context, spans map[place]span) kgo.Fetches {
	for _, s := range spans {
		if s.end != endless {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, silence)
			defer cancel()
			break
		}
	}
	return t.cl.PollFetches(ctx)
}

// pass moves spans over offsets that hold no record to deliver, and drops those that end there. Where a broker does not
// answer nothing moves: the client is trying too, and says what is wrong.
func (t *tails) pass(ctx context.Context, spans map[place]span) {
	topics := map[string]bool{}
	for where, s := range spans {
		if s.end != endless {
			topics[where.topic] = true
		}
	}
	if len(topics) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	names := make([]string, 0, len(topics))
	for topic := range topics {
		names = append(names, topic)
	}
	details, err := kadm.NewClient(t.cl).ListTopics(ctx, names...)
	if err != nil {
		return
	}
	for where, s := range spans {
		if s.end == endless {
			continue
		}
		d := details[where.topic]
		for next, ok := t.skip(ctx, d, where.partition, s.next); ok && next > s.next; next, ok = t.skip(ctx, d, where.partition, s.next) {
			if s.next = next; next >= s.end {
				break
			}
		}
		if s.next >= s.end {
			delete(spans, where)
		} else {
			spans[where] = s
		}
	}
}

// skip returns the offset after what a fetch of a partition finds, if that has no record to deliver.
func (t *tails) skip(ctx context.Context, d kadm.TopicDetail, partition int32, offset int64) (next int64, ok bool) {
	p, known := d.Partitions[partition]
	if !known || p.Leader < 0 {
		return 0, false
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.IsolationLevel, req.SessionEpoch = 1<<20, t.level, -1
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = d.Topic, d.ID
	wanted := kmsg.NewFetchRequestTopicPartition()
	wanted.Partition, wanted.FetchOffset, wanted.PartitionMaxBytes = partition, offset, 1<<20
	topic.Partitions = append(topic.Partitions, wanted)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, t.cl.Broker(int(p.Leader)))
	if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, false
	}
	fetched, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		KeepControlRecords: true, Offset: offset, IsolationLevel: t.isolation, Topic: d.Topic, Partition: partition,
	}, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	return next, fetched.Err == nil && len(fetched.Records) == 0
}

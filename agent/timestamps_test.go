package agent_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// TestMaxTimestampsThatProducersGotWrong: an agent writes the true one into the header before it stores the batch, as Kafka does.
// What looks for a time goes by it, on the batches as they were flushed and on merged ones.
func TestMaxTimestampsThatProducersGotWrong(t *testing.T) {
	n := start(t, func(s *setup) {
		s.cfg.MergeAfter, s.cfg.MergeRescan = time.Second, 10*time.Millisecond
		s.cfg.MergeWindowMin, s.cfg.MergeWindowMax = 64<<10, 64<<10
		s.cfg.LevelPatience = time.Second
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.MaxVersions(kversion.V2_8_0())) // later, requests go by the ids of topics
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	const topic, partitions = "times", 5 // one for each codec
	if r, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, nil, topic); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	now := time.Now().UnixMilli() - 1_000_000
	// Batches of two records, 1 s apart, and how far the header is off. All lie within one chunk, whose own max timestamp is the last's.
	lies := []int64{0, -1000, 500_000, -1_000_000, 0}
	var truth []int64
	send := func(p int32, at, lie int64) {
		b := batch.NewBuilder(batch.BuildOptions{Codec: batch.Codec(p)})
		for i := range int64(2) {
			b.Add(at+i*1000, nil, fmt.Append(nil, "value ", at, i))
		}
		raw, err := b.Build(nil)
		if err != nil {
			t.Fatal(err)
		}
		batch.StampMaxTimestamp(raw, at+1000+lie)
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = p, raw
		top := kmsg.NewProduceRequestTopic()
		top.Topic, top.Partitions = topic, append(top.Partitions, part)
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis, req.Topics = -1, 30_000, append(req.Topics, top)
		res, err := cl.Broker(1).RetriableRequest(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if out := res.(*kmsg.ProduceResponse).Topics[0].Partitions[0]; out.ErrorCode != 0 {
			t.Fatalf("%s: code %d", batch.Codec(p), out.ErrorCode)
		}
	}
	for i, lie := range lies {
		at := now + int64(i)*10_000
		for p := range int32(partitions) {
			send(p, at, lie)
		}
		truth = append(truth, at+1000)
	}
	last := truth[len(truth)-1]
	look := func(what string) {
		t.Helper()
		for p := range int32(partitions) {
			list := kmsg.NewPtrListOffsetsRequest()
			list.ReplicaID = -1
			offset := func(ts int64) int64 {
				lp := kmsg.NewListOffsetsRequestTopicPartition()
				lp.Partition, lp.Timestamp = p, ts
				list.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{lp}}}
				res, err := cl.Broker(1).RetriableRequest(ctx, list)
				if err != nil {
					t.Fatal(err)
				}
				return res.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].Offset
			}
			for i := range lies {
				// The batch's second record, and whatever is not in it but later.
				if got, want := offset(truth[i]-500), int64(2*i+1); got != want {
					t.Errorf("%s, %s: the first record at or after that of batch %d is %d, want %d", what, batch.Codec(p), i, got, want)
				}
			}
		}
		headers(ctx, t, cl, topic, partitions, func(p int32, h batch.Header) {
			if i := int(h.BaseOffset / 2); i < len(truth) && h.MaxTimestamp != truth[i] {
				t.Errorf("%s, %s: max timestamp of batch %d is %d off", what, batch.Codec(p), i, h.MaxTimestamp-truth[i])
			}
		})
	}
	look("as flushed")
	for at := last; ; { // what is young is not merged, so something is said now and then
		merged, newest := 0, int64(0)
		n.rows(topic, func(rows []state.Row) {
			if rows[0].Object.Merged() && rows[0].End >= int64(2*len(lies)) {
				merged++
			}
			newest = max(newest, rows[len(rows)-1].MaxTimestamp)
		})
		if newest > at+1000 {
			t.Fatalf("a row's max timestamp, by which retention goes, is %d later than any record", newest-at-1000)
		}
		if merged == partitions {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("not merged: %s", n.describe(topic))
		}
		at += 10_000
		for p := range int32(partitions) {
			send(p, at, 0)
		}
	}
	look("merged")
}

// headers reads the first batches of each partition as they are served, and checks their CRCs.
func headers(ctx context.Context, t *testing.T, cl *kgo.Client, topic string, partitions int32, see func(int32, batch.Header)) {
	t.Helper()
	for p := range partitions {
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.PartitionMaxBytes = p, 1<<20
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes, req.MaxWaitMillis, req.MinBytes = 1<<20, 1000, 1
		req.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{part}}}
		res, err := cl.Broker(1).RetriableRequest(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		got := res.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if got.ErrorCode != 0 || len(got.RecordBatches) == 0 {
			t.Fatalf("fetch of %s-%d: code %d, %d bytes", topic, p, got.ErrorCode, len(got.RecordBatches))
		}
		for s := batch.Split(got.RecordBatches); s.Next(); {
			if err := batch.VerifyCRC(s.Raw()); err != nil {
				t.Error(err)
			}
			see(p, s.Header())
		}
	}
}

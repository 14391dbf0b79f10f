package kafka_test

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
)

// An agent that trails turns a producer's first batch away; when it has caught up, the batches that the client had sent behind
// it must not get in first. The simulator found it (seed 1627): the first one was then out of order for good.
func TestABatchThatWasTurnedAwayIsNotOvertaken(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		b.with(func(b *agent) { b.behind = true })
		a.topic("t", 1)
		c := dial(t, server(t, b))
		send := func(sequence int32) kmsg.ProduceResponseTopicPartition {
			raw := records(t, batch.BuildOptions{Producer: &batch.Producer{ID: 7, BaseSequence: sequence}}, "v")
			return outcome(ask[*kmsg.ProduceResponse](c, produceRequest(9, "t", 0, raw)))
		}
		b.with(func(b *agent) { b.barrierErr = errors.New("no quorum") })
		if p := send(0); p.ErrorCode != 7 {
			t.Fatalf("first batch: code %d", p.ErrorCode)
		}
		b.with(func(b *agent) { b.barrierErr = nil })
		for sequence := range int32(3) {
			if p := send(sequence + 1); p.ErrorCode != 7 {
				t.Fatalf("batch %d behind it: code %d, offset %d", sequence+1, p.ErrorCode, p.BaseOffset)
			}
		}
		for sequence := range int32(4) { // all come again, in order
			if p := send(sequence); p.ErrorCode != 0 || p.BaseOffset != int64(sequence) {
				t.Fatalf("batch %d again: code %d, offset %d", sequence, p.ErrorCode, p.BaseOffset)
			}
		}
	})
}

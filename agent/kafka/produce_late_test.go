package kafka_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
)

// While nothing commits, a Produce is answered when its own timeout is over, with a code that clients retry; the connection
// serves on; and the copy that the client sends then gets the offset of the first one.
func TestAProduceWhoseOutcomeIsLateIsAnsweredInTime(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		c := dial(t, server(t, a))
		raw := records(t, batch.BuildOptions{Producer: &batch.Producer{ID: 9}}, "a", "b")
		req := produceRequest(12, "t", 0, raw)
		req.TimeoutMillis = 3000
		start := time.Now()
		if p := outcome(ask[*kmsg.ProduceResponse](c, req)); p.ErrorCode != 7 || p.BaseOffset != -1 || p.ErrorMessage == nil {
			t.Errorf("code %d, offset %d, message %v, want REQUEST_TIMED_OUT", p.ErrorCode, p.BaseOffset, p.ErrorMessage)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("answered after %v", took)
		}
		meta := kmsg.NewPtrMetadataRequest()
		meta.Version = 9
		c.receive(c.send(meta), meta)
		id := c.send(req) // again, as clients do
		faketime.Wait()
		close(gate)
		res, _ := c.receive(id, req).(*kmsg.ProduceResponse)
		if p := outcome(res); p.ErrorCode != 0 || p.BaseOffset != 0 {
			t.Errorf("the copy: code %d, offset %d", p.ErrorCode, p.BaseOffset)
		}
		if next := c.produce("t", 0, "after"); next != 2 {
			t.Errorf("the next record has offset %d: the batch was taken twice", next)
		}
	})
}

func TestATimeoutOfAProduceHasBounds(t *testing.T) {
	for asked, want := range map[int32]time.Duration{
		0: time.Second, -5: time.Second, 10: time.Second, 30_000: 30 * time.Second, 1<<31 - 1: 2 * time.Minute,
	} {
		faketime.Test(t, func(t *testing.T) {
			a := newCluster(t).join("a")
			a.topic("t", 1)
			gate := make(chan struct{})
			defer close(gate)
			a.with(func(a *agent) { a.gate = gate })
			c := dial(t, server(t, a))
			req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "a"))
			req.TimeoutMillis = asked
			start := time.Now()
			if p := outcome(ask[*kmsg.ProduceResponse](c, req)); p.ErrorCode != 7 {
				t.Errorf("code %d", p.ErrorCode)
			}
			if took := time.Since(start); took != want {
				t.Errorf("a timeout of %d ms is over after %v, want %v", asked, took, want)
			}
		})
	}
}

// Acks 0 has no answer; where its outcome is late the connection neither waits for it nor ends.
func TestALateProduceWithoutAcksHoldsNothingUp(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		gate := make(chan struct{})
		defer close(gate)
		a.with(func(a *agent) { a.gate = gate })
		c := dial(t, server(t, a, func(c *kafka.Config) { c.ProduceTimeoutMax = 2 * time.Second }))
		req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "a"))
		req.Acks, req.TimeoutMillis = 0, 30_000
		c.send(req)
		meta := kmsg.NewPtrMetadataRequest()
		meta.Version = 9
		start := time.Now()
		c.receive(c.send(meta), meta)
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("the next answer came after %v", took)
		}
	})
}

package badinput_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objstore/faulty"
)

// A bucket that fails everything is told of once, and its recovery once, however many requests fail.
func TestAnOutageOfTheBucketIsTwoLines(t *testing.T) {
	t.Parallel()
	c := open(t, options{tune: func(m *metastore.Config) { m.ArchiveInterval = 20 * time.Millisecond }})
	b := c.bystander(true)
	if err := c.bucket.SetConfig(faulty.Config{Unavailable: 1}); err != nil {
		t.Fatal(err)
	}
	cl := c.client(kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation())
	done := make(chan error, 50)
	for i := range 50 {
		cl.Produce(context.Background(), kgo.StringRecord(fmt.Sprint(i)), func(_ *kgo.Record, err error) { done <- err })
	}
	until(t, "the outage is told", func() bool { return len(c.logs.with("msg=degraded", "part=bucket_write")) > 0 })
	until(t, "retries go on", func() bool { return c.gauge("firn_ingest_upload_retries_total") >= 5 })
	until(t, "archiving fails again and again", func() bool { return c.gauge("firn_metastore_archive_errors_total") >= 30 })
	if h := c.health(); !h.Ready || h.Degraded == "" {
		t.Errorf("health: %+v", h)
	}
	if err := c.bucket.SetConfig(faulty.Config{}); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	until(t, "the recovery is told", func() bool { return len(c.logs.with("msg=recovered", "part=bucket_write")) > 0 })
	until(t, "nothing is degraded", func() bool { return c.health().Degraded == "" })
	b.check()
	c.wantLines(1, "msg=degraded", "part=bucket_write")
	c.wantLines(1, "msg=recovered", "part=bucket_write")
	if n := len(c.logs.with("level=")); n > 12 {
		t.Errorf("an outage made %d lines:\n%s", n, c.logs)
	}
}

// Garbage is counted one by one and told of by kind.
func TestAFloodOfGarbageIsAFewLines(t *testing.T) {
	t.Parallel()
	c := open(t, options{})
	b := c.bystander(false)
	kinds := [][]byte{
		[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		{0, 0, 0, 20, 0x7f, 0xff, 0, 0, 0, 0, 0, 0},
		{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0},
	}
	before := len(c.logs.with("level="))
	for i := range 1000 {
		nc := c.dial()
		_, _ = nc.Write(kinds[i%len(kinds)])
		_, _ = nc.Read(make([]byte, 1)) // until the agent closes it
		_ = nc.Close()
	}
	b.check()
	lines := len(c.logs.with("level=")) - before
	if lines < len(kinds) || lines > 3*len(kinds) {
		t.Errorf("1000 connections made %d lines:\n%s", lines, c.logs)
	}
	counted := 0.0
	for _, reason := range []string{"foreign", "malformed", "size", "slow", "other"} {
		counted += c.gauge(`firn_kafka_connections_faulty_total{reason="` + reason + `"}`)
	}
	if counted != 1000 {
		t.Errorf("%v connections were counted", counted)
	}
}

// An agent says what it does at its start and its end, a line a step.
func TestStartAndDrainAreAFewLines(t *testing.T) {
	t.Parallel()
	c := open(t, options{})
	c.bystander(true).end()
	c.stop()
	for _, words := range [][]string{
		{"agent starts", "agent=a1", "segment_bytes="}, {"joined the cluster", "node_id="}, {"agent serves", "listeners="}, {"claiming slots", "slots="},
		{"msg=draining", "notice="}, {"msg=draining", "step=notice"}, {"msg=draining", "step=duties"}, {"msg=draining", "hand over"}, {"msg=draining", "answer"}, {"msg=draining", "commit"}, {"msg=draining", "leave"}, {"msg=drained", "took="},
	} {
		c.wantLines(1, words...)
	}
	if n := len(c.logs.with("level=")); n > 12 {
		t.Errorf("%d lines:\n%s", n, c.logs)
	}
}

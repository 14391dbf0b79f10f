package agent_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

// deafRules is a bucket whose rules are read without an answer, whatever becomes of who asks.
type deafRules struct {
	*mem.Bucket
	once           sync.Once
	asked, release chan struct{}
}

func (b *deafRules) Rules(context.Context) ([]objstore.Rule, error) {
	b.once.Do(func() { close(b.asked) })
	<-b.release
	return nil, nil
}

func (b *deafRules) SetRules(context.Context, []objstore.Rule) error { return nil }
func (b *deafRules) KeyPrefix() string                               { return "" }

// lines keeps what is logged. Safe for concurrent use.
type lines struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) with(what string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, what) {
			found = append(found, line)
		}
	}
	return found
}

// TestADrainDoesNotWaitForADeafDuty drains while a background step does not heed the end of its context: it is left behind, and
// the rest of the drain is done as ever.
func TestADrainDoesNotWaitForADeafDuty(t *testing.T) {
	rules := &deafRules{Bucket: mem.New(), asked: make(chan struct{}), release: make(chan struct{})}
	var log lines
	n := start(t, func(s *setup) {
		s.bucket = rules
		s.cfg.LevelPatience, s.cfg.LifecycleInterval = time.Second, time.Second
		s.parts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	var once sync.Once
	release := func() { once.Do(func() { close(rules.release) }) }
	t.Cleanup(release)
	n.SetDutiesMax(10 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-rules.asked:
	case <-ctx.Done():
		t.Fatal("the duty does not begin")
	}
	if err := n.Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
	if told := log.with("is cut off"); len(told) != 1 || !strings.Contains(told[0], "lifecycle") {
		t.Errorf("told of the duty: %q", told)
	}
	if len(log.with("drained")) != 1 {
		t.Error("the drain did not come to its end")
	}
	release()
}

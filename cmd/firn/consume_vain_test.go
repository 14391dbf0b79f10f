package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// until is a writer that does something once a word was written.
type until struct {
	strings.Builder
	word string
	then func()
}

func (u *until) Write(p []byte) (int, error) {
	n, err := u.Builder.Write(p)
	if strings.Contains(u.String(), u.word) {
		u.then()
	}
	return n, err
}

// Records that cannot be got from the bucket are waited for, and whoever waits is told, once.
func TestConsumingWhatCannotBeRead(t *testing.T) {
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "kept"))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	addr := broker.ListenAddrs()[0]
	must(t, "one\n", "produce", "kept", "--brokers", addr)
	broker.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		broker.KeepControl()
		r := req.(*kmsg.FetchRequest)
		resp := r.ResponseKind().(*kmsg.FetchResponse)
		for _, topic := range r.Topics {
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
			for _, p := range topic.Partitions {
				rp := kmsg.NewFetchResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, kerr.KafkaStorageError.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	for _, args := range [][]string{{"--exit-at-end"}, {"--group", "g"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		said := &until{word: `topic "kept" partition 0 cannot be read`, then: cancel}
		run(ctx, env{
			Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: said, Args: append([]string{"consume", "kept", "--from", "start", "--brokers", addr}, args...),
			Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
		})
		cancel()
		if n := strings.Count(said.String(), said.word); n != 1 {
			t.Errorf("%v told %d times: %s", args, n, said)
		}
	}
}

// A group that nobody coordinates for longer than the client tries is an error, as it is where none is retried.
func TestAGroupThatCannotBeJoinedEndsConsuming(t *testing.T) {
	vain := inVain{w: io.Discard}
	if vain.read(kgo.FetchError{Err: &kgo.ErrGroupSession{Err: kerr.CoordinatorNotAvailable}}) {
		t.Error("it is waited for without a word")
	}
	if !vain.read(kgo.FetchError{Topic: "kept", Err: kerr.NotLeaderForPartition}) {
		t.Error("a leader that moves ends it")
	}
}

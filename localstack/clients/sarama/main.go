// Command sarama is one member of a consumer group, with sarama: it reads until its standard input ends and says what it sees as lines of
// JSON. Usage: sarama BROKERS TOPIC GROUP ASSIGNOR
//
// It is a module of its own, so that firn's does not depend on sarama.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

type event struct {
	Event      string  `json:"event"`
	Partitions []int32 `json:"partitions,omitempty"`
	Partition  int32   `json:"partition"`
	Offset     int64   `json:"offset"`
	Number     int     `json:"number"`
	Text       string  `json:"text,omitempty"`
}

// member is a handler of sarama's: one session is one assignment.
type member struct {
	topic string

	mu  sync.Mutex // guards out
	out *json.Encoder
}

func (m *member) say(e event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.out.Encode(e)
}

func (m *member) Setup(s sarama.ConsumerGroupSession) error {
	m.say(event{Event: "assigned", Partitions: s.Claims()[m.topic]})
	return nil
}

func (m *member) Cleanup(s sarama.ConsumerGroupSession) error {
	s.Commit()
	m.say(event{Event: "revoked", Partitions: s.Claims()[m.topic]})
	return nil
}

func (m *member) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case r, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			number, err := strconv.Atoi(string(r.Key))
			if err != nil {
				m.say(event{Event: "error", Text: err.Error()})
				return err
			}
			m.say(event{Event: "record", Partition: r.Partition, Offset: r.Offset, Number: number})
			s.MarkMessage(r, "") // committed by sarama every Offsets.AutoCommit.Interval
		case <-s.Context().Done():
			return nil
		}
	}
}

func run(args []string, stdin io.Reader, m *member) error {
	brokers, topic, group, assignor := args[0], args[1], args[2], args[3]
	config := sarama.NewConfig()
	config.ClientID = "sarama"
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Interval = 250 * time.Millisecond
	config.Consumer.Return.Errors = true
	switch assignor {
	case "range":
		config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	case "sticky":
		config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()}
	default:
		return fmt.Errorf("no assignor %q", assignor)
	}
	m.topic = topic
	g, err := sarama.NewConsumerGroup(strings.Split(brokers, ","), group, config)
	if err != nil {
		return err
	}
	go func() {
		for err := range g.Errors() {
			m.say(event{Event: "note", Text: err.Error()})
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	for ctx.Err() == nil {
		// A session ends with an error where a broker went away in the middle of it; programs call again, as sarama's examples do.
		if err := g.Consume(ctx, []string{topic}, m); err != nil && !errors.Is(err, context.Canceled) {
			m.say(event{Event: "note", Text: err.Error()})
			select {
			case <-time.After(250 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	return g.Close()
}

func main() {
	m := &member{out: json.NewEncoder(os.Stdout)}
	if err := run(os.Args[1:], os.Stdin, m); err != nil {
		m.say(event{Event: "error", Text: err.Error()})
		os.Exit(1)
	}
}

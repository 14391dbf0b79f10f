//go:build interop

package interop

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A group's life as Kafka's own kafka-consumer-groups sees it. Spaces in wants stand for any number of them.
func TestKafkasConsumerGroupsTool(t *testing.T) {
	stack := start(t, 3)
	server := []string{"--bootstrap-server", stack.Brokers()}
	for _, topic := range []string{"events", "clicks"} {
		if out := kafkaTool(t, "TopicCommand", append(server[:2:2], "--create", "--topic", topic, "--partitions", "2")...); !strings.Contains(out, "Created topic") {
			t.Fatal(out)
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(stack.Brokers(), ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	for i := range 40 {
		r := &kgo.Record{Topic: []string{"events", "clicks"}[i%2], Partition: int32(i / 2 % 2), Value: fmt.Append(nil, i)}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	// A group that commits by itself, on each of several agents, so that listing has to ask all of them.
	for i := range 6 {
		o := kadm.Offsets{}
		o.AddOffset("events", 0, int64(i), -1)
		if err := kadm.NewClient(cl).CommitAllOffsets(t.Context(), fmt.Sprint("simple-", i), o); err != nil {
			t.Fatal(err)
		}
	}
	member, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(stack.Brokers(), ",")...), kgo.ConsumerGroup("busy"), kgo.ConsumeTopics("events"), kgo.ClientID("worker"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Close)
	for read := 0; read < 20; {
		f := member.PollFetches(t.Context())
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		read += f.NumRecords()
	}
	if err := member.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		args string
		want []string
		not  []string
	}{
		{"--group billing --reset-offsets --topic events --topic clicks:1 --to-offset 3 --dry-run", []string{"billing events 0 3", "billing events 1 3", "billing clicks 1 3"}, nil},
		{"--list", []string{"busy", "simple-0", "simple-5"}, []string{"billing"}},
		{"--group billing --reset-offsets --topic events --topic clicks:1 --to-offset 3 --execute", []string{"billing events 0 3", "billing clicks 1 3"}, []string{"Error"}},
		{"--list --state", []string{"billing Empty", "busy Stable", "simple-3 Empty"}, nil},
		{"--list --state stable", []string{"busy Stable"}, []string{"billing"}},
		{"--list --type classic", []string{"billing Classic", "busy Classic"}, nil},
		{"--describe --group billing", []string{"billing events 0 3 10 7", "billing clicks 1 3 10 7"}, nil},
		{"--describe --group busy", []string{"busy events 0 10 10 0", "busy events 1 10 10 0", "worker"}, nil},
		{"--describe --group busy --members --verbose", []string{"worker", "2", "events:0,1"}, nil},
		{"--describe --group busy --state", []string{"busy", "Stable 1"}, nil},
		{"--describe --group absent", []string{"absent", "GroupIdNotFoundException"}, nil},
		{"--group billing --reset-offsets --topic events --shift-by -2 --execute", []string{"billing events 0 1", "billing events 1 1"}, nil},
		{"--group billing --reset-offsets --all-topics --to-latest --execute", []string{"billing events 0 10", "billing clicks 1 10"}, nil},
		{"--group billing --reset-offsets --topic events:0 --to-earliest --execute", []string{"billing events 0 0"}, nil},
		{"--group billing --reset-offsets --topic events --to-datetime 2020-01-01T00:00:00.000 --execute", []string{"billing events 0 0", "billing events 1 0"}, nil},
		{"--group billing --reset-offsets --topic events --by-duration PT0S --execute", []string{"billing events 0 10", "billing events 1 10"}, nil},
		{"--group busy --reset-offsets --topic events --to-earliest --execute", []string{"Stable"}, []string{"busy events 0 0"}},
		{"--delete-offsets --group billing --topic events:0", []string{"events 0 Successful"}, nil},
		{"--describe --group billing", []string{"billing events 1 10 10 0"}, []string{"billing events 0"}},
		{"--delete-offsets --group busy --topic events", []string{"GroupSubscribedToTopicException"}, []string{"Successful"}},
		{"--delete --group busy", []string{"not empty"}, nil},
		{"--delete --group billing --group simple-0", []string{"Deletion of requested consumer groups", "'billing'", "'simple-0'", "was successful"}, nil},
		{"--list", []string{"busy", "simple-1"}, []string{"billing", "simple-0"}},
	} {
		out := kafkaTool(t, "consumer.group.ConsumerGroupCommand", append(server[:2:2], strings.Fields(step.args)...)...)
		flat := regexp.MustCompile(`[ \t]+`).ReplaceAllString(out, " ")
		for _, want := range step.want {
			if !strings.Contains(flat, want) {
				t.Errorf("%s: no %q in\n%s", step.args, want, out)
			}
		}
		for _, not := range step.not {
			if strings.Contains(flat, not) {
				t.Errorf("%s: %q in\n%s", step.args, not, out)
			}
		}
	}
	// firn's own command sees the same.
	out := string(run(t, firnBin, "group", "list", "--brokers", stack.Brokers()))
	for _, want := range []string{"busy", "simple-5"} {
		if strings.Count(out, want) != 1 {
			t.Errorf("%s is listed %d times:\n%s", want, strings.Count(out, want), out)
		}
	}
}

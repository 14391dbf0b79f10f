package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

func TestBrokers(t *testing.T) {
	got, err := client.Brokers([]string{"a:1, b:65535", "[::1]:9092", ""})
	if want := []string{"a:1", "b:65535", "[::1]:9092"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range [][]string{nil, {""}, {"host"}, {":9092"}, {"host:0"}, {"host:65536"}, {"host:http"}, {"a:1,b"}} {
		if _, err := client.Brokers(bad); !errors.Is(err, client.ErrUsage) || !strings.Contains(err.Error(), "--brokers") {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

func TestNamesAreChecked(t *testing.T) {
	for name := range strings.SplitSeq(client.CodecNames, "|") {
		if _, err := client.Codec(name); err != nil {
			t.Errorf("codec %s: %v", name, err)
		}
	}
	if _, err := client.Codec("brotli"); !errors.Is(err, client.ErrUsage) {
		t.Errorf("codec brotli: %v", err)
	}
	for _, name := range []string{"all", "-1", "1", "0"} {
		if _, err := client.Acks(name); err != nil {
			t.Errorf("acks %s: %v", name, err)
		}
	}
	if _, err := client.Acks("2"); !errors.Is(err, client.ErrUsage) {
		t.Errorf("acks 2: %v", err)
	}
}

func TestConfigs(t *testing.T) {
	got, err := client.Configs([]string{"a=1", "b=", "c=x=y"})
	if err != nil || *got["a"] != "1" || *got["b"] != "" || *got["c"] != "x=y" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range [][]string{{"a"}, {"=1"}, {"a=1", "a=2"}} {
		if _, err := client.Configs(bad); !errors.Is(err, client.ErrUsage) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for tries := range 100 {
		if d := client.Backoff(tries); d < 25*time.Millisecond || d > time.Second {
			t.Fatalf("try %d pauses %s", tries, d)
		}
	}
}

func TestCreateTopics(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(2))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	cl, err := kgo.NewClient(client.Options(cluster.ListenAddrs())...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	topics := client.Topics{Names: []string{"a", "b"}, Partitions: 3, ReplicationFactor: -1}
	if err := topics.Create(t.Context(), adm); err != nil {
		t.Fatal(err)
	}
	if err := topics.Create(t.Context(), adm); !errors.Is(err, kerr.TopicAlreadyExists) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("second creation: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (client.Topics{Names: []string{"c"}, Partitions: 1, ReplicationFactor: 1}).Create(ended, adm); !errors.Is(err, context.Canceled) {
		t.Errorf("creation with an ended context: %v", err)
	}
}

func TestTopicErrorsSayWhatTheBrokerSaid(t *testing.T) {
	for want, err := range map[string]error{
		`alter topic "t": INVALID_CONFIG: no such thing`: client.TopicError("alter", "t", kerr.InvalidConfig, "no such thing."),
		`alter topic "t": INVALID_CONFIG: Config`:        client.TopicError("alter", "t", kerr.InvalidConfig, ""),
		`alter topic "t": context canceled`:              client.TopicError("alter", "t", context.Canceled, "of no use"),
		"gains more":                                     client.TopicError("alter", "t", kerr.InvalidPartitions, "x"),
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q, want %q", err, want)
		}
	}
	if err := client.TopicError("find", "t", kerr.UnknownTopicOrPartition, "gone"); !client.NotFound(err) || !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("%v", err)
	}
}

package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// CodecNames lists the names that Codec takes.
const CodecNames = "none|gzip|snappy|lz4|zstd"

// Brokers checks a list of host:port addresses, of which each element may itself be separated by commas.
// Errors wrap ErrUsage.
func Brokers(list []string) ([]string, error) {
	var brokers []string
	for _, element := range list {
		for address := range strings.SplitSeq(element, ",") {
			address = strings.TrimSpace(address)
			if address == "" {
				continue
			}
			host, port, err := net.SplitHostPort(address)
			if err != nil || host == "" {
				return nil, fmt.Errorf("%w: --brokers: %q is not host:port, for example 127.0.0.1:9092", ErrUsage, address)
			}
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return nil, fmt.Errorf("%w: --brokers: port %q of %q is not a number from 1 to 65535", ErrUsage, port, address)
			}
			brokers = append(brokers, address)
		}
	}
	if len(brokers) == 0 {
		return nil, fmt.Errorf("%w: --brokers: no address given, name at least one host:port", ErrUsage)
	}
	return brokers, nil
}

// Codec returns the compression codec of a name in CodecNames. Errors wrap ErrUsage.
func Codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, fmt.Errorf("%w: --codec: %q is unknown, choose %s", ErrUsage, name, CodecNames)
}

// Acks returns the acknowledgement setting of "all", "1" or "0". Errors wrap ErrUsage.
func Acks(name string) (kgo.Acks, error) {
	switch name {
	case "all", "-1":
		return kgo.AllISRAcks(), nil
	case "1":
		return kgo.LeaderAck(), nil
	case "0":
		return kgo.NoAck(), nil
	}
	return kgo.Acks{}, fmt.Errorf("%w: --acks: %q is unknown, choose all, 1 or 0", ErrUsage, name)
}

// Configs reads topic settings given as key=value. Errors wrap ErrUsage.
func Configs(list []string) (map[string]*string, error) {
	configs := make(map[string]*string, len(list))
	for _, setting := range list {
		key, value, ok := strings.Cut(setting, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%w: --config: %q is not key=value", ErrUsage, setting)
		}
		if _, twice := configs[key]; twice {
			return nil, fmt.Errorf("%w: --config: %s is given twice, give it once", ErrUsage, key)
		}
		configs[key] = &value
	}
	return configs, nil
}

// Options returns what all our clients have in common, and then extra. Callers append their own.
func Options(brokers []string, extra ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(brokers...),
		kgo.ClientID("firn"),
		kgo.DialTimeout(5 * time.Second),
		kgo.RequestTimeoutOverhead(10 * time.Second),
		kgo.ConnIdleTimeout(time.Minute),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.MetadataMaxAge(30 * time.Second),
		kgo.RetryBackoffFn(Backoff),
		kgo.DisableClientMetrics(),
	}, extra...)
}

// Backoff is the pause before attempt number tries+1: 50 ms doubling up to 1 s, half of it random.
func Backoff(tries int) time.Duration {
	pause := min(50*time.Millisecond<<min(max(tries-1, 0), 5), time.Second)
	return pause/2 + rand.N(pause/2+1)
}

// Topics is a set of topics to make. Partitions and ReplicationFactor may be -1 for the broker's default.
type Topics struct {
	Names             []string
	Partitions        int32
	ReplicationFactor int16
	Configs           map[string]*string
}

// Create makes topics and waits until metadata shows all their partitions with a leader, or ctx ends. The error names
// the first topic that could not be made and wraps the broker's.
func (t Topics) Create(ctx context.Context, adm *kadm.Client) error {
	answers, err := adm.CreateTopics(ctx, t.Partitions, t.ReplicationFactor, t.Configs, t.Names...)
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	for _, a := range answers.Sorted() {
		if a.Err != nil {
			return TopicError("create", a.Topic, a.Err, a.ErrMessage)
		}
	}
	for tries := 1; ; tries++ {
		details, err := adm.ListTopics(ctx, t.Names...)
		if err == nil && t.ready(details) {
			return nil
		}
		timer := time.NewTimer(Backoff(tries))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for the leaders of %s: %w", strings.Join(t.Names, ", "), ctx.Err())
		case <-timer.C:
		}
	}
}

func (t Topics) ready(details kadm.TopicDetails) bool {
	return !slices.ContainsFunc(t.Names, func(name string) bool {
		d, ok := details[name]
		if !ok || d.Err != nil || len(d.Partitions) == 0 || (t.Partitions > 0 && len(d.Partitions) != int(t.Partitions)) {
			return true
		}
		for _, p := range d.Partitions {
			if p.Err != nil || p.Leader < 0 {
				return true
			}
		}
		return false
	})
}

package verify

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/localstack/check"
)

// Config says what to run. Zero values are not defaults: DefaultConfig has those.
type Config struct {
	Brokers           []string
	Security          []kgo.Opt     // TLS and SASL of every client
	Duration          time.Duration // of producing; reading goes on for at most DrainTimeout twice
	DrainTimeout      time.Duration // for outstanding sends, and for each of the two read-backs
	Topics            int
	Partitions        int // of each topic
	ReplicationFactor int // -1 is the broker's default
	Configs           map[string]*string
	Producers         int
	Consumers         int
	Keys              int // of each producer
	RecordBytes       int // of the value
	Rate              int // records a second over all producers; 0 is as fast as InFlight allows
	InFlight          int // most unacknowledged records of one producer
	RecordsMax        int // most records sent; bounds memory
	Idempotent        bool
	Codec             string
	Seed              uint64
	// BehindProxy says that one address leads to several brokers, so that a connection's watermarks cannot be held
	// against those of another. Listed ends are judged all the same.
	BehindProxy bool
	Keep        bool   // do not delete the topics
	Plant       string // name of a planted bug, or ""
	Version     string // of this build, for the summary
	Log         *slog.Logger
}

// DefaultConfig returns the settings that the command's flags start from.
func DefaultConfig() Config {
	return Config{
		Duration: 30 * time.Second, DrainTimeout: time.Minute,
		Topics: 2, Partitions: 4, ReplicationFactor: -1,
		Producers: 4, Consumers: 2, Keys: 16, RecordBytes: 256, Rate: 5000, InFlight: 2000, RecordsMax: 10_000_000,
		Idempotent: true, Codec: "none",
	}
}

// Validate reports every setting out of range at once. Errors wrap client.ErrUsage.
func (c Config) Validate() error {
	var errs []error
	within := func(flag string, value, low, high int) {
		if value < low || value > high {
			errs = append(errs, fmt.Errorf("%w: --%s: %d is not between %d and %d", client.ErrUsage, flag, value, low, high))
		}
	}
	_, err := client.Brokers(c.Brokers)
	errs = append(errs, err)
	_, err = client.Codec(c.Codec)
	errs = append(errs, err)
	positive := func(flag string, d time.Duration) {
		if d <= 0 || d > 30*24*time.Hour {
			errs = append(errs, fmt.Errorf("%w: --%s: %s is not between 1ns and 720h", client.ErrUsage, flag, d))
		}
	}
	positive("duration", c.Duration)
	positive("drain-timeout", c.DrainTimeout)
	within("topics", c.Topics, 1, 1000)
	within("partitions", c.Partitions, 1, 10_000)
	if c.ReplicationFactor != -1 {
		within("replication-factor", c.ReplicationFactor, 1, math.MaxInt16)
	}
	within("producers", c.Producers, 1, 1000)
	within("consumers", c.Consumers, 1, 100)
	within("keys", c.Keys, 1, 1_000_000)
	within("record-size", c.RecordBytes, check.ValueBytesMin, 900_000)
	within("rate", c.Rate, 0, 10_000_000)
	within("in-flight", c.InFlight, 1, 1_000_000)
	within("records-max", c.RecordsMax, 1, 1_000_000_000)
	if _, ok := c.tap(0); !ok {
		errs = append(errs, fmt.Errorf("%w: --plant: %q is unknown, choose one of %s", client.ErrUsage, c.Plant, strings.Join(PlantNames(), ", ")))
	}
	return errors.Join(errs...)
}

// tap returns the tap of the planted bug; ok is false where its name is unknown.
func (c Config) tap(run uint64) (tap check.Tap, ok bool) {
	if c.Plant == "" {
		return check.Tap{}, true
	}
	i := slices.IndexFunc(check.Plants(), func(p check.Plant) bool { return p.Name == c.Plant })
	if i < 0 {
		return check.Tap{}, false
	}
	return check.Plants()[i].New(run), true
}

// PlantNames lists the planted bugs that Config.Plant may name.
func PlantNames() []string {
	var names []string
	for _, p := range check.Plants() {
		names = append(names, p.Name)
	}
	return names
}

func (c Config) logger() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

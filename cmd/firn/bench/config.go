package bench

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

// Modes lists what Config.Mode may name; "all" runs those before it in their order.
const Modes = "produce|e2e|replay|all|contend|commit"

// Payloads lists what Config.Payload may name.
const Payloads = "random|json"

// Config says what to measure. Zero values are not defaults: DefaultConfig has those.
type Config struct {
	Brokers           []string
	Security          []kgo.Opt // TLS and SASL of every client
	Topic             string    // "" makes one
	Keep              bool      // do not delete the topic that was made
	Partitions        int
	ReplicationFactor int // -1 is the broker's default
	Configs           map[string]*string
	Mode              string
	Warmup            time.Duration // not counted
	Duration          time.Duration // counted, of each phase
	ReplayTimeout     time.Duration
	FillBytes         int64 // what is there to replay in the contend mode
	Pairs             int   // of phases without and with what others do, in the contend and commit modes
	Replayers         int
	Committers        int  // groups that commit offsets, in the commit mode
	CommitRate        int  // a second, over all of them
	Rate              Rate // over all producers
	Max               bool // closed loop instead of Rate
	InFlightBytes     int  // most unacknowledged bytes over all producers
	RecordsMax        int  // most records sent in a phase
	RecordBytes       int  // of the value
	Payload           string
	Keys              int // distinct keys; 0 sends null keys
	Producers         int
	Linger            time.Duration
	BatchBytes        int
	Codec             string
	Acks              string
	Seed              uint64
	Version           string // of this build, for the result
	Log               *slog.Logger
}

// DefaultConfig returns the settings that the command's flags start from.
func DefaultConfig() Config {
	return Config{
		Partitions: 16, ReplicationFactor: -1, Mode: "all",
		Warmup: 5 * time.Second, Duration: 30 * time.Second, ReplayTimeout: 5 * time.Minute,
		FillBytes: 1 << 30, Pairs: 3, Replayers: 1, Committers: 100, CommitRate: 5000,
		Rate: Rate{Bytes: 10e6}, InFlightBytes: 64 << 20, RecordsMax: 100_000_000,
		RecordBytes: 1024, Payload: "random", Producers: 4, Linger: 5 * time.Millisecond, BatchBytes: 1_000_000,
		Codec: "none", Acks: "all",
	}
}

// Validate reports every setting out of range at once. Errors wrap client.ErrUsage.
func (c Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{client.ErrUsage}, args...)...))
	}
	within := func(flag string, value, low, high int) {
		if value < low || value > high {
			wrong("--%s: %d is not between %d and %d", flag, value, low, high)
		}
	}
	lasting := func(flag string, d, low time.Duration) {
		if d < low || d > 30*24*time.Hour {
			wrong("--%s: %s is not between %s and 720h", flag, d, low)
		}
	}
	_, err := client.Brokers(c.Brokers)
	errs = append(errs, err)
	_, err = client.Codec(c.Codec)
	errs = append(errs, err)
	_, err = client.Acks(c.Acks)
	errs = append(errs, err)
	if !slices.Contains(strings.Split(Modes, "|"), c.Mode) {
		wrong("--mode: %q is unknown, choose %s", c.Mode, Modes)
	}
	if !slices.Contains(strings.Split(Payloads, "|"), c.Payload) {
		wrong("--payload: %q is unknown, choose %s", c.Payload, Payloads)
	}
	if c.Mode == "contend" {
		within("pairs", c.Pairs, 1, 1000)
		within("replayers", c.Replayers, 1, 1000)
		within("fill-bytes", int(c.FillBytes), 1, 1<<50)
	}
	if c.Mode == "commit" {
		within("pairs", c.Pairs, 1, 1000)
		within("committers", c.Committers, 1, 10_000)
		within("commit-rate", c.CommitRate, 1, 1_000_000)
	}
	if c.Acks == "0" && (c.runs("e2e") || c.runs("contend")) {
		wrong("--acks 0: end-to-end needs to know what was stored, choose all or 1, or --mode produce")
	}
	lasting("warmup", c.Warmup, 0)
	lasting("duration", c.Duration, time.Millisecond)
	lasting("replay-timeout", c.ReplayTimeout, time.Millisecond)
	within("partitions", c.Partitions, 1, 100_000)
	if c.ReplicationFactor != -1 {
		within("replication-factor", c.ReplicationFactor, 1, math.MaxInt16)
	}
	within("record-size", c.RecordBytes, valueHeaderBytes, 16<<20)
	within("producers", c.Producers, 1, 1000)
	within("keys", c.Keys, 0, 100_000_000)
	within("batch-bytes", c.BatchBytes, 1<<10, 256<<20)
	if c.Linger < 0 || c.Linger > time.Minute {
		wrong("--linger: %s is not between 0s and 1m", c.Linger)
	}
	within("in-flight", c.InFlightBytes, max(c.recordSize(), 1)*max(c.Producers, 1), 8<<30)
	within("records-max", c.RecordsMax, 1, 100_000_000_000)
	if perSecond := c.Rate.Records + c.Rate.Bytes/float64(max(c.recordSize(), 1)); !c.Max && (perSecond <= 0 || perSecond > 1e8) {
		wrong("--rate: %g records/s is not above 0 and at most 1e8", perSecond)
	}
	return errors.Join(errs...)
}

// runs reports whether a mode runs a phase.
func (c Config) runs(phase string) bool {
	return c.Mode == phase || c.Mode == "all" && phase != "contend" && phase != "commit"
}

// keyBytes is the size of a key where there are keys.
const keyBytes = 8

// recordSize is what a record counts: key and value.
func (c Config) recordSize() int {
	if c.Keys > 0 {
		return c.RecordBytes + keyBytes
	}
	return c.RecordBytes
}

// interval is the time between intended sends of one producer, in nanoseconds.
func (c Config) interval() float64 {
	perSecond := c.Rate.Records + c.Rate.Bytes/float64(c.recordSize())
	return 1e9 * float64(c.Producers) / perSecond
}

func (c Config) logger() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// Rate is a number of records or of bytes a second; one of them is zero.
type Rate struct {
	Records, Bytes float64
}

// ParseRate reads "2000" or "2000/s" as records a second, and "10MB/s", "512KiB/s" and so on as bytes a second. KB, MB,
// GB are powers of ten, KiB, MiB, GiB of two. Errors wrap client.ErrUsage.
func ParseRate(s string) (Rate, error) {
	number := strings.TrimRight(strings.TrimSuffix(s, "/s"), "BKMGi")
	unit := strings.TrimSuffix(s, "/s")[len(number):]
	scale, known := map[string]float64{
		"": 0, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
	}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || !(n > 0) || math.IsInf(n, 0) {
		return Rate{}, fmt.Errorf("%w: --rate: %q is not a positive rate, for example 10MB/s or 2000/s", client.ErrUsage, s)
	}
	if scale == 0 {
		return Rate{Records: n}, nil
	}
	return Rate{Bytes: n * scale}, nil
}

func (r Rate) String() string {
	if r.Bytes > 0 {
		return fmt.Sprintf("%gMB/s", r.Bytes/1e6)
	}
	return fmt.Sprintf("%g/s", r.Records)
}

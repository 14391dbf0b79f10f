package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// Metastore is what the protocol needs of metastore.Client.
type Metastore interface {
	// Propose commits op and returns what became of it. An error means that the outcome is unknown, but for
	// metastore.ErrTooLarge.
	Propose(ctx context.Context, op entry.Op) (state.OpResult, error)
	// View runs fn under the state's read lock.
	View(fn func(*state.State))
	// Barrier returns when View sees everything committed before the call.
	Barrier(ctx context.Context) error
	// Subscribe sends on ch whenever one of refs changed.
	Subscribe(refs []state.PartitionRef, ch chan<- struct{}) (cancel func())
	// ReserveProducerID returns an id that nobody else has.
	ReserveProducerID(ctx context.Context) (int64, error)
	// ClusterID is stable and never empty.
	ClusterID() string
	// NodeID is this agent's id; -1 before it has one.
	NodeID() int32
}

// Producer is what the protocol needs of ingest.Pipeline.
type Producer interface {
	// Stage takes in parts, in the order of calls per connection. done is called once, when all have their outputs, and
	// not at all where Stage returns an error.
	Stage(ctx context.Context, parts []*ingest.Part, done func()) error
}

// Log is what the protocol needs of fetch.Reader.
type Log interface {
	// ReadTo appends whole batches from offset on to out.
	ReadTo(ctx context.Context, topic entry.UUID, partition int32, offset int64, maxBytes int, out *fetch.Out, atLeastOne bool) (fetch.Result, error)
	// OffsetForTimestamp returns the first offset whose record is of ts (ms) or later; -1 where there is none.
	OffsetForTimestamp(ctx context.Context, topic entry.UUID, partition int32, ts int64) (offset, timestamp int64, err error)
	// MaxTimestamp returns the offset of the record with the largest timestamp; -1 where there is none.
	MaxTimestamp(ctx context.Context, topic entry.UUID, partition int32) (offset, timestamp int64, err error)
}

// Groups is what the protocol needs of group.Coordinator. Codes are Kafka's; an error is the context's.
type Groups interface {
	Offsets
	// OwnerOf says which agent coordinates a group: its node id, -1 where nobody does, or nobody knows.
	OwnerOf(group string) (nodeID int32, mine bool)
	// Join and Sync wait for the other members.
	Join(ctx context.Context, group string, req classic.JoinRequest) (*classic.Joined, step.Code, error)
	Sync(ctx context.Context, group string, req classic.SyncRequest) (*classic.Synced, step.Code, error)
	Heartbeat(ctx context.Context, group, memberID, instanceID string, generation int32) (step.Code, error)
	// Leave returns a code for each member, or one for all.
	Leave(ctx context.Context, group string, members []classic.LeaveRequest) ([]step.Code, step.Code, error)
	// ConsumerHeartbeat and DescribeConsumer are for groups of the consumer protocol. Of a refusal there is the message.
	ConsumerHeartbeat(ctx context.Context, group string, req consumer.Heartbeat) (consumer.HeartbeatAnswer, step.Code, error)
	DescribeConsumer(ctx context.Context, group string) (consumer.Description, step.Code, error)
}

// Traffic learns what went through each topic. It must be safe for concurrent use and must not block.
type Traffic interface {
	// Produced: records of the topic were acknowledged.
	Produced(topic entry.UUID, records, bytes int64)
	// Fetched: records of the topic are in an answer.
	Fetched(topic entry.UUID, records, bytes int64)
}

// noTraffic is the default.
type noTraffic struct{}

func (noTraffic) Produced(entry.UUID, int64, int64) {}
func (noTraffic) Fetched(entry.UUID, int64, int64)  {}

// KafkaRequestBytesMax is the largest request that a Kafka broker takes with its own defaults, and so the largest that clients build
// with theirs.
const KafkaRequestBytesMax = 100 << 20

// Config are the tunables; the zero value of each is its default.
type Config struct {
	// ProduceBytesMax bounds a Produce request, RequestBytesMax any other. Defaults 100 MiB, as Kafka has it, and 2 MiB.
	ProduceBytesMax int
	RequestBytesMax int
	// ProduceTimeoutMin and ProduceTimeoutMax are the bounds within which a Produce request's own timeout counts: how long its
	// answer may wait for the bucket and the metastore. Defaults 1 s and 2 min.
	ProduceTimeoutMin, ProduceTimeoutMax time.Duration
	// ConnectionInFlightBytes and InFlightBytes bound the requests read and not given back, per connection and in all. One that
	// is larger than a connection may have comes alone. Defaults 32 MiB and 128 MiB.
	ConnectionInFlightBytes int
	InFlightBytes           int
	// ConnectionRequests bounds the requests of a connection that are not answered. Default 64.
	ConnectionRequests int
	// StrangerBytes bounds, for all connections, requests that are larger than any that their connection has sent before, by
	// what has come of them. Default 32 MiB.
	StrangerBytes int
	// QueuedBytes bounds, for all connections, small requests that carry no records. Default 16 MiB.
	QueuedBytes int
	// Connections bounds the connections, ConnectionsPerAddress those of one IP address (or IPv6 /64). More are closed at
	// once, but a newcomer displaces the oldest one that never asked for anything. Defaults 10 000 and as many.
	Connections           int
	ConnectionsPerAddress int
	// AcceptsPerSecond is how many connections of one address are served a second; more wait, and are not refused.
	// Default 1000.
	AcceptsPerSecond int
	// TrustedProxies are the load balancers' networks: they may say by the PROXY protocol whom they speak for, and where they do
	// not, bounds of one address are not theirs.
	TrustedProxies []netip.Prefix
	// ClientZones are where clients are that do not say so themselves; no network twice.
	ClientZones []ClientZone
	// FirstRequestBytesMax bounds the first request of a connection unless it is a Produce, and FirstRequestTimeout the time
	// until it is there. Defaults 64 KiB and 30 s.
	FirstRequestBytesMax int
	FirstRequestTimeout  time.Duration
	// PressureTimeout bounds the time for 256 KiB of a request or an answer while others wait for the memory that it takes.
	// Default 5 s.
	PressureTimeout time.Duration
	// MaxAge is about how old a connection gets, a tenth more or less, before it is closed at a quiet moment: its client comes
	// again, to whichever agent it finds then. Default 1 h.
	MaxAge time.Duration
	// KeepAliveIdle is how long a connection is silent before the system asks whether its client is there, KeepAliveInterval how
	// long it waits for an answer, and KeepAliveCount how often it asks. Defaults 30 s, 10 s and 6.
	KeepAliveIdle, KeepAliveInterval time.Duration
	KeepAliveCount                   int
	// IdleTimeout closes a connection without requests. Default 10 min.
	IdleTimeout time.Duration
	// FrameTimeout bounds the time from a request's first byte to its last, or to the next 256 KiB of it; where others wait, for all of
	// one beyond 16 MiB. Default 30 s.
	FrameTimeout time.Duration
	// StallTimeout bounds the time in which a client must take 256 KiB of an answer. Default 60 s.
	StallTimeout time.Duration

	// WorkBytes bounds what is made of requests until they are answered: decoded requests, what handlers keep, and answers,
	// of all connections and but for records. Default 32 MiB.
	WorkBytes int
	// DecompressBytes bounds what decompressing batches to check them takes at a time. Default 32 MiB.
	DecompressBytes int
	// FetchBytesMax bounds the records of one answer whatever the client asks for; FetchInFlightBytes those of all answers
	// that are being put together or written. Defaults 16 MiB and 64 MiB.
	FetchBytesMax      int
	FetchInFlightBytes int
	// FetchWaitMax bounds a long poll, FetchReadTimeout the reads of one answer. Defaults 5 min and 10 s.
	FetchWaitMax     time.Duration
	FetchReadTimeout time.Duration
	// FetchSessions bounds the incremental fetch sessions kept; past it, one that was not used for two minutes
	// makes room, and where there is none, fetches are full ones. FetchSessionBytes bounds what they take, by the number of
	// their partitions. Defaults 1000 and 16 MiB.
	FetchSessions     int
	FetchSessionBytes int

	// Balancer is where a load balancer with all agents behind it is, for each listener; empty: there is none. Clients then see
	// the agents as one broker, and what is another agent's to answer is passed on to it by Peers, which is needed then.
	Balancer []entry.Listener
	Peers    Peers
	// OffsetMetadataMax bounds what a client commits beside an offset, in bytes. Default 4096.
	OffsetMetadataMax int

	// LockFault says why no topic can have an object lock, "" where that is possible or not known; nil: not known.
	LockFault func() string
	// ClassFault says why no topic can be given the storage classes of settings, "" where that is possible or not known; nil: not known.
	ClassFault func(*topicconfig.Settings) string

	// LogDir is the one log directory that tools are shown. Default "bucket".
	LogDir string

	// AutoCreateTopics lets a Metadata request that asks for it create topics.
	AutoCreateTopics bool
	// DefaultPartitions and DefaultReplicationFactor are for topics that leave it open. Defaults 1 and 1.
	DefaultPartitions        int32
	DefaultReplicationFactor int16
	// PartitionsMax bounds the partitions of a topic. Default 10 000.
	PartitionsMax int32
	// BarrierTimeout bounds a read barrier, ProposeTimeout a change; clients are then told to try again. Defaults 5 s, 30 s.
	BarrierTimeout time.Duration
	ProposeTimeout time.Duration

	// Logger gets one line per change of condition and per connection closed for its fault. Default: discard.
	Logger *slog.Logger
	// Metrics and Traffic may be nil.
	Metrics *Metrics
	Traffic Traffic
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	bound := func(name string, v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
		if *v < 0 {
			errs = append(errs, fmt.Errorf("kafka: %s is negative: %d", name, *v))
		}
	}
	count := func(name string, v *int, def int64) {
		w := int64(*v)
		bound(name, &w, def)
		*v = int(w)
	}
	period := func(name string, v *time.Duration, def time.Duration) { bound(name, (*int64)(v), int64(def)) }
	count("produce bytes max", &c.ProduceBytesMax, KafkaRequestBytesMax)
	count("request bytes max", &c.RequestBytesMax, 2<<20)
	count("connection in-flight bytes", &c.ConnectionInFlightBytes, 32<<20)
	count("in-flight bytes", &c.InFlightBytes, 128<<20)
	count("connection requests", &c.ConnectionRequests, 64)
	count("stranger bytes", &c.StrangerBytes, 32<<20)
	count("queued bytes", &c.QueuedBytes, 16<<20)
	count("connections", &c.Connections, 10_000)
	count("connections per address", &c.ConnectionsPerAddress, int64(c.Connections))
	count("accepts per second", &c.AcceptsPerSecond, 1000)
	count("first request bytes max", &c.FirstRequestBytesMax, 64<<10)
	count("decompress bytes", &c.DecompressBytes, 32<<20)
	count("work bytes", &c.WorkBytes, 32<<20)
	count("fetch bytes max", &c.FetchBytesMax, 16<<20)
	count("fetch in-flight bytes", &c.FetchInFlightBytes, 64<<20)
	count("keepalive count", &c.KeepAliveCount, 6)
	count("fetch sessions", &c.FetchSessions, 1000)
	count("offset metadata max", &c.OffsetMetadataMax, 4096)
	count("fetch session bytes", &c.FetchSessionBytes, 16<<20)
	period("max age", &c.MaxAge, time.Hour)
	period("keepalive idle", &c.KeepAliveIdle, 30*time.Second)
	period("keepalive interval", &c.KeepAliveInterval, 10*time.Second)
	period("idle timeout", &c.IdleTimeout, 10*time.Minute)
	period("frame timeout", &c.FrameTimeout, 30*time.Second)
	period("first request timeout", &c.FirstRequestTimeout, 30*time.Second)
	period("pressure timeout", &c.PressureTimeout, 5*time.Second)
	period("stall timeout", &c.StallTimeout, time.Minute)
	period("fetch wait max", &c.FetchWaitMax, 5*time.Minute)
	period("fetch read timeout", &c.FetchReadTimeout, 10*time.Second)
	period("produce timeout min", &c.ProduceTimeoutMin, time.Second)
	period("produce timeout max", &c.ProduceTimeoutMax, 2*time.Minute)
	period("barrier timeout", &c.BarrierTimeout, 5*time.Second)
	period("propose timeout", &c.ProposeTimeout, 30*time.Second)
	if c.LogDir == "" {
		c.LogDir = "bucket"
	}
	if c.DefaultPartitions == 0 {
		c.DefaultPartitions = 1
	}
	if c.DefaultReplicationFactor == 0 {
		c.DefaultReplicationFactor = 1
	}
	if c.PartitionsMax == 0 {
		c.PartitionsMax = 10_000
	}
	var err error
	if c.ClientZones, err = sortClientZones(c.ClientZones); err != nil {
		errs = append(errs, fmt.Errorf("kafka: client zones: %w", err))
	}
	frame := max(c.ProduceBytesMax, c.RequestBytesMax)
	usual := min(frame, largeRequest)
	for _, problem := range []struct {
		is   bool
		what string
	}{
		{c.ConnectionInFlightBytes < usual, "connection in-flight bytes are below the largest request, or 16 MiB"},
		{c.InFlightBytes < usual || c.InFlightBytes < frame/2, "in-flight bytes are below the largest request of up to 16 MiB, or half of a larger one"},
		{c.ProduceTimeoutMax < c.ProduceTimeoutMin, "produce timeout max is below produce timeout min"},
		{c.StrangerBytes < usual, "stranger bytes are below the largest request, or 16 MiB"},
		{c.QueuedBytes < frameStep, "queued bytes are below 64 KiB"},
		{frame > 1<<30, "the largest request exceeds 1 GiB"},
		{c.FetchInFlightBytes < c.FetchBytesMax, "fetch in-flight bytes are below fetch bytes max"},
		{c.FetchBytesMax > 1<<30, "fetch bytes max exceed 1 GiB"},
		{c.DefaultPartitions < 1 || c.DefaultPartitions > c.PartitionsMax, "default partitions are not in 1 to partitions max"},
		{len(c.Balancer) > 0 && c.Peers == nil, "behind a load balancer agents pass requests on to each other, and there is no way to"},
		{c.DefaultReplicationFactor < 1, "default replication factor is below 1"},
	} {
		if problem.is {
			errs = append(errs, errors.New("kafka: "+problem.what))
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	if c.Traffic == nil {
		c.Traffic = noTraffic{}
	}
	return errors.Join(errs...)
}

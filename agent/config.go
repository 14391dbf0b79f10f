package agent

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/state"
)

// Config are an agent's settings. The zero value of a number is its default; Validate reports every problem at once.
//
// To add a setting: a field here, its row in Tunables, and the line below that hands it to its room. Flag, environment
// variable, key of the configuration file and documentation follow from the row; tests say what was forgotten.
type Config struct {
	// Name is the agent's stable name. Required.
	Name string
	// Advertise is the host:port that clients of the listener without a name are sent to. Required where there are no Listeners.
	Advertise string
	// Listeners are those with names.
	Listeners []Listener
	// AdvertiseMode says whether Advertise is this agent's own address or a load balancer's. AdvertiseDirect where empty.
	AdvertiseMode AdvertiseMode
	// Internal is the host:port by which other agents reach this one; empty where it has none to do with.
	Internal string
	// TrustedProxies are addresses and networks (10.0.0.0/8) of load balancers; see kafka.Config.
	TrustedProxies []string
	// ClientZones say where clients are that do not say so themselves, as network=zone.
	ClientZones []string
	// Zone is where the agent runs; empty where that does not matter.
	Zone string
	// Version is the build, for people.
	Version string

	// AutoCreateTopics lets a Metadata or produce request make a topic, with DefaultPartitions and DefaultReplicationFactor.
	AutoCreateTopics         bool
	DefaultPartitions        int
	DefaultReplicationFactor int16
	PartitionsMax            int32

	// What is produced, from the client to the bucket; see ingest.Config.
	SegmentBytes   int
	FlushInterval  time.Duration
	UploadSlots    int
	EagerUploads   int
	StageBytes     int64
	UploadTimeout  time.Duration
	UploadRetryMin time.Duration
	UploadRetryMax time.Duration
	GapWait        time.Duration
	// CompressSegments spends CPU to store less; see ingest.Config.
	CompressSegments bool
	// WALBytes bounds the write-ahead log's disk space.
	WALBytes int64

	// The read cache; see fetch.Config.
	CacheBytes      int64
	CacheHotBytes   int64
	CacheWholeBytes int64
	CacheRunBytes   int64
	CacheRetryMin   time.Duration
	CacheRetryMax   time.Duration
	ReadAhead       int
	ReadTimeout     time.Duration
	ColdReads       int
	ColdBytes       int64

	// What agents give each other of the bucket; see fetch.Config.
	CacheBorrowedBytes int64
	PeerSliceBytes     int64
	PeerCrossZoneBytes int64
	PeerServeBytes     int64
	PeerServeRequests  int
	PeerTimeout        time.Duration
	PeerHedgeMin       time.Duration
	PeerHedgeMax       time.Duration

	// MemoryLimit is what the agent's budgets add up to less than; those that are not set follow from it. See memory.go.
	MemoryLimit int64

	// Limits of the Kafka listener; see kafka.Config. RequestBytes bounds one produce request.
	RequestBytes            int
	OtherRequestBytes       int
	ConnectionInFlightBytes int
	InFlightBytes           int
	ConnectionRequests      int
	Connections             int
	ConnectionsPerAddress   int
	AcceptsPerSecond        int
	FirstRequestBytes       int
	FirstRequestTimeout     time.Duration
	PressureTimeout         time.Duration
	StrangerBytes           int
	QueuedBytes             int
	WorkBytes               int
	DecompressBytes         int
	FetchSessionBytes       int
	IdleTimeout             time.Duration
	ConnectionsMaxAge       time.Duration
	KeepAliveIdle           time.Duration
	KeepAliveInterval       time.Duration
	KeepAliveCount          int
	FrameTimeout            time.Duration
	StallTimeout            time.Duration
	ProduceTimeoutMin       time.Duration
	ProduceTimeoutMax       time.Duration
	FetchBytes              int
	FetchInFlightBytes      int
	FetchWait               time.Duration
	FetchReadTimeout        time.Duration
	FetchSessions           int
	BarrierTimeout          time.Duration
	ProposeTimeout          time.Duration

	// Consumer groups; see classic.Config and group.Config.
	GroupSizeMax      int
	GroupSessionMin   time.Duration
	GroupSessionMax   time.Duration
	GroupInitialDelay time.Duration
	OffsetsRetention  time.Duration
	OffsetsExpire     time.Duration
	OffsetMetadataMax int
	// Those of the consumer protocol; see consumer.Config. GroupMigration is one of its policies by name; bidirectional where empty.
	ConsumerHeartbeatInterval time.Duration
	ConsumerSessionTimeout    time.Duration
	GroupMigration            string

	// Background duties: merging, key compaction, retention, collection; see the rooms below compaction. CompressMerged compresses
	// what shrinks of what is merged.
	CompressMerged     bool
	DutyReads          int
	DutyBytes          int64
	ScratchBytes       int64
	MergeAfter         time.Duration
	MergeWindowMin     int64
	MergeWindowMax     int64
	MergeObjectBytes   int64
	MergeOwnBytes      int64
	MergeRescan        time.Duration
	KeyBytes           int64
	KeyInterval        time.Duration
	RetentionInterval  time.Duration
	CollectionInterval time.Duration
	SweepInterval      time.Duration
	DeletesPerHour     int
	OrphanPercent      int
	OrphansFree        int
	ScrubBytes         int64
	ScrubPass          time.Duration
	LifecycleInterval  time.Duration

	// The metastore; see metastore.Config.
	RegistrationTTL time.Duration
	EntryBytes      int
	TickInterval    time.Duration
	ArchiveInterval time.Duration
	HistoryKeep     time.Duration
	SnapshotEntries int
	SnapshotBytes   int
	TrimMargin      int
	WatchSilence    time.Duration
	HeadLag         time.Duration
	LevelPatience   time.Duration

	// MetricsDetail is how far metrics of topics go; DetailTopic where empty. MetricsSeries bounds the series that topics and
	// partitions make; those there is no room for are counted together.
	MetricsDetail Detail
	MetricsSeries int

	// HTTPConnections bounds the connections of health, metrics and profiles.
	HTTPConnections int
	// DrainTimeout bounds a drain, DrainNotice how long an agent that drains goes on to serve with /readyz false.
	DrainTimeout time.Duration
	DrainNotice  time.Duration
}

// Unit is what a Tunable counts.
type Unit uint8

// The units.
const (
	Count Unit = iota
	Bytes
	Duration // nanoseconds
)

// Tunable is one number of a Config.
type Tunable struct {
	Name  string // as operators write it
	Group string // heading in the documentation
	Help  string
	Unit  Unit
	// Default is what a zero stands for. It may depend on other numbers of the same Config.
	Default, Min, Max int64
	Field             any // pointer to the field

	Get func() int64
	Set func(int64)
}

// Headings of Tunables.
const (
	GroupTopics    = "Topics"
	GroupProduce   = "Producing"
	GroupFetch     = "Fetching"
	GroupKafka     = "Kafka connections and requests"
	GroupGroups    = "Consumer groups"
	GroupMetastore = "Metastore"
	GroupDuties    = "Background duties"
	GroupProcess   = "Process"
)

// table collects rows.
type table struct {
	rows  []Tunable
	group string
}

func row[T ~int | ~int16 | ~int32 | ~int64](t *table, name string, field *T, unit Unit, def, least, most T, help string) {
	t.rows = append(t.rows, Tunable{
		Name: name, Group: t.group, Help: help, Unit: unit, Default: int64(def), Min: int64(least), Max: int64(most), Field: field,
		Get: func() int64 { return int64(*field) }, Set: func(v int64) { *field = T(v) },
	})
}

// produceTimeoutBound is less than the time for which a restore of the metastore takes uploads of agents that are gone for
// acknowledged, see metastore.Restore.
const produceTimeoutBound = 4 * time.Minute

// Tunables are all numbers of c, each once, with the defaults that the rooms themselves have and the bounds that make sense
// to an operator.
func (c *Config) Tunables() []Tunable {
	in, cache, srv, meta := roomDefaults()
	var coord group.Config
	_ = coord.Validate() // fills in defaults
	grp, con := &coord.Classic, &coord.Consumer
	share := c.shares()
	// What holds requests is sized for usual ones. Who asks for larger ones than the memory limit gives gets room for them.
	request := min(cmp.Or(c.RequestBytes, share.request), usualRequest)
	if c.RequestBytes > share.request {
		request = c.RequestBytes
	}
	t := &table{}

	t.group = GroupTopics
	row(t, "default-partitions", &c.DefaultPartitions, Count, int(srv.DefaultPartitions), 1, 10_000, "partitions of a topic that is made without a number")
	row(t, "default-replication-factor", &c.DefaultReplicationFactor, Count, srv.DefaultReplicationFactor, 1, 100,
		"replication factor that is reported for topics made without one; the bucket replicates")
	row(t, "partitions-max", &c.PartitionsMax, Count, srv.PartitionsMax, 1, 100_000, "most partitions of a topic")

	t.group = GroupProduce
	row(t, "segment-bytes", &c.SegmentBytes, Bytes, in.TargetBytes, 64<<10, 64<<20, "raw size at which a segment is uploaded")
	row(t, "flush-interval", &c.FlushInterval, Duration, in.FlushInterval, time.Millisecond, time.Minute,
		"longest that a record waits for company; a lone producer never waits")
	row(t, "upload-slots", &c.UploadSlots, Count, in.UploadSlots, 1, 256, "uploads at once")
	row(t, "eager-uploads", &c.EagerUploads, Count, in.EagerUploads, 1, 256,
		"while fewer uploads than this run, a record waits for nothing; more of them buy latency with requests")
	row(t, "stage-bytes", &c.StageBytes, Bytes, share.stage, 1<<20, 1<<40,
		"record batches held in memory before they spill to the write-ahead log; an eighth of --memory-limit where not set")
	row(t, "wal-bytes", &c.WALBytes, Bytes, 1<<30, 64<<20, 1<<50, "disk space of the write-ahead log; beyond it producers wait")
	row(t, "upload-timeout", &c.UploadTimeout, Duration, in.UploadTimeout, time.Second, 10*time.Minute, "bound of one attempt of an upload; it is then tried again")
	row(t, "upload-retry-min", &c.UploadRetryMin, Duration, in.RetryMin, time.Millisecond, time.Minute, "first pause between attempts of an upload; it doubles")
	row(t, "upload-retry-max", &c.UploadRetryMax, Duration, in.RetryMax, time.Millisecond, 10*time.Minute, "longest pause between attempts of an upload")
	row(t, "gap-wait", &c.GapWait, Duration, in.GapWait, 10*time.Millisecond, time.Minute,
		"how long an idempotent producer's batch waits for the one before it, which may have gone to another agent")

	t.group = GroupFetch
	row(t, "cache-bytes", &c.CacheBytes, Bytes, share.cache, 1<<20, 1<<40, "size of the read cache; a quarter of --memory-limit where not set")
	row(t, "cache-hot-bytes", &c.CacheHotBytes, Bytes, cmp.Or(c.CacheBytes, share.cache)/2, 64<<10, 1<<40,
		"part of the read cache for what was just written, which reads of old data cannot evict; half of --cache-bytes where not set")
	row(t, "cache-whole-bytes", &c.CacheWholeBytes, Bytes, cache.WholeBytes, 64<<10, 1<<30, "objects up to this size are read from the bucket whole")
	row(t, "cache-run-bytes", &c.CacheRunBytes, Bytes, cache.RunBytes, 64<<10, 1<<30, "how much of a larger object is read at once")
	row(t, "cache-retry-min", &c.CacheRetryMin, Duration, cache.RetryMin, time.Millisecond, time.Minute, "first pause between attempts of a read from the bucket; it doubles")
	row(t, "cache-retry-max", &c.CacheRetryMax, Duration, cache.RetryMax, time.Millisecond, 10*time.Minute, "longest pause between attempts of a read from the bucket")
	row(t, "read-ahead", &c.ReadAhead, Count, cache.ReadAhead, 1, 1024, "reads from the bucket, of what comes next, that nobody waits for yet")
	row(t, "read-timeout", &c.ReadTimeout, Duration, cache.LoadTimeout, time.Second, 10*time.Minute, "bound of one read from the bucket with its attempts")
	row(t, "cold-reads", &c.ColdReads, Count, cache.ColdReads, 1, 1024,
		"reads from the bucket at once that replays of old data get beside others, and a few more, as memory allows, where there are none; the rest wait, and tail readers and uploads never do")
	row(t, "cold-bytes", &c.ColdBytes, Bytes, cache.ColdBytes, 64<<10, 1<<40,
		"what replays of old data get a second beside producers and tail readers on a machine that has nothing to spare; they get more where it has")
	row(t, "cache-borrowed-bytes", &c.CacheBorrowedBytes, Bytes, cmp.Or(c.CacheBytes, share.cache)/8, 64<<10, 1<<40,
		"part of the read cache for what other agents gave, which they keep too; an eighth of --cache-bytes where not set")
	row(t, "peer-slice-bytes", &c.PeerSliceBytes, Bytes, cache.SliceBytes, 4<<10, 8<<20, "how much is read from another agent at once")
	row(t, "peer-cross-zone-bytes", &c.PeerCrossZoneBytes, Bytes, cache.CrossZoneBytes, 1, 1<<30,
		"objects up to this size are read from the agent that uploaded them although it is in another zone; larger ones cost more than a read from the bucket")
	row(t, "peer-serve-bytes", &c.PeerServeBytes, Bytes, share.serve, 1<<20, 1<<40,
		"what is on its way to other agents; a 64th of --memory-limit where not set")
	row(t, "peer-serve-requests", &c.PeerServeRequests, Count, cache.ServeRequests, 1, 10_000, "reads of other agents that are served at once, of tail and old data each")
	row(t, "peer-timeout", &c.PeerTimeout, Duration, cache.PeerTimeout, 10*time.Millisecond, time.Minute, "longest wait for another agent before the bucket is read")
	row(t, "peer-hedge-min", &c.PeerHedgeMin, Duration, cache.HedgeMin, time.Millisecond, time.Minute,
		"an agent that is slow to give is overtaken by a read from the bucket, but not before this")
	row(t, "peer-hedge-max", &c.PeerHedgeMax, Duration, cache.HedgeMax, time.Millisecond, time.Minute, "and after this at the latest, as far as such reads have not become too many")
	row(t, "fetch-bytes", &c.FetchBytes, Bytes, min(srv.FetchBytesMax, share.answers), 64<<10, 1<<30,
		"most records in one answer, whatever the client asks for")
	row(t, "fetch-in-flight-bytes", &c.FetchInFlightBytes, Bytes, max(share.answers, c.FetchBytes), 1<<20, 1<<40,
		"records in all answers that are being put together or written; an eighth of --memory-limit where not set")
	row(t, "fetch-wait", &c.FetchWait, Duration, srv.FetchWaitMax, time.Millisecond, time.Hour, "longest long poll, whatever the client asks for")
	row(t, "fetch-read-timeout", &c.FetchReadTimeout, Duration, srv.FetchReadTimeout, 100*time.Millisecond, 10*time.Minute, "bound of the reads of one answer")
	row(t, "fetch-sessions", &c.FetchSessions, Count, srv.FetchSessions, 1, 1_000_000, "incremental fetch sessions kept")
	row(t, "fetch-session-bytes", &c.FetchSessionBytes, Bytes, share.sessions, 64<<10, 1<<40,
		"what fetch sessions may take; those that find no room are served without; a 32nd of --memory-limit where not set")

	t.group = GroupKafka
	row(t, "connections", &c.Connections, Count, srv.Connections, 1, 1_000_000,
		"open connections; more are closed at once, but for a newcomer the oldest one that never asked for anything makes room")
	row(t, "connections-per-address", &c.ConnectionsPerAddress, Count, cmp.Or(c.Connections, srv.Connections), 1, 1_000_000,
		"open connections of one IP address, or of one /64 of IPv6; as many as --connections where not set")
	row(t, "accepts-per-second", &c.AcceptsPerSecond, Count, srv.AcceptsPerSecond, 1, 1_000_000,
		"new connections of one IP address that are served a second; more wait, none is refused")
	row(t, "first-request-bytes", &c.FirstRequestBytes, Bytes, srv.FirstRequestBytesMax, 1<<10, 1<<30, "largest first request of a connection, unless it brings records")
	row(t, "first-request-timeout", &c.FirstRequestTimeout, Duration, srv.FirstRequestTimeout, 100*time.Millisecond, time.Hour, "a connection is closed that has not sent a request after this")
	row(t, "connection-requests", &c.ConnectionRequests, Count, srv.ConnectionRequests, 1, 10_000, "requests of a connection that are not answered yet; no more are read before one is")
	row(t, "request-bytes", &c.RequestBytes, Bytes, share.request, 64<<10, 1<<30,
		"largest produce request; a fifth of --memory-limit where not set, 16 MiB at least, and 100 MiB, as Kafka has it, or twice --in-flight-bytes at most")
	row(t, "other-request-bytes", &c.OtherRequestBytes, Bytes, srv.RequestBytesMax, 64<<10, 1<<30, "largest request of any other kind")
	row(t, "connection-in-flight-bytes", &c.ConnectionInFlightBytes, Bytes, max(srv.ConnectionInFlightBytes, 2*request), 64<<10, 1<<40,
		"requests read and not done with, per connection; a larger one comes alone; at least twice --request-bytes where that was set to more than its default")
	row(t, "in-flight-bytes", &c.InFlightBytes, Bytes, max(share.requests, 2*request), 1<<20, 1<<40,
		"requests with records, read and not done with, in all; three 16ths of --memory-limit where not set, at least 32 MiB, and twice --request-bytes where that was set to more than its default")
	row(t, "stranger-bytes", &c.StrangerBytes, Bytes, max(share.strangers, min(request, usualRequest)), 64<<10, 1<<40,
		"of requests that are larger than any that their connection has sent before, what has come, in all; a 16th of --memory-limit where not set, at least 16 MiB or --request-bytes")
	row(t, "queued-bytes", &c.QueuedBytes, Bytes, share.queued, 64<<10, 1<<40, "small requests that were read, in all; a 32nd of --memory-limit where not set")
	row(t, "work-bytes", &c.WorkBytes, Bytes, share.work, 1<<20, 1<<40, "what is made of requests until they are answered, records apart; a 16th of --memory-limit where not set")
	row(t, "decompress-bytes", &c.DecompressBytes, Bytes, share.decompress, 1<<20, 1<<40,
		"what decompressing produced batches to check them may take at a time; a 16th of --memory-limit where not set")
	row(t, "produce-timeout-min", &c.ProduceTimeoutMin, Duration, srv.ProduceTimeoutMin, 100*time.Millisecond, produceTimeoutBound,
		"a produce waits this long for its outcome even where the client asks for less")
	row(t, "produce-timeout-max", &c.ProduceTimeoutMax, Duration, srv.ProduceTimeoutMax, time.Second, produceTimeoutBound,
		"and no longer than this, whatever the client asks for; it is then told to try again")
	row(t, "idle-timeout", &c.IdleTimeout, Duration, srv.IdleTimeout, time.Second, 24*time.Hour, "a connection without requests is closed after this")
	row(t, "connections-max-age", &c.ConnectionsMaxAge, Duration, srv.MaxAge, time.Second, 365*24*time.Hour,
		"how old a connection gets, a tenth more or less, before it is closed at a quiet moment, so that its client comes again to an agent of then")
	row(t, "keepalive-idle", &c.KeepAliveIdle, Duration, srv.KeepAliveIdle, time.Second, time.Hour, "how long a connection is silent before TCP asks whether its client is there")
	row(t, "keepalive-interval", &c.KeepAliveInterval, Duration, srv.KeepAliveInterval, time.Second, time.Hour, "how long TCP waits for an answer to that")
	row(t, "keepalive-count", &c.KeepAliveCount, Count, srv.KeepAliveCount, 1, 100, "how often TCP asks in vain before the connection is closed")
	row(t, "frame-timeout", &c.FrameTimeout, Duration, srv.FrameTimeout, 100*time.Millisecond, time.Hour, "longest from a request's first byte to its last, or to the next 256 KiB of it; where others wait, for all of one beyond 16 MiB")
	row(t, "stall-timeout", &c.StallTimeout, Duration, srv.StallTimeout, 100*time.Millisecond, time.Hour, "longest that a client may take for 256 KiB of an answer")
	row(t, "pressure-timeout", &c.PressureTimeout, Duration, srv.PressureTimeout, 100*time.Millisecond, time.Hour,
		"longest that it may take for 256 KiB, sent or received, while others wait for the memory that it holds")

	t.group = GroupGroups
	row(t, "group-size-max", &c.GroupSizeMax, Count, grp.SizeMax, 1, state.MaxGroupMembers, "most members of a consumer group")
	row(t, "group-session-min", &c.GroupSessionMin, Duration, grp.SessionMin, time.Second, time.Hour, "shortest session timeout that a member of a consumer group may ask for")
	row(t, "group-session-max", &c.GroupSessionMax, Duration, grp.SessionMax, time.Second, 24*time.Hour, "longest session timeout that it may ask for")
	row(t, "consumer-heartbeat-interval", &c.ConsumerHeartbeatInterval, Duration, con.HeartbeatInterval, 50*time.Millisecond, time.Minute,
		"how often members of the consumer protocol (KIP-848) send heartbeats, and so hear of what has changed")
	row(t, "consumer-session-timeout", &c.ConsumerSessionTimeout, Duration, con.SessionTimeout, time.Second, time.Hour,
		"how long they may be silent before what they own goes to others")
	row(t, "group-initial-delay", &c.GroupInitialDelay, Duration, 500*time.Millisecond, time.Millisecond, time.Minute,
		"how long the first member of a consumer group waits for others, and again as long as more come, before they share the partitions")
	row(t, "offsets-retention", &c.OffsetsRetention, Duration, coord.OffsetsRetention, time.Minute, 10*365*24*time.Hour,
		"how long a consumer group without members keeps the offsets that it committed")
	row(t, "offsets-expire-interval", &c.OffsetsExpire, Duration, coord.ExpireInterval, time.Second, 24*time.Hour, "how often offsets beyond that are looked for")
	row(t, "offset-metadata-max", &c.OffsetMetadataMax, Bytes, srv.OffsetMetadataMax, 1, state.MaxOffsetMetadata, "most metadata beside a committed offset")

	c.dutyTunables(t)

	t.group = GroupMetastore
	row(t, "barrier-timeout", &c.BarrierTimeout, Duration, srv.BarrierTimeout, 100*time.Millisecond, time.Minute,
		"bound of a read that must see everything acknowledged elsewhere; clients are then told to try again")
	row(t, "propose-timeout", &c.ProposeTimeout, Duration, srv.ProposeTimeout, time.Second, 10*time.Minute, "bound of a change; clients are then told to try again")
	row(t, "registration-ttl", &c.RegistrationTTL, Duration, meta.RegistrationTTL, 2*time.Second, 10*time.Minute, "how long a silent agent counts as alive")
	row(t, "entry-bytes", &c.EntryBytes, Bytes, meta.EntryBytes, 4<<10, 512<<10, "where packing more ops into an entry stops")
	row(t, "tick-interval", &c.TickInterval, Duration, meta.TickInterval, time.Second, 10*time.Minute, "how often a silent agent reports its clock")
	row(t, "archive-interval", &c.ArchiveInterval, Duration, meta.ArchiveInterval, 100*time.Millisecond, 10*time.Minute,
		"how often new entries are archived to the bucket: what the loss of all of etcd may cost")
	row(t, "snapshot-entries", &c.SnapshotEntries, Count, meta.SnapshotEntries, 100, 10_000_000, "entries after which there is a new snapshot")
	row(t, "snapshot-bytes", &c.SnapshotBytes, Bytes, meta.SnapshotBytes, 1<<20, 16<<30, "bytes of entries after which there is a new snapshot")
	row(t, "trim-margin", &c.TrimMargin, Count, meta.TrimMargin, 100, 10_000_000, "entries below the snapshot that stay in etcd for slow watchers")
	row(t, "history-keep", &c.HistoryKeep, Duration, meta.HistoryKeep, time.Hour, 10*365*24*time.Hour,
		"for how long the bucket keeps entries of the log that a snapshot stands in for")
	row(t, "watch-silence", &c.WatchSilence, Duration, meta.WatchSilence, 500*time.Millisecond, time.Minute, "a watch that is silent for this long is dropped and made anew")
	row(t, "level-patience", &c.LevelPatience, Duration, meta.LevelPatience, time.Second, 24*time.Hour,
		"how long every agent must have supported a higher feature level before the cluster moves to it, and older agents can start no more")
	row(t, "head-lag", &c.HeadLag, Duration, meta.HeadLag, 100*time.Millisecond, time.Minute, "a watch that trails the log's head for this long is dropped and made anew")

	t.group = GroupProcess
	row(t, "memory-limit", &c.MemoryLimit, Bytes, memoryDefault, 128<<20, 1<<44,
		"memory of the process under any load, apart from the cluster's metadata: budgets that are not set are shares of it, and the garbage collector works harder near it")
	row(t, "metrics-series", &c.MetricsSeries, Count, 10_000, 100, 10_000_000,
		"most series that topics and partitions make in /metrics; those there is no room for are counted together")
	row(t, "http-connections", &c.HTTPConnections, Count, 256, 1, 100_000,
		"open connections of health, metrics and profiles; for one more the oldest that is idle makes room, or it is closed")
	notice := time.Millisecond
	if c.AdvertiseMode == AdvertiseProxy {
		notice = 3 * time.Second
	}
	row(t, "drain-notice", &c.DrainNotice, Duration, notice, time.Millisecond, 10*time.Minute,
		"how long an agent that drains goes on to serve everybody while /readyz is false, so that load balancers notice; 3s with --advertise-mode proxy where not set")
	row(t, "drain-timeout", &c.DrainTimeout, Duration, 30*time.Second, time.Second, time.Hour, "longest that a drain may take")
	return t.rows
}

// roomDefaults are the rooms' configurations as an agent without settings would give them.
func roomDefaults() (ingest.Config, fetch.Config, kafka.Config, metastore.Config) {
	var (
		in    ingest.Config
		cache fetch.Config
		srv   kafka.Config
		meta  metastore.Config
	)
	// What is required is missing, and not asked for.
	for _, room := range []interface{ Validate() error }{&in, &cache, &srv, &meta} {
		_ = room.Validate()
	}
	return in, cache, srv, meta
}

func (c *Config) ingest() ingest.Config {
	return ingest.Config{
		TargetBytes: c.SegmentBytes, FlushInterval: c.FlushInterval, UploadSlots: c.UploadSlots, EagerUploads: c.EagerUploads,
		MemoryBytes: c.StageBytes, UploadTimeout: c.UploadTimeout, RetryMin: c.UploadRetryMin, RetryMax: c.UploadRetryMax,
		GapWait: c.GapWait, Compress: c.CompressSegments,
	}
}

func (c *Config) fetch() fetch.Config {
	return fetch.Config{
		Bytes: c.CacheBytes, HotBytes: c.CacheHotBytes, WholeBytes: c.CacheWholeBytes, RunBytes: c.CacheRunBytes,
		ReadAhead: c.ReadAhead, RetryMin: c.CacheRetryMin, RetryMax: c.CacheRetryMax, LoadTimeout: c.ReadTimeout, BarrierTimeout: c.BarrierTimeout,
		ColdReads: c.ColdReads, ColdBytes: c.ColdBytes, BorrowedBytes: c.CacheBorrowedBytes, SliceBytes: c.PeerSliceBytes, CrossZoneBytes: c.PeerCrossZoneBytes,
		ServeBytes: c.PeerServeBytes, ServeRequests: c.PeerServeRequests, PeerTimeout: c.PeerTimeout,
		HedgeMin: c.PeerHedgeMin, HedgeMax: c.PeerHedgeMax,
	}
}

func (c *Config) kafka() kafka.Config {
	proxies, _ := c.trustedProxies() // Validate tells what is wrong with them
	zones, _ := c.clientZones()
	return kafka.Config{
		TrustedProxies: proxies, ClientZones: zones,
		ProduceBytesMax: c.RequestBytes, RequestBytesMax: c.OtherRequestBytes,
		ConnectionInFlightBytes: c.ConnectionInFlightBytes, InFlightBytes: c.InFlightBytes,
		StrangerBytes: c.StrangerBytes, QueuedBytes: c.QueuedBytes, WorkBytes: c.WorkBytes, DecompressBytes: c.DecompressBytes,
		ConnectionRequests: c.ConnectionRequests, Connections: c.Connections,
		ConnectionsPerAddress: c.ConnectionsPerAddress, AcceptsPerSecond: c.AcceptsPerSecond,
		FirstRequestBytesMax: c.FirstRequestBytes, FirstRequestTimeout: c.FirstRequestTimeout, PressureTimeout: c.PressureTimeout,
		MaxAge: c.ConnectionsMaxAge, KeepAliveIdle: c.KeepAliveIdle, KeepAliveInterval: c.KeepAliveInterval, KeepAliveCount: c.KeepAliveCount,
		IdleTimeout: c.IdleTimeout, FrameTimeout: c.FrameTimeout, StallTimeout: c.StallTimeout,
		ProduceTimeoutMin: c.ProduceTimeoutMin, ProduceTimeoutMax: c.ProduceTimeoutMax,
		FetchBytesMax: c.FetchBytes, FetchInFlightBytes: c.FetchInFlightBytes, FetchWaitMax: c.FetchWait,
		FetchReadTimeout: c.FetchReadTimeout, FetchSessions: c.FetchSessions, FetchSessionBytes: c.FetchSessionBytes,
		OffsetMetadataMax: c.OffsetMetadataMax,
		AutoCreateTopics:  c.AutoCreateTopics, DefaultPartitions: int32(c.DefaultPartitions),
		DefaultReplicationFactor: c.DefaultReplicationFactor, PartitionsMax: c.PartitionsMax,
		BarrierTimeout: c.BarrierTimeout, ProposeTimeout: c.ProposeTimeout,
	}
}

func (c *Config) group() group.Config {
	policy, _ := consumer.ParseMigration(cmp.Or(c.GroupMigration, consumer.Bidirectional.String())) // Validate has the error
	return group.Config{
		Classic: classic.Config{
			SizeMax: c.GroupSizeMax, SessionMin: c.GroupSessionMin, SessionMax: c.GroupSessionMax, InitialDelay: c.GroupInitialDelay,
		},
		OffsetsRetention: c.OffsetsRetention, ExpireInterval: c.OffsetsExpire,
		Consumer: consumer.Config{
			HeartbeatInterval: c.ConsumerHeartbeatInterval, SessionTimeout: c.ConsumerSessionTimeout, MembersMax: c.GroupSizeMax, ClassicMembersMax: c.GroupSizeMax,
			Migration: policy,
		},
	}
}

func (c *Config) metastore() metastore.Config {
	return metastore.Config{
		Name: c.Name, Zone: c.Zone, Version: c.Version,
		RegistrationTTL: c.RegistrationTTL, EntryBytes: c.EntryBytes, TickInterval: c.TickInterval, ArchiveInterval: c.ArchiveInterval, HistoryKeep: c.HistoryKeep,
		SnapshotEntries: c.SnapshotEntries, SnapshotBytes: c.SnapshotBytes, TrimMargin: c.TrimMargin,
		WatchSilence: c.WatchSilence, HeadLag: c.HeadLag, LevelPatience: c.LevelPatience,
	}
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	if c.Name == "" {
		errs = append(errs, errors.New("agent: the name is empty"))
	}
	errs = append(errs, validateListeners(c.listeners())...)
	if _, err := c.trustedProxies(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.clientZones(); err != nil {
		errs = append(errs, err)
	}
	if c.Internal != "" {
		if err := ValidateAddress(c.Internal); err != nil {
			errs = append(errs, fmt.Errorf("agent: internal address %w", err))
		}
	}
	switch c.AdvertiseMode {
	case "":
		c.AdvertiseMode = AdvertiseDirect
	case AdvertiseDirect:
	case AdvertiseProxy:
		if c.Internal == "" {
			errs = append(errs, errors.New("agent: behind a load balancer agents pass requests on to each other, and there is no internal address"))
		}
	default:
		errs = append(errs, fmt.Errorf("agent: advertise mode %q is neither %s nor %s", c.AdvertiseMode, AdvertiseDirect, AdvertiseProxy))
	}
	for _, t := range c.Tunables() {
		if t.Get() == 0 {
			t.Set(t.Default)
		}
		if v := t.Get(); v < t.Min || v > t.Max {
			errs = append(errs, fmt.Errorf("agent: %s must lie between %d and %d, not %d", t.Name, t.Min, t.Max, v))
		}
	}
	if c.MetricsDetail == "" {
		c.MetricsDetail = DetailTopic
	}
	if err := c.MetricsDetail.validate(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return c.validateRooms()
}

// validateRooms asks the rooms what does not go together.
func (c *Config) validateRooms() error {
	c.GroupMigration = cmp.Or(c.GroupMigration, consumer.Bidirectional.String())
	_, errMigration := consumer.ParseMigration(c.GroupMigration)
	in, cache, srv, meta, grp, rooms := c.ingest(), c.fetch(), c.kafka(), c.metastore(), c.group(), c.rooms()
	var err error
	if meta.Listeners, err = advertised(c.listeners()); err != nil {
		return err
	}
	return errors.Join(in.Validate(), cache.Validate(), srv.Validate(), meta.Validate(), grp.Validate(), errMigration, rooms.validate(), c.validateScratch())
}

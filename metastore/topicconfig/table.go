package topicconfig

import "math"

const (
	maxInt  = math.MaxInt32
	maxLong = math.MaxInt64

	msPerMinute = 60 * 1000
	msPerHour   = 60 * msPerMinute

	noEffect = " Accepted for compatibility; it has no effect here."
)

func same(names ...string) []Synonym {
	s := make([]Synonym, len(names))
	for i, n := range names {
		s[i] = Synonym{Name: n, Scale: 1}
	}
	return s
}

// specs holds every config, sorted by name.
var specs = []Spec{
	{
		Name: "cleanup.policy", Type: List, Default: "delete", Values: []string{"compact", "delete"},
		Synonyms: same("log.cleanup.policy"),
		Doc: "What becomes of old records: delete drops them by age and size, compact keeps the last record of each key; " +
			"both may be given. An empty list keeps everything.",
	},
	{
		Name: "compression.gzip.level", Type: Int, Default: "-1", Min: -1, Max: 9, Synonyms: same("compression.gzip.level"),
		Refused: map[string]string{"0": "accepted are -1 and 1 to 9"},
		Doc:     "Level at which a broker recompresses with gzip. Batches are stored as they were sent." + noEffect,
	},
	{
		Name: "compression.lz4.level", Type: Int, Default: "9", Min: 1, Max: 17, Synonyms: same("compression.lz4.level"),
		Doc: "Level at which a broker recompresses with lz4. Batches are stored as they were sent." + noEffect,
	},
	{
		Name: "compression.type", Type: String, Default: "producer",
		Values:   []string{"uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"},
		Synonyms: same("compression.type"),
		Doc: "Compression of stored batches. They keep the producer's bytes whatever is set here, and segments are " +
			"compressed beneath them where that pays." + noEffect,
	},
	{
		Name: "compression.zstd.level", Type: Int, Default: "3", Min: -131072, Max: 22, Synonyms: same("compression.zstd.level"),
		Doc: "Level at which a broker recompresses with zstd. Batches are stored as they were sent." + noEffect,
	},
	{
		Name: "delete.retention.ms", Type: Long, Default: "86400000", Max: maxLong,
		Synonyms: same("log.cleaner.delete.retention.ms"),
		Doc:      "How long, in ms, a compacted topic keeps the tombstone of a deleted key, so that slow readers see it.",
	},
	{
		Name: "file.delete.delay.ms", Type: Long, Default: "60000", Max: maxLong, Synonyms: same("log.segment.delete.delay.ms"),
		Doc: "Delay in ms before a local file is removed." + noEffect,
	},
	{
		Name: "firn.durability", Type: String, Default: "bucket", Values: []string{"bucket", "wal"},
		Synonyms: same("firn.durability"),
		Refused:  map[string]string{"wal": "this firn acknowledges from the bucket only"},
		Doc: "What an acknowledgement promises: bucket, the records are in the bucket; wal, they are synced in the " +
			"write-ahead logs of firn.wal.replicas agents. Only bucket is accepted: this firn does not have the other yet.",
	},
	{
		Name: "firn.wal.abandon.ms", Type: Long, Default: "-1", Min: -1, Max: maxLong, Synonyms: same("firn.wal.abandon.ms"),
		Doc: "How long, in ms, readers wait for acknowledged records whose every write-ahead log is gone, before the range is " +
			"given up as a counted gap. -1: until an operator decides. Refused for compacted topics. For firn.durability=wal.",
	},
	{
		Name: "firn.wal.replicas", Type: Int, Default: "2", Min: 1, Max: 3, Synonyms: same("firn.wal.replicas"),
		Doc: "In how many agents' write-ahead logs a record is synced before it is acknowledged, with firn.durability=wal. " +
			"A cluster of one agent keeps one copy.",
	},
	{
		Name: "flush.messages", Type: Long, Default: "9223372036854775807", Min: 1, Max: maxLong,
		Synonyms: same("log.flush.interval.messages"),
		Doc:      "Records after which a log file is synced. Every acknowledged record is durable." + noEffect,
	},
	{
		Name: "flush.ms", Type: Long, Default: "9223372036854775807", Max: maxLong, Synonyms: same("log.flush.interval.ms"),
		Doc: "Time in ms after which a log file is synced. Every acknowledged record is durable." + noEffect,
	},
	{
		Name: "follower.replication.throttled.replicas", Type: List, Default: "",
		Doc: "Replicas whose copying is throttled on the follower. There are no followers." + noEffect,
	},
	{
		Name: "index.interval.bytes", Type: Int, Default: "4096", Max: maxInt, Synonyms: same("log.index.interval.bytes"),
		Doc: "Bytes of records between entries of a log's offset index." + noEffect,
	},
	{
		Name: "leader.replication.throttled.replicas", Type: List, Default: "",
		Doc: "Replicas whose copying is throttled on the leader. There are no followers." + noEffect,
	},
	{
		Name: "local.retention.bytes", Type: Long, Default: "-2", Min: -2, Max: maxLong, Synonyms: same("log.local.retention.bytes"),
		Doc: "Bytes kept on local disks under tiered storage; -2 is retention.bytes. All data lies in the bucket." + noEffect,
	},
	{
		Name: "local.retention.ms", Type: Long, Default: "-2", Min: -2, Max: maxLong, Synonyms: same("log.local.retention.ms"),
		Doc: "Age in ms kept on local disks under tiered storage; -2 is retention.ms. All data lies in the bucket." + noEffect,
	},
	{
		Name: "max.compaction.lag.ms", Type: Long, Default: "9223372036854775807", Min: 1, Max: maxLong,
		Synonyms: same("log.cleaner.max.compaction.lag.ms"),
		Doc:      "Age in ms by which a superseded record of a compacted topic should be gone.",
	},
	{
		Name: "max.message.bytes", Type: Int, Default: "1048588", Max: maxInt, Synonyms: same("message.max.bytes"),
		Doc: "Largest record batch accepted, in bytes as sent.",
	},
	{
		Name: "message.timestamp.after.max.ms", Type: Long, Default: "3600000", Max: maxLong,
		Synonyms: same("log.message.timestamp.after.max.ms"),
		Doc:      "How far, in ms, a record's timestamp may lie after the agent's clock, with CreateTime.",
	},
	{
		Name: "message.timestamp.before.max.ms", Type: Long, Default: "9223372036854775807", Max: maxLong,
		Synonyms: same("log.message.timestamp.before.max.ms"),
		Doc:      "How far, in ms, a record's timestamp may lie before the agent's clock, with CreateTime.",
	},
	{
		Name: "message.timestamp.type", Type: String, Default: "CreateTime", Values: []string{"CreateTime", "LogAppendTime"},
		Synonyms: same("log.message.timestamp.type"),
		Doc:      "Whose clock timestamps are of: the producer's (CreateTime) or the log's (LogAppendTime).",
	},
	{
		Name: "min.cleanable.dirty.ratio", Type: Double, Default: "0.5", Max: 1, Synonyms: same("log.cleaner.min.cleanable.ratio"),
		Doc: "Share of a compacted topic's bytes that may be superseded before compaction is worth its requests.",
	},
	{
		Name: "min.compaction.lag.ms", Type: Long, Default: "0", Max: maxLong, Synonyms: same("log.cleaner.min.compaction.lag.ms"),
		Doc: "Age in ms below which a record of a compacted topic is left alone.",
	},
	{
		Name: "min.insync.replicas", Type: Int, Default: "1", Min: 1, Max: maxInt, Synonyms: same("min.insync.replicas"),
		Doc: "Replicas that must hold a record before acks=all is answered. Durability does not rest on replicas; see " +
			"firn.durability." + noEffect,
	},
	{
		Name: "preallocate", Type: Boolean, Default: "false", Synonyms: same("log.preallocate"),
		Doc: "Whether log files are allocated in advance." + noEffect,
	},
	{
		Name: "remote.log.copy.disable", Type: Boolean, Default: "false",
		Refused: map[string]string{"true": "there is no tiered storage: all data lies in the bucket"},
		Doc:     "Whether tiered data is read-only. There is no tiered storage: only false is accepted.",
	},
	{
		Name: "remote.log.delete.on.disable", Type: Boolean, Default: "false",
		Refused: map[string]string{"true": "there is no tiered storage: all data lies in the bucket"},
		Doc:     "Whether tiered data goes when tiering is switched off. There is no tiered storage: only false is accepted.",
	},
	{
		Name: "remote.storage.enable", Type: Boolean, Default: "false",
		Refused: map[string]string{"true": "there is no tiered storage: all data lies in the bucket"},
		Doc:     "Whether the topic is tiered. All data lies in the bucket: only false is accepted.",
	},
	{
		Name: "retention.bytes", Type: Long, Default: "-1", Min: -1, Max: maxLong, Synonyms: same("log.retention.bytes"),
		Doc: "Bytes kept of each partition, with cleanup.policy=delete. -1: no bound.",
	},
	{
		Name: "retention.ms", Type: Long, Default: "604800000", Min: -1, Max: maxLong,
		Synonyms: []Synonym{
			{Name: "log.retention.ms", Scale: 1},
			{Name: "log.retention.minutes", Scale: msPerMinute},
			{Name: "log.retention.hours", Scale: msPerHour},
		},
		Doc: "Age in ms up to which records are kept, with cleanup.policy=delete. -1: for ever.",
	},
	{
		Name: "segment.bytes", Type: Int, Default: "1073741824", Min: 1 << 20, Max: maxInt, Synonyms: same("log.segment.bytes"),
		Doc: "Size of a log file. Objects are sized by the agents." + noEffect,
	},
	{
		Name: "segment.index.bytes", Type: Int, Default: "10485760", Min: 4, Max: maxInt, Synonyms: same("log.index.size.max.bytes"),
		Doc: "Size of a log's index files." + noEffect,
	},
	{
		Name: "segment.jitter.ms", Type: Long, Default: "0", Max: maxLong,
		Synonyms: []Synonym{{Name: "log.roll.jitter.ms", Scale: 1}, {Name: "log.roll.jitter.hours", Scale: msPerHour}},
		Doc:      "Spread in ms of the times at which log files are closed." + noEffect,
	},
	{
		Name: "segment.ms", Type: Long, Default: "604800000", Min: 1, Max: maxLong,
		Synonyms: []Synonym{{Name: "log.roll.ms", Scale: 1}, {Name: "log.roll.hours", Scale: msPerHour}},
		Doc:      "Age in ms at which a log file is closed. Retention works on batches, not files." + noEffect,
	},
	{
		Name: "unclean.leader.election.enable", Type: Boolean, Default: "false", Synonyms: same("unclean.leader.election.enable"),
		Doc: "Whether a replica that lags may lead. There are no elections." + noEffect,
	},
}

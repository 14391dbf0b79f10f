package topicconfig

import (
	"math"
	"strings"
)

const (
	maxInt  = math.MaxInt32
	maxLong = math.MaxInt64

	msPerMinute = 60 * 1000
	msPerHour   = 60 * msPerMinute
)

func same(names ...string) []Synonym {
	s := make([]Synonym, len(names))
	for i, n := range names {
		s[i] = Synonym{Name: n, Scale: 1}
	}
	return s
}

// throttled is a list of partition:broker pairs, or a star alone for all.
var throttled = &Format{
	Words: "partition:broker pairs, or *",
	ok: func(words []string) bool {
		if len(words) == 1 && words[0] == "*" {
			return true
		}
		for _, w := range words {
			partition, broker, ok := strings.Cut(w, ":")
			if !ok || !digits(partition) || !digits(broker) {
				return false
			}
		}
		return true
	},
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// lockDaysMax is a century: past it a number of days is a slip.
const lockDaysMax = 36500

// standardClass is the storage class that every store has.
const standardClass = "STANDARD"

// storageClass is a name of a storage class. Stores have names of their own for them, MinIO's are those that its operator gave
// to remote tiers, so what is not known is taken.
var storageClass = &Format{
	Words: "a storage class of 1 to 64 of A-Z, 0-9, _ and -, whose objects can be read at once",
	ok: func(words []string) bool {
		w := words[0]
		return len(w) >= 1 && len(w) <= 64 && strings.Trim(w, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
	},
}

// asleep are storage classes whose objects have to be restored before they can be read. Keys are in lower case: see Refused.
var asleep = map[string]string{
	"glacier":      "its objects cannot be read before they are restored; GLACIER_IR can",
	"deep_archive": "its objects cannot be read before they are restored; GLACIER_IR can",
}

// Asleep reports whether objects of the storage class have to be restored before they can be read.
func Asleep(class string) bool { return asleep[strings.ToLower(class)] != "" }

// infrequent are the classes that AWS moves nothing to before it is thirty days old.
func infrequent(class string) bool { return class == "STANDARD_IA" || class == "ONEZONE_IA" }

// removed are configs of Kafka 3 that Kafka 4 does not know either, and what became of them.
var removed = map[string]string{
	"message.format.version":              "went with Kafka 4.0: record batches are of version 2; leave it out",
	"message.downconversion.enable":       "went with Kafka 4.0: nothing is converted for old consumers; leave it out",
	"message.timestamp.difference.max.ms": "went with Kafka 4.0: set message.timestamp.before.max.ms and message.timestamp.after.max.ms",
}

// specs holds every config, sorted by name.
var specs = []Spec{
	{
		Name: "cleanup.policy", Type: List, Default: "delete", Values: []string{"compact", "delete"},
		Synonyms: same("log.cleanup.policy"),
		Doc: "What becomes of old records: delete drops them by age and size, compact keeps the last record of each key; " +
			"both may be given. An empty list keeps everything. With compact every record needs a key, and with compact " +
			"alone DeleteRecords is refused.",
	},
	{
		Name: "compression.gzip.level", Type: Int, Default: "-1", Min: -1, Max: 9, Synonyms: same("compression.gzip.level"),
		Refused: map[string]string{"0": "accepted are -1 and 1 to 9"},
		Doc:     "Level at which a broker recompresses with gzip. Batches are stored as they were sent.", Effect: NoEffect,
	},
	{
		Name: "compression.lz4.level", Type: Int, Default: "9", Min: 1, Max: 17, Synonyms: same("compression.lz4.level"),
		Doc: "Level at which a broker recompresses with lz4. Batches are stored as they were sent.", Effect: NoEffect,
	},
	{
		Name: "compression.type", Type: String, Default: "producer",
		Values:   []string{"uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"},
		Synonyms: same("compression.type"),
		Doc: "Compression of stored batches. They keep the producer's bytes whatever is set here, and segments are " +
			"compressed beneath them where that pays.", Effect: NoEffect,
	},
	{
		Name: "compression.zstd.level", Type: Int, Default: "3", Min: -131072, Max: 22, Synonyms: same("compression.zstd.level"),
		Doc: "Level at which a broker recompresses with zstd. Batches are stored as they were sent.", Effect: NoEffect,
	},
	{
		Name: "delete.retention.ms", Type: Long, Default: "86400000", Max: maxLong,
		Synonyms: same("log.cleaner.delete.retention.ms"),
		Doc:      "How long, in ms, a compacted topic keeps the tombstone of a deleted key, so that slow readers see it.",
	},
	{
		Name: "errors.deadletterqueue.group.enable", Type: Boolean, Default: "false",
		Doc:    "Whether share groups may write what they could not process to this topic. There are no share groups.",
		Effect: NoEffect,
	},
	{
		Name: "file.delete.delay.ms", Type: Long, Default: "60000", Max: maxLong, Synonyms: same("log.segment.delete.delay.ms"),
		Doc: "Delay in ms before a local file is removed.", Effect: NoEffect,
	},
	{
		Name: "firn.bucket.lifecycle", Type: String, Default: "off", Values: []string{"off", "mirror", "authoritative"},
		Synonyms: same("firn.bucket.lifecycle"),
		Doc: "Who else may take old data away: off, nobody but firn; mirror, firn writes lifecycle rules into the bucket that " +
			"follow what the topic promises; authoritative, the bucket's own rule for the topic's objects says how long " +
			"records are kept, and retention.ms follows it. Refused with cleanup.policy=compact where authoritative.",
	},
	{
		Name: "firn.durability", Type: String, Default: "bucket", Values: []string{"bucket", "wal"},
		Synonyms: same("firn.durability"),
		Refused:  map[string]string{"wal": "this firn acknowledges from the bucket only"},
		Doc: "What an acknowledgement promises: bucket, the records are in the bucket; wal, they are synced in the " +
			"write-ahead logs of firn.wal.replicas agents.",
		Effect: DefaultOnly,
	},
	{
		Name: "firn.object.lock.days", Type: Int, Default: "0", Max: lockDaysMax, Synonyms: same("firn.object.lock.days"),
		Doc: "For how many days nobody may delete or replace the topic's objects, with firn.object.lock.mode. Records are " +
			"kept at least that long, whatever retention.ms says.",
	},
	{
		Name: "firn.object.lock.mode", Type: String, Default: "none", Values: []string{"none", "governance", "compliance"},
		Synonyms: same("firn.object.lock.mode"),
		Doc: "The bucket's lock on the topic's objects: governance, which credentials with a permission of their own can lift; " +
			"compliance, which nobody can. The bucket must have been made with object lock. Locked topics get objects of " +
			"their own from the first write; DeleteRecords and their deletion are refused. Refused with " +
			"cleanup.policy=compact and with retention.bytes.",
	},
	{
		Name: "firn.storage.class", Type: String, Default: standardClass, Format: storageClass, Refused: asleep,
		Synonyms: same("firn.storage.class"),
		Doc: "Storage class in which the topic's merged objects are put, by the store's name for it, such as STANDARD_IA. " +
			"STANDARD leaves it to the store.",
	},
	{
		Name: "firn.storage.transition.class", Type: String, Default: "STANDARD_IA", Format: storageClass, Refused: asleep,
		Synonyms: same("firn.storage.transition.class"),
		Doc: "Storage class, or tier, that the bucket's rule moves the topic's merged objects to after " +
			"firn.storage.transition.days.",
	},
	{
		Name: "firn.storage.transition.days", Type: Int, Default: "-1", Min: -1, Max: lockDaysMax,
		Synonyms: same("firn.storage.transition.days"),
		Doc: "Age in days at which a rule of the bucket moves the topic's merged objects to firn.storage.transition.class; -1: " +
			"never. At least 30 for STANDARD_IA and ONEZONE_IA, and less than the retention. Needs firn.bucket.lifecycle=mirror.",
	},
	{
		Name: "firn.wal.abandon.ms", Type: Long, Default: "-1", Min: -1, Max: maxLong, Synonyms: same("firn.wal.abandon.ms"),
		Doc: "How long, in ms, readers wait for acknowledged records whose every write-ahead log is gone, before the range is " +
			"given up as a counted gap. -1: until an operator decides. Refused for compacted topics. For firn.durability=wal.",
		Effect: NotYet,
	},
	{
		Name: "firn.wal.replicas", Type: Int, Default: "2", Min: 1, Max: 3, Synonyms: same("firn.wal.replicas"),
		Doc: "In how many agents' write-ahead logs a record is synced before it is acknowledged, with firn.durability=wal. " +
			"A cluster of one agent keeps one copy.",
		Effect: NotYet,
	},
	{
		Name: "flush.messages", Type: Long, Default: "9223372036854775807", Min: 1, Max: maxLong,
		Synonyms: same("log.flush.interval.messages"),
		Doc:      "Records after which a log file is synced. Every acknowledged record is durable.", Effect: NoEffect,
	},
	{
		Name: "flush.ms", Type: Long, Default: "9223372036854775807", Max: maxLong, Synonyms: same("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
		Doc: "Time in ms after which a log file is synced. Every acknowledged record is durable.", Effect: NoEffect,
	},
	{
		Name: "follower.replication.throttled.replicas", Type: List, Default: "", Format: throttled,
		Doc: "Replicas whose copying is throttled on the follower. There are no followers.", Effect: NoEffect,
	},
	{
		Name: "index.interval.bytes", Type: Int, Default: "4096", Max: maxInt, Synonyms: same("log.index.interval.bytes"),
		Doc: "Bytes of records between entries of a log's offset index.", Effect: NoEffect,
	},
	{
		Name: "leader.replication.throttled.replicas", Type: List, Default: "", Format: throttled,
		Doc: "Replicas whose copying is throttled on the leader. There are no followers.", Effect: NoEffect,
	},
	{
		Name: "local.retention.bytes", Type: Long, Default: "-2", Min: -2, Max: maxLong, Synonyms: same("log.local.retention.bytes"),
		Doc: "Bytes kept on local disks under tiered storage; -2 is retention.bytes. All data lies in the bucket.", Effect: NoEffect,
	},
	{
		Name: "local.retention.ms", Type: Long, Default: "-2", Min: -2, Max: maxLong, Synonyms: same("log.local.retention.ms"),
		Doc: "Age in ms kept on local disks under tiered storage; -2 is retention.ms. All data lies in the bucket.", Effect: NoEffect,
	},
	{
		Name: "max.compaction.lag.ms", Type: Long, Default: "9223372036854775807", Min: 1, Max: maxLong,
		Synonyms: same("log.cleaner.max.compaction.lag.ms"),
		Doc:      "Age in ms by which a superseded record of a compacted topic should be gone.",
	},
	{
		Name: "max.decompressed.message.bytes", Type: Int, Default: "2147483639", Min: 1, Max: 2147483639,
		Synonyms: same("max.decompressed.message.bytes"),
		Doc: "Largest record accepted in a compressed batch, in bytes once decompressed. Whatever is set here, an agent bounds " +
			"what a whole batch decompresses to.",
	},
	{
		Name: "max.message.bytes", Type: Int, Default: "1048588", Max: maxInt, Synonyms: same("message.max.bytes"),
		Doc: "Largest record batch accepted, in bytes as sent. A Produce request as a whole is bounded by the agents too.",
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
			"firn.durability.", Effect: NoEffect,
	},
	{
		Name: "preallocate", Type: Boolean, Default: "false", Synonyms: same("log.preallocate"),
		Doc: "Whether log files are allocated in advance.", Effect: NoEffect,
	},
	{
		Name: "remote.copy.lag.bytes", Type: Long, Default: "-1", Min: -1, Max: maxLong, Synonyms: same("log.remote.copy.lag.bytes"),
		Doc: "Bytes of newer data after which a log file is copied to tiered storage. All data lies in the bucket.", Effect: NoEffect,
	},
	{
		Name: "remote.copy.lag.ms", Type: Long, Default: "0", Min: -1, Max: maxLong, Synonyms: same("log.remote.copy.lag.ms"),
		Doc: "Age in ms at which a log file is copied to tiered storage. All data lies in the bucket.", Effect: NoEffect,
	},
	{
		Name: "remote.log.copy.disable", Type: Boolean, Default: "false",
		Refused: map[string]string{"true": "there is no tiered storage: all data lies in the bucket"},
		Doc:     "Whether tiered data is read-only.",
		Effect:  DefaultOnly,
	},
	{
		Name: "remote.log.delete.on.disable", Type: Boolean, Default: "false",
		Refused: map[string]string{"true": "there is no tiered storage: all data lies in the bucket"},
		Doc:     "Whether tiered data goes when tiering is switched off.",
		Effect:  DefaultOnly,
	},
	{
		Name: "remote.storage.enable", Type: Boolean, Default: "false",
		Refused: map[string]string{"true": "there is no tiered storage: all data lies in the bucket"},
		Doc:     "Whether the topic is tiered. All data lies in the bucket.",
		Effect:  DefaultOnly,
	},
	{
		Name: "retention.bytes", Type: Long, Default: "-1", Min: -maxLong - 1, Max: maxLong, Synonyms: same("log.retention.bytes"),
		Doc: "Bytes kept of each partition, with cleanup.policy=delete. Negative: no bound.",
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
		Doc: "Size of a log file. Objects are sized by the agents.", Effect: NoEffect,
	},
	{
		Name: "segment.index.bytes", Type: Int, Default: "10485760", Min: 4, Max: maxInt, Synonyms: same("log.index.size.max.bytes"),
		Doc: "Size of a log's index files.", Effect: NoEffect,
	},
	{
		Name: "segment.jitter.ms", Type: Long, Default: "0", Max: maxLong,
		Synonyms: []Synonym{{Name: "log.roll.jitter.ms", Scale: 1}, {Name: "log.roll.jitter.hours", Scale: msPerHour}},
		Doc:      "Spread in ms of the times at which log files are closed.", Effect: NoEffect,
	},
	{
		Name: "segment.ms", Type: Long, Default: "604800000", Min: 1, Max: maxLong,
		Synonyms: []Synonym{{Name: "log.roll.ms", Scale: 1}, {Name: "log.roll.hours", Scale: msPerHour}},
		Doc:      "Age in ms at which a log file is closed. Merging puts no more time than this into one row of the index, which retention drops as a whole.",
	},
	{
		Name: "unclean.leader.election.enable", Type: Boolean, Default: "false", Synonyms: same("unclean.leader.election.enable"),
		Doc: "Whether a replica that lags may lead. There are no elections.", Effect: NoEffect,
	},
}

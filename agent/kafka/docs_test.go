package kafka_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

var rewrite = flag.Bool("rewrite", false, "write docs/protocol.md anew")

// notes says what a reader of the table would not guess.
var notes = map[int16]string{
	0:  "0 to 2 are advertised for old librdkafka and answered with UNSUPPORTED_VERSION; no transactions",
	1:  "sessions from 7 on, topic ids from 13 on",
	2:  "also the offset of the largest timestamp; tiered positions are -1",
	3:  "may create topics, if `--auto-create-topics` and the client say so, but for Kafka's internal ones",
	8:  "topic ids in 10; a retention of its own up to 4",
	9:  "many groups from 8 on, topic ids in 10; every offset is stable",
	10: "the agent that coordinates the group; COORDINATOR_NOT_AVAILABLE of one that would be it and has not heard from etcd for two thirds of its lease; transactions have none",
	11: "static members from 5 on; the id comes first from 4 on",
	13: "many members at once from 3 on, and by instance id alone",
	15: "groups of the classic protocol, and those that only have offsets",
	16: "the groups that the agent coordinates; states from 4 on, types in 5",
	17: "not advertised; says that there is no SASL",
	21: "-1 is the high watermark; refused where only compact is set",
	22: "without a transactional id",
	32: "of topics, of an agent, and cluster-wide (a broker of the empty name)",
	33: "replaces all configs of a resource",
	35: "each partition by its leader alone; one directory, the bucket",
	44: "of topics and cluster-wide",
	68: "KIP-848; assignors `uniform` and `range`; from 1 on with regular expressions (RE2)",
	69: "groups of the consumer protocol",
	74: "topics, brokers and their loggers",
	75: "pages of at most 2000 partitions",
}

// docs/protocol.md is the table of versions and the limits in force, in words.
func TestDocumentation(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Protocol

Generated from package agent/kafka; a test holds it, and another one speaks every version below as the first request of a connection. After a
change: ` + "`go test ./agent/kafka -run Documentation -rewrite`" + `.

## APIs

| key | API | versions | |
| --- | --- | --- | --- |
`)
	for _, v := range kafka.Versions() {
		fmt.Fprintf(&b, "| %d | %s | %d to %d | %s |\n", v.Key, kmsg.NameForKey(v.Key), v.Min, v.Max, notes[v.Key])
	}
	cfg := kafka.Config{}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	mib := func(n int) string { return fmt.Sprint(n>>20, " MiB") }
	b.WriteString(`
Anything else closes the connection with one log line, but for ApiVersions of a version to come, which is answered in version 0.

## Limits

Settings are in ` + "`docs/configuration.md`" + `, topic configs in ` + "`docs/topic-configs.md`" + `, what bad input gets in ` + "`docs/bad-input.md`" + `.

| what | limit | beyond it |
| --- | --- | --- |
`)
	for _, row := range [][3]string{
		{"Produce request", mib(cfg.ProduceBytesMax) + " (`--request-bytes`), less where memory is below 500 MiB", "the connection closes"},
		{"a connection's first request", "64 KiB (`--first-request-bytes`), a Produce 16 MiB", "the connection closes"},
		{"any other request", mib(cfg.RequestBytesMax) + " (`--other-request-bytes`)", "the connection closes"},
		{"record batch as sent", fmt.Sprint(batch.DefaultMaxBatchBytes, " bytes (max.message.bytes)"), "MESSAGE_TOO_LARGE"},
		{"records of a batch once decompressed", mib(batch.DefaultMaxDecompressedBytes) + ", and 1024 times what was sent, but 16 MiB at least", "MESSAGE_TOO_LARGE"},
		{"one record of a compressed batch", "2 GiB (max.decompressed.message.bytes)", "INVALID_RECORD"},
		{"records in a batch", fmt.Sprint(batch.DefaultMaxRecords), "MESSAGE_TOO_LARGE"},
		{"key, value, headers, number of headers", "what fits the record", "INVALID_RECORD"},
		{"timestamps", "message.timestamp.before.max.ms and after.max.ms", "INVALID_TIMESTAMP"},
		{"records named in an answer", fmt.Sprint(batch.MaxRecordErrors, " of a batch"), "the others fail with their batch"},
		{"batches of a partition in a request", "1", "INVALID_RECORD"},
		{"topic name", fmt.Sprint(state.MaxTopicName, " bytes of a-z, A-Z, 0-9, '.', '_', '-'"), "INVALID_TOPIC_EXCEPTION"},
		{"partitions of a topic, and of a CreateTopics", fmt.Sprint(cfg.PartitionsMax, " (`--partitions-max`)"), "INVALID_PARTITIONS, POLICY_VIOLATION"},
		{"partitions of all topics", fmt.Sprint(state.MaxPartitions), "POLICY_VIOLATION"},
		{"configs of a topic", fmt.Sprint(state.MaxConfigs), "POLICY_VIOLATION"},
		{"replicas of an assignment by hand", fmt.Sprint(state.MaxReplicas), "INVALID_REPLICA_ASSIGNMENT"},
		{"records in one answer to a fetch", mib(cfg.FetchBytesMax) + " (`--fetch-bytes`)", "the rest comes with the next"},
		{"requests of a connection without an answer", fmt.Sprint(cfg.ConnectionRequests, " (`--connection-requests`)"), "no more are read before one is answered"},
		{"connections", fmt.Sprint(cfg.Connections, " (`--connections`)"), "closed at once"},
	} {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", row[0], row[1], row[2])
	}
	const path = "../../docs/protocol.md"
	if *rewrite {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/protocol.md is not what the code says (%v): run this test with -rewrite", err)
	}
}

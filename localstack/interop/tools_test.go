//go:build interop

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// toolLibs is where Apache Kafka's published jars are.
func toolLibs(t *testing.T) string {
	t.Helper()
	libs := os.Getenv("KAFKA_TOOLS")
	if libs == "" {
		t.Fatal("KAFKA_TOOLS is not set: run `make interop`, which installs what these tests need")
	}
	return libs
}

// kafkaTool runs one of Apache Kafka's own command-line tools, from its published jars.
func kafkaTool(t *testing.T, class string, args ...string) string {
	t.Helper()
	cmd := exec.Command("java", append([]string{"-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(toolLibs(t), "*"), "org.apache.kafka.tools." + class}, args...)...)
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		return fmt.Sprintf("%s%s\n%v", out, errors.String(), err)
	}
	return string(out)
}

// Apache Kafka's own tools take firn for a Kafka.
func TestKafkasOwnTools(t *testing.T) {
	stack := start(t, 2)
	server := []string{"--bootstrap-server", stack.Brokers()}
	deletions := filepath.Join(t.TempDir(), "offsets.json")
	if err := os.WriteFile(deletions, []byte(`{"version": 1, "partitions": [
		{"topic": "tools", "partition": 0, "offset": 0}, {"topic": "tools", "partition": 1, "offset": -1}, {"topic": "tools", "partition": 2, "offset": 9}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		class string
		args  string
		want  []string
	}{
		{"TopicCommand", "--create --topic tools --partitions 3 --config retention.ms=1000000", []string{"Created topic tools."}},
		{"TopicCommand", "--describe --topic tools --partition-size-limit-per-response 2",
			[]string{"PartitionCount: 3", "Configs: retention.ms=1000000", "Partition: 2\tLeader: "}},
		{"ConfigCommand", "--alter --entity-type topics --entity-name tools --add-config max.message.bytes=2000,cleanup.policy=[compact,delete]", []string{"Completed updating config for topic tools."}},
		{"ConfigCommand", "--describe --entity-type topics --entity-name tools",
			[]string{"cleanup.policy=compact,delete", "max.message.bytes=2000 ", "retention.ms=1000000"}},
		{"ConfigCommand", "--alter --entity-type topics --entity-name tools --add-config message.format.version=2.8", []string{"InvalidConfigurationException", "it went with Kafka 4.0"}},
		{"ConfigCommand", "--alter --entity-type brokers --entity-default --add-config log.retention.hours=5", []string{"Completed updating default config"}},
		{"ConfigCommand", "--describe --all --entity-type brokers --entity-name 1", []string{"log.retention.hours=5 ", "node.id=1 "}},
		{"DeleteRecordsCommand", "--offset-json-file " + deletions,
			[]string{"tools-0\tlow_watermark: 0", "tools-1\tlow_watermark: 0", "tools-2\terror: org.apache.kafka.common.errors.OffsetOutOfRangeException"}},
		{"LogDirsCommand", "--describe --topic-list tools", []string{`"partition":"tools-0"`, `"partition":"tools-1"`, `"partition":"tools-2"`, `"error":null`, `"logDir":"file:///`}},
		// Kafka's own producer and consumer, which speak the newest versions: topics by id.
		{"TopicCommand", "--create --topic traffic --partitions 2", []string{"Created topic traffic."}},
		{"ProducerPerformance", "--topic traffic --num-records 2000 --record-size 300 --throughput -1 --command-property acks=all compression.type=zstd", []string{"2000 records sent"}},
		{"GetOffsetShell", "--topic traffic --time -1", []string{"traffic:0:", "traffic:1:"}},
		{"consumer.ConsoleConsumer", "--topic traffic --partition 0 --offset earliest --max-messages 100 --timeout-ms 30000 --formatter-property print.offset=true", []string{"Offset:0\t", "Offset:99\t"}},
		{"GroupsCommand", "--list", []string{"GROUP"}},
		{"BrokerApiVersionsCommand", "", []string{"DescribeTopicPartitions(75): 0 [usable: 0]", "AlterConfigs(33): 0 to 2 [usable: 2]"}},
	} {
		out := kafkaTool(t, step.class, append(server[:2:2], strings.Fields(step.args)...)...)
		for _, want := range step.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s %s: no %q in\n%s", step.class, step.args, want, out)
			}
		}
	}
}

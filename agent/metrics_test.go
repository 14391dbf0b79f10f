package agent_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// scrape returns the agent's metrics by family, Go's and the process's own left out.
func (n *node) scrape() map[string]*dto.MetricFamily {
	n.t.Helper()
	status, body := n.get("/metrics")
	if status != http.StatusOK {
		n.t.Fatalf("status %d: %s", status, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	maps.DeleteFunc(families, func(name string, _ *dto.MetricFamily) bool {
		return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "promhttp_")
	})
	return families
}

// value is the series of a family with these label values, in the order of label names; NaN-free: absent is false.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) (float64, bool) {
	f := families[name]
	if f == nil {
		return 0, false
	}
	for _, m := range f.Metric {
		var have []string
		for _, l := range m.Label {
			have = append(have, l.GetValue())
		}
		if slices.Equal(have, labels) {
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				return m.GetCounter().GetValue(), true
			case dto.MetricType_HISTOGRAM:
				return float64(m.GetHistogram().GetSampleCount()), true
			default:
				return m.GetGauge().GetValue(), true
			}
		}
	}
	return 0, false
}

func series(families map[string]*dto.MetricFamily) (count int) {
	for _, f := range families {
		count += len(f.Metric)
	}
	return count
}

// kafka is a client of the agent.
func (n *node) kafkaClient(opts ...kgo.Opt) *kgo.Client {
	n.t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(n.kafka), kgo.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(c.Close)
	return c
}

func (n *node) produce(c *kgo.Client, topic string, values ...string) {
	n.t.Helper()
	for _, v := range values {
		if err := c.ProduceSync(n.t.Context(), &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr(); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) consume(topic string, want int) {
	n.t.Helper()
	c := n.kafkaClient(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	for got := 0; got < want; {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			n.t.Fatal(err)
		}
		got += f.NumRecords()
	}
	c.Close()
}

// createTopics makes topics by numbers, many a request.
func (n *node) createTopics(c *kgo.Client, format string, count int, partitions int32) {
	n.t.Helper()
	for from := 0; from < count; from += 500 {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.TimeoutMillis = 30_000
		for i := from; i < min(from+500, count); i++ {
			rt := kmsg.NewCreateTopicsRequestTopic()
			rt.Topic, rt.NumPartitions, rt.ReplicationFactor = fmt.Sprintf(format, i), partitions, 1
			req.Topics = append(req.Topics, rt)
		}
		resp, err := req.RequestWith(n.t.Context(), c)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, t := range resp.Topics {
			if t.ErrorCode != 0 {
				n.t.Fatalf("create %s: code %d", t.Topic, t.ErrorCode)
			}
		}
	}
}

// member makes a log say what an etcd member does.
type member struct{ log.Log }

func (m member) Status(context.Context) (map[string]string, error) {
	return map[string]string{
		"prefix": "/firn/main", "etcd:2379 version": "3.7.3", "etcd:2379 db_bytes": "4096", "etcd:2379 db_used_bytes": "1024",
		"etcd:2379 quota_bytes": "8192", "etcd:2379 alarms": "[NOSPACE]", "other:2379 error": "refused",
	}, nil
}

// whole is an agent through which a bit of everything went, so that every family has a series.
func whole(t *testing.T, tune ...func(*setup)) *node {
	n := start(t, append([]func(*setup){func(s *setup) {
		s.cfg.MetricsDetail = agent.DetailPartition
		s.log = member{s.log}
	}}, tune...)...)
	c := n.kafkaClient()
	n.produce(c, "orders", "a", "b", "c")
	n.consume("orders", 3)
	n.commit("billing", "orders", 0, 2)
	garbage(t, n.kafka, 3)
	bad := kmsg.NewPtrDeleteTopicsRequest()
	name := "absent"
	bad.TopicNames = []string{name}
	bad.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: &name}}
	if _, err := bad.RequestWith(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	await(t, "etcd's status", func() bool { _, ok := value(n.scrape(), "firn_etcd_requests_total", "status", "ok"); return ok })
	return n
}

// garbage opens connections that send what is no Kafka request, and waits until each is closed.
func garbage(t *testing.T, addr string, count int) {
	t.Helper()
	bytesOf := [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 9}, {0, 0, 0, 20, 0x7f, 0xff, 0, 0, 0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}}
	for i := range count {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(patience))
		_, _ = nc.Write(bytesOf[i%len(bytesOf)])
		_, _ = nc.Read(make([]byte, 1))
		_ = nc.Close()
	}
}

// docFile holds every family.
const docFile = "../docs/metrics.md"

var rewrite = flag.Bool("rewrite", false, "write docs/metrics.md anew")

func TestMetricsAreDocumentedLintedAndComplete(t *testing.T) {
	n := whole(t)
	families := n.scrape()
	var text bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	problems, err := promlint.New(&text).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "kafka_") { // the names are kafka_exporter's
			continue
		}
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
	for name, f := range families {
		if !strings.HasPrefix(name, "firn_") && !strings.HasPrefix(name, "kafka_") {
			t.Errorf("%s: our names start with firn_", name)
		}
		if f.GetHelp() == "" || !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("%s: help is a sentence, not %q", name, f.GetHelp())
		}
		for _, unit := range []string{"_ms", "_millis", "_kb", "_mb", "_gb", "_minutes", "_percent"} {
			if strings.Contains(name+"_", unit+"_") {
				t.Errorf("%s: %s is no base unit", name, unit)
			}
		}
		if f.GetType() == dto.MetricType_COUNTER != strings.HasSuffix(name, "_total") {
			t.Errorf("%s: a counter ends in _total, and nothing else does", name)
		}
	}
	want := document(families)
	if *rewrite {
		if err := os.WriteFile(docFile, []byte(want), 0o644); err != nil { //nolint:gosec // documentation
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("%s is not what the agent has; go test ./agent -run TestMetricsAreDocumented -rewrite writes it anew\n%s", docFile, difference(string(have), want))
	}
	for name, labels := range map[string][]string{
		"firn_topic_produced_records_total":     {"orders"},
		"firn_topic_fetched_records_total":      {"orders"},
		"firn_topic_partition_log_end_offset":   {"0", "orders"},
		"kafka_topic_partition_current_offset":  {"0", "orders"},
		"firn_kafka_connections_accepted_total": nil,
	} {
		if v, ok := value(families, name, labels...); !ok || v < 3 {
			t.Errorf("%s%v is %v, %v", name, labels, v, ok)
		}
	}
	for name, want := range map[string]float64{
		"firn_group_committed_offset": 2, "firn_group_partition_lag_records": 1, "kafka_consumergroup_current_offset": 2, "kafka_consumergroup_lag": 1,
	} {
		if v, ok := value(families, name, "billing", "0", "orders"); !ok || v != want {
			t.Errorf("%s is %v, %v", name, v, ok)
		}
	}
	for name, want := range map[string]float64{"firn_etcd_up": 1, "firn_etcd_db_bytes": 4096, "firn_etcd_alarms": 1} {
		if v, _ := value(families, name, "etcd:2379"); v != want {
			t.Errorf("%s is %v", name, v)
		}
	}
	if v, ok := value(families, "firn_etcd_up", "other:2379"); !ok || v != 0 {
		t.Errorf("firn_etcd_up of a member that does not answer is %v, %v", v, ok)
	}
	if v, _ := value(families, "kafka_brokers"); v != 1 {
		t.Errorf("kafka_brokers is %v", v)
	}
	if v, _ := value(families, "firn_agent_ready"); v != 1 {
		t.Errorf("firn_agent_ready is %v", v)
	}
}

// commit commits an offset for a group that has no members.
func (n *node) commit(group, topic string, partition int32, offset int64) {
	n.t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, partition, offset, -1)
	if err := kadm.NewClient(n.kafkaClient()).CommitAllOffsets(n.t.Context(), group, offsets); err != nil {
		n.t.Fatal(err)
	}
}

// document renders docs/metrics.md.
func document(families map[string]*dto.MetricFamily) string {
	var b strings.Builder
	b.WriteString(`# Metrics

Written by a test of package agent from what a running agent serves at ` + "`/metrics`" + `; do not edit. What to page on is in
[operations.md](operations.md#metrics). Beside these there are the ` + "`go_`" + ` and ` + "`process_`" + ` metrics of Prometheus' Go client.

Labels have few values whatever clients send: names of APIs and errors come from the protocol's tables and else are ` + "`other`" + `;
topics and partitions have series of their own up to ` + "`--metrics-series`" + ` (10 000), and consumer groups up to as many; those beyond are counted
together as ` + "`(other)`" + `, and ` + "`firn_metrics_folded_topics`" + ` and ` + "`firn_metrics_folded_groups`" + ` say how many. ` + "`--metrics-detail`" + ` is ` + "`none`, `topic`" + `
(default) or ` + "`partition`" + `. The ` + "`kafka_`" + ` names are those of kafka_exporter, for dashboards that know them; those of topics are told by one agent
of a cluster, those of a group by the agent that coordinates it, so that sums over agents are right. Lag in seconds costs no
request to the bucket: the time of a record is that of the index row it lies in, the newest of what one flush brought; in a merged row,
which spans more, time is taken to pass evenly with the offsets from the newest of the row before it to its own.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
`)
	for _, f := range slices.SortedFunc(maps.Values(families), func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) }) {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	return b.String()
}

func difference(have, want string) string {
	var b strings.Builder
	lines := func(s string) []string { return strings.Split(s, "\n") }
	for _, l := range lines(have) {
		if !slices.Contains(lines(want), l) {
			b.WriteString("- " + l + "\n")
		}
	}
	for _, l := range lines(want) {
		if !slices.Contains(lines(have), l) {
			b.WriteString("+ " + l + "\n")
		}
	}
	return b.String()
}

// Whatever exists and whatever clients send, the number of series has a bound, and nothing is lost from the sums.
func TestMetricsStayBounded(t *testing.T) {
	n := start(t, func(s *setup) { s.cfg.MetricsSeries = 1600 })
	c := n.kafkaClient()
	n.produce(c, "first", "v")
	before := n.scrape()
	n.createTopics(c, "topic-%04d", 5000, 1)
	n.produce(c, "topic-4321", "v") // there is no room left for it: topics of the scrape before took none
	garbage(t, n.kafka, 40)
	strange := kmsg.NewPtrMetadataRequest()
	for i := range 50 {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(fmt.Sprintf("no such/topic\x00%d", i))
		strange.Topics = append(strange.Topics, rt)
	}
	if _, err := strange.RequestWith(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	after := n.scrape()
	if grown := series(after) - series(before); grown > 1600+200 {
		t.Errorf("%d series more, %d in all", grown, series(after))
	}
	topics := after["firn_topic_partitions"].Metric
	folded, _ := value(after, "firn_metrics_folded_topics")
	if len(topics) != 1600/8+1 || folded != float64(5001-1600/8) {
		t.Errorf("%d topics have series, %v were folded", len(topics), folded)
	}
	sum := 0.0
	for _, m := range topics {
		sum += m.GetGauge().GetValue()
	}
	if sum != 5001 {
		t.Errorf("the partitions of all topics add up to %v", sum)
	}
	for _, f := range after {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if strings.Contains(l.GetValue(), "no such") {
					t.Errorf("%s has what a client sent: %v", f.GetName(), m)
				}
			}
		}
	}
	produced := 0.0
	for _, m := range after["firn_topic_produced_records_total"].Metric {
		produced += m.GetCounter().GetValue()
	}
	if produced != 2 {
		t.Errorf("%v records produced, all topics together", produced)
	}
	// A topic that is deleted takes its series along, and what was folded gets the room.
	req := kmsg.NewPtrDeleteTopicsRequest()
	name := "first"
	req.TopicNames, req.Topics = []string{name}, []kmsg.DeleteTopicsRequestTopic{{Topic: &name}}
	if _, err := req.RequestWith(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	await(t, "the deleted topic's series are gone", func() bool {
		_, ok := value(n.scrape(), "firn_topic_partitions", "first")
		return !ok
	})
	if got, _ := value(n.scrape(), "firn_metrics_folded_topics"); got != folded-1 {
		t.Errorf("%v topics folded, was %v", got, folded)
	}
}

// The index is told as the state has it: rows of all partitions, the most of one, and the objects they name.
func TestMetricsOfTheIndex(t *testing.T) {
	n := start(t)
	c := n.kafkaClient()
	n.produce(c, "long", "1", "2", "3") // each answered before the next, so each a row
	n.produce(c, "short", "v")
	await(t, "metrics of the index are those of the state", func() bool { // it may be merged between two looks
		want := make(map[string]float64)
		n.Metastore().View(func(st *state.State) {
			long, short := st.TopicByName("long").Partition(0).RowCount(), st.TopicByName("short").Partition(0).RowCount()
			objects, _ := st.ObjectCount()
			want["firn_index_rows"], want["firn_index_partition_rows_max"] = float64(long+short), float64(max(long, short))
			want["firn_index_objects"] = float64(objects)
		})
		families := n.scrape()
		for name, rows := range want {
			if v, ok := value(families, name); !ok || v != rows || rows == 0 {
				return false
			}
		}
		return true
	})
}

func TestDetailNoneMakesNoSeriesOfTopics(t *testing.T) {
	n := start(t, func(s *setup) { s.cfg.MetricsDetail = agent.DetailNone })
	n.produce(n.kafkaClient(), "t", "v")
	families := n.scrape()
	for name := range families {
		if strings.Contains(name, "_topic_") {
			t.Errorf("%s is there", name)
		}
	}
	if v, _ := value(families, "firn_topics"); v != 1 {
		t.Errorf("firn_topics is %v", v)
	}
	if v, _ := value(families, "firn_index_rows"); v != 1 {
		t.Errorf("firn_index_rows is %v", v)
	}
}

// Lag in records and in seconds, by partition, topic and group; of many groups no more series than there may be.
func TestGroupLag(t *testing.T) {
	n := start(t, func(s *setup) { s.cfg.MetricsDetail, s.cfg.MetricsSeries = agent.DetailPartition, 100 })
	c := n.kafkaClient(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	n.createTopics(c, "orders-%d", 1, 2)
	old := time.Now().Add(-time.Hour)
	for _, r := range []*kgo.Record{
		{Partition: 0, Timestamp: old.Add(-time.Hour)}, {Partition: 0, Timestamp: old}, {Partition: 0}, {Partition: 1, Timestamp: old.Add(-2 * time.Hour)},
	} {
		r.Topic = "orders-0"
		if err := c.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	n.commit("billing", "orders-0", 0, 1)
	n.commit("billing", "orders-0", 1, 1)
	families := n.scrape()
	for _, x := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"firn_groups", []string{"Empty"}, 1},
		{"firn_group_members", []string{"billing"}, 0},
		{"firn_group_state", []string{"billing", "Empty"}, 1},
		{"firn_group_lag_records", []string{"billing"}, 2},
		{"firn_group_topic_lag_records", []string{"billing", "orders-0"}, 2},
		{"firn_group_partition_lag_records", []string{"billing", "0", "orders-0"}, 2},
		{"firn_group_partition_lag_records", []string{"billing", "1", "orders-0"}, 0},
		{"firn_group_partition_lag_seconds", []string{"billing", "1", "orders-0"}, 0},
		{"kafka_consumergroup_members", []string{"billing"}, 0},
		{"kafka_consumergroup_lag_sum", []string{"billing", "orders-0"}, 2},
		{"kafka_consumergroup_current_offset_sum", []string{"billing", "orders-0"}, 2},
		{"firn_metrics_folded_groups", nil, 0},
	} {
		if v, ok := value(families, x.name, x.labels...); !ok || v != x.want {
			t.Errorf("%s%v is %v, %v, want %v", x.name, x.labels, v, ok, x.want)
		}
	}
	for name, labels := range map[string][]string{
		"firn_group_lag_seconds": {"billing"}, "firn_group_topic_lag_seconds": {"billing", "orders-0"}, "firn_group_partition_lag_seconds": {"billing", "0", "orders-0"},
	} {
		if v, ok := value(families, name, labels...); !ok || v < 3590 || v > 3900 {
			t.Errorf("%s%v is %v, %v: the record after the committed one is an hour old", name, labels, v, ok)
		}
	}
	for i := range 12 {
		n.commit(fmt.Sprintf("group-%02d", i), "orders-0", 0, 2)
	}
	families = n.scrape()
	// A group with one partition takes 14 series, billing 19: five of the twelve fit beside it.
	folded, _ := value(families, "firn_metrics_folded_groups")
	if lag, _ := value(families, "firn_group_lag_records", "(other)"); folded != 7 || lag != 7 {
		t.Errorf("%v groups folded, with a lag of %v", folded, lag)
	}
	count, sum := 0, 0.0
	for name, f := range families {
		if strings.HasPrefix(name, "firn_group_") && f.Metric[0].GetLabel() != nil || strings.HasPrefix(name, "kafka_consumergroup") {
			count += len(f.Metric)
		}
		for _, m := range f.Metric {
			if name == "firn_group_lag_records" {
				sum += m.GetGauge().GetValue()
			}
		}
	}
	if count > 100+3 || sum != 2+12 {
		t.Errorf("%d series, lag of all groups %v", count, sum)
	}
}

// A group that reads and has committed nothing has no lag that anybody knows: no series is better than one that says 0.
func TestAGroupThatCommittedNothingHasNoLag(t *testing.T) {
	n := start(t)
	n.produce(n.kafkaClient(), "orders", "v")
	c := n.kafkaClient(kgo.ConsumerGroup("new"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if fetched := c.PollRecords(t.Context(), 1); fetched.NumRecords() != 1 {
		t.Fatal(fetched.Err())
	}
	families := n.scrape()
	if v, ok := value(families, "firn_group_members", "new"); !ok || v != 1 {
		t.Errorf("members: %v, %v", v, ok)
	}
	for _, name := range []string{"firn_group_lag_records", "firn_group_lag_seconds"} {
		if v, ok := value(families, name, "new"); ok {
			t.Errorf("%s is %v", name, v)
		}
	}
}

var metricName = regexp.MustCompile(`\b(firn|kafka)_[a-z0-9_]+\b`)

// Guides and dashboards name only metrics that exist.
func TestNamesInGuidesExist(t *testing.T) {
	doc, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"../docs/operations.md", "../docs/dashboard.json"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, ".json") && !json.Valid(text) {
			t.Errorf("%s is not JSON", path)
		}
		names := metricName.FindAllString(string(text), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric", path)
		}
		for _, name := range names {
			base := name
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !bytes.Contains(doc, []byte("| `"+name+"` |")) && !bytes.Contains(doc, []byte("| `"+base+"` |")) {
				t.Errorf("%s: there is no metric %s", path, name)
			}
		}
	}
}

// Scraping must not hold up the applier: hold-ns is the longest that the state's lock was held.
func BenchmarkScrape10000Partitions(b *testing.B) {
	for _, detail := range []agent.Detail{agent.DetailTopic, agent.DetailPartition} {
		b.Run(string(detail), func(b *testing.B) {
			n := start(b)
			n.createTopics(n.kafkaClient(), "topic-%04d", 100, 100)
			var longest time.Duration
			view := func(fn func(*state.State)) {
				n.Metastore().View(func(st *state.State) {
					since := time.Now()
					fn(st)
					longest = max(longest, time.Since(since))
				})
			}
			registry := prometheus.NewRegistry()
			agent.RegisterTopicMetrics(registry, detail, 1_000_000, view, n.Metastore().NodeID)
			for b.Loop() {
				if _, err := registry.Gather(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(longest.Nanoseconds()), "hold-ns")
		})
	}
}

// The time of a record in a merged row lies between those of the row's ends; in what a flush wrote it is the row's.
func TestWhenARecordOfARowWasWritten(t *testing.T) {
	row := func(base, end, ts int64, merged bool) state.Row {
		r := state.Row{Base: base, End: end, MaxTimestamp: ts}
		if merged {
			r.Object.Topic = entry.UUID{1}
		}
		return r
	}
	none := state.Row{}
	flush, merged := row(100, 200, 5000, false), row(100, 200, 5000, true)
	for _, c := range []struct {
		name               string
		offset             int64
		before, row, after state.Row
		want               float64
	}{
		{"of a flush", 100, row(0, 100, 1000, true), flush, none, 5000},
		{"last", 199, row(0, 100, 1000, true), merged, none, 5000},
		{"middle", 149, row(0, 100, 1000, true), merged, none, 3000},
		{"first", 100, row(0, 100, 1000, true), merged, none, 1040},
		{"behind a gap", 149, row(0, 10, 1000, false), merged, none, 3000},
		{"alone", 100, none, merged, none, 5000},
		{"by the row after", 149, none, merged, row(200, 300, 9000, false), 3000},
		{"by the row after, behind a gap", 149, none, merged, row(250, 300, 9000, false), 3000},
		{"before one of all times", 149, none, merged, row(200, 300, 4000, false), 5000},
		{"behind a later one", 149, row(0, 100, 7000, true), merged, none, 5000},
		{"without timestamps before", 149, row(0, 100, -1, true), merged, none, 5000},
		{"without timestamps", 149, row(0, 100, 1000, true), row(100, 200, -1, true), none, -1},
	} {
		if got := agent.WrittenAt(c.offset, c.before, c.row, c.after); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Topics may ask for any storage class: puts are counted by so many, and together beyond that.
func TestPutsAreCountedByABoundedNumberOfClasses(t *testing.T) {
	reg := prometheus.NewRegistry()
	put := agent.PutsIn(reg)
	put("")
	for range 2 {
		for i := range 100 {
			put(fmt.Sprint("CLASS_", i))
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		if f.GetName() == "firn_objectstore_puts_total" {
			for _, m := range f.Metric {
				got[m.Label[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if len(got) > 40 || got["STANDARD"] != 1 || got["CLASS_0"] != 2 || got["(other)"] < 100 {
		t.Errorf("%d series: %v", len(got), got)
	}
}

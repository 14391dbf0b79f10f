package agent

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Detail is how far metrics of topics go.
type Detail string

// The details: none; one set of series for each topic; and one for each partition too.
const (
	DetailNone      Detail = "none"
	DetailTopic     Detail = "topic"
	DetailPartition Detail = "partition"
)

func (d Detail) validate() error {
	switch d {
	case DetailNone, DetailTopic, DetailPartition:
		return nil
	}
	return fmt.Errorf("agent: metrics detail %q is not %s, %s or %s", string(d), DetailNone, DetailTopic, DetailPartition)
}

const (
	// otherTopics is the label of all topics for which there is no room. No topic has this name: parentheses are not allowed.
	otherTopics = "(other)"
	// seriesPerTopic and seriesPerPartition are how many series each costs.
	seriesPerTopic     = 8
	seriesPerPartition = 5
	// partitionsPerView bounds how long the state's lock is held: by so many partitions at a time.
	partitionsPerView = 4096
)

// topicMetrics are the figures of topics. Counters are kept here, by topic id; all else is read from the state when it is
// asked for. At most most series are made: topics that come when there is no room are counted together, as otherTopics, and
// how many those are is told. A topic that is deleted makes room.
//
// Each agent counts what went through it, so sums over agents are right. What the state says is the same on every agent: the
// kafka_ names, which dashboards of others sum up, come from one agent only, the live one of the lowest id.
type topicMetrics struct {
	collector
	detail     Detail
	topicsMax  int
	partsMax   int // partitions that get series of their own
	view       func(func(*state.State))
	nodeID     func() int32
	other      traffic
	named      atomic.Int64 // topics in slots
	slots      sync.Map     // entry.UUID to *traffic
	collecting sync.Mutex   // guards rows and the order of collections
	rows       []topicRow

	produced, producedBytes, fetched, fetchedBytes *prometheus.Desc
	partitions, bytes, records                     *prometheus.Desc
	start, end, partBytes                          *prometheus.Desc
	topics, allPartitions, foldedTopics            *prometheus.Desc
	foldedPartitions                               *prometheus.Desc
	indexRows, indexRowsMax, indexObjects          *prometheus.Desc
	kafkaBrokers, kafkaPartitions                  *prometheus.Desc
	kafkaCurrent, kafkaOldest                      *prometheus.Desc
}

// traffic is what went through one topic on this agent.
type traffic struct{ produced, producedBytes, fetched, fetchedBytes atomic.Int64 }

// topicRow is a topic as one collection sees it.
type topicRow struct {
	id    entry.UUID
	name  string
	parts []partRow
}

type partRow struct{ start, end, bytes int64 }

// clusterRow is what one collection sees beside topics.
type clusterRow struct {
	lowest           int32 // id of a live agent; -1: none
	live, partitions int
	rows, mostRows   int // of the index: of all partitions, and of the one that has most
	objects          int // that rows name
}

// newTopicMetrics makes and registers them. Requires: nothing is collected before view works.
func newTopicMetrics(r prometheus.Registerer, detail Detail, seriesMax int, view func(func(*state.State)), nodeID func() int32) *topicMetrics {
	m := &topicMetrics{detail: detail, view: view, nodeID: nodeID, topicsMax: max(seriesMax/seriesPerTopic, 1)}
	if detail == DetailPartition {
		m.topicsMax = max(seriesMax/2/seriesPerTopic, 1)
		m.partsMax = seriesMax / 2 / seriesPerPartition
	}
	m.topics = m.desc("firn_topics", "Topics of the cluster.")
	m.allPartitions = m.desc("firn_partitions", "Partitions of the cluster.")
	m.indexRows = m.desc("firn_index_rows", "Rows of the index, of all partitions: every agent holds them in memory. Merging makes them fewer.")
	m.indexRowsMax = m.desc("firn_index_partition_rows_max", "Rows of the partition that has most of them.")
	m.indexObjects = m.desc("firn_index_objects", "Objects that rows of the index name, merged or not.")
	m.foldedTopics = m.desc("firn_metrics_folded_topics", "Topics without series of their own, for want of room: they are counted as "+otherTopics+".")
	m.foldedPartitions = m.desc("firn_metrics_folded_partitions", "Partitions without series of their own, for want of room; 0 where no partition has any.")
	m.kafkaBrokers = m.desc("kafka_brokers", "Live agents, as kafka_exporter names them; of the live agent with the lowest id only.")
	if detail != DetailNone {
		m.produced = m.desc("firn_topic_produced_records_total", "Records acknowledged by this agent.", "topic")
		m.producedBytes = m.desc("firn_topic_produced_bytes_total", "Bytes of record batches acknowledged by this agent.", "topic")
		m.fetched = m.desc("firn_topic_fetched_records_total", "Records that this agent put into answers.", "topic")
		m.fetchedBytes = m.desc("firn_topic_fetched_bytes_total", "Bytes of record batches that this agent put into answers.", "topic")
		m.partitions = m.desc("firn_topic_partitions", "Partitions of the topic.", "topic")
		m.bytes = m.desc("firn_topic_log_bytes", "Bytes of record batches that the topic holds.", "topic")
		m.records = m.desc("firn_topic_log_offsets", "Offsets from log start to log end, of all partitions: the records, where none were compacted away.", "topic")
		m.kafkaPartitions = m.desc("kafka_topic_partitions", "Partitions of the topic, as kafka_exporter names them; of the live agent with the lowest id only.", "topic")
	}
	if detail == DetailPartition {
		m.start = m.desc("firn_topic_partition_log_start_offset", "Lowest offset still served.", "topic", "partition")
		m.end = m.desc("firn_topic_partition_log_end_offset", "Next offset to assign.", "topic", "partition")
		m.partBytes = m.desc("firn_topic_partition_log_bytes", "Bytes of record batches that the partition holds.", "topic", "partition")
		m.kafkaCurrent = m.desc("kafka_topic_partition_current_offset", "Log end offset, as kafka_exporter names it; of the live agent with the lowest id only.", "topic", "partition")
		m.kafkaOldest = m.desc("kafka_topic_partition_oldest_offset", "Log start offset, as kafka_exporter names it; of the live agent with the lowest id only.", "topic", "partition")
	}
	m.collect = m.collectTopics
	r.MustRegister(m)
	return m
}

// Produced implements kafka.Traffic.
func (m *topicMetrics) Produced(topic entry.UUID, records, bytes int64) {
	t := m.of(topic)
	t.produced.Add(records)
	t.producedBytes.Add(bytes)
}

// Fetched implements kafka.Traffic.
func (m *topicMetrics) Fetched(topic entry.UUID, records, bytes int64) {
	t := m.of(topic)
	t.fetched.Add(records)
	t.fetchedBytes.Add(bytes)
}

// of returns where a topic is counted. The first topics to be used have slots of their own for as long as they exist.
func (m *topicMetrics) of(topic entry.UUID) *traffic {
	if t, ok := m.slots.Load(topic); ok {
		return t.(*traffic)
	}
	if m.detail == DetailNone {
		return &m.other
	}
	if m.named.Add(1) > int64(m.topicsMax) {
		m.named.Add(-1)
		return &m.other
	}
	t, taken := m.slots.LoadOrStore(topic, new(traffic))
	if taken {
		m.named.Add(-1)
	}
	return t.(*traffic)
}

// look reads the state, that of topics into m.rows, a bounded number of partitions at a time. A topic that is created or deleted
// meanwhile may be missing.
func (m *topicMetrics) look() clusterRow {
	m.rows = m.rows[:0]
	all := clusterRow{lowest: -1}
	m.view(func(st *state.State) {
		all.partitions = st.PartitionCount()
		all.objects, _ = st.ObjectCount()
		agents := st.Agents()
		all.live = len(agents)
		for i := range agents {
			if all.lowest < 0 || agents[i].NodeID < all.lowest {
				all.lowest = agents[i].NodeID
			}
		}
		for t := range st.Topics() {
			row := topicRow{id: t.ID, name: t.Name}
			if n := len(m.rows); n < cap(m.rows) { // the memory of an earlier collection
				row.parts = m.rows[:n+1][n].parts[:0]
			}
			m.rows = append(m.rows, row)
		}
	})
	for i := 0; i < len(m.rows); {
		m.view(func(st *state.State) {
			for seen := 0; i < len(m.rows) && seen < partitionsPerView; i++ {
				row := &m.rows[i]
				t := st.TopicByID(row.id)
				if t == nil {
					continue
				}
				for j := range t.Partitions() {
					p := t.Partition(j)
					all.rows += p.RowCount()
					all.mostRows = max(all.mostRows, p.RowCount())
					if m.detail != DetailNone {
						row.parts = append(row.parts, partRow{p.LogStart(), p.Next(), p.Size()})
					}
				}
				seen += 1 + t.Partitions()
			}
		})
	}
	return all
}

// forget frees the slots of topics that are gone. have is what had slots before the state was looked at: a topic has its slot
// after it is in the state, so what is not in the state now was deleted.
func (m *topicMetrics) forget(have []entry.UUID) {
	exists := make(map[entry.UUID]struct{}, len(m.rows))
	for i := range m.rows {
		exists[m.rows[i].id] = struct{}{}
	}
	for _, id := range have {
		if _, ok := exists[id]; !ok {
			m.slots.Delete(id)
			m.named.Add(-1)
		}
	}
}

func (m *topicMetrics) collectTopics(ch chan<- prometheus.Metric) {
	m.collecting.Lock()
	defer m.collecting.Unlock()
	var have []entry.UUID
	m.slots.Range(func(id, _ any) bool { have = append(have, id.(entry.UUID)); return true })
	all := m.look()
	m.forget(have)
	first := all.lowest >= 0 && all.lowest == m.nodeID()

	ch <- gaugeOf(m.topics, float64(len(m.rows)))
	ch <- gaugeOf(m.allPartitions, float64(all.partitions))
	ch <- gaugeOf(m.indexRows, float64(all.rows))
	ch <- gaugeOf(m.indexRowsMax, float64(all.mostRows))
	ch <- gaugeOf(m.indexObjects, float64(all.objects))
	if first {
		ch <- gaugeOf(m.kafkaBrokers, float64(all.live))
	}
	var folded topicRow
	foldedTopics, foldedPartitions, named := 0, 0, 0
	for i := range m.rows {
		row := &m.rows[i]
		t := &m.other
		if m.detail != DetailNone {
			t = m.of(row.id)
		}
		if t == &m.other {
			foldedTopics++
			folded.parts = append(folded.parts, row.parts...)
			continue
		}
		m.tell(ch, row.name, t, row.parts)
		if first {
			ch <- gaugeOf(m.kafkaPartitions, float64(len(row.parts)), row.name)
		}
		if m.detail != DetailPartition {
			continue
		}
		for j, p := range row.parts {
			if named == m.partsMax {
				break
			}
			named++
			partition := strconv.Itoa(j)
			ch <- gaugeOf(m.start, float64(p.start), row.name, partition)
			ch <- gaugeOf(m.end, float64(p.end), row.name, partition)
			ch <- gaugeOf(m.partBytes, float64(p.bytes), row.name, partition)
			if first {
				ch <- gaugeOf(m.kafkaCurrent, float64(p.end), row.name, partition)
				ch <- gaugeOf(m.kafkaOldest, float64(p.start), row.name, partition)
			}
		}
	}
	if m.detail == DetailPartition {
		foldedPartitions = all.partitions - named
	}
	if m.detail != DetailNone && (foldedTopics > 0 || m.other.produced.Load()+m.other.fetched.Load() > 0) {
		m.tell(ch, otherTopics, &m.other, folded.parts)
	}
	ch <- gaugeOf(m.foldedTopics, float64(foldedTopics))
	ch <- gaugeOf(m.foldedPartitions, float64(max(foldedPartitions, 0)))
}

// tell sends the series of one topic.
func (m *topicMetrics) tell(ch chan<- prometheus.Metric, name string, t *traffic, parts []partRow) {
	var bytes, records int64
	for _, p := range parts {
		bytes += p.bytes
		records += p.end - p.start
	}
	ch <- counterOf(m.produced, float64(t.produced.Load()), name)
	ch <- counterOf(m.producedBytes, float64(t.producedBytes.Load()), name)
	ch <- counterOf(m.fetched, float64(t.fetched.Load()), name)
	ch <- counterOf(m.fetchedBytes, float64(t.fetchedBytes.Load()), name)
	ch <- gaugeOf(m.partitions, float64(len(parts)), name)
	ch <- gaugeOf(m.bytes, float64(bytes), name)
	ch <- gaugeOf(m.records, float64(records), name)
}

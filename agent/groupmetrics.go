package agent

import (
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

const (
	// otherGroups is the label of all groups for which there is no room. A group may have this name; its figures are then among
	// the others'.
	otherGroups = "(other)"
	// What a group costs in series: by itself, for each topic that it has offsets of, for each partition.
	seriesPerGroup          = 5
	seriesPerGroupTopic     = 4
	seriesPerGroupPartition = 5
	// offsetsPerView bounds how long the state's lock is held, by so many look-ups in partitions' indexes at a time, and
	// offsetsPerCollection what a collection looks at in all: groups beyond are counted as those without room are.
	offsetsPerView       = 4096
	offsetsPerCollection = 200_000
)

// groupMetrics are the figures of the consumer groups that this agent coordinates: a sum over agents has each group once.
//
// Lag in seconds is log time minus the time of the first record that is not committed. Reading that record would cost a request
// to the bucket for each partition and scrape, so its time is told from the index rows around it, which are in memory on every
// agent; see writtenAt.
//
// At most most series are made, for the groups that were there first; the rest is counted together, as otherGroups.
type groupMetrics struct {
	collector
	detail     Detail
	most       int
	view       func(func(*state.State))
	list       func() ([]group.Listing, group.Code)
	collecting sync.Mutex // guards order and the order of collections
	order      []string   // groups in the order in which they came

	groups, folded                                      *prometheus.Desc
	members, state, lag, seconds                        *prometheus.Desc
	topicLag, topicSeconds                              *prometheus.Desc
	committed, partLag, partSeconds                     *prometheus.Desc
	kafkaMembers, kafkaLagSum, kafkaOffsetSum, kafkaLag *prometheus.Desc
	kafkaOffset                                         *prometheus.Desc
}

// newGroupMetrics makes and registers them. Requires: nothing is collected before view and list work.
func newGroupMetrics(r prometheus.Registerer, detail Detail, seriesMax int, view func(func(*state.State)), list func() ([]group.Listing, group.Code)) {
	m := &groupMetrics{detail: detail, most: seriesMax, view: view, list: list}
	m.groups = m.desc("firn_groups", "Consumer groups that this agent coordinates.", "state")
	m.folded = m.desc("firn_metrics_folded_groups", "Consumer groups without series of their own, for want of room: they are counted as "+otherGroups+".")
	if detail != DetailNone {
		m.members = m.desc("firn_group_members", "Members of the group.", "group")
		m.state = m.desc("firn_group_state", "1 for the state that the group is in.", "group", "state")
		m.lag = m.desc("firn_group_lag_records", "Records beyond what the group has committed, of all partitions that it has committed offsets of. Absent where there are none.", "group")
		m.seconds = m.desc("firn_group_lag_seconds", "Log time minus the time of the oldest record that the group has not committed; 0 where there is none, absent where it has committed nothing.", "group")
		m.topicLag = m.desc("firn_group_topic_lag_records", "Records of the topic beyond what the group has committed.", "group", "topic")
		m.topicSeconds = m.desc("firn_group_topic_lag_seconds", "Log time minus the time of the oldest record of the topic that the group has not committed.", "group", "topic")
		m.kafkaMembers = m.desc("kafka_consumergroup_members", "Members of the group, as kafka_exporter names them; of the agent that coordinates the group only.", "consumergroup")
		m.kafkaLagSum = m.desc("kafka_consumergroup_lag_sum", "Lag of the group in a topic, as kafka_exporter names it; of the agent that coordinates the group only.", "consumergroup", "topic")
		m.kafkaOffsetSum = m.desc("kafka_consumergroup_current_offset_sum", "Sum of the offsets that the group has committed in a topic, as kafka_exporter names it; of the agent that coordinates the group only.", "consumergroup", "topic")
	}
	if detail == DetailPartition {
		m.committed = m.desc("firn_group_committed_offset", "Offset that the group has committed: the next one that it reads.", "group", "topic", "partition")
		m.partLag = m.desc("firn_group_partition_lag_records", "Records of the partition beyond what the group has committed.", "group", "topic", "partition")
		m.partSeconds = m.desc("firn_group_partition_lag_seconds", "Log time minus the time of the oldest record of the partition that the group has not committed.", "group", "topic", "partition")
		m.kafkaOffset = m.desc("kafka_consumergroup_current_offset", "Committed offset, as kafka_exporter names it; of the agent that coordinates the group only.", "consumergroup", "topic", "partition")
		m.kafkaLag = m.desc("kafka_consumergroup_lag", "Lag of the group in a partition, as kafka_exporter names it; of the agent that coordinates the group only.", "consumergroup", "topic", "partition")
	}
	m.collect = m.collectGroups
	r.MustRegister(m)
}

// groupLag is how far something is behind.
type groupLag struct {
	records int64
	seconds float64
}

func (b *groupLag) add(o groupLag) {
	b.records += o.records
	b.seconds = max(b.seconds, o.seconds)
}

// groupTopicRow is what a group has committed of a topic, as one collection sees it. Partitions are sorted.
type groupTopicRow struct {
	id      entry.UUID
	name    string
	offsets []groupOffsetRow
	all     groupLag
	sum     int64 // of offsets
}

type groupOffsetRow struct {
	partition int32
	committed int64
	groupLag
}

// look reads what a group has committed, and how far that is behind; ok is false where room looks are too few.
func (m *groupMetrics) look(id string, room *int) (rows []groupTopicRow, all groupLag, ok bool) {
	ok = true
	m.view(func(st *state.State) {
		g := st.Group(id)
		if g == nil {
			return
		}
		if *room -= g.OffsetCount(); *room < 0 {
			ok = false
			return
		}
		for o := range g.Offsets() {
			if n := len(rows); n == 0 || rows[n-1].id != o.Topic {
				rows = append(rows, groupTopicRow{id: o.Topic})
			}
			t := &rows[len(rows)-1]
			t.offsets = append(t.offsets, groupOffsetRow{partition: o.Partition, committed: o.Offset})
		}
	})
	var scratch []state.Row
	for i := range rows {
		t := &rows[i]
		for from := 0; from < len(t.offsets); from += offsetsPerView {
			part := t.offsets[from:min(from+offsetsPerView, len(t.offsets))]
			m.view(func(st *state.State) {
				topic := st.TopicByID(t.id)
				if topic == nil { // deleted meanwhile
					return
				}
				t.name = topic.Name
				for j := range part {
					part[j].groupLag, scratch = groupLagOf(topic.Partition(int(part[j].partition)), part[j].committed, st.LogTime(), scratch)
				}
			})
		}
		for _, o := range t.offsets {
			t.all.add(o.groupLag)
			t.sum += o.committed
		}
		all.add(t.all)
	}
	return rows, all, ok
}

// groupLagOf is how far an offset is behind a partition's end. scratch is memory to use.
func groupLagOf(p *state.Partition, committed, logTime int64, scratch []state.Row) (groupLag, []state.Row) {
	if p == nil || committed >= p.Next() {
		return groupLag{}, scratch
	}
	b := groupLag{records: p.Next() - committed}
	scratch = p.Rows(max(committed, p.LogStart()), 2, scratch[:0])
	if len(scratch) > 0 {
		row, after := scratch[0], state.Row{}
		if len(scratch) > 1 {
			after = scratch[1]
		}
		before := state.Row{}
		if row.Object.Merged() {
			before, _ = p.RowBefore(row.Base)
		}
		b.seconds = max(float64(logTime)-writtenAt(max(committed, row.Base), before, row, after), 0) / 1000
	}
	return b, scratch
}

// writtenAt is about when the record at an offset of row was written, in milliseconds. before and after are the rows around it; one that
// is not there has no offsets.
//
// What one flush brought spans a fraction of a second, and its largest timestamp is near enough. A merged row spans what was merged: its
// largest timestamp is that of its end, and that of the row before it the one of its beginning; between the two, time is taken to pass
// evenly with the offsets. Where retention took the row before, it is taken to have passed as fast as in the row after.
func writtenAt(offset int64, before, row, after state.Row) float64 {
	end := float64(row.MaxTimestamp)
	if !row.Object.Merged() || row.MaxTimestamp < 0 {
		return end
	}
	span := float64(row.End - row.Base)
	begin := end
	switch {
	case before.End > 0 && before.MaxTimestamp >= 0:
		begin = float64(before.MaxTimestamp)
	case after.End > row.End:
		begin = end - span*(float64(after.MaxTimestamp)-end)/float64(after.End-row.End)
	}
	left := float64(row.End-1-offset) / span // of the row, behind the record
	return end - left*max(end-begin, 0)      // the times of producers need not rise
}

// arrange brings order up to date: groups that are gone make room, new ones come last.
func (m *groupMetrics) arrange(list []group.Listing) map[string]*group.Listing {
	here := make(map[string]*group.Listing, len(list))
	for i := range list {
		here[list[i].ID] = &list[i]
	}
	m.order = slices.DeleteFunc(m.order, func(id string) bool { return here[id] == nil })
	known := make(map[string]bool, len(m.order))
	for _, id := range m.order {
		known[id] = true
	}
	for i := range list {
		if !known[list[i].ID] {
			m.order = append(m.order, list[i].ID)
		}
	}
	return here
}

func (m *groupMetrics) collectGroups(ch chan<- prometheus.Metric) {
	m.collecting.Lock()
	defer m.collecting.Unlock()
	list, _ := m.list() // of what is missing there are no series, which is what is known of it
	states := make(map[string]int)
	for i := range list {
		states[list[i].State]++
	}
	for _, s := range slices.Sorted(maps.Keys(states)) {
		ch <- gaugeOf(m.groups, float64(states[s]), s)
	}
	if m.detail == DetailNone {
		ch <- gaugeOf(m.folded, float64(len(list)))
		return
	}
	here := m.arrange(list)
	room, looks := m.most, offsetsPerCollection
	folded, foldedMembers := 0, 0
	var foldedAll groupLag
	for _, id := range m.order {
		rows, all, ok := m.look(id, &looks)
		need := seriesPerGroup + seriesPerGroupTopic*len(rows)
		if m.detail == DetailPartition {
			for i := range rows {
				need += seriesPerGroupPartition * len(rows[i].offsets)
			}
		}
		if !ok || need > room || id == otherGroups {
			folded++
			foldedMembers += here[id].Members
			foldedAll.add(all)
			continue
		}
		room -= need
		m.tell(ch, here[id], rows, all)
	}
	if folded > 0 {
		ch <- gaugeOf(m.members, float64(foldedMembers), otherGroups)
		ch <- gaugeOf(m.lag, float64(foldedAll.records), otherGroups)
		ch <- gaugeOf(m.seconds, foldedAll.seconds, otherGroups)
	}
	ch <- gaugeOf(m.folded, float64(folded))
}

// tell sends the series of one group.
func (m *groupMetrics) tell(ch chan<- prometheus.Metric, of *group.Listing, rows []groupTopicRow, all groupLag) {
	ch <- gaugeOf(m.members, float64(of.Members), of.ID)
	ch <- gaugeOf(m.kafkaMembers, float64(of.Members), of.ID)
	ch <- gaugeOf(m.state, 1, of.ID, of.State)
	if slices.ContainsFunc(rows, func(t groupTopicRow) bool { return t.name != "" }) { // else nobody knows how far it is
		ch <- gaugeOf(m.lag, float64(all.records), of.ID)
		ch <- gaugeOf(m.seconds, all.seconds, of.ID)
	}
	for i := range rows {
		t := &rows[i]
		if t.name == "" {
			continue
		}
		ch <- gaugeOf(m.topicLag, float64(t.all.records), of.ID, t.name)
		ch <- gaugeOf(m.topicSeconds, t.all.seconds, of.ID, t.name)
		ch <- gaugeOf(m.kafkaLagSum, float64(t.all.records), of.ID, t.name)
		ch <- gaugeOf(m.kafkaOffsetSum, float64(t.sum), of.ID, t.name)
		if m.detail != DetailPartition {
			continue
		}
		for _, o := range t.offsets {
			partition := strconv.Itoa(int(o.partition))
			ch <- gaugeOf(m.committed, float64(o.committed), of.ID, t.name, partition)
			ch <- gaugeOf(m.partLag, float64(o.records), of.ID, t.name, partition)
			ch <- gaugeOf(m.partSeconds, o.seconds, of.ID, t.name, partition)
			ch <- gaugeOf(m.kafkaOffset, float64(o.committed), of.ID, t.name, partition)
			ch <- gaugeOf(m.kafkaLag, float64(o.records), of.ID, t.name, partition)
		}
	}
}

package state_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

func TestCreateTopicRefused(t *testing.T) {
	m := joined(t)
	m.accept(1, &entry.CreateTopic{Name: "a.b_c", ID: topicID(3), Partitions: 1})
	with := func(change func(*entry.CreateTopic)) *entry.CreateTopic {
		c := &entry.CreateTopic{Name: "new", ID: topicID(9), Partitions: 2}
		change(c)
		return c
	}
	named := func(name string) *entry.CreateTopic { return with(func(c *entry.CreateTopic) { c.Name = name }) }
	for _, name := range []string{"", ".", "..", "a b", "a/b", "ü", "a\x00", strings.Repeat("x", 250), "a_b_c", "a.b.c", "a_b.c"} {
		m.refuse(1, named(name), state.InvalidTopic)
	}
	m.refuse(1, named("plain"), state.TopicExists)
	m.refuse(1, with(func(c *entry.CreateTopic) { c.ID = topicID(1) }), state.TopicExists)
	m.refuse(1, with(func(c *entry.CreateTopic) { c.ID = entry.UUID{15: 1} }), state.InvalidTopic)
	m.refuse(1, with(func(c *entry.CreateTopic) { c.Partitions = 0 }), state.InvalidPartitions)
	m.refuse(1, with(func(c *entry.CreateTopic) { c.Partitions = state.MaxPartitionsPerTopic + 1 }), state.InvalidPartitions)
	m.refuse(1, with(func(c *entry.CreateTopic) { c.Assignment = make([]entry.Replicas, 1) }), state.InvalidAssignment)
	m.refuse(1, with(func(c *entry.CreateTopic) {
		c.Assignment = []entry.Replicas{{}, {Nodes: make([]int32, state.MaxReplicas+1)}}
	}), state.InvalidAssignment)
	m.refuse(1, with(func(c *entry.CreateTopic) { c.Configs = []entry.Config{{Name: "x"}, {Name: "x"}} }), state.InvalidConfig)
	m.refuse(1, with(func(c *entry.CreateTopic) { c.Configs = []entry.Config{{Value: "x"}} }), state.InvalidConfig)
	m.refuse(1, with(func(c *entry.CreateTopic) {
		c.Configs = []entry.Config{{Name: "message.timestamp.type", Value: "Never"}}
	}), state.InvalidConfig)
	m.refuse(1, with(func(c *entry.CreateTopic) { c.Configs = make([]entry.Config, state.MaxConfigs+1) }), state.LimitExceeded)

	m.accept(1, named(strings.Repeat("x", 249)))
	m.accept(1, &entry.CreateTopic{Name: "...", ID: topicID(10), Partitions: 1})
}

func TestTopicsAreSortedAndFound(t *testing.T) {
	m := joined(t)
	m.accept(1, &entry.CreateTopic{
		Name: "a.b", ID: topicID(3), Partitions: 2, ReplicationFactor: 3,
		Configs:    []entry.Config{{Name: "z", Value: "1"}, {Name: "a", Value: "2"}},
		Assignment: []entry.Replicas{{Nodes: []int32{1}}, {Nodes: []int32{2}}},
	})
	var names []string
	for topic := range m.s.Topics() {
		names = append(names, topic.Name)
	}
	if !slices.Equal(names, []string{"a.b", "plain", "stamped"}) {
		t.Errorf("topics %v", names)
	}
	topic := m.s.TopicByName("a.b")
	if topic == nil || topic != m.s.TopicByID(topicID(3)) || topic.ReplicationFactor != 3 || topic.CreatedN != m.s.N() {
		t.Fatalf("found %+v", topic)
	}
	if m.s.TopicByName("a_b") != nil || m.s.TopicByName("nope") != nil || m.s.TopicByID(topicID(8)) != nil || m.s.TopicByName(strings.Repeat("x", 300)) != nil {
		t.Error("found a topic that is not there")
	}
	if v, ok := topic.Config("a"); !ok || v != "2" {
		t.Error(v, ok)
	}
	if _, ok := topic.Config("b"); ok {
		t.Error("a config that is not there")
	}
	if topic.Partition(-1) != nil || topic.Partition(2) != nil || topic.Partition(1).Ref() != (state.PartitionRef{Topic: topicID(3), Partition: 1}) {
		t.Error("partitions")
	}

	m.accept(1, &entry.CreatePartitions{ID: topicID(3), Total: 4})
	want := []entry.Replicas{{Nodes: []int32{1}}, {Nodes: []int32{2}}, {}, {}}
	if diff := cmp.Diff(want, m.s.TopicByName("a.b").Assignment); diff != "" {
		t.Error(diff)
	}
	m.accept(1, &entry.CreatePartitions{ID: topicID(1), Total: 4, Assignment: []entry.Replicas{{Nodes: []int32{7}}}})
	want = []entry.Replicas{{}, {}, {}, {Nodes: []int32{7}}}
	if diff := cmp.Diff(want, m.s.TopicByName("plain").Assignment); diff != "" {
		t.Error(diff)
	}
	m.refuse(1, &entry.CreatePartitions{ID: topicID(9), Total: 9}, state.UnknownTopic)
	m.refuse(1, &entry.CreatePartitions{ID: topicID(3), Total: 4}, state.InvalidPartitions)
	m.refuse(1, &entry.CreatePartitions{ID: topicID(3), Total: 3}, state.InvalidPartitions)
	m.refuse(1, &entry.CreatePartitions{ID: topicID(3), Total: state.MaxPartitionsPerTopic + 1}, state.InvalidPartitions)
	m.refuse(1, &entry.CreatePartitions{ID: topicID(3), Total: 6, Assignment: make([]entry.Replicas, 1)}, state.InvalidAssignment)
}

func TestCreatePartitionsKeepsData(t *testing.T) {
	m := joined(t)
	m.produce(topicID(1), sent(5, 0, 0, 3))
	m.accept(1, &entry.CreatePartitions{ID: topicID(1), Total: 50})
	got := m.produce(topicID(1), sent(5, 0, 0, 3), sent(5, 0, 3, 1))
	m.codes(got, state.Duplicate, state.OK)
	if got[1].BaseOffset != 3 || m.s.TopicByID(topicID(1)).Partitions() != 50 || m.s.PartitionCount() != 51 {
		t.Error("partition lost")
	}
}

func TestPartitionsAreBounded(t *testing.T) {
	m := joined(t)
	have := m.s.PartitionCount()
	for i := range state.MaxPartitions/state.MaxPartitionsPerTopic - 1 {
		m.accept(1, &entry.CreateTopic{Name: "big" + string(rune('a'+i)), ID: topicID(byte(50 + i)), Partitions: state.MaxPartitionsPerTopic})
	}
	big := &entry.CreateTopic{Name: "last", ID: topicID(9), Partitions: state.MaxPartitionsPerTopic}
	if got := m.apply(1, big).Ops[0].Code; got != state.LimitExceeded {
		t.Errorf("%v", got)
	}
	if got := m.apply(1, &entry.CreatePartitions{ID: topicID(1), Total: state.MaxPartitionsPerTopic}).Ops[0].Code; got != state.LimitExceeded {
		t.Errorf("%v", got)
	}
	big.Partitions -= uint32(have)
	m.accept(1, big)
	if m.s.PartitionCount() != state.MaxPartitions {
		t.Error(m.s.PartitionCount())
	}
}

func TestDeleteTopic(t *testing.T) {
	m := joined(t)
	a := m.append(block(topicID(1), 0, plain(1)), block(topicID(2), 0, plain(1)), block(topicID(1), 1, plain(1)))
	m.accept(1, a)
	m.refuse(1, &entry.DeleteTopic{ID: topicID(9)}, state.UnknownTopic)
	r := m.accept(1, &entry.DeleteTopic{ID: topicID(1)})
	if !r.TopicsChanged || m.s.TopicByName("plain") != nil || m.s.TopicByID(topicID(1)) != nil || m.s.TopicCount() != 1 {
		t.Error("still there")
	}
	if !m.s.Named(a.Object) || len(m.s.Retired()) != 0 {
		t.Error("an object that another topic needs was retired")
	}
	m.codes(m.accept(1, m.append(block(topicID(1), 0, plain(1)))).Ops[0].Batches, state.UnknownTopic)
	m.accept(1, &entry.DeleteTopic{ID: topicID(2)})
	want := []state.RetiredObject{{Object: a.Object, Size: 1000, N: m.s.N()}}
	if diff := cmp.Diff(want, m.s.Retired()); diff != "" || m.s.Named(a.Object) {
		t.Error(diff)
	}
	// The same name again is another topic, from offset 0.
	m.accept(1, &entry.CreateTopic{Name: "plain", ID: topicID(5), Partitions: 1})
	if got := m.produce(topicID(5), plain(1)); got[0].BaseOffset != 0 {
		t.Error(got)
	}
}

func TestAlterConfigs(t *testing.T) {
	m := joined(t)
	change := func(changes ...entry.ConfigChange) *entry.AlterConfigs {
		return &entry.AlterConfigs{ResourceType: entry.ResourceTopic, ResourceName: "plain", Changes: changes}
	}
	check := func(want ...entry.Config) {
		t.Helper()
		if diff := cmp.Diff(want, m.s.TopicByName("plain").Configs); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	m.accept(1, change(entry.ConfigChange{Name: "z", Value: "1"}, entry.ConfigChange{Name: "list", Kind: entry.ConfigAppend, Value: "a,b"}))
	check(entry.Config{Name: "list", Value: "a,b"}, entry.Config{Name: "z", Value: "1"})
	m.accept(1, change(entry.ConfigChange{Name: "list", Kind: entry.ConfigAppend, Value: "b, c"}, entry.ConfigChange{Name: "y", Value: "2"}))
	m.accept(1, change(entry.ConfigChange{Name: "list", Kind: entry.ConfigSubtract, Value: "a,x"}, entry.ConfigChange{Name: "z", Kind: entry.ConfigDelete}))
	check(entry.Config{Name: "list", Value: "b,c"}, entry.Config{Name: "y", Value: "2"})
	m.accept(1, change(entry.ConfigChange{Name: "none", Kind: entry.ConfigDelete}))
	m.refuse(1, change(entry.ConfigChange{Name: "x"}, entry.ConfigChange{Name: "x", Kind: entry.ConfigDelete}), state.InvalidConfig)
	m.refuse(1, change(entry.ConfigChange{Value: "x"}), state.InvalidConfig)
	m.refuse(1, change(entry.ConfigChange{Name: "new", Value: "1"}, entry.ConfigChange{Name: "message.timestamp.type", Value: "x"}), state.InvalidConfig)
	long := strings.Repeat("a,", 1024)
	m.refuse(1, change(entry.ConfigChange{Name: "list", Kind: entry.ConfigAppend, Value: long}), state.LimitExceeded)
	check(entry.Config{Name: "list", Value: "b,c"}, entry.Config{Name: "y", Value: "2"})

	all := change(entry.ConfigChange{Name: "only", Value: "1"})
	all.ReplaceAll = true
	m.accept(1, all)
	check(entry.Config{Name: "only", Value: "1"})
	all.Changes[0].Kind = entry.ConfigAppend
	m.refuse(1, all, state.InvalidConfig)

	unknown := change()
	unknown.ResourceName = "nope"
	m.refuse(1, unknown, state.UnknownTopic)
	m.refuse(1, &entry.AlterConfigs{ResourceType: entry.ResourceBroker, ResourceName: "1"}, state.InvalidRequest)
	m.refuse(1, &entry.AlterConfigs{ResourceType: 8}, state.InvalidRequest)
}

func TestTimestampType(t *testing.T) {
	m := joined(t)
	stamped := func(name string) bool { return m.s.TopicByName(name).LogAppendTime() }
	cluster := func(kind uint32, value string) *entry.AlterConfigs {
		return &entry.AlterConfigs{ResourceType: entry.ResourceBroker, Changes: []entry.ConfigChange{
			{Name: "log.message.timestamp.type", Kind: kind, Value: value},
		}}
	}
	if stamped("plain") || !stamped("stamped") {
		t.Error("at creation")
	}
	m.accept(1, cluster(entry.ConfigSet, "LogAppendTime"))
	if diff := cmp.Diff([]entry.Config{{Name: "log.message.timestamp.type", Value: "LogAppendTime"}}, m.s.BrokerConfigs()); diff != "" {
		t.Error(diff)
	}
	m.accept(1, &entry.CreateTopic{
		Name: "explicit", ID: topicID(7), Partitions: 1, Configs: []entry.Config{{Name: "message.timestamp.type", Value: "CreateTime"}},
	})
	m.accept(1, &entry.CreateTopic{Name: "default", ID: topicID(8), Partitions: 1})
	if !stamped("plain") || !stamped("stamped") || stamped("explicit") || !stamped("default") {
		t.Error("by the cluster's default")
	}
	m.refuse(1, cluster(entry.ConfigSet, "Never"), state.InvalidConfig)
	m.accept(1, cluster(entry.ConfigDelete, ""))
	if stamped("plain") || !stamped("stamped") || stamped("default") {
		t.Error("after the default went")
	}

	m.clock = start + 77
	got := m.produce(topicID(2), plain(2))
	if got[0].Timestamp != start+77 {
		t.Errorf("stamp %d", got[0].Timestamp)
	}
	if row := m.rows(topicID(2), 0)[0]; !row.LogAppendTime || row.MaxTimestamp != start+77 {
		t.Errorf("%+v", row)
	}
	if got := m.produce(topicID(1), plain(2)); got[0].Timestamp != -1 || m.rows(topicID(1), 0)[0].LogAppendTime {
		t.Errorf("a topic of the producer's time: %+v", got)
	}
}

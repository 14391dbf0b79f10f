package kafka_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// creation is a CreateTopics of one topic.
func creation(name string, partitions int32, replication int16, configs ...string) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version = 7
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, replication
	for _, c := range configs {
		k, v, _ := strings.Cut(c, "=")
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = k, &v
		rt.Configs = append(rt.Configs, rc)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func assigned(req *kmsg.CreateTopicsRequest, replicas ...[]int32) *kmsg.CreateTopicsRequest {
	for i, ids := range replicas {
		ra := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		ra.Partition, ra.Replicas = int32(i), ids
		req.Topics[0].ReplicaAssignment = append(req.Topics[0].ReplicaAssignment, ra)
	}
	return req
}

func metadataOf(c *client, names ...string) *kmsg.MetadataResponse {
	c.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	for _, n := range names {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &n
		req.Topics = append(req.Topics, rt)
	}
	return ask[*kmsg.MetadataResponse](c, req)
}

func TestCreateTopics(t *testing.T) {
	const ok = 0
	for _, tc := range []struct {
		why  string
		req  *kmsg.CreateTopicsRequest
		code int16
	}{
		{"plain", creation("new", 3, 1), ok},
		{"defaults", creation("new", -1, -1), ok},
		{"more replicas than agents", creation("new", 1, 3), ok},
		{"configs", creation("new", 1, 1, "cleanup.policy=compact", "firn.durability=bucket"), ok},
		{"by hand, with agents that are not there", assigned(creation("new", -1, -1), []int32{1, 7}, []int32{7, 8}), ok},
		{"as many replicas as can be listed", creation("new", 1, 64), ok},
		{"exists", creation("there", 1, 1), 36},
		{"collides", creation("dotted_name", 1, 1), 17},
		{"invalid name", creation("a/b", 1, 1), 17},
		{"no name", creation("", 1, 1), 17},
		{"no partitions", creation("new", 0, 1), 37},
		{"too many partitions", creation("new", 10_001, 1), 37},
		{"no replicas", creation("new", 1, 0), 38},
		{"unknown config", creation("new", 1, 1, "retention.days=7"), 40},
		{"bad value", creation("new", 1, 1, "retention.ms=week"), 40},
		{"contradiction", creation("new", 1, 1, "cleanup.policy=compact", "firn.wal.abandon.ms=5"), 40},
		{"given twice", creation("new", 1, 1, "retention.ms=1", "retention.ms=2"), 42},
		{"both ways", assigned(creation("new", 1, 1), []int32{1}), 42},
		{"replica twice", assigned(creation("new", -1, -1), []int32{1, 1}), 39},
		{"uneven", assigned(creation("new", -1, -1), []int32{1, 2}, []int32{1}), 39},
	} {
		t.Run(tc.why, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				a := newCluster(t).join("a")
				a.topic("there", 1)
				a.topic("dotted.name", 1)
				c := dial(t, server(t, a, func(c *kafka.Config) { c.DefaultPartitions = 4 }))
				name := tc.req.Topics[0].Topic
				for _, validateOnly := range []bool{true, false} {
					tc.req.ValidateOnly = validateOnly
					rt := ask[*kmsg.CreateTopicsResponse](c, tc.req).Topics[0]
					if tc.why == "collides" && validateOnly {
						continue // the state machine finds out
					}
					if rt.ErrorCode != tc.code || (rt.ErrorMessage == nil) != (tc.code == ok) {
						t.Fatalf("validate only %v: code %d, %v", validateOnly, rt.ErrorCode, rt.ErrorMessage)
					}
					if tc.code == ok && (rt.NumPartitions < 1 || rt.ReplicationFactor < 1 || len(rt.Configs) < 30) {
						t.Errorf("%d partitions, factor %d, %d configs", rt.NumPartitions, rt.ReplicationFactor, len(rt.Configs))
					}
					if name == "there" {
						continue
					}
					m := metadataOf(c, name).Topics[0]
					if made := m.ErrorCode == 0; made != (tc.code == ok && !validateOnly) {
						t.Fatalf("validate only %v: made %v", validateOnly, made)
					} else if made && (int32(len(m.Partitions)) != rt.NumPartitions || len(m.Partitions[0].Replicas) != int(rt.ReplicationFactor) || m.TopicID != rt.TopicID) {
						t.Errorf("metadata %+v", m)
					}
				}
			})
		})
	}
}

func TestTheSameTopicTwiceInARequest(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := dial(t, server(t, newCluster(t).join("a")))
		req := creation("twice", 1, 1)
		req.Topics = append(req.Topics, req.Topics[0], creation("once", 1, 1).Topics[0])
		res := ask[*kmsg.CreateTopicsResponse](c, req)
		if len(res.Topics) != 2 || res.Topics[0].ErrorCode != 42 || res.Topics[1].ErrorCode != 0 {
			t.Errorf("%+v", res.Topics)
		}
	})
}

func TestPartitionsOfARequestAreBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		c := dial(t, server(t, a))
		req := creation("a", 6000, 1)
		req.Topics = append(req.Topics, creation("b", 4001, 1).Topics...)
		for i, rt := range ask[*kmsg.CreateTopicsResponse](c, req).Topics {
			if rt.ErrorCode != 44 || rt.ErrorMessage == nil {
				t.Errorf("topic %d: code %d", i, rt.ErrorCode)
			}
		}
		req.Topics[1].NumPartitions--
		for i, rt := range ask[*kmsg.CreateTopicsResponse](c, req).Topics {
			if rt.ErrorCode != 0 {
				t.Errorf("topic %d: code %d %v", i, rt.ErrorCode, *rt.ErrorMessage)
			}
		}
	})
}

func TestAnyReplicationFactorIsTaken(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a")
		c := dial(t, server(t, a))
		for _, factor := range []int16{65, math.MaxInt16} {
			name := fmt.Sprint("of-", factor)
			rt := ask[*kmsg.CreateTopicsResponse](c, creation(name, 2, factor)).Topics[0]
			if rt.ErrorCode != 0 || rt.ReplicationFactor != factor {
				t.Errorf("factor %d: code %d, factor %d", factor, rt.ErrorCode, rt.ReplicationFactor)
			}
			for _, p := range metadataOf(c, name).Topics[0].Partitions {
				if p.Leader != a.nodeID || len(p.Replicas) != state.MaxReplicas {
					t.Errorf("factor %d: leader %d, %d replicas", factor, p.Leader, len(p.Replicas))
				}
			}
		}
		ids := make([]int32, state.MaxReplicas+1)
		for i := range ids {
			ids[i] = int32(i)
		}
		if rt := ask[*kmsg.CreateTopicsResponse](c, assigned(creation("hand", -1, -1), ids)).Topics[0]; rt.ErrorCode != 39 {
			t.Errorf("an assignment of %d: code %d", len(ids), rt.ErrorCode)
		}
	})
}

func TestAnAssignmentIsReportedAsGiven(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		c := dial(t, server(t, a))
		given := [][]int32{{7, 8, 9}, {2, 1, 3}}
		ask[*kmsg.CreateTopicsResponse](c, assigned(creation("hand", -1, -1), given...))
		for i, p := range metadataOf(c, "hand").Topics[0].Partitions {
			if !slices.Equal(p.Replicas, given[i]) || !slices.Equal(p.ISR, given[i]) || p.Leader != a.nodeID || len(p.OfflineReplicas) != 0 {
				t.Errorf("%v: %+v", given[i], p)
			}
		}
	})
}

func TestReplicas(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		agents := []*agent{cl.join("a"), cl.join("b"), cl.join("c")}
		clients := make([]*client, len(agents))
		for i, a := range agents {
			clients[i] = dial(t, server(t, a))
		}
		ask[*kmsg.CreateTopicsResponse](clients[0], creation("spread", 1000, 2))
		ask[*kmsg.CreateTopicsResponse](clients[0], creation("wide", 3, 5))
		ask[*kmsg.CreateTopicsResponse](clients[0], assigned(creation("hand", -1, -1), []int32{3, 2}, []int32{9, 8}, []int32{9, 1}))
		leaders := make(map[int32]int)
		want := fmt.Sprint(metadataOf(clients[0], "spread", "wide", "hand").Topics)
		for _, c := range clients {
			m := metadataOf(c, "spread", "wide", "hand")
			if m.ControllerID != agents[0].nodeID || len(m.Brokers) != 3 || m.Brokers[1].Host != "b" || *m.Brokers[1].Rack != "zone-b" {
				t.Errorf("controller %d, brokers %+v", m.ControllerID, m.Brokers)
			}
			for i, size := range []int{2, 5, 2} {
				for _, p := range m.Topics[i].Partitions {
					sorted := slices.Clone(p.Replicas)
					slices.Sort(sorted)
					if len(slices.Compact(sorted)) != size || i < 2 && p.Leader != p.Replicas[0] || !slices.Equal(p.ISR, p.Replicas) || len(p.OfflineReplicas) > 0 {
						t.Errorf("%s: %+v", *m.Topics[i].Topic, p)
					}
					if p.Leader < 1 || p.Leader > 3 {
						t.Errorf("%s: leader %d is not live", *m.Topics[i].Topic, p.Leader)
					}
				}
			}
			for _, p := range m.Topics[0].Partitions {
				leaders[p.Leader]++
			}
			hand := m.Topics[2].Partitions
			if !slices.Contains([]int32{2, 3}, hand[0].Leader) || hand[2].Leader != 1 {
				t.Errorf("by hand: %+v", hand)
			}
		}
		for id, n := range leaders {
			if n < 3*230 || n > 3*430 { // seven standard deviations: the topic has another id each time
				t.Errorf("agent %d leads %d of 1000 partitions", id, n/3)
			}
		}
		// Who leaves takes only what it led.
		before := metadataOf(clients[0], "spread").Topics[0].Partitions
		cl.commit(agents[1].incarnation, &entry.Leave{Incarnation: agents[2].incarnation})
		for p, now := range metadataOf(clients[0], "spread").Topics[0].Partitions {
			if was := before[p].Leader; was != agents[2].nodeID && now.Leader != was {
				t.Errorf("partition %d moved from %d to %d", p, was, now.Leader)
			}
		}
		if got := metadataOf(clients[1], "spread", "wide", "hand").Topics; fmt.Sprint(got) == want {
			t.Error("nothing moved")
		}
	})
}

func TestMetadata(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		b.with(func(b *agent) { b.behind = true })
		c := dial(t, server(t, b, func(c *kafka.Config) { c.AutoCreateTopics = true }))
		names := func(version int16, topics []kmsg.MetadataRequestTopic) (list []string) {
			t.Helper()
			req := kmsg.NewPtrMetadataRequest()
			req.Version, req.Topics = version, topics
			req.AllowAutoTopicCreation = false
			res := ask[*kmsg.MetadataResponse](c, req)
			for _, rt := range res.Topics {
				list = append(list, fmt.Sprintf("%s:%d", *rt.Topic, rt.ErrorCode))
			}
			if len(res.Brokers) != 2 {
				t.Errorf("version %d: %d brokers", version, len(res.Brokers))
			}
			return list
		}
		id := a.topic("t", 1)
		for _, tc := range []struct {
			version int16
			topics  []kmsg.MetadataRequestTopic
			want    string
		}{
			{0, []kmsg.MetadataRequestTopic{}, "[t:0]"},
			{1, nil, "[t:0]"},
			{4, []kmsg.MetadataRequestTopic{}, "[]"},
			{12, nil, "[t:0]"},
			{12, []kmsg.MetadataRequestTopic{{TopicID: id}}, "[t:0]"},
			{9, []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("t")}, {Topic: kmsg.StringPtr("u")}, {Topic: kmsg.StringPtr("!")}}, "[t:0 u:3 !:17]"},
		} {
			if got := fmt.Sprint(names(tc.version, tc.topics)); got != tc.want {
				t.Errorf("version %d, %v: %s, want %s", tc.version, tc.topics, got, tc.want)
			}
		}
		req := kmsg.NewPtrMetadataRequest()
		req.Version, req.Topics = 12, []kmsg.MetadataRequestTopic{{TopicID: [16]byte{1, 2}}}
		if res := ask[*kmsg.MetadataResponse](c, req); res.Topics[0].ErrorCode != 100 || res.Topics[0].TopicID != [16]byte{1, 2} {
			t.Errorf("an unknown id: %+v", res.Topics[0])
		}
		// A topic of another agent is seen, not made again; one that nobody made is.
		a.topic("elsewhere", 2)
		req.AllowAutoTopicCreation = true
		// Kafka's own, which sarama asks for, is not.
		req.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("elsewhere")}, {Topic: kmsg.StringPtr("made")}, {Topic: kmsg.StringPtr("__consumer_offsets")}}
		res := ask[*kmsg.MetadataResponse](c, req)
		if res.Topics[2].ErrorCode != 3 {
			t.Errorf("an internal topic of Kafka's: %+v", res.Topics[2])
		}
		if len(res.Topics[0].Partitions) != 2 || res.Topics[1].ErrorCode != 0 || len(res.Topics[1].Partitions) != 1 {
			t.Errorf("%+v", res.Topics)
		}
		// Where the metastore does not answer: what is known, and nothing final about what is not.
		b.with(func(b *agent) { b.barrierErr = errors.New("no quorum") })
		if got := fmt.Sprint(names(1, nil)); got != "[elsewhere:0 made:0 t:0]" {
			t.Errorf("all topics: %s", got)
		}
		if got := fmt.Sprint(names(4, []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("u")}, {Topic: kmsg.StringPtr("t")}})); got != "[u:5 t:0]" {
			t.Errorf("by name: %s", got)
		}
	})
}

func TestDeleteTopicsAndCreatePartitions(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 2)
		id := a.topic("u", 1)
		c := dial(t, server(t, a))
		grow := func(name string, total int32, validateOnly bool, assignment ...[]int32) int16 {
			req := kmsg.NewPtrCreatePartitionsRequest()
			req.Version, req.ValidateOnly = 3, validateOnly
			rt := kmsg.NewCreatePartitionsRequestTopic()
			rt.Topic, rt.Count = name, total
			for _, ids := range assignment {
				ra := kmsg.NewCreatePartitionsRequestTopicAssignment()
				ra.Replicas = ids
				rt.Assignment = append(rt.Assignment, ra)
			}
			req.Topics = append(req.Topics, rt)
			return ask[*kmsg.CreatePartitionsResponse](c, req).Topics[0].ErrorCode
		}
		for i, got := range []int16{
			grow("absent", 3, false), grow("t", 2, false), grow("t", 1, false), grow("t", 10_001, false),
			grow("t", 4, false, []int32{1}), grow("t", 4, false, []int32{1, 2}, []int32{1, 2}),
			grow("t", 5, true), grow("t", 3, false), grow("t", 4, false, []int32{5}),
		} {
			if want := []int16{3, 37, 37, 37, 39, 39, 0, 0, 0}[i]; got != want {
				t.Errorf("case %d: code %d, want %d", i, got, want)
			}
		}
		if n := len(metadataOf(c, "t").Topics[0].Partitions); n != 4 {
			t.Errorf("%d partitions", n)
		}
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version = 6
		req.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: kmsg.StringPtr("t")}, {TopicID: id}, {TopicID: id}, {TopicID: [16]byte{3}}, {Topic: kmsg.StringPtr("absent")}, {Topic: kmsg.StringPtr("x"), TopicID: id}}
		var codes []int16
		for _, rt := range ask[*kmsg.DeleteTopicsResponse](c, req).Topics {
			codes = append(codes, rt.ErrorCode)
		}
		if want := []int16{0, 0, 42, 100, 3, 42}; !slices.Equal(codes, want) {
			t.Errorf("codes %v, want %v", codes, want)
		}
		a.View(func(st *state.State) {
			if st.TopicCount() != 0 {
				t.Errorf("%d topics are left", st.TopicCount())
			}
		})
	})
}

func describe(c *client, kind kmsg.ConfigResourceType, name string, only ...string) kmsg.DescribeConfigsResponseResource {
	c.t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version, req.IncludeSynonyms, req.IncludeDocumentation = 4, true, true
	rr := kmsg.NewDescribeConfigsRequestResource()
	rr.ResourceType, rr.ResourceName, rr.ConfigNames = kind, name, only
	req.Resources = append(req.Resources, rr)
	return ask[*kmsg.DescribeConfigsResponse](c, req).Resources[0]
}

func alter(c *client, kind kmsg.ConfigResourceType, name string, validateOnly bool, changes ...string) int16 {
	c.t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version, req.ValidateOnly = 1, validateOnly
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kind, name
	for _, change := range changes {
		rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		for i, op := range []string{"=", "-", "+=", "-="} {
			if k, v, ok := strings.Cut(change, " "+op+" "); ok {
				rc.Name, rc.Value, rc.Op = k, &v, kmsg.IncrementalAlterConfigOp(i)
			}
		}
		rr.Configs = append(rr.Configs, rc)
	}
	req.Resources = append(req.Resources, rr)
	return ask[*kmsg.IncrementalAlterConfigsResponse](c, req).Resources[0].ErrorCode
}

func TestConfigs(t *testing.T) {
	const topic, broker, logger = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		c := dial(t, server(t, a))
		value := func(name string) string {
			t.Helper()
			r := describe(c, topic, "t", name)
			if r.ErrorCode != 0 || len(r.Configs) != 1 || r.Configs[0].Documentation == nil || len(r.Configs[0].ConfigSynonyms) == 0 {
				t.Fatalf("%+v", r)
			}
			if first := r.Configs[0].ConfigSynonyms[0]; first.Source != r.Configs[0].Source {
				t.Errorf("%s: source %d, first synonym's %d", name, r.Configs[0].Source, first.Source)
			}
			return fmt.Sprintf("%s from %d", *r.Configs[0].Value, r.Configs[0].Source)
		}
		expect := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		expect("default", value("retention.ms"), "604800000 from 5")
		for _, tc := range []struct {
			kind    kmsg.ConfigResourceType
			name    string
			only    bool
			changes string
			code    int16
			check   string
			want    string
		}{
			{topic, "t", false, "retention.ms = 77", 0, "retention.ms", "77 from 1"},
			{topic, "t", true, "retention.ms = 78", 0, "retention.ms", "77 from 1"},
			{broker, "", false, "log.retention.hours = 1", 0, "retention.ms", "77 from 1"},
			{topic, "t", false, "retention.ms - ", 0, "retention.ms", "3600000 from 3"},
			{broker, "", false, "log.retention.hours - ", 0, "retention.ms", "604800000 from 5"},
			{topic, "t", false, "cleanup.policy += compact", 0, "cleanup.policy", "delete,compact from 1"}, // to the default
			{topic, "t", false, "cleanup.policy -= delete", 0, "cleanup.policy", "compact from 1"},
			{topic, "t", false, "cleanup.policy += compact", 0, "cleanup.policy", "compact from 1"},
			{topic, "t", false, "cleanup.policy += shrink", 40, "cleanup.policy", "compact from 1"},
			{topic, "t", false, "firn.wal.abandon.ms = 5", 40, "firn.wal.abandon.ms", "-1 from 5"},
			{topic, "t", false, "retention.ms += 5", 40, "retention.ms", "604800000 from 5"},
			{topic, "t", false, "retention.ms = week", 40, "retention.ms", "604800000 from 5"},
			{topic, "t", false, "retention.days = 1", 40, "retention.ms", "604800000 from 5"},
			{topic, "t", false, "retention.ms = 1;retention.ms = 2", 42, "retention.ms", "604800000 from 5"},
			{topic, "t", false, "retention.days - ", 0, "retention.ms", "604800000 from 5"}, // as with Kafka, what is not there can go
			{topic, "t", false, " - ", 40, "retention.ms", "604800000 from 5"},
			{topic, "absent", false, "retention.ms = 1", 3, "retention.ms", "604800000 from 5"},
			{broker, "1", false, "message.max.bytes = 5", 42, "max.message.bytes", "1048588 from 5"},
			{broker, "", false, "message.max.bytes = -5", 40, "max.message.bytes", "1048588 from 5"},
			{broker, "", false, "num.partitions = 5", 40, "max.message.bytes", "1048588 from 5"},
			{logger, "1", false, "root = DEBUG", 42, "max.message.bytes", "1048588 from 5"},
		} {
			if code := alter(c, tc.kind, tc.name, tc.only, strings.Split(tc.changes, ";")...); code != tc.code {
				t.Errorf("%v %q %s: code %d, want %d", tc.kind, tc.name, tc.changes, code, tc.code)
			}
			expect(tc.changes, value(tc.check), tc.want)
		}
		alteration := kmsg.NewPtrAlterConfigsRequest()
		alteration.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: broker, Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: "num.partitions", Value: kmsg.StringPtr("5")}}}}
		if r := ask[*kmsg.AlterConfigsResponse](c, alteration).Resources[0]; r.ErrorCode != 40 || !strings.Contains(*r.ErrorMessage, "agents are started with it") {
			t.Errorf("what agents are started with: %d %v", r.ErrorCode, *r.ErrorMessage)
		}
		if r := describe(c, topic, "absent"); r.ErrorCode != 3 {
			t.Errorf("an absent topic: code %d", r.ErrorCode)
		}
		if r := describe(c, topic, "a/b"); r.ErrorCode != 17 {
			t.Errorf("a name that no topic has: code %d", r.ErrorCode)
		}
		if r := describe(c, logger, "1"); r.ErrorCode != 42 || r.ErrorMessage == nil {
			t.Errorf("a logger: code %d", r.ErrorCode)
		}
		for _, kind := range []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeGroupConfig, kmsg.ConfigResourceTypeClientMetrics} {
			if r := describe(c, kind, "g"); r.ErrorCode != 0 || len(r.Configs) != 0 {
				t.Errorf("what has no configs here, %v: code %d, %d configs", kind, r.ErrorCode, len(r.Configs))
			}
			if code := alter(c, kind, "g", false, "consumer.session.timeout.ms = 50000"); code != 42 {
				t.Errorf("altering what has no configs here, %v: code %d", kind, code)
			}
		}
		for name, code := range map[string]int16{"9": 42, "x": 42, "1": 0} {
			r := describe(c, broker, name)
			if r.ErrorCode != code {
				t.Errorf("broker %q: code %d", name, r.ErrorCode)
			}
			if code == 0 && (len(r.Configs) < 40 || !slices.IsSortedFunc(r.Configs, func(a, b kmsg.DescribeConfigsResponseResourceConfig) int { return strings.Compare(a.Name, b.Name) })) {
				t.Errorf("broker %q: %d configs", name, len(r.Configs))
			}
		}
		if code := alter(c, broker, "", false, "message.max.bytes = 2000"); code != 0 {
			t.Fatalf("code %d", code)
		}
		if r := describe(c, broker, ""); len(r.Configs) != 1 || *r.Configs[0].Value != "2000" {
			t.Errorf("cluster-wide: %+v", r.Configs)
		}
		// The setting is in force at once.
		p := outcome(ask[*kmsg.ProduceResponse](c, produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", 3000)))))
		if p.ErrorCode != 10 {
			t.Errorf("a batch beyond message.max.bytes: code %d", p.ErrorCode)
		}
	})
}

func TestListOffsets(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		a.topic("t", 1)
		b.with(func(b *agent) { b.behind = true })
		c, producer := dial(t, server(t, b)), dial(t, server(t, a))
		for range 3 {
			time.Sleep(time.Millisecond)
			producer.produce("t", 0, "x")
		}
		cl.commit(a.incarnation, &entry.DeleteRecords{Topic: a.ref("t").Topic, BeforeOffset: 1})
		for _, tc := range []struct {
			version int16
			at      int64
			part    int32
			epoch   int32
			code    int16
			offset  int64
		}{
			{1, -1, 0, -1, 0, 3}, {10, -1, 0, -1, 0, 3}, {1, -2, 0, -1, 0, 1}, {7, -3, 0, -1, 0, 2}, {6, -3, 0, -1, 35, -1},
			{8, -4, 0, -1, 0, 1}, {7, -4, 0, -1, 35, -1}, {9, -5, 0, -1, 0, -1}, {8, -5, 0, -1, 35, -1}, {10, -6, 0, -1, 35, -1}, {11, -6, 0, -1, 0, -1}, {11, -7, 0, -1, 35, -1}, {11, -1, 0, -1, 0, 3},
			{5, 0, 0, -1, 0, 0}, {5, 1 << 60, 0, -1, 0, -1}, {5, -1, 1, -1, 3, -1}, {5, -1, 0, 0, 0, 3}, {5, -1, 0, 1, 75, -1},
		} {
			req := kmsg.NewPtrListOffsetsRequest()
			req.Version = tc.version
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = tc.part, tc.at, tc.epoch
			req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{rp}}}
			p := ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0]
			if p.ErrorCode != tc.code || p.Offset != tc.offset {
				t.Errorf("version %d at %d: code %d, offset %d; want %d, %d", tc.version, tc.at, p.ErrorCode, p.Offset, tc.code, tc.offset)
			}
		}
		b.with(func(b *agent) { b.barrierErr = errors.New("no quorum") })
		req, _ := requestFor(t, 2, 5, entry.UUID{}).(*kmsg.ListOffsetsRequest)
		for version, code := range map[int16]int16{1: 5, 4: 5, 5: 78, 10: 78} { // Kafka sends the second since version 5
			req.Version = version
			if p := ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0]; p.ErrorCode != code {
				t.Errorf("without a barrier, version %d: code %d, want %d", version, p.ErrorCode, code)
			}
			b.with(func(b *agent) { b.barrierErr, b.readErr = nil, fetch.ErrUnavailable })
			req.Topics[0].Partitions[0].Timestamp = 0
			if p := ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0]; p.ErrorCode != code {
				t.Errorf("where records cannot be read, version %d: code %d, want %d", version, p.ErrorCode, code)
			}
			b.with(func(b *agent) { b.barrierErr, b.readErr = errors.New("no quorum"), nil })
			req.Topics[0].Partitions[0].Timestamp = -1
		}
		req.Topics = append(req.Topics, req.Topics[0])
		if p := ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0]; p.ErrorCode != 42 {
			t.Errorf("named twice: code %d", p.ErrorCode)
		}
	})
}

func TestCoordinatorsAndProducerIDs(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a, b := cl.join("a"), cl.join("b")
		ca, cb := dial(t, server(t, a)), dial(t, server(t, b))
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version = 4
		req.CoordinatorKeys = []string{"g"}
		if res := ask[*kmsg.FindCoordinatorResponse](ca, req); res.Coordinators[0].ErrorCode != 15 || res.Coordinators[0].ErrorMessage == nil {
			t.Errorf("while nobody coordinates: %+v", res)
		}
		req.CoordinatorKeys = nil
		cl.coordinate(a, b)
		for i := range 40 {
			req.CoordinatorKeys = append(req.CoordinatorKeys, fmt.Sprint("group-", i))
		}
		here, there := ask[*kmsg.FindCoordinatorResponse](ca, req), ask[*kmsg.FindCoordinatorResponse](cb, req)
		seen := make(map[int32]int)
		for i := range here.Coordinators {
			if here.Coordinators[i].NodeID != there.Coordinators[i].NodeID || here.Coordinators[i].ErrorCode != 0 {
				t.Errorf("agents differ about %s", here.Coordinators[i].Key)
			}
			seen[here.Coordinators[i].NodeID]++
		}
		if len(seen) != 2 {
			t.Errorf("coordinators %v", seen)
		}
		a.unsure.Store(true) // it sends nobody to itself; others it still names
		for _, c := range ask[*kmsg.FindCoordinatorResponse](ca, req).Coordinators {
			if mine := there.Coordinators[slices.Index(req.CoordinatorKeys, c.Key)].NodeID == a.nodeID; mine != (c.ErrorCode == 15) || !mine && c.NodeID != b.nodeID {
				t.Errorf("the coordinator of %s, says who is unsure: %+v", c.Key, c)
			}
		}
		a.unsure.Store(false)
		old := kmsg.NewPtrFindCoordinatorRequest()
		old.CoordinatorKey = "group-0"
		if res := ask[*kmsg.FindCoordinatorResponse](ca, old); res.NodeID != here.Coordinators[0].NodeID || res.Port != 9092 {
			t.Errorf("version 0: %+v", res)
		}
		for kind, code := range map[int8]int16{1: 53, 2: 42, 9: 42} {
			req.CoordinatorType = kind
			if res := ask[*kmsg.FindCoordinatorResponse](ca, req); res.Coordinators[0].ErrorCode != code || res.Coordinators[0].ErrorMessage == nil {
				t.Errorf("type %d: %+v", kind, res.Coordinators[0])
			}
		}
		init := kmsg.NewPtrInitProducerIDRequest()
		init.Version = 4
		first, second := ask[*kmsg.InitProducerIDResponse](ca, init), ask[*kmsg.InitProducerIDResponse](cb, init)
		if first.ErrorCode != 0 || first.ProducerEpoch != 0 || first.ProducerID == second.ProducerID {
			t.Errorf("%+v, %+v", first, second)
		}
		init.TransactionalID = kmsg.StringPtr("txn")
		if res := ask[*kmsg.InitProducerIDResponse](ca, init); res.ErrorCode != 53 || res.ProducerID != -1 {
			t.Errorf("a transactional id: %+v", res)
		}
		describe := kmsg.NewPtrDescribeClusterRequest()
		describe.Version, describe.EndpointType = 2, 2
		if res := ask[*kmsg.DescribeClusterResponse](ca, describe); res.ErrorCode != 115 {
			t.Errorf("controllers: %+v", res)
		}
	})
}

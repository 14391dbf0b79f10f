package kafka_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore/batch"
)

// deletion is a DeleteRecords of one partition.
func deletion(topic string, partition int32, before int64) *kmsg.DeleteRecordsRequest {
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = 2, 5000
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = topic
	rt.Partitions = append(rt.Partitions, kmsg.DeleteRecordsRequestTopicPartition{Partition: partition, Offset: before})
	req.Topics = append(req.Topics, rt)
	return req
}

func TestDeleteRecords(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		policy := func(v string) entry.Config { return entry.Config{Name: "cleanup.policy", Value: v} }
		id := a.topic("t", 2)
		a.topic("compacted", 1, policy("compact"))
		a.topic("both", 1, policy("compact,delete"))
		a.topic("kept", 1, policy(""))
		a.topic("locked", 1, entry.Config{Name: "firn.object.lock.days", Value: "1"}, entry.Config{Name: "firn.object.lock.mode", Value: "governance"})
		c := dial(t, server(t, a))
		for i := range 5 {
			c.produce("t", 0, fmt.Sprint(i))
		}
		for _, name := range []string{"compacted", "both", "kept", "locked"} {
			c.produce(name, 0, "x")
		}
		for _, tc := range []struct {
			why    string
			topic  string
			part   int32
			before int64
			code   int16
			low    int64
		}{
			{"raises the log start", "t", 0, 2, 0, 2},
			{"below the log start", "t", 0, 1, 0, 2},
			{"nothing to delete", "t", 1, 0, 0, 0},
			{"beyond the high watermark", "t", 0, 6, 1, -1},
			{"negative", "t", 0, -2, 1, -1},
			{"no such topic", "absent", 0, 1, 3, -1},
			{"no such partition", "t", 2, 1, 3, -1},
			{"negative partition", "t", -1, 1, 3, -1},
			{"compacted only", "compacted", 0, 1, 44, -1},
			{"compacted and deleted", "both", 0, 1, 0, 1},
			{"neither", "kept", 0, -1, 0, 1},
			{"locked", "locked", 0, -1, 44, -1},
			{"all", "t", 0, -1, 0, 5},
			{"all of it again", "t", 0, -1, 0, 5},
		} {
			p := ask[*kmsg.DeleteRecordsResponse](c, deletion(tc.topic, tc.part, tc.before)).Topics[0].Partitions[0]
			if p.Partition != tc.part || p.ErrorCode != tc.code || p.LowWatermark != tc.low {
				t.Errorf("%s: %+v, want code %d, low watermark %d", tc.why, p, tc.code, tc.low)
			}
		}
		// Produce and fetch say where the log starts now.
		p := outcome(ask[*kmsg.ProduceResponse](c, produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "new"))))
		if p.ErrorCode != 0 || p.BaseOffset != 5 || p.LogStartOffset != 5 {
			t.Errorf("produce: %+v", p)
		}
		for offset, code := range map[int64]int16{0: 1, 4: 1, 5: 0} {
			f := ask[*kmsg.FetchResponse](c, fetchRequest(12, "t", id, 0, offset)).Topics[0].Partitions[0]
			if f.ErrorCode != code || code == 0 && f.LogStartOffset != 5 {
				t.Errorf("fetch from %d: code %d, log start %d", offset, f.ErrorCode, f.LogStartOffset)
			}
		}
	})
}

func TestDeleteRecordsOfManyPartitions(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("wide", 300)
		c := dial(t, server(t, a))
		req := deletion("wide", 300, 0) // which is not there
		for i := range int32(300) {
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, kmsg.DeleteRecordsRequestTopicPartition{Partition: i, Offset: -1})
		}
		req.Topics = append(req.Topics, deletion("absent", 0, 0).Topics...)
		res := ask[*kmsg.DeleteRecordsResponse](c, req)
		for i, p := range res.Topics[0].Partitions {
			if gone := i == 0; (p.ErrorCode == 3) != gone || !gone && (p.Partition != int32(i-1) || p.LowWatermark != 0) {
				t.Errorf("%d: %+v", i, p)
			}
		}
		if p := res.Topics[1].Partitions[0]; p.ErrorCode != 3 {
			t.Errorf("%+v", p)
		}
	})
}

func TestDeleteRecordsWithoutTheMetastore(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		c := dial(t, server(t, a))
		c.produce("t", 0, "x")
		for _, fail := range []func(*agent){
			func(a *agent) { a.barrierErr = errors.New("no quorum") },
			func(a *agent) { a.barrierErr, a.proposeErr = nil, errors.New("no answer") },
		} {
			a.with(fail)
			if p := ask[*kmsg.DeleteRecordsResponse](c, deletion("t", 0, -1)).Topics[0].Partitions[0]; p.ErrorCode != 7 || p.LowWatermark != -1 {
				t.Errorf("%+v", p)
			}
		}
	})
}

// Under an object lock neither records nor the topic go before retention has taken them away, and compliance is not lifted.
func TestALockedTopicIsKept(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 2, entry.Config{Name: "firn.object.lock.days", Value: "9"}, entry.Config{Name: "firn.object.lock.mode", Value: "compliance"})
		c := dial(t, server(t, a))
		c.produce("t", 1, "x")
		remove := func() (int16, string) {
			req := kmsg.NewPtrDeleteTopicsRequest()
			req.Version, req.TimeoutMillis = 6, 5000
			req.Topics = []kmsg.DeleteTopicsRequestTopic{{TopicID: id}}
			r := ask[*kmsg.DeleteTopicsResponse](c, req).Topics[0]
			if r.ErrorMessage == nil {
				return r.ErrorCode, ""
			}
			return r.ErrorCode, *r.ErrorMessage
		}
		if code, why := remove(); code != 44 || !strings.Contains(why, "1 records under an object lock (compliance, 9 days)") {
			t.Errorf("deleted: code %d, %q", code, why)
		}
		for configs, code := range map[string]int16{
			"firn.object.lock.mode=compliance firn.object.lock.days=8": 44,
			"firn.object.lock.mode=governance firn.object.lock.days=9": 44,
			"retention.ms=1": 44,
			"firn.object.lock.mode=compliance firn.object.lock.days=10": 0,
		} {
			r := ask[*kmsg.AlterConfigsResponse](c, replacement(kmsg.ConfigResourceTypeTopic, "t", strings.Fields(configs)...)).Resources[0]
			if r.ErrorCode != code {
				t.Errorf("%s: code %d, %v", configs, r.ErrorCode, r.ErrorMessage)
			}
		}
		if _, err := a.Propose(t.Context(), &entry.DeleteRecords{Topic: id, Partition: 1, BeforeOffset: 1}); err != nil { // as retention does
			t.Fatal(err)
		}
		if code, why := remove(); code != 0 {
			t.Errorf("empty: code %d, %q", code, why)
		}
	})
}

// A lock that the bucket is known not to keep is refused when it is asked for, not with the first batch.
func TestALockNeedsABucketThatKeepsIt(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("plain", 1)
		fault := "the bucket has no object lock"
		c := dial(t, server(t, a, func(cfg *kafka.Config) { cfg.LockFault = func() string { return fault } }))
		configs := []string{"firn.object.lock.mode=governance", "firn.object.lock.days=9"}
		create := func() (int16, string) {
			req := creation("locked", 1, 1, configs...)
			req.ValidateOnly = true
			r := ask[*kmsg.CreateTopicsResponse](c, req).Topics[0]
			if r.ErrorMessage == nil {
				return r.ErrorCode, ""
			}
			return r.ErrorCode, *r.ErrorMessage
		}
		alter := func() int16 {
			req := replacement(kmsg.ConfigResourceTypeTopic, "plain", configs...)
			req.ValidateOnly = true
			return ask[*kmsg.AlterConfigsResponse](c, req).Resources[0].ErrorCode
		}
		if code, why := create(); code != 40 || !strings.Contains(why, fault) || alter() != 40 {
			t.Errorf("code %d, %q; altered: %d", code, why, alter())
		}
		fault = ""
		if code, why := create(); code != 0 || alter() != 0 {
			t.Errorf("nothing known: code %d, %q; altered: %d", code, why, alter())
		}
	})
}

// A storage class that the store is known not to have is refused when it is asked for; what a topic has already keeps nothing else from being set.
func TestAStorageClassNeedsAStoreThatHasIt(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("plain", 1)
		known := false
		c := dial(t, server(t, a, func(cfg *kafka.Config) {
			cfg.ClassFault = func(s *topicconfig.Settings) string {
				if known && s.StorageClass == "COLD" {
					return "the store takes no object in storage class COLD"
				}
				return ""
			}
		}))
		create := func() (int16, string) {
			req := creation("cold", 1, 1, "firn.storage.class=COLD")
			req.ValidateOnly = true
			r := ask[*kmsg.CreateTopicsResponse](c, req).Topics[0]
			if r.ErrorMessage == nil {
				return r.ErrorCode, ""
			}
			return r.ErrorCode, *r.ErrorMessage
		}
		if code, why := create(); code != 0 {
			t.Errorf("nothing known: code %d, %q", code, why)
		}
		a.topic("old", 1)
		if code := alter(c, kmsg.ConfigResourceTypeTopic, "old", false, "firn.storage.class = COLD"); code != 0 {
			t.Errorf("nothing known: altered: %d", code)
		}
		known = true
		if code, why := create(); code != 40 || !strings.Contains(why, "COLD") {
			t.Errorf("created: code %d, %q", code, why)
		}
		for change, code := range map[string]int16{"firn.storage.class = COLD": 40, "firn.storage.class = COOL": 0, "retention.ms = 77": 0} {
			if got := alter(c, kmsg.ConfigResourceTypeTopic, "plain", true, change); got != code {
				t.Errorf("plain: %s: code %d, want %d", change, got, code)
			}
		}
		if code := alter(c, kmsg.ConfigResourceTypeTopic, "old", false, "retention.ms = 77"); code != 0 {
			t.Errorf("what it has already: code %d", code)
		}
	})
}

package kafka_test

import (
	"encoding/binary"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore/batch"
)

// requestFor is a request of this API that makes the server do something.
func requestFor(t *testing.T, key, version int16, id entry.UUID) kmsg.Request {
	t.Helper()
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	if d, ok := req.(interface{ Default() }); ok {
		d.Default()
	}
	name := "t"
	switch req := req.(type) {
	case *kmsg.ProduceRequest:
		req = produceRequest(version, name, 0, records(t, batch.BuildOptions{}, "a", "b"))
		req.Topics[0].TopicID = id
		return req
	case *kmsg.FetchRequest:
		return fetchRequest(version, name, id, 0, 0)
	case *kmsg.ListOffsetsRequest:
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = name
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Timestamp = -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
	case *kmsg.MetadataRequest:
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &name
		req.Topics = append(req.Topics, rt)
	case *kmsg.OffsetCommitRequest:
		req.Group, req.Generation = "g", -1
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = name, id
		rt.Partitions = append(rt.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
		req.Topics = append(req.Topics, rt)
	case *kmsg.OffsetFetchRequest:
		req.Group = "g"
		req.Topics = append(req.Topics, kmsg.OffsetFetchRequestTopic{Topic: name, Partitions: []int32{0}})
		rg := kmsg.NewOffsetFetchRequestGroup()
		rg.Group, rg.Topics = "g", []kmsg.OffsetFetchRequestGroupTopic{{Topic: name, TopicID: id, Partitions: []int32{0}}}
		req.Groups = append(req.Groups, rg)
	case *kmsg.DescribeGroupsRequest:
		req.Groups = []string{"g"}
	case *kmsg.DeleteGroupsRequest:
		req.Groups = []string{"g"}
	case *kmsg.OffsetDeleteRequest:
		req.Group = "g"
		req.Topics = append(req.Topics, kmsg.OffsetDeleteRequestTopic{Topic: name, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}})
	case *kmsg.FindCoordinatorRequest:
		req.CoordinatorKey, req.CoordinatorKeys = "g", []string{"g", "h"}
	case *kmsg.JoinGroupRequest:
		req.Group, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = "g", "consumer", 10_000, 10_000
		req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: "range", Metadata: []byte{1}})
	case *kmsg.HeartbeatRequest:
		req.Group, req.MemberID = "g", "m"
	case *kmsg.LeaveGroupRequest:
		req.Group, req.MemberID, req.Members = "g", "m", []kmsg.LeaveGroupRequestMember{{MemberID: "m"}}
	case *kmsg.SyncGroupRequest:
		req.Group, req.MemberID = "g", "m"
		req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: "m", MemberAssignment: []byte{1}})
	case *kmsg.ConsumerGroupHeartbeatRequest:
		req.Group, req.MemberID, req.RebalanceTimeoutMillis = "g", "m", 10_000
		req.SubscribedTopicNames, req.SubscribedTopicRegex, req.Topics = []string{"t"}, kmsg.StringPtr("t.*"), []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	case *kmsg.ConsumerGroupDescribeRequest:
		req.Groups = []string{"g"}
	case *kmsg.SASLHandshakeRequest:
		req.Mechanism = "PLAIN"
	case *kmsg.ApiVersionsRequest:
		req.ClientSoftwareName, req.ClientSoftwareVersion = "test", "1.0"
	case *kmsg.CreateTopicsRequest:
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = "created-"+string(rune('a'+version)), 1, 1
		value := "1000"
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = "retention.ms", &value
		rt.Configs = append(rt.Configs, rc)
		req.Topics = append(req.Topics, rt)
	case *kmsg.DeleteTopicsRequest:
		req.TopicNames = []string{"absent"}
		absent := "absent"
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = &absent
		req.Topics = append(req.Topics, rt)
	case *kmsg.OffsetForLeaderEpochRequest:
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic, rt.Partitions = name, []kmsg.OffsetForLeaderEpochRequestTopicPartition{kmsg.NewOffsetForLeaderEpochRequestTopicPartition()}
		req.Topics = append(req.Topics, rt)
	case *kmsg.DescribeConfigsRequest:
		rr := kmsg.NewDescribeConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, name
		req.Resources = append(req.Resources, rr)
		req.IncludeSynonyms, req.IncludeDocumentation = true, true
	case *kmsg.CreatePartitionsRequest:
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = name, 1
		req.Topics = append(req.Topics, rt)
	case *kmsg.DeleteRecordsRequest:
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic, rt.Partitions = name, []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: -1}}
		req.Topics = append(req.Topics, rt)
	case *kmsg.AlterConfigsRequest:
		rr := kmsg.NewAlterConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, name
		value := "5000"
		rr.Configs = append(rr.Configs, kmsg.AlterConfigsRequestResourceConfig{Name: "retention.ms", Value: &value})
		req.Resources = append(req.Resources, rr)
	case *kmsg.DescribeLogDirsRequest:
		rt := kmsg.NewDescribeLogDirsRequestTopic()
		rt.Topic, rt.Partitions = name, []int32{0, 1}
		req.Topics = append(req.Topics, rt)
	case *kmsg.DescribeTopicPartitionsRequest:
		rt := kmsg.NewDescribeTopicPartitionsRequestTopic()
		rt.Topic = name
		req.Topics = append(req.Topics, rt)
		req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: name, Partition: 1}
	case *kmsg.ListGroupsRequest:
		req.StatesFilter, req.TypesFilter = []string{"Stable"}, []string{"classic"}
	case *kmsg.ListConfigResourcesRequest:
		req.ResourceTypes = []int8{2, 4}
	case *kmsg.IncrementalAlterConfigsRequest:
		rr := kmsg.NewIncrementalAlterConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, name
		value := "5000"
		rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		rc.Name, rc.Value = "retention.ms", &value
		rr.Configs = append(rr.Configs, rc)
		req.Resources = append(req.Resources, rr)
	}
	return req
}

// Every version in the table is spoken as the first request of a connection (T11).
func TestEveryVersionIsSpoken(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 2)
		s := server(t, a)
		for _, v := range kafka.Versions() {
			for version := v.Min; version <= v.Max; version++ {
				c := dial(t, s)
				req := requestFor(t, v.Key, version, id)
				res := c.receive(c.send(req), req)
				// There are no groups, and version 0 of ListConfigResources asks for what is not there either.
				empty := v.Key == 16 || v.Key == 74 && version == 0
				if p, ok := res.(*kmsg.ProduceResponse); ok && version >= 3 && outcome(p).ErrorCode != 0 {
					t.Errorf("Produce version %d: code %d", version, outcome(p).ErrorCode)
				}
				if f, ok := res.(*kmsg.FetchResponse); ok && f.Topics[0].Partitions[0].ErrorCode != 0 {
					t.Errorf("Fetch version %d: code %d", version, f.Topics[0].Partitions[0].ErrorCode)
				}
				if reflect.DeepEqual(res, req.ResponseKind()) != empty {
					t.Errorf("%s version %d: %+v", kmsg.NameForKey(v.Key), version, res)
				}
				c.close()
			}
		}
	})
}

func TestApiVersionsIsTheTable(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"))
		c := dial(t, s)
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 4, "test", "1.0"
		res := ask[*kmsg.ApiVersionsResponse](c, req)
		got := make(map[int16][2]int16)
		for _, k := range res.ApiKeys {
			got[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
		}
		for _, v := range kafka.Versions() {
			if r, ok := got[v.Key]; ok == v.Hidden || ok && r != [2]int16{v.Min, v.Max} {
				t.Errorf("%s: advertised %v", kmsg.NameForKey(v.Key), r)
			}
		}
		if len(res.FinalizedFeatures) != 0 {
			t.Error("features are finalised that are not there")
		}
		// What librdkafka up to 2.10 needs in range, exactly (T1), and clients of Kafka 4 as a floor (T16).
		for _, need := range [][2]int16{
			{0, 0}, {0, 3}, {0, 7}, {1, 4}, {1, 10}, {2, 1}, {3, 0}, {10, 0}, {11, 0}, {14, 0}, {18, 0}, {22, 0}, {23, 2}, {19, 2}, {32, 1},
		} {
			if r, ok := got[need[0]]; !ok || need[1] < r[0] || need[1] > r[1] {
				t.Errorf("%s version %d is not advertised", kmsg.NameForKey(need[0]), need[1])
			}
		}
	})
}

// KIP-511: the answer to an unknown version is of version 0, whatever the request looked like.
func TestUnknownApiVersionsVersion(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"))
		c := dial(t, s)
		b := []byte{0, 0, 0, 0, 0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0xff}
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		c.write(b)
		req := kmsg.NewPtrApiVersionsRequest()
		res, _ := c.receive(5, req).(*kmsg.ApiVersionsResponse)
		if res.ErrorCode != 35 || len(res.ApiKeys) != 1 || res.ApiKeys[0].ApiKey != 18 || res.ApiKeys[0].MaxVersion != 4 {
			t.Errorf("%+v", res)
		}
		// The connection goes on.
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, "apache-kafka-java", "4.2.0"
		if res := ask[*kmsg.ApiVersionsResponse](c, req); res.ErrorCode != 0 || len(res.ApiKeys) < 10 {
			t.Errorf("after falling back: %+v", res)
		}
		req.ClientSoftwareName = "-bad"
		if res := ask[*kmsg.ApiVersionsResponse](c, req); res.ErrorCode != 42 {
			t.Errorf("an invalid client name: code %d", res.ErrorCode)
		}
	})
}

func TestProduceBeforeRecordBatchesIsRefusedInWords(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		c := dial(t, server(t, a))
		for version := int16(0); version < 3; version++ {
			res := ask[*kmsg.ProduceResponse](c, produceRequest(version, "t", 0, records(t, batch.BuildOptions{}, "a")))
			if code := res.Topics[0].Partitions[0].ErrorCode; code != 35 {
				t.Errorf("version %d: code %d", version, code)
			}
		}
	})
}

package kafka_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore/entry"
)

// Naming one thing many times gets one answer, or a refusal for each that is smaller than a hundredth of it.
func TestAskingManyTimesForOneThing(t *testing.T) {
	const times = 1000
	a := newCluster(t).join("a")
	id := a.topic("t", 1)
	s := server(t, a)
	dial(t, s).produce("t", 0, strings.Repeat("x", 10_000))
	c := dial(t, s)

	meta := kmsg.NewPtrMetadataRequest()
	meta.Version = 12
	for range times {
		meta.Topics = append(meta.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr("t")})
	}
	if n := len(ask[*kmsg.MetadataResponse](c, meta).Topics); n != 1 {
		t.Errorf("Metadata names the topic %d times", n)
	}

	fetch := fetchRequest(13, "", id, 0, 0)
	for range times {
		addFetch(fetch, "", id, 0, 0)
	}
	got := ask[*kmsg.FetchResponse](c, fetch)
	if len(got.Topics) != 1 || len(got.Topics[0].Partitions) != 1 || len(got.Topics[0].Partitions[0].RecordBatches) < 10_000 {
		t.Errorf("Fetch of one partition, named often, answers %d topics", len(got.Topics))
	}

	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.Version, configs.IncludeSynonyms, configs.IncludeDocumentation = 4, true, true
	for range times {
		configs.Resources = append(configs.Resources, kmsg.DescribeConfigsRequestResource{
			ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t",
		})
	}
	for i, r := range ask[*kmsg.DescribeConfigsResponse](c, configs).Resources {
		if i == 0 && (r.ErrorCode != 0 || len(r.Configs) == 0) || i > 0 && (r.ErrorCode != 42 || len(r.Configs) > 0) {
			t.Fatalf("DescribeConfigs, resource %d: code %d, %d configs", i, r.ErrorCode, len(r.Configs))
		}
	}

	offsets := kmsg.NewPtrListOffsetsRequest()
	offsets.Version = 7
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = "t"
	for range times {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Timestamp = 1
		topic.Partitions = append(topic.Partitions, p)
	}
	offsets.Topics = append(offsets.Topics, topic)
	for _, p := range ask[*kmsg.ListOffsetsResponse](c, offsets).Topics[0].Partitions {
		if p.ErrorCode != 42 {
			t.Fatalf("ListOffsets: code %d", p.ErrorCode)
		}
	}
}

// What a client asks to be made or described is bounded per request, and it is told what was left out.
func TestAskingForVeryMuchAtOnce(t *testing.T) {
	a := newCluster(t).join("a")
	s := server(t, a, func(c *kafka.Config) { c.AutoCreateTopics = true })
	c := dial(t, s)
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version, create.ValidateOnly = 7, true
	for i := range 1100 {
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = fmt.Sprint("new-", i), 1, 1
		create.Topics = append(create.Topics, rt)
	}
	for i, rt := range ask[*kmsg.CreateTopicsResponse](c, create).Topics {
		if rt.ErrorCode != 0 || (i < 1000) != (len(rt.Configs) > 0) || (i < 1000) != (rt.ConfigErrorCode == 0) {
			t.Fatalf("topic %d: code %d, %d configs, code of those %d", i, rt.ErrorCode, len(rt.Configs), rt.ConfigErrorCode)
		}
	}

	meta := kmsg.NewPtrMetadataRequest()
	meta.Version, meta.AllowAutoTopicCreation = 12, true
	for i := range 150 {
		meta.Topics = append(meta.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr(fmt.Sprint("auto-", i))})
	}
	made, later := 0, 0
	for _, rt := range ask[*kmsg.MetadataResponse](c, meta).Topics {
		switch rt.ErrorCode {
		case 0:
			made++
		case 5: // LEADER_NOT_AVAILABLE: asked for again
			later++
		}
	}
	if made != 100 || later != 50 {
		t.Errorf("%d topics were made and %d left for later", made, later)
	}
}

// The estimate that is charged before a request is served is not below what serving it takes.
func TestAnswersAreChargedForBeforehand(t *testing.T) {
	a := newCluster(t).join("a")
	const topics, partitions = 40, 100
	for i := range topics {
		a.topic(fmt.Sprintf("t-%02d", i), partitions)
	}
	s, _ := grouped(t, a)
	name := func(i int) string { return fmt.Sprintf("t-%02d", i%topics) }
	all := kmsg.NewPtrMetadataRequest()
	all.Version = 12

	offsets := kmsg.NewPtrListOffsetsRequest()
	offsets.Version = 7
	records := kmsg.NewPtrDeleteRecordsRequest()
	records.Version, records.TimeoutMillis = 2, 1000
	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.Version, configs.IncludeSynonyms, configs.IncludeDocumentation = 4, true, true
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.SessionEpoch, fetch.MaxBytes = 12, -1, 1<<20
	for i := range topics {
		lt, dt, ft := kmsg.NewListOffsetsRequestTopic(), kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewFetchRequestTopic()
		lt.Topic, dt.Topic, ft.Topic = name(i), name(i), name(i)
		for p := range int32(partitions) {
			lp, dp, fp := kmsg.NewListOffsetsRequestTopicPartition(), kmsg.NewDeleteRecordsRequestTopicPartition(), kmsg.NewFetchRequestTopicPartition()
			lp.Partition, lp.Timestamp = p, -1
			dp.Partition, dp.Offset = p+partitions, 0 // unknown, so that only the answer is counted
			fp.Partition, fp.PartitionMaxBytes = p, 1<<20
			lt.Partitions, dt.Partitions, ft.Partitions = append(lt.Partitions, lp), append(dt.Partitions, dp), append(ft.Partitions, fp)
		}
		offsets.Topics, records.Topics, fetch.Topics = append(offsets.Topics, lt), append(records.Topics, dt), append(fetch.Topics, ft)
		configs.Resources = append(configs.Resources, kmsg.DescribeConfigsRequestResource{
			ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: name(i),
		})
	}
	keys := kmsg.NewPtrFindCoordinatorRequest()
	keys.Version = 6
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version, create.ValidateOnly = 7, true
	remove := kmsg.NewPtrDeleteTopicsRequest()
	remove.Version = 6
	for i := range 1000 {
		keys.CoordinatorKeys = append(keys.CoordinatorKeys, fmt.Sprint("group-", i))
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = fmt.Sprint("new-", i), 1, 1
		create.Topics = append(create.Topics, rt)
		remove.Topics = append(remove.Topics, kmsg.DeleteTopicsRequestTopic{Topic: kmsg.StringPtr(fmt.Sprint("no-", i))})
	}
	pages := kmsg.NewPtrDescribeTopicPartitionsRequest()
	pages.ResponsePartitionLimit = 2000
	dirs := kmsg.NewPtrDescribeLogDirsRequest()
	dirs.Version = 4
	resources := kmsg.NewPtrListConfigResourcesRequest()
	resources.Version = 1
	commits, reads, describes, lists, deletes, forgets := kmsg.NewPtrOffsetCommitRequest(), kmsg.NewPtrOffsetFetchRequest(),
		kmsg.NewPtrDescribeGroupsRequest(), kmsg.NewPtrListGroupsRequest(), kmsg.NewPtrDeleteGroupsRequest(), kmsg.NewPtrOffsetDeleteRequest()
	commits.Version, commits.Group, commits.Generation, reads.Version, describes.Version, lists.Version, deletes.Version = 9, "g", -1, 9, 6, 5, 2
	some := kmsg.NewOffsetFetchRequestGroup()
	some.Group = "g"
	for i := range topics {
		ct := kmsg.NewOffsetCommitRequestTopic()
		ct.Topic = name(i)
		ft := kmsg.OffsetFetchRequestGroupTopic{Topic: name(i)}
		dt := kmsg.OffsetDeleteRequestTopic{Topic: name(i)}
		for p := range int32(partitions) {
			cp := kmsg.NewOffsetCommitRequestTopicPartition()
			cp.Partition, cp.Metadata = p+partitions, kmsg.StringPtr(strings.Repeat("m", 100))
			ct.Partitions = append(ct.Partitions, cp)
			ft.Partitions = append(ft.Partitions, p)
			dt.Partitions = append(dt.Partitions, kmsg.OffsetDeleteRequestTopicPartition{Partition: p + partitions})
		}
		commits.Topics, some.Topics, forgets.Topics = append(commits.Topics, ct), append(some.Topics, ft), append(forgets.Topics, dt)
	}
	forgets.Group = "g"
	everything := kmsg.NewOffsetFetchRequestGroup()
	everything.Group = "h"
	reads.Groups = append(reads.Groups, some, everything)
	for i := range 1000 {
		describes.Groups, deletes.Groups = append(describes.Groups, fmt.Sprint("group-", i)), append(deletes.Groups, fmt.Sprint("group-", i))
	}
	for _, req := range []kmsg.Request{commits, reads, describes, lists, deletes, forgets, all, offsets, records, configs, fetch, keys, create, remove, pages, dirs, resources} {
		var charged int64
		var err error
		if _, _, err = s.Handle(req); err != nil { // what is made once
			t.Fatal(err)
		}
		size := 0
		got := allocated(func() {
			var body []byte
			body, charged, err = s.Handle(req)
			size = len(body)
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%T: %d bytes allocated, %d charged, answer of %d", req, got, charged, size)
		// Most of what is allocated on the way is garbage at once: answers grow by doubling, and words are put together.
		if got > 3*charged+64<<10 && !raced {
			t.Errorf("%T: %d bytes allocated in all, %d charged", req, got, charged)
		}
	}
}

// Sessions are bounded by what they take, not by their number alone.
func TestFetchSessionsAreBoundedInBytes(t *testing.T) {
	a := newCluster(t).join("a")
	s := server(t, a, func(c *kafka.Config) { c.FetchSessionBytes = 100_000 })
	full := func(partitions int32) *kmsg.FetchRequest {
		req := fetchRequest(13, "", entry.UUID{1}, 0, 0)
		req.SessionEpoch = 0
		for p := int32(1); p < partitions; p++ {
			addFetch(req, "", entry.UUID{1}, p, 0)
		}
		return req
	}
	if id, parts, _ := s.Begin(full(200)); id == 0 || parts != 200 {
		t.Errorf("session %d of %d partitions", id, parts)
	}
	if id, parts, _ := s.Begin(full(200)); id != 0 || parts != 200 {
		t.Errorf("another one, without room: session %d of %d partitions", id, parts)
	}
	id, _, _ := s.Begin(full(50))
	if id == 0 {
		t.Error("a small one has no room")
	}
	grow := full(300)
	grow.SessionID, grow.SessionEpoch = id, 1
	if _, _, code := s.Begin(grow); code != 70 { // FETCH_SESSION_ID_NOT_FOUND
		t.Errorf("a session that outgrows its room: code %d", code)
	}
	if s.Sessions() != 1 {
		t.Errorf("%d sessions", s.Sessions())
	}
}

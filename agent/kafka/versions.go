package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Keys of the APIs that are served.
const (
	keyProduce                 = 0
	keyFetch                   = 1
	keyListOffsets             = 2
	keyMetadata                = 3
	keyOffsetCommit            = 8
	keyOffsetFetch             = 9
	keyFindCoordinator         = 10
	keyJoinGroup               = 11
	keyHeartbeat               = 12
	keyLeaveGroup              = 13
	keySyncGroup               = 14
	keyDescribeGroups          = 15
	keyListGroups              = 16
	keySaslHandshake           = 17
	keyApiVersions             = 18
	keyCreateTopics            = 19
	keyDeleteTopics            = 20
	keyDeleteRecords           = 21
	keyInitProducerID          = 22
	keyOffsetForLeaderEpoch    = 23
	keyDescribeConfigs         = 32
	keyAlterConfigs            = 33
	keyDescribeLogDirs         = 35
	keyCreatePartitions        = 37
	keyDeleteGroups            = 42
	keyIncrementalAlterConfigs = 44
	keyOffsetDelete            = 47
	keyDescribeCluster         = 60
	keyConsumerGroupHeartbeat  = 68
	keyConsumerGroupDescribe   = 69
	keyListConfigResources     = 74
	keyDescribeTopicPartitions = 75
)

// api says which versions of an API are spoken. ApiVersions is answered from this table and dispatch is checked against it.
type api struct {
	key      int16
	min, max int16
	// hidden: spoken, but not advertised.
	hidden bool
}

// apis is sorted by key. Produce 0 to 2 are advertised for librdkafka, which otherwise picks the wrong version for
// compressed batches (KAFKA-18659), and answered with UNSUPPORTED_VERSION. SaslHandshake is answered, so that a client set
// up for SASL learns why it cannot go on. Up to 2.10, librdkafka drops a feature unless one exact version is in range:
// ApiVersions 0, Produce 3 with Fetch 4 (record batches), Produce 7 with Fetch 10 (zstd), InitProducerId 0 (idempotence),
// ListOffsets 1, OffsetForLeaderEpoch 2, JoinGroup 0 with SyncGroup 0 and FindCoordinator 0 (groups); a test holds the table to it.
var apis = [...]api{
	{key: keyProduce, min: 0, max: 13},
	{key: keyFetch, min: 4, max: 18},
	{key: keyListOffsets, min: 1, max: 11},
	{key: keyMetadata, min: 0, max: 13},
	{key: keyOffsetCommit, min: 2, max: 10},
	{key: keyOffsetFetch, min: 1, max: 10},
	{key: keyFindCoordinator, min: 0, max: 6},
	{key: keyJoinGroup, min: 0, max: 9},
	{key: keyHeartbeat, min: 0, max: 4},
	{key: keyLeaveGroup, min: 0, max: 5},
	{key: keySyncGroup, min: 0, max: 5},
	{key: keyDescribeGroups, min: 0, max: 6},
	{key: keyListGroups, min: 0, max: 5},
	{key: keySaslHandshake, min: 0, max: 1, hidden: true},
	{key: keyApiVersions, min: 0, max: 4},
	{key: keyCreateTopics, min: 2, max: 7},
	{key: keyDeleteTopics, min: 1, max: 6},
	{key: keyDeleteRecords, min: 0, max: 2},
	{key: keyInitProducerID, min: 0, max: 5},
	{key: keyOffsetForLeaderEpoch, min: 2, max: 4},
	{key: keyDescribeConfigs, min: 1, max: 4},
	{key: keyAlterConfigs, min: 0, max: 2},
	{key: keyDescribeLogDirs, min: 1, max: 4},
	{key: keyCreatePartitions, min: 0, max: 3},
	{key: keyDeleteGroups, min: 0, max: 2},
	{key: keyIncrementalAlterConfigs, min: 0, max: 1},
	{key: keyOffsetDelete, min: 0, max: 0},
	{key: keyDescribeCluster, min: 0, max: 2},
	{key: keyConsumerGroupHeartbeat, min: 0, max: 1},
	{key: keyConsumerGroupDescribe, min: 0, max: 1},
	{key: keyListConfigResources, min: 0, max: 1},
	{key: keyDescribeTopicPartitions, min: 0, max: 0},
}

func lookupAPI(key int16) (api, bool) {
	for _, a := range apis {
		if a.key == key {
			return a, true
		}
	}
	return api{}, false
}

func (a api) speaks(version int16) bool { return version >= a.min && version <= a.max }

// serve runs the handler of a decoded request on the executor. An error closes the connection.
func (s *Server) serve(ctx context.Context, r *request, msg kmsg.Request) (reply, error) {
	switch req := msg.(type) {
	case *kmsg.FetchRequest:
		return s.fetch(ctx, r, req)
	case *kmsg.ListOffsetsRequest:
		return say(s.listOffsets(ctx, req)), nil
	case *kmsg.MetadataRequest:
		return say(s.metadata(ctx, r.audience(), req)), nil
	case *kmsg.OffsetCommitRequest:
		return say(s.offsetCommit(r, req)), nil
	case *kmsg.OffsetFetchRequest:
		return say(s.offsetFetch(ctx, req)), nil
	case *kmsg.DescribeGroupsRequest:
		return say(s.describeGroups(ctx, req)), nil
	case *kmsg.DeleteGroupsRequest:
		return say(s.deleteGroups(req)), nil
	case *kmsg.OffsetDeleteRequest:
		return say(s.offsetDelete(req)), nil
	case *kmsg.FindCoordinatorRequest:
		return say(s.findCoordinator(r.audience(), req)), nil
	case *kmsg.JoinGroupRequest:
		return s.joinGroup(ctx, r, req)
	case *kmsg.HeartbeatRequest:
		return s.heartbeat(ctx, r, req)
	case *kmsg.LeaveGroupRequest:
		return s.leaveGroup(ctx, r, req)
	case *kmsg.SyncGroupRequest:
		return s.syncGroup(ctx, r, req)
	case *kmsg.ListGroupsRequest:
		return say(s.listGroups(req)), nil
	case *kmsg.SASLHandshakeRequest:
		return say(s.saslHandshake(req)), nil
	case *kmsg.ApiVersionsRequest:
		return say(s.apiVersions(req)), nil
	case *kmsg.CreateTopicsRequest:
		return say(s.createTopics(ctx, req)), nil
	case *kmsg.DeleteTopicsRequest:
		return say(s.deleteTopics(ctx, req)), nil
	case *kmsg.DeleteRecordsRequest:
		return say(s.deleteRecords(ctx, req)), nil
	case *kmsg.InitProducerIDRequest:
		return say(s.initProducerID(ctx, req)), nil
	case *kmsg.OffsetForLeaderEpochRequest:
		return say(s.offsetForLeaderEpoch(ctx, req)), nil
	case *kmsg.DescribeConfigsRequest:
		return say(s.describeConfigs(ctx, r.audience(), req)), nil
	case *kmsg.AlterConfigsRequest:
		return say(s.replaceConfigs(ctx, req)), nil
	case *kmsg.DescribeLogDirsRequest:
		return say(s.describeLogDirs(ctx, r.audience(), req)), nil
	case *kmsg.CreatePartitionsRequest:
		return say(s.createPartitions(ctx, req)), nil
	case *kmsg.IncrementalAlterConfigsRequest:
		return say(s.incrementalAlterConfigs(ctx, req)), nil
	case *kmsg.DescribeClusterRequest:
		return say(s.describeCluster(ctx, r.audience(), req)), nil
	case *kmsg.ConsumerGroupHeartbeatRequest:
		return s.consumerGroupHeartbeat(ctx, r, req)
	case *kmsg.ConsumerGroupDescribeRequest:
		return s.consumerGroupDescribe(ctx, req)
	case *kmsg.ListConfigResourcesRequest:
		return say(s.listConfigResources(ctx, r.audience(), req)), nil
	case *kmsg.DescribeTopicPartitionsRequest:
		return say(s.describeTopicPartitions(ctx, r.audience(), req)), nil
	}
	panic("kafka: an API in the table has no handler: " + kmsg.NameForKey(r.key))
}

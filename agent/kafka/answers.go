package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// What answers take per thing that they name, put together and encoded. Estimates, on the high side; a test holds them to
// what handlers allocate.
const (
	partitionAnswer = 256      // a partition of Metadata, with its replicas
	namedAnswer     = 512      // a name with a code and a sentence
	heartbeatAnswer = 2048     // what a member is told, or is told of it
	configsAnswer   = 32 << 10 // all configs of a topic, with synonyms and words
	fetchedAnswer   = 256      // a partition of a Fetch, its records apart
	committedAnswer = 256      // a partition of an OffsetCommit or OffsetDelete, its op included
	fetchedOffset   = 160      // a partition of an OffsetFetch, its metadata apart
	listedGroup     = 1 << 10  // a group of a ListGroups
)

// Bounds on what one request may ask for where answers are many times what asked for them.
const (
	// describedMax is how many resources one DescribeConfigs describes, and one CreateTopics tells the configs of.
	describedMax = 1000
	// autoCreatedMax is how many topics one Metadata makes.
	autoCreatedMax = 100
)

// answerRoom is about how much a request leads to beside what it decodes into: what the handler keeps at a time, its answer
// included. Where that is in proportion to the request it is a few times the request's own.
func (s *Server) answerRoom(msg kmsg.Request) (room int64) {
	switch req := msg.(type) {
	case *kmsg.FetchRequest:
		room = fetchedAnswer * int64(s.sessions.parts(req.SessionID))
		for i := range req.Topics {
			room += namedAnswer + fetchedAnswer*int64(len(req.Topics[i].Partitions))
		}
	case *kmsg.ListOffsetsRequest:
		for i := range req.Topics {
			room += namedAnswer + partitionAnswer*int64(len(req.Topics[i].Partitions))
		}
	case *kmsg.MetadataRequest:
		room = s.metadataRoom(req)
	case *kmsg.OffsetCommitRequest:
		for i := range req.Topics {
			room += namedAnswer + committedAnswer*int64(len(req.Topics[i].Partitions))
		}
	case *kmsg.OffsetFetchRequest:
		room = s.offsetFetchRoom(req)
	case *kmsg.DescribeGroupsRequest:
		s.meta.View(func(st *state.State) {
			for _, id := range req.Groups {
				room += namedAnswer + describedRoom(st.Group(id))
			}
		})
	case *kmsg.ListGroupsRequest:
		s.meta.View(func(st *state.State) { room = listedGroup * int64(st.GroupCount()) })
	case *kmsg.DeleteGroupsRequest:
		room = namedAnswer * int64(len(req.Groups))
	case *kmsg.OffsetDeleteRequest:
		for i := range req.Topics {
			room += namedAnswer + committedAnswer*int64(len(req.Topics[i].Partitions))
		}
	case *kmsg.FindCoordinatorRequest:
		room = namedAnswer * int64(len(req.CoordinatorKeys))
	case *kmsg.LeaveGroupRequest:
		room = namedAnswer * int64(len(req.Members))
	case *kmsg.ConsumerGroupHeartbeatRequest:
		room = heartbeatAnswer + namedAnswer*int64(min(len(req.SubscribedTopicNames)+len(req.Topics), describedMax))
	case *kmsg.ConsumerGroupDescribeRequest:
		s.meta.View(func(st *state.State) {
			for _, id := range req.Groups {
				room += namedAnswer
				if g := st.Group(id); g != nil {
					room += heartbeatAnswer * int64(g.MemberCount())
				}
			}
		})
	case *kmsg.CreateTopicsRequest:
		room = namedAnswer*int64(len(req.Topics)) + configsAnswer/4*int64(min(len(req.Topics), describedMax))
	case *kmsg.DeleteTopicsRequest:
		room = namedAnswer * int64(len(req.Topics)+len(req.TopicNames))
	case *kmsg.DeleteRecordsRequest:
		for i := range req.Topics {
			room += namedAnswer + partitionAnswer*int64(len(req.Topics[i].Partitions))
		}
	case *kmsg.DescribeConfigsRequest:
		room = namedAnswer*int64(len(req.Resources)) + configsAnswer*int64(min(len(req.Resources), describedMax))
	case *kmsg.DescribeLogDirsRequest, *kmsg.ListConfigResourcesRequest:
		s.meta.View(func(st *state.State) {
			for t := range st.Topics() {
				room += namedAnswer + 64*int64(t.Partitions())
			}
		})
	case *kmsg.CreatePartitionsRequest:
		room = namedAnswer * int64(len(req.Topics))
	case *kmsg.AlterConfigsRequest:
		room = namedAnswer * int64(len(req.Resources))
	case *kmsg.IncrementalAlterConfigsRequest:
		room = namedAnswer * int64(len(req.Resources))
	case *kmsg.DescribeTopicPartitionsRequest:
		room = namedAnswer*int64(len(req.Topics)) + partitionAnswer*int64(min(max(req.ResponsePartitionLimit, 0), partitionsPerPage))
		if len(req.Topics) == 0 {
			s.meta.View(func(st *state.State) { room += namedAnswer * int64(st.TopicCount()) })
		}
	}
	return room
}

// offsetFetchRoom is what is told of all that is asked for, or of all that there is.
func (s *Server) offsetFetchRoom(req *kmsg.OffsetFetchRequest) (room int64) {
	s.meta.View(func(st *state.State) {
		all := func(id string) {
			if g := st.Group(id); g != nil {
				for o := range g.Offsets() {
					room += fetchedOffset + 2*int64(len(o.Metadata))
				}
			}
		}
		some := func(id string, partitions int) {
			room += namedAnswer + fetchedOffset*int64(partitions)
			if g := st.Group(id); g != nil && partitions > 0 {
				for o := range g.Offsets() { // which of them are asked for is not worth finding out
					room += 2 * int64(len(o.Metadata))
				}
			}
		}
		for i := range req.Groups {
			g := &req.Groups[i]
			room += namedAnswer
			if g.Topics == nil {
				all(g.Group)
				continue
			}
			partitions := 0
			for j := range g.Topics {
				room += namedAnswer
				partitions += len(g.Topics[j].Partitions)
			}
			some(g.Group, partitions)
		}
		if req.Version >= 8 {
			return
		}
		if req.Topics == nil {
			all(req.Group)
			return
		}
		partitions := 0
		for i := range req.Topics {
			room += namedAnswer
			partitions += len(req.Topics[i].Partitions)
		}
		some(req.Group, 2*partitions) // they are put together twice
	})
	return room
}

// describedRoom is what is told of a group's members: what they brought along and were given is in their records.
func describedRoom(g *state.Group) (room int64) {
	if g == nil {
		return 0
	}
	for id, record := range g.Members() {
		room += namedAnswer + 2*int64(len(id)+len(record))
	}
	return room
}

func (s *Server) metadataRoom(req *kmsg.MetadataRequest) (room int64) {
	s.meta.View(func(st *state.State) {
		if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
			for t := range st.Topics() {
				room += namedAnswer + partitionAnswer*int64(t.Partitions())
			}
			return
		}
		for i := range req.Topics {
			var t *state.Topic
			if name := req.Topics[i].Topic; name != nil {
				t = st.TopicByName(*name)
			} else {
				t = st.TopicByID(req.Topics[i].TopicID)
			}
			if room += namedAnswer; t != nil {
				room += partitionAnswer * int64(t.Partitions())
			}
		}
	})
	return room
}

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
	configsAnswer   = 32 << 10 // all configs of a topic, with synonyms and words
	fetchedAnswer   = 256      // a partition of a Fetch, its records apart
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
	case *kmsg.FindCoordinatorRequest:
		room = namedAnswer * int64(len(req.CoordinatorKeys))
	case *kmsg.LeaveGroupRequest:
		room = namedAnswer * int64(len(req.Members))
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

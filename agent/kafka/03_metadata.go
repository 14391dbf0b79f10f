package kafka

import (
	"context"
	"crypto/rand"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Metadata (3), versions 0 to 13. Topics are asked for by name or, from version 10 on, by id. A topic that is not there is
// created where client and server both allow it, and answered once every agent that takes a barrier sees it.

// Authorised operations, as bits of Kafka's AclOperation. There is no authorizer: who asks may do everything.
const (
	noOperations      = math.MinInt32 // not asked for
	topicOperations   = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	groupOperations   = 1<<3 | 1<<6 | 1<<8 | 1<<10 | 1<<11
	clusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
)

// operations is mask where it was asked for.
func operations(asked bool, mask int32) int32 {
	if asked {
		return mask
	}
	return noOperations
}

// metadataTopic is one topic of an answer.
type metadataTopic struct {
	name string
	id   entry.UUID
	byID bool
	view topicView
	code errorCode
}

func (s *Server) metadata(ctx context.Context, who audience, req *kmsg.MetadataRequest) *kmsg.MetadataResponse {
	// Version 0 asks for all topics with an empty list, later ones with null.
	all := req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
	topics := askedTopics(req)
	if all {
		// A list that lacks a topic would not be asked for again. Where the metastore does not answer, what is known here is
		// better than nothing: clients could not start otherwise.
		if err := s.barrier(ctx); err != nil {
			s.cfg.Logger.Debug("listing topics without a barrier", "error", err)
		}
		s.meta.View(func(st *state.State) {
			topics = make([]metadataTopic, 0, st.TopicCount())
			for t := range st.Topics() {
				topics = append(topics, metadataTopic{name: t.Name, id: t.ID, view: viewTopicEpochs(st, t)})
			}
		})
	} else {
		lagging := s.lookUpTopics(ctx, topics)
		// Before version 4 a client could not say that it does not want topics made.
		if s.cfg.AutoCreateTopics && (req.AllowAutoTopicCreation || req.Version < 4) && lagging == nil {
			s.autoCreate(ctx, topics)
		}
	}
	var nodes []node
	s.meta.View(func(st *state.State) { nodes = who.nodes(st) })

	res := kmsg.NewPtrMetadataResponse()
	res.Version = req.Version
	cluster := s.meta.ClusterID()
	res.ClusterID = &cluster
	res.ControllerID = controller(nodes)
	res.AuthorizedOperations = operations(req.IncludeClusterAuthorizedOperations, clusterOperations)
	for i := range nodes {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = nodes[i].id, nodes[i].host, nodes[i].port, nodes[i].rack()
		res.Brokers = append(res.Brokers, b)
	}
	res.Topics = make([]kmsg.MetadataResponseTopic, 0, len(topics))
	for i := range topics {
		rt := s.metadataTopic(&topics[i], nodes, who.zone)
		rt.AuthorizedOperations = operations(req.IncludeTopicAuthorizedOperations && rt.ErrorCode == 0, topicOperations)
		res.Topics = append(res.Topics, rt)
	}
	return res
}

// askedTopics lists what a request names, each once: as in Kafka, naming a topic many times gets one answer.
func askedTopics(req *kmsg.MetadataRequest) []metadataTopic {
	type named struct {
		name string
		id   entry.UUID
	}
	topics := make([]metadataTopic, 0, len(req.Topics))
	seen := make(map[named]bool, len(req.Topics))
	for i := range req.Topics {
		t := &req.Topics[i]
		var m metadataTopic
		if t.Topic != nil {
			m.name = *t.Topic
		} else {
			m.id, m.byID = t.TopicID, true
		}
		if key := (named{m.name, m.id}); !seen[key] {
			seen[key] = true
			topics = append(topics, m)
		}
	}
	return topics
}

// lookUpTopics fills in views and codes. The error says why what is missing is not proven to be.
func (s *Server) lookUpTopics(ctx context.Context, topics []metadataTopic) error {
	err := s.fresh(ctx, func(st *state.State) bool {
		complete := true
		for i := range topics {
			m := &topics[i]
			m.code = codeNone
			var t *state.Topic
			if m.byID {
				t = st.TopicByID(m.id)
			} else {
				t = st.TopicByName(m.name)
			}
			switch {
			case t != nil:
				m.name, m.id, m.view = t.Name, t.ID, viewTopicEpochs(st, t)
			case m.byID:
				m.code, complete = codeUnknownTopicID, false
			case !validTopicName(m.name):
				m.code = codeInvalidTopic
			default:
				m.code, complete = codeUnknownTopicOrPartition, false
			}
		}
		return complete
	})
	if err != nil {
		for i := range topics {
			if c := topics[i].code; c == codeUnknownTopicID || c == codeUnknownTopicOrPartition {
				topics[i].code = codeLeaderNotAvailable
			}
		}
	}
	return err
}

// validTopicName holds names to Kafka's rules; the state machine refuses others too.
func validTopicName(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > state.MaxTopicName {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// internalTopics are where Kafka keeps its state. firn keeps its own elsewhere; sarama asks for them where no coordinator is available, and
// would leave them behind as topics of the user's.
var internalTopics = [...]string{"__consumer_offsets", "__transaction_state"}

// autoCreate proposes the topics that are not there. Of very many it makes some, and clients ask again for the others.
func (s *Server) autoCreate(ctx context.Context, topics []metadataTopic) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ProposeTimeout)
	defer cancel()
	made := 0
	for i := range topics {
		m := &topics[i]
		if m.code != codeUnknownTopicOrPartition || slices.Contains(internalTopics[:], m.name) {
			continue
		}
		if made++; made > autoCreatedMax {
			m.code = codeLeaderNotAvailable
			continue
		}
		res, err := s.meta.Propose(ctx, &entry.CreateTopic{
			Name: m.name, ID: newTopicID(), Partitions: uint32(s.cfg.DefaultPartitions),
			ReplicationFactor: uint32(s.cfg.DefaultReplicationFactor),
		})
		switch code := s.codeOfOp(res, err); {
		case code == codeRequestTimedOut:
			m.code = codeLeaderNotAvailable
		case code != codeNone && code != codeTopicAlreadyExists: // another agent may have been first
			m.code = code
		default:
			// The proposal was applied here, so the topic is visible, unless it was deleted since.
			s.meta.View(func(st *state.State) {
				if t := st.TopicByName(m.name); t != nil {
					m.id, m.view, m.code = t.ID, viewTopicEpochs(st, t), codeNone
				}
			})
		}
	}
}

// newTopicID returns a random UUID of version 4. Kafka prints ids in base64 and avoids those that start with '-', which
// command lines take for an option.
func newTopicID() entry.UUID {
	for {
		var id entry.UUID
		_, _ = rand.Read(id[:]) // never fails
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		if id[0]>>2 != 62 {
			return id
		}
	}
}

func (s *Server) metadataTopic(m *metadataTopic, nodes []node, zone string) kmsg.MetadataResponseTopic {
	rt := kmsg.NewMetadataResponseTopic()
	rt.ErrorCode, rt.TopicID = int16(m.code), m.id
	if m.name != "" || !m.byID {
		rt.Topic = &m.name
	}
	if m.code != codeNone {
		s.cfg.Metrics.failed(keyMetadata, m.code)
		return rt
	}
	rt.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, m.view.partitions)
	for p := range m.view.partitions {
		rp := kmsg.NewMetadataResponseTopicPartition()
		rp.Partition, rp.LeaderEpoch = p, m.view.leaderEpoch(p)
		rp.Leader, rp.Replicas = m.view.replicas(p, nodes, zone)
		rp.ISR = rp.Replicas
		if rp.Leader < 0 {
			rp.ErrorCode = int16(codeLeaderNotAvailable)
		}
		rt.Partitions = append(rt.Partitions, rp)
	}
	return rt
}

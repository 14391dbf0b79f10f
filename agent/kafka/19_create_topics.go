package kafka

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// CreateTopics (19), versions 2 to 7. Each topic is one op. A replication factor larger than the number of agents is taken:
// it is kept and reported, and promises nothing that the bucket does not.

// refusal is a code with words for the client. A nil *refusal is success.
type refusal struct {
	code errorCode
	why  string
}

func refused(code errorCode, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// tell splits a refusal for a response, and counts it.
func (s *Server) tell(key int16, r *refusal) (int16, *string) {
	if r == nil {
		return 0, nil
	}
	s.cfg.Metrics.failed(key, r.code)
	return int16(r.code), &r.why
}

// adminTime bounds a change by what the client waits for, and by our own limit.
func (s *Server) adminTime(ctx context.Context, timeoutMillis int32) (context.Context, context.CancelFunc) {
	d := s.cfg.ProposeTimeout
	if timeoutMillis > 0 {
		d = min(d, time.Duration(timeoutMillis)*time.Millisecond)
	}
	return context.WithTimeout(ctx, d)
}

// propose commits an op of an admin request.
func (s *Server) propose(ctx context.Context, op entry.Op) *refusal {
	res, err := s.meta.Propose(ctx, op)
	switch code := s.codeOfOp(res, err); {
	case code == codeNone:
		return nil
	case err != nil:
		return refused(code, "the metastore did not confirm the change in time, it may still take effect: %v", err)
	default:
		return refused(code, "refused: %v", res.Code)
	}
}

func (s *Server) createTopics(ctx context.Context, req *kmsg.CreateTopicsRequest) *kmsg.CreateTopicsResponse {
	ctx, cancel := s.adminTime(ctx, req.TimeoutMillis)
	defer cancel()
	lagging := s.barrier(ctx)
	times := make(map[string]int)
	partitions := 0
	for i := range req.Topics {
		times[req.Topics[i].Topic]++
		switch t := &req.Topics[i]; {
		case len(t.ReplicaAssignment) > 0:
			partitions += len(t.ReplicaAssignment)
		case t.NumPartitions == -1:
			partitions += int(s.cfg.DefaultPartitions)
		default:
			partitions += int(max(t.NumPartitions, 0))
		}
	}
	res := kmsg.NewPtrCreateTopicsResponse()
	res.Version = req.Version
	described := 0
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Topic, -1, -1
		var view topicView
		var no *refusal
		switch {
		case times[t.Topic] == 0: // answered already
			continue
		case times[t.Topic] > 1:
			no, times[t.Topic] = refused(codeInvalidRequest, "topic %s is named more than once", t.Topic), 0
		case lagging != nil:
			no = refused(codeRequestTimedOut, "the metastore does not answer: %v", lagging)
		case partitions > int(s.cfg.PartitionsMax) && len(req.Topics) > 1: // one alone gets a better answer below
			no = refused(codePolicyViolation, "%d partitions in one request: at most %d", partitions, s.cfg.PartitionsMax)
		default:
			view, no = s.createTopic(ctx, t, req.ValidateOnly)
		}
		if rt.ErrorCode, rt.ErrorMessage = s.tell(keyCreateTopics, no); no == nil {
			rt.TopicID, rt.NumPartitions, rt.ReplicationFactor = view.id, view.partitions, clampReplication(view.replication)
			switch described++; {
			case req.Version < 5:
			case described > describedMax: // what a client would have to ask for anew
				rt.ConfigErrorCode = int16(codePolicyViolation)
			default:
				rt.Configs = createdConfigs(&view)
			}
		}
		res.Topics = append(res.Topics, rt)
	}
	return res
}

func (s *Server) createTopic(ctx context.Context, t *kmsg.CreateTopicsRequestTopic, validateOnly bool) (topicView, *refusal) {
	op, no := s.plannedTopic(t)
	if no != nil {
		return topicView{}, no
	}
	view := topicView{
		id: op.ID, name: op.Name, partitions: int32(op.Partitions), replication: int(op.ReplicationFactor),
		assignment: op.Assignment, configs: op.Configs,
	}
	exists := ""
	s.meta.View(func(st *state.State) {
		view.cluster = st.BrokerConfigs()
		if have := st.TopicByName(op.Name); have != nil {
			exists = have.Name
		}
	})
	if exists != "" {
		return view, refused(codeTopicAlreadyExists, "topic %s already exists", exists)
	}
	settings := topicconfig.Parse(getter(view.configs), getter(view.cluster))
	if err := settings.Check(); err != nil {
		return view, refused(codeInvalidConfig, "%v", err)
	}
	if no := s.lockable(&settings); no != nil {
		return view, no
	}
	if no := s.classable(&settings); no != nil {
		return view, no
	}
	if validateOnly {
		view.id = entry.UUID{}
		return view, nil
	}
	no = s.propose(ctx, op)
	if no != nil && no.code == codeInvalidTopic {
		no.why = fmt.Sprintf("topic %s differs from an existing one only in '.' and '_'", op.Name)
	}
	return view, no
}

// lockable refuses an object lock where the bucket is known to keep none: its first batch would be refused.
func (s *Server) lockable(settings *topicconfig.Settings) *refusal {
	if !settings.Locked() || s.cfg.LockFault == nil {
		return nil
	}
	if why := s.cfg.LockFault(); why != "" {
		return refused(codeInvalidConfig, "firn.object.lock.mode %v: %s", settings.LockMode, why)
	}
	return nil
}

// classable refuses storage classes that the store is known not to have: the topic's records would not be merged, or never move.
func (s *Server) classable(settings *topicconfig.Settings) *refusal {
	if s.cfg.ClassFault == nil {
		return nil
	}
	if why := s.cfg.ClassFault(settings); why != "" {
		return refused(codeInvalidConfig, "%s", why)
	}
	return nil
}

// plannedTopic is the op that a request asks for, its numbers and names checked.
func (s *Server) plannedTopic(t *kmsg.CreateTopicsRequestTopic) (*entry.CreateTopic, *refusal) {
	if !validTopicName(t.Topic) {
		return nil, refused(codeInvalidTopic, "topic name %q: 1 to %d characters of a-z, A-Z, 0-9, '.', '_' and '-', not . or ..",
			t.Topic, state.MaxTopicName)
	}
	op := &entry.CreateTopic{Name: t.Topic, ID: newTopicID()}
	partitions, replication := t.NumPartitions, t.ReplicationFactor
	if len(t.ReplicaAssignment) > 0 {
		if partitions != -1 || replication != -1 {
			return nil, refused(codeInvalidRequest, "an assignment and numbers of partitions or replicas exclude each other")
		}
		var no *refusal
		if op.Assignment, no = createAssignment(t.ReplicaAssignment); no != nil {
			return nil, no
		}
		partitions, replication = int32(len(op.Assignment)), int16(len(op.Assignment[0].Nodes))
	}
	if partitions == -1 {
		partitions = s.cfg.DefaultPartitions
	}
	if replication == -1 {
		replication = s.cfg.DefaultReplicationFactor
	}
	switch {
	case partitions < 1 || partitions > s.cfg.PartitionsMax:
		return nil, refused(codeInvalidPartitions, "%d partitions: accepted are 1 to %d", partitions, s.cfg.PartitionsMax)
	case replication < 1:
		return nil, refused(codeInvalidReplication, "replication factor %d: accepted are 1 to %d", replication, math.MaxInt16)
	}
	op.Partitions, op.ReplicationFactor = uint32(partitions), uint32(replication)
	for _, c := range t.Configs {
		if c.Value == nil {
			return nil, refused(codeInvalidConfig, "null value for %s", c.Name)
		}
		if err := topicconfig.Validate(c.Name, *c.Value); err != nil {
			return nil, refused(codeInvalidConfig, "%v", err)
		}
		if slices.ContainsFunc(op.Configs, func(have entry.Config) bool { return have.Name == c.Name }) {
			return nil, refused(codeInvalidRequest, "%s is given twice", c.Name)
		}
		op.Configs = append(op.Configs, entry.Config{Name: c.Name, Value: *c.Value})
	}
	slices.SortFunc(op.Configs, func(a, b entry.Config) int { return strings.Compare(a.Name, b.Name) })
	return op, nil
}

// createAssignment checks an assignment given by hand: partitions 0 to n-1, as many distinct replicas each.
func createAssignment(list []kmsg.CreateTopicsRequestTopicReplicaAssignment) ([]entry.Replicas, *refusal) {
	assignment := make([]entry.Replicas, len(list))
	for i := range list {
		p := list[i].Partition
		if p < 0 || int(p) >= len(list) || assignment[p].Nodes != nil {
			return nil, refused(codeInvalidAssignment, "partitions are not 0 to %d, each once", len(list)-1)
		}
		if no := checkReplicas(list[i].Replicas, len(list[0].Replicas)); no != nil {
			return nil, no
		}
		assignment[p].Nodes = list[i].Replicas
	}
	return assignment, nil
}

// checkReplicas holds one partition's assignment to the rules. Ids of agents that do not exist are taken: see the package
// doc.
func checkReplicas(ids []int32, want int) *refusal {
	switch {
	case len(ids) == 0:
		return refused(codeInvalidAssignment, "a partition without replicas")
	case len(ids) != want:
		return refused(codeInvalidAssignment, "%d replicas, where %d are assigned elsewhere", len(ids), want)
	case len(ids) > state.MaxReplicas:
		return refused(codeInvalidAssignment, "%d replicas: at most %d", len(ids), state.MaxReplicas)
	}
	for i, id := range ids {
		if id < 0 || slices.Contains(ids[:i], id) {
			return refused(codeInvalidAssignment, "replica %d is negative or named twice", id)
		}
	}
	return nil
}

func createdConfigs(view *topicView) []kmsg.CreateTopicsResponseTopicConfig {
	all := topicconfig.All()
	list := make([]kmsg.CreateTopicsResponseTopicConfig, 0, len(all))
	for i := range all {
		value, source := all[i].Resolve(getter(view.configs), getter(view.cluster))
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.Source = all[i].Name, &value, int8(source)
		list = append(list, c)
	}
	return list
}

// clampReplication is a factor as responses carry it.
func clampReplication(n int) int16 { return int16(min(n, math.MaxInt16)) }

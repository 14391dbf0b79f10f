package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// IncrementalAlterConfigs (44), versions 0 and 1, of topics and of the cluster (a broker of the empty name). Values are
// checked here, against the whole that results, as far as a barrier has shown it.

func (s *Server) incrementalAlterConfigs(
	ctx context.Context, req *kmsg.IncrementalAlterConfigsRequest,
) *kmsg.IncrementalAlterConfigsResponse {
	named := make([]configResource, len(req.Resources))
	for i, r := range req.Resources {
		named[i] = configResource{r.ResourceType, r.ResourceName}
	}
	res := kmsg.NewPtrIncrementalAlterConfigsResponse()
	res.Version = req.Version
	s.alterEach(ctx, named, func(ctx context.Context, i int) *refusal {
		return s.alterConfigs(ctx, &req.Resources[i], req.ValidateOnly)
	}, func(i int, no *refusal) {
		rr := kmsg.NewIncrementalAlterConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = named[i].kind, named[i].name
		rr.ErrorCode, rr.ErrorMessage = s.tell(keyIncrementalAlterConfigs, no)
		res.Resources = append(res.Resources, rr)
	})
	return res
}

// alterEach alters the configs of each resource that is named, and tells how that went. What is named twice is refused, and all is
// where the metastore does not answer.
func (s *Server) alterEach(
	ctx context.Context, named []configResource, alter func(ctx context.Context, i int) *refusal, tell func(i int, no *refusal),
) {
	ctx, cancel := s.adminTime(ctx, 0)
	defer cancel()
	lagging := s.barrier(ctx)
	times := make(map[configResource]int)
	for _, r := range named {
		times[r]++
	}
	for i, r := range named {
		switch {
		case times[r] > 1:
			tell(i, refused(codeInvalidRequest, "a resource is named more than once"))
		case lagging != nil:
			tell(i, refused(codeRequestTimedOut, "the metastore does not answer: %v", lagging))
		default:
			tell(i, alter(ctx, i))
		}
	}
}

// configResource names what has configs.
type configResource struct {
	kind kmsg.ConfigResourceType
	name string
}

// configured is what a kind of resource brings to an alteration.
type configured struct {
	have  []entry.Config
	check func(name, value string) error
	// spec is what a list is appended to where it is not set, and its default.
	spec func(name string) (*topicconfig.Spec, bool)
	// cluster are the configs behind those of a topic.
	cluster []entry.Config
	isTopic bool
}

// configurable finds what is configured under a name.
func (s *Server) configurable(kind kmsg.ConfigResourceType, name string) (of configured, _ *refusal) {
	switch {
	case kind == kmsg.ConfigResourceTypeTopic && name == "":
		return of, refused(codeInvalidRequest, "a topic without a name: defaults of all topics are the cluster's (--entity-type brokers --entity-default)")
	case kind == kmsg.ConfigResourceTypeTopic:
		found := false
		s.meta.View(func(st *state.State) {
			if t := st.TopicByName(name); t != nil {
				of.have, of.cluster, found = t.Configs, st.BrokerConfigs(), true
			}
		})
		if !found {
			return of, refused(codeUnknownTopicOrPartition, "no topic %q", name)
		}
		of.check, of.spec, of.isTopic = topicconfig.Validate, topicconfig.Lookup, true
	case kind == kmsg.ConfigResourceTypeBroker && name != "":
		return of, refused(codeInvalidRequest, "an agent has no configs of its own: set them for the cluster (firn config set cluster, or --entity-default)")
	case kind == kmsg.ConfigResourceTypeBroker:
		s.meta.View(func(st *state.State) { of.have = st.BrokerConfigs() })
		of.check = s.validateCluster
		of.spec = func(name string) (*topicconfig.Spec, bool) {
			spec, _, ok := topicconfig.LookupCluster(name)
			return spec, ok
		}
	default:
		return of, unconfigurable(kind)
	}
	return of, nil
}

// checkWhole holds the configs that an alteration leaves to the rules between them.
func (s *Server) checkWhole(of *configured, after []entry.Config) *refusal {
	if !of.isTopic {
		return nil
	}
	settings := topicconfig.Parse(getter(after), getter(of.cluster))
	if err := settings.Check(); err != nil {
		return refused(codeInvalidConfig, "%v", err)
	}
	have := topicconfig.Parse(getter(of.have), getter(of.cluster))
	if why := have.Loosens(settings); why != "" {
		return refused(codePolicyViolation, "%s", why)
	}
	if settings.StorageClass != have.StorageClass || settings.TransitionClass != have.TransitionClass || settings.TransitionDays != have.TransitionDays ||
		settings.BucketLifecycle != have.BucketLifecycle { // else it is no worse than it was
		if no := s.classable(&settings); no != nil {
			return no
		}
	}
	if have.Locked() {
		return nil
	}
	return s.lockable(&settings)
}

func (s *Server) alterConfigs(
	ctx context.Context, r *kmsg.IncrementalAlterConfigsRequestResource, validateOnly bool,
) *refusal {
	of, no := s.configurable(r.ResourceType, r.ResourceName)
	if no != nil {
		return no
	}
	op := &entry.AlterConfigs{ResourceType: uint32(r.ResourceType), ResourceName: r.ResourceName}
	after := slices.Clone(of.have)
	for i := range r.Configs {
		c := &r.Configs[i]
		if slices.ContainsFunc(op.Changes, func(have entry.ConfigChange) bool { return have.Name == c.Name }) {
			return refused(codeInvalidRequest, "%s is changed twice", c.Name)
		}
		change, no := of.change(c)
		if no != nil {
			return no
		}
		op.Changes = append(op.Changes, change)
		after = slices.DeleteFunc(after, func(have entry.Config) bool { return have.Name == c.Name })
		if change.Kind != entry.ConfigDelete {
			after = append(after, entry.Config{Name: change.Name, Value: change.Value})
		}
	}
	if no := s.checkWhole(&of, after); no != nil {
		return no
	}
	if validateOnly || len(op.Changes) == 0 {
		return nil
	}
	return s.propose(ctx, op)
}

// change is one alteration as an op: lists are worked out here, because Kafka appends to the default where nothing is set.
func (of *configured) change(c *kmsg.IncrementalAlterConfigsRequestResourceConfig) (entry.ConfigChange, *refusal) {
	none := entry.ConfigChange{}
	if c.Op == kmsg.IncrementalAlterConfigOpDelete && c.Name != "" { // whatever it is: it may be of a newer firn, or not be set at all
		return entry.ConfigChange{Name: c.Name, Kind: entry.ConfigDelete}, nil
	}
	spec, ok := of.spec(c.Name)
	if !ok {
		return none, refused(codeInvalidConfig, "%v", of.check(c.Name, ""))
	}
	if c.Value == nil {
		return none, refused(codeInvalidRequest, "null value for %s", c.Name)
	}
	value := *c.Value
	switch c.Op {
	case kmsg.IncrementalAlterConfigOpSet:
	case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
		if spec.Type != topicconfig.List {
			return none, refused(codeInvalidConfig, "%s is not a list", c.Name)
		}
		have, set := getter(of.have)(c.Name)
		if !set {
			have = spec.Default
		}
		words := topicconfig.SplitList(have)
		for _, w := range topicconfig.SplitList(value) {
			at := slices.Index(words, w)
			switch {
			case c.Op == kmsg.IncrementalAlterConfigOpAppend && at < 0:
				words = append(words, w)
			case c.Op == kmsg.IncrementalAlterConfigOpSubtract && at >= 0:
				words = slices.Delete(words, at, at+1)
			}
		}
		value = strings.Join(words, ",")
	default:
		return none, refused(codeInvalidRequest, "no such alteration: %v", c.Op)
	}
	if err := of.check(c.Name, value); err != nil {
		return none, refused(codeInvalidConfig, "%v", err)
	}
	return entry.ConfigChange{Name: c.Name, Kind: entry.ConfigSet, Value: value}, nil
}

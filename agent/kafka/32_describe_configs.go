package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// DescribeConfigs (32), versions 1 to 4, of topics and of brokers. Cluster-wide configs are the broker's of the empty name.

func (s *Server) describeConfigs(ctx context.Context, who audience, req *kmsg.DescribeConfigsRequest) *kmsg.DescribeConfigsResponse {
	lagging := s.barrier(ctx)
	res := kmsg.NewPtrDescribeConfigsResponse()
	res.Version = req.Version
	type resource struct {
		kind kmsg.ConfigResourceType
		name string
	}
	seen := make(map[resource]bool, len(req.Resources))
	described := 0
	for i := range req.Resources {
		r := &req.Resources[i]
		key := resource{r.ResourceType, r.ResourceName}
		again := seen[key]
		seen[key] = true
		rr := kmsg.NewDescribeConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
		var no *refusal
		switch {
		case lagging != nil:
			no = refused(codeRequestTimedOut, "the metastore does not answer: %v", lagging)
		case again: // an answer is hundreds of times what asks for it
			no = refused(codeInvalidRequest, "a resource is named more than once")
		case described == describedMax:
			no = refused(codeInvalidRequest, "more than %d resources at once: ask for the others in a request of their own", describedMax)
		case r.ResourceType == kmsg.ConfigResourceTypeTopic:
			rr.Configs, no = s.describeTopicConfigs(r.ResourceName)
		case r.ResourceType == kmsg.ConfigResourceTypeBroker:
			rr.Configs, no = s.describeBrokerConfigs(who, r.ResourceName)
		case r.ResourceType == kmsg.ConfigResourceTypeGroupConfig, r.ResourceType == kmsg.ConfigResourceTypeClientMetrics:
			// They have no configs here, which is what kafka-configs --describe is to print, and no error.
		default:
			no = unconfigurable(r.ResourceType)
		}
		if no == nil {
			described++
		}
		rr.Configs = slices.DeleteFunc(rr.Configs, func(c kmsg.DescribeConfigsResponseResourceConfig) bool {
			return len(r.ConfigNames) > 0 && !slices.Contains(r.ConfigNames, c.Name)
		})
		for j := range rr.Configs {
			if !req.IncludeSynonyms {
				rr.Configs[j].ConfigSynonyms = nil
			}
			if !req.IncludeDocumentation {
				rr.Configs[j].Documentation = nil
			}
		}
		rr.ErrorCode, rr.ErrorMessage = s.tell(keyDescribeConfigs, no)
		res.Resources = append(res.Resources, rr)
	}
	return res
}

// unconfigurable refuses types of resources without configs here.
func unconfigurable(t kmsg.ConfigResourceType) *refusal {
	if t == kmsg.ConfigResourceTypeBrokerLogger {
		return refused(codeInvalidRequest, "log levels are set where an agent is started")
	}
	return refused(codeInvalidRequest, "resources of type %v have no configs here", t)
}

func (s *Server) describeTopicConfigs(name string) ([]kmsg.DescribeConfigsResponseResourceConfig, *refusal) {
	if !validTopicName(name) {
		return nil, refused(codeInvalidTopic, "no topic can have the name %q", name)
	}
	var view topicView
	found := false
	s.meta.View(func(st *state.State) {
		if t := st.TopicByName(name); t != nil {
			view, found = viewTopic(st, t), true
		}
	})
	if !found {
		return nil, refused(codeUnknownTopicOrPartition, "no topic %q", name)
	}
	own, cluster := getter(view.configs), getter(view.cluster)
	all := topicconfig.All()
	list := make([]kmsg.DescribeConfigsResponseResourceConfig, 0, len(all))
	for i := range all {
		spec := &all[i]
		value, source := spec.Resolve(own, cluster)
		c := describedConfig(spec.Name, &value, source, spec)
		if v, ok := own(spec.Name); ok {
			c.ConfigSynonyms = append(c.ConfigSynonyms, synonym(spec.Name, v, topicconfig.FromTopic))
		}
		c.ConfigSynonyms = append(c.ConfigSynonyms, clusterSynonyms(spec, cluster)...)
		list = append(list, c)
	}
	return list, nil
}

// clusterSynonyms lists what stands in for a topic config, by precedence, and the default last.
func clusterSynonyms(spec *topicconfig.Spec, cluster topicconfig.Get) []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym {
	var list []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym
	for _, syn := range spec.Synonyms {
		if v, ok := cluster(syn.Name); ok {
			list = append(list, synonym(syn.Name, v, topicconfig.FromCluster))
		}
	}
	name := spec.Name
	if len(spec.Synonyms) > 0 {
		name = spec.Synonyms[0].Name
	}
	return append(list, synonym(name, spec.Default, topicconfig.FromDefault))
}

func synonym(name, value string, source topicconfig.Source) kmsg.DescribeConfigsResponseResourceConfigConfigSynonym {
	syn := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
	syn.Name, syn.Value, syn.Source = name, &value, kmsg.ConfigSource(source)
	return syn
}

func describedConfig(
	name string, value *string, source topicconfig.Source, spec *topicconfig.Spec,
) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.Source, c.IsDefault = name, value, kmsg.ConfigSource(source), source == topicconfig.FromDefault
	c.ConfigType = kmsg.ConfigType(spec.Type)
	doc := spec.Description()
	c.Documentation = &doc
	return c
}

// describeBrokerConfigs answers for an agent by its id, or with an empty name for what is set cluster-wide.
func (s *Server) describeBrokerConfigs(who audience, name string) ([]kmsg.DescribeConfigsResponseResourceConfig, *refusal) {
	var nodes []node
	var set []entry.Config
	s.meta.View(func(st *state.State) { nodes, set = who.nodes(st), st.BrokerConfigs() })
	cluster := getter(set)
	if name == "" {
		var list []kmsg.DescribeConfigsResponseResourceConfig
		for _, c := range set {
			if spec, _, ok := topicconfig.LookupCluster(c.Name); ok {
				d := describedConfig(c.Name, &c.Value, topicconfig.FromCluster, spec)
				d.ConfigSynonyms = clusterSynonyms(spec, cluster)
				list = append(list, d)
			}
		}
		return list, nil
	}
	id, err := strconv.ParseInt(name, 10, 32)
	at := slices.IndexFunc(nodes, func(n node) bool { return int64(n.id) == id })
	if err != nil || at < 0 {
		return nil, refused(codeInvalidRequest, "no live agent has the id %q", name)
	}
	var list []kmsg.DescribeConfigsResponseResourceConfig
	all := topicconfig.All()
	for i := range all {
		spec := &all[i]
		for k, syn := range spec.Synonyms {
			var d kmsg.DescribeConfigsResponseResourceConfig
			if v, ok := cluster(syn.Name); ok {
				d = describedConfig(syn.Name, &v, topicconfig.FromCluster, spec)
			} else if k == 0 {
				d = describedConfig(syn.Name, &spec.Default, topicconfig.FromDefault, spec)
			} else { // another unit of the first, not set
				d = describedConfig(syn.Name, nil, topicconfig.FromDefault, spec)
			}
			d.ConfigSynonyms = clusterSynonyms(spec, cluster)
			list = append(list, d)
		}
	}
	list = append(list, s.startConfigs(nodes[at])...)
	slices.SortFunc(list, func(a, b kmsg.DescribeConfigsResponseResourceConfig) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// validateCluster checks a cluster-wide config that is to be set. What agents are started with is known, and not set so.
func (s *Server) validateCluster(name, value string) error {
	err := topicconfig.ValidateCluster(name, value)
	if errors.Is(err, topicconfig.ErrUnknown) &&
		slices.ContainsFunc(s.startConfigs(node{}), func(c kmsg.DescribeConfigsResponseResourceConfig) bool { return c.Name == name }) {
		return fmt.Errorf("%w: agents are started with it", err)
	}
	return err
}

// startConfigs are those of Kafka's broker configs that an agent is started with and that have a meaning here. Agents of a
// cluster are started alike, so this one answers for all; ids, addresses and zones are of the agent asked for.
func (s *Server) startConfigs(n node) []kmsg.DescribeConfigsResponseResourceConfig {
	var list []kmsg.DescribeConfigsResponseResourceConfig
	add := func(name string, typ topicconfig.Type, value any, doc string) {
		v := fmt.Sprint(value)
		d := kmsg.NewDescribeConfigsResponseResourceConfig()
		d.Name, d.Value, d.Source, d.ReadOnly = name, &v, kmsg.ConfigSource(topicconfig.FromStart), true
		d.ConfigType, d.Documentation = kmsg.ConfigType(typ), &doc
		d.ConfigSynonyms = append(d.ConfigSynonyms, synonym(name, v, topicconfig.FromStart))
		list = append(list, d)
	}
	c := &s.cfg
	add("advertised.listeners", topicconfig.String, fmt.Sprintf("%s://%s:%d", n.listener, n.host, n.port),
		"Address that clients of this listener are given.")
	add("auto.create.topics.enable", topicconfig.Boolean, c.AutoCreateTopics, "Whether asking for a topic may create it.")
	add("broker.id", topicconfig.Int, n.id, "Id of the agent.")
	add("broker.rack", topicconfig.String, n.zone, "Zone of the agent.")
	add("connections.max.idle.ms", topicconfig.Long, c.IdleTimeout.Milliseconds(), "When a connection without requests is closed.")
	add("default.replication.factor", topicconfig.Int, c.DefaultReplicationFactor, "Replication factor reported of topics that leave it open.")
	add("delete.topic.enable", topicconfig.Boolean, true, "Whether topics may be deleted.")
	add("fetch.max.bytes", topicconfig.Int, c.FetchBytesMax, "Bytes of records in one answer.")
	add("log.dirs", topicconfig.String, c.LogDir, "The bucket, where all data lies.")
	add("max.connections", topicconfig.Int, c.Connections, "Connections of one agent.")
	add("max.incremental.fetch.session.cache.slots", topicconfig.Int, c.FetchSessions, "Fetch sessions of one agent.")
	add("node.id", topicconfig.Int, n.id, "Id of the agent.")
	add("num.partitions", topicconfig.Int, c.DefaultPartitions, "Partitions of topics that leave it open.")
	add("socket.request.max.bytes", topicconfig.Int, c.ProduceBytesMax, "Size of the largest request.")
	return list
}

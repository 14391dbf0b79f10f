package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
)

// AlterConfigs (33), versions 0 to 2: what IncrementalAlterConfigs came to replace. The configs given are all that the
// resource has afterwards; what is not named goes back to its default. So two tools that alter one topic undo each other's
// work, as they do with Kafka.

func (s *Server) replaceConfigs(ctx context.Context, req *kmsg.AlterConfigsRequest) *kmsg.AlterConfigsResponse {
	named := make([]configResource, len(req.Resources))
	for i, r := range req.Resources {
		named[i] = configResource{r.ResourceType, r.ResourceName}
	}
	res := kmsg.NewPtrAlterConfigsResponse()
	res.Version = req.Version
	s.alterEach(ctx, named, func(ctx context.Context, i int) *refusal {
		return s.replaceConfigsOf(ctx, &req.Resources[i], req.ValidateOnly)
	}, func(i int, no *refusal) {
		rr := kmsg.NewAlterConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = named[i].kind, named[i].name
		rr.ErrorCode, rr.ErrorMessage = s.tell(keyAlterConfigs, no)
		res.Resources = append(res.Resources, rr)
	})
	return res
}

func (s *Server) replaceConfigsOf(ctx context.Context, r *kmsg.AlterConfigsRequestResource, validateOnly bool) *refusal {
	of, no := s.configurable(r.ResourceType, r.ResourceName)
	if no != nil {
		return no
	}
	op := &entry.AlterConfigs{ResourceType: uint32(r.ResourceType), ResourceName: r.ResourceName, ReplaceAll: true}
	var after []entry.Config
	for i := range r.Configs {
		c := &r.Configs[i]
		switch {
		case c.Value == nil:
			return refused(codeInvalidRequest, "null value for %s", c.Name)
		case slices.ContainsFunc(after, func(have entry.Config) bool { return have.Name == c.Name }):
			return refused(codeInvalidRequest, "%s is given twice", c.Name)
		}
		if err := of.check(c.Name, *c.Value); err != nil {
			return refused(codeInvalidConfig, "%v", err)
		}
		op.Changes = append(op.Changes, entry.ConfigChange{Name: c.Name, Kind: entry.ConfigSet, Value: *c.Value})
		after = append(after, entry.Config{Name: c.Name, Value: *c.Value})
	}
	if no := s.checkWhole(&of, after); no != nil {
		return no
	}
	if validateOnly {
		return nil
	}
	return s.propose(ctx, op)
}

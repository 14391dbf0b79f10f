package kafka

import (
	"context"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// ListConfigResources (74), versions 0 and 1: the names of what has configs. Version 0 knows only subscriptions of client
// metrics, of which there are none, nor are there configs of groups.

// configResourceTypes are the types that may be asked for, in the order in which they are listed where none is named.
var configResourceTypes = [...]kmsg.ConfigResourceType{
	kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger,
	kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig,
}

func (s *Server) listConfigResources(
	ctx context.Context, who audience, req *kmsg.ListConfigResourcesRequest,
) *kmsg.ListConfigResourcesResponse {
	res := kmsg.NewPtrListConfigResourcesResponse()
	res.Version = req.Version
	asked := func(t kmsg.ConfigResourceType) bool {
		if req.Version == 0 {
			return t == kmsg.ConfigResourceTypeClientMetrics
		}
		return len(req.ResourceTypes) == 0 || slices.Contains(req.ResourceTypes, int8(t))
	}
	unknown := slices.ContainsFunc(req.ResourceTypes, func(t int8) bool {
		return !slices.Contains(configResourceTypes[:], kmsg.ConfigResourceType(t))
	})
	switch {
	case unknown:
		res.ErrorCode = int16(codeUnsupportedVersion)
	case s.barrier(ctx) != nil:
		res.ErrorCode = int16(codeRequestTimedOut)
	}
	if res.ErrorCode != 0 {
		s.cfg.Metrics.failed(keyListConfigResources, errorCode(res.ErrorCode))
		return res
	}
	add := func(t kmsg.ConfigResourceType, name string) {
		r := kmsg.NewListConfigResourcesResponseConfigResource()
		r.Type, r.Name = int8(t), name
		res.ConfigResources = append(res.ConfigResources, r)
	}
	s.meta.View(func(st *state.State) {
		if asked(kmsg.ConfigResourceTypeTopic) {
			for t := range st.Topics() {
				add(kmsg.ConfigResourceTypeTopic, t.Name)
			}
		}
		for _, t := range []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger} {
			if !asked(t) {
				continue
			}
			for _, n := range who.nodes(st) {
				add(t, strconv.Itoa(int(n.id)))
			}
		}
	})
	return res
}

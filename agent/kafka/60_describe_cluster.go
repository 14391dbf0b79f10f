package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// DescribeCluster (60), versions 0 to 2. There are brokers to describe, but no controllers of their own.

const endpointBrokers = 1

func (s *Server) describeCluster(ctx context.Context, who audience, req *kmsg.DescribeClusterRequest) *kmsg.DescribeClusterResponse {
	res := kmsg.NewPtrDescribeClusterResponse()
	res.Version = req.Version
	res.ClusterAuthorizedOperations = operations(req.IncludeClusterAuthorizedOperations, clusterOperations)
	res.ClusterID, res.ControllerID = s.meta.ClusterID(), -1
	if req.Version >= 1 {
		res.EndpointType = req.EndpointType
		if req.EndpointType != endpointBrokers {
			why := "only brokers are described here"
			res.ErrorCode, res.ErrorMessage = int16(codeUnsupportedEndpoint), &why
			s.cfg.Metrics.failed(keyDescribeCluster, codeUnsupportedEndpoint)
			return res
		}
	}
	if err := s.barrier(ctx); err != nil { // who was live last is an answer too
		s.cfg.Logger.Debug("describing the cluster without a barrier", "error", err)
	}
	var nodes []node
	s.meta.View(func(st *state.State) { nodes = who.nodes(st) })
	res.ControllerID = controller(nodes)
	for i := range nodes {
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = nodes[i].id, nodes[i].host, nodes[i].port, nodes[i].rack()
		res.Brokers = append(res.Brokers, b)
	}
	return res
}

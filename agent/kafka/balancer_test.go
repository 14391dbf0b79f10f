package kafka_test

import (
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/metastore/entry"
)

// others are the other agents' servers, by node id.
type others map[int32]*kafka.Server

var errNobody = errors.New("nobody there")

func (o others) Forward(ctx context.Context, node int32, q peer.Request) ([]byte, error) {
	s := o[node]
	if s == nil {
		return nil, errNobody
	}
	return s.Forwarded(ctx, peer.Forwarded{Frame: append([]byte(nil), q.Frame...), Release: func() {}, Client: q.Client, Listener: q.Listener})
}

// behind puts a server behind a load balancer.
func behind(o others) func(*kafka.Config) {
	return func(c *kafka.Config) {
		c.Balancer, c.Peers = []entry.Listener{{Name: "kafka", Host: "lb", Port: 9999}}, o
	}
}

// Behind a load balancer clients see one broker, which leads everything.
func TestBehindALoadBalancerThereIsOneBroker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		a.topic("t", 6)
		a.topic("u", 3)
		for _, who := range []*agent{a, b} {
			cl := dial(t, server(t, who, behind(nil)))
			for _, version := range []int16{0, 13} {
				req := kmsg.NewPtrMetadataRequest()
				req.Version, req.Topics = version, nil
				m := ask[*kmsg.MetadataResponse](cl, req)
				if len(m.Brokers) != 1 || m.Brokers[0].NodeID != 0 || m.Brokers[0].Host != "lb" || m.Brokers[0].Port != 9999 || m.Brokers[0].Rack != nil {
					t.Errorf("brokers %+v", m.Brokers)
				}
				if version > 0 && m.ControllerID != 0 {
					t.Errorf("controller %d", m.ControllerID)
				}
				for _, topic := range m.Topics {
					for _, p := range topic.Partitions {
						if p.Leader != 0 || len(p.Replicas) != 1 || p.Replicas[0] != 0 || p.ErrorCode != 0 {
							t.Errorf("partition %+v", p)
						}
					}
				}
			}
			cluster := kmsg.NewPtrDescribeClusterRequest()
			cluster.Version, cluster.EndpointType = 2, 1
			if d := ask[*kmsg.DescribeClusterResponse](cl, cluster); len(d.Brokers) != 1 || d.Brokers[0].NodeID != 0 || d.Brokers[0].Host != "lb" || d.ControllerID != 0 {
				t.Errorf("cluster %+v", d)
			}
			topics := kmsg.NewPtrDescribeTopicPartitionsRequest()
			topics.ResponsePartitionLimit = 100
			d := ask[*kmsg.DescribeTopicPartitionsResponse](cl, topics)
			if len(d.Topics) != 2 || d.Topics[0].Partitions[5].LeaderID != 0 {
				t.Errorf("topics %+v", d.Topics)
			}
			for _, version := range []int16{0, 6} {
				find := kmsg.NewPtrFindCoordinatorRequest()
				find.Version, find.CoordinatorKey, find.CoordinatorKeys = version, "g", []string{"g"}
				f := ask[*kmsg.FindCoordinatorResponse](cl, find)
				if version > 0 {
					f.NodeID, f.Host, f.Port, f.ErrorCode = f.Coordinators[0].NodeID, f.Coordinators[0].Host, f.Coordinators[0].Port, f.Coordinators[0].ErrorCode
				}
				if f.NodeID != 0 || f.Host != "lb" || f.Port != 9999 || f.ErrorCode != 0 {
					t.Errorf("coordinator %+v", f)
				}
			}
			// There is one broker to ask, so each agent tells of all partitions.
			dirs := kmsg.NewPtrDescribeLogDirsRequest()
			dirs.Version = 4
			count := 0
			for _, topic := range ask[*kmsg.DescribeLogDirsResponse](cl, dirs).Dirs[0].Topics {
				count += len(topic.Partitions)
			}
			if count != 9 {
				t.Errorf("agent %d tells the sizes of %d partitions of 9", who.nodeID, count)
			}
		}
	})
}

func TestABalancerNeedsPeers(t *testing.T) {
	cfg := kafka.Config{Balancer: []entry.Listener{{Name: "kafka", Host: "lb", Port: 1}}}
	if err := cfg.Validate(); err == nil {
		t.Error("agents that cannot pass requests on are let behind a load balancer")
	}
}

package kafka_test

import (
	"net"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// come connects by the listener of a name.
func come(t *testing.T, listen func(name string, ln net.Listener), name string) *client {
	t.Helper()
	ln := newPipeListener()
	listen(name, ln)
	nc := ln.dial()
	c := &client{t: t, nc: nc, out: make(chan []byte, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := range c.out {
			_, _ = nc.Write(b)
		}
	}()
	t.Cleanup(func() { c.close(); <-done })
	return c
}

// Clients are given the addresses of the listener that they came by, and agents without one are left out.
func TestListenersGiveOutTheirOwnAddresses(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a") // has "kafka" and "other"
		lone := &agent{cluster: cl, incarnation: [16]byte{99}, st: newState(), subs: make(map[*subscription]bool)}
		cl.mu.Lock()
		cl.agents = append(cl.agents, lone)
		cl.mu.Unlock()
		lone.nodeID = cl.commit(lone.incarnation, &entry.Join{
			Name: "lone", MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Name: "kafka", Host: "lone", Port: 9092}},
		}).NodeID
		cl.coordinate(a)
		a.topic("t", 20)
		s := server(t, a)
		listen := func(name string, ln net.Listener) { go func() { _ = s.Serve(name, ln) }() }
		for _, tc := range []struct {
			listener string
			ids      []int32
			hosts    []string
			port     int32
		}{
			{"kafka", []int32{1, 2}, []string{"a", "lone"}, 9092},
			{"other", []int32{1}, []string{"not-a"}, 1},
			{"nobody's", nil, nil, 0},
		} {
			c := come(t, listen, tc.listener)
			req := kmsg.NewPtrMetadataRequest()
			req.Version = 12
			meta := ask[*kmsg.MetadataResponse](c, req)
			var ids []int32
			var hosts []string
			for _, b := range meta.Brokers {
				ids, hosts = append(ids, b.NodeID), append(hosts, b.Host)
				if b.Port != tc.port {
					t.Errorf("%s: port %d", tc.listener, b.Port)
				}
			}
			if !slices.Equal(ids, tc.ids) || !slices.Equal(hosts, tc.hosts) {
				t.Errorf("%s: brokers %v at %v", tc.listener, ids, hosts)
			}
			for _, p := range meta.Topics[0].Partitions {
				if len(ids) > 0 && !slices.Contains(ids, p.Leader) || len(ids) == 0 && p.Leader != -1 {
					t.Errorf("%s: partition %d is led by %d", tc.listener, p.Partition, p.Leader)
				}
			}
			described := kmsg.NewPtrDescribeTopicPartitionsRequest()
			described.ResponsePartitionLimit = 100
			pages := ask[*kmsg.DescribeTopicPartitionsResponse](c, described)
			for i, p := range pages.Topics[0].Partitions {
				if p.LeaderID != meta.Topics[0].Partitions[i].Leader {
					t.Errorf("%s: partition %d is led by %d in one answer and %d in another", tc.listener, i, p.LeaderID, meta.Topics[0].Partitions[i].Leader)
				}
			}
			cluster := ask[*kmsg.DescribeClusterResponse](c, kmsg.NewPtrDescribeClusterRequest())
			var of []string
			for _, b := range cluster.Brokers {
				of = append(of, b.Host)
			}
			if !slices.Equal(of, tc.hosts) {
				t.Errorf("%s: the cluster is %v", tc.listener, of)
			}
			find := kmsg.NewPtrFindCoordinatorRequest()
			find.Version, find.CoordinatorKeys = 4, []string{"g"}
			found := ask[*kmsg.FindCoordinatorResponse](c, find).Coordinators[0]
			if ok := slices.Contains(tc.hosts, found.Host); ok != (len(ids) > 0) || ok != (found.ErrorCode == 0) {
				t.Errorf("%s: coordinator %+v", tc.listener, found)
			}
		}
	})
}

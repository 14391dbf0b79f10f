package kafka_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
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
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		c.coordinate(a, b)
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
				who.unsure.Store(version == 6) // it is the load balancer's to find another agent
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
			who.unsure.Store(false)
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

// groupRequests are requests of every API that is passed on, in its oldest and its newest version, about these groups.
func groupRequests(t *testing.T, id entry.UUID, groups ...string) (list []kmsg.Request) {
	t.Helper()
	add := func(make func(version int16) kmsg.Request) {
		low, high, ok := kafka.VersionsOf(make(0).Key())
		if !ok {
			return // not served yet
		}
		for _, version := range []int16{low, high} {
			req := make(version)
			req.SetVersion(version)
			list = append(list, req)
		}
	}
	add(func(int16) kmsg.Request {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group = groups[0]
		topic := kmsg.NewOffsetCommitRequestTopic()
		topic.Topic, topic.TopicID = "t", id
		topic.Partitions = append(topic.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
		req.Topics = append(req.Topics, topic)
		return req
	})
	add(func(version int16) kmsg.Request {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Group = groups[0]
		if version < 8 {
			req.Topics = append(req.Topics, kmsg.OffsetFetchRequestTopic{Topic: "t", Partitions: []int32{0}})
		}
		for _, g := range groups {
			of := kmsg.NewOffsetFetchRequestGroup()
			of.Group = g
			req.Groups = append(req.Groups, of)
		}
		return req
	})
	add(func(version int16) kmsg.Request { r := joinRequest(version, ""); r.Group = groups[0]; return r })
	add(func(int16) kmsg.Request { r := kmsg.NewPtrHeartbeatRequest(); r.Group = groups[0]; return r })
	add(func(int16) kmsg.Request {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group = groups[0]
		req.Members = append(req.Members, kmsg.NewLeaveGroupRequestMember())
		return req
	})
	add(func(int16) kmsg.Request {
		req := kmsg.NewPtrSyncGroupRequest()
		req.Group, req.ProtocolType, req.Protocol = groups[0], kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
		return req
	})
	add(func(int16) kmsg.Request { r := kmsg.NewPtrDescribeGroupsRequest(); r.Groups = groups; return r })
	add(func(int16) kmsg.Request { r := kmsg.NewPtrDeleteGroupsRequest(); r.Groups = groups; return r })
	add(func(int16) kmsg.Request {
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = groups[0]
		topic := kmsg.NewOffsetDeleteRequestTopic()
		topic.Topic = "t"
		topic.Partitions = append(topic.Partitions, kmsg.NewOffsetDeleteRequestTopicPartition())
		req.Topics = append(req.Topics, topic)
		return req
	})
	add(func(int16) kmsg.Request {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Group, req.MemberID, req.RebalanceTimeoutMillis = groups[0], "AAAAAAAAAAAAAAAAAAAAAA", 1000
		req.SubscribedTopicNames, req.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		return req
	})
	add(func(int16) kmsg.Request { r := kmsg.NewPtrConsumerGroupDescribeRequest(); r.Groups = groups; return r })
	add(func(int16) kmsg.Request { return kmsg.NewPtrListGroupsRequest() })
	return list
}

// codesOf finds all error codes in an answer.
func codesOf(v reflect.Value) (codes []int16) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			codes = codesOf(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			codes = append(codes, codesOf(v.Index(i))...)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "ErrorCode" {
				codes = append(codes, int16(v.Field(i).Int()))
			} else if v.Type().Field(i).IsExported() {
				codes = append(codes, codesOf(v.Field(i))...)
			}
		}
	}
	return codes
}

// again reports whether a code makes clients look for the coordinator, or ask again.
func again(code int16) bool { return code == 14 || code == 15 || code == 16 }

// Of a coordinator that has just died, clients are told so in the shape of their request's version; the connection stays.
func TestRequestsForAnAgentThatDied(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		id := a.topic("t", 1)
		c.coordinate(b)
		cl := dial(t, server(t, a, behind(others{})))
		for _, req := range groupRequests(t, id, "g", "h") {
			res := cl.receive(cl.send(req), req)
			codes := codesOf(reflect.ValueOf(res))
			failed := slices.DeleteFunc(slices.Clone(codes), func(code int16) bool { return code == 0 })
			if len(failed) == 0 || slices.ContainsFunc(failed, func(code int16) bool { return !again(code) }) {
				t.Errorf("%s version %d: codes %v", kmsg.NameForKey(req.Key()), req.GetVersion(), codes)
			}
		}
	})
}

// tallied counts what is passed on.
type tallied struct {
	others
	n atomic.Int32
}

func (c *tallied) Forward(ctx context.Context, node int32, q peer.Request) ([]byte, error) {
	c.n.Add(1)
	return c.others.Forward(ctx, node, q)
}

// Two agents that each believe in the other pass a request on once: the second answers that it does not coordinate the group.
func TestRequestsArePassedOnOnce(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		id := a.topic("t", 1)
		c.coordinate(a)
		b.ctlMu.Lock()
		b.behind = true // and believes in a
		b.ctlMu.Unlock()
		for i := range state.Slots {
			c.commit(a.incarnation, &entry.ClaimSlot{Slot: uint32(i), Epoch: a.slotEpoch(i), Owner: b.incarnation})
		}
		fromA, fromB := &tallied{others: others{}}, &tallied{others: others{}}
		tune := func(o Peers) func(*kafka.Config) {
			return func(c *kafka.Config) { behind(nil)(c); c.Peers = o }
		}
		sa, sb := server(t, a, tune(fromA)), server(t, b, tune(fromB))
		fromA.others[b.nodeID], fromB.others[a.nodeID] = sb, sa
		cl := dial(t, sa)
		for _, req := range groupRequests(t, id, "g") {
			if req.Key() == int16(kmsg.ListGroups) || barriers(req) {
				continue // takes a barrier, after which b knows better
			}
			fromA.n.Store(0)
			fromB.n.Store(0)
			res := cl.receive(cl.send(req), req)
			codes := codesOf(reflect.ValueOf(res))
			if len(codes) == 0 || !slices.ContainsFunc(codes, again) || fromA.n.Load() != 1 || fromB.n.Load() != 0 {
				t.Errorf("%s version %d: codes %v, passed on %d and %d times", kmsg.NameForKey(req.Key()), req.GetVersion(), codes, fromA.n.Load(), fromB.n.Load())
			}
		}
	})
}

// Peers is what a server needs of peer.Client.
type Peers = kafka.Peers

// barriers reports whether serving req takes a read barrier.
func barriers(req kmsg.Request) bool {
	switch req.(type) {
	case *kmsg.HeartbeatRequest, *kmsg.JoinGroupRequest, *kmsg.SyncGroupRequest, *kmsg.LeaveGroupRequest:
		return false
	}
	return true
}

// slotEpoch is a slot's coordinator epoch as the agent knows it.
func (a *agent) slotEpoch(i int) (epoch uint64) {
	a.View(func(st *state.State) { epoch = st.Slot(i).Epoch })
	return epoch
}

// What is not another agent's to answer is not answered for it.
func TestForwardedRefusesWhatIsNotPassedOn(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		s := server(t, c.join("a"), behind(others{}))
		frame := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrMetadataRequest(), 1)[4:]
		for what, b := range map[string][]byte{"metadata": frame, "nothing": nil, "garbage": []byte("\x00\x0c\x00\x04garbage")} {
			released := 0
			if _, err := s.Forwarded(t.Context(), peer.Forwarded{Frame: b, Release: func() { released++ }}); err == nil || released != 1 {
				t.Errorf("%s: %v, released %d times", what, err, released)
			}
		}
		s.Close()
		if _, err := s.Forwarded(t.Context(), peer.Forwarded{Frame: frame, Release: func() {}}); !errors.Is(err, peer.ErrDraining) {
			t.Errorf("closed: %v", err)
		}
	})
}

// A join that waits at another agent ends with its client, and with this agent's service.
func TestAJoinThatWaitsElsewhere(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.join("a"), c.join("b")
		c.coordinate(b)
		hang := &hanging{began: make(chan struct{}, 1), ended: make(chan struct{}, 1)}
		s := server(t, a, func(c *kafka.Config) { behind(nil)(c); c.Peers = hang })
		gone := dial(t, s)
		gone.send(joinRequest(9, "m"))
		<-hang.began
		gone.close()
		<-hang.ended
		cl := dial(t, s)
		req := joinRequest(9, "m")
		id := cl.send(req)
		<-hang.began
		go func() { _ = s.Drain(t.Context()) }()
		<-hang.ended
		if res, _ := cl.receive(id, req).(*kmsg.JoinGroupResponse); !again(res.ErrorCode) {
			t.Errorf("code %d", res.ErrorCode)
		}
	})
}

// hanging answers nothing.
type hanging struct{ began, ended chan struct{} }

func (h *hanging) Forward(ctx context.Context, _ int32, _ peer.Request) ([]byte, error) {
	h.began <- struct{}{}
	<-ctx.Done()
	h.ended <- struct{}{}
	return nil, context.Cause(ctx)
}

package kafka_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
)

func TestZonesInClientIDs(t *testing.T) {
	for id, want := range map[string]string{
		"":                         "",
		"app":                      "",
		"warpstream_az=us-east-1a": "us-east-1a",
		"app,ws_az=a":              "a",
		"ws_az=a,app":              "a",
		"ws_pas=equal_spread,warpstream_az=b,ws_pt=proxy-produce":       "b",
		"automq_type=producer&automq_role=p-1&automq_az=us-east-1a&p-1": "us-east-1a",
		"automq_az=eu%2F1a":                "eu/1a",
		"automq_az=%zz":                    "%zz",
		"my-producer,diskless_az=use1-az1": "use1-az1",
		"aaa=bbb, inkless_az=az1":          "az1",
		"loadtest;inkless_az=az2":          "az2",
		"my-client-id,zone=us-west-2b":     "us-west-2b",
		"label.foo=bar,zone=x,label.b=c":   "x",
		"zone=":                            "",
		"zone=,ws_az=a":                    "a",
		"ozone=a":                          "",
		"ZONE=a":                           "",
		"ws_az=a,zone=b":                   "a",
		"host=h,broker=2":                  "",
	} {
		if got := kafka.ZoneOfClientID(id); got != want {
			t.Errorf("%q is in zone %q, want %q", id, got, want)
		}
	}
}

// fleet is agents of three zones, four in each.
func fleet() (nodes []kafka.Node) {
	for id := int32(1); id <= 12; id++ {
		nodes = append(nodes, kafka.Node{ID: id, Zone: []string{"a", "b", "c"}[(id-1)%3]})
	}
	return nodes
}

func without(nodes []kafka.Node, id int32) []kafka.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n kafka.Node) bool { return n.ID == id })
}

func TestLeadersLieInTheZoneOfTheClient(t *testing.T) {
	const partitions = 6000
	nodes := fleet()
	for _, zone := range []string{"a", "b", "c", "", "elsewhere"} {
		leaders, _ := kafka.Placement(nodes, zone, partitions, 1)
		led := make(map[int32]int)
		for _, id := range leaders {
			led[id]++
		}
		most := 4
		if zone == "" || zone == "elsewhere" {
			most = 12
		}
		if len(led) != most {
			t.Errorf("zone %q: %d agents lead", zone, len(led))
		}
		for id, n := range led {
			if in := nodes[id-1].Zone; most == 4 && in != zone {
				t.Errorf("zone %q: agent %d of zone %s leads %d partitions", zone, id, in, n)
			}
			if fair := partitions / most; n < fair*8/10 || n > fair*12/10 {
				t.Errorf("zone %q: agent %d leads %d partitions, %d would be fair", zone, id, n, fair)
			}
		}
	}
}

// Of the leaders only those move that must when agents come and go.
func TestLeadersStay(t *testing.T) {
	const partitions = 2000
	nodes := fleet()
	for _, zone := range []string{"a", "b", "c", ""} {
		with, _ := kafka.Placement(nodes, zone, partitions, 1)
		for _, gone := range nodes {
			less, _ := kafka.Placement(without(nodes, gone.ID), zone, partitions, 1)
			for p := range with {
				// Read backwards: an agent that comes takes partitions, and none changes between the others.
				if with[p] != gone.ID && with[p] != less[p] {
					t.Fatalf("zone %q: partition %d moved from %d to %d when %d left", zone, p, with[p], less[p], gone.ID)
				}
			}
		}
	}
	// A zone that loses its last agent is led by all others, and has its leaders back when one comes.
	alone := []kafka.Node{{1, "a"}, {2, "b"}, {3, "b"}}
	leaders, _ := kafka.Placement(without(alone, 1), "a", partitions, 1)
	nobodys, _ := kafka.Placement(without(alone, 1), "", partitions, 1)
	if !slices.Equal(leaders, nobodys) {
		t.Error("a zone without agents has leaders of its own")
	}
}

// Replicas are spread over zones, the leader first, and do not depend on who asks but for that.
func TestReplicasAreSpreadOverZones(t *testing.T) {
	nodes := fleet()
	for _, zone := range []string{"a", ""} {
		leaders, replicas := kafka.Placement(nodes, zone, 500, 3)
		for p, ids := range replicas {
			zones := make(map[string]bool)
			for _, id := range ids {
				zones[nodes[id-1].Zone] = true
			}
			if len(ids) != 3 || len(zones) != 3 || ids[0] != leaders[p] {
				t.Fatalf("zone %q: partition %d is led by %d and on %v", zone, p, leaders[p], ids)
			}
		}
		_, more := kafka.Placement(nodes, zone, 500, 7)
		for p := range more {
			if slices.Sort(more[p]); len(slices.Compact(more[p])) != 7 {
				t.Fatalf("zone %q: partition %d is on %v", zone, p, more[p])
			}
		}
	}
}

// asking sends requests under a client.id.
func asking(c *client, id string, req kmsg.Request) kmsg.Response {
	c.correlation++
	c.write(kmsg.NewRequestFormatter(kmsg.FormatterClientID(id)).AppendRequest(nil, req, c.correlation))
	return c.receive(c.correlation, req)
}

func TestMetadataNamesLeadersOfTheClientsZone(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a") // in zone-a
		cl.join("b")      // in zone-b
		a.topic("t", 40)
		s := server(t, a, behindBalancer, func(c *kafka.Config) {
			c.ClientZones = []kafka.ClientZone{
				{Network: netip.MustParsePrefix("10.0.0.0/8"), Zone: "zone-a"}, {Network: netip.MustParsePrefix("10.0.1.0/24"), Zone: "zone-b"},
				{Network: netip.MustParsePrefix("2001:db8::/32"), Zone: "zone-b"},
			}
		})
		for _, tc := range []struct {
			from, id string
			want     []int32
		}{
			{"192.0.2.1", "app", []int32{1, 2}},
			{"192.0.2.1", "app,diskless_az=zone-a", []int32{1}},
			{"192.0.2.1", "app,diskless_az=zone-b", []int32{2}},
			{"192.0.2.1", "app,diskless_az=zone-c", []int32{1, 2}},
			{"10.0.0.1", "app", []int32{1}},
			{"10.0.1.1", "app", []int32{2}},
			{"10.0.1.1", "app,ws_az=zone-a", []int32{1}},
			{"2001:db8::1", "app", []int32{2}},
			{balancer, "app", []int32{1, 2}}, // whose clients may be anywhere
		} {
			c := visit(t, s, tc.from)
			req := kmsg.NewPtrMetadataRequest()
			req.Version = 12
			meta, _ := asking(c, tc.id, req).(*kmsg.MetadataResponse)
			var led []int32
			for _, p := range meta.Topics[0].Partitions {
				led = append(led, p.Leader)
			}
			described := kmsg.NewPtrDescribeTopicPartitionsRequest()
			described.ResponsePartitionLimit = 100
			page, _ := asking(c, tc.id, described).(*kmsg.DescribeTopicPartitionsResponse)
			for i, p := range page.Topics[0].Partitions {
				if p.LeaderID != led[i] {
					t.Errorf("%s at %s: two answers differ", tc.id, tc.from)
				}
			}
			slices.Sort(led)
			if led = slices.Compact(led); !slices.Equal(led, tc.want) {
				t.Errorf("%s at %s is led by %v, want %v", tc.id, tc.from, led, tc.want)
			}
			for _, b := range meta.Brokers {
				if want := map[int32]string{1: "zone-a", 2: "zone-b"}[b.NodeID]; b.Rack == nil || *b.Rack != want {
					t.Errorf("broker %d is in rack %v", b.NodeID, b.Rack)
				}
			}
			find := kmsg.NewPtrFindCoordinatorRequest()
			find.Version, find.CoordinatorKeys = 4, []string{"g"}
			other, _ := asking(visit(t, s, "192.0.2.1"), "app", find).(*kmsg.FindCoordinatorResponse)
			if mine, _ := asking(c, tc.id, find).(*kmsg.FindCoordinatorResponse); mine.Coordinators[0].NodeID != other.Coordinators[0].NodeID {
				t.Errorf("%s at %s has a coordinator of its own", tc.id, tc.from)
			}
		}
	})
}

// A consumer that says in Fetch where it is is sent to a replica there, and served here where it comes back.
func TestConsumersAreSentToReplicasInTheirRack(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cl := newCluster(t)
		a := cl.join("a")
		cl.join("b")
		id := a.topic("t", 1)
		spread := a.replicated("spread", 2)
		s := server(t, a)
		dial(t, s).produce("t", 0, "x")
		dial(t, s).produce("spread", 0, "x")
		fetch := func(c *client, version int16, name string, topic [16]byte, rack string) (preferred int32, bytes int) {
			t.Helper()
			req := fetchRequest(version, name, topic, 0, 0)
			req.Rack = rack
			p := only(t, ask[*kmsg.FetchResponse](c, req))
			if p.ErrorCode != 0 || p.HighWatermark != 1 {
				t.Errorf("code %d, high watermark %d", p.ErrorCode, p.HighWatermark)
			}
			return p.PreferredReadReplica, len(p.RecordBatches)
		}
		for _, tc := range []struct {
			what, rack string
			topic      [16]byte
			version    int16
			want       int32
		}{
			{"with a replica there", "zone-b", spread, 13, 2},
			{"before topic ids", "zone-b", spread, 11, 2},
			{"before racks", "zone-b", spread, 10, -1},
			{"here", "zone-a", spread, 13, -1},
			{"nowhere", "", spread, 13, -1},
			{"where nobody is", "zone-c", spread, 13, -1},
		} {
			preferred, bytes := fetch(dial(t, s), tc.version, "spread", tc.topic, tc.rack)
			if tc.version < 11 {
				preferred = -1
			}
			if preferred != tc.want || (bytes == 0) != (tc.want >= 0) {
				t.Errorf("%s: sent to %d, with %d bytes of records", tc.what, preferred, bytes)
			}
		}
		// The one replica of the other topic is an agent by hashing: only who is elsewhere and has one near is sent on.
		meta := kmsg.NewPtrMetadataRequest()
		meta.Version = 12
		leader := int32(0)
		for _, rt := range ask[*kmsg.MetadataResponse](dial(t, s), meta).Topics {
			if *rt.Topic == "t" {
				leader = rt.Partitions[0].Leader
			}
		}
		if preferred, _ := fetch(dial(t, s), 13, "t", id, "zone-b"); (preferred == 2) != (leader == 2) {
			t.Errorf("one replica on %d: sent to %d", leader, preferred)
		}
		c := dial(t, s)
		if preferred, _ := fetch(c, 13, "spread", spread, "zone-b"); preferred != 2 {
			t.Error("not sent on")
		}
		time.Sleep(10 * time.Second)
		if preferred, bytes := fetch(c, 13, "spread", spread, "zone-b"); preferred != -1 || bytes == 0 {
			t.Errorf("who came back is sent to %d again, with %d bytes of records", preferred, bytes)
		}
		time.Sleep(time.Minute)
		if preferred, _ := fetch(c, 13, "spread", spread, "zone-b"); preferred != 2 {
			t.Error("not sent on for ever after")
		}
		// A long poll does not wait for records that are to be read elsewhere.
		start := time.Now()
		poll := fetchRequest(13, "", spread, 0, 1)
		poll.Rack, poll.MaxWaitMillis = "zone-b", 60_000
		if p := only(t, ask[*kmsg.FetchResponse](dial(t, s), poll)); p.PreferredReadReplica != 2 || time.Since(start) > 0 {
			t.Errorf("sent to %d after %v", p.PreferredReadReplica, time.Since(start))
		}
	})
}

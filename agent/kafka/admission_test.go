package kafka_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
)

// addressed is a pipe that comes from an address.
type addressed struct {
	net.Conn
	from net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }

// visit connects from an address, as Serve would accept it.
func visit(t testing.TB, s *kafka.Server, from string) *client {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &client{t: t, nc: ours, out: make(chan []byte, 1024)}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for b := range c.out {
			if _, err := ours.Write(b); err != nil {
				for range c.out {
				}
			}
		}
	}()
	t.Cleanup(func() {
		c.close()
		<-sent
	})
	s.Serving(addressed{theirs, &net.TCPAddr{IP: net.ParseIP(from), Port: 40_000}})
	return c
}

func (c *client) served() bool {
	if _, err := c.nc.Write(kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrMetadataRequest(), 1)); err != nil {
		return false
	}
	_, err := c.frame()
	return err == nil
}

func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"), func(c *kafka.Config) { c.ConnectionsPerAddress = 3 })
		var open []*client
		for range 3 {
			open = append(open, visit(t, s, "10.0.0.1"))
		}
		if visit(t, s, "10.0.0.1").served() {
			t.Error("a fourth connection of one address is served")
		}
		if !visit(t, s, "10.0.0.2").served() {
			t.Error("another address is not served")
		}
		for i := range 3 { // one network of IPv6 counts as one
			if got := visit(t, s, fmt.Sprintf("2001:db8::%d", i+1)); !got.served() {
				t.Error("an address of IPv6 is not served")
			}
		}
		if visit(t, s, "2001:db8::77").served() {
			t.Error("the fourth of one IPv6 network is served")
		}
		time.Sleep(2 * time.Second) // by now those that asked for nothing make room for one of their own address
		if !visit(t, s, "10.0.0.1").served() {
			t.Error("kept out by connections of its address that ask for nothing")
		}
		open[2].close()
		faketime.Wait()
		if !visit(t, s, "10.0.0.1").served() {
			t.Error("not served although another one has gone")
		}
	})
}

// Who connects and asks for nothing keeps nobody out.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		log := &lines{}
		s := server(t, newCluster(t).join("a"), logged(log), func(c *kafka.Config) { c.Connections = 10 })
		worker := visit(t, s, "10.0.0.1")
		if !worker.served() {
			t.Fatal("not served")
		}
		for range 9 {
			visit(t, s, "10.0.0.9")
		}
		if visit(t, s, "10.0.0.2").served() {
			t.Error("let in although all are young")
		}
		time.Sleep(2 * time.Second)
		for range 9 {
			if !visit(t, s, "10.0.0.2").served() {
				t.Error("kept out by connections that ask for nothing")
			}
		}
		if visit(t, s, "10.0.0.2").served() {
			t.Error("let in beyond the bound where all are in use")
		}
		if !worker.served() {
			t.Error("a connection in use was closed")
		}
		if got := log.take(); len(got) != 0 {
			t.Errorf("log: %q", got)
		}
	})
}

// More connections than the rate allows are served later, and other addresses notice nothing.
func TestConnectionsOfOneAddressArePaced(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"), func(c *kafka.Config) { c.AcceptsPerSecond = 10 })
		start := time.Now()
		var all []*client
		for range 30 {
			all = append(all, visit(t, s, "10.0.0.1"))
		}
		if !visit(t, s, "10.0.0.2").served() || time.Since(start) != 0 {
			t.Error("another address waits")
		}
		for i, c := range all {
			if !c.served() {
				t.Errorf("connection %d is not served", i)
			}
		}
		if took := time.Since(start); took < 1500*time.Millisecond || took > 2500*time.Millisecond {
			t.Errorf("30 connections at 10 a second, one second's worth at once, took %v", took)
		}
	})
}

// A large claim is worth nothing: who announces the largest request and sends no more of it holds up neither those who have
// sent as much before, nor a newcomer from elsewhere.
func TestHalfARequestHoldsNothingOthersNeed(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.ProduceBytesMax, c.RequestBytesMax, c.ConnectionInFlightBytes, c.InFlightBytes, c.StrangerBytes = 1<<20, 1<<20, 1<<20, 4<<20, 2<<20
			c.FrameTimeout = time.Hour
		})
		atWork := visit(t, s, "10.0.0.1")
		atWork.produce("t", 0, strings.Repeat("x", 900_000))
		for range 200 {
			c := visit(t, s, "10.0.0.1")
			half := make([]byte, 20_000)
			binary.BigEndian.PutUint32(half, 1<<20)
			c.write(half)
		}
		faketime.Wait()
		start := time.Now()
		atWork.produce("t", 0, strings.Repeat("x", 900_000))
		if took := time.Since(start); took != 0 {
			t.Errorf("a producer at work waited %v", took)
		}
		visit(t, s, "10.0.0.2").produce("t", 0, strings.Repeat("x", 400_000)) // fits what the other address cannot take
		if took := time.Since(start); took != 0 {
			t.Errorf("a new producer waited %v", took)
		}
	})
}

// Many producers whose first large requests come at once, and each in part, get through one after the other. Each holds some of
// what the others need.
func TestFirstLargeRequestsDoNotWaitForEachOther(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.ProduceBytesMax, c.RequestBytesMax, c.ConnectionInFlightBytes, c.InFlightBytes, c.StrangerBytes = 1<<20, 1<<20, 1<<20, 4<<20, 2<<20
		})
		req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", 900_000)))
		frame := kmsg.NewRequestFormatter().AppendRequest(nil, req, 0)
		producers := make([]*client, 12)
		for i := range producers {
			producers[i] = visit(t, s, "10.0.0.1")
			producers[i].write(frame[:300_000])
		}
		faketime.Wait()
		start := time.Now()
		for _, c := range producers {
			c.write(frame[300_000:])
		}
		for i, c := range producers {
			if res := c.receive(0, req).(*kmsg.ProduceResponse); res.Topics[0].Partitions[0].ErrorCode != 0 {
				t.Errorf("producer %d: code %d", i, res.Topics[0].Partitions[0].ErrorCode)
			}
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("they took %v", took)
		}
	})
}

// Who does not take answers holds memory only until somebody waits for it, and never all of it: another address is served as
// if nothing were.
func TestAnswersNotTakenHoldNothingOthersNeed(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.FetchBytesMax, c.FetchInFlightBytes, c.StallTimeout = 1<<20, 8<<20, time.Hour
		})
		visit(t, s, "10.0.0.1").produce("t", 0, strings.Repeat("x", 900_000))
		for range 20 {
			visit(t, s, "10.0.0.1").send(fetchRequest(13, "", id, 0, 0))
		}
		faketime.Wait()
		for address, most := range map[string]time.Duration{"10.0.0.2": 0, "10.0.0.1": time.Minute} {
			start := time.Now()
			if got := ask[*kmsg.FetchResponse](visit(t, s, address), fetchRequest(13, "", id, 0, 0)); len(got.Topics[0].Partitions[0].RecordBatches) < 900_000 {
				t.Error("nothing was fetched")
			}
			if took := time.Since(start); took > most {
				t.Errorf("a consumer at %s waited %v", address, took)
			}
		}
	})
}

// Long polls of many partitions end early where others wait for the memory that they hold.
func TestLongPollsMakeRoom(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 300)
		s := server(t, a, func(c *kafka.Config) { c.WorkBytes = 300_000 })
		for range 8 {
			req := fetchRequest(13, "", id, 0, 0)
			req.MaxWaitMillis = 300_000
			for p := int32(1); p < 300; p++ {
				addFetch(req, "", id, p, 0)
			}
			visit(t, s, "10.0.0.1").send(req)
		}
		faketime.Wait()
		start := time.Now()
		meta := kmsg.NewPtrMetadataRequest()
		meta.Version = 12
		if got := ask[*kmsg.MetadataResponse](visit(t, s, "10.0.0.1"), meta); len(got.Topics) != 1 {
			t.Error("no answer")
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("a client waited %v", took)
		}
	})
}

// The first request of a connection is small unless it brings records: clients of pinned versions begin with those.
func TestTheFirstRequestIsBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		log := &lines{}
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a, logged(log))
		large := kmsg.NewPtrMetadataRequest()
		large.Version, large.Topics = 12, []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr(strings.Repeat("x", 100_000))}}
		c := dial(t, s)
		c.send(large)
		c.closed()
		faketime.Wait()
		if got := log.take(); len(got) != 1 || !strings.Contains(got[0], "first request") {
			t.Errorf("log: %q", got)
		}
		c = dial(t, s)
		ask[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest())
		ask[*kmsg.MetadataResponse](c, large)
		c = dial(t, s) // at once, without waiting for the first answer
		c.send(kmsg.NewPtrApiVersionsRequest())
		c.send(large)
		for range 2 {
			if _, err := c.frame(); err != nil {
				t.Fatal(err)
			}
		}
		dial(t, s).produce("t", 0, strings.Repeat("x", 900_000))
		dial(t, s).send(produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x")))
	})
}

// What an idle connection takes: its goroutine's stack, its state, and no buffer.
func TestIdleConnectionsAreSmall(t *testing.T) {
	s := server(t, newCluster(t).join("a"))
	const n = 500
	var pipes []net.Conn
	got := allocated(func() {
		for range n {
			ours, theirs := net.Pipe()
			pipes = append(pipes, ours)
			s.Serving(theirs)
		}
	})
	for _, p := range pipes {
		_ = p.Close()
	}
	if each := got / n; each > 6<<10 {
		t.Errorf("%d bytes are allocated for a connection that does nothing", each)
	} else {
		t.Logf("%d bytes a connection", each)
	}
}

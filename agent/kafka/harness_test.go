package kafka_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a Server of one agent, closed with the test.
func server(t testing.TB, a *agent, tune ...func(*kafka.Config)) *kafka.Server {
	t.Helper()
	cfg := kafka.Config{}
	for _, f := range tune {
		f(&cfg)
	}
	s, err := kafka.New(cfg, a, a, a, groups(t, a))
	if err != nil {
		t.Fatal(err)
	}
	s.Poison()
	t.Cleanup(func() {
		s.Close()
		a.wg.Wait() // what was staged has been given back
		if !s.InFlight() || !s.FetchInFlight() || !s.Idle() {
			t.Error("bytes of a budget were not given back")
		}
	})
	return s
}

// groups is a coordinator that has not been started: it owns no slots.
func groups(t testing.TB, meta group.Meta) *group.Coordinator {
	t.Helper()
	c, err := group.New(group.Config{}, meta)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// client is one raw connection to a server.
type client struct {
	t           testing.TB
	nc          net.Conn
	correlation int32
	out         chan []byte // to the sender: net.Pipe has no buffer of its own
	end         sync.Once
}

// dial connects through a pipe.
func dial(t testing.TB, s *kafka.Server) *client {
	t.Helper()
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve1(theirs) })
	c := &client{t: t, nc: ours, out: make(chan []byte, 1024)}
	wg.Go(func() {
		for b := range c.out {
			if _, err := ours.Write(b); err != nil {
				for range c.out { // the server hung up; the test finds out by reading
				}
			}
		}
	})
	t.Cleanup(func() {
		c.close()
		wg.Wait()
	})
	return c
}

func (c *client) close() {
	c.end.Do(func() {
		close(c.out)
		_ = c.nc.Close()
	})
}

// write sends bytes without waiting for them to be taken.
func (c *client) write(b []byte) { c.out <- b }

// send writes a request and returns its correlation id.
func (c *client) send(req kmsg.Request) int32 {
	c.t.Helper()
	c.correlation++
	c.write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, c.correlation))
	return c.correlation
}

// frame reads one response.
func (c *client) frame() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.nc, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(c.nc, b)
	return b, err
}

// receive reads the response to req, which must be the next.
func (c *client) receive(correlation int32, req kmsg.Request) kmsg.Response {
	c.t.Helper()
	b, err := c.frame()
	if err != nil {
		c.t.Fatalf("no response to %T: %v", req, err)
	}
	if got := int32(binary.BigEndian.Uint32(b)); got != correlation {
		c.t.Fatalf("response to request %d, want %d", got, correlation)
	}
	b = b[4:]
	res := req.ResponseKind()
	if res.IsFlexible() && res.Key() != 18 {
		if b[0] != 0 {
			c.t.Fatalf("tags in the header of a response to %T", req)
		}
		b = b[1:]
	}
	if err := res.ReadFrom(b); err != nil {
		c.t.Fatalf("response to %T version %d does not decode: %v", req, req.GetVersion(), err)
	}
	// What decodes must also be all there is: kmsg does not mind bytes that are left over.
	if again := res.AppendTo(nil); len(again) != len(b) {
		c.t.Fatalf("response to %T version %d has %d bytes, %d expected", req, req.GetVersion(), len(b), len(again))
	}
	return res
}

// ask sends a request and reads its response.
func ask[R kmsg.Response](c *client, req kmsg.Request) R {
	c.t.Helper()
	res, ok := c.receive(c.send(req), req).(R)
	if !ok {
		c.t.Fatalf("response to %T has another type", req)
	}
	return res
}

// closed asserts that the server hangs up without a further response.
func (c *client) closed() {
	c.t.Helper()
	if b, err := c.frame(); err == nil {
		c.t.Fatalf("a response of %d bytes where the connection should close", len(b))
	}
}

// topic makes a topic.
func (a *agent) topic(name string, partitions uint32, configs ...entry.Config) entry.UUID {
	a.t.Helper()
	id := entry.UUID{0x42}
	copy(id[1:], name)
	res := a.commit(a.incarnation, &entry.CreateTopic{
		Name: name, ID: id, Partitions: partitions, ReplicationFactor: 1, Configs: configs,
	})
	if res.Code != state.OK {
		a.t.Fatalf("create topic %s: %v", name, res.Code)
	}
	return id
}

// replicated makes a topic of one partition with that many replicas.
func (a *agent) replicated(name string, replicas uint32) entry.UUID {
	a.t.Helper()
	id := entry.UUID{0x43}
	copy(id[1:], name)
	if res := a.commit(a.incarnation, &entry.CreateTopic{Name: name, ID: id, Partitions: 1, ReplicationFactor: replicas}); res.Code != state.OK {
		a.t.Fatalf("create topic %s: %v", name, res.Code)
	}
	return id
}

// records builds a batch of these values.
func records(t testing.TB, opts batch.BuildOptions, values ...string) []byte {
	t.Helper()
	b := batch.NewBuilder(opts)
	for i, v := range values {
		b.Add(time.Now().UnixMilli()+int64(i), []byte("key"), []byte(v))
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// valuesOf lists the values in fetched batches, and checks their CRCs and offsets.
func valuesOf(t testing.TB, raw []byte, from int64) (values []string, next int64) {
	t.Helper()
	next = from
	s := batch.Split(raw)
	for s.Next() {
		if err := batch.VerifyCRC(s.Raw()); err != nil {
			t.Fatal(err)
		}
		base := s.Header().BaseOffset
		if err := batch.Records(s.Raw(), batch.Limits{}, func(r batch.Record) error {
			if offset := base + int64(r.OffsetDelta); offset >= from {
				values = append(values, string(r.Value))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		next = base + s.Header().Span()
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return values, next
}

// produceRequest is a Produce of one batch.
func produceRequest(version int16, topic string, partition int32, raw []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, -1, 30_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, raw
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// produce stores a batch and returns its base offset.
func (c *client) produce(topic string, partition int32, values ...string) int64 {
	c.t.Helper()
	res := ask[*kmsg.ProduceResponse](c, produceRequest(9, topic, partition, records(c.t, batch.BuildOptions{}, values...)))
	p := res.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		c.t.Fatalf("produce: code %d %v", p.ErrorCode, p.ErrorMessage)
	}
	return p.BaseOffset
}

// fetchRequest is a Fetch of one partition.
func fetchRequest(version int16, name string, id entry.UUID, partition int32, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = version, 0, 1, 1<<20
	req.SessionEpoch = -1
	addFetch(req, name, id, partition, offset)
	return req
}

func addFetch(req *kmsg.FetchRequest, name string, id entry.UUID, partition int32, offset int64) {
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = name, id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
}

// ref names partition 0 of a topic.
func (a *agent) ref(name string) (ref state.PartitionRef) {
	a.stMu.RLock()
	defer a.stMu.RUnlock()
	ref.Topic = a.st.TopicByName(name).ID
	return ref
}

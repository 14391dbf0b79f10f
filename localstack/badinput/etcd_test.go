package badinput_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/mem"
)

// cable is a TCP proxy that can be cut, and led to another server.
type cable struct {
	net.Listener
	tasks sync.WaitGroup

	mu     sync.Mutex // guards the rest
	target string
	cut    bool
	conns  []net.Conn
}

func newCable(t *testing.T, s *etcdembed.Server) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &cable{Listener: l, target: strings.TrimPrefix(s.Endpoints()[0], "http://")}
	w.tasks.Go(w.accept)
	t.Cleanup(func() {
		_ = l.Close()
		w.set(true, "")
		w.tasks.Wait()
	})
	return w
}

func (w *cable) accept() {
	for {
		near, err := w.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		var far net.Conn
		if !w.cut {
			far, err = net.Dial("tcp", w.target)
		}
		if w.cut || err != nil {
			w.mu.Unlock()
			_ = near.Close()
			continue
		}
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		w.tasks.Go(func() { _, _ = io.Copy(far, near); _ = far.Close() })
		w.tasks.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
	}
}

// set cuts the cable or mends it, and with a server leads it there. What is connected is cut off.
func (w *cable) set(cut bool, target string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if target != "" {
		w.target = strings.TrimPrefix(target, "http://")
	}
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// etcd starts a server in this process.
func etcd(t *testing.T, o etcdembed.Options) *etcdembed.Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.UnsafeNoFsync = true
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := etcdembed.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// etcdLog opens the log at an endpoint.
func etcdLog(t *testing.T, endpoint string) *etcdlog.Log {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := etcdlog.Open(ctx, etcdlog.Options{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// overCable opens a cluster whose etcd is at the other end of a cable.
func overCable(t *testing.T, o etcdembed.Options) (*cluster, *cable, *etcdembed.Server) {
	t.Helper()
	s := etcd(t, o)
	w := newCable(t, s)
	return open(t, options{log: etcdLog(t, "http://"+w.Addr().String()), config: impatient}), w, s
}

// impatient makes an agent wait for less, and a test take less time.
func impatient(cfg *agent.Config) {
	cfg.BarrierTimeout, cfg.ProposeTimeout, cfg.ProduceTimeoutMin = time.Second, time.Second, 100*time.Millisecond
}

// request sends a request to the agent as it is: no client retries it.
func request[R kmsg.Response](c *cluster, cl *kgo.Client, req kmsg.Request) R {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := cl.Broker(int(c.agent.Metastore().NodeID())).Request(ctx, req)
	if err != nil {
		c.t.Fatalf("%s: %v", kmsg.NameForKey(req.Key()), err)
	}
	return res.(R)
}

// batchOf is one record batch of an idempotent producer.
func batchOf(t *testing.T, id int64, sequence int32, values ...string) []byte {
	t.Helper()
	b := batch.NewBuilder(batch.BuildOptions{Producer: &batch.Producer{ID: id, BaseSequence: sequence}})
	for _, v := range values {
		b.Add(time.Now().UnixMilli(), nil, []byte(v))
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// produceRaw sends a batch and returns the code and the offset that it got.
func (c *cluster) produceRaw(cl *kgo.Client, topic string, raw []byte, timeout time.Duration) (int16, int64) {
	c.t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(timeout.Milliseconds())
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	c.agent.Metastore().View(func(st *state.State) {
		if known := st.TopicByName(topic); known != nil {
			rt.TopicID = known.ID
		}
	})
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = raw
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	p := request[*kmsg.ProduceResponse](c, cl, req).Topics[0].Partitions[0]
	return p.ErrorCode, p.BaseOffset
}

// produceAll sends a batch to the first partition of each of several topics, in one request, and returns the codes that they got.
func (c *cluster) produceAll(cl *kgo.Client, raw map[string][]byte, timeout time.Duration) map[string]int16 {
	c.t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(timeout.Milliseconds())
	names := make(map[[16]byte]string)
	for topic, records := range raw {
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic = topic
		c.agent.Metastore().View(func(st *state.State) {
			if known := st.TopicByName(topic); known != nil {
				rt.TopicID = known.ID
			}
		})
		names[rt.TopicID] = topic
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = records
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
	}
	codes := make(map[string]int16)
	for _, rt := range request[*kmsg.ProduceResponse](c, cl, req).Topics {
		codes[names[rt.TopicID]] = rt.Partitions[0].ErrorCode
	}
	return codes
}

func (c *cluster) listEnd(cl *kgo.Client, topic string) (int16, int64) {
	c.t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Timestamp = -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	p := request[*kmsg.ListOffsetsResponse](c, cl, req).Topics[0].Partitions[0]
	return p.ErrorCode, p.Offset
}

func (c *cluster) createCode(cl *kgo.Client, topic string) int16 {
	c.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, 1, 1
	req.Topics = append(req.Topics, rt)
	return request[*kmsg.CreateTopicsResponse](c, cl, req).Topics[0].ErrorCode
}

// readAll reads a topic from its start with a new client.
func (c *cluster) readAll(topic string, want int) (values []string) {
	c.t.Helper()
	cl := c.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(0)}}), kgo.FetchMaxWait(100*time.Millisecond))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(values) < want {
		f := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			c.t.Fatalf("read %d of %d records of %s: %v", len(values), want, topic, f.Err())
		}
		for _, r := range f.Records() {
			values = append(values, string(r.Value))
		}
	}
	return values
}

func (c *cluster) health() (h agent.Health) {
	c.t.Helper()
	_, body := c.get("/readyz")
	if err := json.Unmarshal([]byte(body), &h); err != nil {
		c.t.Fatalf("%s: %v", body, err)
	}
	return h
}

// gauge reads one series of /metrics, as it is written there.
func (c *cluster) gauge(series string) float64 {
	c.t.Helper()
	_, body := c.get("/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				c.t.Fatal(err)
			}
			return v
		}
	}
	c.t.Fatalf("no series %s", series)
	return 0
}

// wantLines fails where the log has not exactly so many lines with these words.
func (c *cluster) wantLines(n int, words ...string) {
	c.t.Helper()
	if got := c.logs.with(words...); len(got) != n {
		c.t.Errorf("%d lines with %q, want %d; the log:\n%s", len(got), words, n, c.logs)
	}
}

// retriable are the codes that clients answer by trying again.
var retriable = map[int16]bool{codeLeaderNotAvailable: true, codeRequestTimedOut: true, codeOffsetNotAvailable: true}

const (
	codeLeaderNotAvailable = 5
	codeRequestTimedOut    = 7
	codeOffsetNotAvailable = 78
)

// outage checks what an agent does while etcd takes no writes, and reads are answered or not. It returns a batch that was sent
// meanwhile and may be in.
func (c *cluster) outage(cl *kgo.Client, reads bool, cause string) (raw []byte) {
	t := c.t
	t.Helper()
	until(t, "the agent says that etcd is out", func() bool { return strings.Contains(c.health().Degraded, "etcd: ") })
	until(t, "and why", func() bool { return strings.Contains(c.health().Degraded, cause) })
	if h := c.health(); !h.Ready {
		t.Errorf("not ready: %+v", h)
	}
	if v := c.gauge(`firn_agent_degraded{part="etcd"}`); v != 1 {
		t.Errorf("firn_agent_degraded is %v", v)
	}
	if got := c.readAll("known", 3); strings.Join(got, "") != "abc" {
		t.Errorf("known records: %q", got)
	}
	raw = batchOf(t, 900, 0, "during")
	if code, _ := c.produceRaw(cl, "known", raw, 200*time.Millisecond); code != codeRequestTimedOut {
		t.Errorf("a produce got code %d, want REQUEST_TIMED_OUT", code)
	}
	// However often it comes again, what it holds has a bound, and the connection serves on.
	for range 3 {
		if code, _ := c.produceRaw(cl, "known", raw, 200*time.Millisecond); code != codeRequestTimedOut {
			t.Errorf("a produce got code %d, want REQUEST_TIMED_OUT", code)
		}
	}
	if used, limit := c.gauge("firn_ingest_resident_bytes"), c.gauge("firn_ingest_resident_limit_bytes"); used > limit {
		t.Errorf("%v bytes are held, the bound is %v", used, limit)
	}
	code, end := c.listEnd(cl, "known")
	if reads && (code != 0 || end < 3) || !reads && !retriable[code] {
		t.Errorf("ListOffsets got code %d, offset %d", code, end)
	}
	if code := c.createCode(cl, "new"); !retriable[code] {
		t.Errorf("CreateTopics got code %d, which clients do not retry", code)
	}
	return raw
}

// recovered checks that all is as if nothing had been.
func (c *cluster) recovered(cl *kgo.Client, raw []byte) {
	t := c.t
	t.Helper()
	until(t, "nothing is degraded", func() bool { return c.health().Degraded == "" })
	var offset int64
	until(t, "the batch is acknowledged", func() bool {
		code, base := c.produceRaw(cl, "known", raw, 10*time.Second)
		if code != 0 && !retriable[code] {
			t.Fatalf("the batch got code %d", code)
		}
		offset = base
		return code == 0
	})
	if offset != 3 {
		t.Errorf("the batch is at offset %d, want 3", offset)
	}
	var end int64
	until(t, "the topic's end is told", func() (told bool) { // an impatient agent may say once more that it was late
		var code int16
		if code, end = c.listEnd(cl, "known"); code != 0 && !retriable[code] {
			t.Fatalf("ListOffsets got code %d", code)
		}
		return code == 0
	})
	if end != 4 {
		t.Errorf("the topic ends at %d: copies of the batch were taken", end)
	}
	until(t, "the recovery is told", func() bool { return len(c.logs.with("msg=recovered", "part=etcd")) > 0 })
	c.wantLines(1, "msg=degraded", "part=etcd")
	c.wantLines(1, "msg=recovered", "part=etcd")
	if v := c.gauge(`firn_agent_degraded{part="etcd"}`); v != 0 {
		t.Errorf("firn_agent_degraded is %v", v)
	}
}

// known makes a topic of three records and returns a client that has met the agent.
func (c *cluster) known() *kgo.Client {
	c.t.Helper()
	c.create("known", 1, nil)
	cl := c.client(kgo.RequestRetries(0))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, v := range []string{"a", "b", "c"} {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "known", Value: []byte(v)}).FirstErr(); err != nil {
			c.t.Fatal(err)
		}
	}
	return cl
}

func TestEtcdUnreachable(t *testing.T) {
	t.Parallel()
	c, w, _ := overCable(t, etcdembed.Options{})
	b := c.bystander(true)
	cl := c.known()
	w.set(true, "")
	raw := c.outage(cl, false, "etcd: ")
	w.set(false, "")
	c.recovered(cl, raw)
	b.check()
	if n := len(c.logs.with("level=")); n > 12 {
		t.Errorf("an outage made %d lines:\n%s", n, c.logs)
	}
}

// An etcd that answers nothing at all, on connections that stay up.
func TestEtcdSilent(t *testing.T) {
	t.Parallel()
	c := open(t, options{config: impatient})
	b := c.bystander(true)
	cl := c.known()
	c.way.SetFaults(memlog.Faults{Partitioned: true})
	raw := c.outage(cl, false, "no answer")
	c.way.SetFaults(memlog.Faults{})
	c.recovered(cl, raw)
	b.check()
}

func TestEtcdUnreachableAtTheStart(t *testing.T) {
	t.Parallel()
	s := etcd(t, etcdembed.Options{})
	w := newCable(t, s)
	w.set(true, "")
	endpoint := "http://" + w.Addr().String()
	_, err := etcdlog.Open(t.Context(), etcdlog.Options{Endpoints: []string{endpoint}, DialTimeout: time.Second})
	if !errors.Is(err, log.ErrUnavailable) || !strings.Contains(err.Error(), endpoint) {
		t.Errorf("open: %v", err)
	}
}

func TestEtcdFull(t *testing.T) {
	t.Parallel()
	c, _, s := overCable(t, etcdembed.Options{QuotaBytes: 16 << 20})
	b := c.bystander(true)
	cl := c.known()
	// Something else that lives in this etcd fills it.
	other, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	var full error
	for i := 0; full == nil && i < 64; i++ {
		_, full = other.Put(t.Context(), "other", strings.Repeat(strconv.Itoa(i%10), 1<<20))
	}
	if full == nil || !strings.Contains(full.Error(), "space") {
		t.Fatalf("etcd is not full: %v", full)
	}
	raw := c.outage(cl, true, "alarm disarm")
	c.wantLines(1, "msg=degraded", "part=etcd", "alarm disarm")

	// What docs/operations.md tells the operator to do, and a restart of an etcd inside firn does by itself.
	if err := s.MakeRoom(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.recovered(cl, raw)
	b.check()
}

// The registration lapses under an agent that was paused: it comes back under a new incarnation, and no client notices.
func TestLeaseExpiredByAPause(t *testing.T) {
	t.Parallel()
	c := open(t, options{})
	b := c.bystander(false)
	before, node := c.agent.Metastore().Incarnation(), c.agent.Metastore().NodeID()
	c.store.Expire(before)
	until(t, "a new incarnation has joined", func() bool {
		return c.agent.Metastore().Incarnation() != before && len(c.logs.with("joined the cluster")) == 2
	})
	if now := c.agent.Metastore().NodeID(); now != node {
		t.Errorf("node id %d, was %d", now, node)
	}
	b.check()
	c.wantLines(1, "session ended")
}

// out waits until the agent has left service and returns why.
func (c *cluster) out() string {
	c.t.Helper()
	until(c.t, "the agent leaves service", func() bool {
		select {
		case <-c.agent.Failed():
			return true
		default:
			return false
		}
	})
	if status, body := c.get("/readyz"); status != 503 {
		c.t.Errorf("/readyz says %d: %s", status, body)
	}
	if status, _ := c.get("/healthz"); status != 200 {
		c.t.Errorf("/healthz says %d", status)
	}
	c.wantLines(1, "agent leaves service")
	return c.agent.Err().Error()
}

func TestEtcdOfAnotherClusterAtTheStart(t *testing.T) {
	t.Parallel()
	bucket := mem.New()
	t.Cleanup(func() { _ = bucket.Close() })
	c := open(t, options{log: etcdLog(t, etcd(t, etcdembed.Options{}).Endpoints()[0]), bucket: bucket})
	mine := c.agent.Metastore().Identity()
	c.stop()
	theirs := etcd(t, etcdembed.Options{}).Endpoints()[0]
	open(t, options{log: etcdLog(t, theirs)})
	c.options.log = etcdLog(t, theirs)
	err := c.start()
	if !errors.Is(err, metastore.ErrForeign) || !strings.Contains(err.Error(), fmt.Sprintf("%x", mine.ID)) {
		t.Fatalf("start: %v", err)
	}
	other, _ := c.options.log.Identity(t.Context())
	if !strings.Contains(err.Error(), fmt.Sprintf("%x", other.ID)) {
		t.Errorf("the error does not name both: %v", err)
	}
}

// Another cluster's etcd in the place of ours, with entries of its own under the numbers that come next: none is applied.
func TestEtcdSwappedWhileRunning(t *testing.T) {
	t.Parallel()
	c, w, _ := overCable(t, etcdembed.Options{})
	cl := c.known()
	applied := c.agent.Metastore().Applied()

	theirs := etcd(t, etcdembed.Options{})
	foreign := open(t, options{log: etcdLog(t, theirs.Endpoints()[0])})
	for i := range int(applied) + 20 {
		foreign.create(fmt.Sprintf("theirs-%d", i), 1, nil)
	}
	w.set(false, theirs.Endpoints()[0])
	why := c.out()
	if !strings.Contains(why, "another") {
		t.Errorf("it left because %s", why)
	}
	var names []string
	c.agent.Metastore().View(func(st *state.State) {
		for topic := range st.Topics() {
			names = append(names, topic.Name)
		}
	})
	if len(names) != 1 || names[0] != "known" {
		t.Errorf("topics: %v", names)
	}
	if code, _ := c.produceRaw(cl, "known", batchOf(t, 901, 0, "x"), time.Second); code == 0 {
		t.Error("a record was acknowledged")
	}
}

// etcd brought back from an older copy of its data, under the same address and the same cluster id.
func TestEtcdRolledBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := etcd(t, etcdembed.Options{Dir: dir})
	w := newCable(t, s)
	c := open(t, options{log: etcdLog(t, "http://"+w.Addr().String())})
	cl := c.known()

	// The copy is made while etcd is down, as the agent waits.
	w.set(true, "")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s = etcd(t, etcdembed.Options{Dir: dir})
	w.set(false, s.Endpoints()[0])
	until(t, "it is back", func() bool { return c.health().Degraded == "" })
	if code, _ := c.produceRaw(cl, "known", batchOf(t, 902, 0, "after the copy"), patience); code != 0 {
		t.Fatalf("code %d", code)
	}
	w.set(true, "")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	w.set(false, etcd(t, etcdembed.Options{Dir: old}).Endpoints()[0])
	if why := c.out(); !strings.Contains(why, "went back") {
		t.Errorf("it left because %s", why)
	}
	if got := c.health(); got.Ready {
		t.Errorf("ready: %+v", got)
	}
}

// Entries of n that another agent wrote are applied for ever; the bare identity check at the start is not enough where the bucket
// is empty but the log is not.
func TestEtcdWithoutItsIdentity(t *testing.T) {
	t.Parallel()
	c, _, s := overCable(t, etcdembed.Options{})
	c.known()
	other, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	if _, err := other.Delete(t.Context(), "/firn/main/meta"); err != nil {
		t.Fatal(err)
	}
	if why := c.out(); !strings.Contains(why, "identity") {
		t.Errorf("it left because %s", why)
	}
}

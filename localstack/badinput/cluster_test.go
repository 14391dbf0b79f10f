package badinput_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test. It is no claim about speed: a wait that runs out means that something never happens.
const patience = time.Minute

// options say what a cluster is made of; the zero value of each is the one that works.
type options struct {
	config func(*agent.Config)     // changes the agent's settings
	tune   func(*metastore.Config) // changes the metastore's
	log    log.Log                 // instead of one in memory; the test closes it
	bucket objstore.Bucket         // instead of one in memory; the test closes it
	disk   wal.FS                  // instead of one in memory
}

// cluster is one agent and what it stands on.
type cluster struct {
	t       *testing.T
	options options

	store  *memlog.Store   // nil with options.log
	way    *memlog.Log     // the agent's way to store: SetFaults
	inner  objstore.Bucket // what the bucket really holds
	bucket *faulty.Bucket  // what the agent sees of it: SetConfig
	disk   *walfs.FS       // nil with options.disk: SetFault
	logs   *lines

	agent *agent.Agent
	kafka string // host:port, the same after a restart
	http  string
}

// open starts an agent and ends it with the test.
func open(t *testing.T, o options) *cluster {
	t.Helper()
	c := &cluster{t: t, options: o, logs: &lines{}}
	if o.log == nil {
		c.store = memlog.NewStore(memlog.Config{})
		t.Cleanup(func() { _ = c.store.Close() })
	}
	c.inner = o.bucket
	if c.inner == nil {
		c.inner = mem.New()
		t.Cleanup(func() { _ = c.inner.Close() })
	}
	var err error
	// The decorator is not closed before its late effects are done, and closes what it decorates: keep that for the cleanup.
	if c.bucket, err = faulty.New(unclosed{c.inner}, rand.New(rand.NewPCG(1, 1)), faulty.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.bucket.Close() })
	if o.disk == nil {
		c.disk = walfs.New(rand.New(rand.NewPCG(2, 2)))
	}
	if err := c.start(); err != nil {
		t.Fatalf("start the agent: %v\n%s", err, c.logs)
	}
	t.Cleanup(func() { c.stop() })
	return c
}

type unclosed struct{ objstore.Bucket }

func (unclosed) Close() error { return nil }

// start runs an agent on what is there; the addresses stay.
func (c *cluster) start() error {
	kafka, err := listen(c.kafka)
	if err != nil {
		return err
	}
	admin, err := listen(c.http)
	if err != nil {
		_ = kafka.Close()
		return err
	}
	c.kafka, c.http = kafka.Addr().String(), admin.Addr().String()
	parts := agent.Components{
		Log: c.options.log, Bucket: c.bucket, FS: c.options.disk, WALDir: "/wal", Kafka: kafka, HTTP: admin,
		Logger: slog.New(slog.NewTextHandler(c.logs, &slog.HandlerOptions{Level: slog.LevelInfo})), Tune: c.options.tune,
	}
	if parts.Log == nil {
		c.way = c.store.Open("a1")
		parts.Log = c.way
	}
	if parts.FS == nil {
		parts.FS = c.disk
	} else {
		parts.WALDir = c.t.TempDir()
	}
	config := agent.Config{Name: "a1", Advertise: c.kafka, AutoCreateTopics: true, FlushInterval: 20 * time.Millisecond, DrainTimeout: 10 * time.Second}
	if c.options.config != nil {
		c.options.config(&config)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := agent.Start(ctx, config, parts)
	if err != nil {
		_ = kafka.Close()
		_ = admin.Close()
		if c.way != nil {
			_ = c.way.Close()
		}
		return err
	}
	c.agent = a
	return nil
}

// listen listens at an address that was listened at before, or at any. While nobody did, the kernel may have lent the port to somebody
// else: a connection of another test, say. It comes back.
func listen(address string) (l net.Listener, err error) {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		l, err = net.Listen("tcp", first(address, "127.0.0.1:0"))
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}

func first(have, otherwise string) string {
	if have != "" {
		return have
	}
	return otherwise
}

// stop drains the agent, if one runs.
func (c *cluster) stop() {
	if c.agent == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = c.agent.Drain(ctx)
	c.agent = nil
	if c.way != nil {
		_ = c.way.Close()
	}
}

// kill ends the agent as a crash would.
func (c *cluster) kill() {
	c.agent.Kill()
	c.agent = nil
	if c.way != nil {
		_ = c.way.Close()
	}
}

// client is a Kafka client that ends with the test.
func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.kafka), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// create makes a topic. An agent that does not wait for long may say that it was late, and have made it.
func (c *cluster) create(topic string, partitions int32, configs map[string]*string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	admin := kadm.NewClient(c.client())
	late := false
	until(c.t, "topic "+topic+" is made", func() bool {
		_, err := admin.CreateTopic(ctx, partitions, 1, configs, topic)
		switch {
		case kerr.IsRetriable(err):
			late = true
			return false
		case err != nil && !(late && errors.Is(err, kerr.TopicAlreadyExists)):
			c.t.Fatalf("create topic %s: %v", topic, err)
		}
		return true
	})
}

// dial opens a bare connection to the agent's Kafka port.
func (c *cluster) dial() net.Conn {
	c.t.Helper()
	nc, err := net.Dial("tcp", c.kafka)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	return nc
}

// get reads a page of the agent's HTTP.
func (c *cluster) get(path string) (status int, body string) {
	c.t.Helper()
	res, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + c.http + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode, b.String()
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// lines collects an agent's log.
type lines struct {
	mu   sync.Mutex // guards text
	text []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(b))
	return len(b), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.text, "")
}

// with returns the lines that hold every one of the words.
func (l *lines) with(words ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, line := range l.text {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}

// bystander is a client that minds its own business.
type bystander struct {
	c        *cluster
	patient  bool
	producer *kgo.Client
	consumer *kgo.Client
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu       sync.Mutex // guards the rest
	acked    int64      // records; the i-th has the value i
	read     int64
	findings []string
}

const bystanderTopic = "bystander"

// bystander starts one. A patient one takes errors that clients retry, and closed connections, as they come.
func (c *cluster) bystander(patient bool) *bystander {
	c.t.Helper()
	c.create(bystanderTopic, 1, nil)
	b := &bystander{c: c, patient: patient}
	shared := []kgo.Opt{kgo.SeedBrokers(c.kafka), kgo.MetadataMinAge(50 * time.Millisecond), kgo.WithHooks(b)}
	if !patient {
		shared = append(shared, kgo.RequestRetries(0), kgo.RecordRetries(0), kgo.KeepRetryableFetchErrors())
	} else {
		shared = append(shared, kgo.AlwaysRetryEOF()) // an agent that goes as it is connected to is no broker that wants TLS
	}
	var err error
	b.producer, err = kgo.NewClient(append(shared, kgo.DefaultProduceTopic(bystanderTopic), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(64))...)
	if err != nil {
		c.t.Fatal(err)
	}
	b.consumer, err = kgo.NewClient(append(shared, kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{bystanderTopic: {0: kgo.NewOffset().AtStart()}}))...)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.wg.Go(func() { b.produce(ctx) })
	b.wg.Go(func() { b.consume(ctx) })
	c.t.Cleanup(b.end)
	b.progress()
	return b
}

// OnBrokerDisconnect implements kgo.HookBrokerDisconnect.
func (b *bystander) OnBrokerDisconnect(meta kgo.BrokerMetadata, conn net.Conn) {
	b.mu.Lock()
	patient := b.patient
	b.mu.Unlock()
	if !patient {
		b.find("connection %s to broker %d was closed", conn.LocalAddr(), meta.NodeID)
	}
}

func (b *bystander) find(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.findings) < 20 {
		b.findings = append(b.findings, fmt.Sprintf(format, args...))
	}
}

// produce sends the numbers 0, 1, 2 … one after the other: the next when the one before is acknowledged.
func (b *bystander) produce(ctx context.Context) {
	for i := int64(0); ctx.Err() == nil; i++ {
		r, err := b.producer.ProduceSync(ctx, kgo.StringRecord(fmt.Sprintf("%d", i))).First()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			b.find("record %d was not acknowledged: %v", i, err)
			return
		case r.Offset != i:
			b.find("record %d was acknowledged at offset %d", i, r.Offset)
		}
		b.mu.Lock()
		b.acked = i + 1
		b.mu.Unlock()
	}
}

func (b *bystander) consume(ctx context.Context) {
	for next := int64(0); ctx.Err() == nil; {
		fetches := b.consumer.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.Canceled) {
				b.find("read: %v", e.Err)
				return
			}
		}
		for iter := fetches.RecordIter(); !iter.Done(); next++ {
			r := iter.Next()
			if r.Offset != next || string(r.Value) != fmt.Sprintf("%d", next) {
				b.find("record %q at offset %d was read where %d was due", r.Value, r.Offset, next)
				return
			}
		}
		b.mu.Lock()
		b.read = next
		b.mu.Unlock()
	}
}

// progress waits until records that were not yet sent at the call are acknowledged and read, or there is a finding.
func (b *bystander) progress() {
	b.c.t.Helper()
	b.mu.Lock()
	want := b.acked + 3
	b.mu.Unlock()
	until(b.c.t, "the bystander goes on", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.findings) > 0 || b.acked >= want && b.read >= want
	})
	b.report()
}

func (b *bystander) report() {
	b.c.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.findings {
		b.c.t.Errorf("bystander: %s", f)
	}
	if len(b.findings) > 0 {
		b.c.t.Fatalf("the bystander noticed something; the agent said:\n%s", b.c.logs)
	}
}

// check lets it go on once more, ends it, and fails the test where it noticed anything.
func (b *bystander) check() {
	b.c.t.Helper()
	b.progress()
	b.end()
	b.report()
}

// end stops it without looking; safe twice. The clients are closed before their goroutines are waited for: a record whose outcome is
// unknown does not go away with its context.
func (b *bystander) end() {
	b.mu.Lock()
	b.patient = true
	b.mu.Unlock()
	b.cancel()
	b.producer.Close()
	b.consumer.Close()
	b.wg.Wait()
}

package recovery_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/localstack/check"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/wal/walfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: reaching it means that something never happens.
const patience = time.Minute

const (
	topicName  = "history"
	partitions = 4
)

// cluster is some agents on an etcd and a bucket.
type cluster struct {
	t       *testing.T
	etcd    *etcdembed.Server
	bucket  *mem.Bucket
	agents  []*agent.Agent
	logs    []*etcdlog.Log
	addrs   []string // of the agents, the same after a restart
	archive time.Duration
	output  lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newCluster starts agents that archive every so often.
func newCluster(t *testing.T, agents int, archive time.Duration) *cluster {
	t.Helper()
	c := &cluster{t: t, bucket: mem.New(), archive: archive, addrs: make([]string, agents)}
	t.Cleanup(func() { _ = c.bucket.Close() })
	t.Cleanup(c.stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.output.String())
		}
	})
	c.newEtcd()
	c.start()
	return c
}

// newEtcd starts an empty etcd.
func (c *cluster) newEtcd() {
	c.t.Helper()
	var err error
	if c.etcd, err = etcdembed.Start(c.t.Context(), etcdembed.Options{Dir: c.t.TempDir(), UnsafeNoFsync: true}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) openLog() *etcdlog.Log {
	c.t.Helper()
	l, err := etcdlog.Open(c.t.Context(), etcdlog.Options{Endpoints: c.etcd.Endpoints(), Cluster: "test"})
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}

// start starts every agent.
func (c *cluster) start() {
	c.t.Helper()
	for i := range c.addrs {
		var kafka net.Listener
		until(c.t, "the agent's port is free", func() bool { // while nobody listened the kernel may have lent it to somebody else
			var err error
			if kafka, err = net.Listen("tcp", cmp.Or(c.addrs[i], "127.0.0.1:0")); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
				c.t.Fatal(err)
			}
			return err == nil
		})
		c.addrs[i] = kafka.Addr().String()
		l := c.openLog()
		c.logs = append(c.logs, l)
		a, err := agent.Start(c.t.Context(), agent.Config{
			Name: fmt.Sprint("a", i), Advertise: c.addrs[i], FlushInterval: 5 * time.Millisecond, DrainTimeout: patience,
		}, agent.Components{
			Log: l, Bucket: unclosed{c.bucket}, FS: walfs.New(rand.New(rand.NewPCG(1, uint64(i)))), WALDir: "/wal", Kafka: kafka,
			Logger: slog.New(slog.NewTextHandler(&c.output, nil)),
			Tune:   func(cfg *metastore.Config) { cfg.ArchiveInterval = c.archive },
		})
		if err != nil {
			c.t.Fatal(err)
		}
		c.agents = append(c.agents, a)
	}
}

type unclosed struct{ objstore.Bucket }

func (unclosed) Close() error { return nil }

// stop ends everything but the bucket, without ceremony.
func (c *cluster) stop() {
	for _, a := range c.agents {
		a.Kill()
	}
	for _, l := range c.logs {
		_ = l.Close()
	}
	if c.etcd != nil {
		_ = c.etcd.Close()
	}
	c.agents, c.logs, c.etcd = nil, nil, nil
}

func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.addrs...), kgo.AlwaysRetryEOF(), kgo.MetadataMinAge(20 * time.Millisecond), kgo.MetadataMaxAge(time.Second),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
	}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

func (c *cluster) create(topic string, n int32) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if _, err := kadm.NewClient(c.client()).CreateTopic(ctx, n, 1, nil, topic); err != nil {
		c.t.Fatal(err)
	}
}

// snapshot brings the bucket up to the head, beside the agents.
func (c *cluster) snapshot() {
	c.t.Helper()
	l := c.openLog()
	defer func() { _ = l.Close() }()
	if _, err := metastore.TakeSnapshot(c.t.Context(), l, c.bucket); err != nil {
		c.t.Fatal(err)
	}
}

// restore makes the log again in a new etcd.
func (c *cluster) restore() *metastore.RestoreReport {
	c.t.Helper()
	l := c.openLog()
	defer func() { _ = l.Close() }()
	r, err := metastore.Restore(c.t.Context(), l, c.bucket, metastore.RestoreOptions{EtcdIsLost: true})
	if err != nil {
		c.t.Fatalf("%v\n%s", err, strings.Join(r.Lines(), "\n"))
	}
	return r
}

// acked is where a record was acknowledged.
type acked struct {
	partition int32
	offset    int64
}

// producing is idempotent producers that send until they are told to stop.
type producing struct {
	c       *cluster
	history *check.History
	count   atomic.Int64 // acknowledged
	halt    chan struct{}
	wg      sync.WaitGroup

	mu   sync.Mutex // guards acks
	acks map[uint32]acked
}

const runID = 0xf1f1

func (c *cluster) produce(producers int) *producing {
	c.t.Helper()
	h, err := check.New(check.Config{Run: runID, Partitions: partitions, RecordsMax: 1 << 20})
	if err != nil {
		c.t.Fatal(err)
	}
	p := &producing{c: c, history: h, halt: make(chan struct{}), acks: make(map[uint32]acked)}
	for id := range uint32(producers) {
		cl := c.client(kgo.DefaultProduceTopic(topicName), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(time.Millisecond),
			kgo.RecordRetries(math.MaxInt), kgo.ProduceRequestTimeout(2*time.Second), kgo.MaxBufferedRecords(200))
		p.wg.Go(func() { p.loop(id, cl) })
	}
	return p
}

func (p *producing) loop(id uint32, cl *kgo.Client) {
	for n := uint32(0); ; n++ {
		select {
		case <-p.halt:
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := cl.Flush(ctx); err != nil {
				p.c.t.Errorf("producer %d cannot finish: %v", id, err)
			}
			return
		default:
		}
		number, ok := p.history.Assign()
		if !ok {
			return
		}
		r := &kgo.Record{
			Partition: int32(n+id) % partitions, Key: []byte{byte(id)},
			Value: check.AppendValue(nil, check.Value{Run: runID, Number: number, Producer: id, Key: id, Counter: n}, 100),
		}
		p.history.Send(number, id, int(r.Partition), check.BodyDigest(r.Key, r.Value))
		cl.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			if err != nil {
				p.history.Unknown(number)
				p.c.t.Errorf("producer %d, record %d: %v", id, number, err)
				return
			}
			p.history.Ack(number, r.Offset)
			p.mu.Lock()
			p.acks[number] = acked{r.Partition, r.Offset}
			p.mu.Unlock()
			p.count.Add(1)
		})
	}
}

func (p *producing) reaches(n int64) {
	p.c.t.Helper()
	until(p.c.t, fmt.Sprintf("%d records acknowledged", n), func() bool { return p.count.Load() >= n })
}

func (p *producing) stop() {
	close(p.halt)
	p.wg.Wait()
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// starts asks where a leader epoch ended, by API 23, in each partition: where the next one starts.
func (c *cluster) starts(epoch int32) []int64 {
	c.t.Helper()
	cl := c.client()
	out := make([]int64, partitions)
	for i := range out {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.ReplicaID = -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = topicName
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = int32(i), -1, epoch
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		for _, shard := range cl.RequestSharded(c.t.Context(), req) {
			if shard.Err != nil {
				c.t.Fatal(shard.Err)
			}
			res, _ := shard.Resp.(*kmsg.OffsetForLeaderEpochResponse)
			got := res.Topics[0].Partitions[0]
			if err := kerr.ErrorForCode(got.ErrorCode); err != nil || got.LeaderEpoch != epoch {
				c.t.Fatalf("partition %d: %v, epoch %d", i, err, got.LeaderEpoch)
			}
			out[i] = got.EndOffset
		}
	}
	return out
}

// judge reads everything back and holds it against the history. starts are where the epoch after the restore begins.
func (p *producing) judge(starts []int64) (moved int) {
	p.c.t.Helper()
	ctx, cancel := context.WithTimeout(p.c.t.Context(), patience)
	defer cancel()
	cl := p.c.client(kgo.ConsumeTopics(topicName), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	listed, err := kadm.NewClient(cl).ListEndOffsets(ctx, topicName)
	if err != nil {
		p.c.t.Fatal(err)
	}
	ends := make([]int64, partitions)
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	reader := p.history.Reader()
	at := make(map[uint32]acked)
	for !reader.Done(ends) {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			p.c.t.Fatalf("reading back does not end: %v of %v", reader.Next(0), ends)
		}
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			records := make([]check.Record, 0, len(f.Records))
			for _, r := range f.Records {
				records = append(records, check.Record{Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value})
				if v, err := check.ParseValue(r.Value); err == nil {
					at[v.Number] = acked{f.Partition, r.Offset}
				}
				if want := int32(0); r.Offset >= starts[f.Partition] {
					want = 1
					if r.LeaderEpoch != want {
						p.c.t.Errorf("offset %d is of leader epoch %d", r.Offset, r.LeaderEpoch)
					}
				} else if r.LeaderEpoch != want {
					p.c.t.Errorf("offset %d, which was archived, is of leader epoch %d", r.Offset, r.LeaderEpoch)
				}
			}
			reader.Read(0, int(f.Partition), records)
		})
	}
	summary := p.history.Finish(ends)
	for number, a := range p.acks {
		now, read := at[number]
		switch {
		case !read:
			p.c.t.Errorf("record %d, acknowledged at %+v, is lost", number, a)
		case now != a && a.offset < starts[a.partition]:
			p.c.t.Errorf("record %d was archived at %+v and is at %+v", number, a, now)
		case now != a:
			moved++
		}
	}
	// What was acknowledged and not archived may have another offset now: the one thing that losing etcd costs.
	if got := summary.Counts; got.WrongAcks != moved {
		p.c.t.Errorf("%d acknowledgements are wrong, %d records moved", got.WrongAcks, moved)
	}
	summary.Counts.WrongAcks = 0
	if verdict := summary.Verdict(); verdict != "" {
		p.c.t.Errorf("%s: %+v", verdict, summary.Findings)
	}
	p.c.t.Logf("%+v, %d moved", summary.Ops, moved)
	return moved
}

// Etcd and everything in it is lost while producers produce and topics are made. They never learn more than that a while was
// slow; a consumer that had read to the end does.
func TestLosingEtcdUnderLoad(t *testing.T) {
	c := newCluster(t, 3, 50*time.Millisecond)
	c.create(topicName, partitions)
	p := c.produce(4)
	p.reaches(3000)
	c.create("made-under-load", 2)
	p.reaches(5000)
	c.snapshot()
	// From here on nothing is archived: agents that start now archive once an hour.
	for _, a := range c.agents {
		a.Kill()
	}
	c.agents = nil
	c.archive = time.Hour
	c.start()
	c.create("never-archived", 1)

	from := p.count.Load()
	consumer := c.client(kgo.ConsumeTopics(topicName), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.KeepRetryableFetchErrors())
	read := make(map[int32]int64)
	poll := func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		fetches := consumer.PollFetches(ctx)
		fetches.EachRecord(func(r *kgo.Record) { read[r.Partition] = r.Offset + 1 })
		fetches.EachError(func(_ string, _ int32, e error) {
			var loss *kgo.ErrDataLoss
			if errors.As(e, &loss) {
				err = e
			}
		})
		return err
	}
	until(t, "the consumer reads every partition", func() bool {
		if err := poll(); err != nil {
			t.Fatal(err)
		}
		return len(read) == partitions && p.count.Load() > from+3000
	})

	began := time.Now()
	c.stop()
	c.newEtcd()
	r := c.restore()
	t.Logf("\n%s", strings.Join(r.Lines(), "\n"))
	c.archive = 50 * time.Millisecond
	c.start()
	restarted := p.count.Load()
	p.reaches(restarted + 1)
	t.Logf("%v from the loss of etcd to the next acknowledgement", time.Since(began).Round(time.Millisecond))

	if r.Records.Appended < 3000 || r.Batches.Refused != 0 || len(r.Damage) > 0 {
		t.Errorf("appended again: %+v of records, %+v of batches, damage %v, refused %v", r.Records, r.Batches, r.Damage, r.Refused)
	}
	// The consumer's client finds out that what it had read was taken back, and where its log and ours part.
	starts := c.starts(0)
	var told error
	until(t, "the consumer is told of the truncation", func() bool { told = poll(); return told != nil })
	var loss *kgo.ErrDataLoss
	if !errors.As(told, &loss) || loss.ResetTo != starts[loss.Partition] || loss.ConsumedTo <= loss.ResetTo {
		t.Errorf("told %v; epochs begin at %v", told, starts)
	}

	p.reaches(restarted + 2000)
	p.stop()
	p.judge(starts)

	names, err := kadm.NewClient(c.client()).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !names.Has("made-under-load") || names.Has("never-archived") {
		t.Errorf("topics after the restore: %v", names.Names())
	}
	c.snapshot()
	l := c.openLog()
	defer func() { _ = l.Close() }()
	report, err := metastore.Verify(t.Context(), l, c.bucket)
	if err != nil || len(report.Problems) > 0 || report.Epoch != 2 {
		t.Errorf("%v, %+v", err, report)
	}
}

// Etcd is lost three times in a row, each time while agents archive as they do.
func TestLosingEtcdAgainAndAgain(t *testing.T) {
	c := newCluster(t, 2, 30*time.Millisecond)
	c.create(topicName, partitions)
	c.snapshot() // a topic that is not archived comes back under another name
	p := c.produce(3)
	for round := range int64(3) {
		p.reaches((round + 1) * 2000)
		c.stop()
		c.newEtcd()
		if r := c.restore(); r.Epoch != uint64(round)+2 || r.Batches.Refused != 0 {
			t.Fatalf("round %d: epoch %d\n%s", round, r.Epoch, strings.Join(r.Lines(), "\n"))
		}
		c.start()
	}
	p.reaches(p.count.Load() + 1000)
	p.stop()
	// Which acknowledgement came in which epoch is not known here: only that no record is lost, doubled or out of order.
	cl := c.client(kgo.ConsumeTopics(topicName), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last := make(map[[2]uint32]uint32)
	seen := make(map[uint32]bool)
	for len(seen) < int(p.count.Load()) {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d records read of %d acknowledged", len(seen), p.count.Load())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			v, err := check.ParseValue(r.Value)
			if err != nil {
				t.Error(err)
				return
			}
			line := [2]uint32{uint32(r.Partition), v.Producer}
			if before, ok := last[line]; ok && v.Counter <= before || seen[v.Number] {
				t.Errorf("record %d of producer %d comes after %d", v.Counter, v.Producer, before)
			}
			last[line], seen[v.Number] = v.Counter, true
		})
	}
	for number := range p.acks {
		if !seen[number] {
			t.Errorf("record %d was acknowledged and is lost", number)
		}
	}
}

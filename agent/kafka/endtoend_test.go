package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/mem"
)

// stack is an agent of the real rooms over a log and a bucket in memory, on a loopback port.
type stack struct {
	addr   string
	meta   *metastore.Client
	server *kafka.Server
	groups *group.Coordinator
}

// stacks starts n agents of one cluster.
func stacks(t testing.TB, n int, tune ...func(*kafka.Config)) []*stack {
	t.Helper()
	store := memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(1, 2))})
	t.Cleanup(func() { _ = store.Close() })
	bucket := mem.New()
	list := make([]*stack, n)
	for i := range list {
		list[i] = startStack(t, store, bucket, fmt.Sprintf("agent-%d", i), tune...)
	}
	return list
}

func startStack(t testing.TB, store *memlog.Store, bucket objstore.Bucket, name string, tune ...func(*kafka.Config)) *stack {
	t.Helper()
	return startStackWith(t, store, bucket, name, ingest.Config{FlushInterval: 5 * time.Millisecond}, fetch.Config{}, tune...)
}

func startStackWith(
	t testing.TB, store *memlog.Store, bucket objstore.Bucket, name string, in ingest.Config, reads fetch.Config, tune ...func(*kafka.Config),
) *stack {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	host, port, err := net.SplitHostPort(ln.Addr().String())
	must(err)
	number, err := net.LookupPort("tcp", port)
	must(err)
	l := store.Open(name)
	meta, err := metastore.Open(t.Context(), metastore.Config{
		Name: name, Listeners: []entry.Listener{{Name: "kafka", Host: host, Port: uint32(number)}},
	}, l, bucket)
	must(err)
	cache, err := fetch.NewCache(reads, bucket)
	must(err)
	pipeline, err := ingest.New(in, meta, bucket, nil, cache)
	must(err)
	cfg := kafka.Config{}
	for _, f := range tune {
		f(&cfg)
	}
	coordinator, err := group.New(group.Config{
		SettleTime: 50 * time.Millisecond, Classic: classic.Config{SessionMin: time.Second},
		Consumer: consumer.Config{HeartbeatInterval: 50 * time.Millisecond, SessionTimeout: 5 * time.Second},
	}, meta)
	must(err)
	coordinator.Start()
	s, err := kafka.New(cfg, meta, pipeline, fetch.NewReader(meta, cache), coordinator)
	must(err)
	s.Poison()
	served := make(chan error, 1)
	go func() { served <- s.Serve("kafka", ln) }()
	t.Cleanup(func() {
		if err := s.Drain(context.Background()); err != nil {
			t.Errorf("drain: %v", err)
		}
		if err := <-served; !errors.Is(err, kafka.ErrClosed) {
			t.Errorf("serve: %v", err)
		}
		if !s.InFlight() || !s.FetchInFlight() {
			t.Error("bytes of a budget were not given back")
		}
		coordinator.Close()
		pipeline.Close()
		cache.Close()
		_ = meta.Close(context.Background())
		_ = l.Close()
	})
	return &stack{addr: ln.Addr().String(), meta: meta, server: s, groups: coordinator}
}

// kclient is a franz-go client of these agents.
func kclient(t testing.TB, agents []*stack, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	seeds := make([]string, len(agents))
	for i := range agents {
		seeds[i] = agents[i].addr
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(seeds...), kgo.MetadataMinAge(10 * time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond }),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func createTopic(t testing.TB, cl *kgo.Client, name string, partitions int32, configs map[string]*string) {
	t.Helper()
	res, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, -1, configs, name)
	if err == nil {
		err = res.Err
	}
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

// consume reads n records of topic from its start.
func consume(t testing.TB, agents []*stack, topic string, n int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cl := kclient(t, agents, append([]kgo.Opt{
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(time.Second),
	}, opts...)...)
	defer cl.Close()
	var got []*kgo.Record
	for len(got) < n {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(got), n, err)
		}
		got = append(got, fetches.Records()...)
	}
	return got
}

func TestProducedRecordsComeBackAsTheyWere(t *testing.T) {
	agents := stacks(t, 1)
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		for acks, option := range map[string][]kgo.Opt{
			"all": {kgo.RequiredAcks(kgo.AllISRAcks())},
			"one": {kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()},
			"no":  {kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite()},
		} {
			t.Run(name+"/"+acks, func(t *testing.T) {
				topic := name + "-" + acks
				cl := kclient(t, agents, append(option, kgo.ProducerBatchCompression(codec))...)
				createTopic(t, cl, topic, 1, nil)
				sent := []*kgo.Record{
					{Topic: topic, Key: []byte("k"), Value: []byte("v"), Timestamp: time.UnixMilli(1_700_000_000_001)},
					{Topic: topic, Value: []byte("no key"), Timestamp: time.UnixMilli(1_700_000_000_002)},
					{Topic: topic, Key: []byte("no value"), Timestamp: time.UnixMilli(1_700_000_000_000)},
					{Topic: topic, Key: []byte{}, Value: []byte{}, Timestamp: time.UnixMilli(1_700_000_000_003), Headers: []kgo.RecordHeader{
						{Key: "h", Value: []byte("x")}, {Key: "h", Value: nil}, {Key: "", Value: []byte{0}},
					}},
					{Topic: topic, Value: bytes.Repeat([]byte("large "), 50_000), Timestamp: time.UnixMilli(1_700_000_000_004)},
				}
				if err := cl.ProduceSync(t.Context(), sent...).FirstErr(); err != nil {
					t.Fatal(err)
				}
				for i, r := range consume(t, agents, topic, len(sent)) {
					w := sent[i]
					same := bytes.Equal(r.Key, w.Key) && (r.Key == nil) == (w.Key == nil) &&
						bytes.Equal(r.Value, w.Value) && (r.Value == nil) == (w.Value == nil) && len(r.Headers) == len(w.Headers)
					for j := range w.Headers {
						same = same && r.Headers[j].Key == w.Headers[j].Key && bytes.Equal(r.Headers[j].Value, w.Headers[j].Value)
					}
					if !same || r.Offset != int64(i) || !r.Timestamp.Equal(w.Timestamp) {
						t.Errorf("record %d: offset %d, %v, key %q, %d bytes, headers %v", i, r.Offset, r.Timestamp, r.Key, len(r.Value), r.Headers)
					}
				}
			})
		}
	}
}

func TestIdempotentProducersKeepOrderWithManyRequestsInFlight(t *testing.T) {
	agents := stacks(t, 2)
	cl := kclient(t, agents, kgo.ProducerLinger(0), kgo.MaxBufferedRecords(500),
		kgo.ProducerBatchMaxBytes(2048), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	const partitions, each = 3, 2000
	createTopic(t, cl, "ordered", partitions, nil)
	errs := make(chan error, partitions*each)
	for i := range each {
		for p := range int32(partitions) {
			cl.Produce(t.Context(), &kgo.Record{Topic: "ordered", Partition: p, Value: fmt.Appendf(nil, "%d-%04d", p, i)}, func(_ *kgo.Record, err error) { errs <- err })
		}
	}
	for range partitions * each {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	var next [partitions]int
	for _, r := range consume(t, agents, "ordered", partitions*each) {
		if want := fmt.Sprintf("%d-%04d", r.Partition, next[r.Partition]); string(r.Value) != want || r.Offset != int64(next[r.Partition]) {
			t.Fatalf("partition %d offset %d holds %s, want %s", r.Partition, r.Offset, r.Value, want)
		}
		next[r.Partition]++
	}
}

func TestLogAppendTime(t *testing.T) {
	agents := stacks(t, 1)
	cl := kclient(t, agents)
	typ := "LogAppendTime"
	createTopic(t, cl, "stamped", 1, map[string]*string{"message.timestamp.type": &typ})
	before := time.Now().Add(-time.Minute)
	r := &kgo.Record{Topic: "stamped", Value: []byte("v"), Timestamp: time.UnixMilli(1)}
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	got := consume(t, agents, "stamped", 1)[0]
	if got.Timestamp.Before(before) || got.Attrs.TimestampType() != 1 {
		t.Errorf("fetched at %v, type %d", got.Timestamp, got.Attrs.TimestampType())
	}
}

func TestTopicsComeIntoBeingWhenProducedTo(t *testing.T) {
	agents := stacks(t, 2, func(c *kafka.Config) { c.AutoCreateTopics, c.DefaultPartitions = true, 3 })
	cl := kclient(t, agents, kgo.AllowAutoTopicCreation())
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "fresh", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	topics, err := kadm.NewClient(kclient(t, agents[1:])).ListTopics(t.Context(), "fresh", "stale")
	if err != nil || len(topics["fresh"].Partitions) != 3 {
		t.Errorf("%v, %v", topics, err)
	}
	if !errors.Is(topics["stale"].Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("a topic that nobody asked to create: %v", topics["stale"].Err)
	}
}

// What one agent acknowledged, another one counts and serves.
func TestAgentsAgree(t *testing.T) {
	agents := stacks(t, 3)
	cl := kclient(t, agents[:1])
	adm := kadm.NewClient(cl)
	createTopic(t, cl, "shared", 4, nil)
	for i := range 20 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "shared", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		for _, a := range agents {
			ends := listOffsetsAt(t, cl, a, "shared", 4)
			sum += ends
			if ends != int64(i+1) {
				t.Fatalf("%s counts %d records of %d", a.addr, ends, i+1)
			}
		}
	}
	if len(consume(t, agents[2:], "shared", 20)) != 20 {
		t.Error("records are missing")
	}
	meta, err := adm.BrokerMetadata(t.Context())
	if err != nil || len(meta.Brokers) != 3 || meta.Controller != meta.Brokers.NodeIDs()[0] {
		t.Errorf("brokers %v, controller %d, %v", meta.Brokers, meta.Controller, err)
	}
}

// listOffsetsAt sums the end offsets as one agent tells them, whoever leads.
func listOffsetsAt(t *testing.T, cl *kgo.Client, a *stack, topic string, partitions int32) (sum int64) {
	t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for p := range partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	res, err := cl.Broker(int(a.meta.NodeID())).Request(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range res.(*kmsg.ListOffsetsResponse).Topics[0].Partitions {
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			t.Fatal(err)
		}
		sum += p.Offset
	}
	return sum
}

func TestAdministration(t *testing.T) {
	agents := stacks(t, 2)
	ctx := t.Context()
	cl := kclient(t, agents)
	adm := kadm.NewClient(cl)
	createTopic(t, cl, "admin", 2, nil)
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "admin"); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Errorf("created twice: %v", err)
	}
	if _, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "retention.ms", Value: kadm.StringPtr("1234")}}, "admin"); err != nil {
		t.Fatal(err)
	}
	configs, err := adm.DescribeTopicConfigs(ctx, "admin")
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(configs[0].Configs, func(c kadm.Config) bool { return c.Key == "retention.ms" })
	if at < 0 || configs[0].Configs[at].MaybeValue() != "1234" || configs[0].Configs[at].Source != kmsg.ConfigSourceDynamicTopicConfig {
		t.Errorf("retention.ms: %+v", configs[0].Configs)
	}
	if res, err := adm.UpdatePartitions(ctx, 5, "admin"); err != nil || res.Error() != nil {
		t.Fatalf("grow: %v, %v", err, res.Error())
	}
	// Metadata takes no barrier for a topic that it knows: another agent may trail by milliseconds, as another broker may.
	eventually(t, func() error {
		topics, err := adm.ListTopics(ctx, "admin")
		if err != nil || len(topics["admin"].Partitions) != 5 {
			return fmt.Errorf("after growth: %v, %w", topics, err)
		}
		return nil
	})
	if res, err := adm.DeleteTopics(ctx, "admin"); err != nil || res.Error() != nil {
		t.Fatalf("delete: %v, %v", err, res.Error())
	}
	// A client of its own: clients keep what they knew of a topic for a while.
	other := kadm.NewClient(kclient(t, agents[1:]))
	eventually(t, func() error {
		topics, err := other.ListTopics(ctx, "admin")
		if err != nil || !errors.Is(topics["admin"].Err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("after deletion: %v, %w", topics["admin"].Err, err)
		}
		return nil
	})
}

// What is deleted is gone for every agent, those that start later too, and counts no longer.
func TestDeletedRecordsStayDeleted(t *testing.T) {
	store := memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(1, 2))})
	t.Cleanup(func() { _ = store.Close() })
	bucket := mem.New()
	agents := []*stack{startStack(t, store, bucket, "first"), startStack(t, store, bucket, "second")}
	ctx := t.Context()
	cl := kclient(t, agents, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	adm := kadm.NewClient(cl)
	const topic = "shortened"
	createTopic(t, cl, topic, 1, nil)
	for i := range 10 {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	size := func() int64 {
		t.Helper()
		dirs, err := adm.DescribeAllLogDirs(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		dirs.Each(func(d kadm.DescribedLogDir) {
			if d.Err != nil {
				t.Fatal(d.Err)
			}
			sum += d.Size()
		})
		return sum
	}
	whole := size()
	deleted, err := adm.DeleteRecords(ctx, kadm.Offsets{topic: {0: {Topic: topic, At: 4}}})
	if err != nil || deleted.Error() != nil || deleted[topic][0].LowWatermark != 4 {
		t.Fatalf("%v, %v, %+v", err, deleted.Error(), deleted)
	}
	if left := size(); left != whole*6/10 {
		t.Errorf("%d bytes of %d are left of 6 in 10 records", left, whole)
	}
	if beyond, err := adm.DeleteRecords(ctx, kadm.Offsets{topic: {0: {Topic: topic, At: 11}}}); err != nil || !errors.Is(beyond.Error(), kerr.OffsetOutOfRange) {
		t.Errorf("beyond the end: %v, %v", err, beyond.Error())
	}
	agents = append(agents, startStack(t, store, bucket, "third"))
	var id entry.UUID
	agents[0].meta.View(func(st *state.State) { id = st.TopicByName(topic).ID })
	for i, a := range agents {
		one := kclient(t, []*stack{a})
		res, err := one.SeedBrokers()[0].Request(ctx, fetchRequest(13, topic, id, 0, 3))
		if err != nil {
			t.Fatal(err)
		}
		if p := res.(*kmsg.FetchResponse).Topics[0].Partitions[0]; p.ErrorCode != kerr.OffsetOutOfRange.Code {
			t.Errorf("agent %d: fetch below the log start: code %d", i, p.ErrorCode)
		}
		res, err = one.SeedBrokers()[0].Request(ctx, fetchRequest(13, topic, id, 0, 4))
		if err != nil {
			t.Fatal(err)
		}
		if p := res.(*kmsg.FetchResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.LogStartOffset != 4 || p.HighWatermark != 10 {
			t.Errorf("agent %d: fetch at the log start: code %d, log start %d, high watermark %d", i, p.ErrorCode, p.LogStartOffset, p.HighWatermark)
		}
	}
	for i, r := range consume(t, agents, topic, 6) {
		if r.Offset != int64(i+4) || string(r.Value) != fmt.Sprint(i+4) {
			t.Errorf("record %d: offset %d, %q", i, r.Offset, r.Value)
		}
	}
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err != nil || starts.Error() != nil || starts[topic][0].Offset != 4 {
		t.Errorf("earliest: %v, %v, %+v", err, starts.Error(), starts)
	}
}

// eventually retries a look at an agent that may trail the one that was told.
func eventually(t *testing.T, look func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for {
		err := look()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// A consumer in front of offsets that nothing follows any more is led to the end, waits there, and gets what comes.
func TestOffsetsThatNothingFollows(t *testing.T) {
	agents := stacks(t, 1)
	ctx, a := t.Context(), agents[0]
	cl := kclient(t, agents, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	const topic = "hollow"
	createTopic(t, cl, topic, 1, nil)
	produce := func(value string) {
		t.Helper()
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 6 {
		produce(fmt.Sprint(i))
	}
	var id entry.UUID
	var rows []state.Row
	a.meta.View(func(st *state.State) {
		id = st.TopicByName(topic).ID
		rows = st.TopicByID(id).Partition(0).Rows(2, 100, nil)
	})
	giveUp := &entry.Relocate{Topic: id, StartOffset: 2, EndOffset: 6}
	for _, row := range rows {
		giveUp.Expected = append(giveUp.Expected, entry.Row{
			Object: row.Object, ObjectSize: uint64(row.ObjectSize), Block: row.Block, BaseOffset: row.Base, EndOffset: row.End,
			MaxTimestamp: row.MaxTimestamp, Position: uint64(row.Position), Size: uint64(row.Size),
		})
	}
	if res, err := a.meta.Propose(ctx, giveUp); err != nil || res.Code != state.OK {
		t.Fatalf("%+v, %v", res, err)
	}
	read := func(offset int64, wait time.Duration) kmsg.FetchResponseTopicPartition {
		t.Helper()
		req := fetchRequest(13, topic, id, 0, offset)
		req.MaxWaitMillis = int32(wait.Milliseconds())
		res, err := cl.SeedBrokers()[0].Request(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return res.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	}
	p := read(3, time.Minute) // does not wait
	h, err := batch.ParseHeader(p.RecordBatches)
	if err != nil || h.BaseOffset != 3 || h.BaseOffset+h.Span() != 6 || h.RecordCount != 0 || p.HighWatermark != 6 {
		t.Fatalf("%+v, %v, %+v", h, err, p)
	}
	if p := read(6, time.Millisecond); len(p.RecordBatches) != 0 || p.ErrorCode != 0 {
		t.Errorf("%+v", p)
	}
	consumer := kclient(t, agents, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(3)}}))
	cl.Produce(ctx, &kgo.Record{Topic: topic, Value: []byte("6")}, nil)
	fetches := consumer.PollFetches(ctx)
	if list := fetches.Records(); fetches.Err() != nil || len(list) != 1 || list[0].Offset != 6 {
		t.Errorf("%v, %v", list, fetches.Err())
	}
}

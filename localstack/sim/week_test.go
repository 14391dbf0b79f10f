package sim_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/localstack/sim/memnet"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/file"
	"github.com/firnlog/firn/objstore/mem"
)

// The flags of a week of history; see the package comment.
var (
	weekRecordsFlag = flag.Int("sim.week", 12_000, "records of the simulated history")
	weekHoursFlag   = flag.Int("sim.week.hours", 6, "its hours")
	weekTopicsFlag  = flag.Int("sim.week.topics", 40, "its topics")
	weekEveryFlag   = flag.Duration("sim.week.every", 2*time.Hour, "simulated time between lines of its curve")
	weekMergeFlag   = flag.Bool("sim.week.compaction", true, "whether agents merge, clean, retain and collect")
	weekDirFlag     = flag.String("sim.week.dir", "", "directory of its bucket; empty: memory")
)

// weekPolicy is what topics of one kind promise.
type weekPolicy struct {
	name    string
	share   int // of ten topics, how many
	configs map[string]string
	compact bool
	// retention is by time; 0: none. retentionBytes is of a partition; 0: none.
	retention      time.Duration
	retentionBytes int
}

// weekPolicies are mixed as in a cluster that many teams use.
func weekPolicies() []weekPolicy {
	del := func(share int, d time.Duration) weekPolicy {
		return weekPolicy{
			name: "delete " + d.String(), share: share, retention: d,
			configs: map[string]string{"retention.ms": fmt.Sprint(d.Milliseconds())},
		}
	}
	return []weekPolicy{
		del(2, time.Hour), del(1, 6*time.Hour), del(1, 24*time.Hour), del(1, 72*time.Hour),
		{name: "delete 256 KiB", share: 1, retentionBytes: 256 << 10, configs: map[string]string{"retention.ms": "-1", "retention.bytes": "262144"}},
		{name: "compact", share: 2, compact: true, configs: map[string]string{
			"cleanup.policy": "compact", "delete.retention.ms": "3600000",
		}},
		{name: "compact,delete 24h", share: 1, compact: true, retention: 24 * time.Hour, configs: map[string]string{
			"cleanup.policy": "compact,delete", "retention.ms": "86400000", "delete.retention.ms": "3600000",
		}},
		{name: "forever", share: 1, configs: map[string]string{"retention.ms": "-1"}},
	}
}

// weekTopic is one topic, with what was put into it.
type weekTopic struct {
	name       string
	number     uint32
	policy     *weekPolicy
	partitions []weekPartition
}

type weekPartition struct {
	sent   []int64           // by counter, when each was sent, in ms; its offset is its counter
	newest map[uint32]newest // by key
}

// newest is the last record of a key.
type newest struct {
	counter   uint32
	tombstone bool
}

// weekKeys is how many keys a partition of a compacted topic has.
const weekKeys = 400

// week is a cluster with a history, which nothing goes wrong with.
type week struct {
	*life
	t      *testing.T
	topics []*weekTopic
	book   *weekBook
	rng    *rand.Rand
}

// TestWeekOfHistory lets a cluster get old: days of traffic, in simulated time, into topics of mixed policies. What it holds is
// measured on the way, and read at the end.
//
// Without flags this is a short history that shows that the measuring works, and that what has been merged, cleaned and
// deleted still reads as it should.
func TestWeekOfHistory(t *testing.T) {
	var bucket objstore.Bucket = mem.New()
	if *weekDirFlag != "" {
		b, err := file.Open(*weekDirFlag)
		if err != nil {
			t.Fatal(err)
		}
		bucket = b
	}
	profile := startProfile(t)
	var book *weekBook
	faketime.Test(t, func(t *testing.T) {
		w := newWeek(t, bucket)
		w.live(t.Context())
		book = w.book
	})
	fmt.Fprint(os.Stderr, book.String(profile()))
	if verdict := book.verdict(); *weekMergeFlag && verdict != "" {
		t.Errorf("grows without bound:\n%s", verdict)
	}
}

func newWeek(t *testing.T, bucket objstore.Bucket) *week {
	p := &plan{
		seed: *seedFlag, on: map[fault]bool{walKept: true}, agents: 2,
		flushInterval: 250 * time.Millisecond, uploadSlots: 2, segmentBytes: 8 << 20,
		// As an agent has them, but for what happens every few seconds whether or not there is anything to do.
		ttl: 5 * time.Minute, tickInterval: time.Minute, archiveInterval: 30 * time.Second,
	}
	l := &life{
		plan: p, start: time.Now(), tally: newTally(), ids: map[int64]string{}, net: memnet.New(stream(p.seed, "net")),
		watching: newWatching(), healed: make(chan struct{}), ended: make(chan struct{}),
	}
	l.store = memlog.NewStore(memlog.Config{Rand: stream(p.seed, "log")})
	w := &week{life: l, t: t, rng: stream(p.seed, "week"), book: newWeekBook()}
	w.book.bucket.Bucket = bucket
	l.bucket = w.book.bucket
	l.metalog = func(g log.Log) log.Log { return &weekLog{g, w.book} }
	l.configure = func(c *agent.Config, parts *agent.Components) { weekConfig(c, parts) }
	return w
}

// live is the history from its first record to the last, and a quiet hour.
func (w *week) live(ctx context.Context) {
	for i := range w.plan.agents {
		w.nodes = append(w.nodes, newNode(w.life, i))
	}
	for _, n := range w.nodes {
		w.actors.Go(n.run)
	}
	for _, n := range w.nodes {
		for n.running() == nil {
			pause(ctx, time.Second)
		}
	}
	if err := w.create(ctx); err != nil {
		w.t.Fatal(err)
	}
	var producers sync.WaitGroup
	for i := range w.nodes {
		producers.Go(func() { w.produce(ctx, i) })
	}
	done := make(chan struct{})
	go func() { producers.Wait(); close(done) }()
	begin := time.Now()
	for hours := time.Duration(0); ; {
		select {
		case <-done:
		case <-time.After(*weekEveryFlag):
			hours += *weekEveryFlag
			w.measure(hours)
			continue
		}
		break
	}
	w.measure(time.Since(begin))
	pause(ctx, time.Hour) // nothing comes any more: what is due is done
	w.measure(time.Since(begin))
	if err := w.readBack(ctx); err != nil {
		w.t.Error(err)
	}
	for _, f := range w.findings {
		w.t.Error(f)
	}
	if *verboseFlag {
		fmt.Println(strings.Join(w.trace, "\n"))
	}
	close(w.healed)
	close(w.ended)
	w.actors.Wait()
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
	if err := w.bucket.Close(); err != nil {
		w.t.Error(err)
	}
}

// create makes all topics, one request for each kind.
func (w *week) create(ctx context.Context) error {
	policies := weekPolicies()
	var turn []*weekPolicy
	for i := range policies {
		for range policies[i].share {
			turn = append(turn, &policies[i])
		}
	}
	k, err := w.connect(ctx, w.nodes[0], "admin")
	if err != nil {
		return err
	}
	defer k.close()
	for i := range *weekTopicsFlag {
		t := &weekTopic{
			name: fmt.Sprintf("topic-%03d", i), number: uint32(i), policy: turn[i%len(turn)], partitions: make([]weekPartition, 1+i%4),
		}
		for j := range t.partitions {
			t.partitions[j].newest = map[uint32]newest{}
		}
		req := kmsg.NewPtrCreateTopicsRequest()
		req.SetVersion(5)
		req.TimeoutMillis = 30_000
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.name, int32(len(t.partitions)), 1
		for name, value := range t.policy.configs {
			rc := kmsg.NewCreateTopicsRequestTopicConfig()
			rc.Name, rc.Value = name, kmsg.StringPtr(value)
			rt.Configs = append(rt.Configs, rc)
		}
		req.Topics = append(req.Topics, rt)
		response, err := k.call(req)
		if err != nil {
			return err
		}
		if code := response.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; code != errNone {
			return fmt.Errorf("create %s: code %d", t.name, code)
		}
		w.topics = append(w.topics, t)
	}
	return nil
}

// weekRound is the time between two requests of a producer: what would be many flushes of a few records is one.
const weekRound = 30 * time.Second

// produce is one agent's share of the history: a request every round, of a few topics, of which some get much and most little. Each
// partition is one producer's, so that a record's offset is its counter.
func (w *week) produce(ctx context.Context, index int) {
	rng := stream(w.plan.seed, fmt.Sprintf("producer %d", index))
	rounds := int(time.Duration(*weekHoursFlag) * time.Hour / weekRound)
	left := *weekRecordsFlag / len(w.nodes)
	var mine []*weekTopic
	for i, t := range w.topics {
		if i%len(w.nodes) == index {
			mine = append(mine, t)
		}
	}
	for round := range rounds {
		share := left / (rounds - round)
		left -= share
		if err := w.round(ctx, rng, index, mine, share); err != nil {
			w.find("produce", "%v", err)
			return
		}
		if !pause(ctx, weekRound) {
			return
		}
	}
}

// round sends so many records, over a connection of its own: agents close those that get old.
func (w *week) round(ctx context.Context, rng *rand.Rand, index int, mine []*weekTopic, records int) (err error) {
	k, err := w.connect(ctx, w.nodes[index], fmt.Sprintf("producer %d", index))
	if err != nil {
		return err
	}
	defer k.close()
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(9)
	req.Acks, req.TimeoutMillis = -1, 30_000
	type part struct{ topic, partition int }
	expect := map[part]int64{}
	for records > 0 {
		at := rng.IntN(1 + rng.IntN(len(mine))) // the first ones more often
		t := mine[at]
		p := part{at, rng.IntN(len(t.partitions))}
		if _, twice := expect[p]; twice && rng.IntN(4) > 0 {
			continue
		} else if twice {
			p.partition = (p.partition + 1) % len(t.partitions)
			if _, twice = expect[p]; twice {
				records-- // a small cluster of few partitions
				continue
			}
		}
		n := min(records, 2+rng.IntN(6))
		records -= n
		expect[p] = int64(len(t.partitions[p.partition].sent))
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = int32(p.partition), w.batchOf(t, p.partition, n, rng)
		there := slices.IndexFunc(req.Topics, func(rt kmsg.ProduceRequestTopic) bool { return rt.Topic == t.name })
		if there < 0 {
			rt := kmsg.NewProduceRequestTopic()
			rt.Topic = t.name
			req.Topics = append(req.Topics, rt)
			there = len(req.Topics) - 1
		}
		req.Topics[there].Partitions = append(req.Topics[there].Partitions, rp)
	}
	if len(expect) == 0 {
		return nil
	}
	response, err := k.call(req)
	if err != nil {
		return err
	}
	for _, rt := range response.(*kmsg.ProduceResponse).Topics {
		for _, rp := range rt.Partitions {
			for p, base := range expect {
				if mine[p.topic].name == rt.Topic && p.partition == int(rp.Partition) && (rp.ErrorCode != errNone || rp.BaseOffset != base) {
					return fmt.Errorf("%s partition %d: code %d, offset %d where %d was due", rt.Topic, rp.Partition, rp.ErrorCode, rp.BaseOffset, base)
				}
			}
		}
	}
	return nil
}

// batchOf makes a batch of n records, each of which says which one it is.
func (w *week) batchOf(t *weekTopic, partition, n int, rng *rand.Rand) []byte {
	p := &t.partitions[partition]
	now := time.Now().UnixMilli()
	b := batch.NewBuilder(batch.BuildOptions{})
	for range n {
		counter := uint32(len(p.sent))
		p.sent = append(p.sent, now)
		key := rng.Uint32N(1 + rng.Uint32N(weekKeys))
		value := make([]byte, 12, 120)
		binary.BigEndian.PutUint32(value, t.number)
		binary.BigEndian.PutUint32(value[4:], counter)
		binary.BigEndian.PutUint32(value[8:], key)
		for i := 0; i < 6+rng.IntN(10); i++ {
			value = binary.BigEndian.AppendUint64(value, rng.Uint64())
		}
		if t.policy.compact && rng.IntN(20) == 0 {
			value = nil // a tombstone
		}
		p.newest[key] = newest{counter, value == nil}
		b.Add(now, binary.BigEndian.AppendUint32(nil, key), value)
	}
	raw, err := b.Build(nil)
	if err != nil {
		panic(err) // of a few records without codec
	}
	w.book.sent(n, len(raw))
	return raw
}

// readBack reads every partition once and holds it to what was sent.
func (w *week) readBack(ctx context.Context) error {
	k, err := w.connect(ctx, w.nodes[1], "reader")
	if err != nil {
		return err
	}
	defer k.close()
	for _, t := range w.topics {
		for i := range t.partitions {
			if err := w.readPartition(k, t, i); err != nil {
				return fmt.Errorf("%s (%s) partition %d: %w", t.name, t.policy.name, i, err)
			}
		}
	}
	return nil
}

func (w *week) readPartition(k *link, t *weekTopic, partition int) error {
	p := &t.partitions[partition]
	start, err := listOne(k, t.name, partition, -2)
	if err != nil {
		return err
	}
	end := int64(len(p.sent))
	if start > 0 {
		switch age := time.Now().UnixMilli() - p.sent[min(start, end)-1]; {
		case t.policy.retention == 0 && t.policy.retentionBytes == 0:
			return fmt.Errorf("the log starts at %d, though nothing may be deleted", start)
		case t.policy.retention > 0 && age < t.policy.retention.Milliseconds():
			return fmt.Errorf("the log starts at %d, past a record of %d ms", start, age)
		}
	}
	seen := map[uint32]uint32{} // by key, the newest counter read
	for at := start; at < end; {
		next, err := w.readSome(k, t, partition, at, seen)
		if err != nil {
			return err
		}
		if next <= at {
			return fmt.Errorf("nothing to read at offset %d of [%d, %d)", at, start, end)
		}
		at = next
	}
	for key, want := range p.newest {
		got, there := seen[key]
		if !there && (int64(want.counter) < start || want.tombstone && t.policy.compact) || there && got == want.counter {
			continue
		}
		return fmt.Errorf("key %d: record %d is the newest, %d was read (%v)", key, want.counter, got, there)
	}
	return nil
}

// readSome is one fetch. Where records are missing, or their number is not their offset, it says so.
func (w *week) readSome(k *link, t *weekTopic, partition int, at int64, seen map[uint32]uint32) (int64, error) {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(11)
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = -1, 500, 1, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = t.name
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = int32(partition), at, 1<<20, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	response, err := k.call(req)
	if err != nil {
		return at, err
	}
	answer := &response.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if answer.ErrorCode != errNone {
		return at, fmt.Errorf("fetch at %d: code %d", at, answer.ErrorCode)
	}
	checker := batch.NewValidator()
	s := batch.Split(answer.RecordBatches)
	for s.Next() {
		head := s.Header()
		if err := batch.VerifyCRC(s.Raw()); err != nil {
			return at, err
		}
		err := checker.Walk(s.Raw(), batch.Limits{}, func(r batch.Record) error {
			offset := head.BaseOffset + int64(r.OffsetDelta)
			if offset < at {
				return nil
			}
			key := binary.BigEndian.Uint32(r.Key)
			switch {
			case offset > at && !t.policy.compact:
				return fmt.Errorf("offset %d follows where %d is due", offset, at)
			case r.Value == nil && t.policy.compact: // a tombstone
			case len(r.Value) < 12, binary.BigEndian.Uint32(r.Value) != t.number, int64(binary.BigEndian.Uint32(r.Value[4:])) != offset,
				binary.BigEndian.Uint32(r.Value[8:]) != key:
				return fmt.Errorf("offset %d holds another record: %x", offset, r.Value)
			}
			seen[key] = uint32(offset)
			w.book.read(1)
			at = offset + 1
			return nil
		})
		if err != nil {
			return at, err
		}
		at = max(at, head.BaseOffset+head.Span())
	}
	return at, s.Err()
}

// listOne is one ListOffsets.
func listOne(k *link, topic string, partition int, timestamp int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.SetVersion(4)
	req.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = int32(partition), timestamp, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	response, err := k.call(req)
	if err != nil {
		return 0, err
	}
	answer := &response.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	if answer.ErrorCode != errNone {
		return 0, errors.New("list offsets: " + fmt.Sprint(answer.ErrorCode))
	}
	return answer.Offset, nil
}

//go:build interop

package clients

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/localstack/check"
)

const (
	partitions = 24
	// rate is small enough for everything on one machine, and enough for a record in each partition every 50 ms.
	rate = 24 * 20
)

// work is a producer, a group and an observer over one topic.
type work struct {
	at      place
	history *check.History
	group   *check.Group

	producing context.CancelFunc
	producer  *kgo.Client
	observing context.CancelFunc
	wg        sync.WaitGroup
	members   []*member
	ran       int // members so far

	mu        sync.Mutex
	produced  []int64 // by partition, one past the highest offset acknowledged
	committed []int64 // by partition, what the observer found last
	watched   *lap
	has       map[string]int // by member, how many partitions it has
	rebalance int            // how often a member got or lost partitions
	notes     []string       // what members went on after, the last of it
	wrong     []string
}

// member is one that runs.
type member struct {
	name string
	stop context.CancelFunc
	done chan struct{}
}

// lap is what followed on one fault: by partition, when the group was shown, and had committed, a record produced after it.
type lap struct {
	began           time.Time
	from            []int64         // by partition, the first offset that counts
	read, committed []time.Duration // by partition, 0 until it happens
	rebalance       int             // how often members' partitions had changed when it began
	left            int             // how many of read and committed are 0
}

// clientOpts are those of the test's own clients: they must not wait longer than what they watch.
func (w *work) clientOpts(more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{kgo.SeedBrokers(w.at.brokers), kgo.AlwaysRetryEOF(), kgo.MetadataMinAge(100 * time.Millisecond), kgo.RequestTimeoutOverhead(2 * time.Second),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }), kgo.RecordRetries(math.MaxInt), kgo.ProduceRequestTimeout(3 * time.Second)}, more...)
}

// startWork makes a topic and starts to produce; members come with add.
func startWork(ctx context.Context, t *testing.T, at place) *work {
	t.Helper()
	w := &work{at: at, has: make(map[string]int), group: check.NewGroup(partitions), produced: make([]int64, partitions), committed: make([]int64, partitions)}
	var err error
	w.history, err = check.New(check.Config{Run: uint64(time.Now().UnixNano()), Partitions: partitions, RecordsMax: 4 << 20})
	must(t, err)
	// Every client can undo gzip.
	w.producer, err = kgo.NewClient(w.clientOpts(kgo.DefaultProduceTopic(at.topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.GzipCompression()))...)
	must(t, err)
	_, err = kadm.NewClient(w.producer).CreateTopic(ctx, partitions, 1, nil, at.topic)
	must(t, err)
	producing, stopProducing := context.WithCancel(context.Background())
	observing, stopObserving := context.WithCancel(context.Background())
	w.producing, w.observing = stopProducing, stopObserving
	w.wg.Go(func() { w.produce(producing) })
	w.wg.Go(func() { w.observe(observing) })
	t.Cleanup(func() {
		for _, m := range w.members {
			m.stop()
			<-m.done
		}
		stopProducing()
		stopObserving()
		w.producer.Close()
		w.wg.Wait()
	})
	return w
}

func (w *work) produce(ctx context.Context) {
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n, ok := w.history.Assign()
		if !ok {
			return
		}
		partition := int(n % partitions)
		r := &kgo.Record{Partition: int32(partition), Key: strconv.AppendUint(nil, uint64(n), 10),
			Value: check.AppendValue(nil, check.Value{Run: w.run(), Number: n}, 100)}
		w.history.Send(n, 0, partition, check.BodyDigest(r.Key, r.Value))
		w.producer.TryProduce(context.Background(), r, func(r *kgo.Record, err error) {
			if err != nil {
				w.history.Unknown(n)
				if !errors.Is(err, kgo.ErrClientClosed) {
					w.fail("record %d: %v", n, err)
				}
				return
			}
			w.history.Ack(n, r.Offset)
			w.mu.Lock()
			w.produced[partition] = max(w.produced[partition], r.Offset+1)
			w.mu.Unlock()
		})
	}
}

func (w *work) run() uint64 { return w.history.Run() }

// observe asks again and again what is committed.
func (w *work) observe(ctx context.Context) {
	cl, err := kgo.NewClient(w.clientOpts()...)
	if err != nil {
		w.fail("observer: %v", err)
		return
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	for ctx.Err() == nil {
		floor := make([]int64, partitions)
		for p := range floor {
			floor[p] = w.group.CommitFloor(p)
		}
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		offsets, err := admin.FetchOffsets(asking, w.at.group)
		cancel()
		if err == nil && offsets.Error() == nil {
			for p := range floor {
				o, _ := offsets.Lookup(w.at.topic, int32(p))
				at := max(o.At, 0)
				w.group.FoundCommitted(p, floor[p], at)
				w.committedUpTo(p, at)
				w.mu.Lock()
				w.committed[p] = at
				w.mu.Unlock()
			}
		}
		wait(ctx, 50*time.Millisecond)
	}
}

func (w *work) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// add has one more member in the group.
func (w *work) add(c client) {
	w.ran++
	running, stop := context.WithCancel(context.Background())
	m := &member{name: fmt.Sprintf("member %d", w.ran), stop: stop, done: make(chan struct{})}
	w.members = append(w.members, m)
	go func() {
		defer close(m.done)
		if err := c.member(running, w.at, func(e event) { w.said(m.name, e) }); err != nil {
			w.fail("%s: %v", m.name, err)
		}
		w.group.Gone(m.name)
	}()
}

// allHave waits until every member has partitions.
func (w *work) allHave(ctx context.Context, t *testing.T) {
	t.Helper()
	until(ctx, t, "every member has partitions", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, m := range w.members {
			if w.has[m.name] == 0 && len(w.wrong) == 0 {
				return false
			}
		}
		return true
	})
}

// leave has the oldest member leave, and waits until it has.
func (w *work) leave() {
	m := w.members[0]
	w.members = w.members[1:]
	m.stop()
	<-m.done
}

// said is what a member said.
func (w *work) said(member string, e event) {
	switch e.Event {
	case "assigned", "revoked":
		if len(e.Partitions) > 0 {
			w.mu.Lock()
			w.rebalance++
			if e.Event == "assigned" {
				w.has[member] += len(e.Partitions)
			} else {
				w.has[member] -= len(e.Partitions)
			}
			w.mu.Unlock()
		}
		if e.Event == "assigned" {
			w.group.Assigned(member, e.Partitions...)
		} else {
			w.group.Revoked(member, e.Partitions...)
		}
	case "record":
		w.group.Read(member, e.Partition, e.Offset, e.Number)
		w.mu.Lock()
		if l := w.watched; l != nil {
			l.note(l.read, e.Partition, e.Offset+1)
		}
		w.mu.Unlock()
	case "committed":
		w.group.Committed(e.Partition, e.Offset)
		w.committedUpTo(e.Partition, e.Offset)
	case "note":
		w.mu.Lock()
		w.notes = append(w.notes, fmt.Sprintf("%s %s: %s", time.Now().Format("15:04:05.000"), member, e.Text))
		w.notes = w.notes[max(0, len(w.notes)-200):]
		w.mu.Unlock()
	default:
		w.fail("%s says %s: %s", member, e.Event, e.Text)
	}
}

func (w *work) committedUpTo(partition int, offset int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l := w.watched; l != nil {
		l.note(l.committed, partition, offset)
	}
}

// note says that the group has got to offset, which is the next one.
func (l *lap) note(what []time.Duration, partition int, offset int64) {
	if what[partition] == 0 && offset > l.from[partition] {
		what[partition] = max(time.Since(l.began), 1)
		l.left--
	}
}

// watch begins a lap: what is produced from now on counts.
func (w *work) watch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watched = &lap{began: time.Now(), from: slices.Clone(w.produced), read: make([]time.Duration, partitions),
		committed: make([]time.Duration, partitions), rebalance: w.rebalance, left: 2 * partitions}
}

// settle waits until every partition has got on since watch.
func (w *work) settle(ctx context.Context, t *testing.T) *lap {
	t.Helper()
	var l *lap
	for {
		w.mu.Lock()
		left, wrong := w.watched.left, slices.Clone(w.wrong)
		if l = w.watched; left == 0 {
			l.rebalance = w.rebalance - l.rebalance
			w.watched = nil
		}
		w.mu.Unlock()
		switch {
		case len(wrong) > 0:
			w.tell(t)
			t.FailNow()
		case left == 0:
			return l
		case ctx.Err() != nil:
			w.tell(t)
			t.Fatalf("the group has not got on in every partition: %v\nuntil a record is read: %v\nuntil one is committed: %v", context.Cause(ctx), l.read, l.committed)
		}
		wait(ctx, 5*time.Millisecond)
	}
}

// tell fails the test for what went wrong, and says what members went on after.
func (w *work) tell(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.wrong[:min(20, len(w.wrong))] {
		t.Error(s)
	}
	for _, s := range w.notes[max(0, len(w.notes)-60):] {
		t.Log(s)
	}
}

// finish ends the producing, waits until the group has everything and has committed it, has the members leave, and judges.
func (w *work) finish(ctx context.Context, t *testing.T, forgets bool) {
	t.Helper()
	w.producing()
	must(t, w.producer.Flush(ctx))
	ends := w.ends(ctx, t)
	found := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.wrong) > 0 || slices.Equal(w.committed, ends)
	}
	for !w.group.SeenUpTo(ends) || !found() {
		if ctx.Err() != nil {
			t.Errorf("the group has not read and committed everything: %v", context.Cause(ctx))
			break
		}
		wait(ctx, 10*time.Millisecond)
	}
	for len(w.members) > 0 {
		w.leave()
	}
	w.observing()
	w.readBack(ctx, t, ends)
	judged := w.history.Finish(ends)
	w.mu.Lock()
	group := w.group.Finish(w.history, ends, w.committed)
	w.mu.Unlock()
	t.Logf("%d records acknowledged; the group was shown %d, %d of them again", judged.Ops.Acked, group.Shown, group.Repeated)
	if v := judged.Verdict(); v != "" {
		t.Errorf("the log: %s %v", v, judged.Findings)
	}
	if v := group.Verdict(); v != "" && forgets && group.Only(check.CommitBack) {
		t.Logf("the group: %s", v)
	} else if v != "" {
		t.Errorf("the group: %s", v)
		for _, f := range group.Findings {
			t.Error(f)
		}
	}
	w.mu.Lock()
	wrong := len(w.wrong) > 0
	w.mu.Unlock()
	if wrong || t.Failed() {
		w.tell(t)
	}
}

func (w *work) ends(ctx context.Context, t *testing.T) []int64 {
	t.Helper()
	ends := make([]int64, partitions)
	floor := make([]int64, partitions)
	for p := range floor {
		floor[p] = w.history.ListFloor(p)
	}
	listed, err := kadm.NewClient(w.producer).ListEndOffsets(ctx, w.at.topic)
	must(t, errors.Join(err, listed.Error()))
	for p := range ends {
		o, _ := listed.Lookup(w.at.topic, int32(p))
		w.history.Listed(0, p, floor[p], o.Offset)
		ends[p] = o.Offset
	}
	return ends
}

// readBack shows the history the whole log.
func (w *work) readBack(ctx context.Context, t *testing.T, ends []int64) {
	t.Helper()
	from := make(map[int32]kgo.Offset)
	for p := range ends {
		from[int32(p)] = kgo.NewOffset().At(0)
	}
	cl, err := kgo.NewClient(w.clientOpts(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{w.at.topic: from}))...)
	must(t, err)
	defer cl.Close()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 5*time.Minute, errors.New("5 minutes passed"))
	defer cancel()
	for reader := w.history.Reader(); !reader.Done(ends); {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Errorf("the log is not read back: %v", errors.Join(context.Cause(ctx), fetches.Err()))
			return
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			records := make([]check.Record, len(p.Records))
			for i, r := range p.Records {
				records[i] = check.Record{Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
			}
			reader.Read(0, int(p.Partition), records)
		})
	}
}

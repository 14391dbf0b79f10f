package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/localstack/check"
)

// runner is one run. Fields above the gap are set before anything starts and read only afterwards.
type runner struct {
	cfg          Config
	run          uint64
	topics       []string
	ids          [][16]byte // by topic; zero where the brokers have no topic ids
	history      *check.History
	tap          check.Tap
	limiter      *rate.Limiter
	decompressor kgo.Decompressor

	producing atomic.Bool
	ends      atomic.Pointer[[]int64] // final high watermarks, once known
}

func (r *runner) partitions() int { return len(r.topics) * r.cfg.Partitions }

func (r *runner) finalEnds() []int64 {
	if p := r.ends.Load(); p != nil {
		return *p
	}
	return nil
}

// topicIndex finds a topic by id where there is one, else by name.
func (r *runner) topicIndex(name string, id [16]byte) (int, bool) {
	var i int
	if id != [16]byte{} {
		i = slices.Index(r.ids, id)
	} else {
		i = slices.Index(r.topics, name)
	}
	return i, i >= 0
}

// shuffledBrokers gives each client another address to start from.
func (r *runner) shuffledBrokers(rng *rand.Rand) []string {
	brokers := slices.Clone(r.cfg.Brokers)
	rng.Shuffle(len(brokers), func(i, j int) { brokers[i], brokers[j] = brokers[j], brokers[i] })
	return brokers
}

// Run runs the workload and returns its summary. Ending ctx ends the producing early; what was sent is still read
// back. The error says that the run could not be carried out; violations are in the summary, whose OK is then false.
func Run(ctx context.Context, cfg Config) (Summary, error) {
	if err := cfg.Validate(); err != nil {
		return Summary{}, err
	}
	brokers, err := client.Brokers(cfg.Brokers)
	if err != nil {
		return Summary{}, err
	}
	cfg.Brokers = brokers
	r := &runner{cfg: cfg, run: rand.Uint64(), decompressor: kgo.DefaultDecompressor()}
	r.tap, _ = cfg.tap(r.run) // its name was validated
	if cfg.Rate > 0 {
		r.limiter = rate.NewLimiter(rate.Limit(cfg.Rate), max(1, cfg.Rate/100))
	}
	r.history, err = check.New(check.Config{Run: r.run, Partitions: cfg.Topics * cfg.Partitions, RecordsMax: cfg.RecordsMax})
	if err != nil {
		return Summary{}, err
	}
	admin, err := kgo.NewClient(client.Options(cfg.Brokers, cfg.Security...)...)
	if err != nil {
		return Summary{}, fmt.Errorf("open a client: %w", err)
	}
	defer admin.Close()
	adm := kadm.NewClient(admin)
	if err := r.createTopics(ctx, adm); err != nil {
		return Summary{}, err
	}
	started := time.Now()
	s, err := r.phases(ctx)
	s.DurationS = time.Since(started).Seconds()
	s.Kept = r.topics
	if err == nil && s.OK && !cfg.Keep {
		// Violations are worth a look at the topics; a clean run leaves nothing behind.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		if answers, err := adm.DeleteTopics(cleanup, r.topics...); err == nil && answers.Error() == nil {
			s.Kept = nil
		} else {
			cfg.logger().Warn("delete the topics of the run", "error", errors.Join(err, answers.Error()))
		}
	}
	s.Kept = nonNil(s.Kept)
	return s, err
}

func (r *runner) createTopics(ctx context.Context, adm *kadm.Client) error {
	for i := range r.cfg.Topics {
		r.topics = append(r.topics, fmt.Sprintf("firn-verify-%016x-%d", r.run, i))
	}
	configs := map[string]*string{
		"cleanup.policy": kadm.StringPtr("delete"), "retention.ms": kadm.StringPtr("-1"), "retention.bytes": kadm.StringPtr("-1"),
	}
	for key, value := range r.cfg.Configs {
		configs[key] = value
	}
	asked, cancel := context.WithTimeout(ctx, r.cfg.DrainTimeout)
	defer cancel()
	topics := client.Topics{
		Names: r.topics, Partitions: int32(r.cfg.Partitions), ReplicationFactor: int16(r.cfg.ReplicationFactor), Configs: configs,
	}
	if err := topics.Create(asked, adm); err != nil {
		return err
	}
	details, err := adm.ListTopics(asked, r.topics...)
	if err != nil {
		return fmt.Errorf("look up topic ids: %w", err)
	}
	for _, name := range r.topics {
		r.ids = append(r.ids, details[name].ID)
	}
	return nil
}

// phases produces while consumers follow and the watcher lists, drains, and reads back once more.
func (r *runner) phases(ctx context.Context) (Summary, error) {
	var some Sometimes
	fetched := map[int32]bool{}
	collect := func(o *roamer) {
		some.merge(o.seen)
		some.ConnectionsLost += int(o.lost.n.Load())
		for id := range o.fetched {
			fetched[id] = true
		}
		o.client.Close()
	}
	producers, roamers, err := r.clients()
	if err != nil {
		return Summary{}, err
	}
	consumers, watcher := roamers[:r.cfg.Consumers], roamers[r.cfg.Consumers]

	// A signal ends the producing; what follows is bounded by the drain timeouts instead.
	detached := context.WithoutCancel(ctx)
	producing, stopProducing := context.WithTimeout(ctx, r.cfg.Duration)
	defer stopProducing()
	flushed, stopFlush := context.WithTimeout(detached, r.cfg.Duration+r.cfg.DrainTimeout)
	defer stopFlush()
	following, stopFollowing := context.WithCancel(detached)
	defer stopFollowing()
	watching, stopWatching := context.WithCancel(detached)
	defer stopWatching()

	r.producing.Store(true)
	var sending, reading, listing sync.WaitGroup
	readers := make([]*check.Reader, len(consumers))
	for i, c := range consumers {
		readers[i] = r.history.Reader()
		reading.Go(func() { c.follow(following, readers[i]) })
	}
	listing.Go(func() { watcher.watch(watching) })
	for _, p := range producers {
		sending.Go(func() { p.loop(producing, flushed) })
	}
	sending.Wait()
	r.producing.Store(false)
	stopWatching()
	listing.Wait()
	for _, p := range producers {
		some.ProduceRetries += int(p.retries.Load())
		some.ConnectionsLost += int(p.lost.n.Load())
	}

	drain, cancel := context.WithTimeout(detached, r.cfg.DrainTimeout)
	defer cancel()
	ends, endsErr := watcher.settleEnds(drain)
	if endsErr != nil {
		stopFollowing()
		reading.Wait()
		for _, o := range roamers {
			collect(o)
		}
		return Summary{}, fmt.Errorf("the run has no end to read to: %w", endsErr)
	}
	r.ends.Store(&ends)
	stopAtTimeout := context.AfterFunc(drain, stopFollowing)
	reading.Wait()
	stopAtTimeout()
	stuck := 0
	for _, reader := range readers {
		if !reader.Done(ends) {
			stuck++
		}
	}
	for _, o := range roamers {
		collect(o)
	}
	again, err := r.readAgain(detached, collect)
	if err != nil {
		return Summary{}, err
	}
	return r.summary(some, len(fetched), stuck+again, ends), nil
}

// clients opens all producers, and the consumers with the watcher after them.
func (r *runner) clients() (producers []*producer, roamers []*roamer, err error) {
	defer func() {
		if err != nil {
			for _, p := range producers {
				p.client.Close()
			}
			for _, o := range roamers {
				o.client.Close()
			}
		}
	}()
	for i := range r.cfg.Producers {
		p, err := newProducer(i, r)
		if err != nil {
			return producers, roamers, fmt.Errorf("open producer %d: %w", i, err)
		}
		producers = append(producers, p)
	}
	for i := range r.cfg.Consumers + 1 {
		o, err := newRoamer(r, uint64(i))
		if err != nil {
			return producers, roamers, fmt.Errorf("open consumer %d: %w", i, err)
		}
		roamers = append(roamers, o)
	}
	return producers, roamers, nil
}

// readAgain reads everything from the start with a fresh consumer: what was merged, rewritten or evicted meanwhile must
// still show the same bytes. It returns how many readers got stuck.
func (r *runner) readAgain(ctx context.Context, collect func(*roamer)) (stuck int, err error) {
	o, err := newRoamer(r, 1<<16)
	if err != nil {
		return 0, fmt.Errorf("open a consumer: %w", err)
	}
	defer collect(o)
	bounded, cancel := context.WithTimeout(ctx, r.cfg.DrainTimeout)
	defer cancel()
	reader := r.history.Reader()
	o.follow(bounded, reader)
	if !reader.Done(r.finalEnds()) {
		return 1, nil
	}
	return 0, nil
}

func (r *runner) summary(some Sometimes, fetched, stuck int, ends []int64) Summary {
	judged := r.history.Finish(ends)
	some.BrokersFetched, some.Reread = fetched, judged.Reread
	s := Summary{
		Test: "verify", Seed: r.cfg.Seed, Run: fmt.Sprintf("%x", binary.BigEndian.AppendUint64(nil, r.run)),
		Commit: r.cfg.Version, Clients: "franz-go", Topics: r.cfg.Topics, Partitions: r.cfg.Partitions,
		Producers: r.cfg.Producers, Consumers: r.cfg.Consumers, Idempotent: r.cfg.Idempotent, Codec: r.cfg.Codec,
		Plant: r.cfg.Plant, Ops: judged.Ops, RecordsRead: judged.Read, OffsetsRead: judged.Offsets,
		Counts: judged.Counts, Stuck: stuck, Sometimes: some, Findings: nonNil(judged.Findings), Verdict: judged.Verdict(),
	}
	if s.Verdict == "" && stuck > 0 {
		s.Verdict = fmt.Sprintf("%d readers did not reach the end within %s", stuck, r.cfg.DrainTimeout)
	}
	s.OK = s.Verdict == ""
	return s
}

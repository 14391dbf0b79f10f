package clean

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore/batch"
)

// Interval is how long to wait after a Step that found nothing to do, as log.cleaner.backoff.ms of Kafka has it.
const Interval = 15 * time.Second

// Config holds the tunables; the zero value of each is its default.
type Config struct {
	// MemoryBytes bounds what a cleaning keeps of keys. Beside it there are a chunk of input, one of output and a batch. Default 64 MiB.
	MemoryBytes int64
	// ObjectBytes is the size (raw bytes) at which an output is closed, if no row is larger. Default 256 MiB.
	ObjectBytes int64
	// DecompressedMax bounds what a batch decompresses to. It is no less than what agents accept. Default batch.DefaultMaxDecompressedBytes.
	DecompressedMax int64
	// RetryMin and RetryMax bound the pause before a partition whose cleaning stopped is tried again. Defaults 1 min and 1 h.
	RetryMin, RetryMax time.Duration
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	positive := func(name string, v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
		if *v < 0 {
			errs = append(errs, fmt.Errorf("%s %d is negative", name, *v))
		}
	}
	positive("MemoryBytes", &c.MemoryBytes, 64<<20)
	positive("ObjectBytes", &c.ObjectBytes, 256<<20)
	positive("DecompressedMax", &c.DecompressedMax, batch.DefaultMaxDecompressedBytes)
	positive("RetryMin", (*int64)(&c.RetryMin), int64(time.Minute))
	positive("RetryMax", (*int64)(&c.RetryMax), int64(time.Hour))
	if c.RetryMax < c.RetryMin {
		errs = append(errs, fmt.Errorf("RetryMax %v is below RetryMin %v", c.RetryMax, c.RetryMin))
	}
	return errors.Join(errs...)
}

// Deps are what key compaction works with.
type Deps struct {
	Env     *rewrite.Env
	Scratch duty.Scratch
	Busy    *duty.Busy // keeps this agent's duties out of each other's territories; may be nil
	// Bound is a time that log time has not passed while clocks were right (retention.T has it); nothing goes or is touched by its age
	// before. nil: log time is taken at its word.
	Bound   func() int64
	Logger  *slog.Logger     // default: discard
	Metrics *Metrics         // default: counted for nobody
	Now     func() time.Time // for the pauses of stopped partitions; default time.Now
}

// Cleaner does the key compaction of one agent. Step is called by one goroutine at a time, Fault by any.
type Cleaner struct {
	cfg     Config
	deps    Deps
	limits  batch.Limits
	walker  *batch.Validator
	filter  *batch.Filter
	parsed  map[entry.UUID]parsedSettings
	firsts  map[state.PartitionRef]firstDirty
	later   map[state.PartitionRef]time.Time // until when a partition lets others go first
	newest  *newest
	rows    []state.Row // scratch: of the partition that is looked at
	keys    duty.Room   // in scratch space, by bytes of the dirty rows whose keys go there
	objects duty.Room   // likewise, by bytes of an output
	mu      sync.Mutex  // guards stopped, which only Step changes
	stopped map[state.PartitionRef]stop
}

// stop is a partition that cannot be cleaned, and is left as it is.
type stop struct {
	object entry.ObjectID // that cannot be read
	err    error
	until  time.Time
	pause  time.Duration
}

// parsedSettings are a topic's, as long as the state has these lists: it replaces them and never changes one.
type parsedSettings struct {
	topic, cluster *entry.Config
	sizes          [2]int
	settings       topicconfig.Settings
}

// firstDirty remembers the time of a partition's first dirty record, which is read from the bucket.
type firstDirty struct {
	object    entry.ObjectID
	timestamp int64
}

// New returns a Cleaner. It has no goroutines and needs no Close.
func New(cfg Config, deps Deps) (*Cleaner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("compaction/clean: %w", err)
	}
	if deps.Env == nil || deps.Scratch == nil {
		return nil, errors.New("compaction/clean: an Env and scratch space are required")
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Metrics == nil {
		deps.Metrics = NewMetrics(nil)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	return &Cleaner{
		cfg: cfg, deps: deps, limits: batch.Limits{MaxDecompressedBytes: cfg.DecompressedMax},
		walker: batch.NewValidator(), filter: batch.NewFilter(),
		parsed: make(map[entry.UUID]parsedSettings), firsts: make(map[state.PartitionRef]firstDirty),
		later: make(map[state.PartitionRef]time.Time), stopped: make(map[state.PartitionRef]stop),
		keys: duty.Room{Least: cfg.RetryMin, Most: cfg.RetryMax}, objects: duty.Room{Least: cfg.RetryMin, Most: cfg.RetryMax},
	}, nil
}

// job is a partition to clean.
type job struct {
	ref      state.PartitionRef
	topic    string
	settings *topicconfig.Settings
	logTime  int64
	judged   int64 // logTime, or Deps.Bound where that is before it: what is old enough, is by this
	input    rewrite.Input
	plan     plan
}

// territory is up to duty.TerritoryPartitions neighbouring partitions of a topic, from one on.
type territory struct {
	topic compactedTopic
	from  int
	worst plan // of its partitions that are due
}

// Step cleans the partitions that are due of the territory that needs it most among this agent's. It returns soon after ctx ends.
func (c *Cleaner) Step(ctx context.Context) (worked bool, err error) {
	if !c.deps.Env.Ready() {
		return false, nil
	}
	list, err := c.due(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range list {
		done, free := c.deps.Busy.Try(duty.Territory(t.topic.id, int32(t.from)))
		if !free {
			continue
		}
		defer done()
		jobs, err := c.jobs(ctx, t, nil) // once more: what was in the way may have changed them
		if err != nil {
			return false, err
		}
		if len(jobs) > 0 {
			return c.clean(ctx, jobs)
		}
	}
	return false, nil
}

// due returns the territories of this agent where something is due, those that need it most first.
func (c *Cleaner) due(ctx context.Context) (list []territory, err error) {
	seen := make(map[state.PartitionRef]struct{})
	for _, topic := range c.compacted() {
		for from := 0; from < topic.partitions; from += duty.TerritoryPartitions {
			t := territory{topic: topic, from: from}
			jobs, err := c.jobs(ctx, t, seen)
			if err != nil {
				return nil, err
			}
			for i := range jobs {
				if i == 0 || jobs[i].plan.before(&t.worst) {
					t.worst = jobs[i].plan
				}
			}
			if t.worst.rows = nil; len(jobs) > 0 {
				list = append(list, t)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b territory) int {
		switch {
		case a.worst.before(&b.worst):
			return -1
		case b.worst.before(&a.worst):
			return 1
		}
		return 0
	})
	for ref := range c.firsts { // of partitions that are gone, or another agent's by now
		if _, ok := seen[ref]; !ok {
			delete(c.firsts, ref)
		}
	}
	for ref := range c.later {
		if _, ok := seen[ref]; !ok {
			delete(c.later, ref)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for ref := range c.stopped {
		if _, ok := seen[ref]; !ok {
			delete(c.stopped, ref)
		}
	}
	c.deps.Metrics.stopped.Set(float64(len(c.stopped)))
	return list, nil
}

// compactedTopic is a topic whose cleanup.policy holds compact.
type compactedTopic struct {
	id         entry.UUID
	name       string
	partitions int
	settings   topicconfig.Settings
}

func (c *Cleaner) compacted() (list []compactedTopic) {
	type view struct {
		compactedTopic
		configs []entry.Config
	}
	var all []view
	var cluster []entry.Config
	c.deps.Env.Meta().View(func(st *state.State) {
		cluster = st.BrokerConfigs()
		for t := range st.Topics() {
			all = append(all, view{compactedTopic{id: t.ID, name: t.Name, partitions: t.Partitions()}, t.Configs})
		}
	})
	parsed := make(map[entry.UUID]parsedSettings, len(all))
	for i := range all {
		t := &all[i]
		key := parsedSettings{topic: firstOf(t.configs), cluster: firstOf(cluster), sizes: [2]int{len(t.configs), len(cluster)}}
		have, ok := c.parsed[t.id]
		if !ok || have.topic != key.topic || have.cluster != key.cluster || have.sizes != key.sizes {
			have = key
			have.settings = topicconfig.Parse(getter(t.configs), getter(cluster))
		}
		parsed[t.id] = have
		if have.settings.Compact {
			t.settings = have.settings
			list = append(list, t.compactedTopic)
		}
	}
	c.parsed = parsed
	return list
}

func firstOf(list []entry.Config) *entry.Config {
	if len(list) == 0 {
		return nil
	}
	return &list[0]
}

func getter(list []entry.Config) topicconfig.Get {
	return func(name string) (string, bool) {
		at := slices.IndexFunc(list, func(c entry.Config) bool { return c.Name == name })
		if at < 0 {
			return "", false
		}
		return list[at].Value, true
	}
}

// jobs returns the partitions of a territory that are due, in order, if it is this agent's to look after. seen takes note of all.
func (c *Cleaner) jobs(ctx context.Context, t territory, seen map[state.PartitionRef]struct{}) ([]job, error) {
	var jobs []job
	var over []state.PartitionRef // stopped for an object that they do not have any more
	self := [16]byte(c.deps.Env.Meta().Incarnation())
	settings := &t.topic.settings
	bound := int64(math.MaxInt64)
	if c.deps.Bound != nil {
		bound = c.deps.Bound()
	}
	c.deps.Env.Meta().View(func(st *state.State) {
		judged := min(st.LogTime(), bound)
		topic := st.TopicByID(t.topic.id)
		if topic == nil || !duty.Mine(st, self, duty.Territory(t.topic.id, int32(t.from))) {
			return
		}
		for i := t.from; i < min(t.from+duty.TerritoryPartitions, topic.Partitions()); i++ {
			p := topic.Partition(i)
			if seen != nil {
				seen[p.Ref()] = struct{}{}
			}
			plan := look(p, settings, judged, c.rows)
			c.rows = plan.rows // its memory
			if s, ok := c.stopped[p.Ref()]; ok && !slices.ContainsFunc(plan.rows, func(row state.Row) bool { return row.Object == s.object }) {
				over = append(over, p.Ref())
			}
			if plan.dirtyBytes == 0 || !plan.due && plan.lag == 0 {
				continue
			}
			plan.rows = slices.Clone(plan.rows)
			jobs = append(jobs, job{
				ref: p.Ref(), topic: t.topic.name, settings: settings, logTime: st.LogTime(), judged: judged, plan: plan,
				input: rewrite.Input{Topic: t.topic.id, Partition: int32(i), Epochs: p.Epochs(nil), LogStart: p.LogStart()},
			})
		}
	})
	for _, ref := range over {
		c.goesOn(&job{ref: ref, topic: t.topic.name})
	}
	now := c.deps.Now()
	var due []job
	for i := range jobs {
		j := &jobs[i]
		if s, ok := c.stopped[j.ref]; ok && now.Before(s.until) {
			continue
		}
		if until, ok := c.later[j.ref]; ok && now.Before(until) {
			continue
		}
		delete(c.later, j.ref)
		if !j.plan.due && j.plan.lag > 0 {
			timestamp, err := c.firstTimestamp(ctx, j)
			if err = c.sort(j, err); err != nil {
				return nil, err
			}
			j.plan.oldest(timestamp, j.logTime)
		}
		if j.plan.due {
			due = append(due, *j)
		}
	}
	return due, nil
}

// firstTimestamp is the timestamp of the first record of the job's first dirty row. The index knows the last one only.
func (c *Cleaner) firstTimestamp(ctx context.Context, j *job) (int64, error) {
	row := &j.plan.rows[j.plan.clean]
	if have, ok := c.firsts[j.ref]; ok && have.object == row.Object {
		return have.timestamp, nil
	}
	if row.MaxTimestamp < j.logTime-j.plan.lag { // then so is the first
		return row.MaxTimestamp, nil
	}
	source := c.deps.Env.NewSource()
	defer source.Close()
	r := source.Read(j.input, j.plan.rows[j.plan.clean:j.plan.clean+1])
	timestamp := row.MaxTimestamp
	if r.Next(ctx) {
		h := r.Batch().Header
		timestamp = h.BaseTimestamp
		if _, cleaned := h.DeleteHorizon(); cleaned || h.LogAppendTime() {
			timestamp = h.MaxTimestamp
		}
	} else if r.Err() != nil {
		return row.MaxTimestamp, r.Err()
	}
	c.firsts[j.ref] = firstDirty{row.Object, timestamp}
	return timestamp, nil
}

// clean works through the jobs of a territory.
func (c *Cleaner) clean(ctx context.Context, jobs []job) (worked bool, err error) {
	p := &piece{cleaner: c, ctx: ctx, topic: jobs[0].ref.Topic}
	defer p.drop()
	c.newest = newNewest(c.cfg.MemoryBytes*13/16, c.deps.Scratch)
	defer func() { c.newest.reset(); c.newest = nil }()
	for i := range jobs {
		j := &jobs[i]
		err := c.partition(ctx, p, j)
		if err != nil {
			p.giveUp()
		}
		if errors.Is(err, duty.ErrScratchFull) { // what others have in the object is not whole either
			p.drop()
		}
		if err == nil {
			c.goesOn(j)
		}
		if err = c.sort(j, err); err != nil {
			return worked, err
		}
		worked = true
	}
	last := &jobs[len(jobs)-1]
	bytes := int64(0)
	if p.out != nil {
		bytes = p.out.RawSize()
	}
	return true, c.sort(last, c.written(p, bytes, p.commit()))
}

// sort tells what concerns one partition alone, and is dealt with here, from what stops the step.
func (c *Cleaner) sort(j *job, err error) error {
	var input *rewrite.InputError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rewrite.ErrChanged):
		c.deps.Metrics.abandoned.Inc()
		c.deps.Logger.Debug("key compaction begins anew: rows changed meanwhile", "topic", j.topic, "partition", j.ref.Partition, "cause", err)
		return nil
	case errors.As(err, &input):
		c.mu.Lock()
		defer c.mu.Unlock()
		s, again := c.stopped[j.ref]
		s.pause = min(max(2*s.pause, c.cfg.RetryMin), c.cfg.RetryMax)
		s.object, s.err, s.until = input.Object, err, c.deps.Now().Add(s.pause)
		c.stopped[j.ref] = s
		c.deps.Metrics.stopped.Set(float64(len(c.stopped)))
		if !again {
			c.deps.Logger.Error("key compaction of a partition stops: its input cannot be read. Nothing is lost; `firn inspect segment` shows the object",
				"topic", j.topic, "partition", j.ref.Partition, "error", err)
		}
		return nil
	case errors.Is(err, errSmaller): // it comes again at once
		return nil
	case errors.Is(err, rewrite.ErrUnavailable), errors.Is(err, duty.ErrScratchFull):
		// It may be this partition's object or size alone, and the next Step would begin with it again: the others go first.
		c.later[j.ref] = c.deps.Now().Add(c.cfg.RetryMin)
	}
	return fmt.Errorf("key compaction of %s partition %d: %w", j.topic, j.ref.Partition, err)
}

// errSmaller: scratch space had no room for an output, and the next ones will be smaller. That was told.
var errSmaller = errors.New("scratch space had no room for an output of this size")

// full notes that scratch space had no room for so many bytes.
func (c *Cleaner) full(r *duty.Room, bytes int64, cause error) {
	was := c.scratchBound()
	if r.Full(bytes, c.deps.Now()); was == 0 {
		c.deps.Logger.Warn("scratch space is short: key compaction takes fewer rows at once, or writes smaller objects", "bytes_wanted", bytes, "error", cause, "mend", duty.RoomMend)
	}
	c.deps.Metrics.scratchBound.Set(float64(c.scratchBound()))
}

// room is how many bytes there may be; held is how many there was room for, 0: nothing was tried.
func (c *Cleaner) room(r *duty.Room, held int64) int64 {
	was := c.scratchBound()
	if held > 0 {
		r.Held(held, c.deps.Now())
	}
	bound, _ := r.Look(c.deps.Now())
	if now := c.scratchBound(); was > 0 && now == 0 {
		c.deps.Logger.Info("scratch space is not short any more: key compaction takes as much at once as it did")
	}
	c.deps.Metrics.scratchBound.Set(float64(c.scratchBound()))
	return bound
}

// scratchBound is the least bound that is in force, 0: none.
func (c *Cleaner) scratchBound() int64 {
	a, b := c.keys.Bound(), c.objects.Bound()
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// goesOn notes that a partition could be read, or has lost what could not be.
func (c *Cleaner) goesOn(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.stopped[j.ref]; ok {
		delete(c.stopped, j.ref)
		c.deps.Metrics.stopped.Set(float64(len(c.stopped)))
		c.deps.Logger.Info("key compaction of a partition goes on", "topic", j.topic, "partition", j.ref.Partition)
	}
}

// Fault says which partitions are not cleaned and why, or "".
func (c *Cleaner) Fault() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.stopped {
		return fmt.Sprintf("key compaction of %d partitions has stopped: %v", len(c.stopped), s.err)
	}
	return ""
}

// secret draws the key of one partition's hashes.
func secret() hashKey {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	return newHashKey(random)
}

package retention

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// Interval is how often Step is worth a call where it had nothing to do: Kafka's log.retention.check.interval.ms.
const Interval = 5 * time.Minute

// Config are the tunables; the zero value of each is its default.
type Config struct {
	Bounds
	// AskInterval is how often the bucket is asked for its time while there is nothing to delete. Default 1 h.
	AskInterval time.Duration
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	c.defaults()
	if c.AskInterval == 0 {
		c.AskInterval = time.Hour
	}
	var errs []error
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"lead", c.Lead}, {"settle", c.Settle}, {"jump", c.Jump}, {"ask interval", c.AskInterval}} {
		if d.d < 0 {
			errs = append(errs, fmt.Errorf("retention: %s is negative: %v", d.name, d.d))
		}
	}
	return errors.Join(errs...)
}

// Meta is what of a metastore.Client is used.
type Meta interface {
	View(fn func(*state.State))
	Submit(op entry.Op, done func(state.OpResult, error))
	Incarnation() log.Incarnation
}

// Cells keep what is to be known after a restart.
type Cells interface {
	Load(ctx context.Context, name string) (log.Cell, error)
	Swap(ctx context.Context, name string, version uint64, value []byte) (log.Cell, error)
}

var (
	_ Meta  = (*metastore.Client)(nil)
	_ Cells = metastore.Cells{}
)

// Clock is a clock that no agent sets: the bucket's.
type Clock interface {
	Now(ctx context.Context) (time.Time, error)
}

// Deps are the collaborators. Meta and Cells are required.
type Deps struct {
	Meta    Meta
	Cells   Cells
	Clock   Clock    // nil: the bucket has none
	Metrics *Metrics // nil: none
	// Steady is a clock that no setting of the time moves. Default: the process' own.
	Steady func() time.Duration
}

// T does the retention of one agent's territories. Step is for one goroutine; Fault is safe for all.
type T struct {
	cfg      Config
	deps     Deps
	judge    *Judge
	word     wordCell
	policies policies

	pass    *pass // nil: between two
	asked   bool  // the bucket has said its time when it was asked last,
	askedAt time.Duration
	fault   atomic.Pointer[string]
	trusted atomic.Pointer[trusted]
}

// trusted is a log time that the judge let pass, and the steady clock then.
type trusted struct {
	ms int64
	at time.Duration
}

// New makes a T.
func New(cfg Config, deps Deps) (*T, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Meta == nil || deps.Cells == nil {
		return nil, errors.New("retention: no metastore")
	}
	if deps.Metrics == nil {
		deps.Metrics = NewMetrics(nil)
	}
	if deps.Steady == nil {
		start := time.Now()
		deps.Steady = func() time.Duration { return time.Since(start) }
	}
	return &T{cfg: cfg, deps: deps, judge: NewJudge(cfg.Bounds), word: wordCell{cells: deps.Cells}}, nil
}

// Fault says in one phrase why nothing is deleted that should be, or "".
func (t *T) Fault() string {
	if why := t.fault.Load(); why != nil {
		return *why
	}
	return ""
}

// Bound is a time, Unix milliseconds, that log time cannot have passed with clocks that are right: what was trusted last, what the steady
// clock has counted since, and the lead that is allowed. It is 0 while nothing was trusted yet. Who else drops data by its age, as
// key compaction does tombstones, takes the lesser of the two.
func (t *T) Bound() int64 {
	last := t.trusted.Load()
	if last == nil {
		return 0
	}
	return last.ms + (t.deps.Steady() - last.at + t.cfg.Lead).Milliseconds()
}

// Bounds of one Step and of what it holds the state's lock for.
const (
	viewPartitions = 512
	viewRows       = 16 << 10
	stepPartitions = 16 << 10
	stepCuts       = 1000
)

// level is the feature level from which compaction acts.
const level = 3

// pass is one look at everything.
type pass struct {
	topics []topic
	topic  int // the next one,
	part   int // and its partition
	nowMS  int64
	judged bool // nowMS is what the judge says, and not just the log
	// operator says what only an operator can mend, though nothing may be due now.
	operator string
}

// topic is one whose records may go.
type topic struct {
	id     entry.UUID
	policy Policy
}

// cut is what one partition loses.
type cut struct {
	Cut
	ref state.PartitionRef
}

// Step looks at some partitions and removes from them what is due. It reports whether the pass goes on.
func (t *T) Step(ctx context.Context) (worked bool, err error) {
	worked, err = t.step(ctx)
	if !worked || err != nil {
		t.pass = nil
	}
	return worked, err
}

func (t *T) step(ctx context.Context) (worked bool, err error) {
	if t.pass != nil {
		t.pass.promise(t.policies.of(t.deps.Meta))
	} else {
		if t.pass = t.begin(); t.pass == nil {
			return false, nil
		}
		if t.due() {
			v, err := t.look(ctx, t.pass)
			if err != nil {
				return false, err
			}
			if v.Operator {
				t.pass.operator = v.Hold
			}
		}
	}
	p := t.pass
	cuts := t.cuts(p)
	if len(cuts) > 0 && !p.judged { // now it matters: once more from the start, by the judge's time
		v, err := t.look(ctx, p)
		if err != nil || v.Hold != "" {
			t.hold(v.Hold)
			return false, err
		}
		p.topic, p.part = 0, 0
		return true, nil
	}
	if err := t.remove(ctx, cuts); err != nil {
		return false, err
	}
	if p.topic < len(p.topics) {
		return true, nil
	}
	t.hold(p.operator)
	t.deps.Metrics.passes.Inc()
	return false, nil
}

// begin starts a pass; nil where it is not time yet. One over no topics looks at the clocks alone, which Bound needs.
func (t *T) begin() *pass {
	p := &pass{}
	ready := false
	t.deps.Meta.View(func(st *state.State) {
		ready = st.FeatureLevel() >= level
		p.nowMS = st.LogTime()
	})
	if !ready {
		t.hold("")
		return nil
	}
	p.topics = t.policies.of(t.deps.Meta)
	return p
}

// promise has the pass go by what topics promise now: it may take minutes, and what has come to be kept for longer meanwhile stays.
func (p *pass) promise(now []topic) {
	if len(now) == len(p.topics) && (len(now) == 0 || &now[0] == &p.topics[0]) {
		return
	}
	policies := make(map[entry.UUID]Policy, len(now))
	for _, of := range now {
		policies[of.id] = of.policy
	}
	list := make([]topic, len(p.topics)) // topics that are new are the next pass's
	for i, of := range p.topics {
		policy, lets := policies[of.id]
		if !lets {
			policy = Policy{AgeMS: -1, Bytes: -1}
		}
		list[i] = topic{of.id, policy}
	}
	p.topics = list
}

// due reports whether to look at the clocks though nothing may be due. The steady clock costs nothing, and has to be looked at for
// jumps to show; the bucket's costs a request.
func (t *T) due() bool {
	return t.deps.Clock == nil || !t.asked || t.deps.Steady()-t.askedAt >= t.cfg.AskInterval
}

// look asks the judge, and takes its time where it lets go.
func (t *T) look(ctx context.Context, p *pass) (v Verdict, err error) {
	times := Times{LogMS: p.nowMS, Steady: t.deps.Steady()}
	if t.deps.Clock != nil {
		times.Bucket, times.Unheard = t.deps.Clock.Now(ctx)
		times.Witness = !errors.Is(times.Unheard, objstore.ErrInvalid) // else it has no clock after all
		t.asked, t.askedAt = times.Unheard == nil, times.Steady
	}
	var word *Word
	if t.judge.Wants(times) {
		if word, err = t.word.load(ctx); err != nil {
			return v, err
		}
		times.FirstLog = word == nil
	}
	v = t.judge.Look(times, word)
	t.deps.Metrics.lead.Set(v.Lead.Seconds())
	if v.Hold == "" {
		p.nowMS, p.judged = v.NowMS, true
		t.trusted.Store(&trusted{v.NowMS, times.Steady})
		t.word.keep(ctx, t.judge.Keep(times, word))
	}
	return v, nil
}

// hold records why nothing is deleted, or "" where all that is due is.
func (t *T) hold(why string) {
	t.fault.Store(&why)
	held := 0.0
	if why != "" {
		held = 1
	}
	t.deps.Metrics.held.Set(held)
}

// cuts finds what is due in the next partitions of a pass, under the lock for a bounded number of partitions and rows at a time.
func (t *T) cuts(p *pass) []cut {
	var found []cut
	rows := make([]state.Row, 0, 64)
	self := t.deps.Meta.Incarnation()
	for looked := 0; looked < stepPartitions && len(found) < stepCuts && p.topic < len(p.topics); {
		t.deps.Meta.View(func(st *state.State) {
			for parts, read := 0, 0; parts < viewPartitions && read < viewRows && len(found) < stepCuts && p.topic < len(p.topics); {
				of := &p.topics[p.topic]
				live := st.TopicByID(of.id)
				if live == nil || p.part >= live.Partitions() {
					p.topic, p.part = p.topic+1, 0
					looked++
					parts++
					continue
				}
				end := min(p.part/duty.TerritoryPartitions*duty.TerritoryPartitions+duty.TerritoryPartitions, live.Partitions())
				if p.part%duty.TerritoryPartitions == 0 && !duty.Mine(st, self, duty.Territory(of.id, int32(p.part))) {
					p.part = end
					looked++
					parts++
					continue
				}
				for ; p.part < end && read < viewRows; p.part++ {
					part := live.Partition(p.part)
					c := oldest(part, of.policy, p.nowMS, &rows)
					read++
					if c.Rows > 0 {
						found = append(found, cut{Cut: c, ref: part.Ref()})
						read += c.Rows
					}
					looked++
					parts++
				}
			}
		})
	}
	return found
}

// oldestRowsMax bounds what one pass takes from a partition; the rest goes with the next.
const oldestRowsMax = viewRows

// oldest plans for a partition: its first row is nearly always all that has to be looked at.
func oldest(p *state.Partition, policy Policy, nowMS int64, rows *[]state.Row) Cut {
	var total Cut
	size := p.Size()
	from := p.LogStart()
	for n := 1; total.Rows < oldestRowsMax; n = min(4*n, 1024) {
		*rows = p.Rows(from, n, (*rows)[:0])
		if len(*rows) == 0 {
			break
		}
		c := Plan(*rows, size, policy, nowMS)
		total.add(c)
		size -= c.Bytes
		if c.Rows < len(*rows) {
			undated := (*rows)[len(*rows)-1].MaxTimestamp < 0 // their age is that of a row that comes later
			if !undated || n >= 1024 || len(*rows) < n {
				break
			}
		}
		if c.Rows > 0 {
			from = c.Before
		}
	}
	return total
}

func (c *Cut) add(d Cut) {
	if d.Rows == 0 {
		return
	}
	c.Before, c.Rows, c.Bytes, c.BySize = d.Before, c.Rows+d.Rows, c.Bytes+d.Bytes, c.BySize+d.BySize
}

// remove proposes the cuts, all at once so that they share entries, and waits for them.
func (t *T) remove(ctx context.Context, cuts []cut) error {
	type answer struct {
		i    int
		code state.Code
		err  error
	}
	answers := make(chan answer, len(cuts))
	for i := range cuts {
		op := &entry.DeleteRecords{Topic: cuts[i].ref.Topic, Partition: uint32(cuts[i].ref.Partition), BeforeOffset: cuts[i].Before}
		t.deps.Meta.Submit(op, func(r state.OpResult, err error) { answers <- answer{i, r.Code, err} })
	}
	for range cuts {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case a := <-answers:
			if a.err != nil {
				return fmt.Errorf("remove what retention lets go: %w", a.err)
			}
			if a.code != state.OK { // the topic was deleted meanwhile
				continue
			}
			m, c := t.deps.Metrics, &cuts[a.i]
			m.cuts.Inc()
			m.bytes.Add(float64(c.Bytes))
			m.rows.WithLabelValues("size").Add(float64(c.BySize))
			m.rows.WithLabelValues("time").Add(float64(c.Rows - c.BySize))
		}
	}
	return nil
}

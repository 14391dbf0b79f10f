package merge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore/segment"
)

// Config holds the tunables; the zero value of each is its default.
type Config struct {
	// WindowBytesMin and WindowBytesMax bound the bytes of a window; between them the number of topics decides (BoundsFor). So much
	// scratch space is wanted, and twice ObjectBytes; where there is less, windows are merged in pieces. Defaults 256 MiB and 2 GiB.
	WindowBytesMin, WindowBytesMax int64
	// Patience says when the last window is merged. Defaults 1 min, 10 min, 1 h.
	Patience Patience
	// ObjectBytes is the size past which an object of several partitions ends. Default 256 MiB.
	ObjectBytes int64
	// OwnBytes is from how many bytes on a partition has an object for itself. Default 64 MiB.
	OwnBytes int64
	// Tiers are the rules for merged rows.
	Tiers TierRules
	// TierBytes bounds what is merged of a territory in one Step. Default 1 GiB.
	TierBytes int64
	// Rescan is how long after a look at all partitions the next one begins. Default 15 s.
	Rescan time.Duration
	// BackoffMin and BackoffMax bound after what time what could not be merged is tried again. Defaults 1 min and 1 h.
	BackoffMin, BackoffMax time.Duration
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	set(&c.WindowBytesMin, 256<<20)
	set(&c.WindowBytesMax, max(c.WindowBytesMin, 2<<30))
	set(&c.Patience.After, time.Minute)
	set(&c.Patience.Longer, max(c.Patience.After, 10*time.Minute))
	set(&c.Patience.Most, max(c.Patience.Longer, time.Hour))
	set(&c.ObjectBytes, 256<<20)
	set(&c.OwnBytes, min(c.ObjectBytes, 64<<20))
	set(&c.TierBytes, 1<<30)
	set(&c.Rescan, 15*time.Second)
	set(&c.BackoffMin, time.Minute)
	set(&c.BackoffMax, max(c.BackoffMin, time.Hour))
	c.Tiers = c.Tiers.withDefaults()
	bad(c.WindowBytesMin > 0 && c.WindowBytesMax >= c.WindowBytesMin, "windows of %d to %d bytes", c.WindowBytesMin, c.WindowBytesMax)
	bad(c.Patience.After > 0 && c.Patience.Longer >= c.Patience.After && c.Patience.Most >= c.Patience.Longer,
		"windows are due after %v, %v, %v, which do not ascend", c.Patience.After, c.Patience.Longer, c.Patience.Most)
	bad(c.ObjectBytes > 0 && c.OwnBytes > 0 && c.OwnBytes <= c.ObjectBytes, "ObjectBytes %d and OwnBytes %d", c.ObjectBytes, c.OwnBytes)
	bad(c.Tiers.Fan > 1 && c.Tiers.Growth > 0 && c.Tiers.Full > 0 && c.Tiers.Crowd >= c.Tiers.Fan, "tiers by %+v", c.Tiers)
	bad(c.TierBytes > 0, "TierBytes %d is not positive", c.TierBytes)
	bad(c.Rescan > 0, "Rescan %v is not positive", c.Rescan)
	bad(c.BackoffMin > 0 && c.BackoffMax >= c.BackoffMin, "backoff between %v and %v", c.BackoffMin, c.BackoffMax)
	return errors.Join(errs...)
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Deps are what merging works with.
type Deps struct {
	Env *rewrite.Env
	// Busy keeps this agent's duties out of each other's territories. It may be nil.
	Busy *duty.Busy
	// Now is the agent's clock: it decides nothing but when. Default time.Now.
	Now func() time.Time
	// Logger may be nil.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Merger merges what is this agent's to merge. Step is called by one goroutine at a time.
type Merger struct {
	cfg  Config
	deps Deps
	env  *rewrite.Env
	meta rewrite.Meta

	seen sightings
	page []state.Row // scratch: what one look at the state copies
	list []state.Row // scratch: of planTiers
	// objects is scratch of level0.
	objects []state.Object
	left    map[entry.ObjectID]backoff // objects of level 0 that a window could not empty
	again   bool                       // the next window may be one that was tried before
	bad     troubles
	scan    sweep
	// owed is how many bytes tiers may still have before the next window.
	owed int64
	room duty.Room // in scratch space, for the inputs of a piece of work
}

// backoff is how long something is left alone.
type backoff struct {
	until time.Time
	delay time.Duration
}

func (b *backoff) next(now time.Time, least, most time.Duration) {
	b.delay = min(max(2*b.delay, least), most)
	b.until = now.Add(b.delay)
}

// New checks the config. A Merger has no goroutines and needs no Close.
func New(cfg Config, deps Deps) (*Merger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("compaction/merge: %w", err)
	}
	if deps.Env == nil {
		return nil, errors.New("compaction/merge: Env is required")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Metrics == nil {
		deps.Metrics = NewMetrics(nil)
	}
	m := &Merger{cfg: cfg, deps: deps, env: deps.Env, meta: deps.Env.Meta(), left: make(map[entry.ObjectID]backoff)}
	m.room = duty.Room{Least: cfg.BackoffMin, Most: cfg.BackoffMax}
	m.bad = troubles{m: m, objects: make(map[entry.ObjectID]*trouble), places: make(map[place]*trouble), away: make(map[entry.ObjectID]time.Time)}
	return m, nil
}

// tierShare is how many bytes of tiers may be merged for each of windows, where both wait: about what a byte costs in its life.
const tierShare = 3

// Step merges one window, or rows of one territory, where any are due. Where both are they take turns by bytes, so that an agent that has
// more to do than it can does not end with a row for every window.
func (m *Merger) Step(ctx context.Context) (worked bool, err error) {
	if !m.env.Ready() {
		return false, nil
	}
	m.bad.forget()
	if m.owed > 0 {
		if worked, err = m.stepTiers(ctx); worked || err != nil {
			return worked, err
		}
		m.owed = 0
	}
	if worked, err = m.stepWindow(ctx); worked || err != nil {
		return worked, err
	}
	return m.stepTiers(ctx)
}

// stepWindow merges the first window that is due and ours. Those that were tried before and those that were not take turns: what fails
// for ever, such as a topic's storage class that the store does not know, may be more than can be read again until it is due again.
func (m *Merger) stepWindow(ctx context.Context) (worked bool, err error) {
	now := m.deps.Now()
	objects, topics, n := m.level0()
	m.seen.look(n, now, m.cfg.Patience.Most)
	slices.SortFunc(objects, func(a, b Flushed) int {
		// Born is not known of what was there before the cluster's level knew it: agents flushed those about in turn.
		return cmp.Or(cmp.Compare(a.Born, b.Born), cmp.Compare(a.ID.CollectionEpoch, b.ID.CollectionEpoch), cmp.Compare(a.ID.Seq, b.ID.Seq), a.ID.Compare(b.ID))
	})
	objects = slices.Compact(objects) // the table was read in pages
	m.backlog(objects, now)
	var again []Flushed // of the first window that was tried before
	for _, w := range Windows(objects, BoundsFor(topics, m.cfg.WindowBytesMin, m.cfg.WindowBytesMax)) {
		mine := false
		m.meta.View(func(st *state.State) { mine = duty.Mine(st, m.meta.Incarnation(), w.Key()) })
		if !mine {
			continue
		}
		fresh := w.Objects[:0:0]
		for _, o := range w.Objects {
			if b, left := m.left[o.ID]; !left || !now.Before(b.until) {
				fresh = append(fresh, o)
			}
		}
		if len(fresh) == 0 {
			continue
		}
		age := m.seen.age(fresh[0].Born, now)
		if !m.cfg.Patience.Due(&w, age, func() Contents { return m.contents(fresh) }) {
			continue
		}
		tried := !slices.ContainsFunc(fresh, func(o Flushed) bool { _, left := m.left[o.ID]; return !left })
		if tried && !m.again {
			if len(again) == 0 {
				again = fresh
			}
			continue
		}
		m.again = !tried
		return true, m.mergeWindow(ctx, m.fitting(fresh))
	}
	if m.again = false; len(again) > 0 {
		return true, m.mergeWindow(ctx, m.fitting(again))
	}
	return false, nil
}

// fitting are as many of the objects, from the first on, as scratch space has had room for of late, and one at least.
func (m *Merger) fitting(objects []Flushed) []Flushed {
	bound, total := m.bound(), int64(0)
	for i := range objects {
		if total += objects[i].Size; total > bound && i > 0 {
			return objects[:i]
		}
	}
	return objects
}

func bytesOf(objects []Flushed) (total int64) {
	for i := range objects {
		total += objects[i].Size
	}
	return total
}

// bound is how many bytes of inputs a piece of work may have.
func (m *Merger) bound() int64 {
	bound, over := m.room.Look(m.deps.Now())
	m.tellRoom(over)
	return bound
}

// full notes that scratch space had no room for a piece of work with so many bytes of inputs.
func (m *Merger) full(bytes int64, cause error) {
	if m.room.Full(bytes, m.deps.Now()) {
		m.deps.Logger.Warn("scratch space is short: merging goes on in smaller pieces", "bytes_wanted", bytes, "error", cause, "mend", duty.RoomMend)
	}
	m.tellRoom(false)
}

// held notes that it had.
func (m *Merger) held(bytes int64) { m.tellRoom(m.room.Held(bytes, m.deps.Now())) }

func (m *Merger) tellRoom(over bool) {
	if over {
		m.deps.Logger.Info("scratch space is not short any more: merging goes on in pieces of any size")
	}
	m.deps.Metrics.scratchBound.Set(float64(m.room.Bound()))
}

// viewObjects is how many places of the table of objects one look takes.
const viewObjects = 8192

// level0 lists the objects of level 0 that are in the bucket, and says how many topics there are, and of which entry that is so.
func (m *Merger) level0() (objects []Flushed, topics int, n uint64) {
	m.meta.View(func(st *state.State) { topics, n = st.TopicCount(), st.N() })
	page := m.objects[:0]
	defer func() { m.objects = page[:0] }()
	for place, more := 0, true; more; {
		m.meta.View(func(st *state.State) { page, place, more = st.ObjectsFrom(place, viewObjects, page[:0]) })
		for i := range page {
			if o := &page[i]; !o.ID.Merged() && !o.Pending {
				objects = append(objects, Flushed{ID: o.ID, Size: o.Size, Born: o.Born})
			}
		}
	}
	return objects, topics, n
}

// backlog reports what waits to be merged, and drops what is remembered of objects that are gone.
func (m *Merger) backlog(objects []Flushed, now time.Time) {
	m.deps.Metrics.backlogObjects.Set(float64(len(objects)))
	age, bytes := time.Duration(0), int64(0)
	for i := range objects {
		bytes += objects[i].Size
	}
	if len(objects) > 0 {
		age = m.seen.age(objects[0].Born, now)
	}
	m.deps.Metrics.backlogBytes.Set(float64(bytes))
	m.deps.Metrics.backlogAge.Set(age.Seconds())
	if len(m.left) == 0 {
		return
	}
	there := make(map[entry.ObjectID]struct{}, len(objects))
	for i := range objects {
		there[objects[i].ID] = struct{}{}
	}
	for id := range m.left {
		if _, ok := there[id]; !ok {
			delete(m.left, id)
		}
	}
}

// viewPartitions is how many partitions one look at the state takes: it must be short.
const viewPartitions = 1024

// contents is about the topics that have their newest row in one of the objects, which are the newest of level 0.
func (m *Merger) contents(objects []Flushed) (c Contents) {
	in := make(map[entry.ObjectID]struct{}, len(objects))
	for i := range objects {
		in[objects[i].ID] = struct{}{}
	}
	var row []state.Row
	for _, t := range m.topicsOf() {
		found, lag := false, time.Duration(0)
		for first := 0; first < t.partitions && !found; first += viewPartitions {
			m.meta.View(func(st *state.State) {
				topic := st.TopicByID(t.id)
				for i := first; topic != nil && i < min(first+viewPartitions, topic.Partitions()) && !found; i++ {
					p := topic.Partition(i)
					if p.RowCount() == 0 {
						continue
					}
					if row = p.Rows(p.Next()-1, 1, row[:0]); len(row) > 0 {
						_, found = in[row[0].Object]
					}
				}
				if found {
					lag = lagOf(settingsOf(st, topic))
				}
			})
		}
		if found {
			c.Topics++
		}
		if lag > 0 && (c.Lag == 0 || lag < c.Lag) {
			c.Lag = lag
		}
	}
	return c
}

// lagOf is a topic's max.compaction.lag.ms, 0 where nothing is promised.
func lagOf(s topicconfig.Settings) time.Duration {
	if !s.Compact || s.MaxCompactionLagMS == math.MaxInt64 {
		return 0
	}
	return milliseconds(s.MaxCompactionLagMS)
}

type topicRef struct {
	id         entry.UUID
	partitions int
}

func (m *Merger) topicsOf() []topicRef {
	var out []topicRef
	m.meta.View(func(st *state.State) {
		for t := range st.Topics() {
			out = append(out, topicRef{t.ID, t.Partitions()})
		}
	})
	return out
}

// mergeWindow empties objects of level 0, as far as that goes.
func (m *Merger) mergeWindow(ctx context.Context, objects []Flushed) error {
	start := m.deps.Now()
	m.owed += tierShare * bytesOf(objects)
	src := m.env.NewSource()
	defer src.Close()
	objects, staged, refs, err := m.stage(ctx, src, objects)
	if err != nil {
		return err
	}
	m.deps.Metrics.windows.Inc()
	m.deps.Metrics.windowObjects.Add(float64(len(staged)))

	list := make([]state.PartitionRef, 0, len(refs))
	for ref := range refs {
		list = append(list, ref)
	}
	slices.SortFunc(list, func(a, b state.PartitionRef) int {
		return cmp.Or(slices.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Partition, b.Partition))
	})
	for {
		up := m.newUploads()
		err = m.mergeTopics(ctx, src, up, list, staged)
		applied, failed := up.wait() // whose rows are swapped is not copied again
		err = errors.Join(err, failed)
		if !errors.Is(err, duty.ErrScratchFull) {
			break
		}
		if applied == 0 { // else what was on its way has made room
			m.full(bytesOf(objects), err)
			if len(staged) < 2 {
				break
			}
			objects = m.drop(src, objects, staged)
		}
	}
	if ctx.Err() != nil || errors.Is(err, rewrite.ErrUnavailable) {
		return err
	}
	if err == nil {
		m.held(bytesOf(objects))
	}
	m.leave(objects)
	m.deps.Metrics.windowSeconds.Observe(m.deps.Now().Sub(start).Seconds())
	return err
}

// drop takes half of the objects out of scratch space: what comes out needs room, too. They are merged when the others are gone.
func (m *Merger) drop(src *rewrite.Source, objects []Flushed, staged map[entry.ObjectID]struct{}) []Flushed {
	keep := max(len(objects)/2, 1)
	for _, o := range objects[keep:] {
		src.Forget(o.ID)
		delete(staged, o.ID)
	}
	return objects[:keep]
}

// mergeTopics copies what partitions, sorted, have in the staged objects. A topic that fails does not keep the others from it.
func (m *Merger) mergeTopics(ctx context.Context, src *rewrite.Source, up *uploads, refs []state.PartitionRef, staged map[entry.ObjectID]struct{}) error {
	var errs []error
	for len(refs) > 0 && !up.hopeless() {
		end := 1
		for end < len(refs) && refs[end].Topic == refs[0].Topic {
			end++
		}
		if err := m.mergeTopic(ctx, src, up, refs[:end], staged); err != nil {
			if ctx.Err() != nil || errors.Is(err, rewrite.ErrUnavailable) || errors.Is(err, duty.ErrScratchFull) {
				return err
			}
			errs = append(errs, err)
		}
		refs = refs[end:]
	}
	return errors.Join(errs...)
}

// stage reads objects into scratch space, as many as it has room for, and says which are there, and which partitions are in them.
func (m *Merger) stage(ctx context.Context, src *rewrite.Source, objects []Flushed) (
	taken []Flushed, staged map[entry.ObjectID]struct{}, refs map[state.PartitionRef]struct{}, err error,
) {
	staged, refs = make(map[entry.ObjectID]struct{}, len(objects)), make(map[state.PartitionRef]struct{})
	wants := make([]rewrite.Want, len(objects))
	for i, o := range objects {
		wants[i] = rewrite.Want{ID: o.ID, Size: o.Size}
	}
	taken = objects
	blocks := 0
	src.StageAll(ctx, wants, func(i int, footer *segment.Footer, cause error) (more bool) {
		id := objects[i].ID
		switch {
		case cause == nil:
		case errors.Is(cause, rewrite.ErrChanged), m.bad.note(cause):
			return true
		case errors.Is(cause, duty.ErrScratchFull):
			m.full(bytesOf(objects[:i+1]), cause)
			if len(staged) > 0 {
				taken = m.drop(src, objects[:i], staged)
				return false
			}
			m.leave(objects[i : i+1]) // the others may be smaller
			err = cause
			return false
		default:
			if errors.Is(cause, rewrite.ErrUnavailable) { // it may be this object alone: the next Step goes on without it
				m.left[id] = backoff{until: m.deps.Now().Add(m.cfg.BackoffMin)} // no longer, for most likely it is the bucket
			}
			err = cause
			return false
		}
		m.bad.fine(id)
		staged[id] = struct{}{}
		for b := range footer.Blocks {
			refs[state.PartitionRef{Topic: footer.Blocks[b].Topic, Partition: footer.Blocks[b].Partition}] = struct{}{}
		}
		if blocks += len(footer.Blocks); blocks >= windowBlocksMax {
			taken = objects[:i+1]
			return false
		}
		return true
	})
	return taken, staged, refs, err
}

// windowBlocksMax bounds the tables that are in memory while a window is merged: 180 bytes a block. The rest is another window.
const windowBlocksMax = 512 << 10

// leave remembers which of the objects still have rows, so that they are not read again at once.
func (m *Merger) leave(objects []Flushed) {
	now := m.deps.Now()
	m.meta.View(func(st *state.State) {
		for i := range objects {
			id := objects[i].ID
			if !st.Named(id) {
				delete(m.left, id)
				continue
			}
			b := m.left[id]
			b.next(now, m.cfg.BackoffMin, m.cfg.BackoffMax)
			m.left[id] = b
		}
	})
}

// mergeTopic copies what a topic's partitions have in the staged objects.
func (m *Merger) mergeTopic(ctx context.Context, src *rewrite.Source, up *uploads, refs []state.PartitionRef, staged map[entry.ObjectID]struct{}) error {
	w := writer{m: m, topic: refs[0].Topic, src: src, up: up}
	defer w.close()
	for _, ref := range refs {
		for from, tries := int64(0), 0; tries < triesMax; tries++ {
			run := m.nextRun(ref, from, staged)
			if len(run.rows) == 0 {
				break
			}
			err := w.copy(ctx, run.in, run.rows)
			switch {
			case err == nil:
			case m.bad.note(err): // what lies before the damage, and behind it, is copied without it
				continue
			case errors.Is(err, rewrite.ErrChanged):
			default:
				return err
			}
			if !run.more {
				break
			}
			from = run.rows[len(run.rows)-1].End
		}
	}
	return w.flush(ctx)
}

// triesMax is around how many damaged rows a window copies what else a partition has in it. The next window goes on.
const triesMax = 32

// run is an unbroken run of a partition's rows.
type run struct {
	in   rewrite.Input
	rows []state.Row
	more bool // it ended where a row cannot be read: the next run does not wait for that
}

// viewRows is how many rows one look at the state takes.
const viewRows = 512

// nextRun finds a partition's first unbroken run of rows, from an offset on, that are in staged objects and can be read.
func (m *Merger) nextRun(ref state.PartitionRef, from int64, staged map[entry.ObjectID]struct{}) run {
	r := run{in: rewrite.Input{Topic: ref.Topic, Partition: ref.Partition}}
	buf := m.page[:0]
	defer func() { m.page = buf[:0] }()
	now := m.deps.Now()
	for {
		m.meta.View(func(st *state.State) {
			buf = buf[:0]
			t := st.TopicByID(ref.Topic)
			if t == nil {
				return
			}
			p := t.Partition(int(ref.Partition))
			if p == nil {
				return
			}
			if len(r.rows) == 0 {
				r.in.Epochs, r.in.LogStart = p.Epochs(nil), p.LogStart()
			}
			buf = p.Rows(from, viewRows, buf)
		})
		for i := range buf {
			row := &buf[i]
			from = row.End
			_, in := staged[row.Object]
			barred := m.bad.barred(ref, row, now)
			if in && !row.InWAL && !barred {
				r.rows = append(r.rows, *row)
				continue
			}
			if len(r.rows) > 0 {
				r.more = barred
				return r
			}
		}
		if len(buf) < viewRows {
			return r
		}
	}
}

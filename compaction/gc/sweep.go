package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

const (
	listPage = 1000
	// viewObjects is how many places of the table of objects are read under the lock at a time.
	viewObjects = 16 << 10
	// orphansMax bounds the orphans that one sweep has deleted; the rest is found by the next.
	orphansMax = 200_000
	// askMost is how many objects that a listing lacks are asked for by name.
	askMost = 1000
)

// roots are where objects lie.
var roots = [...]string{entry.DataPrefix, entry.TopicsPrefix}

// sweep is one listing of everything, against what is named.
type sweep struct {
	SweepReport
	accept  bool   // an operator has said that many orphans are right
	request string // of the operator that asked for it, ""

	root  int // of roots, the one that is being listed
	after string
	// expected are the fingerprints of what was named at the start, ascending; seen says which were listed.
	expected []uint64
	seen     []bool
	orphans  []entry.ObjectID
	suspects []state.Object // named and not listed
	ended    bool           // the listing is; suspects are asked for

	// Where asking for the locks of orphans has come, which happens where these are suspiciously many.
	// Invariant: left <= looked <= len(orphans); the first left orphans, and those from looked on, are not known to be locked.
	locks        *locks // nil: not begun
	untold       bool   // the bucket does not say
	looked, left int
	plain        int // of those looked at, how many count

	tries  int  // how often what is asked for now was asked for in vain
	hushed bool // it was told that the bucket does not answer
}

// SweepReport says what a sweep found.
type SweepReport struct {
	Listed   int    `json:"listed"`
	Named    int    `json:"named"`
	Bytes    int64  `json:"named_bytes"`
	Orphans  int    `json:"orphans"`
	Young    int    `json:"young"`    // nothing names them yet, and something may
	Waiting  int    `json:"waiting"`  // deleted soon, as the log says, or when it is archived
	Retained int    `json:"retained"` // orphans that an object lock keeps; not among Orphans
	Unknown  int    `json:"unknown"`  // objects of which the bucket does not say what was asked; they are kept
	Foreign  int    `json:"foreign_keys"`
	Missing  int    `json:"missing"`
	Resized  int    `json:"other_size"`
	Breaker  string `json:"breaker,omitempty"` // why no orphan is deleted
}

// list goes on with a sweep, or begins one where it is time.
func (t *T) list(ctx context.Context) (bool, error) {
	if t.sweep == nil {
		if t.deps.Steady() < t.sweepAt {
			return false, nil
		}
		t.begin(false, "")
	}
	if t.resting(doingList) {
		return false, nil
	}
	s := t.sweep
	switch {
	case s.root < len(roots):
		return t.page(ctx, s)
	case !s.ended:
		t.absent(s)
		s.ended = true
		return true, nil
	case len(s.suspects) > 0 || t.toExplain(s):
		switch {
		case t.resting(doingRead):
			return false, nil
		case len(s.suspects) > 0:
			return t.ask(ctx, s)
		}
		return t.explain(ctx, s)
	}
	t.finish(s)
	return true, nil
}

// begin starts a sweep in place of one that may be under way.
func (t *T) begin(accept bool, request string) {
	s := &sweep{accept: accept, request: request}
	t.forgetEnded()
	var bytes int64
	place, more := 0, true
	for buf := make([]state.Object, 0, 1024); more; {
		t.deps.Meta.View(func(st *state.State) { buf, place, more = st.ObjectsFrom(place, viewObjects, buf[:0]) })
		for i := range buf {
			if !buf[i].Pending {
				s.expected = append(s.expected, fingerprint(buf[i].ID))
				bytes += buf[i].Size
			}
		}
	}
	slices.Sort(s.expected)
	s.seen = make([]bool, len(s.expected))
	s.Bytes = bytes
	t.scrub.total = bytes
	t.sweep = s
	t.sweepAt = t.deps.Steady() + t.cfg.SweepInterval
}

// page lists up to a thousand objects.
func (t *T) page(ctx context.Context, s *sweep) (bool, error) {
	infos, err := t.deps.Bucket.List(ctx, roots[s.root], s.after, listPage)
	if err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		t.failed(doingList, naming(fmt.Errorf("list %s in the bucket: %w", roots[s.root], err), "s3:ListBucket"))
		return false, nil
	}
	t.fine(doingList)
	if len(infos) == 0 {
		s.root, s.after = s.root+1, ""
		return true, nil
	}
	s.after = infos[len(infos)-1].Key
	s.Listed += len(infos)
	t.deps.Metrics.listed.Add(float64(len(infos)))
	ids := make([]entry.ObjectID, len(infos))
	known := make([]bool, len(infos))
	for i := range infos {
		id, err := entry.ParseObjectKey(infos[i].Key)
		if err != nil { // not firn's: whoever put it there may want it
			s.Foreign++
			continue
		}
		ids[i], known[i] = id, true
	}
	t.deps.Meta.View(func(st *state.State) {
		for i := range infos {
			if known[i] {
				t.place(st, s, ids[i], infos[i].Size)
			}
		}
	})
	return true, nil
}

// place sorts an object that was listed.
func (t *T) place(st *state.State, s *sweep, id entry.ObjectID, size int64) {
	fp := fingerprint(id)
	if i, found := slices.BinarySearch(s.expected, fp); found {
		s.seen[i] = true
	}
	if o, live := st.ObjectByID(id); live {
		s.Named++
		if o.Size != size && !o.Pending {
			s.Resized++
			t.found(Damage{Object: id, Kind: KindSize, Detail: fmt.Sprintf("%d bytes, the log says %d", size, o.Size)})
		} else {
			t.damaged.whole(id, KindMissing, KindSize)
		}
		return
	}
	switch judge(st, id, t.seen, 0) {
	case young:
		s.Young++
		t.waitEpoch = max(t.waitEpoch, id.CollectionEpoch)
	default: // archived or not is looked at when it is deleted
		switch _, soon := st.RetiredByID(id); {
		case soon && !has(t.done, fp):
			s.Waiting++
		case soon: // it was deleted while it was listed
		case has(t.locked, fp):
			s.Retained++
		case has(t.retained, fp):
			s.Retained++
			s.orphan(id)
		default:
			s.Orphans++
			s.orphan(id)
		}
	}
}

func (s *sweep) orphan(id entry.ObjectID) {
	if len(s.orphans) < orphansMax {
		s.orphans = append(s.orphans, id)
	}
}

// absent finds what was named when the sweep began, is named still, and was not listed.
func (t *T) absent(s *sweep) {
	missing := 0
	for _, was := range s.seen {
		if !was {
			missing++
		}
	}
	if missing == 0 {
		return
	}
	place, more := 0, true
	for buf := make([]state.Object, 0, 1024); more; {
		t.deps.Meta.View(func(st *state.State) { buf, place, more = st.ObjectsFrom(place, viewObjects, buf[:0]) })
		for i := range buf {
			if at, found := slices.BinarySearch(s.expected, fingerprint(buf[i].ID)); found && !s.seen[at] && !buf[i].Pending {
				s.suspects = append(s.suspects, buf[i])
			}
		}
	}
}

// ask asks for some of what was not listed. Beyond askMost, of which the bucket has said that they are gone or nothing, the listing alone is
// taken at its word. Where it has said nothing of many, each is asked for once: the sweep has to end.
func (t *T) ask(ctx context.Context, s *sweep) (bool, error) {
	const most = 50
	for range min(most, len(s.suspects)) {
		o := s.suspects[0]
		if s.Missing+s.Unknown < askMost {
			gone, err := t.gone(ctx, o)
			if err != nil {
				tries := askTries
				if s.Unknown >= silentMost {
					tries = 1
				}
				if !t.unanswered(ctx, s, err, tries) {
					return false, context.Cause(ctx)
				}
				s.Unknown++
				t.silent(s, "whether it has "+o.ID.Key(), err)
				t.fine(doingRead)
				s.suspects = s.suspects[1:]
				return true, nil // it may have taken long
			}
			t.fine(doingRead)
			s.tries = 0
			if !gone {
				s.suspects = s.suspects[1:]
				continue
			}
		}
		s.Missing++
		t.found(Damage{Object: o.ID, Kind: KindMissing, Detail: "the bucket does not have it"})
		s.suspects = s.suspects[1:]
	}
	return true, nil
}

// gone reports whether the bucket lacks an object that is named, also after having been asked for it by name.
func (t *T) gone(ctx context.Context, o state.Object) (bool, error) {
	asking, cancel := context.WithTimeout(ctx, t.cfg.AskTimeout)
	defer cancel()
	info, err := t.deps.Bucket.Head(asking, o.ID.Key())
	switch {
	case err == nil:
		if info.Size != o.Size {
			t.found(Damage{Object: o.ID, Kind: KindSize, Detail: fmt.Sprintf("%d bytes, the log says %d", info.Size, o.Size)})
		}
		return false, nil
	case !errors.Is(err, objstore.ErrNotFound):
		return false, naming(fmt.Errorf("look for object %s: %w", o.ID.Key(), err), "s3:GetObject")
	}
	live := false
	t.deps.Meta.View(func(st *state.State) { live = st.Named(o.ID) }) // after the look: else it retired and was deleted in between
	return live, nil
}

// finish takes what a sweep found: orphans are to be deleted, unless they are too many to be true.
func (t *T) finish(s *sweep) {
	m := t.deps.Metrics
	m.sweeps.Inc()
	m.orphans.Set(float64(s.Orphans))
	m.foreign.Set(float64(s.Foreign))
	t.sweep = nil
	s.orphans = slices.Delete(s.orphans, s.left, s.looked)
	t.damaged.prune(t.deps.Meta)
	switch {
	case t.broken && !s.accept:
		s.Breaker = t.tripped
	case t.cfg.suspicious(s.Orphans, s.Listed) && !s.accept:
		s.Breaker = fmt.Sprintf("a sweep found %d objects that nothing names, of %d listed: nothing is deleted until firn gc run --accept; "+
			"firn gc plan shows them", s.Orphans, s.Listed)
		t.trip(s.Breaker)
	default:
		if t.tripped != "" {
			t.deps.Logger.Info("objects are deleted again", "orphans", s.Orphans, "listed", s.Listed, "accepted", s.accept)
		}
		t.tripped, t.broken = "", false
		t.orphans = s.orphans
	}
	t.deps.Logger.Info("bucket swept", "listed", s.Listed, "orphans", s.Orphans, "missing", s.Missing, "young", s.Young, "foreign", s.Foreign)
	if s.request != "" {
		t.desk.reply = &Answer{Sweep: &s.SweepReport}
	}
}

// again looks for the second time for what is missing, and gives up what a rule of the bucket took.
func (t *T) again(ctx context.Context) (bool, error) {
	if t.resting(doingList) {
		return false, nil
	}
	now := t.deps.Steady()
	m := t.damaged.dueAgain(now - t.cfg.AgainInterval)
	if m == nil {
		return false, nil
	}
	infos, err := t.deps.Bucket.List(ctx, m.Object.Key(), "", 1)
	if err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		t.failed(doingList, naming(fmt.Errorf("look for object %s: %w", m.Object.Key(), err), "s3:ListBucket"))
		return false, nil
	}
	t.fine(doingList)
	var object state.Object
	live := false
	t.deps.Meta.View(func(st *state.State) { object, live = st.ObjectByID(m.Object) })
	if len(infos) > 0 || !live {
		t.damaged.remove(m.Object)
		return true, nil
	}
	m.lookedAt, m.twice = now, true
	if t.deps.Coverage == nil || !t.deps.Coverage.Covered(ctx, m.Object, t.ages.least(object.Born)) {
		return true, nil
	}
	return true, t.expired(ctx, m.Object)
}

// naming adds the action that an operator has to allow.
func naming(err error, action string) error {
	if errors.Is(err, objstore.ErrDenied) {
		return fmt.Errorf("%w; the agents' credentials need the action %s on the bucket", err, action)
	}
	return err
}

// ages knows how old objects are at least: when entries of some n were applied. Only its own memory tells a collector that, for objects
// and entries carry no time of the bucket's.
type ages struct {
	marks []mark // ascending in both
	nowMS int64
}

// mark is a moment in log time at which n had been applied.
type mark struct {
	n  uint64
	ms int64
}

const (
	markInterval = time.Hour
	marksMax     = 24 * 400 // a year and more
)

func (a *ages) note(n uint64, logMS int64) {
	a.nowMS = logMS
	if last := len(a.marks) - 1; last < 0 || logMS-a.marks[last].ms >= markInterval.Milliseconds() {
		if len(a.marks) == marksMax {
			a.marks = slices.Delete(a.marks, 0, 1)
		}
		a.marks = append(a.marks, mark{n, logMS})
	}
}

// least is how long ago an entry was applied, at least.
func (a *ages) least(n uint64) time.Duration {
	i, _ := slices.BinarySearchFunc(a.marks, n, func(m mark, n uint64) int {
		if m.n < n {
			return -1
		}
		return 1
	})
	if i == len(a.marks) {
		return 0
	}
	return time.Duration(a.nowMS-a.marks[i].ms) * time.Millisecond
}

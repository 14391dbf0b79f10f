package metastore

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// What follows finds the log's history in the bucket without the cells that named it. Names say where to look; what is
// true is decided by chain hashes alone: a range counts if it begins with the hash that the state before it has and ends with
// the one that it gives. Archivers that lost a race for the archive cell leave ranges that overlap, with the same entries;
// those fit too, and it does not matter which of them is taken.

const (
	archivePrefix  = "metastore/archive/"
	snapshotPrefix = "metastore/snapshot/"
)

// named is what the key of an archive range or of a snapshot says.
type named struct {
	key         string
	epoch       uint64
	first, last uint64 // of a snapshot both are its n
}

// parseHistoryKey is the inverse of archiveKey and snapshotKey.
func parseHistoryKey(key string) (named, bool) {
	o := named{key: key}
	var err error
	hexed := func(s string) (v uint64) {
		if len(s) != 16 {
			err = strconv.ErrSyntax
		} else if n, e := strconv.ParseUint(s, 16, 64); e != nil {
			err = e
		} else {
			v = n
		}
		return v
	}
	rest, isArchive := strings.CutPrefix(key, archivePrefix)
	if !isArchive {
		var isSnapshot bool
		if rest, isSnapshot = strings.CutPrefix(key, snapshotPrefix); !isSnapshot {
			return o, false
		}
	}
	parts := strings.FieldsFunc(rest, func(r rune) bool { return r == '/' || r == '-' })
	var writer log.Incarnation
	switch {
	case isArchive && len(parts) == 4:
		o.epoch, o.first, o.last = hexed(parts[0]), hexed(parts[1]), hexed(parts[2])
	case !isArchive && len(parts) == 3:
		o.epoch, o.first = hexed(parts[0]), hexed(parts[1])
		o.last = o.first
	default:
		return o, false
	}
	if b, e := hex.DecodeString(parts[len(parts)-1]); e != nil || len(b) != len(writer) {
		return o, false
	} else {
		copy(writer[:], b)
	}
	canonical := snapshotKey(o.epoch, o.first, writer)
	if isArchive {
		canonical = archiveKey(o.epoch, o.first, o.last, writer)
	}
	return o, err == nil && o.last >= o.first && canonical == key
}

// history is what the bucket holds of one log.
type history struct {
	bucket    objstore.Bucket
	marker    *marker
	identity  log.Identity // only its ID counts
	snapshots []named      // newest first
	notes     []string     // what an operator should know, and what did no harm

	results state.Results
	decoder entry.Decoder
}

func (h *history) note(format string, args ...any) {
	h.notes = append(h.notes, fmt.Sprintf(format, args...))
}

// list yields what lies below prefix behind after. Names that firn does not make are noted and left alone.
func (h *history) list(ctx context.Context, prefix, after string) ([]named, error) {
	var out []named
	for {
		infos, err := h.bucket.List(ctx, prefix, after, 1000)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		if len(infos) == 0 {
			return out, nil
		}
		for i := range infos {
			after = infos[i].Key
			o, ok := parseHistoryKey(after)
			switch {
			case !ok:
				h.note("object %s is not one of firn's: ignored", after)
			case o.last <= h.marker.end(o.epoch): // the rest belongs to a log that was given up
				out = append(out, o)
			}
		}
	}
}

// damage is a history that cannot be followed to its end.
type damage struct {
	n        uint64 // of the last entry that could be replayed
	problems []string
}

// ErrDamaged: the bucket's history of the log has a hole, or more than one reading. The message names objects.
var ErrDamaged = errors.New("damaged history")

func (d *damage) Error() string {
	return fmt.Sprintf("the history can be followed to n=%d, and not beyond: %s", d.n, strings.Join(d.problems, "; "))
}

func (d *damage) Unwrap() error { return ErrDamaged }

// replayed is a state that the bucket alone gave.
type replayed struct {
	st      *state.State
	window  *window
	head    string // key of the archive range that ends with the last entry; "" where there is none
	from    string // key of the snapshot that the replay began with; "" the beginning
	entries uint64
	ranges  int
	loss    *damage // what was beyond, where there is damage
}

// snapshotsTried bounds how many snapshots are begun with where a newer one does not lead to an undamaged end.
const snapshotsTried = 4

// replay gives the newest state that the bucket holds. It begins with the newest snapshot that can be read; where that leads into
// damage, with older ones, for it may be the snapshot that is damaged; at last with nothing. The result with the highest n
// is returned, with what is damaged beyond it.
func (h *history) replay(ctx context.Context, fromStart bool, chosen string) (*replayed, error) {
	var err error
	if h.snapshots, err = h.list(ctx, snapshotPrefix, ""); err != nil {
		return nil, err
	}
	slices.SortFunc(h.snapshots, func(a, b named) int {
		return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(b.epoch, a.epoch), cmp.Compare(a.key, b.key))
	})
	begins := h.snapshots
	if fromStart {
		begins = nil
	}
	begins = append(slices.Clone(begins[:min(len(begins), snapshotsTried)]), named{})
	var best *replayed
	for _, begin := range begins {
		r, err := h.replayFrom(ctx, begin, chosen)
		switch {
		case unusable(err):
			h.note("snapshot %s cannot be used, an older one was: %v", begin.key, err)
			continue
		case err != nil:
			return nil, err
		}
		if best == nil || r.loss == nil && best.loss != nil || r.st.N() > best.st.N() {
			if best != nil {
				h.note("what was replayed from %s ended at n=%d: %v", cmp.Or(best.from, "the beginning"), best.st.N(), best.loss)
			}
			best = r
		}
		if best.loss == nil {
			break
		}
	}
	if best == nil {
		return nil, fmt.Errorf("%w: no snapshot and no archive can be read", ErrDamaged)
	}
	return best, nil
}

// begin loads the state to start from.
func (h *history) begin(ctx context.Context, o named) (*state.State, error) {
	if o.key == "" {
		return nil, nil
	}
	body, err := h.bucket.Get(ctx, o.key)
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	st, err := state.Load(body)
	switch {
	case errors.Is(err, state.ErrCorrupt):
		return nil, fmt.Errorf("%w: snapshot %s: %w", ErrCorrupt, o.key, err)
	case err != nil:
		return nil, fmt.Errorf("%w: snapshot %s: %w", ErrNewer, o.key, err)
	case st.Identity().ID != h.identity.ID || st.N() != o.last:
		return nil, fmt.Errorf("%w: snapshot %s is of log %x at n=%d", ErrForeign, o.key, st.Identity().ID, st.N())
	}
	return st, nil
}

// spanMax is more than an archive range ever holds: what holds an entry starts at most so far before it.
const spanMax = 1 << 20

// replayFrom begins with a snapshot, or with nothing, and takes range after range.
func (h *history) replayFrom(ctx context.Context, begin named, chosen string) (*replayed, error) {
	banned := make(map[string]ban)
	for {
		st, err := h.begin(ctx, begin)
		if err != nil {
			return nil, err
		}
		after := ""
		if st != nil {
			after = fmt.Sprintf("%s%016x/%016x", archivePrefix, begin.epoch, st.N()-min(st.N(), spanMax))
		}
		ranges, err := h.list(ctx, archivePrefix, after)
		if err != nil {
			return nil, err
		}
		if chosen != "" {
			if ranges, err = h.chain(ctx, chosen, ranges); err != nil {
				return nil, err
			}
		}
		if st == nil {
			if st, err = h.genesis(ctx, ranges); err != nil {
				return nil, err
			}
		}
		r := &replayed{st: st, from: begin.key, window: newWindow(st)}
		if err := h.lookBack(ctx, r, ranges); err != nil {
			return nil, err
		}
		again, err := h.follow(ctx, r, ranges, banned)
		if err != nil || !again {
			return r, err
		}
	}
}

// waitMax is longer, in log time, than an agent keeps a producer waiting, be it for the predecessor of a batch or for the log.
const waitMax = 5 * time.Minute

// lookBackMax bounds how many archive ranges are read for what happened before a snapshot.
const lookBackMax = 2000

// lookBack tells the window what happened shortly before its snapshot, and leaves too little in a state: which batches were refused
// for want of their predecessor, and may have been accepted after the archive's end; which of the incarnations that have left
// may have come back since; and which topics were deleted. It looks further back, as far as it has to, for the ops that named the last
// object of each incarnation, for the rows that would tell may have been rewritten. What cannot be read there is left alone.
func (h *history) lookBack(ctx context.Context, r *replayed, ranges []named) error {
	n, since := r.st.N(), r.st.LogTime()-waitMax.Milliseconds()
	before := slices.DeleteFunc(slices.Clone(ranges), func(o named) bool { return o.first > n })
	slices.SortFunc(before, func(a, b named) int { return cmp.Compare(b.first, a.first) })
	left, whole := 0, false // how many left at most, and whether all of that time was seen
	next := n + 1           // the entries from here up to n were seen
	taken, quiet := r.st.LastSeqs(), false
	oldest := r.st.CollectionEpoch() - min(r.st.CollectionEpoch(), 1)
	gone := r.st.Departed()
	for i, o := range before {
		if i == lookBackMax || quiet && !r.window.forgotten(oldest, gone[max(0, len(gone)-left):]) {
			break
		}
		a, err := readRange(ctx, h.bucket, h.identity, o.key)
		switch {
		case unusable(err):
			continue
		case err != nil:
			return err
		}
		recent := false
		for _, e := range a.entries {
			decoded, err := h.decoder.Decode(e.Value)
			if err != nil || e.N > n {
				continue
			}
			if e.Key.Seq <= taken[e.Key.Incarnation] { // else it was refused as a whole
				for _, op := range decoded.Ops {
					if op, ok := op.(*entry.Append); ok {
						r.window.recall(op)
					}
				}
			}
			if quiet || decoded.ClockMs < since {
				continue
			}
			recent = true
			for _, op := range decoded.Ops {
				switch op := op.(type) {
				case *entry.Append:
					r.window.waited(r.st, op)
				case *entry.Join, *entry.Leave:
					left++
				case *entry.DeleteTopic:
					r.window.deleted[op.ID] = true
				}
			}
		}
		if !quiet && a.last()+1 >= next {
			next = min(next, a.first())
			whole = !recent || next == 1
		}
		quiet = quiet || !recent
	}
	if !whole {
		left = len(gone)
	}
	for i, inc := range gone {
		r.window.departed[inc] = math.MinInt64
		if i >= len(gone)-left {
			r.window.departed[inc] = r.st.LogTime()
		}
	}
	return nil
}

// chain is the ranges that lead to a head that the operator chose.
func (h *history) chain(ctx context.Context, head string, ranges []named) ([]named, error) {
	known := make(map[string]named, len(ranges))
	for _, o := range ranges {
		known[o.key] = o
	}
	if _, ok := known[head]; !ok {
		return nil, fmt.Errorf("%w: %s is not an archive object of this log that could follow the snapshot", ErrDamaged, head)
	}
	var out []named
	for key := head; ; {
		o, ok := known[key]
		if !ok {
			return out, nil // before what the snapshot needs, or missing: then the replay says so
		}
		out = append(out, o)
		a, err := readRange(ctx, h.bucket, h.identity, key)
		if err != nil {
			return nil, err
		}
		key = a.previous
	}
}

// genesis is the state before the first entry: of the log epoch whose hash the first range continues.
func (h *history) genesis(ctx context.Context, ranges []named) (*state.State, error) {
	for _, o := range ranges {
		a, err := readRange(ctx, h.bucket, h.identity, o.key)
		if err != nil {
			continue // said when its turn comes
		}
		if st := before(a); st != nil {
			return st, nil
		}
	}
	return state.New(state.Identity{ID: h.identity.ID, Epoch: 1}), nil
}

// before is the state before a range that is the first of its log; nil where that is not an empty one. A log that was restored
// before it archived anything begins in a later epoch than its first range says.
func before(a *archiveRange) *state.State {
	for epoch := a.identity.Epoch; epoch > 0; epoch-- {
		st := state.New(state.Identity{ID: a.identity.ID, Epoch: epoch, Base: a.first() - 1})
		if st.ChainHash() == a.before {
			return st
		}
	}
	return nil
}

// ban says why a range is not used. fork: it holds another history than the one that was followed.
type ban struct {
	why  string
	fork bool
}

// follow extends r as far as ranges go. again: what was applied last turned out to be wrong; begin anew without it.
func (h *history) follow(ctx context.Context, r *replayed, ranges []named, banned map[string]ban) (again bool, err error) {
	used := make(map[string]bool)
	ends := make(map[uint64][32]byte) // chain hashes where ranges end, to hold those against that were not needed
	for _, o := range ranges {
		ends[o.last] = [32]byte{}
	}
	for advanced := true; advanced; {
		advanced = false
		for _, o := range candidates(ranges, r.st.N()) {
			if banned[o.key].why != "" {
				continue
			}
			a, no, err := h.open(ctx, o, r.st)
			if err != nil {
				return false, err
			}
			if no.why != "" {
				banned[o.key] = no
				continue
			}
			if no = h.take(r, o.key, a, ends); no.why != "" {
				banned[o.key] = no
				return true, nil
			}
			used[o.key], r.head = true, o.key
			r.ranges++
			advanced = true
			break
		}
	}
	if r.head == "" && r.from != "" { // the snapshot is the end
		for _, o := range ranges {
			if o.last == r.st.N() {
				r.head = o.key
			}
		}
		if r.head == "" {
			h.note("no archive object ends at n=%d, where the newest snapshot is: history before it is not in the bucket", r.st.N())
		}
	}
	return false, h.judge(ctx, r, ranges, used, banned, ends)
}

// candidates are the ranges that hold n+1, the best first: of the newest epoch, beginning there, the longest.
func candidates(ranges []named, n uint64) []named {
	var out []named
	for _, o := range ranges {
		if o.first <= n+1 && n+1 <= o.last {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b named) int {
		return cmp.Or(cmp.Compare(b.epoch, a.epoch), cmp.Compare(b.first, a.first), cmp.Compare(b.last, a.last), cmp.Compare(a.key, b.key))
	})
	return out
}

// open reads a range and says whether it can follow st.
func (h *history) open(ctx context.Context, o named, st *state.State) (*archiveRange, ban, error) {
	a, err := readRange(ctx, h.bucket, h.identity, o.key)
	hash := st.ChainHash()
	switch {
	case unusable(err):
		return nil, ban{why: err.Error()}, nil
	case err != nil:
		return nil, ban{}, err
	case a.first() != o.first || a.last() != o.last:
		return nil, ban{why: fmt.Sprintf("%s holds n=%d to %d", o.key, a.first(), a.last())}, nil
	case a.first() == st.N()+1 && a.before != hash:
		return nil, ban{fork: true, why: fmt.Sprintf("%s continues another history: it begins with chain hash %x, n=%d has %x",
			o.key, a.before[:8], st.N(), hash[:8])}, nil
	}
	return a, ban{}, nil
}

// unusable reports errors of an object that trying again does not mend.
func unusable(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrForeign) || errors.Is(err, objstore.ErrNotFound)
}

// take applies a range. A ban says that the state is now not that of the log.
func (h *history) take(r *replayed, key string, a *archiveRange, ends map[uint64][32]byte) ban {
	for _, e := range a.above(r.st.N()) {
		decoded, err := h.decoder.Decode(e.Value)
		if err == nil {
			err = r.st.Apply(e.N, e.Value, decoded, &h.results)
		}
		if err != nil {
			return ban{why: fmt.Sprintf("%s: entry n=%d: %v", key, e.N, err)}
		}
		r.entries++
		r.window.see(decoded, &h.results)
		if _, wanted := ends[e.N]; wanted {
			ends[e.N] = r.st.ChainHash()
		}
	}
	if r.st.ChainHash() != a.after {
		return ban{fork: true, why: fmt.Sprintf("%s does not give the chain hash that it records at n=%d: it holds another history, or this firn applies it differently", key, a.last())}
	}
	return ban{}
}

// judge says what is damaged or ambiguous.
func (h *history) judge(
	ctx context.Context, r *replayed, ranges []named, used map[string]bool, banned map[string]ban, ends map[uint64][32]byte,
) error {
	n := r.st.N()
	d := &damage{n: n}
	for _, o := range ranges {
		no := banned[o.key]
		switch {
		case used[o.key]:
		case no.why != "" && (o.last > n || no.fork):
			d.problems = append(d.problems, no.why)
		case no.why != "":
			h.note("%s (another object holds the same entries)", no.why)
		case o.first > n+1:
			d.problems = append(d.problems, fmt.Sprintf("entries n=%d to %d are in no archive object, %s follows them", n+1, o.first-1, o.key))
		case ends[o.last] != [32]byte{}: // not needed: of a writer that lost a race
			a, err := readRange(ctx, h.bucket, h.identity, o.key)
			switch {
			case unusable(err):
				h.note("%v (another object holds the same entries)", err)
			case err != nil:
				return err
			case a.after != ends[o.last]:
				d.problems = append(d.problems, fmt.Sprintf("%s and the chain of %s hold different histories at n=%d", o.key, r.head, o.last))
			}
		}
		if len(d.problems) >= problemsMax {
			break
		}
	}
	if len(d.problems) > 0 {
		r.loss = d
	}
	return nil
}

// problemsMax bounds how many problems are told.
const problemsMax = 20

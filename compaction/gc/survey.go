package gc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/compaction/retention"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// Observe reads the cluster's state from outside, anew with each call.
type Observe func(ctx context.Context) (*metastore.Observed, error)

// Plan says what would be deleted now and why, and what is held back and why.
type Plan struct {
	N               uint64           `json:"n"`
	Archived        uint64           `json:"archived_n"`
	CollectionEpoch uint64           `json:"collection_epoch"`
	LogMS           int64            `json:"log_time_ms"`
	Clock           string           `json:"clock,omitempty"` // why retention holds, as far as can be told from outside
	Retention       []retention.Due  `json:"retention"`
	Objects         map[string]Count `json:"objects"` // by what may become of them
	Foreign         int              `json:"foreign_keys"`
	ForeignKeys     []string         `json:"foreign_examples,omitempty"`
	Locked          int              `json:"locked_orphans,omitempty"` // known where there are very many orphans: a lock keeps them
	Delete          []Deletion       `json:"delete"`                   // the first of those that would go
	Versions        string           `json:"versions,omitempty"`
	Breaker         string           `json:"breaker,omitempty"` // why nothing would be deleted all the same
}

// Count is a number of objects.
type Count struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Deletion is an object that would be deleted.
type Deletion struct {
	Key   string `json:"key"`
	Bytes int64  `json:"bytes"`
	Why   string `json:"why"`
}

// foreignShown is how many keys that are not firn's a plan names.
const foreignShown = 10

// Survey lists the bucket and judges every object, and every partition's age and size. show bounds Plan.Delete.
func Survey(ctx context.Context, observe Observe, bucket objstore.Bucket, show int) (*Plan, error) {
	obs, err := observe(ctx)
	if err != nil {
		return nil, err
	}
	st := obs.State
	p := &Plan{
		N: st.N(), Archived: obs.Archived, CollectionEpoch: st.CollectionEpoch(), LogMS: st.LogTime(),
		Retention: retention.Survey(st, st.LogTime()), Objects: make(map[string]Count), Delete: []Deletion{},
	}
	for f := range fates {
		p.Objects[f.String()] = Count{}
	}
	p.Clock = clockWords(ctx, bucket, st.LogTime())
	p.Versions = versionWords(ctx, bucket)
	listed, orphans := 0, 0
	var ids []entry.ObjectID
	seen := epochView{st.CollectionEpoch(), obs.EpochN}
	err = everything(ctx, bucket, func(info objstore.Info, id entry.ObjectID, ours bool) {
		listed++
		if !ours {
			if p.Foreign++; len(p.ForeignKeys) < foreignShown {
				p.ForeignKeys = append(p.ForeignKeys, info.Key)
			}
			return
		}
		f := judge(st, id, seen, obs.Archived)
		n := p.Objects[f.String()]
		n.Objects, n.Bytes = n.Objects+1, n.Bytes+info.Size
		p.Objects[f.String()] = n
		if f == orphan {
			if orphans++; len(ids) < orphansMax {
				ids = append(ids, id)
			}
		}
		if (f == retired || f == orphan) && len(p.Delete) < show {
			p.Delete = append(p.Delete, Deletion{info.Key, info.Size, f.String()})
		}
	})
	if err != nil {
		return nil, err
	}
	var cfg Config
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if p.Locked, err = cfg.lockedOf(ctx, bucket, ids, orphans, listed); err != nil {
		return nil, err
	}
	if orphans -= p.Locked; cfg.suspicious(orphans, listed) {
		p.Breaker = fmt.Sprintf("%d orphans of %d listed are suspiciously many: the collector deletes nothing until firn gc run --accept", orphans, listed)
	}
	return p, nil
}

// suspicious reports whether a sweep found more orphans than can be right.
func (c *Config) suspicious(orphans, listed int) bool {
	return orphans > c.OrphansFree && orphans*100 > listed*c.OrphanPercent
}

// lockedOf counts the orphans that a lock keeps, where there are suspiciously many, and until there are so no more without them.
func (c *Config) lockedOf(ctx context.Context, bucket objstore.Bucket, ids []entry.ObjectID, orphans, listed int) (locked int, err error) {
	if !c.suspicious(orphans, listed) {
		return 0, nil
	}
	l, err := openLocks(ctx, bucket, 0)
	if l == nil {
		return 0, err
	}
	for i := 0; i < len(ids) && c.suspicious(orphans-locked, listed) && !c.suspicious(i-locked, listed); i++ {
		_, kept, err := l.until(ctx, ids[i])
		if untold(err) {
			break
		}
		if err != nil {
			return locked, err
		}
		if kept {
			locked++
		}
	}
	return locked, nil
}

func clockWords(ctx context.Context, bucket objstore.Bucket, logMS int64) string {
	clock, ok := objstore.As[objstore.Clock](bucket)
	if !ok {
		return ""
	}
	now, err := clock.Now(ctx)
	if err != nil {
		if errors.Is(err, objstore.ErrInvalid) {
			return ""
		}
		return fmt.Sprintf("retention deletes nothing while the bucket does not tell its time: %v", err)
	}
	if lead, holds := retention.Ahead(logMS, now.UnixMilli()); holds {
		return fmt.Sprintf("retention deletes nothing: log time is %s ahead of the bucket's clock; firn gc approve", lead)
	}
	return ""
}

func versionWords(ctx context.Context, bucket objstore.Bucket) string {
	v, ok := objstore.As[objstore.Versioning](bucket)
	if !ok {
		return ""
	}
	state, err := v.VersioningState(ctx)
	if err != nil || state == objstore.VersioningOff {
		return ""
	}
	return fmt.Sprintf("the bucket's versioning is %s: what is deleted stays in it, and costs, as noncurrent versions until a rule of the bucket removes them; see firn bucket check", strings.ToLower(string(state)))
}

// everything lists data/ and topics/.
func everything(ctx context.Context, bucket objstore.Bucket, each func(info objstore.Info, id entry.ObjectID, ours bool)) error {
	for _, root := range roots {
		for after := ""; ; {
			infos, err := bucket.List(ctx, root, after, listPage)
			if err != nil {
				return naming(fmt.Errorf("list %s in the bucket: %w", root, err), "s3:ListBucket")
			}
			if len(infos) == 0 {
				break
			}
			for _, info := range infos {
				id, err := entry.ParseObjectKey(info.Key)
				each(info, id, err == nil)
			}
			after = infos[len(infos)-1].Key
		}
	}
	return nil
}

// Lines renders the plan for people.
func (p *Plan) Lines() []string {
	lines := []string{
		fmt.Sprintf("state         n=%d, collection epoch %d, log time %s", p.N, p.CollectionEpoch, stamp(p.LogMS)),
		fmt.Sprintf("archived to   n=%d", p.Archived),
	}
	for f := range fates {
		if n := p.Objects[f.String()]; n.Objects > 0 {
			lines = append(lines, fmt.Sprintf("objects       %d, %d bytes: %s", n.Objects, n.Bytes, f.words()))
		}
	}
	if p.Foreign > 0 {
		lines = append(lines, fmt.Sprintf("foreign       %d keys that are not firn's, left alone: %s", p.Foreign, strings.Join(p.ForeignKeys, ", ")))
	}
	for _, d := range p.Retention {
		lines = append(lines, fmt.Sprintf("retention     %s: %d bytes in %d rows of %d partitions are due, %d rows by size", d.Topic, d.Bytes, d.Rows, d.Partitions, d.BySize))
	}
	for _, d := range p.Delete {
		lines = append(lines, fmt.Sprintf("delete        %s, %d bytes, %s", d.Key, d.Bytes, d.Why))
	}
	if p.Locked > 0 {
		lines = append(lines, fmt.Sprintf("locked        %d orphans at least are kept by an object lock, and do not count as such", p.Locked))
	}
	for _, held := range []string{p.Clock, p.Breaker, p.Versions} {
		if held != "" {
			lines = append(lines, "NOTE          "+held)
		}
	}
	return lines
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// words says what a fate means.
func (f fate) words() string {
	return [fates]string{
		named: "in use", young: "not named, but too young to be deleted: an upload may be under way, or the collection epoch has to move on",
		waiting: "wait until the archive in the bucket says that nothing names them", retired: "retired, would be deleted", orphan: "orphans, would be deleted",
	}[f]
}

// VerifyReport says what of the objects that the log names is not as it should be.
type VerifyReport struct {
	N       uint64      `json:"n"`
	Objects int         `json:"objects"`
	Bytes   int64       `json:"bytes"`
	Listed  int         `json:"listed"`
	Deep    bool        `json:"deep"` // checksums were checked too
	Read    int64       `json:"bytes_read"`
	Damage  []DamageRow `json:"damage"`
}

// DamageRow is a Damage as reports have it.
type DamageRow struct {
	Object string `json:"object"`
	Kind   string `json:"kind"`
	Detail string `json:"detail"`
}

// VerifyOptions are the tunables of Verify.
type VerifyOptions struct {
	Deep     bool // read everything and check every checksum
	Parallel int  // objects read at a time; 0: 4
}

// Verify checks that every object that the log names is in the bucket with its size and, where deep, is whole. What is damaged by the time
// it ends, and still named then, is in the report.
func Verify(ctx context.Context, observe Observe, bucket objstore.Bucket, opts VerifyOptions) (*VerifyReport, error) {
	obs, err := observe(ctx)
	if err != nil {
		return nil, err
	}
	r := &VerifyReport{N: obs.State.N(), Deep: opts.Deep, Damage: []DamageRow{}}
	v := verifier{st: obs.State, bucket: bucket, found: make(map[entry.ObjectID]Damage)}
	if err := v.existence(ctx, r); err != nil {
		return nil, err
	}
	if opts.Deep {
		if err := v.deep(ctx, r, opts.Parallel); err != nil {
			return nil, err
		}
	}
	if len(v.found) == 0 {
		return r, nil
	}
	if obs, err = observe(ctx); err != nil { // what retired since the start may have been deleted
		return nil, err
	}
	for id, d := range v.found {
		if obs.State.Named(id) {
			r.Damage = append(r.Damage, DamageRow{id.Key(), d.Kind, d.Detail})
		}
	}
	slices.SortFunc(r.Damage, func(a, b DamageRow) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object)) })
	return r, nil
}

// Lines renders the report for people.
func (r *VerifyReport) Lines() []string {
	what := "sizes"
	if r.Deep {
		what = fmt.Sprintf("sizes and checksums, %d bytes read", r.Read)
	}
	lines := []string{fmt.Sprintf("objects       %d named at n=%d, %d bytes; %d listed; %s", r.Objects, r.N, r.Bytes, r.Listed, what)}
	for _, d := range r.Damage {
		lines = append(lines, fmt.Sprintf("DAMAGED       %s: %s: %s", d.Object, d.Kind, d.Detail))
	}
	if len(r.Damage) == 0 {
		lines = append(lines, "nothing is missing or damaged")
	}
	return lines
}

// verifier checks objects against a state that nobody else has.
type verifier struct {
	st     *state.State
	bucket objstore.Bucket
	found  map[entry.ObjectID]Damage
}

// existence lists the bucket and finds what is named and not there.
func (v *verifier) existence(ctx context.Context, r *VerifyReport) error {
	there := make(map[uint64]struct{})
	err := everything(ctx, v.bucket, func(info objstore.Info, id entry.ObjectID, ours bool) {
		r.Listed++
		o, live := v.st.ObjectByID(id)
		if !ours || !live || o.Pending {
			return
		}
		there[fingerprint(id)] = struct{}{}
		if o.Size != info.Size {
			v.found[id] = Damage{id, KindSize, fmt.Sprintf("%d bytes, the log says %d", info.Size, o.Size)}
		}
	})
	if err != nil {
		return err
	}
	for o := range v.st.ObjectTable() {
		if o.Pending {
			continue
		}
		r.Objects, r.Bytes = r.Objects+1, r.Bytes+o.Size
		if !has(there, fingerprint(o.ID)) {
			v.found[o.ID] = Damage{o.ID, KindMissing, "the bucket does not list it"}
		}
	}
	return nil
}

// deep reads everything that is there.
func (v *verifier) deep(ctx context.Context, r *VerifyReport, parallel int) error {
	if parallel <= 0 {
		parallel = 4
	}
	var objects []state.Object
	for o := range v.st.ObjectTable() {
		if d, bad := v.found[o.ID]; !o.Pending && (!bad || d.Kind != KindMissing) {
			objects = append(objects, o)
		}
	}
	type result struct {
		*check
		d   *Damage
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	work, results := make(chan state.Object), make(chan result)
	for range parallel {
		wg.Go(func() {
			for o := range work {
				c := &check{bucket: v.bucket, object: o}
				res := result{check: c}
				for done := false; !done && res.err == nil; {
					res.d, done, res.err = c.step(ctx)
				}
				select {
				case results <- res:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Go(func() {
		defer close(work)
		for _, o := range objects {
			select {
			case work <- o:
			case <-ctx.Done():
				return
			}
		}
	})
	var walk rowWalk
	for range objects {
		select {
		case res := <-results:
			if res.err != nil {
				return res.err
			}
			r.Read += res.read
			if res.d != nil {
				v.found[res.d.Object] = *res.d
			} else if walk.add(res.object.ID, res.footer); walk.full() {
				v.rows(ctx, &walk)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	v.rows(ctx, &walk)
	return context.Cause(ctx)
}

// rows looks at the rows of what was gathered.
func (v *verifier) rows(ctx context.Context, walk *rowWalk) {
	walk.begin()
	for done := false; !done && ctx.Err() == nil; {
		done = walk.step(func(fn func(*state.State)) { fn(v.st) })
	}
	_, bad := walk.end()
	for id, d := range bad {
		v.found[id] = *d
	}
}

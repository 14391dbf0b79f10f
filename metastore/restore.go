package metastore

import (
	"bytes"
	"cmp"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// A restore makes a cluster's log again in an empty etcd, from the bucket alone. Its steps, and what a crash after each leaves:
//
//  1. Read: find the newest state that the archive gives, and the segments whose ops were not archived. Nothing is changed.
//  2. Write a snapshot of that state. A crash leaves an object that later restores may begin with.
//  3. Found the log in etcd, in one transaction: identity with the next log epoch, the cells that name archive and snapshot,
//     and a cell that says that a restore is under way. From here on agents refuse to start; a restore that is started
//     again reads in that cell what was decided and goes on.
//  4. Note the epoch in the bucket's marker. From here on agents of the old log, should it be alive, end.
//  5. Commit: an entry that opens the epoch, then the batches of those segments. One that is started again joins under the same
//     name, after which nothing of the interrupted one is taken any more, and proposes only what was not proposed.
//  6. Move the collection epoch on by two: no upload from before can ever be named again, and orphans can be collected.
//  7. Leave, and say in the cell that the restore is complete.

var (
	// ErrNotEmpty: there is something where the log is to be restored to.
	ErrNotEmpty = errors.New("etcd is not empty")
	// ErrNotConfirmed: a restore needs the operator's word that the old etcd is gone.
	ErrNotConfirmed = errors.New("not confirmed")
)

// restorerName is the agent that a restore joins as, for as long as it lasts.
const restorerName = "firn restore"

// RestoreOptions are what an operator decides. The zero value changes nothing and refuses damage.
type RestoreOptions struct {
	// DryRun: say what a restore would do.
	DryRun bool
	// EtcdIsLost is the operator's word that the old etcd is gone for good.
	EtcdIsLost bool
	// AcceptDamage: go on without what is damaged; the report lists it.
	AcceptDamage bool
	// FromStart: replay the whole archive and begin with no snapshot.
	FromStart bool
	// Head chooses the archive object to end with, where the bucket holds more than one history.
	Head string

	// Now is the clock. Default time.Now. Rand makes incarnations. Default: the system's. Logger gets one line a step.
	Now    func() time.Time
	Rand   io.Reader
	Logger *slog.Logger
	// TTL of the registration. Default 10 s.
	TTL time.Duration
}

// RestoreReport says what a restore did, or would do.
type RestoreReport struct {
	DryRun    bool   `json:"dry_run"`
	Resumed   bool   `json:"resumed"` // an interrupted one went on
	LogID     string `json:"log_id"`
	Epoch     uint64 `json:"epoch"`  // opened by this restore
	BaseN     uint64 `json:"base_n"` // the last entry that the bucket had
	ChainHash string `json:"chain_hash"`
	From      string `json:"from"` // snapshot that the replay began with; "" the beginning
	Entries   uint64 `json:"replayed_entries"`
	Ranges    int    `json:"archive_objects"`
	Topics    int    `json:"topics"`
	Objects   int    `json:"objects"` // that rows name
	// MissingObjects of them are not in the bucket; Missing names the first.
	MissingObjects int      `json:"missing_objects"`
	Missing        []string `json:"missing"`

	Segments  int   `json:"unreferenced_segments"` // whose batches are appended again
	Bytes     int64 `json:"segment_bytes"`
	Settled   int   `json:"settled_segments"`   // recent, and nothing in them is missing
	Abandoned int   `json:"abandoned_segments"` // of agents that were gone before
	Batches   Tally `json:"batches"`
	Records   Tally `json:"records"`

	RestoredTopics []string `json:"restored_topics"` // whose creation was lost
	Refused        []string `json:"refused"`
	Notes          []string `json:"notes"`
	Damage         []string `json:"damage"`
	HeadN          uint64   `json:"head_n"` // of the restored log
	Steps          []Step   `json:"steps"`
}

// Tally counts what became of what was proposed.
type Tally struct {
	Appended  int64 `json:"appended"`
	Duplicate int64 `json:"duplicate"` // there already
	Refused   int64 `json:"refused"`
}

func (t *Tally) add(code state.Code, n int64) {
	switch code {
	case state.OK:
		t.Appended += n
	case state.Duplicate, state.DuplicateSequence:
		t.Duplicate += n
	default:
		t.Refused += n
	}
}

// Step is how long a part of a restore took.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Lines renders the report for people.
func (r *RestoreReport) Lines() []string {
	did := "restored"
	switch {
	case r.DryRun:
		did = "would be restored (dry run: nothing was changed)"
	case r.Resumed:
		did = "restored, going on where an earlier restore was interrupted"
	}
	lines := []string{
		fmt.Sprintf("log           %s: epoch %d, %s", r.LogID, r.Epoch, did),
		fmt.Sprintf("base          n=%d, chain hash %s", r.BaseN, r.ChainHash),
		fmt.Sprintf("replayed      %d entries of %d archive objects, from %s", r.Entries, r.Ranges, cmp.Or(r.From, "the beginning")),
		fmt.Sprintf("state         %d topics, %d objects", r.Topics, r.Objects),
		fmt.Sprintf("segments      %d with batches that the archive does not know (%d bytes); %d settled, %d abandoned", r.Segments, r.Bytes, r.Settled, r.Abandoned),
		fmt.Sprintf("batches       %d appended again, %d there already, %d refused", r.Batches.Appended, r.Batches.Duplicate, r.Batches.Refused),
		fmt.Sprintf("records       %d appended again, %d there already, %d refused", r.Records.Appended, r.Records.Duplicate, r.Records.Refused),
	}
	if r.MissingObjects > 0 {
		lines = append(lines, fmt.Sprintf("objects       %d that rows name are not in the bucket: bring them back (versions, a replica of the bucket), or agents answer "+
			"KAFKA_STORAGE_ERROR for what they held", r.MissingObjects))
	}
	for _, list := range []struct {
		label string
		items []string
	}{{"MISSING", r.Missing}, {"TOPIC", r.RestoredTopics}, {"REFUSED", r.Refused}, {"note", r.Notes}, {"DAMAGE", r.Damage}} {
		for _, item := range list.items {
			lines = append(lines, fmt.Sprintf("%-13s %s", list.label, item))
		}
	}
	if !r.DryRun {
		lines = append(lines, fmt.Sprintf("head          n=%d", r.HeadN))
	}
	for _, s := range r.Steps {
		lines = append(lines, fmt.Sprintf("time          %-10s %.3f s", s.Name, s.Seconds))
	}
	return lines
}

// restorer is one restore under way.
type restorer struct {
	log    log.Founder
	bucket objstore.Bucket
	opts   RestoreOptions
	report *RestoreReport

	history  history
	plan     restoring
	base     *replayed
	segments []lostSegment // sorted by collection epoch, incarnation, seq
	creates  []*entry.CreateTopic
	order    []numbered
	// newestEpoch is the highest collection epoch of the objects in the bucket.
	newestEpoch uint64

	// Of the log that is being written.
	st          *state.State
	apply       applier
	identity    log.Identity
	incarnation log.Incarnation
	reg         log.Registration
	seq         uint64
	// outcomes are what Apply said of batches, by segment and place.
	outcomes map[ref]state.Code
	byID     map[entry.ObjectID]int // of segments
}

// ref names a batch of a segment.
type ref struct {
	segment int
	place
}

// Restore makes the log of the bucket's cluster again below the prefix of l, which has to be empty. The report comes with an
// error too, as far as it got.
func Restore(ctx context.Context, l log.Founder, bucket objstore.Bucket, opts RestoreOptions) (*RestoreReport, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = crand.Reader
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.TTL = cmp.Or(opts.TTL, 10*time.Second)
	r := &restorer{
		log: l, bucket: bucket, opts: opts, outcomes: make(map[ref]state.Code), byID: make(map[entry.ObjectID]int),
		report: &RestoreReport{DryRun: opts.DryRun, Missing: []string{}, RestoredTopics: []string{}, Refused: []string{}, Notes: []string{}, Damage: []string{}, Steps: []Step{}},
	}
	err := r.run(ctx)
	r.report.Notes = append(r.report.Notes, r.history.notes...)
	return r.report, err
}

func (r *restorer) run(ctx context.Context) error {
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"look", r.look}, {"replay", r.replay}, {"segments", r.find}, {"found", r.found}, {"append", r.append}, {"finish", r.finish},
	}
	if r.opts.DryRun {
		steps = append(steps[:3], steps[3])
		steps[3].name, steps[3].do = "rehearse", r.rehearse
	}
	for _, s := range steps {
		start := r.opts.Now()
		err := s.do(ctx)
		r.report.Steps = append(r.report.Steps, Step{s.name, r.opts.Now().Sub(start).Seconds()})
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.opts.Logger.Info("restore", "step", s.name, "seconds", r.report.Steps[len(r.report.Steps)-1].Seconds)
	}
	return nil
}

// look decides whether there may be a restore, and whether one is under way.
func (r *restorer) look(ctx context.Context) error {
	m, err := readMarker(ctx, r.bucket)
	if err != nil {
		if errors.Is(err, objstore.ErrNotFound) {
			return fmt.Errorf("%w: the bucket holds no firn cluster (no object %s): point at the bucket and prefix of the cluster", ErrForeign, MarkerKey)
		}
		return err
	}
	id, err := hex.DecodeString(m.LogID)
	if err != nil || len(id) != len(r.identity.ID) {
		return fmt.Errorf("%w: marker %s names log %q", ErrCorrupt, MarkerKey, m.LogID)
	}
	r.history = history{bucket: r.bucket, marker: m}
	copy(r.history.identity.ID[:], id)
	r.report.LogID = m.LogID

	standing, err := r.log.Standing(ctx)
	if err != nil {
		return err
	}
	if standing.Keys == 0 {
		if !r.opts.EtcdIsLost && !r.opts.DryRun {
			return r.unconfirmed(ctx)
		}
		return nil
	}
	if standing.Identity.Epoch > 0 && standing.Identity.ID == r.history.identity.ID {
		plan, _, err := loadRestoring(ctx, r.log)
		switch {
		case err != nil:
			return err
		case plan != nil && !plan.Done:
			r.plan, r.identity, r.report.Resumed = *plan, standing.Identity, true
			r.opts.AcceptDamage, r.opts.FromStart, r.opts.Head = plan.AcceptDamage, plan.FromStart, plan.Chosen
			// What this restore noted itself does not count when it reads the bucket as it was.
			m.Epochs = slices.DeleteFunc(m.Epochs, func(e markedEpoch) bool { return e.Epoch >= plan.Epoch })
			return nil
		}
		return fmt.Errorf("%w: it holds this cluster's log, in epoch %d: there is nothing to restore; see firn metastore status",
			ErrNotEmpty, standing.Identity.Epoch)
	}
	return fmt.Errorf("%w: %d keys below the prefix, such as %s; a restore needs a new etcd, or a prefix without keys. "+
		"Agents that started against the new etcd too early may have left them: then stop the agents, delete what is below the prefix, and restore",
		ErrNotEmpty, standing.Keys, strings.Join(standing.Some, ", "))
}

// unconfirmed says what to make sure of, with what the bucket shows.
func (r *restorer) unconfirmed(ctx context.Context) error {
	last := "nothing was ever archived"
	snapshots, err := r.history.list(ctx, snapshotPrefix, "")
	if err != nil {
		return err
	}
	after := archivePrefix // behind a snapshot there are few objects, before it there may be millions
	for _, o := range snapshots {
		after = max(after, fmt.Sprintf("%s%016x/%016x", archivePrefix, o.epoch, o.last-min(o.last, spanMax)))
	}
	var newest objstore.Info
	for {
		infos, err := r.bucket.List(ctx, archivePrefix, after, 1000)
		if err != nil {
			return err
		}
		if len(infos) == 0 {
			break
		}
		newest = infos[len(infos)-1]
		after = newest.Key
	}
	if newest.Key != "" {
		last = fmt.Sprintf("the old log was last archived at %s (%s)", newest.ModTime.UTC().Format(time.RFC3339), newest.Key)
	}
	return fmt.Errorf("%w: a restore gives up the old log, and everything that it still takes is lost. Make sure that it is gone: stop every agent; "+
		"stop the old etcd's members for good, or take their data away; see that nothing new is archived (%s). Then say --etcd-is-lost",
		ErrNotConfirmed, last)
}

// replay finds the state to go on from.
func (r *restorer) replay(ctx context.Context) error {
	base, err := r.history.replay(ctx, r.opts.FromStart, r.opts.Head)
	if err != nil {
		return err
	}
	r.base = base
	hash := base.st.ChainHash()
	live, _ := base.st.ObjectCount()
	rep := r.report
	rep.BaseN, rep.ChainHash, rep.From, rep.Entries, rep.Ranges = base.st.N(), hex.EncodeToString(hash[:]), base.from, base.entries, base.ranges
	rep.Topics, rep.Objects = base.st.TopicCount(), live
	if base.loss != nil {
		rep.Damage = append(rep.Damage, base.loss.problems...)
		if !r.opts.AcceptDamage {
			return fmt.Errorf("%w. Bring the objects back (versions, a replica of the bucket), or choose a history with --head, or say --accept-damage "+
				"to give up what lies beyond", base.loss)
		}
	}
	if r.report.Resumed {
		if r.plan.Base != rep.BaseN || r.plan.Hash != rep.ChainHash {
			return fmt.Errorf("%w: the restore that was interrupted began from n=%d with chain hash %s, the bucket now gives n=%d with %s; "+
				"empty the prefix and restore anew", ErrDamaged, r.plan.Base, r.plan.Hash, rep.BaseN, rep.ChainHash)
		}
	} else {
		r.plan = restoring{
			Format: restoringFormat, Epoch: r.nextEpoch(), Base: rep.BaseN, Hash: rep.ChainHash, Head: base.head,
			AcceptDamage: r.opts.AcceptDamage, FromStart: r.opts.FromStart, Chosen: r.opts.Head,
		}
	}
	rep.Epoch = r.plan.Epoch
	return nil
}

// nextEpoch is above every log epoch that the bucket shows.
func (r *restorer) nextEpoch() uint64 {
	return max(r.history.marker.newest(), r.base.st.Identity().Epoch) + 1
}

// missingMax bounds how many missing objects the report names.
const missingMax = 50

// segmentReaders is how many segments are read at a time.
const segmentReaders = 8

// find reads the segments with batches that have no offsets.
func (r *restorer) find(ctx context.Context) error {
	st, w := r.base.st, r.base.window
	w.end(st.LogTime())
	there, err := listObjects(ctx, r.bucket, st, func(key string) { r.history.note("object %s is not one of firn's: ignored", key) })
	if err != nil {
		return err
	}
	r.newestEpoch = there.epoch
	r.report.MissingObjects = len(there.missing)
	for _, o := range there.missing[:min(len(there.missing), missingMax)] {
		r.report.Missing = append(r.report.Missing, fmt.Sprintf("%s (%d bytes)", o.ID, o.Size))
	}
	retired := make(map[entry.ObjectID]bool)
	for _, gone := range st.Retired() {
		retired[gone.Object] = true
	}
	var read []entry.ObjectID
	verdicts := make(map[entry.ObjectID]verdict)
	for _, id := range there.recent {
		switch v := w.judgeObject(id, retired); v {
		case settled:
			r.report.Settled++
		case abandoned:
			r.report.Abandoned++
		default:
			read, verdicts[id] = append(read, id), v
		}
	}
	slices.SortFunc(read, func(a, b entry.ObjectID) int {
		return cmp.Or(cmp.Compare(a.CollectionEpoch, b.CollectionEpoch), a.Compare(b))
	})
	found := make([]lostSegment, len(read))
	errs := make([]error, len(read))
	var wg sync.WaitGroup
	for k := range segmentReaders {
		wg.Go(func() {
			for i := k; i < len(read); i += segmentReaders {
				var ops []*entry.Append
				if ops, found[i].size, errs[i] = readLost(ctx, r.bucket, read[i]); errs[i] == nil {
					found[i].id, found[i].batches = read[i], w.missing(st, read[i], ops)
				}
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		switch {
		case err == nil && len(found[i].batches) == 0:
			r.report.Settled++
		case err == nil:
			r.byID[found[i].id] = len(r.segments)
			r.segments = append(r.segments, found[i])
			r.report.Bytes += int64(found[i].size)
		case !unusable(err):
			return err
		case verdicts[read[i]] == partly && st.Named(read[i]):
			r.history.note("%v (its records are in the log and cannot be read)", err)
		case verdicts[read[i]] == partly && retired[read[i]]:
			r.history.note("%v (its records were deleted, or are elsewhere by now)", err)
		default:
			r.report.Damage = append(r.report.Damage, err.Error())
		}
	}
	if n := len(r.report.Damage); n > 0 && !r.opts.AcceptDamage {
		return fmt.Errorf("%w: %d segments whose batches are to be appended again are damaged, the first: %s. "+
			"Bring them back (versions, a replica of the bucket), or say --accept-damage to leave them out", ErrDamaged, n, r.report.Damage[0])
	}
	r.report.Segments = len(r.segments)
	r.creates = lostTopics(st, w.deleted, r.segments)
	for _, c := range r.creates {
		r.report.RestoredTopics = append(r.report.RestoredTopics, fmt.Sprintf("%s: its creation was not archived, so its name and configs are lost; %d partitions", c.Name, c.Partitions))
	}
	r.order = arrange(r.segments)
	return nil
}

// copyState gives a state of its own to apply to.
func (r *restorer) copyState() error {
	var err error
	r.st, err = state.Load(r.base.st.AppendSnapshot(nil))
	return err
}

// rehearse applies to a copy of the state what append would commit.
func (r *restorer) rehearse(context.Context) error {
	if err := r.copyState(); err != nil {
		return err
	}
	if _, err := io.ReadFull(r.opts.Rand, r.incarnation[:]); err != nil {
		return err
	}
	try := func(ops ...entry.Op) error {
		value := r.nextEntry(ops)
		return r.take(log.Entry{N: r.st.N() + 1, Key: log.Key{Incarnation: r.incarnation, Seq: r.seq}, Value: value})
	}
	if err := try(r.opening()...); err != nil {
		return err
	}
	if err := r.propose(func(ops []entry.Op) error { return try(ops...) }); err != nil {
		return err
	}
	r.count()
	return nil
}

// found makes the log, unless an interrupted restore did.
func (r *restorer) found(ctx context.Context) error {
	if !r.report.Resumed {
		p, err := r.baseSnapshot(ctx)
		if err != nil {
			return err
		}
		cells := make(map[string][]byte)
		if cells[snapshotCell], err = json.Marshal(p); err != nil {
			return err
		}
		if cells[restoreCell], err = json.Marshal(r.plan); err != nil {
			return err
		}
		if r.plan.Head != "" {
			cells[archiveCell] = []byte(r.plan.Head)
		}
		if err := r.ownBucket(ctx, cells); err != nil {
			return err
		}
		identity := log.Identity{ID: r.history.identity.ID, Epoch: r.plan.Epoch, Base: r.plan.Base}
		if r.identity, err = r.log.Found(ctx, identity, cells); err != nil {
			return fmt.Errorf("found the log in etcd: %w; look at it with --dry-run, and restore again", err)
		}
	}
	return mark(ctx, r.bucket, r.identity.ID, markedEpoch{Epoch: r.plan.Epoch, Base: r.plan.Base, Hash: r.plan.Hash})
}

// ownBucket has the log know its bucket from the start. Otherwise the first agent to come would say which it is, and one that has another that
// was claimed for this log long ago need not even read its way to the newest entry to spoil it for all others.
func (r *restorer) ownBucket(ctx context.Context, cells map[string][]byte) error {
	m, err := readMarker(ctx, r.bucket)
	if errors.Is(err, objstore.ErrNotFound) || err == nil && m.BucketID == "" {
		return nil
	}
	if err != nil {
		return err
	}
	cells[bucketCell], err = json.Marshal(chosenBucket{Format: chosenFormat, BucketID: m.BucketID})
	return err
}

// baseSnapshot writes the state that the log goes on from, and reads it back.
func (r *restorer) baseSnapshot(ctx context.Context) (pointer, error) {
	body := r.base.st.AppendSnapshot(nil)
	sum := sha256.Sum256(body)
	var writer log.Incarnation
	if _, err := io.ReadFull(r.opts.Rand, writer[:]); err != nil {
		return pointer{}, err
	}
	p := pointer{
		Format: pointerFormat, N: r.plan.Base, Object: snapshotKey(r.base.st.Identity().Epoch, r.plan.Base, writer),
		SHA256: hex.EncodeToString(sum[:]), Trimmed: r.plan.Base, Deleted: r.plan.Base, Archive: r.plan.Head,
	}
	if err := r.bucket.Put(ctx, p.Object, body, objstore.PutOptions{}); err != nil {
		return p, fmt.Errorf("write snapshot %s: %w", p.Object, err)
	}
	back, err := readSnapshot(ctx, r.bucket, r.history.identity, p)
	if err != nil {
		return p, fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(back.AppendSnapshot(nil), body) {
		return p, fmt.Errorf("%w: snapshot %s does not load to the state it was made of", ErrDiverged, p.Object)
	}
	return p, nil
}

// opening are the ops of the first entry.
func (r *restorer) opening() []entry.Op {
	ops := []entry.Op{
		&entry.Join{Name: restorerName, MaxFeatureLevel: state.MaxFeatureLevel},
		&entry.NewLogEpoch{Epoch: r.plan.Epoch},
	}
	for _, c := range r.creates {
		ops = append(ops, c)
	}
	return ops
}

// append commits what was not archived.
func (r *restorer) append(ctx context.Context) error {
	if err := r.copyState(); err != nil {
		return err
	}
	if _, err := io.ReadFull(r.opts.Rand, r.incarnation[:]); err != nil {
		return err
	}
	reg, err := r.log.Register(ctx, r.incarnation, []byte(restorerName), r.opts.TTL)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	r.reg = reg
	// The join ends an interrupted restore: what it proposed and is not in the log before this entry has no effect. So what
	// the log holds up to here is all that needs not be proposed again.
	if err := r.commit(ctx, r.opening()...); err != nil {
		return err
	}
	if err := r.readBack(ctx); err != nil {
		return err
	}
	if got := r.st.Identity(); got.Epoch != r.plan.Epoch || got.Base != r.plan.Base {
		return fmt.Errorf("%w: the log opens epoch %d after n=%d, not epoch %d after n=%d", ErrDiverged, got.Epoch, got.Base, r.plan.Epoch, r.plan.Base)
	}
	if err := r.propose(func(ops []entry.Op) error { return r.commit(ctx, ops...) }); err != nil {
		return err
	}
	if err := r.readBack(ctx); err != nil {
		return err
	}
	r.count()
	return nil
}

// Sizes of a proposed entry, from above for all but extreme values.
const (
	restoreEntryBytes = 48 << 10
	restoreOpBytes    = 96
	restoreBlockBytes = 96
	restoreBatchBytes = 64
)

// propose makes ops of the batches that were not proposed yet, in order, and hands them on, an entry's worth at a time.
func (r *restorer) propose(commit func([]entry.Op) error) error {
	var ops []entry.Op
	var op *entry.Append
	var block *entry.Block
	var end uint64
	size, segment := 0, -1
	epoch := r.st.CollectionEpoch()
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		err := commit(ops)
		ops, op, block, size = nil, nil, nil, 0
		return err
	}
	for _, x := range r.order {
		if _, done := r.outcomes[ref{x.segment, x.place}]; done {
			continue
		}
		if size > restoreEntryBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		s := &r.segments[x.segment]
		for ; epoch < s.id.CollectionEpoch; epoch++ { // it was uploaded after a bump that was not archived
			ops, op = append(ops, &entry.BumpCollectionEpoch{From: epoch}), nil
		}
		if op == nil || segment != x.segment {
			op, block, segment = &entry.Append{Object: s.id, ObjectSize: s.size}, nil, x.segment
			ops = append(ops, op)
			size += restoreOpBytes
		}
		if block == nil || block.Topic != x.topic || block.Partition != x.partition || block.Index != x.block || end != x.position {
			op.Blocks = append(op.Blocks, entry.Block{
				Topic: x.topic, Partition: x.partition, Index: x.block, FirstPosition: x.position, ExpectedNextOffset: x.condition,
			})
			block = &op.Blocks[len(op.Blocks)-1]
			size += restoreBlockBytes
		}
		block.AddBatch(x.size, x.span, x.timestamp, x.producer)
		size += restoreBatchBytes
		end = x.position + x.size
	}
	return flush()
}

// entryLevel is the feature level of an entry of these ops: the lowest that an agent must understand to apply them.
func entryLevel(ops []entry.Op) uint32 {
	level := uint32(1)
	for _, op := range ops {
		level = max(level, entry.Level(op))
	}
	return level
}

// nextEntry encodes the next entry of this restore.
func (r *restorer) nextEntry(ops []entry.Op) []byte {
	r.seq++
	e := entry.Entry{
		Format: entryFormat, FeatureLevel: entryLevel(ops), Incarnation: r.incarnation, Seq: r.seq, ClockMs: r.opts.Now().UnixMilli(), Ops: ops,
	}
	return e.AppendTo(nil)
}

// commit makes one entry part of the log.
func (r *restorer) commit(ctx context.Context, ops ...entry.Op) error {
	value := r.nextEntry(ops)
	key := log.Key{Incarnation: r.incarnation, Seq: r.seq}
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		attempt, cancel := context.WithTimeout(ctx, commitAttempt)
		outcome, err := r.log.Commit(attempt, r.identity, key, value)
		cancel()
		switch {
		case err == nil && (outcome == log.Committed || outcome == log.Exists):
			return nil
		case err == nil && outcome == log.Fenced:
			return fmt.Errorf("%w: the restore's registration is gone; run it again", log.ErrUnavailable)
		case err == nil:
			return fmt.Errorf("%w: the log's identity changed during the restore", ErrForeign)
		case !errors.Is(err, log.ErrUnavailable) || ctx.Err() != nil:
			return fmt.Errorf("commit %v: %w", key, err)
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// readBack applies the log up to its head.
func (r *restorer) readBack(ctx context.Context) error {
	for {
		entries, _, more, err := r.log.Read(ctx, r.st.N(), sequences(r.st), readBytes)
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		for i := range entries {
			if err := r.take(entries[i]); err != nil {
				return err
			}
		}
		if !more {
			break
		}
	}
	r.report.HeadN = r.st.N()
	if _, here := r.st.AgentByIncarnation(r.incarnation); !here {
		return fmt.Errorf("%w: another restore of this log took over; let it finish", log.ErrConflict)
	}
	return nil
}

// take applies an entry of the new log and notes what became of batches.
func (r *restorer) take(e log.Entry) error {
	decoded, err := r.apply.decoder.Decode(e.Value)
	if err == nil {
		err = r.st.Apply(e.N, e.Value, decoded, &r.apply.results)
	}
	if err != nil {
		return fmt.Errorf("apply n=%d: %w", e.N, err)
	}
	if r.apply.results.EntryCode != state.OK {
		return nil
	}
	for i, op := range decoded.Ops {
		a, ok := op.(*entry.Append)
		if !ok {
			continue
		}
		segment, known := r.byID[a.Object]
		if !known {
			return fmt.Errorf("%w: entry n=%d of the restored log appends %s, which was not to be: agents have started too early", ErrDiverged, e.N, a.Object)
		}
		results := r.apply.results.Ops[i].Batches
		for j := range a.Blocks {
			b := &a.Blocks[j]
			at := ref{segment, place{b.Index, b.FirstPosition}}
			for _, size := range b.Sizes {
				r.outcomes[at] = results[0].Code
				results = results[1:]
				at.position += size
			}
		}
	}
	return nil
}

// refusedMax bounds how many refused batches the report names.
const refusedMax = 50

// count adds up what became of every batch. One that was refused is there all the same where the producer sent it again
// and that copy was accepted.
func (r *restorer) count() {
	type copies struct {
		lineKey
		epoch    int16
		sequence int32
	}
	of := func(x numbered) copies {
		return copies{lineKey{x.topic, x.partition, x.producer.ID}, x.producer.Epoch, x.producer.BaseSequence}
	}
	there := make(map[copies]bool)
	for _, x := range r.order {
		if code, known := r.outcomes[ref{x.segment, x.place}]; known && code == state.OK && x.producer.ID >= 0 {
			there[of(x)] = true
		}
	}
	for _, x := range r.order {
		code, known := r.outcomes[ref{x.segment, x.place}]
		switch {
		case !known:
			code = state.InvalidRequest
		case code != state.OK && x.producer.ID >= 0 && there[of(x)]:
			code = state.Duplicate
		}
		r.report.Batches.add(code, 1)
		r.report.Records.add(code, int64(x.span))
		switch code {
		case state.OK, state.Duplicate, state.DuplicateSequence:
			continue
		}
		if len(r.report.Refused) == refusedMax {
			r.report.Refused = append(r.report.Refused, "and more")
		}
		if len(r.report.Refused) > refusedMax {
			continue
		}
		topic := "topic " + x.topic.String()
		if t := r.st.TopicByID(x.topic); t != nil {
			topic = t.Name
		}
		r.report.Refused = append(r.report.Refused, fmt.Sprintf("%v: %s partition %d, %d records of producer %d at sequence %d, in %s",
			code, topic, x.partition, x.span, x.producer.ID, x.producer.BaseSequence, r.segments[x.segment].id))
	}
}

// finish closes the door behind the restore and opens the one to agents.
func (r *restorer) finish(ctx context.Context) error {
	// From what the state had before anything was appended: bumps that an interrupted restore made are not made again.
	epoch := max(r.base.st.CollectionEpoch(), r.newestEpoch)
	var ops []entry.Op
	for at := r.st.CollectionEpoch(); at < epoch+2; at++ {
		ops = append(ops, &entry.BumpCollectionEpoch{From: at})
	}
	if len(ops) > 0 {
		if err := r.commit(ctx, ops...); err != nil {
			return err
		}
	}
	if err := r.readBack(ctx); err != nil {
		return err
	}
	if err := r.commit(ctx, &entry.Leave{Incarnation: r.incarnation}); err != nil {
		return err
	}
	r.report.HeadN++
	plan, cell, err := loadRestoring(ctx, r.log)
	if err != nil {
		return err
	}
	if plan == nil || plan.Epoch != r.plan.Epoch {
		return fmt.Errorf("%w: cell %s changed during the restore", ErrForeign, restoreCell)
	}
	plan.Done = true
	value, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	if _, err := r.log.Swap(ctx, restoreCell, cell.Version, value, nil); err != nil {
		if now, _, loadErr := loadRestoring(ctx, r.log); loadErr != nil || now == nil || !now.Done {
			return fmt.Errorf("mark the restore complete: %w; run it again", err)
		}
	}
	return r.reg.Close(ctx)
}

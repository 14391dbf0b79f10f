package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
)

// Meta is what the duty needs of a *metastore.Client.
type Meta interface {
	View(fn func(*state.State))
	Barrier(ctx context.Context) error
	Propose(ctx context.Context, op entry.Op) (state.OpResult, error)
	Incarnation() log.Incarnation
	ClusterID() string
	// OwnsBucket is nil where the bucket is this log's.
	OwnsBucket(ctx context.Context) error
}

var _ Meta = (*metastore.Client)(nil)

// Interval is how often Step is worth a call where it had nothing to do: findings and rules are no older.
const Interval = 10 * time.Minute

// IntervalMax is the longest for which the proof in the package doc holds.
const IntervalMax = runsApartMS * time.Millisecond / 2

// First is how soon after its start an agent looks: what contradicts topics is told then.
const First = 2 * time.Second

// Config are the tunables; zero values are the defaults.
type Config struct {
	// ObjectsPerStep bounds how many objects' tags are looked at in one Step. Default 200.
	ObjectsPerStep int
	// ObjectsPerLook is how many objects one look at the table of objects takes down, for the Steps that follow. Default 16384, some 2 MiB.
	ObjectsPerLook int
	// CallTimeout bounds one request. Default 10 s.
	CallTimeout time.Duration
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	if c.ObjectsPerStep < 0 || c.ObjectsPerLook < 0 || c.CallTimeout < 0 {
		errs = append(errs, fmt.Errorf("lifecycle: negative: %d objects a step, %d a look, %v a call", c.ObjectsPerStep, c.ObjectsPerLook, c.CallTimeout))
	}
	c.ObjectsPerStep = cmp.Or(c.ObjectsPerStep, 200)
	c.ObjectsPerLook = cmp.Or(c.ObjectsPerLook, 16384)
	c.CallTimeout = cmp.Or(c.CallTimeout, 10*time.Second)
	return errors.Join(errs...)
}

// Deps are what the duty works with.
type Deps struct {
	Meta    Meta
	Bucket  objstore.Bucket
	Store   Store        // default: NewStore(Bucket)
	Logger  *slog.Logger // default: discard
	Metrics *Metrics     // may be nil
}

// Keeper is the duty "lifecycle". Step is for one goroutine, all else is safe for concurrent use.
type Keeper struct {
	cfg   Config
	deps  Deps
	site  Site
	mine  bool // as of the last Step
	begun bool // findings were told once

	told map[string]Finding // by what they say, as of the last look
	// takes are the storage classes that the store has taken an object in; refused are those in which it did not, last time.
	takes        map[string]bool
	refused      map[string]error
	round        *round // nil: none is under way
	unmovedAsked string // for which topics and classes transitions were tried last

	mu    sync.Mutex // guards what the bucket said last, for readers beside Step
	inv   *Inventory // nil: nothing yet
	invAt time.Time
	// unmoved are the classes that the store's rules do not know, and unmovedAt is when they were tried last, in log time. Step alone sets them,
	// unmoved to a map that nobody changes.
	unmoved   map[string]error
	unmovedAt int64
	// rejected are storage classes that the store did not know when it was asked, kept for rejectedFor, at most rejectedMost.
	rejected map[string]rejection
}

// rejection is what a store said of a storage class.
type rejection struct {
	why string
	at  int64 // log time
}

const (
	rejectedFor  = 30 * time.Minute
	rejectedMost = 2 * classesMax
)

// New returns a Keeper that does nothing until Step.
func New(cfg Config, deps Deps) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Meta == nil || deps.Bucket == nil {
		return nil, errors.New("lifecycle: metastore and bucket are required")
	}
	if deps.Store == nil {
		deps.Store = NewStore(deps.Bucket)
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Metrics == nil {
		deps.Metrics = NewMetrics(nil)
	}
	site := Site{Cluster: deps.Meta.ClusterID(), Prefix: deps.Store.KeyPrefix()}
	return &Keeper{cfg: cfg, deps: deps, site: site, told: make(map[string]Finding), takes: make(map[string]bool), rejected: make(map[string]rejection)}, nil
}

// view is what a Step decides by.
type view struct {
	mine     bool
	n        uint64
	logEpoch uint64
	logTime  int64
	topics   []Topic
}

func (k *Keeper) view() (v view) {
	self := k.deps.Meta.Incarnation()
	k.deps.Meta.View(func(st *state.State) {
		v.mine = duty.Mine(st, self, duty.Name("lifecycle"))
		v.n, v.logEpoch, v.logTime = st.N(), st.Identity().Epoch, st.LogTime()
		v.topics = Topics(st)
	})
	return v
}

// Topics are those of a state.
func Topics(st *state.State) []Topic {
	topics := make([]Topic, 0, st.TopicCount())
	cluster := getter(st.BrokerConfigs())
	for t := range st.Topics() {
		topic := Topic{ID: t.ID, Name: t.Name, Settings: topicconfig.Parse(t.Config, cluster)}
		for i := range t.Partitions() {
			topic.Bytes += t.Partition(i).Size()
		}
		topics = append(topics, topic)
	}
	return topics
}

func getter(list []entry.Config) topicconfig.Get {
	return func(name string) (string, bool) {
		i := slices.IndexFunc(list, func(c entry.Config) bool { return c.Name == name })
		if i < 0 {
			return "", false
		}
		return list[i].Value, true
	}
}

// Step looks at the bucket, tells what contradicts topics, follows rules that are authoritative and brings those that mirror up to date.
// An agent that does not have the duty looks once, at its start. What credentials or the store refuse is an error that names
// the missing action; the caller keeps it as a condition and comes again.
func (k *Keeper) Step(ctx context.Context) (worked bool, err error) {
	if err := k.barrier(ctx); err != nil {
		return false, err
	}
	v := k.view()
	k.mine = v.mine
	if !k.mine {
		k.round = nil
		k.deps.Metrics.found(nil)
		k.deps.Metrics.held.Set(0)
		k.deps.Metrics.keeps(nil)
		if k.begun {
			return false, nil
		}
	}
	inv, err := k.look(ctx)
	if err != nil {
		return false, err
	}
	ledger, err := k.readLedger(ctx, v.logEpoch)
	if err != nil {
		return false, err
	}
	classErr := k.askClasses(ctx, &v) // it may be that class alone: all else goes on
	seen := *inv                      // k.inv is read by others
	seen.ClassErr, seen.MoveErr = k.refused, k.unmoved
	k.tell(Check(k.site, &seen, v.topics, ledger))
	if !k.mine {
		k.begun = classErr == nil
		return false, classErr
	}
	if k.round == nil { // else it was done when the round began: it is a look at all objects
		k.deps.Metrics.keeps(k.stored(v.topics, ledger, v.logTime))
	}
	if err := k.deps.Meta.OwnsBucket(ctx); err != nil {
		return false, err
	}
	followed, followErr := k.follow(ctx, inv, v.topics)
	mirrored, err := false, error(nil)
	if inv.RulesErr == nil { // else follow has said so
		mirrored, err = k.mirror(ctx, &v, inv, ledger)
	}
	if err := errors.Join(classErr, followErr, err); err != nil {
		return false, err
	}
	return followed || mirrored, nil
}

// stored sums live objects by storage class.
func (k *Keeper) stored(topics []Topic, ledger *Ledger, logTime int64) *stored {
	byID := make(map[entry.UUID]*Topic, len(topics))
	for i := range topics {
		byID[topics[i].ID] = &topics[i]
	}
	sum := &stored{byClass: make(map[string]int64), byTopic: make(map[string]map[string]int64)}
	for o := range objects(k.deps.Meta) {
		class := standard
		if t := byID[o.ID.Topic]; o.ID.Merged() && t != nil {
			class = cmp.Or(t.Settings.StorageClass, standard)
			if c := classOf(t.Label()); c.MoveTo != "" && k.unmoved[c.MoveTo] == nil && ledger != nil && ledger.age(o.Born, logTime) >= c.MoveDays {
				class = c.MoveTo
			}
			classes := sum.byTopic[t.Name]
			if classes == nil {
				classes = make(map[string]int64)
				sum.byTopic[t.Name] = classes
			}
			classes[class] += o.Size
		}
		sum.byClass[class] += o.Size
	}
	return sum
}

// standard is the class of what is put without one.
const standard = "STANDARD"

// barrier makes the state as new as the Step: rules that are computed from old settings are what the package doc warns of.
func (k *Keeper) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.CallTimeout)
	defer cancel()
	return k.deps.Meta.Barrier(ctx)
}

func (k *Keeper) look(ctx context.Context) (*Inventory, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*k.cfg.CallTimeout)
	defer cancel()
	inv, err := Look(ctx, k.deps.Store)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.inv, k.invAt = inv, time.Now()
	k.mu.Unlock()
	return inv, nil
}

// askClasses keeps refused up to date.
func (k *Keeper) askClasses(ctx context.Context, v *view) error {
	ctx, cancel := context.WithTimeout(ctx, 3*k.cfg.CallTimeout)
	defer cancel()
	refused, err := AskClasses(ctx, k.deps.Bucket, v.topics, k.takes)
	if err != nil {
		return err
	}
	k.reject(refused, v.logTime)
	for class, now := range refused { // the words of a store may name the request: the same refusal is told once
		if was := k.refused[class]; was != nil && errors.Is(was, objstore.ErrDenied) == errors.Is(now, objstore.ErrDenied) {
			refused[class] = was
		}
	}
	k.refused = refused
	return nil
}

// reject remembers what the store does not know, also once no topic asks for it.
func (k *Keeper) reject(refused map[string]error, logTime int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for class, r := range k.rejected {
		if k.takes[class] || logTime-r.at >= rejectedFor.Milliseconds() {
			delete(k.rejected, class)
		}
	}
	for class, err := range refused {
		if _, known := k.rejected[class]; errors.Is(err, objstore.ErrInvalid) && (known || len(k.rejected) < rejectedMost) {
			k.rejected[class] = rejection{err.Error(), logTime}
		}
	}
}

// ClassFault says why a topic may not be given its storage classes, "" where it may or nothing is known: only this agent's own questions to the store
// count, and not for long, since an agent that does not have the duty asks none any more. It may not be called inside a View.
func (k *Keeper) ClassFault(s *topicconfig.Settings) string {
	var now int64
	k.deps.Meta.View(func(st *state.State) { now = st.LogTime() })
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, known := k.rejected[s.StorageClass]; known && now-r.at < rejectedFor.Milliseconds() {
		return fmt.Sprintf("firn.storage.class: the store takes no object in storage class %s: %s; where it has it by now, ask again in %v", s.StorageClass, r.why, rejectedFor)
	}
	if c, _ := ClassOf(s); s.BucketLifecycle == topicconfig.LifecycleMirror && k.unmoved[c.MoveTo] != nil && now-k.unmovedAt < unmovedFor.Milliseconds() {
		return fmt.Sprintf("firn.storage.transition.class: the store's lifecycle rules do not know storage class %s: %v; where they do by now, ask again in %v",
			c.MoveTo, k.unmoved[c.MoveTo], unmovedFor)
	}
	return ""
}

// tell logs findings that are new, or gone.
func (k *Keeper) tell(list []Finding) {
	now := make(map[string]Finding, len(list))
	for _, f := range list {
		line := f.String()
		now[line] = f
		if _, known := k.told[line]; known {
			continue
		}
		level := slog.LevelWarn
		if f.Fails() {
			level = slog.LevelError
		}
		k.deps.Logger.Log(context.Background(), level, "the bucket contradicts what topics promise",
			"severity", f.Severity, "rule", f.Rule, "topic", f.Topic, "topics", f.Topics, "what", f.What, "mend", f.Mend)
	}
	for line, f := range k.told {
		if _, still := now[line]; !still {
			k.deps.Logger.Info("the bucket contradicts topics no longer in this", "rule", f.Rule, "topic", f.Topic, "what", f.What)
		}
	}
	k.told, k.begun = now, true
	if k.mine {
		k.deps.Metrics.found(list)
	}
}

// follow sets the retention of authoritative topics to what the bucket's rules say.
func (k *Keeper) follow(ctx context.Context, inv *Inventory, topics []Topic) (worked bool, err error) {
	if inv.RulesErr != nil {
		return false, k.cannotFollow(inv.RulesErr, topics)
	}
	for i := range topics {
		t := &topics[i]
		if t.Settings.BucketLifecycle != topicconfig.LifecycleAuthoritative || t.Settings.Compact {
			continue
		}
		count, rule := Follow(k.site, inv.Rules, t)
		ms := int64(-1)
		if count > 0 {
			ms = int64(count) * topicconfig.MSPerDay
		}
		if ms == t.Settings.RetentionMS {
			continue
		}
		op := &entry.AlterConfigs{
			ResourceType: topicResource, ResourceName: t.Name,
			Changes: []entry.ConfigChange{{Name: "retention.ms", Kind: entry.ConfigSet, Value: strconv.FormatInt(ms, 10)}},
		}
		res, err := k.deps.Meta.Propose(ctx, op)
		if err != nil {
			return worked, fmt.Errorf("set the retention of topic %s as the bucket's rule says: %w", t.Name, err)
		}
		if res.Code != state.OK {
			return worked, fmt.Errorf("set the retention of topic %s as the bucket's rule says: %v", t.Name, res.Code)
		}
		worked = true
		k.deps.Logger.Info("retention follows the bucket's rule", "topic", t.Name, "rule", rule, "retention_ms", ms, "was", t.Settings.RetentionMS)
	}
	return worked, nil
}

// topicResource is Kafka's number for a topic as what is configured.
const topicResource = 2

// cannotFollow is the condition where rules that count cannot be read.
func (k *Keeper) cannotFollow(err error, topics []Topic) error {
	if !slices.ContainsFunc(topics, func(t Topic) bool { return t.Settings.BucketLifecycle != topicconfig.LifecycleOff }) {
		return nil
	}
	return needs("read the bucket's lifecycle rules", ActionGetRules, err)
}

// mirror brings rules and tags up to date: the ledger first, then rules, then tags, of which a Step does some.
func (k *Keeper) mirror(ctx context.Context, v *view, inv *Inventory, ledger *Ledger) (worked bool, err error) {
	var held []Hold
	if ledger == nil {
		ledger = NewLedger(v.logEpoch)
	}
	used := ledger.Used(v.topics)
	if used {
		before, err := ledger.Append(nil)
		if err != nil {
			return false, err
		}
		ledger.Observe(v.topics)
		if err := k.saveLedger(ctx, ledger, before); err != nil {
			return false, err
		}
		held = ledger.Held(v.topics, v.logTime)
	}
	k.deps.Metrics.held.Set(float64(len(held)))
	told, rulesErr := k.write(ctx, v, inv, held)
	if !used {
		return told, rulesErr
	}
	// Tags are put right whether or not rules could be written: whoever writes rules by hand relies on them.
	more, tagsErr := k.retag(ctx, v, ledger)
	if err := errors.Join(rulesErr, tagsErr); err != nil {
		return false, err
	}
	return told || more || len(ledger.Held(v.topics, v.logTime)) < len(held), nil // what is free now is written by the next Step
}

// write carries the plan out. What the store refuses for a class that its rules do not know is left out, until topics ask for other classes,
// or for unmovedFor: an operator may have added it to the store.
func (k *Keeper) write(ctx context.Context, v *view, inv *Inventory, held []Hold) (told bool, err error) {
	plan, err := NewPlan(k.site, inv.Rules, v.topics, held, false)
	if err != nil {
		return false, err
	}
	asked := movesTo(v.topics)
	if asked != k.unmovedAsked || v.logTime-k.unmovedAt >= unmovedFor.Milliseconds() {
		k.setUnmoved(nil, k.unmovedAt)
	}
	unmoved := maps.Clone(k.unmoved)
	if unmoved == nil {
		unmoved = make(map[string]error)
	}
	ctx, cancel := context.WithTimeout(ctx, k.cfg.CallTimeout)
	defer cancel()
	written, err := WriteRules(ctx, k.deps.Store, plan, unmoved)
	if err != nil {
		err = needs("write the bucket's lifecycle rules", ActionPutRules, err)
		if errors.Is(err, objstore.ErrStorageClass) {
			err = fmt.Errorf("%w; set firn.storage.transition.class to one that the store's rules know: %s", err, asked)
		}
		return false, err
	}
	if len(unmoved) > len(k.unmoved) {
		k.unmovedAsked = asked
		k.setUnmoved(unmoved, v.logTime)
		told = true
	}
	if written.Changed() {
		k.deps.Logger.Info("lifecycle rules written", "added", len(written.Add), "changed", len(written.Change), "removed", len(written.Remove),
			"held", len(held), "foreign", len(written.Foreign), "classes_left_out", len(unmoved))
	}
	return told, nil
}

// unmovedFor is how long a class that the store's rules do not know is not tried again.
const unmovedFor = time.Hour

func (k *Keeper) setUnmoved(unmoved map[string]error, at int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unmoved, k.unmovedAt = unmoved, at
}

// retag looks at objects that were not looked at yet, oldest first, and puts their tags right. more: there are some left.
func (k *Keeper) retag(ctx context.Context, v *view, ledger *Ledger) (more bool, err error) {
	before, err := ledger.Append(nil)
	if err != nil {
		return false, err
	}
	if k.round == nil || !bytes.Equal(k.round.ledger, before) { // settings changed, or another agent was at it
		k.round = &round{ledger: before}
	}
	r := k.round
	if len(r.todo) == 0 {
		r.look(k.deps.Meta, v, ledger, k.cfg.ObjectsPerLook)
	}
	for _, o := range r.todo[:min(len(r.todo), k.cfg.ObjectsPerStep)] {
		if err := k.label(ctx, o.id.Key(), ledger.Topics[hex.EncodeToString(o.id.Topic[:])].Wants); err != nil {
			return false, err
		}
		r.done()
	}
	if more = r.note(ledger); !more {
		ledger.settled(r.n, r.logTime)
		k.round = nil
	}
	after, err := ledger.Append(nil)
	if err != nil {
		return false, err
	}
	r.ledger = after
	return more, k.saveLedger(ctx, ledger, before)
}

// label puts one object's tags right. What others have tagged it with stays.
func (k *Keeper) label(ctx context.Context, key string, wants Label) error {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.CallTimeout)
	defer cancel()
	have, err := k.deps.Store.Tags(ctx, key)
	if errors.Is(err, objstore.ErrNotFound) {
		return nil // merged away and collected meanwhile, or an alarm that is a reader's to raise
	}
	if err != nil {
		return needs("read the tags of "+key, ActionGetTags, err)
	}
	want := slices.DeleteFunc(slices.Clone(have), func(t Tag) bool { return t.Key == TagClass || t.Key == TagTopic })
	if wants != (Label{}) {
		want = append(want, wants)
	}
	byKey := func(a, b Tag) int { return cmp.Compare(a.Key, b.Key) }
	slices.SortFunc(want, byKey)
	slices.SortFunc(have, byKey)
	if slices.Equal(have, want) {
		return nil
	}
	if err := k.deps.Store.SetTags(ctx, key, want); err != nil && !errors.Is(err, objstore.ErrNotFound) {
		return needs("tag "+key, ActionPutTags, err)
	}
	k.deps.Metrics.retagged.Inc()
	return nil
}

// readLedger returns nil where there is none, or one that says nothing of this log.
func (k *Keeper) readLedger(ctx context.Context, logEpoch uint64) (*Ledger, error) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.CallTimeout)
	defer cancel()
	l, err := ReadLedger(ctx, k.deps.Bucket)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return nil, nil
	case errors.Is(err, ErrLedger):
		k.deps.Logger.Warn("the ledger of object tags is written anew", "key", LedgerKey, "error", err)
		return nil, nil
	case err != nil:
		return nil, err
	case l.LogEpoch != logEpoch:
		return nil, nil
	}
	return l, nil
}

// ReadLedger reads the bucket's ledger. Errors: objstore's, and ErrLedger.
func ReadLedger(ctx context.Context, bucket objstore.Bucket) (*Ledger, error) {
	body, err := bucket.Get(ctx, LedgerKey)
	if err != nil {
		return nil, fmt.Errorf("read the ledger of object tags: %w", err)
	}
	return ParseLedger(body)
}

// saveLedger writes the ledger where it is not what it was before.
func (k *Keeper) saveLedger(ctx context.Context, l *Ledger, before []byte) error {
	body, err := l.Append(nil)
	if err != nil || slices.Equal(body, before) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, k.cfg.CallTimeout)
	defer cancel()
	if err := k.deps.Bucket.Put(ctx, LedgerKey, body, objstore.PutOptions{}); err != nil {
		return fmt.Errorf("write the ledger of object tags: %w", err)
	}
	return nil
}

// PutOptions says with which tags, class and lock a merged object of the topic is put now; the zero value for a topic that is not there.
func (k *Keeper) PutOptions(topic entry.UUID) (opts objstore.PutOptions) {
	k.deps.Meta.View(func(st *state.State) {
		if t := st.TopicByID(topic); t != nil {
			s := topicconfig.Parse(t.Config, getter(st.BrokerConfigs()))
			opts = PutOptions(t.Name, &s, time.Now())
		}
	})
	return opts
}

// coveredAge is how old rules may be that Covered goes by.
const coveredAge = 10 * time.Minute

// Covered reports whether a rule of the bucket explains that an object is missing at that age, counted from its upload. It may ask the
// store, and says no where that does not answer.
func (k *Keeper) Covered(ctx context.Context, id entry.ObjectID, age time.Duration) bool {
	k.mu.Lock()
	inv, at := k.inv, k.invAt
	k.mu.Unlock()
	if inv == nil || time.Since(at) > coveredAge {
		var err error
		if inv, err = k.look(ctx); err != nil {
			return false
		}
	}
	if inv.RulesErr != nil {
		return false
	}
	var topic *Topic
	if id.Merged() {
		k.deps.Meta.View(func(st *state.State) {
			if t := st.TopicByID(id.Topic); t != nil {
				topic = &Topic{ID: t.ID, Name: t.Name, Settings: topicconfig.Parse(t.Config, getter(st.BrokerConfigs()))}
			}
		})
		if topic == nil {
			return false
		}
	}
	return Covered(k.site, inv.Rules, topic, age) != ""
}

// LockFault says why a topic may not be created with an object lock, "" where it may or nothing is known.
func (k *Keeper) LockFault() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inv == nil || k.inv.LockErr != nil || k.inv.Lock.Enabled {
		return ""
	}
	return "the bucket has no object lock, which is chosen when a bucket is made"
}

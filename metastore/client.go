package metastore

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

var (
	// ErrClosed: the client was closed or has failed. Whether an op of a pending proposal was committed is unknown.
	ErrClosed = errors.New("metastore client closed")
	// ErrTooLarge: the op does not fit an entry; it was never committed.
	ErrTooLarge = errors.New("op too large for an entry")
	// ErrDiverged: this agent's state differs from what the log's history gives. It must leave service.
	ErrDiverged = errors.New("state diverged")
	// ErrJoinRefused: the cluster does not take this agent; the message says why.
	ErrJoinRefused = errors.New("join refused by the cluster")
	// ErrDisplaced: another process joined under this agent's name. It has the name now, and this one ends: if it joined again the
	// two would displace each other for ever.
	ErrDisplaced = errors.New("another agent has taken this one's name")
	// ErrForeign: the log or the bucket belongs to another cluster, or the log was replaced under us.
	ErrForeign = errors.New("another cluster's data")
	// ErrNewer: the data was written by a newer firn.
	ErrNewer = errors.New("data of a newer version")
)

// Config is what one agent brings to the metastore. The zero value of a tunable is its default.
type Config struct {
	Name      string           // stable identity of the agent; names its node id. Required.
	Listeners []entry.Listener // advertised addresses. Required.
	Zone      string
	Version   string
	// Info is what others read at this agent's registration. Default: its name.
	Info []byte
	// Admit, where set, is asked before this agent registers; an error ends Open. The log is then known to be the cluster's.
	Admit func(ctx context.Context) error

	// RegistrationTTL is how long a silent agent counts as alive. Default 10 s.
	RegistrationTTL time.Duration
	// EntryBytes is where packing more ops into an entry stops. Default 48 KiB; a single larger op travels alone.
	EntryBytes int
	// TickInterval is how often a silent agent reports its clock. Default 10 s.
	TickInterval time.Duration
	// ArchiveInterval is how often new entries are archived to the bucket. Default 3 s.
	ArchiveInterval time.Duration
	// SnapshotEntries and SnapshotBytes are how much tail a snapshot may trail. Defaults 100 000 and 64 MiB.
	SnapshotEntries int
	SnapshotBytes   int
	// TrimMargin is how many entries below the snapshot stay in the log for slow watchers. Default 10 000.
	TrimMargin int
	// HistoryKeep is for how long, in log time, the bucket keeps entries that a snapshot stands in for. Default 72 h; below 0: for ever.
	HistoryKeep time.Duration
	// WatchSilence is how long a watch may be silent before it is dropped. Default 1.5 s.
	WatchSilence time.Duration
	// HeadLag is how long the head may be beyond what is applied before the watch is dropped. Default 500 ms.
	HeadLag time.Duration

	// LevelPatience is how long every joined agent must have supported a higher feature level before the cluster moves to it:
	// an agent of an older build that restarts meanwhile is not locked out. Default 1 min.
	LevelPatience time.Duration

	// Now is the agent's wall clock: it enters entries, and state only clamped. Default time.Now.
	Now func() time.Time
	// Rand makes incarnations; a seeded one makes a simulation repeatable. Default: the system's.
	Rand *rand.ChaCha8
	// Logger gets one line per state change. Default: discard.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// nameBytesMax is what the state machine takes.
const nameBytesMax = 255

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	if c.Name == "" || len(c.Name) > nameBytesMax {
		errs = append(errs, fmt.Errorf("metastore: the agent's name has %d bytes, not 1 to %d", len(c.Name), nameBytesMax))
	}
	if len(c.Listeners) == 0 {
		errs = append(errs, errors.New("metastore: no advertised listener"))
	}
	positive := func(name string, d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
		if *d < 0 {
			errs = append(errs, fmt.Errorf("metastore: %s is negative: %v", name, *d))
		}
	}
	count := func(name string, v *int, def int) {
		if *v == 0 {
			*v = def
		}
		if *v < 0 {
			errs = append(errs, fmt.Errorf("metastore: %s is negative: %d", name, *v))
		}
	}
	positive("registration ttl", &c.RegistrationTTL, 10*time.Second)
	positive("tick interval", &c.TickInterval, 10*time.Second)
	positive("archive interval", &c.ArchiveInterval, 3*time.Second)
	if c.HistoryKeep == 0 {
		c.HistoryKeep = 72 * time.Hour
	}
	positive("watch silence", &c.WatchSilence, 1500*time.Millisecond)
	positive("level patience", &c.LevelPatience, time.Minute)
	positive("head lag", &c.HeadLag, 500*time.Millisecond)
	count("entry bytes", &c.EntryBytes, 48<<10)
	count("snapshot entries", &c.SnapshotEntries, 100_000)
	count("snapshot bytes", &c.SnapshotBytes, 64<<20)
	count("trim margin", &c.TrimMargin, 10_000)
	if c.EntryBytes > log.MaxValueBytes/2 {
		errs = append(errs, fmt.Errorf("metastore: entry bytes %d exceed %d", c.EntryBytes, log.MaxValueBytes/2))
	}
	if c.Info == nil {
		c.Info = []byte(c.Name)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return errors.Join(errs...)
}

// Client is one agent's replica of the shared state. Safe for concurrent use.
type Client struct {
	cfg      Config
	log      log.Log
	bucket   objstore.Bucket
	identity log.Identity

	// stateMu guards st. The applier is the only writer; it holds the lock for one entry at a time.
	stateMu sync.RWMutex
	st      *state.State

	// applied is st.N(), readable without the lock. It only rises.
	applied atomic.Uint64
	// level is st.FeatureLevel(), readable without the lock. It only rises.
	level atomic.Uint32
	// head is the highest n ever seen committed. Invariant: head >= applied.
	head atomic.Uint64
	// stuck says what the session's next step is waiting for; nil where it goes on.
	stuck atomic.Pointer[stuck]
	// lastFault is what the log said when it last gave no answer.
	lastFault atomic.Pointer[string]
	// contactNanos is when the log last gave any answer, Unix nanoseconds of the process clock.
	contactNanos atomic.Int64
	// sure is how new the state is known to be.
	sure sureness
	// duty is how far archiving has come, where it is ours.
	duty dutyProgress
	// archiveFault says why this agent has stopped archiving, if it has.
	archiveFault atomic.Pointer[string]

	hub      hub
	progress broadcast // pulses when applied rises
	queue    queue
	encoder  opEncoder
	barriers barriers
	session  atomic.Pointer[session]
	// lastJoined is the incarnation of the last session that joined. leaving: it is to go, and no other follows.
	lastJoined atomic.Pointer[log.Incarnation]
	leaving    atomic.Bool
	peers      peers   // hash comparisons with other agents; applier only
	applier    applier // of the goroutine that applies
	ids        idBlock

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	failed chan struct{} // closed once by fail
	once   sync.Once
	errMu  sync.Mutex // guards err
	err    error
}

// Open boots a replica: identity, snapshot, the tail of the log, then the watch, and joins the cluster. It returns when
// the join is applied, so that the caller has a node id and sees everything committed before the call.
func Open(ctx context.Context, cfg Config, l log.Log, bucket objstore.Bucket) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	identity, err := Identify(ctx, l, bucket)
	if err != nil {
		return nil, err
	}
	if err := settleBucket(ctx, l, bucket, identity, cfg.Name); err != nil {
		return nil, err
	}
	if cfg.Admit != nil {
		if err := cfg.Admit(ctx); err != nil {
			return nil, err
		}
	}
	c := &Client{cfg: cfg, log: l, bucket: bucket, identity: identity, failed: make(chan struct{})}
	c.hub.init()
	c.progress.init()
	c.queue.init(c.cfg.EntryBytes)
	c.barriers.init()
	c.ids.filling = make(chan struct{}, 1)
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.contact()
	if c.st, err = loadNewest(ctx, l, bucket, identity); err != nil {
		return nil, err
	}
	c.applied.Store(c.st.N())
	c.level.Store(c.st.FeatureLevel())
	c.head.Store(c.st.N())
	cursor, err := c.catchUp(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the log's tail after n=%d: %w", c.applied.Load(), err)
	}
	for _, loop := range []func(){
		func() { c.follow(cursor) },
		c.commitLoop,
		c.barrierLoop,
		c.watchHead,
		c.keep,
		c.archiveLoop,
	} {
		c.wg.Add(1)
		go func() { defer c.wg.Done(); loop() }()
	}
	if err := c.awaitJoin(ctx); err != nil {
		_ = c.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	return c, nil
}

// awaitJoin waits until this incarnation is among the joined agents.
func (c *Client) awaitJoin(ctx context.Context) error {
	for {
		pulse := c.progress.wait()
		if s := c.session.Load(); s != nil && s.joined.Load() {
			return nil
		}
		select {
		case <-pulse:
		case <-c.failed:
			return c.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// View runs fn with the state. fn must be short, must not keep references past its return to anything that Apply changes,
// and must not call back into the client.
func (c *Client) View(fn func(*state.State)) {
	c.stateMu.RLock()
	defer c.stateMu.RUnlock()
	fn(c.st)
}

// Identity says which log this client follows.
func (c *Client) Identity() log.Identity { return c.identity }

// ClusterID is the log's id as Kafka writes cluster ids: 22 characters of URL-safe base64.
func (c *Client) ClusterID() string { return base64.RawURLEncoding.EncodeToString(c.identity.ID[:]) }

// Incarnation is the current session's. It changes when a registration was lost.
func (c *Client) Incarnation() log.Incarnation {
	if s := c.session.Load(); s != nil {
		return s.incarnation
	}
	return log.Incarnation{}
}

// NodeID is this agent's id in Kafka's terms, stable over restarts and sessions; -1 before the first join.
func (c *Client) NodeID() int32 {
	if s := c.session.Load(); s != nil {
		return s.nodeID.Load()
	}
	return -1
}

// Applied is the n of the last applied entry; Head the highest n known to be committed.
func (c *Client) Applied() uint64 { return c.applied.Load() }

// Head is the highest n known to be committed; Head - Applied is this agent's lag.
func (c *Client) Head() uint64 { return max(c.head.Load(), c.applied.Load()) }

// Failed is closed when the client can never serve again; Err says why.
func (c *Client) Failed() <-chan struct{} { return c.failed }

// Err is why the client failed, or nil.
func (c *Client) Err() error {
	c.errMu.Lock()
	defer c.errMu.Unlock()
	return c.err
}

// Degraded says in one phrase why answers that need the log may be late, or "".
func (c *Client) Degraded() string {
	if err := c.Err(); err != nil {
		return err.Error()
	}
	patience := 2 * c.cfg.WatchSilence
	silence := c.clockNow().Sub(time.Unix(0, c.contactNanos.Load()))
	waiting := c.stuck.Load()
	switch lag := c.lag(); {
	case silence > patience:
		why := ""
		if fault := c.lastFault.Load(); fault != nil {
			why = ": " + *fault
		}
		return fmt.Sprintf("no answer from the metastore for %v%s", silence.Round(time.Second), why)
	case waiting != nil && c.clockNow().Sub(waiting.since) > patience:
		return fmt.Sprintf("%s for %v: %v", waiting.what, c.clockNow().Sub(waiting.since).Round(time.Second), waiting.err)
	case lag > 10_000:
		return fmt.Sprintf("%d entries behind the metastore's head", lag)
	}
	return ""
}

// ArchiveFault says why this agent, whose duty it is, does not archive the log, or "".
func (c *Client) ArchiveFault() string {
	if why := c.archiveFault.Load(); why != nil {
		return *why
	}
	t := c.duty.trouble.Load()
	if t == nil {
		return ""
	}
	lasted := c.clockNow().Sub(t.since)
	if errors.Is(t.err, ErrCorrupt) || errors.Is(t.err, ErrForeign) || errors.Is(t.err, ErrNewer) || lasted > archiveRunsMissed*c.cfg.ArchiveInterval {
		return fmt.Sprintf("%s for %v: %v", t.what, lasted.Round(time.Second), t.err)
	}
	return ""
}

// stuck is a write that the log does not take.
type stuck struct {
	what  string
	since time.Time
	err   error
}

// waits records that a write of the session was tried in vain.
func (c *Client) waits(what string, err error) {
	now := &stuck{what: what, since: c.clockNow(), err: err}
	if before := c.stuck.Load(); before != nil {
		now.since = before.since
	}
	c.stuck.Store(now)
	c.fault(err)
}

// fault records an answer that did not come.
func (c *Client) fault(err error) {
	why := err.Error()
	c.lastFault.Store(&why)
}

// lag is how many entries are committed and not applied here.
func (c *Client) lag() uint64 {
	applied := c.Applied() // first: the head is then at or above it
	return c.Head() - applied
}

// fail ends service for good: pending proposals are answered, loops end.
func (c *Client) fail(err error) {
	c.once.Do(func() {
		c.errMu.Lock()
		c.err = err
		c.errMu.Unlock()
		if !errors.Is(err, ErrClosed) {
			c.cfg.Logger.Debug("metastore client stopped", "error", err) // whoever owns it tells
		}
		c.cancel(err)
		close(c.failed)
	})
}

// Close leaves the cluster where it still can, releases the registration and joins every goroutine. Proposals that are
// still pending are answered with ErrClosed. Safe twice. It does not close the log or the bucket.
func (c *Client) Close(ctx context.Context) error {
	c.leave(ctx)
	c.fail(ErrClosed)
	c.wg.Wait()
	if s := c.session.Load(); s != nil {
		// It lapses by itself: where the log does not answer, a drain does not wait for it.
		ctx, cancel := context.WithTimeout(ctx, farewell)
		defer cancel()
		return s.registration.Close(ctx)
	}
	return nil
}

// farewell bounds each step of leaving: what is left undone peers do, once the registration has lapsed.
const farewell = 2 * time.Second

// leave proposes this incarnation's departure, so that peers need not wait for its registration to lapse.
func (c *Client) leave(ctx context.Context) {
	s := c.session.Load()
	if s == nil || !s.joined.Load() || c.Err() != nil || ctx.Err() != nil {
		return
	}
	c.leaving.Store(true)
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	if _, err := c.Propose(ctx, &entry.Leave{Incarnation: s.incarnation}); err != nil && ctx.Err() == nil {
		c.cfg.Logger.Warn("could not leave the cluster", "error", err)
	}
}

func (c *Client) clockNow() time.Time { return time.Now() }

func (c *Client) contact() { c.contactNanos.Store(c.clockNow().UnixNano()) }

// raiseHead records that n is committed.
func (c *Client) raiseHead(n uint64) {
	for {
		old := c.head.Load()
		if n <= old || c.head.CompareAndSwap(old, n) {
			return
		}
	}
}

// pause waits d, or less where the client ends.
func (c *Client) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

package fetch

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/firnlog/firn/agent/sparse"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/segment"
)

// Config are the tunables of reading; the zero value of each is its default.
type Config struct {
	// Bytes bounds what is kept. Default 128 MiB. One item may exceed it while it is in use.
	Bytes int64
	// HotBytes is the part of Bytes that freshly written segments may take and that reads cannot evict. Default half.
	HotBytes int64
	// WholeBytes is up to which size an object is read whole. Default 12 MiB: a level-0 segment with its largest batch.
	WholeBytes int64
	// RunBytes is about how much of a larger object is read at once. Default 8 MiB.
	RunBytes int64
	// ReadAhead is how many GETs nobody waits for may be under way. Default 4; negative: none.
	ReadAhead int
	// BorrowedBytes is the part of Bytes that pieces got from peers may take. Their owner keeps them too, so it need only be
	// enough for readers that follow each other closely. Default an eighth.
	BorrowedBytes int64
	// SliceBytes is about how much is got from a peer at once. Default 1 MiB.
	SliceBytes int64
	// CrossZoneBytes is up to which size an object is asked of its uploader in another zone. Default 32 KiB.
	CrossZoneBytes int64
	// ServeBytes bounds what is on its way to peers: half of it tail reads, half replays. Default a sixteenth of Bytes.
	ServeBytes int64
	// ServeRequests is how many asks of peers may be under way, of each of the two kinds. Default 64.
	ServeRequests int
	// PeerTimeout bounds an ask. Default 2 s.
	PeerTimeout time.Duration
	// HedgeMin and HedgeMax bound after which time an ask is overtaken by a GET: the 95th percentile of what asks take lies between.
	// Defaults 50 ms, about what a GET takes, and 500 ms.
	HedgeMin, HedgeMax time.Duration
	// ColdReads is how many GETs of replays run at once beside producers and tail readers; the rest queue. Where there are none, more do: as
	// many more as an eighth of Bytes has runs, at most coldAlone. Default 2.
	ColdReads int
	// ColdBytes is how much a second replays get and are served beside producers and tail readers, however busy the machine is.
	// Default 8 MiB.
	ColdBytes int64
	// RetryMin and RetryMax bound the pause between attempts of a GET, which doubles. Defaults 20 ms and 1 s.
	RetryMin, RetryMax time.Duration
	// LoadTimeout bounds a GET with its retries, whoever waits. Default 60 s.
	LoadTimeout time.Duration
	// BarrierTimeout bounds a read barrier, whatever the caller's patience. Default 5 s.
	BarrierTimeout time.Duration
	// Logger gets one line per read that needs an operator. Default: discard.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	check := func(name string, v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
		if *v < 0 {
			errs = append(errs, fmt.Errorf("fetch: %s is negative: %d", name, *v))
		}
	}
	check("cache bytes", &c.Bytes, 128<<20)
	check("hot bytes", &c.HotBytes, c.Bytes/2)
	check("whole bytes", &c.WholeBytes, 12<<20)
	check("run bytes", &c.RunBytes, 8<<20)
	check("retry min", (*int64)(&c.RetryMin), int64(20*time.Millisecond))
	check("retry max", (*int64)(&c.RetryMax), int64(time.Second))
	check("load timeout", (*int64)(&c.LoadTimeout), int64(time.Minute))
	check("barrier timeout", (*int64)(&c.BarrierTimeout), int64(5*time.Second))
	check("borrowed bytes", &c.BorrowedBytes, c.Bytes/8)
	check("slice bytes", &c.SliceBytes, 1<<20)
	check("cross-zone bytes", &c.CrossZoneBytes, 32<<10)
	check("serve bytes", &c.ServeBytes, c.Bytes/16)
	check("peer timeout", (*int64)(&c.PeerTimeout), int64(2*time.Second))
	check("hedge min", (*int64)(&c.HedgeMin), int64(50*time.Millisecond))
	check("hedge max", (*int64)(&c.HedgeMax), int64(500*time.Millisecond))
	check("cold bytes", &c.ColdBytes, 8<<20)
	count := func(name string, v *int, def int) {
		n := int64(*v)
		check(name, &n, int64(def))
		*v = int(n)
	}
	count("serve requests", &c.ServeRequests, 64)
	count("cold reads", &c.ColdReads, 2)
	if c.HotBytes > c.Bytes {
		errs = append(errs, fmt.Errorf("fetch: hot bytes %d exceed cache bytes %d", c.HotBytes, c.Bytes))
	}
	if c.ReadAhead == 0 {
		c.ReadAhead = 4
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return errors.Join(errs...)
}

// coldAlone bounds how many more GETs of replays run at once where nobody else reads or writes. What they get is not in the cache yet, so that
// memory is the bound before.
const coldAlone = 6

// itemKind is what an item holds.
type itemKind uint8

const (
	kindObject itemKind = iota // a whole object with its footer
	kindFooter                 // the footer of a large object
	kindRun                    // the stored bytes of neighbouring chunks of a large object
	kindChunk                  // the raw bytes of a chunk that is stored compressed
	kindSlice                  // as kindRun, of any object, smaller, and got from a peer
)

// share is the part of the cache that an item counts for.
type share uint8

const (
	hot      share = iota // written by this agent
	cold                  // read from the bucket
	borrowed              // got from a peer, which keeps it too
	shares
)

var shareNames = [shares]string{"hot", "cold", "borrowed"}

// itemKey names an item. position is 0 but for a run or slice (its number) and a chunk (its position in the object).
type itemKey struct {
	id       entry.ObjectID
	kind     itemKind
	position int64
}

// item is bytes of an object, checked. They are immutable.
type item struct {
	key    itemKey
	start  int64 // position of bytes in the object
	bytes  []byte
	footer *segment.Footer // of kindObject and kindFooter
	size   int64           // what it counts for in the cache
	share  share
	busy   time.Time // guarded by Cache.mu: until when readers are taken to be in the midst of it
	unread int64     // guarded by Cache.mu: bytes that no reader has passed
	early  bool      // guarded by Cache.mu: it was read ahead, and nobody has come for it yet
	kept   bool      // guarded by Cache.mu: it is in the cache
	lent   int       // guarded by Cache.mu: how many answers under way have parts of it; see Out
	// damaged are the positions of chunks in bytes whose checksum does not hold. An item that has any is never kept.
	damaged []int64
}

// stored returns the stored bytes of a chunk that lies in the item.
func (it *item) stored(c segment.Chunk) []byte {
	at := c.Position - it.start
	return it.bytes[at : at+c.StoredSize : at+c.StoredSize]
}

// holds reports whether the stored bytes of a chunk lie in the item.
func (it *item) holds(c segment.Chunk) bool {
	return c.Position >= it.start && c.Position+c.StoredSize <= it.start+int64(len(it.bytes))
}

// Cache keeps what was read from the bucket or just written to it. It is bounded by bytes, and so that a replay of old
// data cannot push out what tail readers are about to ask for, hot items (written by this agent), cold ones (read) and borrowed ones
// (got from a peer) are kept apart: cold items take what the others leave, hot items go only for newer hot ones, oldest first, and
// borrowed ones for others of their kind. Safe for concurrent use.
//
// A large object is read by run, and a consumer of many partitions is in the midst of as many runs at a time: it takes some of each, in turn.
// With more runs under way than there is room for, each would be evicted before its reader comes round to it again, and got many times.
// So what readers are in the midst of goes last, and what is read ahead of replays has to find room beside it. Partitions whose runs find
// none wait until others are through with theirs.
//
// Equal reads that come together cause one GET. A GET goes on while anybody waits for it, and is given up with the last; but
// where the last ran out of time, who asks again finds it under way, as if read ahead, and a slow bucket still gets to an end.
type Cache struct {
	cfg    Config
	bucket objstore.Bucket
	ctx    context.Context
	cancel context.CancelFunc
	lines  sparse.Lines
	share  *sharing       // nil: nobody to share with
	serves serving        // what peers are given
	pace   pace           // of replays
	turns  chan struct{}  // holds one for each GET of a replay under way
	spare  chan struct{}  // as turns, for those that may run where there is nobody to disturb
	wg     sync.WaitGroup // loads and what they start; Add only under mu while not closed, or by a load

	mu     sync.Mutex // guards the rest
	closed bool
	items  map[itemKey]*list.Element // of *item
	loads  map[itemKey]*load
	// Front is newest. Invariant: bytes are the sums of the lists' sizes; together with loose they are at most Config.Bytes.
	lists [shares]list.List
	bytes [shares]int64
	// lent are the sizes of the items that are lent, loose of those of them that are not in the cache any more. Invariant: loose <= lent, and
	// lent is at most lendable.
	lent, loose int64
	put         entry.ObjectID // the last that Put was given
	ahead       int            // loads that go on without anybody waiting; at most Config.ReadAhead
}

// load is a read from the bucket under way.
type load struct {
	waiters int           // guarded by Cache.mu; at 0 the load is cancelled
	ahead   bool          // guarded by Cache.mu: counts in Cache.ahead, and as a waiter
	urgent  bool          // guarded by Cache.mu: hurry is closed
	hurry   chan struct{} // closed where somebody waits who is no replay
	cancel  context.CancelFunc
	done    chan struct{} // closed when it and err are set
	item    *item
	err     error
}

// NewCache makes an empty cache over bucket. Close ends it; the bucket stays open.
func NewCache(cfg Config, bucket objstore.Bucket) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Cache{cfg: cfg, bucket: bucket, items: make(map[itemKey]*list.Element), loads: make(map[itemKey]*load)}
	c.pace.floor, c.pace.rate, c.pace.metrics = float64(cfg.ColdBytes), max(paceStart, float64(cfg.ColdBytes)), cfg.Metrics
	c.turns = make(chan struct{}, cfg.ColdReads)
	c.spare = make(chan struct{}, min(cfg.Bytes/8/cfg.RunBytes, coldAlone))
	c.serves.init(&cfg)
	cfg.Metrics.limitBytes.Set(float64(cfg.Bytes))
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close gives up all reads and joins them. Reads that come later fail with ErrUnavailable. Safe twice.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// Put keeps a segment that was just uploaded, for tail readers. It keeps body, which must not change any more; footer is
// body's.
func (c *Cache) Put(id entry.ObjectID, body []byte, footer *segment.Footer) {
	it := &item{key: itemKey{id: id, kind: kindObject}, bytes: body, footer: footer, share: hot}
	it.size = int64(len(body)) + footerBytes(footer)
	c.pace.busy()
	c.mu.Lock()
	c.put = id
	c.keepLocked(it)
	c.mu.Unlock()
}

// footerBytes is about what a parsed footer takes.
func footerBytes(f *segment.Footer) int64 {
	n := int64(0)
	for i := range f.Blocks {
		n += 100 + 80*int64(len(f.Blocks[i].Chunks))
	}
	return n
}

// keepLocked adds an item, in place of one with the same key, and evicts what that leaves no room for.
func (c *Cache) keepLocked(it *item) {
	if e, ok := c.items[it.key]; ok {
		c.dropLocked(e)
	}
	c.items[it.key] = c.lists[it.share].PushFront(it)
	c.bytes[it.share] += it.size
	if it.lent > 0 && !it.kept {
		c.loose -= it.size
	}
	it.kept, it.unread = true, it.size
	it.touch()
	for c.bytes[hot] > c.cfg.HotBytes {
		c.dropLocked(c.lists[hot].Back())
	}
	for c.bytes[borrowed] > c.cfg.BorrowedBytes {
		c.dropLocked(c.lists[borrowed].Back())
	}
	c.fitLocked()
}

const (
	// inUse is for how long after a read somebody is taken to be in the midst of an item. A consumer of many partitions comes back to each as
	// late as this where it has to keep to a pace.
	inUse = 10 * time.Second
	// inUseAfter is for how long after a reader got to the end of its part. There may be other parts, and other readers.
	inUseAfter = 2 * time.Second
)

// touch notes that somebody reads the item, or is about to.
func (it *item) touch() {
	switch it.key.kind {
	case kindRun, kindObject, kindFooter:
		it.busy = time.Now().Add(inUse)
	}
}

// passed notes that a reader has got to the end of its part of an item, which is so many bytes. Where all parts were passed nobody is in
// the midst of it.
func (c *Cache) passed(key itemKey, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		return
	}
	it := e.Value.(*item)
	if it.unread -= bytes; it.unread <= 0 {
		it.busy = time.Time{}
	} else if until := time.Now().Add(inUseAfter); until.Before(it.busy) {
		it.busy = until
	}
}

// fitLocked keeps to Config.Bytes.
func (c *Cache) fitLocked() {
	for _, s := range []share{cold, borrowed} {
		for c.bytes[hot]+c.bytes[cold]+c.bytes[borrowed]+c.loose > c.cfg.Bytes {
			e := c.leastLocked(s)
			if e == nil {
				break
			}
			c.dropLocked(e)
		}
	}
	for s := range shares {
		c.cfg.Metrics.keptBytes[s].Set(float64(c.bytes[s]))
	}
}

// leastLocked is the item of a list that was not read for the longest time, of those nobody is in the midst of where there are any; nil
// where all are lent: to drop what is lent frees nothing, and who comes for it would get it anew.
func (c *Cache) leastLocked(s share) (least *list.Element) {
	now := time.Now()
	for e := c.lists[s].Back(); e != nil; e = e.Prev() {
		switch it := e.Value.(*item); {
		case it.lent > 0:
		case now.After(it.busy):
			return e
		case least == nil:
			least = e
		}
	}
	return least
}

// roomLocked reports whether one more run fits beside those that readers are in the midst of, those under way, and as much again of other
// things as a third of them. deep asks for twice as much, also beside whole objects that were read ahead and are not in use yet: else one
// reader's fourth run would take the room of another's first.
func (c *Cache) roomLocked(deep bool) bool {
	now, runs, stays := time.Now(), int64(0), c.loose
	for e := c.lists[cold].Front(); e != nil; e = e.Next() {
		switch it := e.Value.(*item); {
		case (it.key.kind == kindRun || deep && it.early && it.key.kind == kindObject) && now.Before(it.busy):
			runs += it.size
		case it.lent > 0:
			stays += it.size
		}
	}
	for key := range c.loads {
		if key.kind == kindRun || deep && key.kind == kindObject {
			runs += c.cfg.RunBytes
		}
	}
	room := (c.cfg.Bytes - c.bytes[hot] - c.bytes[borrowed] - stays) / 4 * 3
	if deep {
		return runs+c.cfg.RunBytes <= room/2
	}
	return runs == 0 || runs+c.cfg.RunBytes <= room
}

func (c *Cache) dropLocked(e *list.Element) {
	it := e.Value.(*item)
	delete(c.items, it.key)
	c.lists[it.share].Remove(e)
	c.bytes[it.share] -= it.size
	it.kept = false
	if it.lent > 0 {
		c.loose += it.size
	}
}

// lookLocked returns an item that is kept.
func (c *Cache) lookLocked(key itemKey) *item {
	e, ok := c.items[key]
	if !ok {
		return nil
	}
	it := e.Value.(*item)
	it.early = false
	if it.share != hot {
		c.lists[it.share].MoveToFront(e)
		it.touch()
	}
	return it
}

// written reports whether an object is here because this agent has just written it.
func (c *Cache) written(id entry.ObjectID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[itemKey{id: id, kind: kindObject}]
	return ok && e.Value.(*item).share == hot
}

// look returns the first of the items that is kept, nil where none is.
func (c *Cache) look(keys ...itemKey) *item {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if it := c.lookLocked(key); it != nil {
			c.cfg.Metrics.hits[it.share].Inc()
			return it
		}
	}
	return nil
}

// reading is how an item comes into memory. It runs under the load's context.
type reading func(ctx context.Context, l *load) (*item, error)

// get returns the item, from memory or by read, which runs once for all who ask for it meanwhile. replay says that it may wait.
func (c *Cache) get(ctx context.Context, key itemKey, replay bool, read reading) (*item, error) {
	if it := c.look(key); it != nil {
		return it, nil
	}
	c.cfg.Metrics.misses.Inc()
	return c.await(ctx, key, replay, read)
}

// await is get for whoever has looked.
func (c *Cache) await(ctx context.Context, key itemKey, replay bool, read reading) (*item, error) {
	c.mu.Lock()
	if it := c.lookLocked(key); it != nil {
		c.mu.Unlock()
		return it, nil
	}
	l := c.loads[key]
	if l == nil {
		if l = c.startLocked(key, read); l == nil {
			c.mu.Unlock()
			return nil, fmt.Errorf("cache closed: %w", ErrUnavailable)
		}
	}
	l.waiters++
	if !replay && !l.urgent {
		l.urgent = true
		close(l.hurry)
	}
	c.mu.Unlock()
	select {
	case <-l.done:
		return l.item, l.err
	case <-ctx.Done():
		c.mu.Lock()
		l.waiters--
		if l.waiters == 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			c.leaveLocked(l)
		}
		if l.waiters == 0 {
			l.cancel()
			if c.loads[key] == l { // whoever comes now starts anew
				delete(c.loads, key)
			}
		}
		c.mu.Unlock()
		return nil, context.Cause(ctx)
	}
}

// readAhead starts a read that nobody waits for, where it is not kept or under way and the bound allows. deep: what comes before it is
// read ahead as well; it has to find more room.
func (c *Cache) readAhead(keys [2]itemKey, deep bool, from func() (itemKey, reading)) {
	c.mu.Lock()
	idle := c.aheadLocked(keys)
	c.mu.Unlock()
	if !idle {
		return
	}
	key, read := from()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.aheadLocked(keys) || (deep || key.kind == kindRun) && !c.roomLocked(deep) {
		return
	}
	if l := c.startLocked(key, read); l != nil {
		c.leaveLocked(l)
		c.cfg.Metrics.readAheads.Inc()
	}
}

// aheadOf reads what holds the bytes of a large object at a position, as readAhead does.
func (c *Cache) aheadOf(o object, f *segment.Footer, position int64, deep bool) {
	c.readAhead(c.holderKeys(o, position), deep, func() (itemKey, reading) { return c.holderRead(o, f, position) })
}

// kept returns an item that is kept, for whom it is no use of it yet.
func (c *Cache) kept(keys [2]itemKey) *item {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if e, ok := c.items[key]; ok {
			return e.Value.(*item)
		}
	}
	return nil
}

// aheadLocked reports whether a read of one of the keys may start ahead.
func (c *Cache) aheadLocked(keys [2]itemKey) bool {
	for _, key := range keys {
		if c.items[key] != nil || c.loads[key] != nil {
			return false
		}
	}
	return c.ahead < c.cfg.ReadAhead
}

// leaveLocked lets a load go on without anybody waiting, for as long as it takes, where the bound allows.
func (c *Cache) leaveLocked(l *load) {
	if !l.ahead && c.ahead < c.cfg.ReadAhead {
		c.ahead++
		l.ahead = true
		l.waiters++
	}
}

// probe makes sure that the pace of replays is watched over.
func (c *Cache) probe() {
	if !c.pace.begin() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.wg.Go(func() { c.pace.probe(c.ctx) })
	}
}

// Background waits until bytes may be worked on in the background, as replays wait: at once where nobody is served, and else at the
// pace that leaves the machine to producers and tail readers (see pace). The error is ctx's.
func (c *Cache) Background(ctx context.Context, bytes int) error {
	c.probe()
	if !c.pace.wait(ctx, background, nil) {
		return context.Cause(ctx)
	}
	c.pace.charge(background, int64(bytes))
	return nil
}

// startLocked starts a load; nil where the cache is closed.
func (c *Cache) startLocked(key itemKey, read reading) *load {
	if c.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.LoadTimeout)
	l := &load{cancel: cancel, hurry: make(chan struct{}), done: make(chan struct{})}
	c.loads[key] = l
	c.wg.Go(func() {
		defer cancel()
		it, err := read(ctx, l)
		c.mu.Lock()
		if c.loads[key] == l {
			delete(c.loads, key)
		}
		if err == nil && len(it.damaged) == 0 && (it.key == itemKey{} || it.key == key) { // else it is kept as what it is
			it.key, it.early = key, l.ahead && l.waiters == 1
			c.keepLocked(it)
		}
		if l.ahead {
			c.ahead--
		}
		c.mu.Unlock()
		l.item, l.err = it, err
		close(l.done)
	})
	return l
}

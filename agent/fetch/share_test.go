package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// cluster is a few agents' read paths over one bucket and one log. Node 1 is the uploader of everything.
type cluster struct {
	t      testing.TB
	index  *index
	bucket *store
	agents []*sharer

	mu sync.Mutex // guards the rest
	// before may answer in a peer's place, or delay it; damage changes what it gives.
	before func(ctx context.Context, from, to int32, ask fetch.Ask) error
	damage func(body []byte)
	asks   []fetch.Ask
}

type sharer struct {
	*fetch.Reader
	cache    *fetch.Cache
	node     int32
	registry *prometheus.Registry
}

// fresh is a config without read-ahead. No peer is slow by it: on a machine that is busy the defaults overtake peers with GETs.
func fresh() fetch.Config {
	return fetch.Config{ReadAhead: -1, PeerTimeout: time.Hour, HedgeMin: time.Hour, HedgeMax: time.Hour}
}

// brisk is fresh with the defaults of how long peers may take, for tests in a bubble.
func brisk() fetch.Config { return fetch.Config{ReadAhead: -1} }

func newCluster(t testing.TB, cfg fetch.Config, zones ...string) *cluster {
	c := &cluster{t: t, index: newIndex(t), bucket: newStore()}
	list := make([]fetch.Agent, len(zones))
	for i, zone := range zones {
		list[i] = fetch.Agent{Node: int32(i + 1), Incarnation: [16]byte{byte(i + 1)}, Zone: zone}
	}
	for i := range zones {
		a := &sharer{node: int32(i + 1), registry: prometheus.NewRegistry()}
		cfg := cfg
		cfg.Metrics = fetch.NewMetrics(a.registry)
		a.Reader, a.cache = open(t, cfg, c.index, c.bucket)
		a.cache.Share(fetch.Sharing{Peers: transport{c, a.node}, Agents: func() []fetch.Agent { return list }, Self: func() int32 { return a.node }})
		c.agents = append(c.agents, a)
	}
	return c
}

// transport is a node's way to its peers.
type transport struct {
	c    *cluster
	from int32
}

func (x transport) Read(ctx context.Context, node int32, ask fetch.Ask) ([]byte, error) {
	c := x.c
	if node == x.from {
		c.t.Errorf("node %d asks itself", node)
	}
	c.mu.Lock()
	c.asks = append(c.asks, ask)
	before, damage := c.before, c.damage
	c.mu.Unlock()
	if before != nil {
		if err := before(ctx, x.from, node, ask); err != nil {
			return nil, err
		}
	}
	body, done, err := c.agents[node-1].cache.Serve(ctx, ask)
	if err != nil {
		return nil, err
	}
	defer done()
	body = bytes.Clone(body)
	if damage != nil {
		damage(body)
	}
	return body, nil
}

// set changes what peers do.
func (c *cluster) set(before func(ctx context.Context, from, to int32, ask fetch.Ask) error, damage func([]byte)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before, c.damage = before, damage
}

func (c *cluster) asked() int { c.mu.Lock(); defer c.mu.Unlock(); return len(c.asks) }

// segments commits n segments of blocks for partitions 0 to 3, each a batch of about size bytes; hot: node 1 has them in memory.
func (c *cluster) segments(topic entry.UUID, n, size int, hot bool) {
	c.segmentsFrom(topic, 0, n, size, hot)
}

// segmentsFrom counts the records from a number on.
func (c *cluster) segmentsFrom(topic entry.UUID, from, n, size int, hot bool) {
	c.t.Helper()
	for i := range n {
		var parts []part
		for k := range int32(4) {
			parts = append(parts, of(c.t, batch.BuildOptions{}, topic, k, now, fmt.Sprintf("%0*d", size, from+i)))
		}
		op, body := c.index.write(c.bucket, segment.Options{}, parts...)
		c.index.commit(op)
		if hot {
			put(c.t, c.agents[0].cache, op, body)
		}
	}
}

// consume reads all partitions through an agent and checks that n records are there, in order.
func (c *cluster) consume(a *sharer, topic entry.UUID, n int) {
	for k := range int32(4) {
		got := 0
		for offset := int64(0); offset < int64(n); {
			dst, res, err := a.Read(context.Background(), topic, k, offset, 64<<10, nil, true)
			if err != nil {
				c.t.Errorf("node %d, partition %d at %d: %v", a.node, k, offset, err)
				return
			}
			for _, rec := range decode(c.t, dst) {
				if rec.offset != int64(got) || strings.TrimLeft(rec.value, "0") != strings.TrimLeft(fmt.Sprint(got), "0") {
					c.t.Errorf("node %d, partition %d: record %d at offset %d", a.node, k, got, rec.offset)
					return
				}
				got++
			}
			offset = res.NextOffset
		}
	}
}

// metric is the value of one series of an agent.
func (a *sharer) metric(name, label string) float64 {
	families, err := a.registry.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != "firn_fetch_"+name || label != "" && m.GetLabel()[0].GetValue() != label {
				continue
			}
			if m.Counter != nil {
				return m.GetCounter().GetValue()
			}
			return m.GetGauge().GetValue()
		}
	}
	panic("no metric " + name + " " + label)
}

func (c *cluster) sum(name, label string) (sum float64) {
	for _, a := range c.agents {
		sum += a.metric(name, label)
	}
	return sum
}

// sizes of a block: a segment that is got whole from a peer, and one that is got in slices.
var blockSizes = []int{200, 40_000}

// small makes the second of blockSizes one of several slices.
func small() fetch.Config {
	cfg := fresh()
	cfg.SliceBytes = 50_000
	return cfg
}

// What an agent just uploaded, readers of all agents of its zone get without a GET: from its memory.
func TestTailReadsThroughPeersCostNoGet(t *testing.T) {
	for _, size := range blockSizes {
		c := newCluster(t, small(), "z", "z", "z")
		topic := c.index.topic("t")
		c.segments(topic, 20, size, true)
		for _, a := range c.agents {
			c.consume(a, topic, 20)
		}
		if n := c.bucket.count(); n != 0 {
			t.Errorf("blocks of %d: %d GETs", size, n)
		}
		if c.agents[0].metric("peer_serves_total", "hit") == 0 || c.agents[1].metric("peer_asks_total", "hit") == 0 {
			t.Error("no peer was asked")
		}
	}
}

// However many consumers read a topic through however many agents, a zone gets each object once, and not all agents keep all of it.
func TestAZoneGetsEachObjectOnce(t *testing.T) {
	for _, size := range blockSizes {
		for _, consumers := range []int{1, 10} {
			cfg := small()
			cfg.Bytes, cfg.BorrowedBytes = 32<<20, 1<<20
			c := newCluster(t, cfg, "z", "z", "z")
			topic := c.index.topic("t")
			c.segments(topic, 40, size, false)
			var wg sync.WaitGroup
			for i := range consumers {
				for k := range c.agents {
					wg.Go(func() { c.consume(c.agents[(i+k)%len(c.agents)], topic, 40) })
				}
			}
			wg.Wait()
			hedges := c.sum("hedges_total", "") + c.sum("gets_total", "fallback") // a peer that gets no processor is slow
			if n := c.bucket.count(); n > 40+int(hedges) || n < 40 {
				t.Errorf("%d consumers, blocks of %d: %d GETs of 40 objects, %v of them hedges or for want of a peer", consumers, size, n, hedges)
			}
			if n := c.sum("gets_total", "peer"); n == 0 {
				t.Error("nothing was fetched for a peer")
			}
			for _, a := range c.agents {
				if n := a.metric("cache_bytes", "borrowed"); n > 1<<20 {
					t.Errorf("%v bytes borrowed", n)
				}
				if n := a.metric("cache_bytes", "cold"); hedges == 0 && n > float64(30*4*(size+500)) { // of 40
					t.Errorf("%v bytes kept by one agent", n)
				}
			}
		}
	}
}

// Of a large object each run is got once, and its footer by each agent that needs it.
func TestAZoneGetsEachRunOnce(t *testing.T) {
	cfg := fresh()
	cfg.WholeBytes, cfg.RunBytes, cfg.SliceBytes = 1000, 50_000, 20_000
	c := newCluster(t, cfg, "z", "z", "z")
	topic := c.index.topic("t")
	var parts []part
	for i := range 100 {
		for k := range int32(4) {
			parts = append(parts, of(t, batch.BuildOptions{}, topic, k, now, fmt.Sprintf("%03000d", i)))
		}
	}
	c.index.add(c.bucket, segment.Options{ChunkBytes: 1}, parts...) // 1.2 MB: 25 runs
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() { c.consume(c.agents[i%3], topic, 100) })
	}
	wg.Wait()
	// A footer of more than 64 KiB would take two reads.
	if n, hedges := c.bucket.count(), int(c.sum("hedges_total", "")+c.sum("gets_total", "fallback")); n > 3+25+hedges {
		t.Errorf("%d GETs, %d of them hedges", n, hedges)
	}
	for _, a := range c.agents {
		if a.metric("gets_total", "own")+a.metric("gets_total", "peer") > 15 {
			t.Errorf("node %d made most GETs", a.node)
		}
	}
}

// What a peer answers instead of bytes costs a GET each, no error, and is not remembered.
func TestAPeerThatDoesNotGive(t *testing.T) {
	for _, refusal := range []error{fetch.ErrBusy, fetch.ErrRefused, &fetch.NotHeld{}, errors.New("connection refused")} {
		c := newCluster(t, fresh(), "z", "z")
		topic := c.index.topic("t")
		c.segments(topic, 20, 200, true)
		c.set(func(context.Context, int32, int32, fetch.Ask) error { return refusal }, nil)
		c.consume(c.agents[1], topic, 20)
		if n := c.bucket.count(); n != 20 {
			t.Errorf("%v: %d GETs", refusal, n)
		}
		if n := c.agents[1].metric("gets_total", "fallback") + c.agents[1].metric("gets_total", "own"); n != 20 {
			t.Errorf("%v: %v GETs of the right kind", refusal, n)
		}
	}
	// Once it gives again, it is asked again.
	c := newCluster(t, fresh(), "z", "z")
	topic := c.index.topic("t")
	c.segments(topic, 2, 200, true)
	c.set(func(context.Context, int32, int32, fetch.Ask) error { return fetch.ErrBusy }, nil)
	read := func(offset int64) {
		t.Helper()
		if _, _, err := c.agents[1].Read(t.Context(), topic, 0, offset, 1, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	read(0)
	c.set(nil, nil)
	read(1)
	if n := c.bucket.count(); n != 1 {
		t.Errorf("%d GETs", n)
	}
}

// An agent that dies while a topic is read costs no more than GETs in its place, and soon nobody asks it any more.
func TestAPeerThatDies(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t, fresh(), "z", "z", "z")
		topic := c.index.topic("t")
		c.segments(topic, 100, 200, false)
		asked := 0
		c.set(func(_ context.Context, _, to int32, _ fetch.Ask) error {
			if to != 3 {
				return nil
			}
			if asked++; asked > 5 {
				return errors.New("connection reset")
			}
			return nil
		}, nil)
		c.consume(c.agents[0], topic, 100)
		c.consume(c.agents[1], topic, 100)
		if n := c.bucket.count(); n > 100+6+10 {
			t.Errorf("%d GETs", n)
		}
		if asked > 5+6+1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// Damage from a peer is found, and the bucket is read instead.
func TestDamageFromAPeer(t *testing.T) {
	for _, size := range blockSizes {
		c := newCluster(t, small(), "z", "z")
		topic := c.index.topic("t")
		c.segments(topic, 10, size, true)
		c.set(nil, func(body []byte) { body[len(body)/2] ^= 1 })
		c.consume(c.agents[1], topic, 10)
		if n := c.bucket.count(); n != 10 {
			t.Errorf("blocks of %d: %d GETs", size, n)
		}
		if c.agents[1].metric("peer_asks_total", "damaged") == 0 || c.agents[1].metric("corrupt_reads_total", "") != 0 {
			t.Error("not counted as what it was")
		}
		c.set(nil, func(body []byte) {
			for i := range body {
				body[i] = 0
			}
		})
		c.segments(topic, 1, size, true)
		if _, _, err := c.agents[1].Read(t.Context(), topic, 0, 10, 1, nil, true); err != nil {
			t.Error(err)
		}
	}
	// An answer that is too short is damage, too.
	c := newCluster(t, fresh(), "z", "z")
	topic := c.index.topic("t")
	c.segments(topic, 1, 100, true)
	c.agents[1].cache.Share(fetch.Sharing{
		Peers: short{},
		Agents: func() []fetch.Agent {
			return []fetch.Agent{{Node: 1, Incarnation: [16]byte{1}}, {Node: 2, Incarnation: [16]byte{2}}}
		},
		Self: func() int32 { return 2 },
	})
	c.consume(c.agents[1], topic, 1)
	if n := c.agents[1].metric("peer_asks_total", "damaged"); n == 0 {
		t.Error("a short answer was taken")
	}
}

type short struct{}

func (short) Read(context.Context, int32, fetch.Ask) ([]byte, error) { return []byte{1}, nil }

// A peer that becomes slow is overtaken by GETs, of which there are few.
func TestASlowPeerIsOvertaken(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t, brisk(), "z", "z")
		topic := c.index.topic("t")
		const n = 400
		delay := time.Millisecond
		asks := 0
		c.set(func(ctx context.Context, _, _ int32, _ fetch.Ask) error {
			asks++
			d := delay
			if asks%30 == 0 { // one in thirty hangs
				d = time.Hour
			}
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}, nil)
		start := time.Now()
		slowest := time.Duration(0)
		for offset := range int64(n) {
			c.segments(topic, 1, 100, true)
			before := time.Now()
			if _, _, err := c.agents[1].Read(t.Context(), topic, 0, offset, 1, nil, true); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(before); offset > n/2 {
				slowest = max(slowest, took)
			}
		}
		a := c.agents[1]
		hedges := a.metric("gets_total", "hedge")
		if want := float64(asks / 30); hedges != want || float64(c.bucket.count()) != want || a.metric("peer_asks_total", "overtaken") != want {
			t.Errorf("%v hedges for %d asks, %d GETs", hedges, asks, c.bucket.count())
		}
		if slowest > 50*time.Millisecond || time.Since(start) > 2*time.Second+n*time.Millisecond { // the first, while nothing is known, wait longest
			t.Errorf("slowest %v, all %v", slowest, time.Since(start))
		}
	})
}

// One that hangs is left alone after the first ask that ran out of time, and tried again later.
func TestAPeerThatHangs(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t, brisk(), "z", "z")
		topic := c.index.topic("t")
		hung := true
		c.set(func(ctx context.Context, _, _ int32, _ fetch.Ask) error {
			if !hung {
				return nil
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}, nil)
		start := time.Now()
		for offset := range int64(100) {
			c.segments(topic, 1, 100, true)
			if _, _, err := c.agents[1].Read(t.Context(), topic, 0, offset, 1, nil, true); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 5*time.Second { // two hedges and one whole wait
			t.Errorf("100 reads took %v", took)
		}
		hung = false
		time.Sleep(time.Minute)
		before := c.bucket.count()
		for offset := range int64(100) {
			c.segments(topic, 1, 100, true)
			if _, _, err := c.agents[1].Read(t.Context(), topic, 0, 100+offset, 1, nil, true); err != nil {
				t.Fatal(err)
			}
		}
		if n := c.bucket.count() - before; n != 0 {
			t.Errorf("%d GETs after it came back", n)
		}
	})
}

// Zones get their own: from another zone comes only what is smaller than a GET is worth, and only from the uploader's memory.
func TestZones(t *testing.T) {
	c := newCluster(t, small(), "a", "b", "b")
	topic := c.index.topic("t")
	c.segments(topic, 10, 40_000, true) // 160 KB
	for range 2 {
		c.consume(c.agents[1], topic, 10)
		c.consume(c.agents[2], topic, 10)
	}
	if n := c.bucket.count(); n != 10 {
		t.Errorf("zone b: %d GETs", n)
	}
	c.consume(c.agents[0], topic, 10)
	if n := c.bucket.count(); n != 10 {
		t.Errorf("the uploader: %d GETs", n-10)
	}
	for _, ask := range c.asks {
		if ask.Held {
			t.Fatal("another zone was asked for a large object")
		}
	}
	c = newCluster(t, small(), "a", "b")
	topic = c.index.topic("t")
	c.segments(topic, 10, 200, true)
	c.consume(c.agents[1], topic, 10)
	if n := c.bucket.count(); n != 0 {
		t.Errorf("small objects of another zone: %d GETs", n)
	}
	// Alone in a zone, and not a member yet: as if there were nobody.
	c = newCluster(t, fresh(), "a", "b")
	topic = c.index.topic("t")
	c.segments(topic, 10, 40_000, false)
	c.consume(c.agents[1], topic, 10)
	if n := c.bucket.count(); n != 10 || c.asked() != 0 {
		t.Errorf("%d GETs, %d asks", n, c.asked())
	}
}

// A replay learns from the first refusal how far back the uploader's memory goes.
func TestAReplayDoesNotAskForWhatIsLongGone(t *testing.T) {
	cfg := fresh()
	cfg.Bytes, cfg.HotBytes = 1<<20, 10_000
	c := newCluster(t, cfg, "z", "z")
	topic := c.index.topic("t")
	c.segments(topic, 100, 200, true) // some 1200 bytes each
	c.consume(c.agents[1], topic, 100)
	if n := c.agents[1].metric("peer_asks_total", "not_held"); n != 1 {
		t.Errorf("%v asks for nothing", n)
	}
	if n := c.bucket.count(); n > 97 || n < 90 {
		t.Errorf("%d GETs: the last few are in the uploader's memory", n)
	}
}

// Serve gives what it has, gets what it may, and asks nobody.
func TestServe(t *testing.T) {
	c := newCluster(t, fresh(), "z", "z", "z")
	topic := c.index.topic("t")
	ops, bodies := fill(t, c.index, c.bucket, topic, 3, 1000)
	put(t, c.agents[0].cache, ops[1], bodies[1])
	whole := func(i int) fetch.Ask {
		return fetch.Ask{Object: ops[i].Object, ObjectSize: int64(len(bodies[i])), Size: int64(len(bodies[i]))}
	}
	serve := func(ask fetch.Ask) ([]byte, error) {
		body, done, err := c.agents[0].cache.Serve(t.Context(), ask)
		if err != nil {
			return nil, err
		}
		defer done()
		return bytes.Clone(body), nil
	}
	for i := range ops {
		ask := whole(i)
		ask.Held = true
		body, err := serve(ask)
		var none *fetch.NotHeld
		switch {
		case i == 1 && !bytes.Equal(body, bodies[1]):
			t.Errorf("%v", err)
		case i != 1 && (!errors.As(err, &none) || none.Below != ops[1].Object.Seq):
			t.Errorf("object %d: %v", i, err)
		}
	}
	if c.bucket.count() != 0 {
		t.Error("a GET for what was to be held")
	}
	for range 2 {
		ask := whole(0)
		ask.Position, ask.Size = 10, 20
		if body, err := serve(ask); err != nil || !bytes.Equal(body, bodies[0][10:30]) {
			t.Errorf("%v", err)
		}
	}
	if c.bucket.count() != 1 || c.asked() != 0 {
		t.Errorf("%d GETs, %d asks", c.bucket.count(), c.asked())
	}
	for _, change := range []func(*fetch.Ask){
		func(a *fetch.Ask) { a.Position = -1 },
		func(a *fetch.Ask) { a.Size = 0 },
		func(a *fetch.Ask) { a.Position, a.Size = 1<<62, 1<<62 },
		func(a *fetch.Ask) { a.Size++ },
		func(a *fetch.Ask) { a.ObjectSize, a.Size = 0, 1 },
		func(a *fetch.Ask) { a.Object.Seq = 99 },
		func(a *fetch.Ask) { a.ObjectSize += 5; a.Size = a.ObjectSize },
	} {
		ask := whole(2)
		change(&ask)
		if _, err := serve(ask); err == nil {
			t.Errorf("%+v was served", ask)
		}
	}
}

// What peers are given is bounded, and a replay that takes all of its part leaves the other to tail readers.
func TestServeIsBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		cfg := brisk()
		cfg.ServeBytes, cfg.ServeRequests = 6000, 4
		c := newCluster(t, cfg, "z", "z")
		topic := c.index.topic("t")
		ops, bodies := fill(t, c.index, c.bucket, topic, 1, 1000)
		put(t, c.agents[0].cache, ops[0], bodies[0])
		ask := fetch.Ask{Object: ops[0].Object, ObjectSize: int64(len(bodies[0])), Size: int64(len(bodies[0])), Cold: true}
		serve := func(ask fetch.Ask) (func(), error) {
			_, done, err := c.agents[0].cache.Serve(t.Context(), ask)
			return done, err
		}
		first, err := serve(ask)
		if err != nil {
			t.Fatal(err)
		}
		second, err := serve(ask)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = serve(ask)
		wantErr(t, err, fetch.ErrBusy)
		if took := time.Since(start); took < time.Second || took >= 10*time.Second {
			t.Errorf("busy after %v: who asks for a replay waits ten seconds", took)
		}
		results := make(chan error)
		for range 5 {
			go func() {
				done, err := serve(ask)
				if err == nil {
					done()
				}
				results <- err
			}()
		}
		wantErr(t, <-results, fetch.ErrBusy) // the fifth, at once
		hot := ask
		hot.Cold = false
		if done, err := serve(hot); err != nil {
			t.Errorf("a tail reader: %v", err)
		} else {
			done()
		}
		first()
		second()
		for range 4 {
			if err := <-results; err != nil {
				t.Errorf("once there was room: %v", err)
			}
		}
	})
}

// What peers want of old data does not push out what tail readers want.
func TestPeersDoNotEvictTheTail(t *testing.T) {
	cfg := fresh()
	cfg.Bytes, cfg.HotBytes = 30_000, 12_000
	c := newCluster(t, cfg, "z", "z")
	topic := c.index.topic("t")
	ops, bodies := fill(t, c.index, c.bucket, topic, 100, 1000)
	for i := 92; i < 100; i++ {
		put(t, c.agents[0].cache, ops[i], bodies[i])
	}
	for i := range 90 {
		_, done, err := c.agents[0].cache.Serve(t.Context(), fetch.Ask{Object: ops[i].Object, ObjectSize: int64(len(bodies[i])), Size: 100})
		if err != nil {
			t.Fatal(err)
		}
		done()
	}
	before := c.bucket.count()
	if got := readAll(t, c.agents[0].Reader, topic, 0, 92, 1<<20); len(got) != 8 || c.bucket.count() != before {
		t.Errorf("%d records, %d GETs", len(got), c.bucket.count()-before)
	}
}

// Beside producers replays have so many GETs at a time, and as many more as there is memory for where nobody else is served; who reads the tail
// waits for none of them, not even for one of the same object.
func TestReplaysWaitForTheirTurn(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int64
		busy  bool
		most  int // GETs at a time
		took  time.Duration
	}{
		{"beside a producer that is now and then late by seconds", 0, true, 2, 5 * time.Second},
		{"alone", 128 << 20, false, 4, 3 * time.Second},
		{"alone, with much memory", 4 << 30, false, 8, 2 * time.Second},
		{"alone, with little", 8 << 20, false, 2, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) { replaysInTurn(t, c.bytes, c.busy, c.most, c.took) })
		})
	}
}

func replaysInTurn(t *testing.T, bytes int64, busy bool, want int, within time.Duration) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	fill(t, x, bucket, topic, 40, 100)
	r, cache := open(t, fetch.Config{ColdReads: 2, Bytes: bytes}, x, bucket)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	if busy {
		cache.Produce()
		wg.Go(func() {
			for ctx.Err() == nil {
				cache.Produce()
				time.Sleep(3 * time.Second)
			}
		})
	}
	most := bucket.slow(time.Second)
	start := time.Now()
	read := func(offset int64) time.Duration {
		if _, _, err := r.Read(t.Context(), topic, 0, offset, 1, nil, true); err != nil {
			t.Error(err)
		}
		return time.Since(start)
	}
	var replays sync.WaitGroup
	for offset := range int64(10) {
		replays.Go(func() { read(offset) })
	}
	faketime.Wait()
	if took := read(39); took != time.Second {
		t.Errorf("the tail took %v", took)
	}
	replays.Wait()
	if took := time.Since(start); took > within+100*time.Millisecond || most() != want+1 { // and the tail's
		t.Errorf("10 objects in %v, %d at a time", took, most())
	}
	cancel()
	wg.Wait()
}

// A replay and a tail reader that want the same object share a GET, and the replay's turn does not matter any more.
func TestATailReaderHurriesAReplaysRead(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic, other := x.topic("t"), x.topic("u")
		for i := range 20 { // the last objects hold the tail of one topic and the middle of the other
			parts := []part{of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprint(i))}
			if i < 12 {
				parts = append(parts, of(t, batch.BuildOptions{}, other, 0, now, fmt.Sprint(i)))
			}
			x.add(bucket, segment.Options{}, parts...)
		}
		r, _ := open(t, fetch.Config{ColdReads: 1}, x, bucket)
		bucket.before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
		var wg sync.WaitGroup
		for _, offset := range []int64{1, 11} { // one GET, and one that waits
			wg.Go(func() {
				if _, _, err := r.Read(t.Context(), topic, 0, offset, 1, nil, true); err != nil {
					t.Error(err)
				}
			})
			faketime.Wait()
		}
		start := time.Now()
		if _, _, err := r.Read(t.Context(), other, 0, 11, 1, nil, true); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != time.Second || bucket.count() != 2 {
			t.Errorf("%v, %d GETs", took, bucket.count())
		}
		wg.Wait()
	})
}

// Many readers of everything through all agents, which fail now and then; the race detector looks on.
func TestConcurrentSharing(t *testing.T) {
	cfg := small()
	cfg.Bytes, cfg.ReadAhead = 400_000, 2
	cfg.PeerTimeout, cfg.HedgeMin, cfg.HedgeMax = 200*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	c := newCluster(t, cfg, "z", "z", "y")
	topic := c.index.topic("t")
	c.segments(topic, 15, 200, true)
	c.segmentsFrom(topic, 15, 15, 40_000, true)
	asks := 0
	c.set(func(context.Context, int32, int32, fetch.Ask) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if asks++; asks%7 == 0 {
			return []error{fetch.ErrBusy, fetch.ErrRefused, errors.New("reset")}[asks%3]
		}
		return nil
	}, nil)
	c.bucket.before = func(context.Context, string) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if asks%11 == 5 {
			asks++
			return objstore.ErrUnavailable
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() { c.consume(c.agents[i%3], topic, 30) })
	}
	wg.Wait()
}

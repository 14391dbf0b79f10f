package agent_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/objstoretest"
)

// counting counts what is done with segments.
type counting struct {
	objstore.Bucket
	puts, gets atomic.Int64
}

func (b *counting) count(n *atomic.Int64, key string) {
	if strings.HasPrefix(key, "data/") {
		n.Add(1)
	}
}

func (b *counting) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	b.count(&b.puts, key)
	return b.Bucket.Put(ctx, key, body, opts)
}

func (b *counting) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	return objstoretest.PutFrom(ctx, b, key, body, size, opts)
}

func (b *counting) Get(ctx context.Context, key string) ([]byte, error) {
	b.count(&b.gets, key)
	return b.Bucket.Get(ctx, key)
}

func (b *counting) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	b.count(&b.gets, key)
	return b.Bucket.GetRange(ctx, key, position, size)
}

// through makes a client whose connections all go to one agent, whatever address it is told.
func (m *mate) through(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(m.cfg.Advertise), kgo.AllowAutoTopicCreation(),
		kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, m.cfg.Advertise)
		}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// sample is one series of the agent's metrics, as /metrics writes it.
func (m *mate) sample(t testing.TB, series string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + m.HTTPAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no %s", series)
	return 0
}

// consume reads n records of a topic from the start by way of one agent.
func (m *mate) consume(ctx context.Context, t testing.TB, topic string, n int) error {
	c := m.through(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	next := make(map[int32]int64)
	for got := 0; got < n; {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("%d of %d records: %w", got, n, err)
		}
		for _, r := range fetches.Records() {
			if r.Offset != next[r.Partition] {
				return fmt.Errorf("partition %d: offset %d where %d belongs", r.Partition, r.Offset, next[r.Partition])
			}
			next[r.Partition]++
			got++
		}
	}
	return nil
}

// Three agents read a topic together: what is fresh comes from the memory of who uploaded it, and what is old from the bucket once,
// for one consumer through each agent as for ten.
func TestAgentsReadTogether(t *testing.T) {
	for _, hot := range []bool{true, false} {
		for _, consumers := range []int{1, 10} {
			t.Run(fmt.Sprintf("hot=%v,consumers=%d", hot, consumers), func(t *testing.T) {
				team := newTeam(t)
				bucket := &counting{Bucket: team.bucket}
				tune := func(m *mate) {
					m.parts.Bucket, m.parts.Scratch = bucket, nil // the scrubber's GETs are not readers'
					m.cfg.DefaultPartitions, m.cfg.SegmentBytes, m.cfg.Zone = 6, 256<<10, "z"
					// A machine that is busy makes no peer slow.
					m.cfg.PeerTimeout, m.cfg.PeerHedgeMin, m.cfg.PeerHedgeMax = time.Minute, time.Minute, time.Minute
					if !hot {
						m.cfg.CacheHotBytes = 64 << 10
					}
				}
				mates := []*mate{team.join("a", tune), team.join("b", tune), team.join("c", tune)}
				const each, size = 500, 2000
				for _, m := range mates {
					p := m.through(t, kgo.DefaultProduceTopic("t"), kgo.ProducerBatchMaxBytes(32<<10), kgo.ProducerBatchCompression(kgo.NoCompression()))
					for range each {
						p.Produce(t.Context(), &kgo.Record{Value: make([]byte, size)}, nil)
					}
					if err := p.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				before := bucket.gets.Load()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				var wg sync.WaitGroup
				for range consumers {
					for _, m := range mates {
						wg.Go(func() {
							if err := m.consume(ctx, t, "t", len(mates)*each); err != nil {
								t.Error(err)
							}
						})
					}
				}
				wg.Wait()
				var hedges, fallbacks, forPeers, asked, unreachable float64
				for _, m := range mates {
					hedges += m.sample(t, "firn_fetch_hedges_total")
					fallbacks += m.sample(t, `firn_fetch_gets_total{reason="fallback"}`)
					forPeers += m.sample(t, `firn_fetch_gets_total{reason="peer"}`)
					asked += m.sample(t, `firn_fetch_peer_asked_bytes_total`)
					unreachable += m.sample(t, `firn_fetch_peer_asks_total{result="unreachable"}`)
				}
				gets, puts := bucket.gets.Load()-before, bucket.puts.Load()
				t.Logf("%d segments, %d GETs, of them %v for peers, %v hedges, %v fallbacks; %.1f MB between agents, %v asks unanswered", puts, gets, forPeers, hedges, fallbacks, asked/1e6, unreachable)
				most := float64(puts) + hedges + fallbacks
				if hot {
					most = hedges + fallbacks
				}
				if unreachable == 0 && float64(gets) > most { // a peer that does not answer is left out for a while, and others get in its place
					t.Errorf("%d GETs for %d segments", gets, puts)
				}
				if asked == 0 || !hot && forPeers == 0 {
					t.Errorf("agents gave each other %v bytes and fetched %v times for each other", asked, forPeers)
				}
			})
		}
	}
}

// An agent that goes while consumers read through the others costs them nothing but GETs.
func TestAnAgentGoesWhileOthersRead(t *testing.T) {
	team := newTeam(t)
	tune := func(m *mate) { m.cfg.DefaultPartitions, m.cfg.SegmentBytes = 6, 64<<10 }
	mates := []*mate{team.join("a", tune), team.join("b", tune), team.join("c", tune)}
	p := mates[0].through(t, kgo.DefaultProduceTopic("t"), kgo.ProducerBatchMaxBytes(8<<10), kgo.ProducerBatchCompression(kgo.NoCompression()))
	const n = 3000
	for k := range n {
		p.Produce(t.Context(), &kgo.Record{Value: fmt.Appendf(nil, "%01000d", k)}, nil)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if err := mates[1+i%2].consume(ctx, t, "t", n); err != nil {
				t.Error(err)
			}
		})
	}
	mates[0].Kill() // who holds all of it
	wg.Wait()
	for i := range 2 {
		if err := mates[1+i].consume(ctx, t, "t", n); err != nil {
			t.Error(err)
		}
	}
}

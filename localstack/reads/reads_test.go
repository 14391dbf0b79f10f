//go:build interop

package reads

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/localstack"
)

var (
	firnBin = filepath.Join("..", "..", "bin", "firn")
	etcdBin = filepath.Join("..", "..", ".cache", "etcd", "etcd")
)

// TestMain refuses to run without what the tests need: a suite that skips proves nothing.
func TestMain(m *testing.M) {
	if p := os.Getenv("FIRN_BIN"); p != "" {
		firnBin = p
	}
	if p := os.Getenv("INTEROP_ETCD"); p != "" {
		etcdBin = p
	}
	for _, need := range [][]string{{firnBin, "version"}, {etcdBin, "--version"}} {
		if out, err := exec.Command(need[0], need[1:]...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s\nrun `make interop`, which installs what these tests need\n", need, err, out)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cluster is three agents, with what they count.
type cluster struct {
	*localstack.Stack
	t *testing.T
}

// counts are sums over the agents since they started.
type counts struct {
	produced, segments                    float64 // bytes of batches taken in, and objects they became
	gets, getBytes                        float64
	hedges, fallbacks, peers, peerBytes   float64 // of gets: because a peer was slow, had nothing, asked; and bytes between agents
	hotHits, coldHits, borrowHits, misses float64
}

func (c *cluster) counts() (n counts) {
	c.t.Helper()
	series := map[string]*float64{
		"firn_ingest_staged_bytes_total": &n.produced, "firn_ingest_segment_bytes_count": &n.segments,
		"firn_fetch_get_bytes_total": &n.getBytes, "firn_fetch_hedges_total": &n.hedges,
		`firn_fetch_gets_total{reason="fallback"}`: &n.fallbacks, `firn_fetch_gets_total{reason="peer"}`: &n.peers,
		"firn_fetch_peer_asked_bytes_total":                   &n.peerBytes,
		`firn_fetch_cache_hits_total{temperature="hot"}`:      &n.hotHits,
		`firn_fetch_cache_hits_total{temperature="cold"}`:     &n.coldHits,
		`firn_fetch_cache_hits_total{temperature="borrowed"}`: &n.borrowHits,
		"firn_fetch_cache_misses_total":                       &n.misses,
	}
	for _, a := range c.Agents {
		resp, err := http.Get("http://" + a.HTTP + "/metrics")
		must(c.t, err)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), " ")
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			if strings.HasPrefix(name, "firn_fetch_gets_total{") {
				n.gets += v
			}
			if to := series[name]; to != nil {
				*to += v
			}
		}
		must(c.t, resp.Body.Close())
	}
	return n
}

// asks are what came of the agents' asks of each other, where there was any of it.
func (c *cluster) asks() string {
	c.t.Helper()
	sums := map[string]float64{}
	for _, a := range c.Agents {
		resp, err := http.Get("http://" + a.HTTP + "/metrics")
		must(c.t, err)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), " ")
			if result, ok := strings.CutPrefix(name, `firn_fetch_peer_asks_total{result="`); ok {
				v, _ := strconv.ParseFloat(value, 64)
				sums[strings.TrimSuffix(result, `"}`)] += v
			}
		}
		must(c.t, resp.Body.Close())
	}
	return fmt.Sprint(sums)
}

// restart empties the agents' memories.
func (c *cluster) restart(ctx context.Context) {
	c.t.Helper()
	for _, a := range c.Agents {
		must(c.t, a.Stop(time.Minute))
	}
	for _, a := range c.Agents {
		must(c.t, a.Start())
	}
	for _, a := range c.Agents {
		must(c.t, a.AwaitReady(ctx))
	}
}

// produce runs `firn bench` over a topic and returns how many bytes of values were acknowledged.
func (c *cluster) produce(ctx context.Context, topic string, args ...string) float64 {
	c.t.Helper()
	args = append([]string{"bench", "--brokers", c.Brokers(), "--mode", "produce", "--topic", topic, "--warmup", "0s", "-o", "json"}, args...)
	cmd := exec.CommandContext(ctx, firnBin, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(c.t, err)
	var result struct {
		Phases []struct {
			Sent   int64 `json:"sent"`
			Errors int64 `json:"errors"`
		} `json:"phases"`
	}
	must(c.t, json.Unmarshal(out, &result))
	return float64(result.Phases[0].Sent-result.Phases[0].Errors) * 1024
}

// consume reads a topic between the given offsets with several consumers at once, each by way of one agent and all agents alike, as behind a load
// balancer. It returns the bytes that all of them got.
func (c *cluster) consume(ctx context.Context, topic string, consumers int, from, to kadm.ListedOffsets) float64 {
	c.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	total := 0.0
	for i := range consumers {
		wg.Go(func() {
			at := map[int32]kgo.Offset{}
			left := map[int32]int64{}
			to.Each(func(o kadm.ListedOffset) {
				start, _ := from.Lookup(topic, o.Partition)
				if start.Offset < o.Offset {
					at[o.Partition], left[o.Partition] = kgo.NewOffset().At(start.Offset), o.Offset
				}
			})
			agent := c.Agents[i%len(c.Agents)].Kafka
			cl, err := kgo.NewClient(kgo.SeedBrokers(agent), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at}),
				kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, network, agent)
				}))
			if err != nil {
				c.t.Error(err)
				return
			}
			defer cl.Close()
			got := 0
			for len(left) > 0 && ctx.Err() == nil {
				cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
					end, reading := left[r.Partition]
					if !reading {
						return
					}
					got += len(r.Value)
					if r.Offset+1 >= end { // what follows is none of this figure's
						delete(left, r.Partition)
						cl.PauseFetchPartitions(map[string][]int32{topic: {r.Partition}})
					}
				})
			}
			if len(left) > 0 {
				c.t.Errorf("consumer %d: %d partitions not read to their end", i, len(left))
			}
			mu.Lock()
			total += float64(got)
			mu.Unlock()
		})
	}
	wg.Wait()
	return total
}

// TestRequestsPerMiB prints how many GETs a MiB consumed takes, by one and by ten consumers through three agents, and how many PUTs a MiB produced.
// READS_ARGS are further settings of the agents, READS_RECORDS how many records there are to read from the start.
func TestRequestsPerMiB(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	// Without merging: where a window is due at once, by chance, what was just written is read again from what it became.
	o := localstack.Options{Dir: t.TempDir(), Agents: 3, Args: append([]string{"--compaction=false"}, strings.Fields(os.Getenv("READS_ARGS"))...)}
	var err error
	o.Firn, err = filepath.Abs(firnBin)
	must(t, err)
	o.EtcdBinary, err = filepath.Abs(etcdBin)
	must(t, err)
	s, err := localstack.Start(ctx, o)
	must(t, err)
	defer s.Close()
	c := &cluster{s, t}
	admin, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.Brokers(), ",")...))
	must(t, err)
	defer admin.Close()
	adm := kadm.NewClient(admin)
	const mib = 1 << 20
	records := "200000" // of 1 KiB: what the three caches hold together
	if n := os.Getenv("READS_RECORDS"); n != "" {
		records = n
	}
	const full, trickle, tail = "full", "trickle", "tail" // topics: a segment of one is none of the others'
	_, err = adm.CreateTopics(ctx, 12, 1, nil, full, trickle, tail)
	must(t, err)
	ends := func(topic string) kadm.ListedOffsets {
		list, err := adm.ListEndOffsets(ctx, topic)
		must(t, err)
		return list
	}
	start := ends(full)

	before := c.counts()
	c.produce(ctx, full, "--max", "--duration", "8s", "--records-max", records)
	after := c.counts()
	objects := after.segments - before.segments
	t.Logf("full load: %.0f MiB in %.0f segments: %.3f PUTs a MiB", (after.produced-before.produced)/mib, objects, objects/((after.produced-before.produced)/mib))
	filled := ends(full)

	before = after
	c.produce(ctx, trickle, "--rate", "100KB/s", "--duration", "10s")
	after = c.counts()
	t.Logf("100 KB/s: %.2f MiB in %.0f segments: %.1f PUTs a MiB, %.1f a second", (after.produced-before.produced)/mib, after.segments-before.segments,
		(after.segments-before.segments)/((after.produced-before.produced)/mib), (after.segments-before.segments)/10)

	for _, consumers := range []int{1, 10} {
		from := ends(tail)
		before = c.counts()
		c.produce(ctx, tail, "--rate", "10MB/s", "--duration", "4s")
		to := ends(tail)
		got := c.consume(ctx, tail, consumers, from, to)
		after = c.counts()
		t.Logf("tail, %d consumers: %.0f MiB consumed, %.0f GETs: %.3f a MiB; %.0f hedges, %.1f MiB between agents", consumers, got/mib, after.gets-before.gets,
			(after.gets-before.gets)/(got/mib), after.hedges-before.hedges, (after.peerBytes-before.peerBytes)/mib)
		if extra := after.hedges - before.hedges + after.fallbacks - before.fallbacks; after.gets-before.gets > extra {
			t.Errorf("tail reads took %v GETs, %v of them because a peer was slow", after.gets-before.gets, extra)
		}
	}

	for _, consumers := range []int{1, 10} {
		c.restart(ctx)
		before = c.counts()
		got := c.consume(ctx, full, consumers, start, filled)
		after = c.counts()
		gets, data := after.gets-before.gets, got/float64(consumers)/mib
		t.Logf("from the start, %d consumers: %.0f MiB consumed of %.0f MiB in %.0f segments, %.0f GETs of %.1f MiB: %.3f a MiB consumed, %.2f per 8 MiB of the topic; %.0f for peers, "+
			"%.0f hedges, %.0f fallbacks, %.0f MiB between agents",
			consumers, got/mib, data, objects, gets, (after.getBytes-before.getBytes)/mib, gets/(got/mib), gets/(data/8), after.peers-before.peers,
			after.hedges-before.hedges, after.fallbacks-before.fallbacks, (after.peerBytes-before.peerBytes)/mib)
		t.Logf("asks %s", c.asks())
		// Each object once, by whoever. Of a topic that is larger than all caches, consumers that are far apart find what was evicted
		// between them again.
		if os.Getenv("READS_RECORDS") == "" && gets > objects+after.hedges+after.fallbacks {
			t.Errorf("%v GETs for %.0f objects", gets, objects)
		}
	}
}

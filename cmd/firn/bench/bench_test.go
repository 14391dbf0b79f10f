package bench_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/cmd/firn/bench"
	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/localstack/faketime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestScheduleSendsEachRecordAtItsTime(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		start := time.Now()
		count := 0
		bench.Follow(t.Context(), 250*time.Millisecond, 3, 10*time.Second, math.MaxInt64, func(i int64, intended time.Duration) {
			want := 250*time.Millisecond + time.Duration(float64(i)*1e9/3)
			if intended != want || time.Since(start) != want {
				t.Errorf("record %d meant for %s, sent at %s, want %s", i, intended, time.Since(start), want)
			}
			count++
		})
		if count != 30 { // 0.25 s, 0.58 s, ... 9.92 s
			t.Errorf("%d records", count)
		}
	})
}

// A send that blocks must not move the intended times of those after it: that is what an open loop is.
func TestScheduleChargesAStallToEveryRecordInIt(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		start := time.Now()
		var late []time.Duration
		bench.Follow(t.Context(), 0, 10, 2*time.Second, math.MaxInt64, func(i int64, intended time.Duration) {
			late = append(late, time.Since(start)-intended)
			if i == 4 {
				time.Sleep(time.Second) // the broker stalls
			}
		})
		if len(late) != 20 {
			t.Fatalf("%d records, want 20: the stall must not drop any", len(late))
		}
		for i, d := range late {
			want := time.Duration(0)
			if i > 4 && i <= 14 {
				want = time.Second - time.Duration(i-4)*100*time.Millisecond
			}
			if d != want {
				t.Errorf("record %d is %s late, want %s", i, d, want)
			}
		}
	})
}

func TestScheduleDoesNotDrift(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		var last time.Duration
		count := 0
		bench.Follow(t.Context(), 0, 30_000, 10*time.Second, math.MaxInt64, func(_ int64, intended time.Duration) {
			count++
			last = intended
		})
		if count != 300_000 || last < 9999*time.Millisecond {
			t.Errorf("%d records, the last at %s", count, last)
		}
	})
}

func TestScheduleIsBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		count := 0
		bench.Follow(t.Context(), 0, 10, time.Hour, 7, func(int64, time.Duration) { count++ })
		if count != 7 {
			t.Errorf("%d records, want 7", count)
		}
		ctx, cancel := context.WithCancel(t.Context())
		count = 0
		bench.Follow(ctx, 0, 10, time.Hour, math.MaxInt64, func(i int64, _ time.Duration) {
			count++
			if i == 2 {
				cancel()
			}
		})
		if count != 3 {
			t.Errorf("%d records after the context ended, want 3", count)
		}
	})
}

func TestLatencySummary(t *testing.T) {
	var all []time.Duration
	for i := range 10_000 {
		all = append(all, time.Duration(i+1)*100*time.Microsecond)
	}
	got := bench.Summarise(all...)
	near := func(name string, got, want float64) {
		if math.Abs(got-want) > want/500 { // three significant digits
			t.Errorf("%s %.3f, want %.3f", name, got, want)
		}
	}
	near("mean", got.Mean, 500.05)
	near("p50", got.P50, 500)
	near("p90", got.P90, 900)
	near("p99", got.P99, 990)
	near("p99.9", got.P999, 999)
	near("max", got.Max, 1000)
	if got.Count != 10_000 {
		t.Errorf("count %d", got.Count)
	}
	if got := bench.Summarise(); got != (bench.Latency{}) {
		t.Errorf("empty: %+v", got)
	}
	// What does not fit counts at the edge instead of vanishing.
	if got := bench.Summarise(-time.Second, 0, 100*time.Hour); got.Count != 3 || got.Max < 3.5e6 {
		t.Errorf("edges: %+v", got)
	}
}

func TestParseRate(t *testing.T) {
	good := map[string]bench.Rate{
		"2000": {Records: 2000}, "2000/s": {Records: 2000}, "0.5/s": {Records: 0.5}, "1e3/s": {Records: 1000},
		"10MB/s": {Bytes: 10e6}, "10MB": {Bytes: 10e6}, "1.5KiB/s": {Bytes: 1536}, "7B/s": {Bytes: 7}, "2GiB/s": {Bytes: 2 << 30},
	}
	for in, want := range good {
		if got, err := bench.ParseRate(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "/s", "0", "-1", "MB/s", "10mb/s", "10M/s", "10 MB/s", "x", "Inf", "NaN", "10MB/m", "1KB/s/s"} {
		if got, err := bench.ParseRate(in); !errors.Is(err, client.ErrUsage) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func TestPayloads(t *testing.T) {
	for _, kind := range strings.Split(bench.Payloads, "|") {
		values, intendedOf := bench.Values(kind, 1000, 500)
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		for i, v := range values {
			if len(v) != 1000 {
				t.Fatalf("%s: value of %d bytes", kind, len(v))
			}
			if at, err := intendedOf(v); err != nil || at != time.Duration(i)*time.Second {
				t.Fatalf("%s: intended %s, %v", kind, at, err)
			}
			if _, err := z.Write(v); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		ratio := float64(packed.Len()) / (1000 * 500)
		if (kind == "random" && ratio < 0.95) || (kind == "json" && ratio > 0.35) {
			t.Errorf("%s compresses to %.2f", kind, ratio)
		}
		values[0][5] ^= 1
		if _, err := intendedOf(values[0]); err == nil {
			t.Errorf("%s: value of another run accepted", kind)
		}
		if _, err := intendedOf([]byte("fbn1")); err == nil {
			t.Errorf("%s: short value accepted", kind)
		}
	}
}

func newCluster(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func small(c *kfake.Cluster) bench.Config {
	cfg := bench.DefaultConfig()
	cfg.Brokers = c.ListenAddrs()
	cfg.Partitions = 3
	cfg.Warmup = 100 * time.Millisecond
	cfg.Duration = 300 * time.Millisecond
	cfg.Rate = bench.Rate{Records: 1000}
	cfg.Producers = 2
	cfg.RecordBytes = 100
	return cfg
}

func topics(t *testing.T, c *kfake.Cluster) []string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	list, err := kadm.NewClient(cl).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list.Names()
}

// problem is a run's, but for records that were all acknowledged too late to be measured: that is the machine's fault.
func problem(r bench.Result) string {
	if p := r.Problem(); !strings.HasSuffix(p, ": nothing was measured") {
		return p
	}
	return ""
}

func TestOpenLoop(t *testing.T) {
	c := newCluster(t)
	cfg := small(c)
	cfg.Keys = 10
	r, err := bench.Run(t.Context(), cfg)
	if err != nil || problem(r) != "" {
		t.Fatalf("%v, %s", err, r.Problem())
	}
	var names []string
	for _, p := range r.Phases {
		names = append(names, p.Name)
	}
	if !slices.Equal(names, []string{"produce", "e2e", "replay"}) {
		t.Fatalf("phases %v", names)
	}
	// The schedule alone decides how many records there are, however slow the machine.
	for _, p := range r.Phases[:2] {
		if p.Sent != 400 || p.Ack.Count != 300 || p.Lag.Count != 300 || p.Errors != 0 {
			t.Errorf("%s: %+v", p.Name, p)
		}
	}
	if e2e := r.Phases[1]; e2e.E2E.Count != 300 || e2e.Missing != 0 || e2e.E2E.Max <= 0 {
		t.Errorf("e2e: %+v", e2e)
	}
	if replay := r.Phases[2]; replay.Records != 800 || replay.Bytes != 800*108 || replay.MBPS <= 0 {
		t.Errorf("replay: %+v", replay)
	}
	if r.Kept || len(topics(t, c)) != 0 {
		t.Errorf("topics %v left behind", topics(t, c))
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"open loop, 1000/s", "produce", "e2e", "replay", "p99.9"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if line, err := json.Marshal(r); err != nil || bytes.ContainsRune(line, '\n') {
		t.Errorf("%s, %v", line, err)
	}
}

func TestClosedLoop(t *testing.T) {
	for _, acks := range []string{"all", "1"} {
		cfg := small(newCluster(t))
		cfg.Mode = "produce"
		cfg.Max = true
		cfg.InFlightBytes = 10_000
		cfg.RecordsMax = 2000
		cfg.Acks = acks
		cfg.Warmup = 0
		cfg.Duration = time.Minute // the records end it
		r, err := bench.Run(t.Context(), cfg)
		if err != nil || r.Problem() != "" || r.Loop != "closed" {
			t.Fatalf("acks %s: %v, %s", acks, err, r.Problem())
		}
		if p := r.Phases[0]; p.Sent == 0 || p.Sent > 2000 {
			t.Errorf("acks %s: %+v", acks, p)
		}
	}
}

func TestReplayFillsATopicOfItsOwn(t *testing.T) {
	cfg := small(newCluster(t))
	cfg.Mode = "replay"
	r, err := bench.Run(t.Context(), cfg)
	if err != nil || len(r.Phases) != 1 || r.Phases[0].Records != 400 {
		t.Fatalf("%v, %+v", err, r.Phases)
	}
}

func TestExistingTopicIsKept(t *testing.T) {
	c := newCluster(t)
	if err := c.CreateTopic("mine", 2, nil); err != nil {
		t.Fatal(err)
	}
	cfg := small(c)
	cfg.Topic = "mine"
	cfg.Mode = "e2e"
	for range 2 { // the second run must not count the records of the first
		r, err := bench.Run(t.Context(), cfg)
		if err != nil || problem(r) != "" || r.Partitions != 2 || !r.Kept || r.Phases[0].E2E.Count != 300 {
			t.Fatalf("%v, %s, %+v", err, r.Problem(), r)
		}
	}
	if got := topics(t, c); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("topics %v", got)
	}
	cfg.Topic = "missing"
	if _, err := bench.Run(t.Context(), cfg); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("missing topic: %v", err)
	}
}

func TestCommit(t *testing.T) {
	c := newCluster(t)
	cfg := small(c)
	cfg.Mode, cfg.Pairs, cfg.Committers, cfg.CommitRate = "commit", 2, 3, 300
	r, err := bench.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range r.Phases {
		names = append(names, p.Name)
		if p.Errors != 0 || p.Ack.Count != 300 {
			t.Errorf("%+v", p)
		}
	}
	if !slices.Equal(names, []string{"quiet", "committing", "committing", "quiet"}) {
		t.Errorf("phases %v", names)
	}
	if got := r.Commits; got == nil || got.Pairs != 2 || got.Groups != 3 || got.AckP50 <= 0 || got.AckP99 <= 0 || got.PerSecond <= 0 || got.Latency.Count == 0 {
		t.Errorf("%+v", got)
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "committing ÷ quiet, median of 2 pairs") {
		t.Errorf("%v\n%s", err, text.String())
	}
	cfg.Pairs, cfg.Committers, cfg.CommitRate = 0, 0, 0
	for _, flag := range []string{"--pairs", "--committers", "--commit-rate"} {
		if err := cfg.Validate(); !strings.Contains(fmt.Sprint(err), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestContend(t *testing.T) {
	c := newCluster(t)
	cfg := small(c)
	cfg.Mode, cfg.FillBytes, cfg.Pairs, cfg.Replayers = "contend", 100_000, 2, 2
	r, err := bench.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range r.Phases {
		names = append(names, p.Name)
		if p.Errors != 0 || p.Missing != 0 || p.Ack.Count != 300 || p.E2E.Count != 300 || (p.ReplayMBPS > 0) != (p.Name == "replayed") {
			t.Errorf("%+v", p)
		}
	}
	if !slices.Equal(names, []string{"quiet", "replayed", "replayed", "quiet"}) {
		t.Errorf("phases %v", names)
	}
	if got := r.Contention; got == nil || got.Pairs != 2 || got.AckP50 <= 0 || got.AckP99 <= 0 || got.E2EP50 <= 0 || got.E2EP99 <= 0 || got.ReplayMBPS <= 0 {
		t.Errorf("%+v", got)
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "replayed ÷ quiet, median of 2 pairs") {
		t.Errorf("%v\n%s", err, text.String())
	}
	cfg.Pairs, cfg.Replayers, cfg.FillBytes = 0, 0, 0
	for _, flag := range []string{"--pairs", "--replayers", "--fill-bytes"} {
		if err := cfg.Validate(); !strings.Contains(fmt.Sprint(err), flag) {
			t.Errorf("%s is not named in %v", flag, err)
		}
	}
}

func TestErrorsAreCounted(t *testing.T) {
	c := newCluster(t)
	faults := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: 1})
	cfg := small(c)
	cfg.Mode = "produce"
	r, err := bench.Run(t.Context(), cfg)
	if err != nil || faults.Hits() != 1 || r.Phases[0].Errors == 0 || !strings.Contains(r.Problem(), "INVALID_RECORD") {
		t.Fatalf("%v, %d hits, %q, %+v", err, faults.Hits(), r.Problem(), r.Phases)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	good := bench.DefaultConfig()
	good.Brokers = []string{"a:1"}
	if err := good.Validate(); err != nil {
		t.Fatalf("defaults: %v", err)
	}
	err := bench.Config{Mode: "e2e", Acks: "0", Warmup: -1, Linger: -1, Keys: -1}.Validate()
	if !errors.Is(err, client.ErrUsage) {
		t.Fatalf("error %v is not a usage error", err)
	}
	for _, flag := range []string{
		"--brokers", "--codec", "--acks", "--payload", "--warmup", "--duration", "--replay-timeout", "--partitions",
		"--replication-factor", "--record-size", "--producers", "--keys", "--batch-bytes", "--linger", "--in-flight", "--records-max", "--rate",
	} {
		if !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not named in:\n%v", flag, err)
		}
	}
}

package verify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/cmd/firn/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const brokers = 3

// newCluster starts brokers that serve fetches of every partition from anywhere, as firn's agents do.
func newCluster(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	nodes := make([]int32, brokers)
	for i := range nodes {
		nodes[i] = int32(i)
	}
	var sharing sync.WaitGroup
	t.Cleanup(sharing.Wait)
	var shared atomic.Bool
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		var topics []string
		for _, topic := range req.(*kmsg.MetadataRequest).Topics {
			if topic.Topic != nil {
				topics = append(topics, *topic.Topic)
			}
		}
		if len(topics) > 0 && shared.CompareAndSwap(false, true) {
			sharing.Go(func() { // not here: the cluster runs this function and would wait for itself
				for _, topic := range topics {
					for p := range int32(16) {
						c.SetFollowers(topic, p, nodes)
					}
				}
			})
		}
		return nil, nil, false
	})
	return c
}

func small(c *kfake.Cluster) verify.Config {
	cfg := verify.DefaultConfig()
	cfg.Brokers = c.ListenAddrs()
	cfg.Duration = time.Second
	cfg.DrainTimeout = 2 * time.Minute
	cfg.Rate = 2000
	cfg.Seed = 7
	cfg.Version = "test"
	return cfg
}

func TestCleanRun(t *testing.T) {
	for _, idempotent := range []bool{true, false} {
		c := newCluster(t)
		cfg := small(c)
		cfg.Idempotent = idempotent
		cfg.Codec = "zstd"
		s, err := verify.Run(t.Context(), cfg)
		if err != nil || !s.OK {
			t.Fatalf("idempotent %t: %v, verdict %q, findings %v", idempotent, err, s.Verdict, s.Findings)
		}
		if s.Ops.Sent == 0 || s.Ops.Acked != s.Ops.Sent || s.OffsetsRead != s.Ops.Acked {
			t.Errorf("idempotent %t: ops %+v, %d offsets read", idempotent, s.Ops, s.OffsetsRead)
		}
		if s.Sometimes.BrokersFetched < brokers || s.Sometimes.BrokerSwitches == 0 || s.Sometimes.Reread == 0 || s.Sometimes.EndsListed == 0 || s.Sometimes.TailReads == 0 {
			t.Errorf("idempotent %t: the run did not roam: %+v", idempotent, s.Sometimes)
		}
		if len(s.Kept) != 0 {
			t.Errorf("topics %v left behind", s.Kept)
		}
		if s.Sometimes.ConnectionsLost != 0 {
			t.Errorf("%d connections lost where none was cut", s.Sometimes.ConnectionsLost)
		}
	}
}

// Brokers that serve only what they lead, as Apache Kafka with one replica.
func TestLeadersOnly(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := verify.Run(t.Context(), small(c))
	if err != nil || !s.OK || s.Sometimes.NotServed == 0 {
		t.Fatalf("%v, verdict %q, findings %v, %+v", err, s.Verdict, s.Findings, s.Sometimes)
	}
}

// Answers that time out after the work was done, and connections cut before it.
func TestRunThroughFaults(t *testing.T) {
	for _, idempotent := range []bool{true, false} {
		c := newCluster(t)
		stored := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: 20})
		var produces, fetches atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		enough := func() {
			if produces.Load() >= 60 && fetches.Load() >= 20 { // every fault was met, however slow the machine
				cancel()
			}
		}
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			defer enough()
			if produces.Add(1)%20 == 9 {
				c.KeepControl()
				return nil, errors.New("connection cut"), true
			}
			return nil, nil, false
		})
		c.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
			defer enough()
			if fetches.Add(1)%7 == 3 {
				c.KeepControl()
				return nil, errors.New("connection cut"), true
			}
			return nil, nil, false
		})
		cfg := small(c)
		cfg.Idempotent, cfg.Duration = idempotent, time.Hour
		s, err := verify.Run(ctx, cfg)
		if err != nil || !s.OK {
			t.Fatalf("idempotent %t: %v, verdict %q, findings %v", idempotent, err, s.Verdict, s.Findings)
		}
		if stored.Hits() == 0 || s.Sometimes.ConnectionsLost == 0 || s.Sometimes.FetchErrors == 0 {
			t.Errorf("idempotent %t: no fault was met: %d timeouts, %+v", idempotent, stored.Hits(), s.Sometimes)
		}
		if !idempotent && (s.Ops.Retried == 0 || s.OffsetsRead <= s.Ops.Acked) {
			t.Errorf("plain producers stored no duplicate on retry: %+v, %d offsets", s.Ops, s.OffsetsRead)
		}
	}
}

// All brokers go away under load and come back on their ports with their data, as after a power cut.
func TestRunThroughRestart(t *testing.T) {
	dir := t.TempDir()
	start := func(ports ...int) *kfake.Cluster {
		c, err := kfake.NewCluster(kfake.NumBrokers(brokers), kfake.DataDir(dir), kfake.SyncWrites(), kfake.Ports(ports...))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := start(0, 0, 0)
	produced := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	cfg := small(c)
	cfg.Duration = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ports []int
	for _, address := range c.ListenAddrs() {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, int(ap.Port()))
	}
	type outcome struct {
		verify.Summary
		error
	}
	done := make(chan outcome)
	go func() {
		s, err := verify.Run(ctx, cfg)
		done <- outcome{s, err}
	}()
	if err := produced.Wait(t.Context(), 30); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c = start(ports...)
	defer c.Close()
	produced = c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	if err := produced.Wait(t.Context(), 30); err != nil {
		t.Fatal(err)
	}
	cancel()
	got := <-done
	if got.error != nil || !got.OK || got.Sometimes.ConnectionsLost == 0 || produced.Hits() == 0 {
		t.Fatalf("%v, verdict %q, findings %v, %+v, %d produces after the restart", got.error, got.Verdict, got.Findings, got.Sometimes, produced.Hits())
	}
}

// A record refused for good is counted as such, and is not looked for.
func TestRefusedRecords(t *testing.T) {
	c := newCluster(t)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: 1})
	s, err := verify.Run(t.Context(), small(c))
	if err != nil || !s.OK || s.Ops.Failed == 0 {
		t.Fatalf("%v, verdict %q, %+v", err, s.Verdict, s.Ops)
	}
}

func TestEveryPlantFailsTheRun(t *testing.T) {
	for _, name := range verify.PlantNames() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			// Some are only seen where ends were listed more than once after records came, however long that takes.
			var produces, listings atomic.Int64
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				produces.Add(1)
				return nil, nil, false
			})
			c.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				if produces.Load() >= 40 && listings.Add(1) == 4 {
					cancel()
				}
				return nil, nil, false
			})
			cfg := small(c)
			cfg.Plant, cfg.Duration = name, time.Hour
			s, err := verify.Run(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if s.OK || s.Verdict == "" || len(s.Kept) == 0 {
				t.Errorf("the plant went unseen: verdict %q, kept %v", s.Verdict, s.Kept)
			}
		})
	}
}

// A broker that cannot be reached is an error, not a verdict.
func TestUnreachable(t *testing.T) {
	cfg := verify.DefaultConfig()
	cfg.Brokers = []string{"127.0.0.1:1"}
	cfg.DrainTimeout = 100 * time.Millisecond
	if _, err := verify.Run(t.Context(), cfg); err == nil {
		t.Error("no error")
	}
}

// A signal ends the producing early; what was sent is still judged.
func TestEndedEarly(t *testing.T) {
	c := newCluster(t)
	cfg := small(c)
	cfg.Duration = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var produced atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		if produced.Add(1) == 20 {
			cancel()
		}
		return nil, nil, false
	})
	s, err := verify.Run(ctx, cfg)
	if err != nil || !s.OK || s.Ops.Acked == 0 {
		t.Fatalf("%v, verdict %q, %+v", err, s.Verdict, s.Ops)
	}
}

func TestRecordsMaxEndsTheRun(t *testing.T) {
	cfg := small(newCluster(t))
	cfg.Duration = time.Hour
	cfg.Rate = 0
	cfg.RecordsMax = 3000
	s, err := verify.Run(t.Context(), cfg)
	if err != nil || !s.OK || s.Ops.Sent != 3000 {
		t.Fatalf("%v, verdict %q, %+v", err, s.Verdict, s.Ops)
	}
}

func TestSummaryIsOneLineWithEveryField(t *testing.T) {
	line, err := json.Marshal(verify.Summary{})
	if err != nil || bytes.ContainsRune(line, '\n') {
		t.Fatalf("%s, %v", line, err)
	}
	var fields map[string]any
	if err := json.Unmarshal(line, &fields); err != nil {
		t.Fatal(err)
	}
	for _, required := range []string{
		"test", "seed", "commit", "clients", "duration_s", "ops", "records_read", "partitions", "acked_lost", "duplicates",
		"reorderings", "inconsistent_offsets", "offset_regressions", "unseen", "stuck", "sometimes", "invented", "gaps",
		"watermark_regressions", "wrong_acks", "failed_reads", "refused_fetches", "ok", "verdict",
	} {
		if _, ok := fields[required]; !ok {
			t.Errorf("no field %q in %s", required, line)
		}
	}
	var text strings.Builder
	if err := (verify.Summary{Verdict: "acked_lost=1"}).WriteText(&text); err != nil || !strings.Contains(text.String(), "FAILED: acked_lost=1") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	if err := func() error { c := verify.DefaultConfig(); c.Brokers = []string{"a:1"}; return c.Validate() }(); err != nil {
		t.Fatalf("defaults: %v", err)
	}
	err := verify.Config{Codec: "x", Plant: "x"}.Validate()
	if !errors.Is(err, client.ErrUsage) {
		t.Fatalf("error %v is not a usage error", err)
	}
	for _, flag := range []string{
		"--brokers", "--codec", "--duration", "--drain-timeout", "--topics", "--partitions", "--producers", "--consumers",
		"--keys", "--record-size", "--in-flight", "--records-max", "--plant", "--replication-factor",
	} {
		if !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(line string) bool { return strings.Contains(line, flag+":") }) {
			t.Errorf("%s is not named in:\n%v", flag, err)
		}
	}
}

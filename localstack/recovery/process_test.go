//go:build interop

package recovery_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/localstack"
	"github.com/firnlog/firn/metastore"
)

// source lists every Go file of the standard library and the toolchain.
func source(t *testing.T) (files []string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(strings.TrimSpace(string(out)), "src")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(path) == ".go" {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) < 1000 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	return files
}

// sending is producers that send every file once, as a record with its path for a key, whatever happens meanwhile.
type sending struct {
	wg    sync.WaitGroup
	count atomic.Int64

	mu   sync.Mutex // guards the rest
	at   map[string]acked
	sums map[string][32]byte
	line map[string][2]int // producer and place in its order
}

func send(t *testing.T, brokers string, files []string) *sending {
	t.Helper()
	const producers = 3
	s := &sending{at: make(map[string]acked), sums: make(map[string][32]byte), line: make(map[string][2]int)}
	for id := range producers {
		cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.AlwaysRetryEOF(), kgo.DefaultProduceTopic("source"),
			kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.RecordRetries(math.MaxInt), kgo.ProducerBatchMaxBytes(8<<20),
			kgo.MaxBufferedRecords(100), kgo.MetadataMinAge(100*time.Millisecond), kgo.ProduceRequestTimeout(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		s.wg.Go(func() {
			defer cl.Close()
			for i := id; i < len(files); i += producers {
				path := files[i]
				body, err := os.ReadFile(path)
				if err != nil {
					t.Error(err)
					return
				}
				s.mu.Lock()
				s.sums[path], s.line[path] = sha256.Sum256(body), [2]int{id, i}
				s.mu.Unlock()
				cl.Produce(context.Background(), &kgo.Record{Key: []byte(path), Value: body}, func(r *kgo.Record, err error) {
					if err != nil {
						t.Errorf("%s: %v", path, err)
						return
					}
					s.mu.Lock()
					s.at[path] = acked{r.Partition, r.Offset}
					s.mu.Unlock()
					s.count.Add(1)
				})
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			if err := cl.Flush(ctx); err != nil {
				t.Errorf("producer %d cannot finish: %v", id, err)
			}
		})
	}
	return s
}

// TestLosingEtcdAsProcesses kills etcd and every agent with kill -9 in the middle of the whole Go source, takes etcd's data
// away, restores from the bucket alone, with restores that are themselves killed, and goes on.
func TestLosingEtcdAsProcesses(t *testing.T) {
	firn := os.Getenv("FIRN_BIN")
	if firn == "" {
		firn = filepath.Join("..", "..", "bin", "firn")
	}
	firn, err := filepath.Abs(firn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	s, err := localstack.Start(ctx, localstack.Options{Dir: t.TempDir(), Firn: firn, Agents: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	run := func(args ...string) (string, error) {
		var out, errs bytes.Buffer
		cmd := exec.CommandContext(ctx, firn, args...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		if err != nil {
			err = fmt.Errorf("firn %s: %w\n%s%s", strings.Join(args, " "), err, &out, &errs)
		}
		return out.String(), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	restore := func(more ...string) (metastore.RestoreReport, error) {
		out, err := run(append([]string{"metastore", "restore", "--etcd", s.EtcdAddr, "--bucket", s.Bucket, "-o", "json"}, more...)...)
		var r metastore.RestoreReport
		if err == nil {
			err = json.Unmarshal([]byte(out), &r)
		}
		return r, err
	}

	files := source(t)
	must("topic", "create", "source", "--partitions", "12", "--config", "max.message.bytes=8388608", "--brokers", s.Brokers())
	must("metastore", "snapshot", "--etcd", s.EtcdAddr, "--bucket", s.Bucket)
	sent := send(t, s.Brokers(), files)
	archived := false
	for i := 0; sent.count.Load() < int64(len(files)/2) && ctx.Err() == nil; i++ {
		must("topic", "create", fmt.Sprint("meanwhile-", i), "--partitions", "1", "--brokers", s.Brokers())
		if !archived && sent.count.Load() > int64(len(files)/4) {
			must("metastore", "snapshot", "--etcd", s.EtcdAddr, "--bucket", s.Bucket)
			archived = true
		}
	}
	killed := time.Now()
	if err := s.Etcd.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, a := range s.Agents {
		if err := a.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	before := sent.count.Load()
	if err := os.RemoveAll(s.EtcdDir); err != nil {
		t.Fatal(err)
	}
	if err := s.Etcd.Start(); err != nil {
		t.Fatal(err)
	}
	// An agent that is started too early says what is to be done, and leaves the new etcd as it is.
	if err := s.Agents[0].Start(); err != nil {
		t.Fatal(err)
	}
	for s.Agents[0].Running() && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	if s.Agents[0].Err() == nil {
		t.Fatal("an agent serves an etcd that lost its data")
	}
	if _, err := restore(); err == nil || !strings.Contains(err.Error(), "--etcd-is-lost") {
		t.Fatalf("without a word on the old etcd: %v", err)
	}
	dry, err := restore("--dry-run")
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 6 {
		cmd := exec.CommandContext(ctx, firn, "metastore", "restore", "--etcd", s.EtcdAddr, "--bucket", s.Bucket, "--etcd-is-lost")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(120 * time.Millisecond))))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	began := time.Now()
	r, err := restore("--etcd-is-lost")
	complete := err != nil && strings.Contains(err.Error(), "nothing to restore") // one was faster than its killer
	if err != nil && !complete {
		t.Fatal(err)
	}
	restored := time.Now()
	for _, a := range s.Agents {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range s.Agents {
		if err := a.AwaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	ready := time.Now()
	for sent.count.Load() <= before && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%d of %d files acknowledged when etcd was killed; %d segments, %d records to append again, %d there already, %d refused",
		before, len(files), dry.Segments, dry.Records.Appended, dry.Records.Duplicate, dry.Records.Refused)
	t.Logf("restore %.3f s, agents ready after %.3f s more, next acknowledgement after %.3f s more; %.1f s after the kill", restored.Sub(began).Seconds(),
		ready.Sub(restored).Seconds(), time.Since(ready).Seconds(), time.Since(killed).Seconds())
	if !complete {
		t.Logf("resumed %v: steps %+v, %d entries of %d archive objects", r.Resumed, r.Steps, r.Entries, r.Ranges)
		if r.Batches.Refused != 0 || len(r.Damage) > 0 || r.Epoch != 2 {
			t.Errorf("%+v", r)
		}
	}
	sent.wg.Wait()
	judgeFiles(ctx, t, s.Brokers(), sent, len(files))
	must("metastore", "verify", "--etcd", s.EtcdAddr, "--bucket", s.Bucket)
}

// judgeFiles reads everything back: each file once, byte for byte, each producer's in order, and what was archived where
// it was acknowledged.
func judgeFiles(ctx context.Context, t *testing.T, brokers string, sent *sending, files int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.AlwaysRetryEOF(), kgo.ConsumeTopics("source"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	listed, err := kadm.NewClient(cl).ListEndOffsets(ctx, "source")
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[int32]int64)
	listed.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	now := make(map[string]acked)
	last := make(map[[2]int]int)
	epochs := make(map[int32]int64) // records of leader epoch 0, by partition: the archived ones
	for len(left) > 0 && ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		fetches.EachError(func(topic string, p int32, err error) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s %d: %v", topic, p, err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) {
			path := string(r.Key)
			if at, twice := now[path]; twice {
				t.Errorf("%s is at %+v and at partition %d offset %d", path, at, r.Partition, r.Offset)
			}
			now[path] = acked{r.Partition, r.Offset}
			if sha256.Sum256(r.Value) != sent.sums[path] {
				t.Errorf("%s comes back with other bytes", path)
			}
			line := sent.line[path]
			key := [2]int{line[0], int(r.Partition)}
			if before, ok := last[key]; ok && before >= line[1] {
				t.Errorf("%s comes after file %d of its producer", path, before)
			}
			last[key] = line[1]
			if r.LeaderEpoch == 0 {
				epochs[r.Partition] = r.Offset + 1
			}
			if r.Offset+1 == left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	moved, archived := 0, 0
	for path, at := range sent.at {
		got, ok := now[path]
		switch {
		case !ok:
			t.Errorf("%s was acknowledged at %+v and is lost", path, at)
		case got == at:
		case at.offset < epochs[at.partition]:
			t.Errorf("%s was archived at %+v and is at %+v", path, at, got)
		default:
			moved++
		}
	}
	for _, n := range epochs {
		archived += int(n)
	}
	if len(now) != files || len(sent.at) != files {
		t.Errorf("%d files read, %d acknowledged, %d sent", len(now), len(sent.at), files)
	}
	t.Logf("%d records archived before the loss, %d acknowledged ones have another offset", archived, moved)
}

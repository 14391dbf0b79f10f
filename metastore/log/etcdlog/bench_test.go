package etcdlog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
)

// BenchmarkCommitToWatch measures what an agent waits for: from Commit until its own watch brings the entry. Each committer
// has a Log and a watch of its own, as agents do, and one commit in flight. Entries are of 2 KiB; the server syncs to disk.
func BenchmarkCommitToWatch(b *testing.B) {
	s, err := etcdembed.Start(b.Context(), etcdembed.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	for name, o := range map[string]etcdlog.Options{
		"grpc":       {Endpoints: s.Endpoints()},
		"in-process": {Client: s.Client},
	} {
		for _, committers := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/committers=%d", name, committers), func(b *testing.B) {
				o.Prefix = fmt.Sprintf("/bench/%d", shared.prefixes.Add(1))
				commitToWatch(b, o, committers)
			})
		}
	}
}

func commitToWatch(b *testing.B, o etcdlog.Options, committers int) {
	ctx, cancel := context.WithCancel(b.Context())
	agents := make([]*agent, committers)
	applied := make([]chan struct{}, committers)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	for i := range agents {
		agents[i] = join(b, open(b, o), byte(i+1))
		applied[i] = make(chan struct{}, 1)
		_, cursor := readAll(b, agents[i].Log, 0)
		mine := agents[i].key.Incarnation
		watching.Go(func() {
			err := agents[i].Watch(ctx, cursor, func(entries []log.Entry) error {
				for _, e := range entries {
					if e.Key.Incarnation == mine {
						applied[i] <- struct{}{}
					}
				}
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				b.Error(err)
			}
		})
	}
	took := make([][]time.Duration, committers)
	value := make([]byte, 2<<10)
	b.ResetTimer()
	begin := time.Now()
	var committing sync.WaitGroup
	for i, a := range agents {
		share := b.N / committers
		if i < b.N%committers {
			share++
		}
		committing.Go(func() {
			for range share {
				start := time.Now()
				if got, err := a.commit(ctx, value); err != nil || got != log.Committed {
					b.Errorf("outcome %d, %v", got, err)
					return
				}
				<-applied[i]
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	committing.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Microseconds()) }
	b.ReportMetric(at(.5), "p50-µs")
	b.ReportMetric(at(.99), "p99-µs")
	b.ReportMetric(float64(len(all))/time.Since(begin).Seconds(), "commits/s")
	b.ReportMetric(0, "ns/op")
}

package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Contention compares latencies while the topic's start is replayed with those while it is not. Each figure is the median over
// the pairs of the ratio within a pair, so that what else the machine does cancels out.
type Contention struct {
	Pairs      int     `json:"pairs"`
	AckP50     float64 `json:"ack_p50_ratio"`
	AckP99     float64 `json:"ack_p99_ratio"`
	E2EP50     float64 `json:"e2e_p50_ratio"`
	E2EP99     float64 `json:"e2e_p99_ratio"`
	ReplayMBPS float64 `json:"replay_mb_per_s"` // median
}

// Phases of a pair.
const (
	phaseQuiet    = "quiet"
	phaseReplayed = "replayed"
)

// contend fills the topic and then measures in pairs: producers and a tail reader alone, and the same while others replay what
// the topic was filled with. The order within a pair alternates.
func contend(ctx context.Context, cfg Config, l *load, brokers []string, adm *kadm.Client, result *Result) error {
	filling := cfg
	filling.Max, filling.Warmup, filling.Duration = true, 0, cfg.ReplayTimeout
	filling.RecordsMax = max(int(cfg.FillBytes)/cfg.recordSize(), cfg.Producers)
	cfg.logger().Info("fill", "topic", result.Topic, "bytes", cfg.FillBytes)
	p, err := newLoad(filling, result.Topic, l.payload).alone(ctx, "fill")
	if err != nil {
		return err
	}
	if p.Errors > 0 {
		return fmt.Errorf("fill topic %q: %d records were not acknowledged, first: %s", result.Topic, p.Errors, p.FirstError)
	}
	if p.Sent < int64(filling.RecordsMax/filling.Producers*filling.Producers) {
		return fmt.Errorf("fill topic %q: only %d records within %s", result.Topic, p.Sent, cfg.ReplayTimeout)
	}
	ends, err := listEnds(ctx, adm, result.Topic)
	if err != nil {
		return err
	}
	var ratios [4][]float64
	var rates []float64
	for i := range cfg.Pairs {
		var quiet, replayed Phase
		for k := range 2 {
			if (i+k)%2 == 0 {
				quiet, err = measured(ctx, l, phaseQuiet, brokers, adm, nil)
				result.Phases = append(result.Phases, quiet)
			} else {
				replayed, err = measured(ctx, l, phaseReplayed, brokers, adm, ends)
				result.Phases = append(result.Phases, replayed)
			}
			if err != nil {
				return err
			}
		}
		for k, pair := range [][2]float64{
			{replayed.Ack.P50, quiet.Ack.P50}, {replayed.Ack.P99, quiet.Ack.P99}, {replayed.E2E.P50, quiet.E2E.P50}, {replayed.E2E.P99, quiet.E2E.P99},
		} {
			if pair[1] > 0 {
				ratios[k] = append(ratios[k], pair[0]/pair[1])
			}
		}
		rates = append(rates, replayed.ReplayMBPS)
	}
	result.Contention = &Contention{
		Pairs: cfg.Pairs, AckP50: median(ratios[0]), AckP99: median(ratios[1]), E2EP50: median(ratios[2]), E2EP99: median(ratios[3]),
		ReplayMBPS: median(rates),
	}
	return nil
}

// median is the lower one of an even number, 0 of none.
func median(of []float64) float64 {
	if len(of) == 0 {
		return 0
	}
	of = slices.Sorted(slices.Values(of))
	return of[(len(of)-1)/2]
}

// measured runs producers and a tail reader, and with ends also replayers of what lies below them.
func measured(ctx context.Context, l *load, name string, brokers []string, adm *kadm.Client, ends kadm.ListedOffsets) (Phase, error) {
	l.cfg.logger().Info(name, "seconds", l.end().Seconds())
	replaying, stop := context.WithCancel(ctx)
	defer stop()
	var read atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, l.cfg.Replayers)
	if ends != nil {
		for range l.cfg.Replayers {
			wg.Go(func() { errs <- replayAgain(replaying, l, brokers, ends, &read) })
		}
	}
	start := time.Now()
	p, err := endToEnd(ctx, l, brokers, adm)
	p.Name = name
	p.ReplayMBPS = float64(read.Load()) / 1e6 / time.Since(start).Seconds()
	stop()
	wg.Wait()
	close(errs)
	for replayErr := range errs {
		if err == nil {
			err = replayErr
		}
	}
	return p, err
}

// replayAgain reads what lies below ends, from the start, over and over, and counts the bytes, until ctx ends.
func replayAgain(ctx context.Context, l *load, brokers []string, ends kadm.ListedOffsets, read *atomic.Int64) error {
	for ctx.Err() == nil {
		at := map[int32]kgo.Offset{}
		left := map[int32]int64{}
		ends.Each(func(o kadm.ListedOffset) {
			if o.Offset > 0 {
				at[o.Partition], left[o.Partition] = kgo.NewOffset().AtStart(), o.Offset
			}
		})
		cl, err := kgo.NewClient(consumerOptions(brokers, l.cfg.Security, map[string]map[int32]kgo.Offset{l.topic: at})...)
		if err != nil {
			return fmt.Errorf("open a replaying consumer: %w", err)
		}
		for len(left) > 0 && ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				end, reading := left[r.Partition]
				if !reading {
					return
				}
				read.Add(int64(len(r.Key) + len(r.Value)))
				if r.Offset+1 >= end {
					delete(left, r.Partition)
					cl.PauseFetchPartitions(map[string][]int32{l.topic: {r.Partition}})
				}
			})
		}
		cl.Close()
	}
	return nil
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
)

// Commits compares the latency of producers while groups commit offsets with that while they do not. Ratios are the medians of
// the ratios within the pairs.
type Commits struct {
	Pairs  int     `json:"pairs"`
	Groups int     `json:"groups"`
	AckP50 float64 `json:"ack_p50_ratio"`
	AckP99 float64 `json:"ack_p99_ratio"`
	// PerSecond is what was acknowledged, median over the pairs; Latency is of all of them.
	PerSecond float64 `json:"commits_per_s"`
	Latency   Latency `json:"commit_ms"`
}

// phaseCommitting is the phase of a pair in which offsets are committed.
const phaseCommitting = "committing"

// committing measures in pairs: producers alone, and the same while groups commit offsets. The order within a pair alternates.
func committing(ctx context.Context, cfg Config, l *load, brokers []string, adm *kadm.Client, result *Result) error {
	groups, err := openCommitters(ctx, cfg, brokers, adm, result)
	defer func() {
		for _, g := range groups {
			g.client.Close()
		}
	}()
	if err != nil {
		return err
	}
	all := newHistogram()
	var ratios [2][]float64
	var rates []float64
	for i := range cfg.Pairs {
		var quiet, busy Phase
		for k := range 2 {
			if (i+k)%2 == 0 {
				cfg.logger().Info(phaseQuiet, "seconds", l.end().Seconds())
				quiet, err = l.alone(ctx, phaseQuiet)
				result.Phases = append(result.Phases, quiet)
			} else {
				cfg.logger().Info(phaseCommitting, "seconds", l.end().Seconds(), "groups", len(groups), "rate", cfg.CommitRate)
				var rate float64
				busy, rate, err = whileCommitting(ctx, cfg, l, groups, all)
				rates = append(rates, rate)
				result.Phases = append(result.Phases, busy)
			}
			if err != nil {
				return err
			}
		}
		for k, pair := range [][2]float64{{busy.Ack.P50, quiet.Ack.P50}, {busy.Ack.P99, quiet.Ack.P99}} {
			if pair[1] > 0 {
				ratios[k] = append(ratios[k], pair[0]/pair[1])
			}
		}
	}
	result.Commits = &Commits{
		Pairs: cfg.Pairs, Groups: cfg.Committers, AckP50: median(ratios[0]), AckP99: median(ratios[1]), PerSecond: median(rates), Latency: latencyOf(all),
	}
	return nil
}

// committer is one group that commits by itself: it has no members. What it commits rises, so that nothing can be left out.
type committer struct {
	client  *kgo.Client
	req     kmsg.OffsetCommitRequest
	latency *hdrhistogram.Histogram
}

// openCommitters makes a client for each group, and has each commit once: a cluster that does not serve this is told of before
// anything is measured.
func openCommitters(ctx context.Context, cfg Config, brokers []string, adm *kadm.Client, result *Result) (groups []*committer, err error) {
	details, err := adm.ListTopics(ctx, result.Topic)
	if err != nil {
		return nil, fmt.Errorf("look up topic %q: %w", result.Topic, err)
	}
	for i := range cfg.Committers {
		cl, err := kgo.NewClient(client.Options(brokers, cfg.Security...)...)
		if err != nil {
			return groups, fmt.Errorf("open a committing client: %w", err)
		}
		g := &committer{client: cl, req: kmsg.NewOffsetCommitRequest()}
		groups = append(groups, g)
		g.req.Group, g.req.Generation = fmt.Sprintf("%s-group-%d", strings.TrimPrefix(result.Topic, "firn-"), i), -1
		t := kmsg.NewOffsetCommitRequestTopic()
		t.Topic, t.TopicID = result.Topic, details[result.Topic].ID // versions from 10 on name the id
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition = int32(i % result.Partitions)
		t.Partitions = append(t.Partitions, p)
		g.req.Topics = append(g.req.Topics, t)
		if err := g.commit(ctx); err != nil {
			return groups, err
		}
	}
	return groups, nil
}

// commit commits the next offset.
func (g *committer) commit(ctx context.Context) error {
	p := &g.req.Topics[0].Partitions[0]
	p.Offset++
	req := g.req // the client fills in the version
	res, err := req.RequestWith(ctx, g.client)
	if err == nil && (len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1) {
		err = errors.New("an answer without the partition")
	}
	if err == nil {
		err = kerr.ErrorForCode(res.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("commit an offset of group %q: %w", g.req.Group, err)
	}
	return nil
}

// whileCommitting runs the load while all groups commit, each in an open loop: a commit's time counts from when it was meant to
// be sent. rate is how many a second were acknowledged.
func whileCommitting(ctx context.Context, cfg Config, l *load, groups []*committer, all *hdrhistogram.Histogram) (p Phase, rate float64, err error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	errs := make(chan error, len(groups))
	interval := time.Duration(float64(time.Second) * float64(len(groups)) / float64(cfg.CommitRate))
	start := time.Now()
	for i, g := range groups {
		g.latency = newHistogram()
		wg.Go(func() {
			next := start.Add(interval * time.Duration(i) / time.Duration(len(groups)))
			timer := time.NewTimer(time.Until(next))
			defer timer.Stop()
			for {
				select {
				case <-timer.C:
				case <-running.Done():
					return
				}
				if err := g.commit(running); err != nil {
					if running.Err() == nil {
						errs <- err
					}
					return
				}
				observe(g.latency, time.Since(next))
				next = next.Add(interval)
				timer.Reset(time.Until(next))
			}
		})
	}
	p, err = l.alone(ctx, phaseCommitting)
	stop()
	wg.Wait()
	took := time.Since(start).Seconds()
	close(errs)
	for commitErr := range errs {
		if err == nil {
			err = commitErr
		}
	}
	count := int64(0)
	for _, g := range groups {
		count += g.latency.TotalCount()
		all.Merge(g.latency)
	}
	return p, float64(count) / took, err
}

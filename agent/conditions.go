package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objstore/metered"
)

// condition is a part that the agent depends on, and what is wrong with it: "" where nothing is.
type condition struct {
	part, cause string
	told        bool // by the room itself: no line of ours
}

// The parts, as logs, metrics and /readyz name them.
const (
	partEtcd        = "etcd"
	partArchive     = "archive"
	partBucketRead  = "bucket_read"
	partBucketWrite = "bucket_write"
	partDisk        = "disk"
	partDuties      = "duties"
	partMode        = "advertise_mode"
)

// conditions returns all parts, in one order.
func (a *Agent) conditions() []condition {
	list := []condition{{part: partEtcd}, {part: partArchive}, {part: partBucketRead}, {part: partBucketWrite}, {part: partDisk}, {part: partDuties, told: true}, {part: partMode}}
	if a.state.Load() == starting || a.meta == nil || a.wal == nil { // parts are still being made
		return list
	}
	list[0].cause, list[1].cause = a.meta.Degraded(), a.meta.ArchiveFault()
	list[2].cause, list[3].cause = a.bucketHealth.causes()
	if err := a.wal.Stats().Failed; err != nil {
		list[4].cause = fmt.Sprintf("the write-ahead log failed and stays failed until the agent is started again: %v", err)
	}
	if list[4].cause == "" && a.ingest != nil {
		list[4].cause, list[4].told = a.ingest.SpillFault(), true
	}
	var duties []string
	for _, fault := range a.dutyFaults {
		if why := fault(); why != "" {
			duties = append(duties, why)
		}
	}
	list[5].cause = strings.Join(duties, "; ")
	list[6].cause = a.modes.cause(a.cfg.AdvertiseMode)
	return list
}

// slowFailure is from where on a request that was given up counts as one that failed for good.
const slowFailure = 5 * time.Second

// failuresMax is how many requests in a row must fail before the bucket counts as out.
const failuresMax = 3

// bucketHealth judges the bucket by the agent's own requests, those that read and those that write apart: a credential can
// lose one right and keep the other.
type bucketHealth struct {
	mu          sync.Mutex // guards the rest
	read, write streak
}

// streak is a run of failed requests.
type streak struct {
	failures int
	since    time.Time // of the first
	last     string    // why the last one failed
}

func (h *bucketHealth) of(op metered.Op) *streak {
	if op == metered.OpPut || op == metered.OpDelete {
		return &h.write
	}
	return &h.read
}

// saw takes a request that ended.
func (h *bucketHealth) saw(op metered.Op, outcome metered.Outcome, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.of(op)
	switch outcome {
	case metered.OutcomeClosed:
	case metered.OutcomeCancelled:
		if took >= slowFailure { // nobody waits that long for a bucket that is well
			s.fail(failuresMax, fmt.Sprintf("a %s was given up after %v", op, took.Round(time.Second)), took)
		}
	case metered.OutcomeUnavailable, metered.OutcomeDenied, metered.OutcomeOther:
		n := 1
		if took >= slowFailure {
			n = failuresMax
		}
		s.fail(n, cmp.Or(s.last, string(outcome)), took) // why has been here before, where there was more to say
	default:
		*s = streak{}
	}
}

func (s *streak) fail(n int, why string, took time.Duration) {
	if s.failures == 0 {
		s.since = time.Now().Add(-took)
	}
	s.failures += n
	s.last = why
}

// why takes the error of a request that saw is told of next.
func (h *bucketHealth) why(op metered.Op, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(op).last = err.Error()
}

func (h *bucketHealth) causes() (read, write string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.read.cause(), h.write.cause()
}

func (s *streak) cause() string {
	if s.failures < failuresMax {
		return ""
	}
	return fmt.Sprintf("the bucket has failed every request for %v: %s", time.Since(s.since).Round(time.Second), s.last)
}

const (
	// lookInterval is how often conditions are looked at.
	lookInterval = time.Second
	// settleTime is how long a part must be well before it counts as recovered: one that comes and goes is one outage.
	settleTime = 5 * time.Second
	// reminderInterval is how often an outage that lasts is told again.
	reminderInterval = 5 * time.Minute
	// probeInterval is how often the bucket is asked for an object while it fails reads, lest nobody asks again.
	probeInterval = 5 * time.Second
)

// outage is what has been said of a part.
type outage struct {
	since, told, wellSince time.Time // zero: not
}

// watchConditions writes one line when a part stops working, one when it works again, and a reminder in between, until ctx ends.
func (a *Agent) watchConditions(ctx context.Context) {
	outages := make(map[string]*outage)
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	var probed time.Time
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		for _, c := range a.conditions() {
			o := outages[c.part]
			if o == nil {
				o = &outage{}
				outages[c.part] = o
			}
			if !c.told {
				o.look(a.parts.Logger, c, now)
			}
			if c.part == partBucketRead && c.cause != "" && now.Sub(probed) >= probeInterval {
				probed = now
				a.probe(ctx)
			}
		}
	}
}

// look tells what has changed of a part.
func (o *outage) look(logger *slog.Logger, c condition, now time.Time) {
	switch {
	case c.cause == "" && o.since.IsZero():
	case c.cause == "":
		if o.wellSince.IsZero() {
			o.wellSince = now
		}
		if now.Sub(o.wellSince) >= settleTime {
			logger.Info("recovered", "part", c.part, "after", o.wellSince.Sub(o.since).Round(time.Second))
			*o = outage{}
		}
	case o.since.IsZero():
		o.since, o.told = now, now
		logger.Warn("degraded", "part", c.part, "cause", c.cause)
	default:
		o.wellSince = time.Time{}
		if now.Sub(o.told) >= reminderInterval {
			o.told = now
			logger.Warn("still degraded", "part", c.part, "for", now.Sub(o.since).Round(time.Second), "cause", c.cause)
		}
	}
}

// probe reads the smallest object that is always there. Its outcome is judged like any other's.
func (a *Agent) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, slowFailure)
	defer cancel()
	_, _ = a.bucket.Get(ctx, metastore.MarkerKey)
}

package agent

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/metered"
)

// Rooms are what the rooms get of a configuration.
func (c *Config) Rooms() []any {
	in, cache, srv, meta, grp := c.ingest(), c.fetch(), c.kafka(), c.metastore(), c.group()
	r := c.rooms()
	return []any{&in, &cache, &srv, &meta, &grp, &grp.Classic, &grp.Consumer, &r.rewrite, &r.merge, &r.merge.Patience, &r.merge.Tiers, &r.clean, &r.retention, &r.gc, &r.lifecycle}
}

// Look tells the log what has changed of a part; cause is "" where it is well.
func Look(logger *slog.Logger) func(cause string, now time.Time) {
	var o outage
	return func(cause string, now time.Time) { o.look(logger, condition{part: "etcd", cause: cause}, now) }
}

// BucketHealth judges a bucket by its requests: those that read and those that write.
func BucketHealth() (saw func(metered.Op, metered.Outcome, time.Duration), causes func() (read, write string)) {
	var h bucketHealth
	return h.saw, h.causes
}

// RegisterTopicMetrics makes a collector of its own over a state.
func RegisterTopicMetrics(r prometheus.Registerer, detail Detail, seriesMax int, view func(func(*state.State)), nodeID func() int32) {
	newTopicMetrics(r, detail, seriesMax, view, nodeID)
}

// WrittenAt tells when a record at an offset was written, by the rows around it.
func WrittenAt(offset int64, before, row, after state.Row) float64 {
	return writtenAt(offset, before, row, after)
}

// Behind judges how far an agent is behind its peers.
func Behind() (saw func(now time.Time, peer string, theirs, ours uint64), cause func() string) {
	b := behind{patience: 6 * time.Second}
	return b.saw, b.cause
}

// Met is how many agents this one looks after and has met.
func (a *Agent) Met() int { return int(a.met.Load()) }

// View looks at the agent's state.
func (a *Agent) View(fn func(*state.State)) { a.meta.View(fn) }

// SetMembersTime is how long a drain goes on serving after groups were handed over.
func (a *Agent) SetMembersTime(d time.Duration) { a.membersTime = d }

// SetDutiesMax bounds how long a drain waits for background duties.
func (a *Agent) SetDutiesMax(d time.Duration) { a.dutiesMax = d }

// Sight is what a look at another agent finds.
type Sight = sight

const (
	SawNothing = sawNothing
	SawIt      = sawIt
	SawNobody  = sawNobody
)

// Gone says whether the last of some looks at an agent tells that it is gone.
func Gone(saw []Sight) (gone bool) {
	var q acquaintance
	for _, s := range saw {
		gone = q.note(s)
	}
	return gone
}

// Charges are the nodes that one of them looks after.
func Charges(nodes []int32, me int32) (after []int32) {
	var agents []state.Agent
	for _, n := range nodes {
		agents = append(agents, state.Agent{NodeID: n, Listeners: []entry.Listener{{Name: peer.ListenerName}}})
	}
	for _, c := range charges(agents, me) {
		after = append(after, c.node)
	}
	return after
}

// PutsIn counts puts by storage class.
func PutsIn(r prometheus.Registerer) (put func(class string)) {
	return newBucketMetrics(r, new(bucketHealth)).PutIn
}

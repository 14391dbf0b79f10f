package sim_test

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// fault names something that can go wrong, or a feature that is only exercised in some lives. The run fails where one was
// enabled in some life and struck in none.
type fault string

// The faults, by what they befall. Those of the log, the bucket and the network are explained by the packages that make them.
const (
	agentKill  fault = "agent_kill"
	agentDrain fault = "agent_drain"
	walKept    fault = "wal_kept"  // restarts find the directory as the last agent left it; without, they find an empty one
	powerCut   fault = "power_cut" // with walKept: restarts find what was synced, and chance parts of the rest
	clockSkew  fault = "clock_skew"
	clockJump  fault = "clock_jump"

	logPartition    fault = "log_partition"
	logRefuses      fault = "log_refuses"
	logLatency      fault = "log_latency"
	commitAmbiguous fault = "commit_ambiguous"
	commitDropped   fault = "commit_dropped"
	commitLate      fault = "commit_late"
	commitNoSpace   fault = "commit_no_space"
	watchLose       fault = "watch_lose"
	watchRepeat     fault = "watch_repeat"
	watchLate       fault = "watch_late"
	watchStall      fault = "watch_stall"
	watchEnd        fault = "watch_end"
	watchCompact    fault = "watch_compact"
	leaseExpire     fault = "lease_expire"
	leaseHidden     fault = "lease_hidden"
	membersStale    fault = "members_stale"

	bucketOutage    fault = "bucket_outage"
	bucketFails     fault = "bucket_unavailable"
	bucketBurst     fault = "bucket_burst"
	bucketAmbiguous fault = "bucket_ambiguous"
	bucketLate      fault = "bucket_late"
	bucketSlow      fault = "bucket_slow"
	bucketBitFlip   fault = "bucket_bit_flip"

	netLatency fault = "net_latency"
	netReset   fault = "net_reset"
	netCut     fault = "net_cut"
	netStall   fault = "net_stall"

	diskFails fault = "disk_error"
	diskFull  fault = "disk_full"

	topicRecreate  fault = "topic_recreate"
	partitionsGrow fault = "partitions_grow"
	epochBump      fault = "collection_epoch_bump"
	snapshots      fault = "snapshot"
	trims          fault = "trim"
	coordinatorCut fault = "coordinator_cut"   // with groupReads: their coordinator is cut off from the log for longer than its lease
	groupReads     fault = "group_reads"       // consumer groups read the topic that stays
	compacts       fault = "compaction"        // agents merge, clean, retain and collect
	settles        fault = "quiet_end"         // with compaction: at the end there is time for all that is due
	keyedTopic     fault = "keyed_topic"       // there is a topic that is compacted
	agingTopic     fault = "aging_topic"       // there is a topic from which old records go
	abandons       fault = "producer_abandons" // gives a batch up with its outcome unknown and starts a new epoch
)

// swarm is what a life draws its faults from, each on its own, with the chance to be on.
var swarm = []struct {
	fault  fault
	chance float64
}{
	{agentKill, 0.5}, {agentDrain, 0.3}, {walKept, 0.25}, {powerCut, 0.5}, {clockSkew, 0.4}, {clockJump, 0.3},
	{logPartition, 0.3}, {logRefuses, 0.2}, {logLatency, 0.4},
	{commitAmbiguous, 0.3}, {commitDropped, 0.3}, {commitLate, 0.3}, {commitNoSpace, 0.15},
	{watchLose, 0.25}, {watchRepeat, 0.25}, {watchLate, 0.25}, {watchStall, 0.2}, {watchEnd, 0.25}, {watchCompact, 0.2},
	{leaseExpire, 0.3}, {leaseHidden, 0.3}, {membersStale, 0.2},
	{bucketOutage, 0.4}, {bucketFails, 0.3}, {bucketBurst, 0.2}, {bucketAmbiguous, 0.3}, {bucketLate, 0.2}, {bucketSlow, 0.4},
	{bucketBitFlip, 0.12},
	{netLatency, 0.5}, {netReset, 0.3}, {netCut, 0.3}, {netStall, 0.2},
	{diskFails, 0.15}, {diskFull, 0.1},
	{topicRecreate, 0.3}, {partitionsGrow, 0.35}, {epochBump, 0.5}, {snapshots, 0.7}, {trims, 0.6}, {abandons, 0.5}, {groupReads, 0.5},
	{compacts, 0.6}, {settles, 0.4}, {keyedTopic, 0.35}, {agingTopic, 0.3},
}

// plan is one life, drawn from its seed before it begins.
type plan struct {
	seed   uint64
	on     map[fault]bool
	agents int
	storm  time.Duration // how long faults strike

	partitions    int
	logAppendTime bool
	idempotent    int // producers
	plain         int
	consumers     int
	batches       int // per producer
	recordsMax    int // per batch
	valueMax      int // bytes
	keyed, aging  keeping
	duties        duties

	flushInterval   time.Duration
	uploadSlots     int
	segmentBytes    int
	ttl             time.Duration
	entryBytes      int
	tickInterval    time.Duration
	archiveInterval time.Duration
	snapshotEntries int
	trimMargin      int
}

// agentsMax bounds a life's agents.
const agentsMax = 4

// partitionsMax bounds a topic's partitions, growth included.
const partitionsMax = 5

// stream is a source of chance for one actor of a life: what one draws does not move what others draw.
func stream(seed uint64, actor string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(actor)) // a hash never fails
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

func newPlan(seed uint64) *plan {
	r := stream(seed, "plan")
	between := func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
	oneOf := func(values ...int) int { return values[r.IntN(len(values))] }
	p := &plan{
		seed: seed, on: map[fault]bool{},
		agents: oneOf(1, 2, 2, 3, 3, 4), storm: time.Duration(between(8, 30)) * time.Second,
		partitions: between(1, 3), logAppendTime: r.IntN(4) == 0,
		idempotent: between(1, 2), plain: between(0, 1), consumers: between(1, 2),
		batches: between(10, 40), recordsMax: oneOf(1, 3, 10), valueMax: oneOf(40, 300, 3000),
		flushInterval: time.Duration(oneOf(1, 20, 250)) * time.Millisecond, uploadSlots: oneOf(1, 2, 4),
		segmentBytes: 64 << 10, ttl: time.Duration(between(3, 10)) * time.Second,
		entryBytes: oneOf(0, 600, 4000), tickInterval: time.Duration(oneOf(2, 10)) * time.Second,
		archiveInterval: time.Duration(oneOf(1, 2, 5)) * time.Second,
	}
	calm := r.IntN(12) == 0 // some lives have features only, so that these are judged without excuses
	features := map[fault]bool{topicRecreate: true, partitionsGrow: true, epochBump: true, snapshots: true, trims: true, groupReads: true,
		keyedTopic: true, agingTopic: true, compacts: true, settles: true}
	for _, f := range swarm {
		if drawn := r.Float64() < f.chance; drawn && (!calm || features[f.fault]) {
			p.on[f.fault] = true
		}
	}
	if !p.on[walKept] || !p.on[agentKill] {
		delete(p.on, powerCut)
	}
	if p.on[trims] {
		p.on[snapshots] = true
		p.trimMargin = oneOf(1, 3, 20)
	}
	if p.on[snapshots] {
		p.snapshotEntries = oneOf(3, 10, 40)
	}
	if !p.on[compacts] {
		delete(p.on, settles)
	}
	// From a stream of its own: lives without it are what they were.
	if stream(seed, "cut").IntN(4) == 0 && p.on[groupReads] && p.agents > 1 && !calm {
		p.cutsCoordinator()
	}
	p.drawKeeping(stream(seed, "keeping"))
	p.drawDuties(stream(seed, "duties"))
	return p
}

// cutsCoordinator has the life's group lose its coordinator to the log, and leaves time for it.
func (p *plan) cutsCoordinator() {
	p.on[coordinatorCut] = true
	p.storm = max(p.storm, cutFrom+p.cutLasts()+time.Second)
}

// Package sim simulates whole clusters from seeds: the product's own agents and what clients make of them, in one process,
// in fake time. It has no code but its tests and package memnet, the network that it runs on.
//
//	go test ./localstack/sim                                                        a few lives, and the planted bugs
//	go test ./localstack/sim -run '^TestSeeds$' -sim.seeds 3000                     many lives
//	go test ./localstack/sim -run '^TestSeeds$' -sim.seeds 1 -sim.seed 17 -sim.v    one life, with everything that happens
//	… -sim.seeds 1 -sim.seed 17 -sim.repeat 50                                      the same life again and again
//	go test ./localstack/sim -run '^TestWeekOfHistory$' -v -timeout 60m \
//	        -sim.week 2400000 -sim.week.hours 168 -sim.week.topics 200 -sim.week.every 6h      a week of history
//
// # A life
//
// One seed is one run is one cluster's life. It happens inside a testing/synctest bubble: time is fake, so minutes of faults
// and time-outs take milliseconds, and a goroutine that is left behind fails the run. Agents are started with agent.Start and
// ended with Drain or Kill. Around them:
//
//	metastore log   metastore/log/memlog, which is nastier than etcd
//	bucket          objstore/mem behind objstore/faulty
//	disk            wal/walfs, which loses power
//	clock           the bubble's, skewed and set by the life
//	network         memnet
//	clients         of this package, on kmsg: they speak the wire protocol and nothing else
//
// A plan is drawn from the seed first: how many agents and clients, how small segments, entries and snapshots are, and which
// faults and features this life has at all (swarm testing: a fault that is always on hides what needs its absence). Then
//
//	storm → heal → everybody finishes → perhaps quiet → judgement → drain
//
// In the storm the weather changes (chances of faults, everywhere) and blows fall on single agents or on all: kills, drains,
// partitions, outages, a group's coordinator cut off from the log for longer than its lease, expired leases, clock jumps, bumps of the collection epoch. Blows overlap.
//
// In most lives agents do their background duties: merging (windows of a second, tiers), key compaction, retention, collection, with intervals
// of seconds. The quiet at the end of some gives them time for everything that is due.
//
// Clients: idempotent producers with five requests in flight that retry over other agents and, out of patience, go on with the
// next producer epoch (as Java) or a new id (as franz-go); plain producers; consumers that roam between agents, with
// incremental fetch sessions or without; consumer groups whose members leave, vanish and come back; drains that read everything from one agent; an admin that makes, grows, deletes and
// makes topics again under the same name. Beside the topic that keeps everything some lives have one that is compacted, with keys
// and tombstones, and one from which records go by age or size.
//
// # The judgement
//
// What clients saw goes to localstack/check, whose package comment lists the violations. Besides:
//
//	order, out_of_order   an answer to an idempotent producer that only a lost or reordered batch explains
//	produce_refused, fetch_refused, list_refused, …   an error that no client retries, for what should work
//	beyond_watermark, log_start, last_stable          watermarks that contradict each other
//	producer_id           an id given out twice
//	group_refused         an error of a group API that no client retries
//	commit_lost           a group is told an offset below one whose commit was acknowledged before it asked
//	commit_invented       a group is told an offset beyond what its members have read
//	usurped               a coordinator tells a member that all is well when another has had its group for longer than it may not know
//	owned_twice           a member is given a partition that another has, whom the coordinator cannot have given up
//	commit_back, zombie   a commit of an older generation was acknowledged after a newer one had its assignment
//	diverged, agent_failed, wal_unusable              an agent that leaves service without a reason
//	stuck                 minutes after the last fault a client waits, an agent does not run, or is behind
//	entry                 an entry that no honest log could have brought about (a gap in an incarnation's sequence)
//	digest_mismatch       a replica, or the hash in any entry, that differs from a replay of the log at the same n; byte for byte
//	replay                a new agent cannot boot from snapshot and archive, or from the archive alone
//	rows, objects         index rows with holes; a segment named by the state that is missing, of another size, or unreadable
//	rewrite, cleaned      a rewrite whose bytes are not those that it replaced, but for what key compaction may take
//	expired               a log start moved past a record that is younger than its topic's retention by the log's time
//	orphans, unmerged     after a quiet end there are objects that nothing names, objects of level 0, or more rows than merging leaves
//	deleted_alive         an object was deleted that a state names from which a restore could have started then
//	vacuous               nothing was sent, acknowledged or read in more than one life in a hundred
//
// A run of many lives fails, too, where a fault that was enabled never struck, where a state that makes the run worth
// something was never reached, and where it leaves memory behind. It ends with one line of JSON.
//
// # Planted bugs
//
// TestPlantedBugsAreSeen puts each of these between the parts of quiet lives and requires the finding within eight of them:
//
//	lost-commit        the log answers Committed for a commit that it threw away
//	swapped-watch      a watch delivers two entries in each other's place, renumbered
//	altered-entry      one agent sees another clock in an entry than the rest
//	early-trim         entries are trimmed that nobody archived
//	forgetful-bucket   a put succeeds and stores nothing
//	mixed-up-bucket    a put stores the body of the one before
//	doubled-produce    a proxy sends requests of plain producers twice
//	ack-before-commit  records are acknowledged that never come into the log
//	commit-thrown-away commits of offsets are acknowledged that are never sent
//	commit-ahead       a group is told that more was committed than was
//	stale-head         the log's head is told from memory where the log does not answer: an agent that is cut off goes on coordinating
//	zero-offset        records are acknowledged at offset 0
//	stale-listing      ListOffsets answers as it did the first time
//	watermark-back     a fetch shows a lower high watermark than before
//	flipped-byte       a fetch shows a damaged record
//	skipped-batch      a fetch leaves a batch out
//	out-of-range       a fetch denies an offset that exists
//
// and these of somebody who does to the data what a bug in a background duty would (rogue); the audit has to see them, and where
// another kind is named, clients too. The same rogue doing it well must not be found:
//
//	merge-drops-batch         a merge leaves a batch out
//	merge-swaps-offsets       a merge gives two batches each other's offsets
//	cleaner-keeps-older       key compaction keeps the older of two values
//	cleaner-drops-tombstones  key compaction takes fresh tombstones
//	rewrite-unguarded         a rewrite brings back what was cleaned since it read, as if nothing were compared
//	wall-clock-retention      records go by the clock of one agent
//	collects-named            an object is deleted that rows name
//	collects-without-epoch    what no row named a moment ago is deleted, whatever its collection epoch
//
// # A week of history
//
// TestWeekOfHistory lets a cluster of two agents get old without faults: days of simulated time, topics of mixed policies (deleted
// by age after hours or days, by size, compacted, both, kept for ever), a request of each agent every 30 s. It prints the curve of
// what is kept: objects, index rows, entries and bytes in the log, snapshot, state and heap, requests by kind, bytes rewritten; then
// reads every partition and holds it to what was sent. The CPU share of compaction is from a profile of the process, since
// simulated time says nothing about work. It fails where something that should be flat or logarithmic grows in the second half of the
// history as in the first.
//
// # Limits
//
// The seed decides what is attempted and when; it does not decide in which order the runtime runs goroutines that are ready at
// the same instant. The same seed with the same GOMAXPROCS mostly gives the same life, and the failing run's command names
// both; where it does not fail again, try a few times.
//
// Fake time stands still while a goroutine is parked on a mutex (golang/go#77687). A lock held over a wait therefore shows as
// a life without end: after two minutes of real time the process prints all stacks and the seed, and exits.
package sim

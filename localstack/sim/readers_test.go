package sim_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/objstore/batch"
)

// readers is a consumer group that reads a topic, with what its members were told together. Members commit only what they
// have read, so that a group whose commits reach the end of every partition has been given every record at least once.
type readers struct {
	topic *topic
	name  string
	// uniform: all members are of the classic protocol, so that a generation is everybody's at once.
	uniform bool

	mu sync.Mutex // guards the rest
	// generation is the highest that any member was told.
	generation int32
	// read: every record below was given to a member. committed is the highest offset whose commit was acknowledged.
	read, committed [partitionsMax]int64
	finished        [partitionsMax]bool
	owners          [partitionsMax]*member // who was given a partition and has not given it back
	alive           map[*member]time.Time  // when the coordinator last answered a member that all is well
}

// lives notes a heartbeat that was answered well. The member's session is from when the coordinator took it, so from since or later.
// Whoever coordinates in the place of one that is cut off from the log has it begin when it claims, and that may be before.
func (g *readers) lives(m *member, since time.Time) {
	if m.link != nil {
		since = since.Add(-m.link.node.unawares())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.alive[m] = since
}

// takes judges that a member was given a partition: nobody else may have it, but for one that the coordinator can have given up.
func (g *readers) takes(m *member, partition int) {
	g.mu.Lock()
	other := g.owners[partition]
	since := time.Since(g.alive[other])
	g.owners[partition] = m
	g.mu.Unlock()
	if other != nil && other != m && since < memberSession {
		g.topic.life.find("owned_twice", "%s is given partition %d, which %s has; it was answered %v ago", m.name, partition, other.name, since)
	}
}

// givesBack notes that a member does without a partition.
func (g *readers) givesBack(m *member, partition int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.owners[partition] == m {
		g.owners[partition] = nil
	}
}

// told notes a generation whose assignment a member was told.
func (g *readers) told(generation int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.generation = max(g.generation, generation)
}

func (g *readers) newest() int32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.generation
}

// floors are the commits that were acknowledged so far.
func (g *readers) floors() [partitionsMax]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.committed
}

// hasRead notes that a member was given [from, to).
func (g *readers) hasRead(partition int, from, to int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if from <= g.read[partition] {
		g.read[partition] = max(g.read[partition], to)
	}
}

// fetched judges a committed offset that a member was told. floor is from before it asked.
func (g *readers) fetched(who string, partition int, floor, offset int64) {
	g.mu.Lock()
	read := g.read[partition]
	g.mu.Unlock()
	switch {
	case offset < floor:
		g.topic.life.find("commit_lost", "%s is told offset %d of partition %d, %d was acknowledged before it asked", who, offset, partition, floor)
	case offset > read:
		g.topic.life.find("commit_invented", "%s is told offset %d of partition %d, the group has read up to %d", who, offset, partition, read)
	}
}

// acknowledged judges an acknowledged commit. before is the newest generation that anybody knew of when it was sent, and floor
// what had been acknowledged then.
func (g *readers) acknowledged(who string, generation, before int32, partition int, floor, offset int64) {
	g.mu.Lock()
	g.committed[partition] = max(g.committed[partition], offset)
	g.mu.Unlock()
	if generation < before {
		g.topic.life.find("zombie", "%s commits partition %d at generation %d, though generation %d had formed", who, partition, generation, before)
	}
	if offset < floor {
		g.topic.life.find("commit_back", "%s takes partition %d back from %d to %d", who, partition, floor, offset)
	}
}

// finish notes that a partition is read and committed to its end, and done says whether all are.
func (g *readers) finish(partition int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.finished[partition] = true
}

func (g *readers) done() bool {
	ends := g.topic.finalEnds()
	if ends == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, end := range ends {
		if end > 0 && !g.finished[i] {
			return false
		}
	}
	return true
}

// startReaders starts a group's members; they end when the group has read and committed everything.
func (l *life) startReaders(ctx context.Context, t *topic, others *sync.WaitGroup) {
	g := &readers{topic: t, name: fmt.Sprintf("readers of %s", t.name), alive: map[*member]time.Time{}}
	r := stream(l.plan.seed, g.name)
	modern := []float64{0, 1, 0.5}[r.IntN(3)] // share of members of the consumer protocol
	g.uniform = modern == 0
	var members sync.WaitGroup
	for i := range 2 + r.IntN(3) {
		instance := ""
		if r.IntN(3) == 0 {
			instance = fmt.Sprintf("instance-%d", i)
		}
		m := l.newMember(g, fmt.Sprintf("member %d of %s", i, g.name), instance)
		if m.classic = r.Float64() >= modern; !m.classic {
			m.instance, m.commits, m.fetches = "", 9, 9
		}
		members.Go(func() { m.run(ctx) })
	}
	others.Go(func() {
		members.Wait()
		if g.done() {
			l.count(groupReads, 1)
			l.newMember(g, "auditor of "+g.name, "").audit(ctx)
		}
	})
}

// audit looks up what the group has committed, when nobody is in it any more.
func (m *member) audit(ctx context.Context) {
	defer m.client.leave()
	defer m.data.leave()
	defer m.doing("")
	for !m.resume(ctx, []int{0, 1, 2, 3, 4}) && pause(ctx, 100*time.Millisecond) {
		m.client.leave()
	}
}

// member is one member of a group, of the classic protocol or of the consumer protocol (KIP-848).
type member struct {
	classic bool
	*client // to the coordinator
	data    *consumer
	group   *readers

	instance string // static membership; empty: none
	find     int16  // versions
	join     int16
	sync     int16
	beat     int16
	leaves   int16
	commits  int16
	fetches  int16

	id         string
	generation int32
	assigned   []int // what it reads
	position   [partitionsMax]int64
	unsaved    [partitionsMax]bool
	beaten     time.Time // its last heartbeat, answered or not
	asked      asked     // its last request to a coordinator
}

// Time-outs of members, in the life's time.
const (
	memberSession   = 6 * time.Second
	memberRebalance = 8 * time.Second
	memberBeat      = time.Second
)

// Kafka's error codes about groups.
const (
	errCoordinatorLoading = 14
	errNoCoordinator      = 15
	errNotCoordinator     = 16
	errIllegalGeneration  = 22
	errUnknownMember      = 25
	errRebalancing        = 27
	errMemberIDRequired   = 79
	errFencedInstance     = 82
	errFencedEpoch        = 110
	errStaleEpoch         = 113
)

func (l *life) newMember(g *readers, name, instance string) *member {
	c := newClient(l, name)
	version := func(most int) int16 { return int16(c.rng.IntN(most + 1)) }
	m := &member{
		client: c, group: g, find: version(6), join: version(9), sync: version(5), beat: version(4), leaves: version(5),
		commits: 2 + version(7), fetches: 1 + version(8),
		data: &consumer{client: newClient(l, name+" reading"), topic: g.topic, checker: batch.NewValidator(), fetch: 12},
	}
	if instance != "" { // from these versions on there are instance ids
		m.instance, m.join, m.sync, m.beat, m.leaves, m.commits = instance, 5+version(4), 3+version(2), 3+version(1), 3+version(2), 7+version(2)
	}
	return m
}

// run is a member's life: it joins, reads, and now and then leaves or vanishes, to come back.
func (m *member) run(ctx context.Context) {
	defer m.client.leave()
	defer m.data.leave()
	defer m.doing("")
	for ctx.Err() == nil && !m.group.topic.closing() && !m.group.done() {
		if !m.enter(ctx) {
			m.client.leave()
			pause(ctx, time.Duration(50+m.rng.IntN(300))*time.Millisecond)
			continue
		}
		m.work(ctx)
		switch m.rng.IntN(12) {
		case 0:
			m.depart(ctx)
		case 1: // without a word
			m.client.leave()
			m.forget()
			pause(ctx, time.Duration(m.rng.Int64N(int64(2*memberSession))))
		}
	}
	m.depart(ctx)
}

// coordinate connects to the group's coordinator.
func (m *member) coordinate(ctx context.Context) bool {
	if m.link != nil {
		return true
	}
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.SetVersion(m.find)
	req.CoordinatorKey, req.CoordinatorKeys = m.group.name, []string{m.group.name}
	m.doing("looking for the coordinator")
	if !m.data.somewhere(ctx) {
		return false
	}
	response, err := m.data.link.call(req)
	if err != nil {
		m.data.leave()
		return false
	}
	r := response.(*kmsg.FindCoordinatorResponse)
	code, host := r.ErrorCode, r.Host
	if m.find >= 4 {
		code, host = r.Coordinators[0].ErrorCode, r.Coordinators[0].Host
	}
	if code != errNone {
		if !passing(code) {
			m.life.find("group_refused", "%s: FindCoordinator: code %d", m.name, code)
		}
		m.data.leave() // another may know more
		return false
	}
	at := slices.IndexFunc(m.life.nodes, func(n *node) bool { return n.name == host })
	if at < 0 {
		m.life.find("protocol", "%s: the coordinator is at %q, where nobody is", m.name, host)
		return false
	}
	k, err := m.life.connect(ctx, m.life.nodes[at], m.name)
	if err != nil {
		return false
	}
	m.link = k
	return true
}

// ask makes a request of the coordinator; false: there was no answer.
func (m *member) ask(ctx context.Context, req kmsg.Request) (kmsg.Response, bool) {
	if !m.coordinate(ctx) {
		return nil, false
	}
	m.doing("waiting for %s from %s", kmsg.NameForKey(req.Key()), m.link.node.name)
	m.asked = asked{time.Now(), m.link.node, m.link.node.firstCutSince()}
	response, err := m.link.call(req)
	if err != nil {
		m.life.logf("%s: %v", m.name, err)
		m.client.leave()
		return nil, false
	}
	return response, true
}

// verdict is what a code means for a member.
type verdict int

const (
	fine    verdict = iota
	again           // look for the coordinator and ask again
	rejoin          // with the same id
	outcast         // the coordinator does not know us: join anew
)

func (m *member) judge(what string, code int16) verdict {
	switch code {
	case errNone:
		m.life.hears(m, what)
		return fine
	case errCoordinatorLoading, errNoCoordinator, errNotCoordinator, errTimedOut:
		m.client.leave()
		return again
	case errRebalancing:
		return rejoin
	case errIllegalGeneration:
		m.generation = -1
		return rejoin
	case errStaleEpoch: // the next heartbeat brings the new one
		return again
	case errUnknownMember, errFencedInstance, errFencedEpoch:
		m.forget()
		return outcast
	}
	m.life.find("group_refused", "%s: %s: code %d", m.name, what, code)
	return outcast
}

// forget makes the member one that the group does not know.
func (m *member) forget() {
	m.keep(nil)
	m.id, m.generation = "", -1
}

// keep does without all partitions but these.
func (m *member) keep(partitions []int) {
	for _, p := range m.assigned {
		if !slices.Contains(partitions, p) {
			m.group.givesBack(m, p)
		}
	}
	m.assigned = slices.DeleteFunc(m.assigned, func(p int) bool { return !slices.Contains(partitions, p) })
}

// take begins to read partitions, where the group has come to in each.
func (m *member) take(ctx context.Context, partitions []int) bool {
	var more []int
	for _, p := range partitions {
		if !slices.Contains(m.assigned, p) {
			more = append(more, p)
			m.group.takes(m, p)
		}
	}
	m.assigned = append(m.assigned, more...)
	return m.resume(ctx, more)
}

// enter joins, and learns what the group has committed of what it is given.
func (m *member) enter(ctx context.Context) bool {
	if !m.classic {
		return m.enterModern(ctx)
	}
	m.keep(nil)
	metadata := kmsg.ConsumerMemberMetadata{Topics: []string{m.group.topic.name}}
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name, protocol.Metadata = "range", metadata.AppendTo(nil)
	req := kmsg.NewPtrJoinGroupRequest()
	req.SetVersion(m.join)
	req.Group, req.MemberID, req.ProtocolType = m.group.name, m.id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(memberSession.Milliseconds()), int32(memberRebalance.Milliseconds())
	req.Protocols = append(req.Protocols, protocol)
	if m.instance != "" {
		req.InstanceID = &m.instance
	}
	response, ok := m.ask(ctx, req)
	if !ok {
		return false
	}
	joined := response.(*kmsg.JoinGroupResponse)
	if joined.ErrorCode == errMemberIDRequired {
		if m.join < 4 || m.id != "" || joined.MemberID == "" {
			m.life.find("group_refused", "%s: JoinGroup %d as %q needs the id %q", m.name, m.join, m.id, joined.MemberID)
		}
		m.id = joined.MemberID
		return m.enter(ctx)
	}
	if m.judge("JoinGroup", joined.ErrorCode) != fine {
		return false
	}
	m.id, m.generation = joined.MemberID, joined.Generation
	assign := kmsg.NewPtrSyncGroupRequest()
	assign.SetVersion(m.sync)
	assign.Group, assign.MemberID, assign.Generation = m.group.name, m.id, m.generation
	assign.ProtocolType, assign.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	if m.instance != "" {
		assign.InstanceID = &m.instance
	}
	if joined.LeaderID == m.id {
		assign.GroupAssignment = m.divide(joined.Members)
	}
	asked := time.Now()
	if response, ok = m.ask(ctx, assign); !ok {
		return false
	}
	synced := response.(*kmsg.SyncGroupResponse)
	if m.judge("SyncGroup", synced.ErrorCode) != fine {
		return false
	}
	if m.group.uniform {
		m.group.told(m.generation) // from here on none before it may commit
	}
	var given kmsg.ConsumerMemberAssignment
	if err := given.ReadFrom(synced.MemberAssignment); err != nil {
		m.life.find("protocol", "%s: assignment: %v", m.name, err)
		return false
	}
	var partitions []int
	for _, t := range given.Topics {
		for _, p := range t.Partitions {
			partitions = append(partitions, int(p))
		}
	}
	m.beaten = time.Now()
	m.group.lives(m, asked)
	return m.take(ctx, partitions)
}

// enterModern joins by a first heartbeat.
func (m *member) enterModern(ctx context.Context) bool {
	if m.id == "" {
		m.keep(nil)
		var id [16]byte
		for i := range id {
			id[i] = byte(m.rng.IntN(256))
		}
		m.id, m.generation = base64.RawURLEncoding.EncodeToString(id[:]), 0
	}
	return m.heartbeatModern(ctx) == fine
}

// heartbeatModern says what the member has, and takes and gives back what it is told.
func (m *member) heartbeatModern(ctx context.Context) verdict {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.SetVersion(m.beat % 2)
	req.Group, req.MemberID, req.MemberEpoch = m.group.name, m.id, m.generation
	req.RebalanceTimeoutMillis, req.SubscribedTopicNames = int32(memberRebalance.Milliseconds()), []string{m.group.topic.name}
	owned := kmsg.NewConsumerGroupHeartbeatRequestTopic()
	owned.TopicID = m.group.topic.id
	for _, p := range m.assigned {
		owned.Partitions = append(owned.Partitions, int32(p))
	}
	if req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}; len(m.assigned) > 0 {
		req.Topics = append(req.Topics, owned)
	}
	asked := time.Now()
	response, ok := m.ask(ctx, req)
	if !ok {
		return again
	}
	r := response.(*kmsg.ConsumerGroupHeartbeatResponse)
	if v := m.judge("ConsumerGroupHeartbeat", r.ErrorCode); v != fine {
		return v
	}
	m.generation, m.beaten = r.MemberEpoch, time.Now()
	m.group.lives(m, asked)
	if r.Assignment == nil {
		return fine
	}
	var given []int
	for _, t := range r.Assignment.Topics {
		if t.TopicID != m.group.topic.id {
			continue
		}
		for _, p := range t.Partitions {
			given = append(given, int(p))
		}
	}
	if slices.ContainsFunc(m.assigned, func(p int) bool { return !slices.Contains(given, p) }) {
		m.commit(ctx) // while they are still its own
		if m.id == "" {
			return outcast
		}
		m.keep(given)
		m.beaten = time.Time{} // tell at once
		m.life.sometimes("partitions_revoked")
	}
	if !m.take(ctx, given) {
		// It has them, and cannot know where to begin: what is not read is not committed.
		m.forget()
		return outcast
	}
	return fine
}

// divide gives each partition to one member.
func (m *member) divide(members []kmsg.JoinGroupResponseMember) (list []kmsg.SyncGroupRequestGroupAssignment) {
	for i, other := range members {
		a := kmsg.ConsumerMemberAssignment{Topics: []kmsg.ConsumerMemberAssignmentTopic{{Topic: m.group.topic.name}}}
		for p := i; p < partitionsMax; p += len(members) {
			a.Topics[0].Partitions = append(a.Topics[0].Partitions, int32(p))
		}
		g := kmsg.NewSyncGroupRequestGroupAssignment()
		g.MemberID, g.MemberAssignment = other.MemberID, a.AppendTo(nil)
		list = append(list, g)
	}
	return list
}

// resume takes up where the group has committed.
func (m *member) resume(ctx context.Context, what []int) bool {
	floors := m.group.floors()
	var partitions []int32
	for _, p := range what {
		if p < m.group.topic.partitionCount() {
			partitions = append(partitions, int32(p))
		}
	}
	if len(partitions) == 0 {
		return true
	}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.SetVersion(m.fetches)
	req.Group = m.group.name
	rt := kmsg.NewOffsetFetchRequestTopic()
	rt.Topic, rt.Partitions = m.group.topic.name, partitions
	req.Topics = append(req.Topics, rt)
	rg := kmsg.NewOffsetFetchRequestGroup()
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.Topic, gt.Partitions = rt.Topic, partitions
	rg.Group, rg.Topics = m.group.name, append(rg.Topics, gt)
	rg.MemberEpoch = -1
	if m.fetches >= 9 && m.generation >= 0 && !m.classic {
		rg.MemberID, rg.MemberEpoch = kmsg.StringPtr(m.id), m.generation
	}
	req.Groups = append(req.Groups, rg)
	for ctx.Err() == nil {
		response, ok := m.ask(ctx, req)
		if !ok {
			return false
		}
		code, offsets := committedOffsets(response.(*kmsg.OffsetFetchResponse), m.fetches)
		switch m.judge("OffsetFetch", code) {
		case fine:
			for _, p := range partitions {
				at := max(offsets[p], 0)
				m.group.fetched(m.name, int(p), floors[p], at)
				m.position[p], m.unsaved[p] = at, false
			}
			return true
		case again:
			if !pause(ctx, 100*time.Millisecond) {
				return false
			}
		default:
			return false
		}
	}
	return false
}

func committedOffsets(r *kmsg.OffsetFetchResponse, version int16) (code int16, offsets map[int32]int64) {
	offsets = map[int32]int64{}
	take := func(partition int32, offset int64, wrong int16) {
		offsets[partition] = offset
		if wrong != errNone {
			code = wrong
		}
	}
	if version >= 8 {
		code = r.Groups[0].ErrorCode
		for _, t := range r.Groups[0].Topics {
			for _, p := range t.Partitions {
				take(p.Partition, p.Offset, p.ErrorCode)
			}
		}
		return code, offsets
	}
	code = r.ErrorCode
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			take(p.Partition, p.Offset, p.ErrorCode)
		}
	}
	return code, offsets
}

// work reads and commits until the group rebalances or the member has to join anew.
func (m *member) work(ctx context.Context) {
	settled := m.link
	for ctx.Err() == nil && !m.group.topic.closing() && !m.group.done() {
		if time.Since(m.beaten) >= memberBeat {
			switch m.heartbeat(ctx) {
			case fine:
				if m.link != settled {
					settled = m.link
					m.life.sometimes("generations_taken_over")
				}
			case rejoin:
				m.commit(ctx)
				return
			case outcast:
				return
			}
		}
		m.read(ctx)
		if !m.life.still.Load() && m.rng.IntN(4) == 0 || m.group.topic.finalEnds() != nil {
			if v := m.commit(ctx); v == rejoin || v == outcast {
				return
			}
		}
		if !m.life.still.Load() && m.rng.IntN(100) == 0 || !pause(ctx, time.Duration(50+m.rng.IntN(200))*time.Millisecond) {
			return
		}
	}
}

func (m *member) heartbeat(ctx context.Context) verdict {
	if !m.classic {
		return m.heartbeatModern(ctx)
	}
	req := kmsg.NewPtrHeartbeatRequest()
	req.SetVersion(m.beat)
	req.Group, req.MemberID, req.Generation = m.group.name, m.id, m.generation
	if m.instance != "" {
		req.InstanceID = &m.instance
	}
	asked := time.Now()
	response, ok := m.ask(ctx, req)
	if !ok {
		return again
	}
	v := m.judge("Heartbeat", response.(*kmsg.HeartbeatResponse).ErrorCode)
	if v == fine {
		m.beaten = time.Now()
		m.group.lives(m, asked)
	}
	return v
}

// read takes what comes next of one partition.
func (m *member) read(ctx context.Context) {
	if len(m.assigned) == 0 {
		return
	}
	p := m.assigned[m.rng.IntN(len(m.assigned))]
	if p >= m.group.topic.partitionCount() || !m.data.somewhere(ctx) {
		return
	}
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(m.data.fetch)
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = -1, 100, 1, 4000, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = m.group.topic.name
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(p), m.position[p], 4000
	rp.CurrentLeaderEpoch, rp.LastFetchedEpoch, rp.LogStartOffset = -1, -1, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	m.doing("fetching partition %d from %s at %d", p, m.data.link.node.name, m.position[p])
	response, err := m.data.link.call(req)
	if err != nil {
		m.data.leave()
		return
	}
	r := response.(*kmsg.FetchResponse)
	if r.ErrorCode != errNone || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.Topics[0].Partitions[0].ErrorCode != errNone {
		m.data.leave() // consumers judge what fetches are answered
		return
	}
	records, _, err := m.data.records(&r.Topics[0].Partitions[0], m.position[p])
	if err != nil {
		m.data.leave()
		return
	}
	for _, record := range records {
		m.group.hasRead(p, m.position[p], record.Offset+1)
		m.position[p], m.unsaved[p] = record.Offset+1, true
	}
	if m.rng.IntN(8) == 0 {
		m.data.leave()
	}
}

// commit commits how far the member has read.
func (m *member) commit(ctx context.Context) verdict {
	var mine []int
	ends := m.group.topic.finalEnds()
	for _, p := range m.assigned {
		if m.unsaved[p] {
			mine = append(mine, p)
		} else if ends != nil && p < len(ends) && m.position[p] >= ends[p] {
			m.group.finish(p) // it was committed, or this is where the group had come to
		}
	}
	if len(mine) == 0 {
		return fine
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.SetVersion(m.commits)
	req.Group, req.MemberID, req.Generation = m.group.name, m.id, m.generation
	if m.instance != "" {
		req.InstanceID = &m.instance
	}
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = m.group.topic.name
	for _, p := range mine {
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset = int32(p), m.position[p]
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	before, floors := m.group.newest(), m.group.floors()
	response, ok := m.ask(ctx, req)
	if !ok {
		return again
	}
	result := fine
	for _, t := range response.(*kmsg.OffsetCommitResponse).Topics {
		for _, p := range t.Partitions {
			if v := m.judge(fmt.Sprintf("OffsetCommit %d", m.commits), p.ErrorCode); v != fine {
				result = v
				continue
			}
			m.group.acknowledged(m.name, m.generation, before, int(p.Partition), floors[p.Partition], m.position[p.Partition])
			m.unsaved[p.Partition] = false
			m.life.sometimes("offsets_committed")
		}
	}
	return result
}

// depart leaves the group.
func (m *member) depart(ctx context.Context) {
	if m.id == "" || ctx.Err() != nil {
		return
	}
	defer m.forget()
	m.keep(nil)
	if !m.classic {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.SetVersion(m.beat % 2)
		req.Group, req.MemberID, req.MemberEpoch = m.group.name, m.id, -1
		if response, ok := m.ask(ctx, req); ok {
			m.judge("ConsumerGroupHeartbeat, leaving", response.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode)
		}
		return
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.SetVersion(m.leaves)
	req.Group, req.MemberID = m.group.name, m.id
	rm := kmsg.NewLeaveGroupRequestMember()
	rm.MemberID = m.id
	if m.instance != "" {
		rm.InstanceID = &m.instance
	}
	req.Members = append(req.Members, rm)
	if response, ok := m.ask(ctx, req); ok {
		r := response.(*kmsg.LeaveGroupResponse)
		code := r.ErrorCode
		if code == errNone && m.leaves >= 3 {
			code = r.Members[0].ErrorCode
		}
		m.judge("LeaveGroup", code)
	}
}

package kafka

import (
	"container/list"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
)

// sessions keeps incremental fetch sessions (KIP-227): the partitions that a client fetches and what it was last told of
// each, so that requests and answers name only what changed. They are this agent's: a client that moves gets
// FETCH_SESSION_ID_NOT_FOUND and starts over with a full fetch.
type sessions struct {
	most      int
	mostBytes int64
	metrics   *Metrics

	mu    sync.Mutex // guards the rest, and every session
	bytes int64      // of all sessions
	byID  map[int32]*session
	used  list.List // of *session, least recently used first
}

// session is one client's. Guarded by sessions.mu.
type session struct {
	id    int32
	epoch int32 // expected of the next request
	byID  bool  // topics are named by id (version 13 on)
	parts map[partitionKeyed]*sessionPart
	order []*sessionPart // whose turn it is; what had it goes to the end
	elem  *list.Element
	used  time.Time // when a request last named it
	bytes int64     // about what it takes; counted in sessions.bytes
}

// sessionPartBytes is about what a partition of a session takes beside its topic's name.
const sessionPartBytes = 320

// sessionUsed is for how long after a request a session is in use and does not make room for another; as in Kafka.
// Otherwise more clients than there is room for would evict each other's sessions with every request, and each of those
// would be a full one.
const sessionUsed = 2 * time.Minute

// partitionKeyed names a partition as the client does: by topic id, or by name.
type partitionKeyed struct {
	id        entry.UUID
	name      string
	partition int32
}

// wanted is what a client asks of one partition.
type wanted struct {
	partitionKeyed
	offset      int64
	maxBytes    int32
	leaderEpoch int32 // current, by what the client knows; -1: it does not say
	lastEpoch   int32 // of the record before offset; -1: the client does not say
}

// told is what a client knows of one partition.
type told struct {
	topic                     entry.UUID
	highWatermark, lastStable int64
	logStart                  int64
	code                      errorCode
	// diverging: the client has read past the end of an epoch, and is told which, and where that ended.
	diverging     bool
	divergedEpoch int32
	divergedEnd   int64
}

type sessionPart struct {
	wanted
	told    told
	fresh   bool // nothing was told yet
	removed bool
}

func (p *sessionPart) size() int64 { return sessionPartBytes + int64(len(p.name)) }

func newSessions(most, mostBytes int, metrics *Metrics) *sessions {
	return &sessions{most: most, mostBytes: int64(mostBytes), metrics: metrics, byID: make(map[int32]*session)}
}

// fetchPlan is what one request fetches.
type fetchPlan struct {
	sessionID   int32
	incremental bool
	parts       []planPart
}

type planPart struct {
	wanted
	in *sessionPart // nil outside of sessions
	// was and fresh are the session's at the start.
	was   told
	fresh bool

	now       told
	behind    int64 // about how many bytes of records there are from offset on
	ready     bool  // records are there
	elsewhere int32 // the agent to fetch from instead, -1: none
	bytes     int   // of records in the answer
	records   int64 // how many those are
	cut       bool  // it has more records than the answer had room for
	late      bool  // it is a replay's, and was told to come later
	// served: it had its turn, and records or an error came of it. What the deadline left out had none.
	served bool
}

// Session epochs with a meaning.
const (
	epochFinal   = -1 // no session, or its end
	epochInitial = 0  // a full fetch that may start one
)

// begin turns a request into a plan. A code other than codeNone is the whole answer.
func (s *sessions) begin(req *kmsg.FetchRequest, now time.Time) (fetchPlan, errorCode) {
	if req.Version < 7 || req.SessionEpoch == epochFinal {
		s.end(req.SessionID)
		return fetchPlan{parts: sessionless(req)}, codeNone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.SessionEpoch == epochInitial {
		s.removeLocked(s.byID[req.SessionID])
		return s.startLocked(req, now), codeNone
	}
	ses := s.byID[req.SessionID]
	switch {
	case ses == nil:
		return fetchPlan{}, codeFetchSessionNotFound
	case ses.byID != (req.Version >= 13):
		return fetchPlan{}, codeFetchSessionTopicID
	case ses.epoch != req.SessionEpoch:
		return fetchPlan{}, codeInvalidFetchEpoch
	}
	ses.epoch = nextEpoch(ses.epoch)
	s.bytes -= ses.bytes
	ses.update(req)
	s.bytes += ses.bytes
	ses.used = now
	s.used.MoveToBack(ses.elem)
	if !s.makeRoomLocked(0, 0, now) { // it has grown too large: the client starts over, and goes without
		s.removeLocked(ses)
		return fetchPlan{}, codeFetchSessionNotFound
	}
	if len(ses.parts) == 0 {
		s.removeLocked(ses)
		return fetchPlan{}, codeNone
	}
	return ses.plan(true), codeNone
}

// nextEpoch skips what has a meaning of its own.
func nextEpoch(e int32) int32 {
	if e == math.MaxInt32 {
		return 1
	}
	return e + 1
}

// startLocked makes a session of a full fetch. One without partitions stays without, and so does one that finds all
// sessions in use.
func (s *sessions) startLocked(req *kmsg.FetchRequest, now time.Time) fetchPlan {
	ses := &session{epoch: 1, byID: req.Version >= 13, used: now, parts: make(map[partitionKeyed]*sessionPart)}
	ses.update(req)
	if len(ses.parts) == 0 {
		return fetchPlan{}
	}
	for ses.id == 0 || s.byID[ses.id] != nil {
		ses.id = rand.Int32()
	}
	if !s.makeRoomLocked(1, ses.bytes, now) {
		return fetchPlan{parts: sessionless(req)}
	}
	s.byID[ses.id] = ses
	s.bytes += ses.bytes
	ses.elem = s.used.PushBack(ses)
	s.metrics.fetchSessions.Set(float64(len(s.byID)))
	return ses.plan(false)
}

// makeRoomLocked evicts sessions that are out of use until there is room for so many more. It reports whether there is.
func (s *sessions) makeRoomLocked(more int, bytes int64, now time.Time) bool {
	for len(s.byID)+more > s.most || s.bytes+bytes > s.mostBytes {
		front := s.used.Front()
		if front == nil {
			return false
		}
		oldest, _ := front.Value.(*session)
		if now.Sub(oldest.used) < sessionUsed {
			return false
		}
		s.removeLocked(oldest)
		s.metrics.evicted.Inc()
	}
	return true
}

// parts is how many partitions a session has.
func (s *sessions) parts(id int32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ses := s.byID[id]; ses != nil {
		return len(ses.parts)
	}
	return 0
}

func (s *sessions) end(id int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(s.byID[id])
}

func (s *sessions) removeLocked(ses *session) {
	if ses == nil {
		return
	}
	delete(s.byID, ses.id)
	s.bytes -= ses.bytes
	s.used.Remove(ses.elem)
	s.metrics.fetchSessions.Set(float64(len(s.byID)))
}

// update takes a request's changes.
func (ses *session) update(req *kmsg.FetchRequest) {
	for _, w := range requested(req) {
		if p := ses.parts[w.partitionKeyed]; p != nil {
			p.wanted = w
			continue
		}
		p := &sessionPart{wanted: w, fresh: true}
		ses.parts[w.partitionKeyed] = p
		ses.bytes += p.size()
		ses.order = append(ses.order, p)
	}
	for i := range req.ForgottenTopics {
		t := &req.ForgottenTopics[i]
		for _, partition := range t.Partitions {
			key := partitionKeyed{id: t.TopicID, name: t.Topic, partition: partition}
			if p := ses.parts[key]; p != nil {
				p.removed = true
				ses.bytes -= p.size()
				delete(ses.parts, key)
			}
		}
	}
	if len(req.ForgottenTopics) > 0 {
		kept := ses.order[:0]
		for _, p := range ses.order {
			if !p.removed {
				kept = append(kept, p)
			}
		}
		clear(ses.order[len(kept):])
		ses.order = kept
	}
}

func (ses *session) plan(incremental bool) fetchPlan {
	plan := fetchPlan{sessionID: ses.id, incremental: incremental, parts: make([]planPart, len(ses.order))}
	for i, p := range ses.order {
		plan.parts[i] = planPart{wanted: p.wanted, in: p, was: p.told, fresh: p.fresh}
	}
	return plan
}

// requested lists the partitions that a request names, in its order.
func requested(req *kmsg.FetchRequest) []wanted {
	var list []wanted
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			list = append(list, wanted{
				partitionKeyed: partitionKeyed{id: t.TopicID, name: t.Topic, partition: p.Partition},
				offset:         p.FetchOffset, maxBytes: p.PartitionMaxBytes, leaderEpoch: p.CurrentLeaderEpoch,
				lastEpoch: p.LastFetchedEpoch,
			})
		}
	}
	return list
}

// sessionless plans a fetch of its own. A partition that is named more than once is fetched once, as it was named last.
func sessionless(req *kmsg.FetchRequest) []planPart {
	list := requested(req)
	parts := make([]planPart, 0, len(list))
	var at map[partitionKeyed]int
	if len(list) > 1 {
		at = make(map[partitionKeyed]int, len(list))
	}
	for i := range list {
		key := list[i].partitionKeyed
		if k, again := at[key]; again {
			parts[k].wanted = list[i]
			continue
		}
		if at != nil {
			at[key] = len(parts)
		}
		parts = append(parts, planPart{wanted: list[i], fresh: true})
	}
	return parts
}

// commit notes what a client is about to be told, and whose turn is next.
func (s *sessions) commit(plan *fetchPlan, included []int) {
	if plan.sessionID == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ses := s.byID[plan.sessionID]
	if ses == nil {
		return
	}
	served := make(map[*sessionPart]bool)
	for _, i := range included {
		p := &plan.parts[i]
		p.in.told, p.in.fresh = p.now, false
		if p.served {
			served[p.in] = true
		}
	}
	if len(served) == 0 || len(served) == len(ses.order) {
		return
	}
	next := make([]*sessionPart, 0, len(ses.order))
	for _, p := range ses.order {
		if !served[p] {
			next = append(next, p)
		}
	}
	for _, p := range ses.order {
		if served[p] {
			next = append(next, p)
		}
	}
	ses.order = next
}

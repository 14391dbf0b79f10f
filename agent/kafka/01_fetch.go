package kafka

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Fetch (1), versions 4 to 18: record batches, sessions from 7 on, topic ids from 13 on.
//
// A long poll looks at the state and sleeps until an applied entry changes one of its partitions; only when there is
// something to read are records read, straight into the answer, or lent by the cache and sent from there. There are no transactions: the last stable offset is the
// high watermark, the list of aborted ones is empty, and both isolation levels read the same.
//
// A replay may be told to come later (fetch.Result.Later): then the answer goes without it, and where it has nothing else, the long poll goes on.
//
// An answer that had no room for records that are there does not wait for min_bytes: it cannot get any fuller. The reads of an answer share one deadline, so that a bucket that hangs holds up an answer once and not
// once for each partition; what was not read by then is OFFSET_NOT_AVAILABLE, which clients retry.

// gatherPause is how long a fetch whose min_bytes are not there yet lets more records come together before it reads again.
const gatherPause = 20 * time.Millisecond

// laterPause is when a replay that was told to come later does.
const laterPause = 20 * time.Millisecond

// fetching is one Fetch under way.
type fetching struct {
	s    *Server
	req  *kmsg.FetchRequest
	plan fetchPlan
	// current: a barrier was taken since the request arrived; lagging is why it could not be.
	current bool
	lagging error

	// limit is how many bytes of records the answer may have, which are charged for; it grows up to most while there is room.
	limit, most int
	charge      int64
	visitor     *visitor // who it is charged to
	out         fetch.Out
	// late: a replay was told to come later; those behind it in the answer do not wait as long again.
	late bool

	// rack is the zone that the client says it is in, where it does; see redirect.
	rack string
	who  audience
}

func (s *Server) fetch(ctx context.Context, r *request, req *kmsg.FetchRequest) (reply, error) {
	plan, code := s.sessions.begin(req, time.Now())
	f := &fetching{s: s, req: req, plan: plan, visitor: r.conn.visitor}
	if req.Version >= 11 && req.Rack != "" {
		f.rack, f.who = req.Rack, r.audience()
	}
	if code != codeNone {
		s.cfg.Metrics.failed(keyFetch, code)
		return reply{built: f.appendEnvelope(s.startAnswer(r, 0), code, nil)}, nil
	}
	wait := time.Duration(max(req.MaxWaitMillis, 0)) * time.Millisecond
	over := time.NewTimer(min(wait, s.cfg.FetchWaitMax))
	defer over.Stop()
	var changed chan struct{} // nil until the first sleep
	crowded := r.conn.crowded // it may hold memory, or hold up what does, while it sleeps: where others wait for that, it ends
	select {
	case <-crowded: // was meant for a request before it
	default:
	}
	for last := wait == 0 || req.MinBytes <= 0 || len(plan.parts) == 0; ; {
		failed, readable := f.look(ctx)
		if ctx.Err() != nil {
			return reply{}, context.Cause(ctx)
		}
		failed = f.redirect(r.conn) || failed
		if last || failed || readable {
			a, size, err := f.answer(ctx, r, last || failed)
			if err != nil || a.built != nil {
				return a, err
			}
			if size > 0 && !pause(ctx, gatherPause, over.C, s.drained) {
				last = true
				continue
			}
		}
		if changed == nil { // from here on nothing is missed: look once more before the sleep
			changed = make(chan struct{}, 1)
			defer s.meta.Subscribe(f.refs(), changed)()
			continue
		}
		var again <-chan time.Time
		if f.late {
			again = time.After(laterPause)
		}
		select {
		case <-changed:
		case <-again:
		case <-over.C:
			last = true
		case <-s.drained:
			last = true
		case <-r.conn.hungUp:
			last = true
		case <-crowded:
			last = true
		case <-ctx.Done():
			return reply{}, context.Cause(ctx)
		}
	}
}

// pause waits d; false means that the wait is over altogether.
func pause(ctx context.Context, d time.Duration, over <-chan time.Time, drained <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-over:
	case <-drained:
	case <-ctx.Done():
	}
	return false
}

// refs are the partitions whose changes matter.
func (f *fetching) refs() []state.PartitionRef {
	refs := make([]state.PartitionRef, 0, len(f.plan.parts))
	for i := range f.plan.parts {
		p := &f.plan.parts[i]
		if p.now.code == codeNone {
			refs = append(refs, state.PartitionRef{Topic: p.now.topic, Partition: p.partition})
		}
	}
	return refs
}

// look fills in where every partition stands now. failed: one has an error to tell. readable: one has records.
func (f *fetching) look(ctx context.Context) (failed, readable bool) {
	doubtful := f.view()
	if doubtful && !f.current && f.lagging == nil {
		if f.lagging = f.s.barrier(ctx); f.lagging == nil {
			f.current = true
			f.view()
		}
	}
	for i := range f.plan.parts {
		p := &f.plan.parts[i]
		if f.lagging != nil && !f.current && (provable(p.now.code) || p.now.diverging) {
			p.now.code, p.now.diverging = codeOffsetNotAvailable, false
		}
		failed = failed || p.now.code != codeNone || p.now.diverging
		p.ready = p.now.code == codeNone && !p.now.diverging && p.offset < p.now.highWatermark
		readable = readable || p.ready
	}
	return failed, readable
}

// provable reports codes that clients act on for good.
func provable(c errorCode) bool {
	return c == codeUnknownTopicOrPartition || c == codeUnknownTopicID || c == codeOffsetOutOfRange
}

// view reads the state. doubtful: an agent that trails could be wrong about what it found.
func (f *fetching) view() (doubtful bool) {
	f.s.meta.View(func(st *state.State) {
		for i := range f.plan.parts {
			p := &f.plan.parts[i]
			p.elsewhere = -1
			p.now = told{topic: p.id, highWatermark: -1, lastStable: -1, logStart: -1}
			var t *state.Topic
			if f.req.Version >= 13 {
				t = st.TopicByID(p.id)
			} else {
				t = st.TopicByName(p.name)
			}
			switch {
			case t == nil && f.req.Version >= 13:
				p.now.code = codeUnknownTopicID
			case t == nil || t.Partition(int(p.partition)) == nil:
				p.now.code = codeUnknownTopicOrPartition
			default:
				f.stand(p, t.ID, t.Partition(int(p.partition)))
			}
			doubtful = doubtful || provable(p.now.code) || p.now.diverging
		}
	})
	return doubtful
}

// stand fills in where the partition stands for this client. One that last read a record of an epoch that ended before its
// offset has read what was taken back: it is told where its log and this one part, and gets no records.
func (f *fetching) stand(p *planPart, topic entry.UUID, part *state.Partition) {
	if p.now.code = judgeLeaderEpoch(p.leaderEpoch, part.LeaderEpoch()); p.now.code != codeNone {
		return
	}
	p.now.topic = topic
	p.now.highWatermark, p.now.lastStable, p.now.logStart = part.Next(), part.LastStable(), part.LogStart()
	if p.lastEpoch >= 0 && f.req.Version >= 12 {
		of, end := part.EpochEnd(p.lastEpoch)
		switch {
		case of < 0:
			p.now.code = codeOffsetOutOfRange
			return
		case of < p.lastEpoch || end < p.offset:
			p.now.diverging, p.now.divergedEpoch, p.now.divergedEnd = true, of, end
			return
		}
	}
	p.behind = behind(part, p.offset)
	if p.offset < p.now.logStart || p.offset > p.now.highWatermark {
		p.now.code = codeOffsetOutOfRange
	}
}

// judgeLeaderEpoch compares the leader epoch that a client knows with the partition's: one that is behind asks for metadata
// and finds out what was taken back, one that is ahead asks again.
func judgeLeaderEpoch(known, current int32) errorCode {
	switch {
	case known < 0 || known == current:
		return codeNone
	case known < current:
		return codeFencedLeaderEpoch
	}
	return codeUnknownLeaderEpoch
}

// behind is about how many bytes of records a partition has from offset on, going by the average; on the high side.
func behind(p *state.Partition, offset int64) int64 {
	records := max(p.Next()-p.LogStart(), 1)
	each := float64(p.Size()) / float64(records)
	return int64(float64(max(p.Next()-offset, 0))*each*1.25) + 4<<10
}

// included lists the parts that the answer names: all, or in an incremental fetch those with news.
func (f *fetching) included() []int {
	list := make([]int, 0, len(f.plan.parts))
	for i := range f.plan.parts {
		p := &f.plan.parts[i]
		if !f.plan.incremental || p.fresh || p.ready || p.now.code != codeNone || p.now.diverging || p.elsewhere >= 0 || p.now != p.was {
			list = append(list, i)
		}
	}
	return list
}

// answer reads what there is. Where final is not set and min_bytes are not reached it returns no answer, but how many
// bytes there were.
func (f *fetching) answer(ctx context.Context, r *request, final bool) (reply, int, error) {
	s := f.s
	f.most, f.limit = int(s.answers.clip(int64(min(max(f.req.MaxBytes, 0), int32(s.cfg.FetchBytesMax))))), 0
	// Room is made for what is there rather than for what clients allow, which is tens of times as much at the tail.
	for i := range f.plan.parts {
		if p := &f.plan.parts[i]; p.ready {
			f.limit = min(f.limit+int(min(int64(max(p.maxBytes, 1)), p.behind)), f.most)
		}
	}
	if f.charge = int64(f.limit); f.charge > 0 {
		if err := r.conn.take(ctx, s.answers, f.visitor, f.charge); err != nil {
			return reply{}, 0, context.Cause(ctx)
		}
	}
	f.late = false
	included := f.included()
	reads, cancel := context.WithTimeout(ctx, s.cfg.FetchReadTimeout)
	defer cancel()
	rest := 64 * len(included)
	f.out = fetch.Out{Lend: true, Room: func(own []byte, n int) []byte {
		// Most of what is not lent is copied: then room is made for all there may be at once.
		grown := append(s.pool.get(len(own)+max(n, f.limit-f.out.Len())+rest), own...)
		s.pool.put(own)
		return grown
	}}
	dst := f.appendEnvelope(s.startAnswer(r, min(f.limit, lentAnswer)+rest), codeNone, func(dst []byte) []byte {
		return f.appendTopics(reads, dst, included)
	})
	f.out.Own = dst
	size := 0
	for _, i := range included {
		p := &f.plan.parts[i]
		size += p.bytes
		final = final || p.now.code != codeNone || p.now.diverging || p.elsewhere >= 0 || p.cut
	}
	if ctx.Err() != nil || !final && size < min(int(f.req.MinBytes), f.most) {
		s.pool.put(dst)
		f.out.Release()
		s.answers.give(f.visitor, f.charge)
		if ctx.Err() != nil {
			return reply{}, 0, context.Cause(ctx)
		}
		return reply{}, size, nil
	}
	// What is held is the buffer, not what is in it, and what is lent.
	switch held := s.answers.clip(int64(cap(dst) + f.out.Lent())); {
	case size == 0:
		s.answers.give(f.visitor, f.charge)
		f.charge = 0
	case held < f.charge:
		s.answers.give(f.visitor, f.charge-held)
		f.charge = held
	case held > f.charge && s.answers.more(f.visitor, held-f.charge):
		f.charge = held
	}
	for _, i := range included {
		p := &f.plan.parts[i]
		if p.now.code != codeNone {
			s.cfg.Metrics.failed(keyFetch, p.now.code)
		}
		if p.bytes > 0 {
			s.cfg.Traffic.Fetched(p.now.topic, p.records, int64(p.bytes))
		}
	}
	s.sessions.commit(&f.plan, included)
	return reply{built: dst, lent: &f.out, charge: f.charge}, size, nil
}

// lentAnswer is how much room an answer has for records of its own before it needs any: it may have them lent.
const lentAnswer = 32 << 10

// startAnswer returns a pooled buffer with the response's header and room for size bytes more.
func (s *Server) startAnswer(r *request, size int) []byte {
	return appendHeader(s.pool.get(headerRoom+64+size), r)
}

// appendEnvelope writes the response around its topics; nil for none.
func (f *fetching) appendEnvelope(dst []byte, code errorCode, topics func([]byte) []byte) []byte {
	dst = kbin.AppendInt32(dst, 0) // throttle
	if f.req.Version >= 7 {
		dst = kbin.AppendInt16(dst, int16(code))
		dst = kbin.AppendInt32(dst, f.plan.sessionID)
	}
	if topics != nil {
		dst = topics(dst)
	} else {
		dst = f.appendLen(dst, 0)
	}
	return f.appendTags(dst)
}

func (f *fetching) flexible() bool { return f.req.Version >= 12 }

func (f *fetching) appendLen(dst []byte, n int) []byte {
	if f.flexible() {
		return kbin.AppendCompactArrayLen(dst, n)
	}
	return kbin.AppendArrayLen(dst, n)
}

func (f *fetching) appendTags(dst []byte) []byte {
	if f.flexible() {
		return append(dst, 0)
	}
	return dst
}

// appendTopics writes the included parts, neighbours of one topic together, and reads their records.
func (f *fetching) appendTopics(ctx context.Context, dst []byte, included []int) []byte {
	sameTopic := func(a, b int) bool {
		p, q := &f.plan.parts[a], &f.plan.parts[b]
		return p.id == q.id && p.name == q.name
	}
	topics := 0
	for k := range included {
		if k == 0 || !sameTopic(included[k-1], included[k]) {
			topics++
		}
	}
	dst = f.appendLen(dst, topics)
	read := 0
	for k := 0; k < len(included); {
		end := k + 1
		for end < len(included) && sameTopic(included[k], included[end]) {
			end++
		}
		p := &f.plan.parts[included[k]]
		switch {
		case f.req.Version >= 13:
			dst = append(dst, p.id[:]...)
		case f.flexible():
			dst = kbin.AppendCompactString(dst, p.name)
		default:
			dst = kbin.AppendString(dst, p.name)
		}
		dst = f.appendLen(dst, end-k)
		for ; k < end; k++ {
			dst = f.appendPartition(ctx, dst, &f.plan.parts[included[k]], read)
			read += f.plan.parts[included[k]].bytes
		}
		dst = f.appendTags(dst)
	}
	return dst
}

// appendPartition writes one partition; before is how many bytes of records the answer has. The records are appended by the
// reader where they belong; what stands before them is filled in afterwards.
func (f *fetching) appendPartition(ctx context.Context, dst []byte, p *planPart, before int) []byte {
	p.bytes, p.records, p.cut, p.served, p.late = 0, 0, false, false, false
	dst = kbin.AppendInt32(dst, p.partition)
	fixedAt := len(dst)
	dst = f.appendStanding(dst, p)
	lengthAt := len(dst)
	guess := 0
	if p.ready {
		guess = max(0, min(int(min(p.behind, int64(p.maxBytes))), f.most-before))
	}
	dst = f.appendRoomForLength(dst, guess)
	recordsAt, lentBefore := len(dst), f.out.Lent()
	switch {
	case !p.ready:
	case ctx.Err() != nil:
		p.fail(codeOffsetNotAvailable)
		f.appendStanding(dst[:fixedAt], p)
	case before > 0 && before >= f.limit && !f.grow():
		p.cut = true
	default:
		dst = f.read(ctx, dst, p, before)
		p.served = p.now.code != codeNone || len(dst) > recordsAt || f.out.Lent() > lentBefore || p.late
		f.appendStanding(dst[:fixedAt], p) // in place
	}
	p.bytes = len(dst) - recordsAt + f.out.Lent() - lentBefore
	dst = f.fillLength(dst, lengthAt, recordsAt, p.bytes)
	if p.now.diverging {
		return appendDiverging(dst, p.now.divergedEpoch, p.now.divergedEnd)
	}
	return f.appendTags(dst)
}

// read appends a partition's records. What there is was estimated: where it is more, it goes on as long as there is room.
func (f *fetching) read(ctx context.Context, dst []byte, p *planPart, before int) []byte {
	if f.late {
		ctx = fetch.Impatient(ctx)
	}
	f.out.Own = dst
	for offset, start := p.offset, f.out.Len(); ; {
		size, own := f.out.Len()-start, len(f.out.Own)
		room, rest := f.limit-before-size, int(p.maxBytes)-size
		res, err := f.s.log.ReadTo(ctx, p.now.topic, p.partition, offset, max(0, min(room, rest)), &f.out, before+size == 0)
		switch {
		case err != nil && size > 0: // the next fetch begins with it, and tells
			p.cut = true
			return f.out.Own[:own]
		case err != nil:
			code := f.s.codeOf(err, codeOffsetNotAvailable)
			if f.req.Version >= 13 && code == codeUnknownTopicOrPartition {
				code = codeUnknownTopicID
			}
			p.fail(code)
			return f.out.Own[:own]
		}
		if res.Later { // it goes behind the others next time
			f.late, p.late, p.cut = true, true, before+size > 0
			return f.out.Own
		}
		offset = res.NextOffset
		p.records += res.Records
		p.now.highWatermark, p.now.lastStable, p.now.logStart = res.HighWatermark, res.LastStable, res.LogStart
		if p.cut = offset < res.HighWatermark; !p.cut || rest <= room || !f.grow() {
			return f.out.Own
		}
	}
}

// grow makes room for more records than were expected, if it is there at once.
func (f *fetching) grow() bool {
	more := min(max(f.limit, 64<<10), f.most-f.limit)
	if more <= 0 || !f.s.answers.more(f.visitor, int64(more)) {
		return false
	}
	f.limit += more
	f.charge += int64(more)
	return true
}

// appendDiverging writes the tags of a partition of version 12 or later that tells where the client's log and this one part.
func appendDiverging(dst []byte, epoch int32, end int64) []byte {
	const size = 4 + 8 + 1 // epoch, end offset, no tags of its own
	dst = append(dst, 1, 0, size)
	dst = kbin.AppendInt32(dst, epoch)
	return append(kbin.AppendInt64(dst, end), 0)
}

// fail makes p one that could not be read.
func (p *planPart) fail(code errorCode) {
	p.now.code = code
	p.now.highWatermark, p.now.lastStable, p.now.logStart = -1, -1, -1
}

// appendStanding writes what precedes the records. Its size depends on the version alone.
func (f *fetching) appendStanding(dst []byte, p *planPart) []byte {
	dst = kbin.AppendInt16(dst, int16(p.now.code))
	dst = kbin.AppendInt64(dst, p.now.highWatermark)
	dst = kbin.AppendInt64(dst, p.now.lastStable)
	if f.req.Version >= 5 {
		dst = kbin.AppendInt64(dst, p.now.logStart)
	}
	dst = f.appendLen(dst, 0) // aborted transactions
	if f.req.Version >= 11 {
		dst = kbin.AppendInt32(dst, p.elsewhere) // preferred read replica
	}
	return dst
}

// appendRoomForLength leaves room for the length of records of so many bytes, which is a guess.
func (f *fetching) appendRoomForLength(dst []byte, guess int) []byte {
	if f.flexible() {
		return kbin.AppendUvarint(dst, uint32(guess+1))
	}
	return append(dst, 0, 0, 0, 0)
}

// fillLength writes the size of the records that start at recordsAt. A compact length that is shorter or longer than its
// room moves them, as far as they are not lent.
func (f *fetching) fillLength(dst []byte, lengthAt, recordsAt, size int) []byte {
	if !f.flexible() {
		binary.BigEndian.PutUint32(dst[lengthAt:], uint32(size))
		return dst
	}
	var length [5]byte
	b := kbin.AppendUvarint(length[:0], uint32(size+1))
	own, by := len(dst)-recordsAt, lengthAt+len(b)-recordsAt
	for range by {
		dst = append(dst, 0)
	}
	if by != 0 {
		copy(dst[recordsAt+by:], dst[recordsAt:recordsAt+own])
		f.out.Move(recordsAt, by)
	}
	copy(dst[lengthAt:], b)
	return dst[:recordsAt+by+own]
}

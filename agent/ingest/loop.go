package ingest

import (
	"slices"
	"time"

	"github.com/firnlog/firn/metastore/state"
)

// turn is what the loop decided under the lock and does after it.
type turn struct {
	submit []*submission
	start  []*flight
	tell   answered
	next   time.Time // when to look again without being woken; zero: not
}

// loop alone starts uploads and submits ops, so both happen in one order: of segments, and of the parts in each.
func (p *Pipeline) loop() {
	var t turn
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer p.gapWatch.stop()
	for {
		var epoch uint64
		keys := p.gapKeys()
		p.meta.View(func(st *state.State) {
			epoch = st.CollectionEpoch()
			keys.lookUp(st)
		})
		now := time.Now()
		p.mu.Lock()
		p.decideLocked(&t, keys, epoch, now)
		refs, changed := p.gaps.refsLocked()
		p.mu.Unlock()

		t.tell.tell()
		if changed {
			p.gapWatch.follow(p.meta, refs)
			p.gapsMoved() // what came before the subscription was not announced
			p.poke()
		}
		for _, f := range t.start {
			p.objectSeq++
			f.id.Incarnation, f.id.Seq, f.id.CollectionEpoch = p.meta.Incarnation(), p.objectSeq, epoch
			p.work <- f
		}
		for _, s := range t.submit {
			s.at = now
			p.meta.Submit(&s.op, s.done)
		}
		if len(t.start)+len(t.submit) > 0 {
			clear(t.start)
			clear(t.submit)
		}
		t.start, t.submit = t.start[:0], t.submit[:0]

		wait := time.Hour
		if !t.next.IsZero() {
			wait = t.next.Sub(now)
		}
		timer.Reset(wait)
		select {
		case <-p.wake:
		case <-timer.C:
		case <-p.gapWatch.changed:
			p.gapsMoved()
		case <-p.ctx.Done():
			return
		}
	}
}

// decideLocked is the policy: what to submit, and which segments to close and upload.
func (p *Pipeline) decideLocked(t *turn, keys gapKeys, epoch uint64, now time.Time) {
	t.next = time.Time{}
	p.unparkLocked(t, keys, now)
	p.submitLocked(t, epoch)
	p.crowded = false
	for p.uploading < p.cfg.UploadSlots {
		if p.crowded = p.crowdedLocked(); p.crowded {
			break
		}
		f := p.takeLocked(now)
		if f == nil {
			break
		}
		p.cfg.Metrics.flushes[f.reason].Inc()
		p.startLocked(f)
		t.start = append(t.start, f)
	}
	p.uploaded = false
	if len(p.open) > 0 && p.uploading < p.cfg.UploadSlots && !p.crowded {
		t.wakeAt(p.open[0].since.Add(p.cfg.FlushInterval))
	}
}

// submitLocked submits what is uploaded, in order.
//
// Why a refused object cannot be overtaken: ops apply in the order of submission, and Apply refuses an object as stale only
// where the collection epoch went on; it never goes back. An op is submitted only when all those under way name objects of
// the same epoch, so where one is refused all that were submitted after it are refused too. What was refused goes ahead of
// everything else, one segment at a time, and nothing else is submitted until the last of it was.
func (p *Pipeline) submitLocked(t *turn, epoch uint64) {
	p.held = false
	if f := p.ahead; f != nil && f.ended {
		p.ahead, f.inLine = nil, false
		switch {
		case f.open == 0:
			p.recycleLocked(f)
		case stale(f, epoch):
			p.restageAllLocked(f)
		default:
			p.asSubmittedLocked(t, f)
		}
	}
	for len(p.line) > 0 && p.line[0].ended {
		f := p.line[0]
		isStale := stale(f, epoch)
		if f.open > 0 {
			switch {
			case p.ahead != nil, len(p.urgent) > 0 && !isStale, p.submitted > 0 && (isStale || f.id.CollectionEpoch != p.submittedEpoch):
				p.held = true
				return
			}
		}
		p.line[0] = nil
		p.line = p.line[1:]
		f.inLine = false
		switch {
		case f.open == 0:
			p.recycleLocked(f)
		case isStale:
			p.restageAllLocked(f)
		default:
			p.asSubmittedLocked(t, f)
		}
	}
}

func (p *Pipeline) asSubmittedLocked(t *turn, f *flight) {
	p.submittedEpoch = f.id.CollectionEpoch
	p.submitted += len(f.subs)
	for _, s := range f.subs {
		s.inOrder = true
	}
	t.submit = append(t.submit, f.subs...)
}

func (p *Pipeline) restageAllLocked(f *flight) {
	for _, part := range f.parts {
		if part != nil {
			p.restageLocked(part)
		}
	}
}

func (t *turn) wakeAt(at time.Time) {
	if t.next.IsZero() || at.Before(t.next) {
		t.next = at
	}
}

// readBackMax is how much of what was spilled may be in memory again: what all slots are working on.
func (p *Pipeline) readBackMax() int64 { return int64(p.cfg.UploadSlots) * int64(p.cfg.TargetBytes) }

// crowdedLocked reports whether the next segment must stay in the spill, because enough of what was spilled is in memory again and
// is not answered. One may always go on, and so may what was refused: its bytes are in memory already.
func (p *Pipeline) crowdedLocked() bool {
	var f *flight
	switch {
	case p.readBack == 0, len(p.urgent) > 0 && p.ahead == nil && p.submitted == 0:
		return false
	case len(p.queue) > 0:
		f = p.queue[0]
	case len(p.open) > 0:
		f = p.open[0]
	default:
		return false
	}
	more := f.raw - f.resident
	return more > 0 && p.readBack+more > p.readBackMax()
}

// takeLocked gives the next segment to upload, nil where none is to be uploaded now. See "When a segment is closed" in the
// package doc.
func (p *Pipeline) takeLocked(now time.Time) *flight {
	if len(p.urgent) > 0 && p.ahead == nil && p.submitted == 0 {
		p.ahead = p.urgent[0]
		p.urgent = slices.Delete(p.urgent, 0, 1)
		return p.ahead
	}
	if len(p.queue) > 0 {
		f := p.queue[0]
		p.queue[0] = nil
		p.queue = p.queue[1:]
		return f
	}
	if len(p.open) == 0 {
		return nil
	}
	f := p.open[0] // the oldest
	switch {
	case p.draining > 0:
		f.reason = flushDrain
	case p.uploading < p.cfg.EagerUploads:
		f.reason = flushIdle
	case p.uploaded:
		f.reason = flushUpload
		p.uploaded = false
	case now.Sub(f.since) >= p.cfg.FlushInterval:
		f.reason = flushInterval
	default:
		return nil
	}
	p.open = slices.Delete(p.open, 0, 1)
	return f
}

// startLocked puts f in line. What it spilled counts as memory from here on, since the worker reads it back.
func (p *Pipeline) startLocked(f *flight) {
	if more := f.raw - f.resident; more > 0 {
		f.resident += more
		f.readBack += more
		p.readBack += more
		p.addResidentLocked(more)
	}
	f.inLine = true
	p.uploading++
	if f != p.ahead {
		p.line = append(p.line, f)
	}
}

// stale reports whether Apply refuses what names f's object: it is older than the previous collection epoch.
func stale(f *flight, epoch uint64) bool { return f.id.CollectionEpoch+1 < epoch }

// restageLocked moves a part to a segment that goes ahead of all others: behind what was refused before it, but in front
// where it was refused for the second time. Its bytes are found in the body of the object it leaves.
func (p *Pipeline) restageLocked(part *Part) {
	old := part.seg
	at, neighbour := len(p.urgent), len(p.urgent)-1
	if old.reason == flushStale {
		at, neighbour = 0, 0
	}
	var f *flight
	if len(p.urgent) > 0 && &p.urgent[neighbour].source[0] == &old.body[0] {
		f = p.urgent[neighbour]
	} else {
		f = p.newFlightLocked()
		f.since, f.reason, f.source, f.lock = old.since, flushStale, old.body, old.lock
		p.urgent = slices.Insert(p.urgent, at, f)
		p.cfg.Metrics.staleObjects.Inc()
	}
	p.leaveLocked(part)
	f.add(part)
	f.resident += part.size
	p.addResidentLocked(part.size)
}

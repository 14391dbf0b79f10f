package gc

import (
	"context"
	"time"

	"github.com/firnlog/firn/metastore/rendezvous"
	"github.com/firnlog/firn/metastore/state"
)

// scrub is where checking all objects has come.
type scrub struct {
	begun bool
	place int   // in the table of objects
	total int64 // bytes of all, when that was last added up
	check *check
	walk  rowWalk // over the rows that name what was checked

	room float64 // bytes that may be read now; below 0 where more was read
	at   time.Duration
}

// scrubRoomMax bounds what is read at once after a pause.
const scrubRoomMax = 16 << 20

// check goes on with checking objects, as far as the rate allows.
func (t *T) check(ctx context.Context) (bool, error) {
	s := &t.scrub
	if t.cfg.ScrubBytesPerSecond < 0 || t.resting(doingRead) {
		return false, nil
	}
	now := t.deps.Steady()
	rate := min(float64(t.cfg.ScrubBytesPerSecond), float64(s.total)/t.cfg.ScrubPass.Seconds())
	s.room = min(s.room+rate*(now-s.at).Seconds(), scrubRoomMax)
	s.at = now
	if s.begun && s.room <= 0 {
		return false, nil
	}
	if s.walk.walking() {
		t.walkOn()
		return true, nil
	}
	if s.check == nil && !t.nextObject() {
		return s.walk.walking(), nil
	}
	before := s.check.read
	d, done, err := s.check.step(ctx)
	read := s.check.read - before
	s.room -= float64(read)
	t.deps.Metrics.scrubBytes.Add(float64(read))
	if err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		t.failed(doingRead, err)
		return false, nil
	}
	t.fine(doingRead)
	if d != nil {
		t.foundIfNamed(*d)
	} else if done {
		t.damaged.whole(s.check.object.ID, KindMissing, KindSize, KindFooter, KindChunk, KindBatch)
		s.walk.add(s.check.object.ID, s.check.footer)
	}
	if done {
		t.deps.Metrics.scrubbed.Inc()
		s.check = nil
		if s.walk.full() {
			s.walk.begin()
		}
	}
	return true, t.deps.Budget.Take(ctx, int(read))
}

// walkOn goes on with rows, of which nothing has to be read from the bucket.
func (t *T) walkOn() {
	w := &t.scrub.walk
	if !w.step(t.deps.Meta.View) {
		return
	}
	objects, bad := w.end()
	for _, id := range objects {
		if d := bad[id]; d != nil {
			t.foundIfNamed(*d)
		} else {
			t.damaged.whole(id, KindRows)
		}
	}
}

// foundIfNamed is found, unless the object retired and was deleted meanwhile.
func (t *T) foundIfNamed(d Damage) {
	live := false
	t.deps.Meta.View(func(st *state.State) { live = st.Named(d.Object) })
	if live {
		t.found(d)
	}
}

// nextObject takes the next object to check; false where there is none, or rows are to be looked at before the next pass.
func (t *T) nextObject() bool {
	s := &t.scrub
	if !s.begun {
		t.beginPass(true)
	}
	for range 2 {
		for more := true; more; {
			var buf []state.Object
			t.deps.Meta.View(func(st *state.State) {
				for n := 0; more && len(buf) == 0 && n < viewObjects; n++ {
					buf, s.place, more = st.ObjectsFrom(s.place, 1, buf)
				}
			})
			if len(buf) > 0 && !buf[0].Pending {
				s.check = &check{bucket: t.deps.Bucket, object: buf[0]}
				return true
			}
		}
		if len(s.walk.objects) > 0 {
			s.walk.begin()
			return false
		}
		t.deps.Metrics.passes.Inc()
		t.beginPass(false)
		if s.total == 0 {
			break
		}
	}
	return false
}

// beginPass starts with the first object or, so that collectors that never live for a month do not all check the same ones, anywhere.
func (t *T) beginPass(anywhere bool) {
	s := &t.scrub
	s.begun, s.place, s.total = true, 0, 0
	place, more, live := 0, true, 0
	for buf := make([]state.Object, 0, 1024); more; {
		t.deps.Meta.View(func(st *state.State) { buf, place, more = st.ObjectsFrom(place, viewObjects, buf[:0]) })
		for i := range buf {
			s.total += buf[i].Size
			live++
		}
	}
	if anywhere && live > 0 {
		s.place = int(rendezvous.Key(t.deps.Meta.Incarnation()) % uint64(live))
	}
}

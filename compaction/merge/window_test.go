package merge_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/merge"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// flushed makes n objects of up to most bytes by three agents.
func flushed(r *rand.Rand, n int, most int64) []merge.Flushed {
	out := make([]merge.Flushed, n)
	for i := range out {
		out[i] = merge.Flushed{
			ID:   entry.ObjectID{Incarnation: [16]byte{byte(1 + r.IntN(3))}, Seq: uint64(i + 1), CollectionEpoch: 1},
			Size: 1 + r.Int64N(most), Born: uint64(10 + i),
		}
	}
	return out
}

func TestWindowsCutAllObjectsOnce(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		objects := flushed(r, r.IntN(400), 1+r.Int64N(1<<20))
		b := merge.Bounds{Bytes: 1 + r.Int64N(20<<20), Objects: 1 + r.IntN(100)}
		windows := merge.Windows(objects, b)
		var all []merge.Flushed
		for i, w := range windows {
			all = append(all, w.Objects...)
			var bytes int64
			for _, o := range w.Objects {
				bytes += o.Size
			}
			last := w.Objects[len(w.Objects)-1].Size
			switch {
			case bytes != w.Bytes:
				t.Fatalf("seed %d: %d bytes, said to be %d", seed, bytes, w.Bytes)
			case len(w.Objects) > b.Objects || bytes-last >= b.Bytes:
				t.Fatalf("seed %d: %d objects of %d bytes within %+v", seed, len(w.Objects), bytes, b)
			case !w.Closed && i < len(windows)-1:
				t.Fatalf("seed %d: window %d of %d is open", seed, i, len(windows))
			case w.Closed && len(w.Objects) < b.Objects && bytes < b.Bytes/2:
				t.Fatalf("seed %d: window %d closed with %d of %d bytes", seed, i, bytes, b.Bytes)
			}
		}
		if !slices.Equal(all, objects) {
			t.Fatalf("seed %d: the windows are not the objects", seed)
		}
	}
}

func TestAWindowStaysWhatItIs(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		objects := flushed(r, 50+r.IntN(400), 1<<20)
		b := merge.Bounds{Bytes: 4 << 20, Objects: 60}
		windows := merge.Windows(objects, b)
		grown := merge.Windows(append(slices.Clone(objects), flushed(r, 50, 1<<20)...), b)
		for i, w := range windows {
			if w.Closed && !slices.Equal(grown[i].Objects, w.Objects) {
				t.Fatalf("seed %d: window %d changed when more was flushed", seed, i)
			}
			if !w.Closed && grown[i].Key() != w.Key() {
				t.Fatalf("seed %d: the last window changed hands as it grew", seed)
			}
		}
		gone := r.IntN(len(windows)) // some window was merged, and not by chance the first
		var left []merge.Flushed
		for i, w := range windows {
			if i != gone {
				left = append(left, w.Objects...)
			}
		}
		after := merge.Windows(left, b)
		for i, w := range windows {
			if i == gone || !w.Closed {
				continue
			}
			at := i
			if i > gone {
				at--
			}
			if !slices.Equal(after[at].Objects, w.Objects) {
				t.Fatalf("seed %d: window %d changed when window %d was gone", seed, i, gone)
			}
		}
	}
}

func TestAgentsThatDisagreeAboutOldObjectsAgreeAboutNewOnes(t *testing.T) {
	agreed := 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		objects := flushed(r, 600, 1<<20)
		b := merge.Bounds{Bytes: 8 << 20, Objects: 2048}
		mine := merge.Windows(objects, b)
		theirs := merge.Windows(objects[1+r.IntN(5):], b)
		last, other := mine[len(mine)-1], theirs[len(theirs)-1]
		if last.Key() == other.Key() {
			agreed++
		}
	}
	if agreed < 95 {
		t.Errorf("%d of 100 agree after some forty windows", agreed)
	}
}

func TestEveryDueWindowIsOneAgents(t *testing.T) {
	st := state.New(state.Identity{ID: [16]byte{1}})
	for i := range byte(3) {
		e := &entry.Entry{Incarnation: [16]byte{i + 1}, Seq: 1, ClockMs: 1, Ops: []entry.Op{&entry.Join{
			Name: fmt.Sprint(i), MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}},
		}}}
		if err := st.Apply(st.N()+1, e.AppendTo(nil), e, nil); err != nil {
			t.Fatal(err)
		}
	}
	windows := merge.Windows(flushed(rand.New(rand.NewPCG(1, 3)), 3000, 1<<20), merge.Bounds{Bytes: 8 << 20, Objects: 2048})
	have := map[byte]int{}
	for _, w := range windows {
		owners := 0
		for i := range byte(3) {
			if duty.Mine(st, [16]byte{i + 1}, w.Key()) {
				owners++
				have[i]++
			}
		}
		if owners != 1 {
			t.Fatalf("%d agents take a window for theirs", owners)
		}
	}
	for i := range byte(3) {
		if have[i] < len(windows)/6 {
			t.Errorf("agent %d has %d of %d windows", i, have[i], len(windows))
		}
	}
}

func TestDue(t *testing.T) {
	p := merge.Patience{After: time.Minute, Longer: 10 * time.Minute, Most: time.Hour}
	for _, c := range []struct {
		objects, topics int
		closed          bool
		age, lag        time.Duration
		want            bool
	}{
		{objects: 1, topics: 900, closed: true, want: true},
		{objects: 500, topics: 1, age: 59 * time.Second, want: false},
		{objects: 2, topics: 1, age: time.Minute, want: true},
		{objects: 1, topics: 1, age: time.Minute, want: false},
		{objects: 399, topics: 200, age: time.Minute, want: false},
		{objects: 400, topics: 200, age: time.Minute, want: true},
		{objects: 199, topics: 200, age: 10 * time.Minute, want: false},
		{objects: 200, topics: 200, age: 10 * time.Minute, want: true},
		{objects: 1, topics: 200, age: 59 * time.Minute, want: false},
		{objects: 1, topics: 200, age: time.Hour, want: true},
		{objects: 1, topics: 200, age: 4 * time.Minute, lag: 10 * time.Minute, want: false},
		{objects: 1, topics: 200, age: 5 * time.Minute, lag: 10 * time.Minute, want: true},
		{objects: 1, topics: 200, age: 59 * time.Second, lag: time.Millisecond, want: false},
		{objects: 1, topics: 200, age: time.Minute, lag: time.Millisecond, want: true},
		{objects: 1, topics: 200, age: 59 * time.Minute, lag: 24 * time.Hour, want: false},
	} {
		w := merge.Window{Objects: make([]merge.Flushed, c.objects), Closed: c.closed}
		if got := p.Due(&w, c.age, func() merge.Contents { return merge.Contents{Topics: c.topics, Lag: c.lag} }); got != c.want {
			t.Errorf("%+v: due %v", c, got)
		}
	}
}

func TestBoundsFollowTheNumberOfTopics(t *testing.T) {
	for topics, want := range map[int]int64{0: 256 << 20, 32: 256 << 20, 33: 512 << 20, 64: 512 << 20, 65: 1 << 30, 10_000: 1 << 30} {
		if b := merge.BoundsFor(topics, 256<<20, 1<<30); b.Bytes != want || b.Objects != 2048 {
			t.Errorf("%d topics: %+v", topics, b)
		}
	}
}

func TestAges(t *testing.T) {
	var s merge.Sightings
	start := time.Unix(1_000_000, 0)
	const span = time.Hour
	for i := range 20_000 { // every second an entry
		s.Look(uint64(1000+i), start.Add(time.Duration(i)*time.Second), span)
	}
	now := start.Add(20_000 * time.Second)
	for _, ago := range []time.Duration{time.Minute, 10 * time.Minute, time.Hour} {
		born := uint64(1000 + 20_000 - int(ago/time.Second))
		if got := s.Age(born, now); got > ago || got < ago-10*time.Second {
			t.Errorf("%v ago: %v", ago, got)
		}
	}
	if got := s.Age(1, now); got < span {
		t.Errorf("the oldest: %v", got)
	}
	if got := s.Age(1<<40, now); got != 0 {
		t.Errorf("of the future: %v", got)
	}
}

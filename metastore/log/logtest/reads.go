package logtest

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"

	"github.com/firnlog/firn/metastore/log"
)

func watchFromCursor(t *testing.T, s *store) {
	const more = 20
	agents := []*agent{s.agent(t), s.agent(t), s.agent(t)}
	type start struct {
		after  uint64
		cursor log.Cursor
	}
	starts := []start{{}}
	for range 3 {
		commitAll(t, agents, 5)
		entries, cursor := readAll(t, agents[0], 0, nil, 1<<20)
		starts = append(starts, start{uint64(len(entries)), cursor})
		// The cursor of a page is a place too.
		page, cursor, more, err := agents[1].Read(t.Context(), 0, nil, 300)
		if err != nil || !more {
			t.Fatalf("a small page: more=%v, %v", more, err)
		}
		starts = append(starts, start{uint64(len(page)), cursor})
	}
	total := uint64(len(agents) * (3*5 + more))
	var watching sync.WaitGroup
	for _, st := range starts {
		watching.Go(func() {
			entries, err := watchN(t.Context(), agents[2], st.cursor, int(total-st.after))
			if err != nil {
				t.Error(err)
				return
			}
			for i, e := range entries {
				if e.N != st.after+1+uint64(i) {
					t.Errorf("from %d: entry %d is n=%d", st.after, i, e.N)
					return
				}
			}
		})
	}
	commitAll(t, agents, more)
	watching.Wait()
}

func watchProgress(t *testing.T, s *store) {
	a := s.agent(t)
	a.mustCommit(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	signs, entries := 0, 0
	stop := errors.New("stop")
	err := a.Watch(ctx, log.Cursor{}, func(batch []log.Entry) error {
		if batch != nil && len(batch) == 0 {
			t.Error("an empty batch that is not nil")
		}
		if entries += len(batch); batch == nil {
			signs++
		}
		if signs == 3 {
			return stop
		}
		return nil
	})
	if err != stop { //nolint:errorlint // the error itself must come back
		t.Errorf("watch returned %v", err)
	}
	if entries != 2 {
		t.Errorf("%d entries", entries)
	}
}

func readThenWatch(t *testing.T, s *store) {
	const committers, each = 4, 60
	agents := make([]*agent, committers)
	for i := range agents {
		agents[i] = s.agent(t)
	}
	var readers sync.WaitGroup
	for _, maxBytes := range []int{200, 2000, 1 << 20} {
		l := s.log(t)
		readers.Go(func() {
			all, cursor := readAll(t, l, 0, nil, maxBytes)
			rest, err := watchN(t.Context(), l, cursor, committers*each-len(all))
			if err != nil {
				t.Error(err)
				return
			}
			checkDense(t, append(all, rest...), 0)
		})
	}
	commitAll(t, agents, each)
	readers.Wait()
}

func readPages(t *testing.T, s *store) {
	agents := []*agent{s.agent(t), s.agent(t), s.agent(t)}
	commitAll(t, agents, 40) // more than the first page of an incarnation
	all, _ := readAll(t, agents[0], 0, nil, 1<<20)
	checkDense(t, all, 0)
	if len(all) != 120 {
		t.Fatalf("read %d entries", len(all))
	}
	for _, maxBytes := range []int{0, 1, 500, 5000} {
		paged, _ := readAll(t, agents[1], 0, nil, maxBytes)
		equal(t, paged, all)
	}
	page, _, more, err := agents[0].Read(t.Context(), 0, nil, 1000)
	if err != nil || !more || len(page) == 0 || len(page) > 40 {
		t.Errorf("a page of 1000 bytes: %d entries, more=%v, %v", len(page), more, err)
	}
	page, _, more, err = agents[0].Read(t.Context(), 120, nil, 1000)
	if err != nil || more || len(page) != 0 {
		t.Errorf("at the head: %d entries, more=%v, %v", len(page), more, err)
	}
}

// readHints: lastSeq is a way to read less, never a way to get something else.
func readHints(t *testing.T, s *store) {
	agents := []*agent{s.agent(t), s.agent(t)}
	commitAll(t, agents, 10)
	late := s.agent(t)
	late.mustCommit(t, 3)
	all, _ := readAll(t, agents[0], 0, nil, 1<<20)
	const after = 12
	exact := map[log.Incarnation]uint64{}
	for _, e := range all[:after] {
		exact[e.Key.Incarnation] = e.Key.Seq
	}
	partial := map[log.Incarnation]uint64{agents[0].incarnation: exact[agents[0].incarnation]}
	low := map[log.Incarnation]uint64{agents[0].incarnation: 1, agents[1].incarnation: 1, newIncarnation(): 7}
	high := map[log.Incarnation]uint64{agents[0].incarnation: 10, agents[1].incarnation: 10, late.incarnation: 9}
	for name, hints := range map[string]map[log.Incarnation]uint64{
		"exact": exact, "none": nil, "partial": partial, "too low": low, "too high": high,
	} {
		entries, _, more, err := agents[1].Read(t.Context(), after, hints, 1<<20)
		if err != nil || more {
			t.Errorf("%s: more=%v, %v", name, more, err)
			continue
		}
		equal(t, entries, all[after:])
	}
}

func readTrimmed(t *testing.T, s *store) {
	agents := []*agent{s.agent(t), s.agent(t)}
	commitAll(t, agents, 10)
	all, _ := readAll(t, agents[0], 0, nil, 1<<20)
	const trimmed = 9
	hints := map[log.Incarnation]uint64{}
	var keys []log.Key
	for _, e := range all[:trimmed] {
		keys = append(keys, e.Key)
		hints[e.Key.Incarnation] = e.Key.Seq
	}
	for range 2 { // again is harmless
		if err := agents[0].Trim(t.Context(), keys, log.Cursor{Revision: math.MaxInt64}); err != nil {
			t.Fatal(err)
		}
	}
	for _, after := range []uint64{0, 1, trimmed - 1} {
		_, _, _, err := agents[1].Read(t.Context(), after, nil, 1<<20)
		wantErr(t, err, log.ErrTrimmed)
	}
	rest, cursor := readAll(t, agents[1], trimmed, hints, 1<<20)
	equal(t, rest, all[trimmed:])
	commitAll(t, agents, 2)
	watched, err := watchN(t.Context(), agents[1], cursor, 4)
	if err != nil {
		t.Fatal(err)
	}
	checkDense(t, append(rest, watched...), trimmed)
	if n, err := agents[0].Head(t.Context()); err != nil || n != 24 {
		t.Errorf("head %d, %v: a trim must not move it", n, err)
	}
}

func readAhead(t *testing.T, s *store) {
	a := s.agent(t)
	a.mustCommit(t, 1)
	_, _, _, err := a.Read(t.Context(), 2, nil, 1)
	wantErr(t, err, log.ErrRefused)
}

func trimBounds(t *testing.T, s *store) {
	a := s.agent(t)
	a.mustCommit(t, 2)
	keys := make([]log.Key, 1001)
	for i := range keys {
		keys[i] = log.Key{Incarnation: newIncarnation(), Seq: uint64(i) + 1}
	}
	if err := a.Trim(t.Context(), keys, log.Cursor{Revision: math.MaxInt64}); err == nil {
		t.Error("1001 keys were taken")
	}
	// Scattered keys, none of which exists but one.
	if err := a.Trim(t.Context(), append(keys[:999], log.Key{Incarnation: a.incarnation, Seq: 1}), log.Cursor{Revision: math.MaxInt64}); err != nil {
		t.Fatal(err)
	}
	rest, _ := readAll(t, a, 1, map[log.Incarnation]uint64{a.incarnation: 1}, 1)
	checkDense(t, rest, 1)
	if len(rest) != 1 {
		t.Errorf("%d entries are left", len(rest))
	}
	if err := a.Trim(t.Context(), nil, log.Cursor{Revision: math.MaxInt64}); err != nil {
		t.Error(err)
	}
}

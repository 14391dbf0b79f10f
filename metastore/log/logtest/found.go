package logtest

import (
	"errors"
	"sync"
	"testing"

	"github.com/firnlog/firn/metastore/log"
)

// RunFounding runs the suite of log.Founder; newStore makes an empty store, with no log in it, for each test.
func RunFounding(t *testing.T, newStore func(t *testing.T) Opener) {
	found := log.Identity{ID: [16]byte{1, 2, 3}, Epoch: 7, Base: 100}
	cells := map[string][]byte{"archive": []byte("key"), "restore": []byte("{}")}
	founder := func(t *testing.T, s *store) log.Founder {
		f, ok := s.log(t).(log.Founder)
		if !ok {
			t.Fatal("not a log.Founder")
		}
		return f
	}
	for _, tc := range []struct {
		name string
		test func(t *testing.T, s *store)
	}{
		{"a founded log goes on after its base", func(t *testing.T, s *store) {
			f := founder(t, s)
			if st, err := f.Standing(t.Context()); err != nil || st.Keys != 0 || st.Identity != (log.Identity{}) {
				t.Fatalf("before: %+v, %v", st, err)
			}
			identity, err := f.Found(t.Context(), found, cells)
			if err != nil {
				t.Fatal(err)
			}
			if identity.ID != found.ID || identity.Epoch != 7 || identity.Base != 100 || identity.Cluster == "" {
				t.Errorf("founded %+v", identity)
			}
			a := s.agent(t)
			if a.identity != identity {
				t.Errorf("agents see %+v, founded was %+v", a.identity, identity)
			}
			a.mustCommit(t, 3)
			if head, err := a.Head(t.Context()); err != nil || head != 103 {
				t.Errorf("head %d, %v", head, err)
			}
			entries, _, _, err := a.Read(t.Context(), 100, nil, 1<<20)
			if err != nil || len(entries) != 3 || entries[0].N != 101 {
				t.Errorf("%d entries, %v", len(entries), err)
			}
			if _, _, _, err := a.Read(t.Context(), 99, nil, 1<<20); !errors.Is(err, log.ErrTrimmed) {
				t.Errorf("entries of the epoch before: %v", err)
			}
			for name, want := range cells {
				if cell, err := a.Load(t.Context(), name); err != nil || string(cell.Value) != string(want) || cell.Version == 0 {
					t.Errorf("cell %s: %+v, %v", name, cell, err)
				}
			}
		}},
		{"where anything is, nothing is founded", func(t *testing.T, s *store) {
			f := founder(t, s)
			if _, err := f.Identity(t.Context()); err != nil {
				t.Fatal(err)
			}
			before, err := f.Standing(t.Context())
			if err != nil || before.Keys != 1 || len(before.Some) != 1 || before.Identity.Epoch != 1 {
				t.Fatalf("%+v, %v", before, err)
			}
			if _, err := f.Found(t.Context(), found, cells); !errors.Is(err, log.ErrConflict) {
				t.Errorf("founded over a log: %v", err)
			}
			if after, err := f.Standing(t.Context()); err != nil || after.Keys != 1 || after.Identity != before.Identity {
				t.Errorf("%+v, %v", after, err)
			}
		}},
		{"a cell alone is something", func(t *testing.T, s *store) {
			f := founder(t, s)
			if _, err := f.Swap(t.Context(), "x", 0, nil, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Found(t.Context(), found, cells); !errors.Is(err, log.ErrConflict) {
				t.Errorf("founded beside a cell: %v", err)
			}
		}},
		{"one of many founds", func(t *testing.T, s *store) {
			var wg sync.WaitGroup
			wins := make(chan uint64, 8)
			for i := range 8 {
				f := founder(t, s)
				wg.Go(func() {
					mine := found
					mine.Epoch += uint64(i)
					switch got, err := f.Found(t.Context(), mine, cells); {
					case err == nil:
						wins <- got.Epoch
					case !errors.Is(err, log.ErrConflict):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if len(wins) != 1 {
				t.Fatalf("%d founded", len(wins))
			}
			if st, err := founder(t, s).Standing(t.Context()); err != nil || st.Identity.Epoch != <-wins {
				t.Errorf("%+v, %v", st, err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.test(t, &store{open: newStore(t)})
		})
	}
}

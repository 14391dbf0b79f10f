package duty_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// cluster is a state with so many joined agents, whose incarnations are {1}, {2}, ….
func cluster(t *testing.T, agents int) *state.State {
	t.Helper()
	st := state.New(state.Identity{ID: [16]byte{1}})
	for i := range agents {
		e := &entry.Entry{Incarnation: [16]byte{byte(i + 1)}, Seq: 1, ClockMs: 1, Ops: []entry.Op{&entry.Join{
			Name: string(rune('a' + i)), MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}},
		}}}
		var r state.Results
		if err := st.Apply(st.N()+1, e.AppendTo(nil), e, &r); err != nil || r.EntryCode != state.OK || r.Ops[0].Code != state.OK {
			t.Fatal(err, r.EntryCode, r.Ops)
		}
	}
	return st
}

func TestEveryPieceIsOneAgents(t *testing.T) {
	st := cluster(t, 3)
	have := map[byte]int{}
	for p := int32(0); p < 64*300; p += 32 {
		key, owners := duty.Territory(entry.UUID{7}, p), 0
		if key != duty.Territory(entry.UUID{7}, p/64*64) {
			t.Fatalf("partition %d is in no territory with its neighbours", p)
		}
		for agent := byte(1); agent <= 3; agent++ {
			if duty.Mine(st, [16]byte{agent}, key) {
				owners++
				have[agent]++
			}
		}
		if owners != 1 {
			t.Fatalf("partition %d has %d owners", p, owners)
		}
	}
	for agent := byte(1); agent <= 3; agent++ {
		if have[agent] < 120 || have[agent] > 280 {
			t.Errorf("agent %d has %d of 600", agent, have[agent])
		}
	}
	if duty.Mine(st, [16]byte{9}, duty.Name("gc")) {
		t.Error("an agent that has not joined has work")
	}
}

func TestBudget(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		paced := 0
		b := duty.NewBudget(1<<20, func(_ context.Context, n int) error { paced += n; return nil })
		start := time.Now()
		for range 3 {
			if err := b.Take(t.Context(), 8<<20); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 19*time.Second || took > 21*time.Second {
			t.Errorf("24 MiB at 1 MiB/s, 4 at once: %v", took)
		}
		if paced != 24<<20 {
			t.Errorf("the agent was asked about %d bytes", paced)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Take(ctx, 64<<20); err == nil {
			t.Error("it did not wait")
		}
		refuse := errors.New("no")
		if err := duty.NewBudget(0, func(context.Context, int) error { return refuse }).Take(t.Context(), 1); !errors.Is(err, refuse) {
			t.Error(err)
		}
		if err := (*duty.Budget)(nil).Take(t.Context(), 1<<40); err != nil {
			t.Error(err)
		}
	})
}

func TestScratch(t *testing.T) {
	for name, s := range map[string]duty.Scratch{"dir": duty.InDir(t.TempDir(), 100), "memory": duty.InMemory(100)} {
		t.Run(name, func(t *testing.T) {
			a, err := s.Create()
			if err != nil {
				t.Fatal(err)
			}
			b, err := s.Create()
			if err != nil {
				t.Fatal(err)
			}
			if n, err := a.Write(bytes.Repeat([]byte("a"), 60)); n != 60 || err != nil {
				t.Fatal(n, err)
			}
			if n, err := b.Write(make([]byte, 41)); n != 0 || !errors.Is(err, duty.ErrScratchFull) {
				t.Errorf("%d, %v beyond the bound", n, err)
			}
			if n, err := b.Write([]byte("bbb")); n != 3 || err != nil {
				t.Error(n, err)
			}
			got := make([]byte, 4)
			if n, err := a.ReadAt(got, 56); n != 4 || err != nil && !errors.Is(err, io.EOF) || string(got) != "aaaa" {
				t.Errorf("%d %q, %v", n, got, err)
			}
			if n, err := b.ReadAt(got, 1); n != 2 || !errors.Is(err, io.EOF) {
				t.Errorf("%d, %v past the end", n, err)
			}
			if a.Size() != 60 || b.Size() != 3 {
				t.Errorf("sizes %d and %d", a.Size(), b.Size())
			}
			for range 2 { // safe twice, and counted once
				if err := a.Close(); err != nil {
					t.Error(err)
				}
			}
			if n, err := b.Write(make([]byte, 98)); n != 0 || !errors.Is(err, duty.ErrScratchFull) {
				t.Errorf("%d, %v", n, err)
			}
			if n, err := b.Write(make([]byte, 97)); n != 97 || err != nil {
				t.Errorf("what was freed is not free: %d, %v", n, err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBusy(t *testing.T) {
	var b duty.Busy
	done, ok := b.Try(1)
	if !ok {
		t.Fatal("nobody is there")
	}
	if _, ok := b.Try(1); ok {
		t.Error("two at one piece of work")
	}
	other, ok := b.Try(2)
	if !ok {
		t.Error("another piece of work waits")
	}
	other()
	done()
	if again, ok := b.Try(1); !ok {
		t.Error("it is done, and still taken")
	} else {
		again()
	}
	if _, ok := (*duty.Busy)(nil).Try(1); !ok {
		t.Error("nil keeps somebody out")
	}
}

package wal_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

// model is a log beside what it should hold.
type model struct {
	t     *testing.T
	disk  *walfs.FS
	log   *wal.Log
	next  uint64
	live  [3]map[uint64]wal.Ref // by kind
	freed map[uint64]bool       // durable frames that a restart may bring back
	sizes map[uint64]int
}

func (m *model) append(r *rapid.T, kind wal.Kind) {
	size := rapid.IntRange(8, 2000).Draw(r, "size")
	n := m.next
	m.next++
	ref, err := m.log.Append(m.t.Context(), kind, tagOf(n), payloadOf(n, size))
	if errors.Is(err, wal.ErrFull) {
		if s := m.log.Stats(); s.Bytes+small().FileBytes <= s.MaxBytes {
			r.Fatalf("full at %+v", s)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	m.live[kind][n], m.sizes[n] = ref, size
}

func (m *model) pick(r *rapid.T) (wal.Kind, uint64) {
	kind := rapid.SampledFrom([]wal.Kind{wal.Spill, wal.Durable}).Draw(r, "kind")
	if len(m.live[kind]) == 0 {
		r.Skip("nothing there")
	}
	return kind, rapid.SampledFrom(slices.Sorted(maps.Keys(m.live[kind]))).Draw(r, "frame")
}

// reopen opens the disk and compares. Frames freed before may be back.
func (m *model) reopen(r *rapid.T) {
	m.log = open(m.t, m.disk, small())
	clear(m.live[wal.Spill])
	ns, refs := recovered(m.t, m.log)
	for n, want := range m.live[wal.Durable] {
		if refs[n] != want {
			r.Fatalf("frame %d was at %+v, is at %+v", n, want, refs[n])
		}
	}
	for _, n := range ns {
		if _, ok := m.live[wal.Durable][n]; !ok && !m.freed[n] {
			r.Fatalf("frame %d was invented", n)
		}
		delete(m.freed, n)
		m.live[wal.Durable][n] = refs[n]
	}
}

// TestModel runs random operations against a map.
func TestModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 5))
		m := &model{t: t, disk: walfs.New(rng), freed: map[uint64]bool{}, sizes: map[uint64]int{}}
		m.live[wal.Spill], m.live[wal.Durable] = map[uint64]wal.Ref{}, map[uint64]wal.Ref{}
		m.log = open(t, m.disk, small())
		defer func() { closeLog(t, m.log) }()
		r.Repeat(map[string]func(*rapid.T){
			"durable": func(r *rapid.T) { m.append(r, wal.Durable) },
			"spill":   func(r *rapid.T) { m.append(r, wal.Spill) },
			"read": func(r *rapid.T) {
				kind, n := m.pick(r)
				b, err := m.log.Read(m.live[kind][n], make([]byte, 0, rapid.IntRange(0, 3000).Draw(r, "room")))
				if err != nil || checkFrame(t, tagOf(n), b) != n || len(b) != m.sizes[n] {
					r.Fatalf("read frame %d: %v", n, err)
				}
			},
			"free": func(r *rapid.T) {
				kind, n := m.pick(r)
				m.log.Free(m.live[kind][n])
				if _, err := m.log.Read(m.live[kind][n], nil); !errors.Is(err, wal.ErrNotFound) {
					r.Fatalf("read of a freed frame: %v", err)
				}
				delete(m.live[kind], n)
				if kind == wal.Durable {
					m.freed[n] = true
				}
			},
			"free all": func(r *rapid.T) {
				for kind := range m.live {
					for n, ref := range m.live[kind] {
						m.log.Free(ref)
						m.freed[n] = wal.Kind(kind) == wal.Durable
					}
					clear(m.live[kind])
				}
				if err := m.log.WaitSpace(t.Context(), wal.Spill, 2000); err != nil {
					r.Fatal(err)
				}
			},
			"restart": func(r *rapid.T) {
				closeLog(t, m.log)
				m.reopen(r)
			},
			"crash": func(r *rapid.T) {
				loss := rapid.SampledFrom([]walfs.Loss{walfs.LoseNothing, walfs.LoseAll, walfs.LoseSome}).Draw(r, "loss")
				m.disk.PowerOff()
				_ = m.log.Close() // the power is off
				m.disk = m.disk.Restart(loss)
				m.reopen(r)
			},
			"": func(r *rapid.T) {
				s := m.log.Stats()
				if s.DurableFrames != len(m.live[wal.Durable]) || s.SpillFrames != len(m.live[wal.Spill]) || s.Failed != nil ||
					s.Bytes > s.MaxBytes+small().FileBytes {
					r.Fatalf("%d durable, %d spill, stats %+v", len(m.live[wal.Durable]), len(m.live[wal.Spill]), s)
				}
			},
		})
	})
}

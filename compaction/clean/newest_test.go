package clean

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/firnlog/firn/compaction/duty"
)

// Vectors of the reference implementation: the key is 00..0f, the input the first bytes of 00, 01, 02, ….
func TestHash(t *testing.T) {
	k := newHashKey([16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	for n, want := range []string{
		"a3817f04ba25a8e66df67214c7550293", "da87c1d86b99af44347659119b22fc45",
		"8177228da4a45dc7fca38bdef60affe4", "9c70b60c5267a94e5f33b6b02985ed51",
	} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i)
		}
		d := k.sum(b)
		var got [16]byte
		binary.LittleEndian.PutUint64(got[:], d.hi)
		binary.LittleEndian.PutUint64(got[8:], d.lo)
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("%d bytes: %x, want %s", n, got, want)
		}
	}
	seen := map[digest]bool{}
	for n := range 300 {
		d := k.sum(make([]byte, n))
		if seen[d] {
			t.Errorf("%d zeros collide", n)
		}
		seen[d] = true
	}
	if k.sum(nil) == newHashKey([16]byte{1}).sum(nil) {
		t.Error("the secret makes no difference")
	}
}

func BenchmarkHash(b *testing.B) {
	k := newHashKey([16]byte{1, 2, 3})
	key := make([]byte, 16)
	var sum uint64
	for b.Loop() {
		sum += k.sum(key).hi
	}
	_ = sum
}

func TestNewest(t *testing.T) {
	for _, c := range []struct {
		name          string
		records, keys int
		most          int64
		spills        bool
	}{
		{"nothing", 0, 1, 1 << 20, false},
		{"all in memory", 20_000, 3_000, 1 << 30, false},
		{"one key written often", 50_000, 1, 0, false},
		{"a scratch file", 60_000, 12_000, 192 << 10, true},
		{"scratch files two deep", 200_000, 150_000, 0, true},
		{"every key once", 30_000, 1 << 40, 128 << 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			n := newNewest(c.most, duty.InMemory(1<<30))
			key := newHashKey([16]byte{9})
			for round := range 2 { // it is used again
				want := map[digest]uint64{}
				deepest := 0
				ranks := rng.Perm(c.records)
				for _, rank := range ranks {
					d := key.sum(binary.AppendUvarint(nil, rng.Uint64N(uint64(c.keys))))
					if err := n.add(d, uint64(rank)); err != nil {
						t.Fatal(err)
					}
					want[d] = max(want[d], uint64(rank))
					for at, depth := n, 0; at != nil; at, depth = at.inner, depth+1 {
						if at.bytes > at.most {
							t.Fatalf("%d bytes in memory, %d allowed", at.bytes, at.most)
						}
						deepest = max(deepest, depth)
					}
				}
				if err := n.drain(); err != nil {
					t.Fatal(err)
				}
				if n.fits() == c.spills {
					t.Fatalf("fits: %v", n.fits())
				}
				if n.fits() {
					for d := range want {
						if !n.has(d) {
							t.Fatal("a key is missing")
						}
					}
					if n.has(key.sum([]byte("another key"))) {
						t.Fatal("a key that was never there")
					}
				}
				var got []uint64
				if err := n.each(func(rank uint64) error { got = append(got, rank); return nil }); err != nil {
					t.Fatal(err)
				}
				slices.Sort(got)
				if !slices.Equal(got, slices.Sorted(maps.Values(want))) {
					t.Fatalf("round %d: %d records are the last of their key, want %d", round, len(got), len(want))
				}
				n.reset()
			}
		})
	}
}

func TestNewestWithoutScratchSpace(t *testing.T) {
	n := newNewest(0, duty.InMemory(100_000))
	key := newHashKey([16]byte{9})
	var err error
	for i := uint64(0); err == nil && i < 100_000; i++ {
		err = n.add(key.sum(binary.AppendUvarint(nil, i)), i)
	}
	if !errors.Is(err, duty.ErrScratchFull) {
		t.Fatal(err)
	}
	n.reset()
	f, err := n.scratch.Create()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 100_000)); err != nil {
		t.Errorf("the space was not given back: %v", err)
	}
}

func TestSurvivors(t *testing.T) {
	for _, c := range []struct {
		name  string
		count uint64
		most  int64
	}{
		{"in memory", 10_000, 1 << 20}, {"in windows", 100_000, 1 << 10}, {"in tiny windows", 5_000, 8}, {"none", 0, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, 4))
			scratch := duty.InMemory(1 << 20)
			s, err := newSurvivors(c.count, c.most, scratch)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]bool, c.count)
			for _, i := range rng.Perm(int(c.count))[:c.count/3] {
				want[i] = true
				if err := s.set(uint64(i)); err != nil {
					t.Fatal(err)
				}
			}
			for i := 0; i < len(want); {
				n := min(1+rng.IntN(300), len(want)-i)
				have := 0
				for _, w := range want[i : i+n] {
					if w {
						have++
					}
				}
				if got, err := s.among(uint64(i), n); got != have || err != nil {
					t.Fatalf("%d of [%d, +%d), want %d, %v", got, i, n, have, err)
				}
				for j := i; j < i+n; j++ {
					if got, err := s.has(uint64(j)); got != want[j] || err != nil {
						t.Fatalf("%d: %v, %v", j, got, err)
					}
				}
				i += n
			}
			s.close()
		})
	}
}

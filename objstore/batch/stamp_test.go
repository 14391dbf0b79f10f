package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
)

// The patched CRC must be what reading the whole batch again gives, at every payload size.
func TestStampPatchesTheCRC(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	whole := make([]byte, batch.HeaderSize+1<<20)
	for i := range whole {
		whole[i] = byte(rng.Uint32())
	}
	sizes := []int{}
	for n := range 600 {
		sizes = append(sizes, n)
	}
	for k := 10; k <= 20; k++ {
		sizes = append(sizes, 1<<k-1, 1<<k-batch.HeaderSize, 1<<k-43, 1<<k)
	}
	for range 40 {
		sizes = append(sizes, rng.IntN(1<<20))
	}
	for _, size := range sizes {
		raw := bytes.Clone(whole[:batch.HeaderSize+size])
		raw[16] = 2
		reseal(raw)
		want := bytes.Clone(raw)
		ts := int64(rng.Uint64())
		want[22] |= 8
		binary.BigEndian.PutUint64(want[35:], uint64(ts))
		reseal(want)
		batch.StampLogAppendTime(raw, ts)
		if !bytes.Equal(raw, want) {
			t.Fatalf("LogAppendTime at payload size %d differs from a recomputed CRC", size)
		}
		ts = int64(rng.Uint64())
		batch.StampMaxTimestamp(raw, ts)
		binary.BigEndian.PutUint64(want[35:], uint64(ts))
		if !bytes.Equal(raw, reseal(want)) {
			t.Fatalf("max timestamp at payload size %d differs from a recomputed CRC", size)
		}
	}
}

func TestStampKeepsDamageVisible(t *testing.T) {
	raw := build(t, batch.BuildOptions{}, sample(1, 4, 100)...)
	raw[100] ^= 1
	batch.StampLogAppendTime(raw, now)
	if err := batch.VerifyCRC(raw); !errors.Is(err, batch.ErrCorrupt) {
		t.Fatalf("damage was sealed in: %v", err)
	}
}

func TestStampedBatchesReadBack(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant.name, func(t *testing.T) {
			raw := build(t, variant.opts, sample(2, 9, 100)...)
			batch.StampBase(raw, 1<<40, 77)
			batch.StampLogAppendTime(raw, now+99)
			if err := batch.VerifyCRC(raw); err != nil {
				t.Fatal(err)
			}
			h, err := batch.ParseHeader(raw)
			if err != nil || h.BaseOffset != 1<<40 || h.LeaderEpoch != 77 || !h.LogAppendTime() || h.MaxTimestamp != now+99 {
				t.Fatalf("%+v, %v", h, err)
			}
			if got := collect(t, batch.NewValidator(), raw); len(got) != 9 || got[3].timestamp != now+99 {
				t.Fatalf("%d records", len(got))
			}
		})
	}
}

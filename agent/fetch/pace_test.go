package fetch_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// rate is how many MiB a second a replay gets that works all the time beside an active producer.
func rate(p fetch.Pace, late bool) float64 {
	const seconds = 20
	done, start := 0, time.Now()
	for last := start; time.Since(start) < seconds*time.Second; done++ {
		p.Busy()
		p.Work(1 << 20)
		for ; time.Since(last) > 40*time.Millisecond; last = last.Add(40 * time.Millisecond) {
			p.Woken(late)
		}
		time.Sleep(time.Microsecond)
	}
	return float64(done) / seconds
}

// Beside producers replays take what the machine has to spare, and at least the floor; alone they wait for nothing.
func TestPaceOfReplays(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		p := fetch.NewPace(4 << 20)
		for range 1000 {
			if took := p.Work(8 << 20); took != 0 {
				t.Fatalf("waited %v with nobody to disturb", took)
			}
		}
		if got := rate(p, true); got < 3.9 || got > 6 {
			t.Errorf("%.1f MiB/s on a busy machine, the floor is 4", got)
		}
		if got := rate(p, true); got < 3.9 || got > 4.2 {
			t.Errorf("%.1f MiB/s on a busy machine, the floor is 4", got)
		}
		if got := rate(p, false); got < 100 {
			t.Errorf("%.1f MiB/s on an idle machine", got)
		}
		if got := rate(p, true); got > 100 {
			t.Errorf("%.1f MiB/s once it is busy again", got)
		}
		time.Sleep(2 * time.Second)
		if took := p.Work(100<<20) + p.Work(1); took != 0 {
			t.Errorf("waited %v after the producer had gone", took)
		}
	})
}

// A replay that may not wait is told to come later, and finds what it needs in memory then. A tail reader is never told so.
func TestAReplayIsToldToComeLater(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{ReadAhead: 1}, x, bucket)
		fill(t, x, bucket, topic, 20, 1000)
		impatient := fetch.Impatient(t.Context())
		dst, res, err := r.Read(impatient, topic, 0, 3, 1<<20, []byte("before"), true)
		if err != nil || !res.Later || res.NextOffset != 3 || res.HighWatermark != 20 || string(dst) != "before" {
			t.Fatalf("%q %+v %v", dst, res, err)
		}
		faketime.Wait()
		dst, res, err = r.Read(impatient, topic, 0, 3, 1, nil, true)
		if err != nil || res.Later || len(decode(t, dst)) != 1 || res.NextOffset != 4 {
			t.Fatalf("%+v %v", res, err)
		}
		// Where the answer has something already, it does not wait either.
		if _, res, err = r.Read(t.Context(), topic, 0, 7, 1<<20, nil, false); err != nil || !res.Later {
			t.Fatalf("%+v %v", res, err)
		}
		if dst, res, err = r.Read(impatient, topic, 0, 19, 1<<20, nil, false); err != nil || res.Later || len(decode(t, dst)) != 1 {
			t.Fatalf("the tail: %+v %v", res, err)
		}
	})
}

// On a busy machine a replay of all partitions, fetched as agent/kafka does, gets what it is promised, and its GETs are those of one reader.
func TestAReplayGetsItsFloor(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		const segments, size, floor = 50, 250_000, 1 << 20
		for i := range segments {
			var parts []part
			for k := range int32(4) {
				parts = append(parts, of(t, batch.BuildOptions{}, topic, k, now, fmt.Sprintf("%0*d", size, i)))
			}
			x.add(bucket, segment.Options{}, parts...)
		}
		r, cache := open(t, fetch.Config{ColdBytes: floor, Bytes: 16 << 20, ReadAhead: 4}, x, bucket)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { cache.Strain(ctx) })
		time.Sleep(time.Second) // the rate is down
		start, read := time.Now(), 0
		var offsets [4]int64
		for first := 0; time.Since(start) < time.Minute && offsets[0] < segments-10; first++ {
			reads, bytes := ctx, 0
			for k := range offsets {
				k = (first + k) % len(offsets)
				if offsets[k] >= segments-10 {
					continue
				}
				dst, res, err := r.Read(reads, topic, int32(k), offsets[k], 1<<20, nil, bytes == 0)
				if err != nil {
					t.Fatal(err)
				}
				if res.Later {
					reads = fetch.Impatient(reads)
				}
				offsets[k] = res.NextOffset
				bytes += len(dst)
			}
			read += bytes
			if bytes == 0 {
				time.Sleep(20 * time.Millisecond)
			}
		}
		took := time.Since(start).Seconds()
		cancel()
		wg.Wait()
		if got := float64(read) / took; got < 0.7*floor || got > 1.3*floor {
			t.Errorf("%.2f of the floor: %d bytes in %.1f s, at %v", got/floor, read, took, offsets)
		}
		if n := bucket.count(); n > segments {
			t.Errorf("%d GETs", n)
		}
	})
}

// A replay that comes to the end of the log does not slow itself down there; who has waited at the end is a tail reader.
func TestAReplayIsNoTailReader(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	add := func() { x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "v")) }
	for range 30 {
		add()
	}
	r, cache := open(t, fetch.Config{}, x, bucket)
	at := int64(0)
	read := func() {
		_, res, err := r.Read(t.Context(), topic, 0, at, 1<<20, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		at = res.NextOffset
	}
	for at < 30 {
		read()
		if cache.Watched() {
			t.Fatalf("a replay that has come to %d of 30 is taken for a tail reader", at)
		}
	}
	add()
	read()
	if at != 31 || !cache.Watched() {
		t.Errorf("at %d of 31 nobody is taken for a tail reader", at)
	}
}

// Work in the background has the machine while nobody else needs it, and the floor beside a producer on a busy one.
func TestPaceOfTheBackground(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		_, cache := open(t, fetch.Config{ColdBytes: 1 << 20}, x, bucket)
		ctx, end := context.WithCancel(t.Context())
		work := func(mib int) time.Duration {
			start := time.Now()
			for range mib {
				if err := cache.Background(ctx, 1<<20); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(start)
		}
		if took := work(1000); took != 0 {
			t.Errorf("%v for 1000 MiB alone", took)
		}
		var strain sync.WaitGroup
		strain.Go(func() { cache.Strain(ctx) })
		faketime.Wait()
		work(60) // the rate falls from where it starts
		if took := work(20); took < 19*time.Second || took > 21*time.Second {
			t.Errorf("%v for 20 MiB beside a producer at a floor of 1 MiB/s", took)
		}
		end()
		strain.Wait()
		for cache.Watched() {
			time.Sleep(time.Second)
		}
		ctx = t.Context()
		if took := work(1000); took != 0 {
			t.Errorf("%v for 1000 MiB once the producer had gone", took)
		}
	})
}

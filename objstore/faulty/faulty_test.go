package faulty_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/objstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a bucket with faults and the sound one below it.
func open(t *testing.T, seed uint64, config faulty.Config) (*faulty.Bucket, *mem.Bucket) {
	t.Helper()
	inner := mem.New()
	b, err := faulty.New(inner, rand.New(rand.NewPCG(seed, 1)), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b, inner
}

func TestContractWithoutFaults(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
		b, _ := open(t, 1, faulty.Config{})
		return b
	})
}

func TestContractWhenOnlySlow(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
		b, _ := open(t, 1, faulty.Config{Slow: 1, SlowMax: time.Hour, Sleep: func(ctx context.Context, d time.Duration) error {
			if d <= 0 || d > time.Hour {
				t.Errorf("slow by %v, want up to an hour", d)
			}
			return ctx.Err()
		}})
		return b
	})
}

func TestUnavailableHasNoEffect(t *testing.T) {
	b, inner := open(t, 1, faulty.Config{Unavailable: 1})
	mustPut(t, inner, "old", "x")
	wantUnavailable(t, "put", b.Put(t.Context(), "new", []byte("y"), objstore.PutOptions{}))
	wantUnavailable(t, "delete", b.Delete(t.Context(), "old"))
	_, err := b.Get(t.Context(), "old")
	wantUnavailable(t, "get", err)
	_, err = b.GetRange(t.Context(), "old", 0, 1)
	wantUnavailable(t, "get range", err)
	_, err = b.Head(t.Context(), "old")
	wantUnavailable(t, "head", err)
	_, err = b.List(t.Context(), "", "", 1)
	wantUnavailable(t, "list", err)
	wantKeys(t, inner, "old")
	wantCount(t, b, faulty.Unavailable, 6)
}

func TestBurstFailsCallsInARow(t *testing.T) {
	b, inner := open(t, 1, faulty.Config{Burst: 0.05, BurstCalls: 6})
	longest, failed, run := 0, 0, 0
	for i := range 400 {
		if err := b.Put(t.Context(), fmt.Sprintf("k/%d", i), nil, objstore.PutOptions{}); err != nil {
			wantUnavailable(t, "put", err)
			run++
			failed++
			longest = max(longest, run)
		} else {
			run = 0
		}
	}
	if longest < 3 {
		t.Errorf("longest burst is %d calls, want some of 3 and more", longest)
	}
	wantCount(t, b, faulty.Burst, uint64(failed))
	infos, err := inner.List(t.Context(), "", "", 1000)
	if err != nil || len(infos) != 400-failed {
		t.Errorf("%d objects, %v; want %d", len(infos), err, 400-failed)
	}
}

func TestAmbiguousTakesEffectAndFails(t *testing.T) {
	b, inner := open(t, 1, faulty.Config{Ambiguous: 1})
	mustPut(t, inner, "old", "x")
	wantUnavailable(t, "put", b.Put(t.Context(), "new", []byte("y"), objstore.PutOptions{IfAbsent: true}))
	wantUnavailable(t, "delete", b.Delete(t.Context(), "old"))
	wantKeys(t, inner, "new")
	err := b.Put(t.Context(), "new", []byte("y"), objstore.PutOptions{IfAbsent: true})
	if !errors.Is(err, objstore.ErrExists) {
		t.Errorf("the retry: %v, want ErrExists: it meets itself", err)
	}
	wantCount(t, b, faulty.Ambiguous, 2)
}

func TestLateTakesEffectAfterTheFailure(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		b, inner := open(t, 1, faulty.Config{Late: 1, LateMax: time.Minute})
		mustPut(t, inner, "old", "x")
		body := []byte("late")
		ctx, cancel := context.WithCancel(t.Context())
		wantUnavailable(t, "put", b.Put(ctx, "new", body, objstore.PutOptions{}))
		clear(body)
		keys := []string{"old"}
		wantUnavailable(t, "delete", b.Delete(ctx, keys...))
		keys[0] = "new"
		cancel() // the caller is gone, its request is not
		faketime.Wait()
		wantKeys(t, inner, "old")
		time.Sleep(time.Minute)
		faketime.Wait()
		wantKeys(t, inner, "new")
		if got, err := inner.Get(t.Context(), "new"); err != nil || string(got) != "late" {
			t.Errorf("late object is %q, %v", got, err)
		}
		wantCount(t, b, faulty.Late, 2)
	})
}

// keepOpen lets a test look at a bucket that its decorator has closed.
type keepOpen struct{ objstore.Bucket }

func (keepOpen) Close() error { return nil }

func TestCloseLetsLateEffectsHappen(t *testing.T) {
	inner := mem.New()
	b, err := faulty.New(keepOpen{inner}, rand.New(rand.NewPCG(1, 1)), faulty.Config{Late: 1, LateMax: 1000 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		wantUnavailable(t, "put", b.Put(t.Context(), fmt.Sprintf("k/%02d", i), nil, objstore.PutOptions{}))
	}
	wantKeys(t, inner)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	infos, err := inner.List(t.Context(), "", "", 1000)
	if err != nil || len(infos) != 20 {
		t.Errorf("%d objects after close, %v; want 20", len(infos), err)
	}
	if err := b.Put(t.Context(), "k", nil, objstore.PutOptions{}); !errors.Is(err, objstore.ErrClosed) {
		t.Errorf("put after close: %v, want ErrClosed", err)
	}
}

func TestHiddenObjectsAppearAfterSomeReads(t *testing.T) {
	b, inner := open(t, 1, faulty.Config{Hidden: 1, HiddenReads: 5})
	read := map[string]func(key string) error{
		"get":       func(key string) error { _, err := b.Get(t.Context(), key); return err },
		"get range": func(key string) error { _, err := b.GetRange(t.Context(), key, 0, 1); return err },
		"head":      func(key string) error { _, err := b.Head(t.Context(), key); return err },
		"list": func(key string) error {
			infos, err := b.List(t.Context(), key, "", 1)
			if err == nil && len(infos) == 0 {
				return objstore.ErrNotFound
			}
			return err
		},
	}
	for name, try := range read {
		key := strings.ReplaceAll(name, " ", "-")
		mustPut(t, b, key, "body")
		wantPresent := func() {
			if _, err := inner.Head(t.Context(), key); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
		misses := 0
		for ; misses <= 5; misses++ {
			wantPresent()
			if err := try(key); err == nil {
				break
			} else if !errors.Is(err, objstore.ErrNotFound) {
				t.Fatalf("%s: %v, want ErrNotFound", name, err)
			}
		}
		if misses < 1 || misses > 5 {
			t.Errorf("%s missed the object %d times, want 1 to 5", name, misses)
		}
		if err := try(key); err != nil {
			t.Errorf("%s: hidden again: %v", name, err)
		}
	}
	wantCount(t, b, faulty.Hidden, uint64(len(read)))
}

func TestListLooksBeyondHiddenObjects(t *testing.T) {
	b, inner := open(t, 1, faulty.Config{Hidden: 1, HiddenReads: 1})
	for _, key := range []string{"a", "b", "c"} {
		mustPut(t, b, key, "")
	}
	mustPut(t, inner, "d", "")
	infos, err := b.List(t.Context(), "", "", 2)
	if err != nil || len(infos) != 1 || infos[0].Key != "d" {
		t.Errorf("list: %v, %v; want d, since an empty answer says that there is nothing more", infos, err)
	}
	wantKeys(t, b, "a", "b", "c", "d")
}

func TestBitFlipInvertsOneBitOfTheAnswer(t *testing.T) {
	b, inner := open(t, 1, faulty.Config{BitFlip: 1})
	want := strings.Repeat("firn", 100)
	mustPut(t, inner, "k", want)
	mustPut(t, inner, "empty", "")
	for range 20 {
		got, err := b.Get(t.Context(), "k")
		if err != nil || distance(got, []byte(want)) != 1 {
			t.Errorf("get differs in %d bits, %v; want 1", distance(got, []byte(want)), err)
		}
		got, err = b.GetRange(t.Context(), "k", 100, 3)
		if err != nil || distance(got, []byte(want)[100:103]) != 1 {
			t.Errorf("range differs in %d bits, %v; want 1", distance(got, []byte(want)[100:103]), err)
		}
	}
	if got, err := b.Get(t.Context(), "empty"); err != nil || len(got) != 0 {
		t.Errorf("get of nothing: %q, %v", got, err)
	}
	wantCount(t, b, faulty.BitFlip, 40)
	if got, err := inner.Get(t.Context(), "k"); err != nil || string(got) != want {
		t.Errorf("the stored object changed, %v", err)
	}
}

func TestShortRangeComesWithoutAnError(t *testing.T) {
	b, inner := open(t, 1, faulty.Config{ShortRange: 1})
	mustPut(t, inner, "k", "0123456789")
	for range 20 {
		got, err := b.GetRange(t.Context(), "k", 2, 5)
		if err != nil || len(got) >= 5 || !bytes.HasPrefix([]byte("23456"), got) {
			t.Errorf("range %q, %v; want less than 23456", got, err)
		}
	}
	wantCount(t, b, faulty.ShortRange, 20)
}

func TestSlowEndsWithTheCallersContext(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		b, inner := open(t, 1, faulty.Config{Slow: 1, SlowMax: time.Hour})
		start := time.Now()
		mustPut(t, b, "k", "x")
		if took := time.Since(start); took <= 0 || took > time.Hour {
			t.Errorf("put took %v, want up to an hour", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		if err := b.Delete(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, objstore.ErrUnavailable) {
			t.Errorf("delete: %v, want the deadline", err)
		}
		wantKeys(t, inner, "k")
		wantCount(t, b, faulty.Slow, 2)
	})
}

func TestASeedGivesTheSameFaultsAgain(t *testing.T) {
	config := faulty.Config{Unavailable: 0.2, Ambiguous: 0.2, BitFlip: 0.3}
	run := func(seed uint64, config faulty.Config) []string {
		b, _ := open(t, seed, config)
		var outcomes []string
		for i := range 200 {
			key := fmt.Sprintf("k/%d", i%7)
			err := b.Put(t.Context(), key, []byte("body"), objstore.PutOptions{})
			body, getErr := b.Get(t.Context(), key)
			outcomes = append(outcomes, fmt.Sprintf("%v %q %v", err, body, getErr))
		}
		return outcomes
	}
	first := run(7, config)
	if !slices.Equal(first, run(7, config)) {
		t.Error("one seed gave two histories")
	}
	if slices.Equal(first, run(8, config)) {
		t.Error("two seeds gave one history")
	}
	// Without the others, Ambiguous strikes where it struck before, plus where another fault came first.
	alone := run(7, faulty.Config{Ambiguous: 0.2})
	for i, outcome := range first {
		if strings.Contains(outcome, "after the effect") && !strings.Contains(alone[i], "after the effect") {
			t.Fatalf("call %d: ambiguous moved when other faults were switched off", i)
		}
	}
}

func TestRetriesOvercomeEveryFaultThatTheContractAllows(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		b, inner := open(t, 3, faulty.Config{
			Slow: 0.3, SlowMax: time.Second, Unavailable: 0.2, Burst: 0.02, BurstCalls: 5, Ambiguous: 0.2, Late: 0.2, LateMax: time.Minute,
		})
		body := func(i int) string { return fmt.Sprintf("body %d", i) }
		for i := range 100 {
			for attempt := 0; ; attempt++ {
				err := b.Put(t.Context(), fmt.Sprintf("k/%03d", i), []byte(body(i)), objstore.PutOptions{IfAbsent: true})
				if err == nil || errors.Is(err, objstore.ErrExists) {
					break
				}
				wantUnavailable(t, "put", err)
				if attempt == 1000 {
					t.Fatal("a put never succeeds")
				}
			}
			if got, err := inner.Get(t.Context(), fmt.Sprintf("k/%03d", i)); err != nil || string(got) != body(i) {
				t.Errorf("acknowledged object %d: %q, %v", i, got, err)
			}
		}
		time.Sleep(time.Hour)
		faketime.Wait()
		for i := range 100 {
			if got, err := inner.Get(t.Context(), fmt.Sprintf("k/%03d", i)); err != nil || string(got) != body(i) {
				t.Errorf("object %d after the late puts: %q, %v", i, got, err)
			}
		}
		for _, fault := range []faulty.Fault{faulty.Slow, faulty.Unavailable, faulty.Burst, faulty.Ambiguous, faulty.Late} {
			if b.Counts()[fault] == 0 {
				t.Errorf("%s never struck", fault)
			}
		}
	})
}

func TestHealedBucketHasNoFaults(t *testing.T) {
	b, _ := open(t, 1, faulty.Config{Burst: 1, BurstCalls: 1000, Hidden: 1, HiddenReads: 1000})
	wantUnavailable(t, "put", b.Put(t.Context(), "k", nil, objstore.PutOptions{}))
	if err := b.SetConfig(faulty.Config{Hidden: 1, HiddenReads: 1000}); err != nil {
		t.Fatal(err)
	}
	mustPut(t, b, "k", "x")
	if _, err := b.Get(t.Context(), "k"); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("get of the hidden object: %v", err)
	}
	if err := b.SetConfig(faulty.Config{}); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, b, "k")
}

func TestConfigsThatMakeNoSense(t *testing.T) {
	for _, config := range []faulty.Config{
		{Unavailable: -0.1}, {Ambiguous: 1.1}, {BitFlip: math.NaN()}, {Slow: 0.5}, {Burst: 0.5}, {Late: 0.5}, {Hidden: 0.5},
		{SlowMax: -1}, {LateMax: -1}, {BurstCalls: -1}, {HiddenReads: -1},
	} {
		if _, err := faulty.New(mem.New(), rand.New(rand.NewPCG(1, 1)), config); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("config %+v: %v, want ErrInvalid", config, err)
		}
	}
	b, _ := open(t, 1, faulty.Config{})
	if err := b.SetConfig(faulty.Config{Slow: 2}); !errors.Is(err, objstore.ErrInvalid) {
		t.Errorf("set config: %v, want ErrInvalid", err)
	}
}

func distance(a, b []byte) int {
	if len(a) != len(b) {
		return -1
	}
	n := 0
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

func mustPut(t *testing.T, b objstore.Bucket, key, body string) {
	t.Helper()
	if err := b.Put(t.Context(), key, []byte(body), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func wantUnavailable(t *testing.T, step string, err error) {
	t.Helper()
	if !errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("%s: %v, want ErrUnavailable", step, err)
	}
}

func wantKeys(t *testing.T, b objstore.Bucket, want ...string) {
	t.Helper()
	infos, err := b.List(t.Context(), "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, info := range infos {
		keys = append(keys, info.Key)
	}
	if !slices.Equal(keys, want) {
		t.Errorf("keys %q, want %q", keys, want)
	}
}

func wantCount(t *testing.T, b *faulty.Bucket, fault faulty.Fault, want uint64) {
	t.Helper()
	if got := b.Counts()[fault]; got != want {
		t.Errorf("%s struck %d times, want %d", fault, got, want)
	}
}

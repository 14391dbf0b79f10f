package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
)

// Run checks the contract on buckets made by empty. Each call of empty must return a bucket of its own that holds
// nothing; the suite closes it.
func Run(t *testing.T, empty func(t *testing.T) objstore.Bucket) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, b objstore.Bucket)
	}{
		{"RoundTrip", testRoundTrip},
		{"Overwrite", testOverwrite},
		{"IfAbsent", testIfAbsent},
		{"IfAbsentHasOneWinner", testIfAbsentHasOneWinner},
		{"PutFrom", testPutFrom},
		{"PutFromThatFails", testPutFromThatFails},
		{"PutOptionsThatCannotBe", testPutOptionsThatCannotBe},
		{"Missing", testMissing},
		{"Range", testRange},
		{"Head", testHead},
		{"List", testList},
		{"ListPages", testListPages},
		{"ListArguments", testListArguments},
		{"Delete", testDelete},
		{"Keys", testKeys},
		{"BuffersAreNotShared", testBuffersAreNotShared},
		{"LargeBody", testLargeBody},
		{"ReadersNeverSeeATornObject", testNeverTorn},
		{"CancelledContext", testCancelledContext},
		{"Closed", testClosed},
		{"RandomOperations", testRandomOperations},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := empty(t)
			t.Cleanup(func() {
				if err := b.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.run(t, b)
		})
	}
}

// ValidKeys returns keys that every driver takes, in no order; no key is a directory of another.
func ValidKeys() []string {
	deep := strings.Repeat("d/", 50) + "k"
	long := strings.Repeat(strings.Repeat("x", 200)+"/", 5) + strings.Repeat("y", objstore.KeyBytesMax-5*201)
	return []string{
		"a", "0", "=", "-", "_", "...", ".hidden", "b/.dot", "b/..two", "b/trailing.", "topic=orders/partition=0/x.y_z-1",
		"UPPER/Case", "00ff/7a-segment", deep, long,
	}
}

// InvalidKeys returns keys that every driver refuses with objstore.ErrInvalid.
func InvalidKeys() []string {
	return []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/.", "a/..", "a/./b", "a/../b", "a b", "a\x00b", "a\nb",
		"a\\b", "a:b", "a%2fb", "a?b", "a#b", "a+b", "a*b", "é", "\xff", strings.Repeat("k", objstore.KeyBytesMax+1),
	}
}

func testRoundTrip(t *testing.T, b objstore.Bucket) {
	for _, size := range []int{0, 1, 511, 512, 513, 4096, 65_537} {
		key := fmt.Sprintf("round/trip-%d", size)
		body := noise(uint64(size), size)
		mustPut(t, b, key, body)
		wantBody(t, b, key, body)
	}
}

func testOverwrite(t *testing.T, b objstore.Bucket) {
	for _, size := range []int{100, 5000, 10, 0, 1} {
		body := noise(uint64(size), size)
		mustPut(t, b, "over/write", body)
		wantBody(t, b, "over/write", body)
		wantList(t, b, "", "", 10, "over/write")
	}
}

func testIfAbsent(t *testing.T, b objstore.Bucket) {
	first, second := []byte("first"), []byte("second")
	if err := b.Put(t.Context(), "a/b", first, objstore.PutOptions{IfAbsent: true}); err != nil {
		t.Fatalf("put if absent of a new key: %v", err)
	}
	err := b.Put(t.Context(), "a/b", second, objstore.PutOptions{IfAbsent: true})
	wantError(t, "put if absent of a taken key", err, objstore.ErrExists)
	wantBody(t, b, "a/b", first)
	mustPut(t, b, "a/b", second)
	wantBody(t, b, "a/b", second)
	mustDelete(t, b, "a/b")
	if err := b.Put(t.Context(), "a/b", first, objstore.PutOptions{IfAbsent: true}); err != nil {
		t.Fatalf("put if absent of a deleted key: %v", err)
	}
	wantBody(t, b, "a/b", first)
}

func testIfAbsentHasOneWinner(t *testing.T, b objstore.Bucket) {
	const writers = 8
	errs := make([]error, writers)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			errs[w] = b.Put(t.Context(), "race/new-dir/key", noise(uint64(w), 1000), objstore.PutOptions{IfAbsent: true})
		})
	}
	group.Wait()
	winner := -1
	for w, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both created the object", winner, w)
		case err == nil:
			winner = w
		default:
			wantError(t, "put if absent that lost", err, objstore.ErrExists)
		}
	}
	if winner < 0 {
		t.Fatal("nobody created the object")
	}
	wantBody(t, b, "race/new-dir/key", noise(uint64(winner), 1000))
}

func testMissing(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "dir/present", []byte("x"))
	for _, key := range []string{"absent", "dir/absent", "dir", "no/such/dir", "dir/present/below"} {
		_, err := b.Get(t.Context(), key)
		wantError(t, "get "+key, err, objstore.ErrNotFound)
		_, err = b.GetRange(t.Context(), key, 0, 1)
		wantError(t, "get range of "+key, err, objstore.ErrNotFound)
		_, err = b.Head(t.Context(), key)
		wantError(t, "head "+key, err, objstore.ErrNotFound)
	}
}

func testRange(t *testing.T, b objstore.Bucket) {
	const size = 1000
	body := noise(1, size)
	mustPut(t, b, "r", body)
	mustPut(t, b, "empty", nil)
	for _, c := range []struct {
		key            string
		position, size int64
		want           error
	}{
		{"r", 0, 1, nil},
		{"r", 0, size, nil},
		{"r", size - 1, 1, nil},
		{"r", 1, size - 1, nil},
		{"r", 400, 200, nil},
		{"r", 0, size + 1, objstore.ErrRange},
		{"r", size - 1, 2, objstore.ErrRange},
		{"r", size, 1, objstore.ErrRange},
		{"r", size + 1, 1, objstore.ErrRange},
		{"r", 1 << 60, 1 << 60, objstore.ErrRange},
		{"r", 1<<63 - 1, 1, objstore.ErrRange},
		{"empty", 0, 1, objstore.ErrRange},
		{"r", 0, 0, objstore.ErrInvalid},
		{"r", 0, -1, objstore.ErrInvalid},
		{"r", -1, 1, objstore.ErrInvalid},
	} {
		step := fmt.Sprintf("get range of %s, %d bytes from %d", c.key, c.size, c.position)
		got, err := b.GetRange(t.Context(), c.key, c.position, c.size)
		if c.want != nil {
			wantError(t, step, err, c.want)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", step, err)
		} else if !bytes.Equal(got, body[c.position:c.position+c.size]) {
			t.Errorf("%s: %d wrong bytes", step, len(got))
		}
	}
}

func testHead(t *testing.T, b objstore.Bucket) {
	before := time.Now().Add(-time.Hour)
	mustPut(t, b, "h/ead", make([]byte, 1234))
	info, err := b.Head(t.Context(), "h/ead")
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != "h/ead" || info.Size != 1234 {
		t.Errorf("head says %q of %d bytes, want h/ead of 1234", info.Key, info.Size)
	}
	if info.ModTime.Before(before) || info.ModTime.After(before.Add(2*time.Hour)) {
		t.Errorf("head says modified %v, about now is %v", info.ModTime, time.Now())
	}
	listed, err := b.List(t.Context(), "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(listed) != 1 || listed[0].Key != info.Key || listed[0].Size != info.Size || listed[0].ModTime.IsZero() {
		t.Errorf("list says %v, head says %v", listed, info)
	}
}

func testDelete(t *testing.T, b objstore.Bucket) {
	for _, key := range []string{"d/1", "d/2", "d/3", "keep"} {
		mustPut(t, b, key, []byte(key))
	}
	mustDelete(t, b)
	mustDelete(t, b, "never-was")
	mustDelete(t, b, "no/such/dir")
	mustDelete(t, b, "d/1")
	mustDelete(t, b, "d/1", "d/2", "never-was", "d/2", "d/3")
	wantList(t, b, "", "", 10, "keep")
	wantBody(t, b, "keep", []byte("keep"))
	_, err := b.Get(t.Context(), "d/1")
	wantError(t, "get of a deleted key", err, objstore.ErrNotFound)

	many := make([]string, objstore.DeleteKeysMax+1)
	for i := range many {
		many[i] = fmt.Sprintf("many/%d", i)
	}
	many[500] = "keep"
	wantError(t, "delete of too many keys", b.Delete(t.Context(), many...), objstore.ErrInvalid)
	wantError(t, "delete of a bad key", b.Delete(t.Context(), "keep", "../keep"), objstore.ErrInvalid)
	wantBody(t, b, "keep", []byte("keep"))
	mustDelete(t, b, many[:objstore.DeleteKeysMax]...)
	wantList(t, b, "", "", 10)
}

func testKeys(t *testing.T, b objstore.Bucket) {
	keys := ValidKeys()
	for _, key := range keys {
		mustPut(t, b, key, []byte(key))
	}
	for _, key := range keys {
		wantBody(t, b, key, []byte(key))
	}
	slices.Sort(keys)
	wantList(t, b, "", "", 100, keys...)
	for _, key := range InvalidKeys() {
		_, err := b.Get(t.Context(), key)
		wantError(t, fmt.Sprintf("get %.40q", key), err, objstore.ErrInvalid)
		_, err = b.GetRange(t.Context(), key, 0, 1)
		wantError(t, fmt.Sprintf("get range of %.40q", key), err, objstore.ErrInvalid)
		_, err = b.Head(t.Context(), key)
		wantError(t, fmt.Sprintf("head %.40q", key), err, objstore.ErrInvalid)
		wantError(t, fmt.Sprintf("put %.40q", key), b.Put(t.Context(), key, []byte("x"), objstore.PutOptions{}), objstore.ErrInvalid)
		wantError(t, fmt.Sprintf("delete %.40q", key), b.Delete(t.Context(), key), objstore.ErrInvalid)
	}
	wantList(t, b, "", "", 100, keys...)
	mustDelete(t, b, keys...)
	wantList(t, b, "", "", 100)
}

func testBuffersAreNotShared(t *testing.T, b objstore.Bucket) {
	want := noise(7, 4000)
	body := bytes.Clone(want)
	mustPut(t, b, "shared", body)
	clear(body)
	wantBody(t, b, "shared", want)
	got, err := b.Get(t.Context(), "shared")
	if err != nil {
		t.Fatal(err)
	}
	clear(got)
	part, err := b.GetRange(t.Context(), "shared", 100, 100)
	if err != nil {
		t.Fatal(err)
	}
	clear(part)
	wantBody(t, b, "shared", want)
}

func testLargeBody(t *testing.T, b objstore.Bucket) {
	body := noise(16, 16<<20)
	mustPut(t, b, "large", body)
	wantBody(t, b, "large", body)
	got, err := b.GetRange(t.Context(), "large", 7<<20+3, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, body[7<<20+3:15<<20+3]) {
		t.Error("range of the large object differs")
	}
}

func testNeverTorn(t *testing.T, b objstore.Bucket) {
	const rounds, size = 20, 50_000
	version := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, size+n) }
	mustPut(t, b, "torn", version(0))
	ctx, stop := context.WithCancel(t.Context())
	var readers, writers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for ctx.Err() == nil {
				got, err := b.Get(t.Context(), "torn")
				if err != nil {
					t.Errorf("get while others put: %v", err)
					return
				}
				if n := len(got) - size; n < 0 || n > rounds || !bytes.Equal(got, version(n)) {
					t.Errorf("torn object of %d bytes", len(got))
					return
				}
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			for n := 1 + w; n <= rounds; n += 2 {
				if err := b.Put(t.Context(), "torn", version(n), objstore.PutOptions{}); err != nil {
					t.Errorf("put while others get: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
}

func testCancelledContext(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "present", []byte("x"))
	for name, end := range map[string]func() (context.Context, error){
		"cancelled": func() (context.Context, error) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, context.Canceled
		},
		"expired": func() (context.Context, error) {
			ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
			t.Cleanup(cancel)
			return ctx, context.DeadlineExceeded
		},
	} {
		ctx, want := end()
		for step, err := range everyCall(ctx, b) {
			wantError(t, name+" "+step, err, want)
			for _, class := range []error{objstore.ErrUnavailable, objstore.ErrNotFound, objstore.ErrExists, objstore.ErrInvalid} {
				if errors.Is(err, class) {
					t.Errorf("%s %s: %v also is %q", name, step, err, class)
				}
			}
		}
	}
	wantBody(t, b, "present", []byte("x"))
}

func testClosed(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "present", []byte("x"))
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		for step, err := range everyCall(t.Context(), b) {
			wantError(t, step+" after close", err, objstore.ErrClosed)
		}
	}
}

// everyCall makes one valid call of each method and returns its error.
func everyCall(ctx context.Context, b objstore.Bucket) map[string]error {
	_, get := b.Get(ctx, "present")
	_, getRange := b.GetRange(ctx, "present", 0, 1)
	_, head := b.Head(ctx, "present")
	_, list := b.List(ctx, "", "", 1)
	return map[string]error{
		"put":           b.Put(ctx, "new", []byte("y"), objstore.PutOptions{}),
		"put if absent": b.Put(ctx, "new-too", []byte("y"), objstore.PutOptions{IfAbsent: true}),
		"put from":      b.PutFrom(ctx, "new-from", strings.NewReader("y"), 1, objstore.PutOptions{}),
		"get":           get,
		"get range":     getRange,
		"head":          head,
		"list":          list,
		"delete one":    b.Delete(ctx, "present"),
		"delete two":    b.Delete(ctx, "present", "absent"),
	}
}

// noise returns size bytes that depend on seed alone and do not compress.
func noise(seed uint64, size int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	body := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(body) // never fails
	return body
}

func mustPut(t *testing.T, b objstore.Bucket, key string, body []byte) {
	t.Helper()
	if err := b.Put(t.Context(), key, body, objstore.PutOptions{}); err != nil {
		t.Fatalf("put %.80s: %v", key, err)
	}
}

func mustDelete(t *testing.T, b objstore.Bucket, keys ...string) {
	t.Helper()
	if err := b.Delete(t.Context(), keys...); err != nil {
		t.Fatalf("delete of %d keys: %v", len(keys), err)
	}
}

func wantBody(t *testing.T, b objstore.Bucket, key string, want []byte) {
	t.Helper()
	got, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %.80s: %v", key, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("get %.80s: %d bytes that differ from the %d put", key, len(got), len(want))
	}
}

func wantError(t *testing.T, step string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", step, err, want)
	}
}

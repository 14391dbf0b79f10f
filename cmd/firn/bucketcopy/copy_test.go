package bucketcopy_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/cmd/firn/bucketcopy"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/objstore/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func put(t *testing.T, b objstore.Bucket, key string, body []byte, tags ...objstore.Tag) {
	t.Helper()
	if err := b.Put(t.Context(), key, body, objstore.PutOptions{Tags: tags}); err != nil {
		t.Fatal(err)
	}
}

func marker(id byte) []byte {
	return []byte(`{"format":1,"log_id":"` + hex.EncodeToString(bytes.Repeat([]byte{id}, 16)) + `"}`)
}

// cluster is a bucket with a marker and some objects, one of them larger than a window.
func cluster(t *testing.T) *mem.Bucket {
	t.Helper()
	b := mem.New()
	put(t, b, metastore.MarkerKey, marker(1))
	for i := range 40 {
		put(t, b, fmt.Sprintf("data/%02x/1/a-%d", i*7%16, i), bytes.Repeat([]byte{byte(i)}, 100+i))
	}
	put(t, b, "topics/aa/1/b-1", bytes.Repeat([]byte("0123456789abcdef"), 9<<20/16), objstore.Tag{Key: "firn-class", Value: "r7d"})
	put(t, b, "metastore/archive/1", []byte("archive"))
	put(t, b, "lifecycle/ledger.json", []byte("{}"))
	put(t, b, "probe/left", []byte("x"))
	return b
}

func run(t *testing.T, from, to objstore.Bucket, opts bucketcopy.Options) (bucketcopy.Report, error) {
	t.Helper()
	opts.Backoff = time.Millisecond
	return bucketcopy.Run(t.Context(), from, to, opts, new(bucketcopy.Progress))
}

func contents(t *testing.T, b objstore.Bucket) map[string]string {
	t.Helper()
	all := map[string]string{}
	infos, err := b.List(t.Context(), "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		body, err := b.Get(t.Context(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		all[info.Key] = string(body)
	}
	return all
}

// wantCopy holds the target to being the source but for what probes left.
func wantCopy(t *testing.T, from, to objstore.Bucket) {
	t.Helper()
	want, got := contents(t, from), contents(t, to)
	delete(want, "probe/left")
	for key, body := range want {
		if got[key] != body {
			t.Errorf("%s has %d bytes in the copy, %d in the source", key, len(got[key]), len(body))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d objects in the copy, %d in the source", len(got), len(want))
	}
}

func TestACopyInTwoRuns(t *testing.T) {
	from, to := cluster(t), mem.New()
	r, err := run(t, from, to, bucketcopy.Options{})
	if err != nil || r.Copied != 43 || r.Objects != 43 || r.Final {
		t.Fatalf("%+v, %v", r, err)
	}
	if c, err := metastore.ReadClaim(t.Context(), to); err != nil || !c.Copying {
		t.Fatalf("the target's claim is %+v, %v", c, err)
	}
	put(t, from, "data/03/1/new", []byte("new"))
	put(t, from, "lifecycle/ledger.json", []byte(`{"changed":true}`))
	if err := from.Delete(t.Context(), "data/00/1/a-0"); err != nil {
		t.Fatal(err)
	}
	r, err = run(t, from, to, bucketcopy.Options{Final: true, Verify: true, Retire: true, To: "s3://elsewhere"})
	if err != nil || r.Copied != 2 || !r.Final || !r.Retired || r.Compared != 42 {
		t.Fatalf("%+v, %v", r, err)
	}
	if tags, err := to.Tags(t.Context(), "topics/aa/1/b-1"); err != nil || len(tags) != 1 || tags[0].Value != "r7d" {
		t.Errorf("tags %+v, %v", tags, err)
	}
	left, err := metastore.ReadClaim(t.Context(), from)
	if err != nil || left.MovedTo != "s3://elsewhere" {
		t.Errorf("the source's claim is %+v, %v", left, err)
	}
	if claim, err := metastore.ReadClaim(t.Context(), to); err != nil || claim.Copying {
		t.Errorf("the target's claim is %+v, %v", claim, err)
	}
	put(t, from, metastore.MarkerKey, marker(1))
	if err := to.Delete(t.Context(), "data/00/1/a-0"); err != nil { // that the source had no more
		t.Fatal(err)
	}
	wantCopy(t, from, to)
	if r, err := run(t, from, to, bucketcopy.Options{Final: true}); err != nil || r.Copied != 0 {
		t.Errorf("a third run: %+v, %v", r, err)
	}
}

func TestACopyBack(t *testing.T) {
	old, there := cluster(t), mem.New()
	if _, err := run(t, old, there, bucketcopy.Options{Final: true, Retire: true, To: "mem://there"}); err != nil {
		t.Fatal(err)
	}
	put(t, there, "data/0f/1/new", []byte("new"))
	r, err := run(t, there, old, bucketcopy.Options{Final: true, Retire: true, To: "mem://old"})
	if err != nil || r.Copied != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if back, err := metastore.ReadClaim(t.Context(), old); err != nil || back.MovedTo != "" || back.Copying {
		t.Errorf("the claim is %+v, %v", back, err)
	}
	if left, err := metastore.ReadClaim(t.Context(), there); err != nil || left.MovedTo != "mem://old" {
		t.Errorf("the claim is %+v, %v", left, err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	source := func(body string) func(t *testing.T) *mem.Bucket {
		return func(t *testing.T) *mem.Bucket {
			b := cluster(t)
			put(t, b, metastore.MarkerKey, []byte(body))
			return b
		}
	}
	target := func(key string, body []byte) func(t *testing.T) *mem.Bucket {
		return func(t *testing.T) *mem.Bucket {
			b := mem.New()
			put(t, b, key, body)
			return b
		}
	}
	empty := func(*testing.T) *mem.Bucket { return mem.New() }
	restored := strings.Replace(string(marker(1)), `"format":1`, `"format":2,"epochs":[{"epoch":3,"base":9,"hash":""}]`, 1)
	for name, c := range map[string]struct {
		from, to func(t *testing.T) *mem.Bucket
		want     error
		says     string
	}{
		"a source that is no cluster's":   {empty, empty, bucketcopy.ErrRefused, "no firn cluster"},
		"a source that is half a copy":    {source(`{"format":3,"log_id":"01","copying":true}`), empty, bucketcopy.ErrRefused, "has not been finished"},
		"a source that was left":          {source(`{"format":3,"log_id":"01","moved_to":"s3://there"}`), empty, bucketcopy.ErrRefused, "s3://there"},
		"a source of a newer firn":        {source(`{"format":9,"log_id":"01"}`), empty, metastore.ErrNewer, "newer firn"},
		"a source with another's marker":  {source(`hello`), empty, metastore.ErrForeign, "not a firn marker"},
		"a target of another cluster":     {cluster, target(metastore.MarkerKey, marker(2)), bucketcopy.ErrRefused, "belongs to cluster 0202"},
		"a target with somebody's things": {cluster, target("photos/1.jpg", nil), bucketcopy.ErrRefused, "photos/1.jpg"},
		"a target that was restored":      {cluster, target(metastore.MarkerKey, []byte(restored)), bucketcopy.ErrRefused, "epoch 3"},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := c.from(t), c.to(t)
			before, there := contents(t, from), contents(t, to)
			_, err := run(t, from, to, bucketcopy.Options{Final: true, Retire: true})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
			if fmt.Sprint(before) != fmt.Sprint(contents(t, from)) || fmt.Sprint(there) != fmt.Sprint(contents(t, to)) {
				t.Error("a refused copy changed something")
			}
		})
	}
}

// growing is a bucket that gets another object with each listing from its start.
type growing struct {
	*mem.Bucket
	n int
}

func (g *growing) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if after == "" {
		g.n++
		if err := g.Bucket.Put(ctx, fmt.Sprintf("data/zz/%d", g.n), []byte("x"), objstore.PutOptions{}); err != nil {
			return nil, err
		}
	}
	return g.Bucket.List(ctx, prefix, after, limit)
}

func TestASourceAtWorkIsNotFinal(t *testing.T) {
	from, to := &growing{Bucket: cluster(t)}, mem.New()
	r, err := run(t, from, to, bucketcopy.Options{})
	if err != nil || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "at work") {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := run(t, from, to, bucketcopy.Options{Final: true, Retire: true}); !errors.Is(err, bucketcopy.ErrMoving) {
		t.Errorf("final: %v", err)
	}
	for _, b := range []objstore.Bucket{from, to} {
		if c, err := metastore.ReadClaim(t.Context(), b); err != nil || c.MovedTo != "" || c.Copying != (b == objstore.Bucket(to)) {
			t.Errorf("claim %+v, %v", c, err)
		}
	}
}

func TestDifferencesAreFound(t *testing.T) {
	from, to := cluster(t), mem.New()
	if _, err := run(t, from, to, bucketcopy.Options{}); err != nil {
		t.Fatal(err)
	}
	flipped, _ := from.Get(t.Context(), "topics/aa/1/b-1")
	flipped[17<<19] ^= 1
	put(t, to, "topics/aa/1/b-1", flipped)
	if _, err := run(t, from, to, bucketcopy.Options{Final: true}); err != nil {
		t.Fatal(err) // sizes agree, and nobody asked for more
	}
	if _, err := run(t, from, to, bucketcopy.Options{Verify: true}); !errors.Is(err, bucketcopy.ErrDiffers) || !strings.Contains(err.Error(), "topics/aa/1/b-1") {
		t.Errorf("a flipped bit: %v", err)
	}
	put(t, to, "data/00/1/a-0", []byte("short"))
	if _, err := run(t, from, to, bucketcopy.Options{}); !errors.Is(err, bucketcopy.ErrDiffers) || !strings.Contains(err.Error(), "5 in the target") {
		t.Errorf("another size in a target that is in use: %v", err)
	}
}

// An unreliable store on either side is asked again, and what broke off is resumed.
func TestACopyOverFaultyBuckets(t *testing.T) {
	for seed := range uint64(4) {
		from, to := cluster(t), mem.New()
		config := faulty.Config{Unavailable: 0.1, Ambiguous: 0.1, Sleep: func(context.Context, time.Duration) error { return nil }}
		badFrom, err := faulty.New(from, rand.New(rand.NewPCG(seed, 1)), config)
		if err != nil {
			t.Fatal(err)
		}
		badTo, err := faulty.New(to, rand.New(rand.NewPCG(seed, 2)), config)
		if err != nil {
			t.Fatal(err)
		}
		final := false
		for range 100 {
			r, err := run(t, badFrom, badTo, bucketcopy.Options{Final: true, Verify: true})
			if final = err == nil && r.Final; final {
				break
			}
			if !errors.Is(err, objstore.ErrUnavailable) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if !final {
			t.Fatalf("seed %d: never done", seed)
		}
		wantCopy(t, from, to)
	}
}

func TestLocksAreCopied(t *testing.T) {
	from, to := cluster(t), mem.New()
	enabled := objstore.LockSettings{Enabled: true}
	if err := from.SetLockSettings(t.Context(), enabled); err != nil {
		t.Fatal(err)
	}
	lock := objstore.Lock{Mode: objstore.LockCompliance, Until: time.Now().Add(time.Hour)}
	if err := from.Put(t.Context(), "topics/bb/1/locked", []byte("x"), objstore.PutOptions{Lock: lock}); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, from, to, bucketcopy.Options{}); !errors.Is(err, bucketcopy.ErrRefused) || !strings.Contains(err.Error(), "--without-locks") {
		t.Errorf("a target without locks: %v", err)
	}
	if r, err := run(t, from, mem.New(), bucketcopy.Options{WithoutLocks: true}); err != nil || !slices.Contains(r.Notes, "object locks are not copied") {
		t.Errorf("%+v, %v", r, err)
	}
	if err := to.SetLockSettings(t.Context(), enabled); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, from, to, bucketcopy.Options{}); err != nil {
		t.Fatal(err)
	}
	if got, err := to.ObjectLock(t.Context(), "topics/bb/1/locked"); err != nil || got.Mode != lock.Mode || !got.Until.Equal(lock.Until) {
		t.Errorf("the copy's lock is %+v, %v", got, err)
	}
}

func TestACallersEndStopsACopy(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bucketcopy.Run(ctx, cluster(t), mem.New(), bucketcopy.Options{}, new(bucketcopy.Progress)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

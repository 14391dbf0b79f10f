//go:build interop

package interop

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/minio"
	"github.com/firnlog/firn/objstore/objstoretest"
	"github.com/firnlog/firn/objstore/open"
	"github.com/firnlog/firn/objstore/s3compat"
)

// openMinIO makes a bucket of its own and opens it through a driver.
func openMinIO(t *testing.T, m *localstack.MinIO, driver, name string, locking bool) objstore.Bucket {
	t.Helper()
	maker, err := minio.New(s3compat.Options{Bucket: name, Endpoint: m.Endpoint, PathStyle: true, CAFile: m.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	defer maker.Close()
	create := maker.Create
	if locking {
		create = maker.CreateLocking
	}
	if err := create(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := open.Open(t.Context(), m.URL(driver, name, "cluster-1"), open.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// TestAbilitiesOnMinIO: what buckets can be asked beside objects, asked of a real server through both drivers.
func TestAbilitiesOnMinIO(t *testing.T) {
	m := startMinIO(t, t.TempDir(), false)
	var made atomic.Int64
	for _, driver := range []string{"s3", "minio"} {
		t.Run(driver, func(t *testing.T) {
			opened := func(locking bool) func(t *testing.T) objstore.Bucket {
				return func(t *testing.T) objstore.Bucket {
					return openMinIO(t, m, driver, fmt.Sprintf("bucket-%d", made.Add(1)), locking)
				}
			}
			objstoretest.RunAbilities(t, opened(false), opened(true))
		})
	}
}

// TestLockedSegmentsOnMinIO: an object that was put with a lock and tags in one request has both, over all ways to put.
func TestLockedSegmentsOnMinIO(t *testing.T) {
	m := startMinIO(t, t.TempDir(), false)
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for _, driver := range []string{"s3", "minio"} {
		b := openMinIO(t, m, driver, "locked-"+driver, true)
		opts := objstore.PutOptions{
			Tags: []objstore.Tag{{Key: "firn-class", Value: "r7d"}}, Lock: objstore.Lock{Mode: objstore.LockCompliance, Until: until},
		}
		body := bytes.Repeat([]byte("snow"), 1<<20)
		if err := b.Put(t.Context(), "data/1", body, opts); err != nil {
			t.Fatalf("%s: %v", driver, err)
		}
		if err := b.PutFrom(t.Context(), "data/2", bytes.NewReader(body), int64(len(body)), opts); err != nil {
			t.Fatalf("%s: %v", driver, err)
		}
		locks, _ := objstore.As[objstore.LockConfig](b)
		tagger, _ := objstore.As[objstore.Tagger](b)
		for _, key := range []string{"data/1", "data/2"} {
			if lock, err := locks.ObjectLock(t.Context(), key); err != nil || lock.Mode != objstore.LockCompliance || !lock.Until.Equal(until) {
				t.Errorf("%s: the lock of %s is %+v, %v", driver, key, lock, err)
			}
			if tags, err := tagger.Tags(t.Context(), key); err != nil || len(tags) != 1 || tags[0] != opts.Tags[0] {
				t.Errorf("%s: the tags of %s are %+v, %v", driver, key, tags, err)
			}
			if got, err := b.Get(t.Context(), key); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%s: %s has %d bytes, %v", driver, key, len(got), err)
			}
		}
	}
}

// TestBucketCopyOnMinIO moves a cluster's objects between two buckets of a real server, with tags and locks, through both drivers.
func TestBucketCopyOnMinIO(t *testing.T) {
	m := startMinIO(t, t.TempDir(), false)
	from, to := openMinIO(t, m, "minio", "old", true), openMinIO(t, m, "s3", "new", true)
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	opts := objstore.PutOptions{
		Tags: []objstore.Tag{{Key: "firn-class", Value: "d8"}}, Lock: objstore.Lock{Mode: objstore.LockGovernance, Until: until},
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
	for key, put := range map[string]struct {
		body []byte
		opts objstore.PutOptions
	}{
		"firn-cluster.json":   {[]byte(`{"format":1,"log_id":"0101"}`), objstore.PutOptions{}},
		"data/00/1/a-1":       {[]byte("segment"), objstore.PutOptions{}},
		"topics/aa/1/b-1":     {large, opts},
		"metastore/archive/1": {[]byte("archive"), objstore.PutOptions{}},
	} {
		if err := from.Put(t.Context(), key, put.body, put.opts); err != nil {
			t.Fatal(err)
		}
	}
	copying := []string{"bucket", "copy", "--from", m.URL("minio", "old", "cluster-1"), "--to", m.URL("s3", "new", "cluster-1")}
	if out := string(run(t, firnBin, copying...)); !strings.Contains(out, "3 copied") || !strings.Contains(out, "stop every agent") {
		t.Errorf("the first run says\n%s", out)
	}
	out := string(run(t, firnBin, append(copying, "--agents-are-stopped", "--retire-source", "--verify")...))
	if !strings.Contains(out, "0 copied and 3 compared") || !strings.Contains(out, "give every agent the new address") {
		t.Errorf("the last run says\n%s", out)
	}
	if got, err := to.Get(t.Context(), "topics/aa/1/b-1"); err != nil || !bytes.Equal(got, large) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	tagger, _ := objstore.As[objstore.Tagger](to)
	if tags, err := tagger.Tags(t.Context(), "topics/aa/1/b-1"); err != nil || len(tags) != 1 || tags[0] != opts.Tags[0] {
		t.Errorf("tags %+v, %v", tags, err)
	}
	locks, _ := objstore.As[objstore.LockConfig](to)
	if lock, err := locks.ObjectLock(t.Context(), "topics/aa/1/b-1"); err != nil || lock.Mode != objstore.LockGovernance || !lock.Until.Equal(until) {
		t.Errorf("lock %+v, %v", lock, err)
	}
	left, err := exec.Command(firnBin, copying...).CombinedOutput()
	if err == nil || !strings.Contains(string(left), "was moved to s3://new/cluster-1") {
		t.Errorf("a copy from what was left: %v\n%s", err, left)
	}
}

package s3compattest

import (
	"bytes"
	"context"
	"crypto/md5" // Content-MD5 is the checksum that every store knows, not a defence
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

func (s suite) testWhatAPutCarries(t *testing.T) {
	body := []byte("locked and labelled")
	sum := md5.Sum(body)
	until := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	opts := objstore.PutOptions{
		Tags: []objstore.Tag{{Key: "firn-class", Value: "a b+c"}, {Key: "k", Value: "v"}}, StorageClass: "STANDARD_IA",
		Lock: objstore.Lock{Mode: objstore.LockCompliance, Until: until},
	}
	for _, mode := range []s3compat.ChecksumMode{s3compat.ChecksumWhenRequired, s3compat.ChecksumWhenSupported} {
		var got http.Header
		b := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.Header
			answer(200, "")(w, r)
		})), func(o *s3compat.Options) { o.ChecksumMode = mode })
		for name, put := range map[string]func() error{
			"put":      func() error { return b.Put(t.Context(), "k", body, opts) },
			"put from": func() error { return b.PutFrom(t.Context(), "k", bytes.NewReader(body), int64(len(body)), opts) },
		} {
			if err := put(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			tags, err := url.ParseQuery(got.Get("x-amz-tagging"))
			if err != nil || tags.Get("firn-class") != "a b+c" || tags.Get("k") != "v" || len(tags) != 2 {
				t.Errorf("%s: tags %q", name, got.Get("x-amz-tagging"))
			}
			ends, err := time.Parse(time.RFC3339, got.Get("x-amz-object-lock-retain-until-date"))
			if err != nil || !ends.Equal(until) || got.Get("x-amz-object-lock-mode") != "COMPLIANCE" {
				t.Errorf("%s: lock %q until %q", name, got.Get("x-amz-object-lock-mode"), got.Get("x-amz-object-lock-retain-until-date"))
			}
			if got.Get("x-amz-storage-class") != "STANDARD_IA" {
				t.Errorf("%s: class %q", name, got.Get("x-amz-storage-class"))
			}
			// A store takes no lock without a checksum of the body.
			checked := got.Get("Content-MD5") == base64.StdEncoding.EncodeToString(sum[:])
			if mode == s3compat.ChecksumWhenSupported {
				checked = got.Get("x-amz-checksum-crc32") != "" || got.Get("x-amz-checksum-crc32c") != ""
			}
			if !checked {
				t.Errorf("%s in mode %s carries no checksum", name, mode)
			}
		}
	}
}

// A body that is sent twice starts from its start again.
func (s suite) testAPutFromIsRetriedFromTheStart(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	var requests atomic.Int64
	store := fakeStore(t)
	b := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && requests.Add(1) < 3 {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<requests.Load()<<10)
			answer(503, errorBody("SlowDown"))(w, r)
			return
		}
		store.ServeHTTP(w, r)
	})), nil)
	if err := b.PutFrom(t.Context(), "k", bytes.NewReader(body), int64(len(body)), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Get(t.Context(), "k"); err != nil || !bytes.Equal(got, body) || requests.Load() != 3 {
		t.Errorf("%d requests left %d bytes, %v", requests.Load(), len(got), err)
	}
}

// watched tells of reads after it was taken back.
type watched struct {
	mu     sync.Mutex
	over   bool
	late   int
	within io.ReaderAt
}

func (w *watched) ReadAt(p []byte, position int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		w.late++
	}
	return w.within.ReadAt(p, position)
}

func (s suite) testABodyIsNotReadAfterPutFrom(t *testing.T) {
	refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden) // before the body was read
		_, _ = io.WriteString(w, errorBody("AccessDenied"))
	})
	b := s.open(t, serve(t, refuse), nil)
	for range 10 {
		body := &watched{within: bytes.NewReader(make([]byte, 8<<20))}
		err := b.PutFrom(t.Context(), "k", body, 8<<20, objstore.PutOptions{})
		body.mu.Lock()
		body.over = true
		body.mu.Unlock()
		if err == nil {
			t.Fatal("a refused put succeeded")
		}
		body.mu.Lock()
		late := body.late
		body.mu.Unlock()
		if late > 0 {
			t.Fatal("the body was read after PutFrom had returned")
		}
	}
}

// zeros is a body of any size that takes no memory.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

func (s suite) testAPutFromHoldsNoBody(t *testing.T) {
	b := s.open(t, serve(t, answer(200, "")), nil)
	const size = 64 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := b.PutFrom(t.Context(), "k", zeros{}, size, objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > size/8 {
		t.Errorf("a body of %d bytes took %d bytes of memory", size, got)
	}
}

func (s suite) testACallersEndCutsAPutFrom(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := s.open(t, serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
		cancel()
		_, _ = io.Copy(io.Discard, r.Body) // until the connection breaks
	})), nil)
	err := b.PutFrom(ctx, "k", zeros{}, 64<<20, objstore.PutOptions{})
	if !errors.Is(err, context.Canceled) || errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("put from: %v, want the caller's end", err)
	}
}

func (s suite) testWhatALockKeepsIsRetained(t *testing.T) {
	for _, c := range []struct {
		status        int
		code, message string
		want          error
	}{
		{403, "AccessDenied", "Access Denied because object protected by object lock.", objstore.ErrRetained},
		{400, "InvalidRequest", "Object is WORM protected and cannot be overwritten", objstore.ErrRetained},
		{403, "AccessDenied", "forbidden by object lock", objstore.ErrRetained},
		{403, "AccessDenied", "Access Denied.", objstore.ErrDenied},
		{400, "InvalidRequest", "Bucket is missing Object Lock Configuration", objstore.ErrInvalid},
	} {
		body := "<Error><Code>" + c.code + "</Code><Message>" + c.message + "</Message></Error>"
		b := s.open(t, serve(t, answer(c.status, body)), nil)
		wantClass(t, "delete: "+c.message, b.Delete(t.Context(), "k"), c.want)
		wantClass(t, "put: "+c.message, b.Put(t.Context(), "k", nil, objstore.PutOptions{}), c.want)
		one := strings.Replace(body, "<Error>", "<Error><Key>a</Key>", 1)
		b = s.open(t, serve(t, answer(200, "<DeleteResult>"+one+"<Deleted><Key>b</Key></Deleted></DeleteResult>")), nil)
		if c.want != objstore.ErrInvalid { //nolint:errorlint // which row of the table it is
			wantClass(t, "delete of two: "+c.message, b.Delete(t.Context(), "a", "b"), c.want)
		}
	}
}

func testPutTimeoutGrows(t *testing.T) {
	o := s3compat.Options{AttemptTimeout: 10 * time.Second}
	for size, want := range map[int64]time.Duration{0: 10 * time.Second, 8 << 20: 18 * time.Second, 256 << 20: 266 * time.Second} {
		if got := o.PutTimeout(size); got != want {
			t.Errorf("an attempt to put %d bytes takes %v, want %v", size, got, want)
		}
	}
}

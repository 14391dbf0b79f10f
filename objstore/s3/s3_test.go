package s3_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/objstoretest"
	"github.com/firnlog/firn/objstore/s3"
)

const bucketName = "snow"

func TestMain(m *testing.M) {
	// Credentials that nothing checks, and no file or network service of this machine asked for others.
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_REGION": "", "AWS_PROFILE": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// serve starts an HTTP server on loopback and returns its URL.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func fakeStore(t *testing.T) http.Handler {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket(bucketName); err != nil {
		t.Fatal(err)
	}
	return gofakes3.New(backend).Server()
}

func open(t *testing.T, endpoint string, change func(*s3.Options)) *s3.Bucket {
	t.Helper()
	options := s3.Options{Bucket: bucketName, Endpoint: endpoint, PathStyle: true, MaxBackoff: time.Millisecond}
	if change != nil {
		change(&options)
	}
	b, err := s3.New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestContract(t *testing.T) {
	for _, mode := range []s3.ChecksumMode{s3.ChecksumWhenRequired, s3.ChecksumWhenSupported} {
		t.Run(string(mode), func(t *testing.T) {
			objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
				return open(t, serve(t, fakeStore(t)), func(o *s3.Options) { o.ChecksumMode = mode })
			})
		})
	}
}

func TestPrefixesKeepBucketsApart(t *testing.T) {
	endpoint := serve(t, fakeStore(t))
	whole := open(t, endpoint, nil)
	inner := open(t, endpoint, func(o *s3.Options) { o.Prefix = "a/b/" })
	other := open(t, endpoint, func(o *s3.Options) { o.Prefix = "a/bb" })
	for _, b := range []*s3.Bucket{inner, other} {
		if err := b.Put(t.Context(), "k/1", []byte("x"), objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		bucket        *s3.Bucket
		prefix, after string
		want          []string
	}{
		{whole, "", "", []string{"a/b/k/1", "a/bb/k/1"}},
		{inner, "", "", []string{"k/1"}},
		{inner, "k", "k/0", []string{"k/1"}},
		{inner, "", "k/1", nil},
		{other, "k/", "", []string{"k/1"}},
	} {
		infos, err := c.bucket.List(t.Context(), c.prefix, c.after, 10)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, info := range infos {
			keys = append(keys, info.Key)
		}
		if !slices.Equal(keys, c.want) {
			t.Errorf("list prefix %q after %q: %q, want %q", c.prefix, c.after, keys, c.want)
		}
	}
	if err := inner.Delete(t.Context(), "k/1", "absent"); err != nil {
		t.Fatal(err)
	}
	if _, err := whole.Head(t.Context(), "a/bb/k/1"); err != nil {
		t.Errorf("the other prefix lost its object: %v", err)
	}
	long := strings.Repeat("k", objstore.KeyBytesMax)
	if err := inner.Put(t.Context(), long, nil, objstore.PutOptions{}); !errors.Is(err, objstore.ErrInvalid) {
		t.Errorf("key too long with the prefix: %v, want ErrInvalid", err)
	}
}

func TestMissingBucketIsNotAMissingObject(t *testing.T) {
	b := open(t, serve(t, fakeStore(t)), func(o *s3.Options) { o.Bucket = "absent" })
	_, err := b.Get(t.Context(), "k")
	if !errors.Is(err, objstore.ErrDenied) || errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("get: %v, want ErrDenied", err)
	}
	if err := b.Put(t.Context(), "k", nil, objstore.PutOptions{}); !errors.Is(err, objstore.ErrDenied) {
		t.Errorf("put: %v, want ErrDenied", err)
	}
	if _, err := b.List(t.Context(), "", "", 1); !errors.Is(err, objstore.ErrDenied) {
		t.Errorf("list: %v, want ErrDenied", err)
	}
}

func TestOptionsAreCheckedTogether(t *testing.T) {
	_, err := s3.New(t.Context(), s3.Options{
		Prefix: "../up", Endpoint: "http://user:secret@host", ChecksumMode: "never", MaxAttempts: -1, AttemptTimeout: -1,
	})
	if !errors.Is(err, objstore.ErrInvalid) {
		t.Fatalf("error %v, want ErrInvalid", err)
	}
	for _, part := range []string{"bucket name", "../up", "credentials", "never", "limit", "timeout"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not speak of %s: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("error gives the password away: %v", err)
	}
	if _, err := s3.New(t.Context(), s3.Options{Bucket: "b"}); !errors.Is(err, objstore.ErrInvalid) || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("AWS without a region: %v", err)
	}
}

func TestCallersDeadlineIsNotTheStoresFault(t *testing.T) {
	block := make(chan struct{})
	endpoint := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-block }))
	defer close(block)
	b := open(t, endpoint, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := b.Put(ctx, "k", []byte("x"), objstore.PutOptions{})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("put: %v, want the caller's deadline", err)
	}
	hasty := open(t, endpoint, func(o *s3.Options) { o.AttemptTimeout, o.MaxAttempts = 20*time.Millisecond, 2 })
	_, err = hasty.Get(t.Context(), "k")
	if !errors.Is(err, objstore.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("get whose attempts time out: %v, want ErrUnavailable", err)
	}
}

func TestNobodyListens(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	b := open(t, server.URL, nil)
	if _, err := b.Head(t.Context(), "k"); !errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("head: %v, want ErrUnavailable", err)
	}
}

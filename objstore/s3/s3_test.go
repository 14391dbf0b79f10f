package s3_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/objstoretest"
	"github.com/firnlog/firn/objstore/s3"
	"github.com/firnlog/firn/objstore/s3compat"
	"github.com/firnlog/firn/objstore/s3compat/s3compattest"
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

func TestAnswers(t *testing.T) {
	s3compattest.Run(t, func(t *testing.T, options s3compat.Options) (objstore.Bucket, error) {
		b, err := s3.New(t.Context(), options)
		if err != nil {
			return nil, err
		}
		return b, nil
	})
}

func TestContract(t *testing.T) {
	for _, mode := range []s3.ChecksumMode{s3.ChecksumWhenRequired, s3.ChecksumWhenSupported} {
		t.Run(string(mode), func(t *testing.T) {
			objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
				return open(t, s3compattest.Serve(t, s3compattest.FakeStore(t)), func(o *s3.Options) { o.ChecksumMode = mode })
			})
		})
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

func TestAbilities(t *testing.T) {
	opened := func(locking bool) func(t *testing.T) objstore.Bucket {
		return func(t *testing.T) objstore.Bucket {
			return open(t, s3compattest.Serve(t, s3compattest.XMLStore(t, locking)), func(o *s3.Options) { o.Prefix = "cluster-1" })
		}
	}
	objstoretest.RunAbilities(t, opened(false), opened(true))
}

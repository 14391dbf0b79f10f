package open_test

import (
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
	"github.com/firnlog/firn/objstore/s3"
)

func TestMain(m *testing.M) {
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

func TestURLsThatWork(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	backend := s3mem.New()
	if err := backend.CreateBucket("snow"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	defer server.Close()
	for _, c := range []struct {
		url  string
		file string // where the object must be, "" where it is not in this directory
	}{
		{"mem://", ""},
		{"file://" + dir + "/absolute", "absolute/dir/key"},
		{"file://./relative/deep", "relative/deep/dir/key"},
		{"file://.", "dir/key"},
		{"s3://snow?endpoint=" + server.URL + "&path_style=true", ""},
		{"s3://snow/a/prefix/?endpoint=" + server.URL + "&path_style=1&region=eu-west-1&checksum=when_supported" +
			"&attempt_timeout=5s&connect_timeout=1s&max_attempts=2", ""},
	} {
		b, err := open.Open(t.Context(), c.url, open.Options{S3: s3.Options{MaxAttempts: 1}})
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		if err := b.Put(t.Context(), "dir/key", []byte("body"), objstore.PutOptions{}); err != nil {
			t.Errorf("%s: %v", c.url, err)
		}
		if got, err := b.Get(t.Context(), "dir/key"); err != nil || string(got) != "body" {
			t.Errorf("%s: get gave %q, %v", c.url, got, err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("%s: %v", c.url, err)
		}
		if c.file != "" {
			if _, err := os.Stat(filepath.Join(dir, c.file)); err != nil {
				t.Errorf("%s: %v", c.url, err)
			}
		}
	}
	for _, key := range []string{"dir/key", "a/prefix/dir/key"} {
		if _, err := backend.HeadObject("snow", key); err != nil {
			t.Errorf("the store has no %s: %v", key, err)
		}
	}
}

func TestURLsThatDoNot(t *testing.T) {
	for _, c := range []struct {
		url  string
		says []string
	}{
		{"", []string{"no scheme", "file:///"}},
		{"/var/lib/bucket", []string{"no scheme", "file:///"}},
		{"gs://bucket", []string{`"gs"`, "file, mem and s3"}},
		{"minio://snow/prefix", []string{"not supported yet", "s3://snow/prefix?endpoint="}},
		{"mem://name", []string{"write mem://"}},
		{"mem://?size=1", []string{`"size"`, "parameters of mem: none"}},
		{"file://", []string{"no directory"}},
		{"file://data/bucket", []string{`"data"`, "file:///data/bucket", "file://./data/bucket"}},
		{"file:///x?endpoint=y", []string{`"endpoint"`, "parameters of file: none"}},
		{"file:relative", []string{"scheme://"}},
		{"s3://", []string{"no bucket"}},
		{"s3://host:9000/bucket", []string{"port", "endpoint="}},
		{"s3://snow?region=x&regoin=y&zone=z", []string{`"regoin"`, `"zone"`, "endpoint, region, path_style"}},
		{"s3://snow?region=x&region=y", []string{"region", "2 times"}},
		{"s3://snow?region=", []string{"region", "empty"}},
		{"s3://snow?region=x&path_style=maybe&max_attempts=few", []string{"path_style", "maybe", "max_attempts", "few"}},
		{"s3://snow?region=x&checksum=sometimes", []string{"sometimes", "when_required"}},
		{"s3://snow?endpoint=localhost:9000", []string{"endpoint", "http://host:port"}},
		{"s3://snow", []string{"no region", "AWS_REGION"}},
		{"s3://snow/a/../b?region=x", []string{"prefix"}},
		{"s3://key:hunter2@snow?region=x", []string{"credentials", "AWS_SECRET_ACCESS_KEY"}},
		{"s3://key:hunter2@snow\x7f", []string{"bucket URL"}},
		{"s3://snow?region=x#part", []string{"#"}},
	} {
		b, err := open.Open(t.Context(), c.url, open.Options{})
		if err == nil {
			t.Errorf("%s: opened", c.url)
			_ = b.Close()
			continue
		}
		if !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("%s: %v is not ErrInvalid", c.url, err)
		}
		if b != nil {
			t.Errorf("%s: a bucket came with the error", c.url)
		}
		for _, part := range c.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error does not say %q: %v", c.url, part, err)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error gives the password away: %v", c.url, err)
		}
	}
}

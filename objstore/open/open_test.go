package open_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
	"github.com/firnlog/firn/objstore/s3compat"
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
			"&attempt_timeout=5s&connect_timeout=1s&max_attempts=2&max_backoff=1s", ""},
		{"minio://snow/b/?endpoint=" + server.URL, ""},
		{"minio://snow/c?endpoint=" + server.URL + "&path_style=true&region=eu-west-1&checksum=when_supported" +
			"&attempt_timeout=5s&connect_timeout=1s&max_attempts=2&anonymous=true", ""},
	} {
		b, err := open.Open(t.Context(), c.url, open.Options{Store: s3compat.Options{MaxAttempts: 1}})
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
	for _, key := range []string{"dir/key", "a/prefix/dir/key", "b/dir/key", "c/dir/key"} {
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
		{"gs://bucket", []string{`"gs"`, "file, mem, minio and s3"}},
		{"minio://snow/prefix", []string{"no endpoint", "endpoint=http://host:9000"}},
		{"minio://", []string{"no bucket", "minio://bucket"}},
		{"minio://snow?endpoint=http://h/path&max_attempts=99", []string{"has a path", "max_attempts is 99"}},
		{"minio://snow?endpoint=http://h&ca_file=/x&client_key=/y", []string{"ca_file", "https://", "client_cert and client_key"}},
		{"minio://snow?endpoint=https://h&ca_file=/no/such/file", []string{"ca_file", "/no/such/file"}},
		{"s3://snow?region=x&ca_file=/no/such/file", []string{"ca_file", "/no/such/file"}},
		{"s3://snow?region=x&anonymous=true&profile=p", []string{"anonymous", "exclude"}},
		{"s3://snow?region=x&connect_timeout=0&max_attempts=0", []string{"connect_timeout", "max_attempts", "default"}},
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
		{"s3://snow?region=x&secret_key=hunter2", []string{`"secret_key"`}},
		{"file:///x?secret_key=hunter2", []string{`"secret_key"`}},
		{"s3://snow?region=x&endpoint=http://key:hunter2@h", []string{"credentials"}},
		{"s3://snow?secret=hunter2%zz", []string{"parameters"}},
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

func TestTheTableOfParametersIsTheDocumentedOne(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "buckets.md"))
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| `") && strings.Count(line, "|") == 5 {
			documented = append(documented, strings.TrimSpace(line))
		}
	}
	var ours []string
	for _, p := range open.Parameters() {
		ours = append(ours, fmt.Sprintf("| `%s` | %s | %s | %s |", p.Name, p.Value, p.Default, p.Doc))
	}
	if !slices.Equal(documented, ours) {
		t.Errorf("docs/buckets.md has\n%s\nthe code has\n%s", strings.Join(documented, "\n"), strings.Join(ours, "\n"))
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range open.Parameters() {
		if !regexp.MustCompile(`\b` + p.Name + `\b`).Match(doc) {
			t.Errorf("doc.go does not name %s", p.Name)
		}
	}
}

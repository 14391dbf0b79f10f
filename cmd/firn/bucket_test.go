package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/firnlog/firn/objstore/probe"
)

// s3Server is a store in this process with one bucket, logs; before answers first, where it returns true.
func s3Server(t *testing.T, before func(http.ResponseWriter, *http.Request) bool) (url string, backend *s3mem.Backend) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		t.Setenv(name, value)
	}
	backend = s3mem.New()
	if err := backend.CreateBucket("logs"); err != nil {
		t.Fatal(err)
	}
	store := gofakes3.New(backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before == nil || !before(w, r) {
			store.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, backend
}

func TestBucketProbe(t *testing.T) {
	answer := func(status int, code string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			_, _ = w.Write([]byte("<Error><Code>" + code + "</Code></Error>"))
			return true
		}
	}
	for _, c := range []struct {
		name   string
		before func(http.ResponseWriter, *http.Request) bool
		code   int
		says   []string
	}{
		{"fit", nil, exitOK, []string{"is fit for firn", "conditional put"}},
		{"forbidden", answer(403, "AccessDenied"), exitCheck, []string{"is NOT fit", "put", "denied", "Give these credentials s3:PutObject"}},
		{"no such bucket", answer(404, "NoSuchBucket"), exitCheck, []string{"is NOT fit", "denied", "NoSuchBucket", "Look at the name of the bucket"}},
		{"another secret", answer(403, "SignatureDoesNotMatch"), exitCheck, []string{"is NOT fit", "denied", "SignatureDoesNotMatch", "the credentials"}},
		{"asking for less load", answer(503, "SlowDown"), exitCheck, []string{"is NOT fit", "unavailable", "SlowDown"}},
	} {
		for _, driver := range []string{"s3", "minio"} {
			t.Run(c.name+"/"+driver, func(t *testing.T) {
				endpoint, _ := s3Server(t, c.before)
				url := driver + "://logs/firn?path_style=true&max_attempts=1&endpoint=" + endpoint
				r := execute(t.Context(), "", "", "bucket", "probe", "--bucket", url)
				if r.code != c.code {
					t.Errorf("exit code %d, want %d: %s", r.code, c.code, r.errOut)
				}
				for _, part := range c.says {
					if !strings.Contains(r.out, part) {
						t.Errorf("it does not say %q:\n%s", part, r.out)
					}
				}
				if strings.Contains(r.out+r.errOut, "behind") || strings.Contains(r.out, "..") {
					t.Errorf("something is left behind that was never put, or a sentence ends twice:\n%s%s", r.out, r.errOut)
				}
				r = execute(t.Context(), "", "", "bucket", "probe", "--bucket", url, "-o", "json")
				var report probe.Report
				if err := json.Unmarshal([]byte(r.out), &report); err != nil || len(report.Checks) != 12 {
					t.Errorf("%v: %s", err, r.out)
				}
			})
		}
	}
	if r := execute(t.Context(), "", "", "bucket", "probe"); r.code != exitUsage || !strings.Contains(r.errOut, "--bucket") {
		t.Errorf("without a bucket: exit code %d: %s", r.code, r.errOut)
	}
}

// An agent does not start on a bucket that lacks what it needs, says what and how to mend it, and does start where told to.
func TestAnUnfitBucketStopsTheStart(t *testing.T) {
	const rule = "<LifecycleConfiguration><Rule><ID>tidy</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>" +
		"<Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>"
	endpoint, _ := s3Server(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !r.URL.Query().Has("lifecycle") {
			return false
		}
		_, _ = w.Write([]byte(rule))
		return true
	})
	url := "minio://logs/firn?endpoint=" + endpoint
	f := dev(t, "--data-dir", t.TempDir(), "--bucket", url)
	if code := <-f.code; code != exitFailure {
		t.Errorf("exit code %d", code)
	}
	for _, part := range []string{"--bucket", "expiry rules", "tidy", "deletes after 30 days", "Take the rule off"} {
		if !strings.Contains(f.errs.String(), part) {
			t.Errorf("it does not say %q:\n%s", part, f.errs.String())
		}
	}
	f = dev(t, "--data-dir", t.TempDir(), "--bucket", url, "--bucket-probe", "warn")
	f.ready()
	if code := f.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, f.errs)
	}
}

// An agent whose bucket does not answer says so and ends, and starts once it answers.
func TestAStartWithoutABucketThatAnswers(t *testing.T) {
	endpoint, _ := s3Server(t, nil)
	const addr = "127.0.0.1:1" // nobody listens there
	dir := t.TempDir()
	for _, driver := range []string{"s3", "minio"} {
		f := dev(t, "--data-dir", dir, "--bucket", driver+"://logs/firn?path_style=true&endpoint=http://"+addr)
		if code := <-f.code; code != exitFailure {
			t.Errorf("%s: exit code %d", driver, code)
		}
		for _, part := range []string{"--bucket", addr, "put: unavailable", "connection refused", "Look at the endpoint"} {
			if !strings.Contains(f.errs.String(), part) {
				t.Errorf("%s: it does not say %q:\n%s", driver, part, f.errs.String())
			}
		}
		f = dev(t, "--data-dir", dir, "--bucket", driver+"://logs/firn?path_style=true&endpoint="+endpoint)
		f.ready()
		if code := f.stop(); code != exitOK {
			t.Errorf("%s: exit code %d: %s", driver, code, f.errs)
		}
	}
}

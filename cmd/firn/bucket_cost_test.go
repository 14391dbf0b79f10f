package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/cmd/firn/prices"
	"github.com/firnlog/firn/objstore"
)

// scraped is what an agent says that started ten hours ago.
func scraped(puts, gets, produced, fetched int) string {
	return fmt.Sprintf(`# TYPE process_start_time_seconds gauge
process_start_time_seconds %d
# TYPE firn_objectstore_requests_total counter
firn_objectstore_requests_total{op="put",outcome="ok"} %d
firn_objectstore_requests_total{op="get_range",outcome="ok"} %d
firn_objectstore_requests_total{op="get_range",outcome="not_found"} 0
firn_objectstore_requests_total{op="delete",outcome="ok"} 7
# TYPE firn_topic_produced_bytes_total counter
firn_topic_produced_bytes_total{topic="orders"} %d
# TYPE firn_topic_fetched_bytes_total counter
firn_topic_fetched_bytes_total{topic="orders"} %d
# TYPE firn_topic_log_bytes gauge
firn_topic_log_bytes{topic="orders"} %d
firn_topic_log_bytes{topic="idle"} %d
`, time.Now().Add(-10*time.Hour).Unix(), puts, gets, produced, fetched, 30*gib, 10*gib)
}

// shelved are versions of a bucket, in pages of two.
type shelved []objstore.Version

func (s shelved) ListVersions(_ context.Context, _, afterKey, afterID string, _ int) ([]objstore.Version, error) {
	at := slices.IndexFunc(s, func(v objstore.Version) bool { return v.Key == afterKey && v.ID == afterID }) + 1
	return s[at:min(at+2, len(s))], nil
}

func (shelved) DeleteVersion(context.Context, string, string) error { return objstore.ErrInvalid }

// Old versions are counted by class and paid for; markers and what is live are not; the number of requests is bounded.
func TestBucketCostCountsOldVersions(t *testing.T) {
	version := func(key, id, class string, latest, marker bool) objstore.Version {
		return objstore.Version{Info: objstore.Info{Key: key, Size: gib}, ID: id, StorageClass: class, Latest: latest, DeleteMarker: marker}
	}
	store := shelved{
		version("a", "3", "", true, true), version("a", "2", "", false, false), version("a", "1", "STANDARD", false, false),
		version("b", "2", "STANDARD_IA", true, false), version("b", "1", "STANDARD_IA", false, false),
	}
	for requests, want := range map[int]string{4: "map[STANDARD:2.147483648e+09 STANDARD_IA:1.073741824e+09]", 2: "map[STANDARD:2.147483648e+09] up to key b"} {
		old, err := oldVersionsOf(t.Context(), store, requests)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(old.bytes)
		if old.note != "" && strings.Contains(old.note, "up to key b:") {
			got += " up to key b"
		}
		if got != want {
			t.Errorf("%d requests: %s, want %s", requests, got, want)
		}
	}
	s, err := parseScrape("a", strings.NewReader(scraped(0, 0, gib, 0)))
	if err != nil {
		t.Fatal(err)
	}
	old, err := oldVersionsOf(t.Context(), store, 9)
	if err != nil {
		t.Fatal(err)
	}
	v, err := costOf([]scrape{s}, prices.Default(), old, time.Now())
	if err != nil || len(v.Stored) != 3 || !v.Stored[2].Old || v.Stored[2].Class != "STANDARD_IA" || v.Stored[2].Month != 0.0125 || v.Stored[1].Month != 0.046 {
		t.Fatalf("%v: %+v", err, v)
	}
	var out strings.Builder
	if err := printCost(&out, v); err != nil || !strings.Contains(out.String(), "STANDARD_IA, old versions") {
		t.Errorf("%v:\n%s", err, &out)
	}
}

// How long the agents may take has nothing to do with how long a listing takes, which is bounded by its requests.
func TestBucketCostListsVersionsForAsLongAsItTakes(t *testing.T) {
	endpoint, _ := s3Server(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !r.URL.Query().Has("versions") {
			return false
		}
		entries := ""
		if !r.URL.Query().Has("key-marker") {
			entries = "<Version><Key>firn/data/x</Key><VersionId>1</VersionId><IsLatest>false</IsLatest><LastModified>2026-01-01T00:00:00Z</LastModified>" +
				"<Size>1073741824</Size><StorageClass>STANDARD</StorageClass></Version>"
		}
		_, _ = w.Write([]byte("<ListVersionsResult>" + entries + "</ListVersionsResult>"))
		return true
	})
	file := filepath.Join(t.TempDir(), "a.txt")
	if err := os.WriteFile(file, []byte(scraped(1, 1, gib, gib)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := execute(t.Context(), "", "", "bucket", "cost", "--metrics", file, "--timeout", "1ns", "--versions-of", "minio://logs/firn?endpoint="+endpoint)
	if r.code != exitOK || !strings.Contains(r.out, "STANDARD, old versions") {
		t.Errorf("exit code %d: %s%s", r.code, r.out, r.errOut)
	}
}

func TestBucketCost(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(scraped(1000, 2000, 2*gib, 0)))
	}))
	t.Cleanup(server.Close)
	addr := strings.TrimPrefix(server.URL, "http://")
	file := filepath.Join(t.TempDir(), "a2.txt")
	if err := os.WriteFile(file, []byte(scraped(3000, 0, 2*gib, 8*gib)+
		"# TYPE firn_bucket_stored_bytes gauge\nfirn_bucket_stored_bytes{storage_class=\"STANDARD\"} 10737418240\n"+
		"firn_bucket_stored_bytes{storage_class=\"STANDARD_IA\"} 10737418240\nfirn_bucket_stored_bytes{storage_class=\"FROSTY\"} 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := execute(t.Context(), "", "", "bucket", "cost", "--metrics", addr+","+file, "-o", "json")
	var v costView
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || r.code != exitOK {
		t.Fatalf("exit code %d, %v: %s", r.code, err, r.errOut)
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if got < want*0.99 || got > want*1.01 {
			t.Errorf("%s: %v, want about %v", what, got, want)
		}
	}
	near("puts", v.Requests[0].Cost, 4*0.005)
	near("hours", v.Hours, 10)
	near("puts a month", v.Requests[0].Month, 4*0.005*73)
	near("stored", v.Stored[1].Month, 0.23)
	near("stored colder", v.Stored[2].Month, 0.125)
	orders := v.Topics[0]
	if orders.Topic != "orders" || v.Agents != 2 || len(v.Topics) != 2 || len(v.Notes) != 4 || !strings.Contains(v.Notes[0], "FROSTY is not in") || !strings.Contains(v.Notes[1], "--versions-of") ||
		!strings.Contains(v.Notes[3], "STANDARD_IA are priced as those of STANDARD") {
		t.Fatalf("%+v", v)
	}
	near("a GiB written", *orders.PerGiBWritten, 4*0.005/4)
	near("a GiB read", *orders.PerGiBRead, 2*0.0004/8+0.01/2)
	near("a GiB stored", *orders.PerGiBMonth, (0.23+0.125)/40)
	near("the topic", orders.StoredMonth, (0.23+0.125)*30/40)
	if idle := v.Topics[1]; idle.PerGiBRead != nil || idle.PerGiBWritten != nil || idle.PerGiBMonth == nil {
		t.Errorf("a topic that nobody uses: %+v", idle)
	}

	// What a file says was said when it was written, however much later it is read.
	if err := os.Chtimes(file, time.Time{}, time.Now().Add(-9*time.Hour)); err != nil {
		t.Fatal(err)
	}
	ageless := filepath.Join(t.TempDir(), "ageless.txt")
	if err := os.WriteFile(ageless, []byte("# TYPE firn_objectstore_requests_total counter\nfirn_objectstore_requests_total{op=\"put\"} 1000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = execute(t.Context(), "", "", "bucket", "cost", "--metrics", file+","+ageless, "-o", "json")
	var old costView
	if err := json.Unmarshal([]byte(r.out), &old); err != nil || r.code != exitOK {
		t.Fatalf("exit code %d, %v: %s", r.code, err, r.errOut)
	}
	near("hours of a file", old.Hours, 1)
	near("puts a month of a file", old.Requests[0].Month, 3*0.005*730)
	if !strings.Contains(strings.Join(old.Notes, "\n"), "ageless.txt does not say when it started") {
		t.Errorf("an agent that does not say when it started: %q", old.Notes)
	}

	own := filepath.Join(t.TempDir(), "prices.yaml")
	table := execute(t.Context(), "", "", "bucket", "cost", "--print-prices").out
	if err := os.WriteFile(own, []byte(strings.Replace(table, "put: 0.005", "put: 5", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r = execute(t.Context(), "", "", "bucket", "cost", "--metrics", addr, "--prices", own)
	for _, says := range []string{"USD, of 2025-11-30", "put", "5.00", "orders", "firn_bucket_stored_bytes", "30.0 GiB"} {
		if !strings.Contains(r.out, says) {
			t.Errorf("it does not say %q:\n%s%s", says, r.out, r.errOut)
		}
	}

	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("currency: USD\nput: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nothing := filepath.Join(t.TempDir(), "nothing.txt")
	if err := os.WriteFile(nothing, []byte("up 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"--metrics absent":                         {exitUsage, "no file that can be read and no address"},
		"--metrics " + nothing:                     {exitUsage, "not an agent's /metrics"},
		"--metrics " + bad:                         {exitUsage, "not what an agent's /metrics says"},
		"--metrics " + server.URL + "/elsewhere":   {exitFailure, "404"},
		"--metrics " + addr + " --prices " + bad:   {exitUsage, "field put not found"},
		"--metrics " + addr + " --prices /absent":  {exitUsage, "/absent"},
		"--metrics " + addr + " --timeout -1s":     {exitUsage, "--timeout"},
		"--metrics 127.0.0.1:1 --timeout 5s":       {exitNoAnswer, "no agent answers at 127.0.0.1:1: "},
		"--metrics= --prices " + own:               {exitUsage, "names no agent"},
		"--metrics " + addr + " surprise":          {exitUsage, "surprise"},
		"--metrics " + addr + " -o yaml":           {exitUsage, "yaml"},
		"--metrics ftp://" + addr + "/metrics":     {exitNoAnswer, "unsupported protocol"},
		"--metrics http://" + addr + "/metrics%zz": {exitUsage, "--metrics"},
	} {
		r := execute(t.Context(), "", "", append([]string{"bucket", "cost"}, strings.Fields(args)...)...)
		if r.code != want.code || !strings.Contains(r.errOut, want.says) {
			t.Errorf("%s: exit code %d, want %d with %q: %s", args, r.code, want.code, want.says, r.errOut)
		}
	}
}

func TestRetentionOnTheCommandLine(t *testing.T) {
	for text, ms := range map[string]int64{"7d": 604800000, "36h": 129600000, "90m": 5400000, "forever": -1, "-1": -1} {
		if got, err := parseRetention(text); err != nil || got != ms {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"7", "0d", "-3d", "d", "1s", "a week", "99999999999d"} {
		if got, err := parseRetention(text); err == nil {
			t.Errorf("%q is %d ms", text, got)
		}
	}
	for ms, text := range map[int64]string{-1: "for ever", 604800000: "7 d", 129600000: "36 h", 5400000: "1h30m0s", 0: "0s"} {
		if got := retentionText(ms); got != text {
			t.Errorf("%d ms: %q, want %q", ms, got, text)
		}
	}
}

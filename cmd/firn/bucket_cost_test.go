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
	if orders.Topic != "orders" || v.Agents != 2 || len(v.Topics) != 2 || len(v.Notes) != 4 || !strings.Contains(v.Notes[0], "FROSTY is not in") || !strings.Contains(v.Notes[3], "--versions-of") ||
		!strings.Contains(v.Notes[1], "which class puts asked for") || !strings.Contains(v.Notes[2], "which topics' objects lie in which") {
		t.Fatalf("%+v", v)
	}
	near("a GiB written", *orders.PerGiBWritten, 4*0.005/4)
	near("a GiB read", *orders.PerGiBRead, (0.5*0.0004+0.5*0.001)*2/8+0.01/2)
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

// Requests are priced by the class of the objects that they concern, per topic, as far as counters tell; and the rest as of STANDARD.
func TestBucketCostByClass(t *testing.T) {
	text := fmt.Sprintf(`# TYPE process_start_time_seconds gauge
process_start_time_seconds %d
# TYPE firn_objectstore_requests_total counter
firn_objectstore_requests_total{op="put",outcome="ok"} 4000
firn_objectstore_requests_total{op="get_range",outcome="ok"} 10000
firn_objectstore_requests_total{op="list",outcome="ok"} 1000
# TYPE firn_objectstore_puts_total counter
firn_objectstore_puts_total{storage_class="STANDARD"} 3000
firn_objectstore_puts_total{storage_class="GLACIER_IR"} 1000
# TYPE firn_topic_produced_bytes_total counter
firn_topic_produced_bytes_total{topic="hot"} %[2]d
firn_topic_produced_bytes_total{topic="cold"} %[2]d
# TYPE firn_topic_fetched_bytes_total counter
firn_topic_fetched_bytes_total{topic="hot"} %[3]d
firn_topic_fetched_bytes_total{topic="moved"} %[2]d
# TYPE firn_topic_log_bytes gauge
firn_topic_log_bytes{topic="hot"} %[2]d
firn_topic_log_bytes{topic="cold"} %[2]d
firn_topic_log_bytes{topic="moved"} %[3]d
# TYPE firn_bucket_stored_bytes gauge
firn_bucket_stored_bytes{storage_class="STANDARD"} %[3]d
firn_bucket_stored_bytes{storage_class="GLACIER_IR"} %[2]d
firn_bucket_stored_bytes{storage_class="STANDARD_IA"} %[2]d
# TYPE firn_bucket_topic_stored_bytes gauge
firn_bucket_topic_stored_bytes{topic="cold",storage_class="GLACIER_IR"} %[2]d
firn_bucket_topic_stored_bytes{topic="moved",storage_class="STANDARD"} %[2]d
firn_bucket_topic_stored_bytes{topic="moved",storage_class="STANDARD_IA"} %[2]d
`, time.Now().Add(-10*time.Hour).Unix(), 10*gib, 2*10*gib)
	s, err := parseScrape("a", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	v, err := costOf([]scrape{s}, prices.Default(), nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if got < want*0.999 || got > want*1.001 {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	requests := make(map[string]requestCost)
	for _, r := range v.Requests {
		requests[r.Kind+" "+r.Class] = r
	}
	// Of 10 000 gets two thirds are of the topic hot, and half of the others of objects that were moved.
	for name, want := range map[string][2]float64{
		"put STANDARD": {3000, 3 * 0.005}, "put GLACIER_IR": {1000, 0.02}, "list ": {1000, 0.005},
		"get STANDARD": {10000 * 5 / 6.0, 10 * 5 / 6.0 * 0.0004}, "get STANDARD_IA": {10000 / 6.0, 10 / 6.0 * 0.001},
	} {
		near(name, requests[name].Count, want[0])
		near(name+", cost", requests[name].Cost, want[1])
		near(name+", a month", requests[name].Month, want[1]*73)
	}
	if len(requests) != 6 {
		t.Errorf("%+v", v.Requests)
	}
	topics := make(map[string]topicCost)
	for _, topic := range v.Topics {
		topics[topic.Topic] = topic
	}
	hot, cold, moved := topics["hot"], topics["cold"], topics["moved"]
	near("hot, a GiB written", *hot.PerGiBWritten, (3*0.005/2+0.005/2)/10)
	near("cold, a GiB written", *cold.PerGiBWritten, (3*0.005/2+0.005/2+0.02)/10)
	near("hot, a GiB read", *hot.PerGiBRead, 10*2/3.0*0.0004/20)
	near("moved, a GiB read", *moved.PerGiBRead, 10/3.0*(0.0004+0.001)/2/10+0.01/2)
	near("hot, stored", hot.StoredMonth, 10*0.023)
	near("cold, stored", cold.StoredMonth, 10*0.004)
	near("moved, stored", moved.StoredMonth, 10*(0.023+0.0125))
	near("all, stored", hot.StoredMonth+cold.StoredMonth+moved.StoredMonth, 20*0.023+10*0.004+10*0.0125)
	var out strings.Builder
	if err := printCost(&out, v); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"put, GLACIER_IR", "get, STANDARD_IA", "note: gets are shared over topics by bytes read", "note: puts of a storage class are shared"} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("it does not say %q:\n%s", says, &out)
		}
	}

	// What is shared adds up to what was paid, however topics and classes lie.
	written := *hot.PerGiBWritten*10 + *cold.PerGiBWritten*10
	near("all, written", written, requests["put STANDARD"].Cost+requests["put GLACIER_IR"].Cost+requests["list "].Cost)
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

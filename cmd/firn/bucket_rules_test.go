package main

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/firnlog/firn/compaction/lifecycle"
)

// ruleShelf answers for what the store in this process does not know: rules, versions and locks of the bucket.
type ruleShelf struct {
	mu     sync.Mutex
	rules  string // as they were put
	denied string // a parameter that is answered with 403
	lacks  string // a storage class that rules may not move to
}

func (s *ruleShelf) answer(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	query := r.URL.Query()
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code></Error>")
	}
	switch {
	case s.denied != "" && query.Has(s.denied):
		refuse(http.StatusForbidden, "AccessDenied")
	case query.Has("lifecycle") && r.Method == http.MethodPut:
		body, _ := io.ReadAll(r.Body)
		if s.lacks != "" && strings.Contains(string(body), "<StorageClass>"+s.lacks+"<") {
			refuse(http.StatusBadRequest, "InvalidStorageClass")
			break
		}
		s.rules = string(body)
	case query.Has("lifecycle") && s.rules == "":
		refuse(http.StatusNotFound, "NoSuchLifecycleConfiguration")
	case query.Has("lifecycle"):
		_, _ = io.WriteString(w, s.rules)
	case query.Has("versioning"):
		_, _ = io.WriteString(w, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
	case query.Has("object-lock"):
		refuse(http.StatusNotFound, "ObjectLockConfigurationNotFoundError")
	default:
		return false
	}
	return true
}

func (s *ruleShelf) set(rules, denied string) {
	s.mu.Lock()
	s.rules, s.denied = rules, denied
	s.mu.Unlock()
}
func (s *ruleShelf) get() string { s.mu.Lock(); defer s.mu.Unlock(); return s.rules }

// show, check and apply on a cluster whose agents leave rules alone.
func TestBucketRules(t *testing.T) {
	shelf := new(ruleShelf)
	endpoint, _ := s3Server(t, shelf.answer)
	url := "minio://logs/firn?endpoint=" + endpoint
	f := dev(t, "--data-dir", t.TempDir(), "--bucket", url, "--compaction=false")
	addr := f.ready()
	must(t, "", "topic", "create", "orders", "--brokers", addr)
	must(t, "", "topic", "create", "names", "--config", "cleanup.policy=compact", "--brokers", addr)
	bucket := func(args ...string) result {
		t.Helper()
		return execute(t.Context(), "", "", append(append([]string{"bucket"}, args...), "--bucket", url, "--brokers", addr)...)
	}
	expect := func(r result, code int, says ...string) {
		t.Helper()
		if r.code != code {
			t.Errorf("exit code %d, want %d", r.code, code)
		}
		for _, part := range says {
			if !strings.Contains(r.out+r.errOut, part) {
				t.Errorf("it does not say %q", part)
			}
		}
		if t.Failed() {
			t.Fatalf("%s%s", r.out, r.errOut)
		}
	}

	// A bucket that keeps versions and has no rules costs; apply mends that, and only when told to.
	expect(bucket("check"), exitOK, "costs:", "keeps versions", "firn bucket apply --versions")
	expect(bucket("apply", "--versions", "--dry-run"), exitOK, "+ firn/", "old-versions-data", "2 added", "nothing was changed")
	expect(bucket("apply", "--versions"), exitUsage, "add --yes")
	if shelf.get() != "" {
		t.Fatalf("rules were written: %s", shelf.get())
	}
	const theirs = "<Rule><ID>theirs</ID><Status>Enabled</Status><Filter><Prefix>other/</Prefix></Filter><Expiration><Days>3</Days></Expiration><Odd>kept</Odd></Rule>"
	shelf.set("<LifecycleConfiguration>"+theirs+"</LifecycleConfiguration>", "")
	expect(bucket("apply", "--versions", "--default-retention", "3d", "--yes"), exitOK, "2 added", "1 foreign left as they are", "default retention: 3 d, was 7 d", "applied")
	if !strings.Contains(shelf.get(), theirs) || strings.Count(shelf.get(), "<Rule>") != 3 {
		t.Fatalf("rules: %s", shelf.get())
	}
	expect(bucket("check"), exitOK, "nothing contradicts")
	expect(bucket("apply", "--default-retention", "3d"), exitOK, "nothing to change")
	expect(bucket("show"), exitOK, "versions", "enabled", "3 d (set for the cluster)", "2 of firn's, 1 of others", "theirs", "orders", "names")
	var v bucketView
	if err := json.Unmarshal([]byte(bucket("show", "-o", "json").out), &v); err != nil || len(v.Rules) != 2 || len(v.Foreign) != 1 || len(v.Classes) != 1 || v.DefaultRetention != 259200000 {
		t.Fatalf("%v: %+v", err, v)
	}

	// What takes records is found. A class that objects may still carry is held until agents have looked.
	shelf.set("<LifecycleConfiguration>"+strings.ReplaceAll(strings.ReplaceAll(theirs, "other/", "firn/topics/"), "<Odd>kept</Odd>", "")+"</LifecycleConfiguration>", "")
	var checked bucketChecked
	r := bucket("check", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &checked); err != nil || r.code != exitCheck || checked.Failing != 1 || checked.Findings[0].Topic != "names" || checked.Findings[0].Severity != lifecycle.Loses {
		t.Fatalf("exit code %d, %v: %+v", r.code, err, checked)
	}
	must(t, "", "config", "set", "topic", "orders", "firn.bucket.lifecycle=mirror", "--brokers", addr)
	expect(bucket("apply", "--dry-run"), exitOK, "class d4 is held", "2 added")

	must(t, "", "config", "set", "topic", "orders", "firn.bucket.lifecycle=authoritative", "--brokers", addr)
	expect(bucket("show"), exitOK, "FOLLOWS", "theirs", "firn-topic=orders", "firn/topics/")
	must(t, "", "config", "set", "topic", "orders", "firn.bucket.lifecycle=mirror", "--brokers", addr)

	// A class that the store's rules do not know keeps the others from nothing, and is named.
	shelf.lacks = "ATTIC" // no agent writes rules here
	for name, class := range map[string]string{"attic": "ATTIC", "cool": "COOL"} {
		must(t, "", "topic", "create", name, "--config", "firn.bucket.lifecycle=mirror", "--config", "retention.ms=-1", "--config", "firn.storage.transition.days=30",
			"--config", "firn.storage.transition.class="+class, "--brokers", addr)
	}
	expect(bucket("apply", "--yes"), exitCheck, "applied", "transitions of topic attic to storage class ATTIC were left out")
	if got := shelf.get(); !strings.Contains(got, "COOL") || strings.Contains(got, "ATTIC") || !strings.Contains(got, "old-versions-data") {
		t.Errorf("rules: %s", got)
	}
	expect(bucket("apply", "--yes", "-o", "json"), exitCheck, `"left_out": [`, `"class": "ATTIC"`)
	must(t, "", "topic", "delete", "attic", "cool", "--yes", "--brokers", addr)

	// What may not be read is named; what is another cluster's is left alone.
	shelf.set("", "lifecycle")
	expect(bucket("check"), exitOK, "unknown: topic orders: whether", "s3:GetLifecycleConfiguration") // and not as if it were the topic that is unknown
	expect(bucket("apply", "--dry-run"), exitFailure, "allow s3:GetLifecycleConfiguration")
	shelf.set("", "")
	other := dev(t, "--data-dir", t.TempDir(), "--bucket", "mem://", "--compaction=false")
	r = execute(t.Context(), "", "", "bucket", "check", "--bucket", url, "--brokers", other.ready())
	expect(r, exitFailure, "name the right ones")
	r = execute(t.Context(), "", "", "bucket", "check", "--bucket", "minio://logs/empty?endpoint="+endpoint, "--brokers", addr)
	expect(r, exitFailure, "holds no firn cluster")
	expect(execute(t.Context(), "", "", "bucket", "check", "--brokers", addr), exitUsage, "--bucket")
	expect(bucket("apply", "--default-retention", "soon"), exitUsage, "7d, 36h or forever")
	for _, f := range []*firn{f, other} {
		if code := f.stop(); code != exitOK {
			t.Errorf("exit code %d: %s", code, f.errs)
		}
	}
}

// A store without rules keeps nobody from setting the default retention, though a topic asks for rules.
func TestDefaultRetentionWhereTheStoreHasNoRules(t *testing.T) {
	dir := t.TempDir()
	f := dev(t, "--data-dir", dir, "--compaction=false")
	addr := f.ready()
	must(t, "", "topic", "create", "orders", "--config", "firn.bucket.lifecycle=mirror", "--brokers", addr)
	apply := []string{"bucket", "apply", "--bucket", "file://" + filepath.Join(dir, "bucket"), "--brokers", addr}
	if r := execute(t.Context(), "", "", apply...); r.code != exitFailure || !strings.Contains(r.errOut, "has no lifecycle rules") || !strings.Contains(r.errOut, "set firn.bucket.lifecycle=off") {
		t.Errorf("exit code %d: %s%s", r.code, r.out, r.errOut)
	}
	r := execute(t.Context(), "", "", append(apply, "--default-retention", "3d", "--yes")...)
	if r.code != exitOK || !strings.Contains(r.out, "note: no rules are written") || !strings.Contains(r.out, "default retention: 3 d, was 7 d") || !strings.Contains(r.out, "applied") {
		t.Errorf("exit code %d: %s%s", r.code, r.out, r.errOut)
	}
	if code := f.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, f.errs)
	}
}

//go:build interop

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/localstack"
	"github.com/firnlog/firn/objstore"
)

// bucketOf is a bucket of MinIO beside a cluster that keeps its data there.
type bucketOf struct {
	t     *testing.T
	stack *localstack.Stack
	url   string
	objstore.Bucket
	rules  objstore.RuleStore
	tagger objstore.Tagger
	locks  objstore.LockConfig
	kept   objstore.VersionStore
}

// firn runs a command of firn bucket and returns its exit code.
func (b *bucketOf) firn(args ...string) (out string, code int) {
	b.t.Helper()
	args = append([]string{"bucket"}, args...)
	args = append(args, "--bucket", b.url, "--brokers", b.stack.Brokers())
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(b.t.Context(), firnBin, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			b.t.Fatal(err)
		}
		if stdout.Len() == 0 {
			b.t.Logf("firn %v: %s", args, &stderr)
		}
		return stdout.String(), exit.ExitCode()
	}
	return stdout.String(), 0
}

// await waits until the bucket is as asked; what says how it is instead.
func (b *bucketOf) await(what string, is func() (string, bool)) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	for {
		seen, ok := is()
		if ok {
			return
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			b.t.Fatalf("%s: %s", what, seen)
		}
	}
}

// ids are the last words of the rules' names.
func (b *bucketOf) ids() string {
	b.t.Helper()
	rules, err := b.rules.Rules(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	var ids []string
	for _, r := range rules {
		ids = append(ids, r.ID[strings.LastIndex(r.ID, "/")+1:])
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

func (b *bucketOf) awaitRules(want string) {
	b.t.Helper()
	b.await("rules "+want, func() (string, bool) { got := b.ids(); return got, got == want })
}

// awaitTags waits until there are merged objects with class and none of another, and returns one.
func (b *bucketOf) awaitTags(class string) (key string) {
	b.t.Helper()
	b.await("tags "+class, func() (string, bool) {
		infos, err := b.List(b.t.Context(), "topics/", "", 1000)
		if err != nil {
			return err.Error(), false
		}
		seen := ""
		good := len(infos) > 0
		for _, i := range infos {
			tags, err := b.tagger.Tags(b.t.Context(), i.Key)
			if errors.Is(err, objstore.ErrNotFound) {
				continue // collected meanwhile
			}
			if err != nil {
				return err.Error(), false
			}
			seen += fmt.Sprintln(i.Key, tags)
			good = good && slices.Equal(tags, []objstore.Tag{{Key: lifecycle.TagClass, Value: class}})
			key = i.Key
		}
		return seen, good
	})
	return key
}

func (b *bucketOf) topic(args ...string) {
	b.t.Helper()
	run(b.t, firnBin, append(args, "--brokers", b.stack.Brokers())...)
}

func (b *bucketOf) produce(topic string) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), firnBin, "produce", topic, "--brokers", b.stack.Brokers())
	cmd.Stdin = strings.NewReader(strings.Repeat("snow\n", 100))
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("produce: %v: %s", err, out)
	}
}

// TestRulesAndLocksOnMinIO: rules follow topics, what contradicts them is found and put right, and what is locked stays.
func TestRulesAndLocksOnMinIO(t *testing.T) {
	for _, driver := range []string{"s3", "minio"} {
		t.Run(driver, func(t *testing.T) {
			dir := t.TempDir()
			m := startMinIO(t, dir, false)
			b := &bucketOf{t: t, url: m.URL(driver, "logs", "cluster-1"), Bucket: openMinIO(t, m, driver, "logs", true)}
			b.rules, _ = objstore.As[objstore.RuleStore](b.Bucket)
			b.tagger, _ = objstore.As[objstore.Tagger](b.Bucket)
			b.locks, _ = objstore.As[objstore.LockConfig](b.Bucket)
			b.kept, _ = objstore.As[objstore.VersionStore](b.Bucket)
			theirs := objstore.Rule{ID: "theirs", Enabled: true, Filter: objstore.Filter{Prefix: "elsewhere/"}, Expiration: objstore.Expiration{Days: 3}}
			if err := b.rules.SetRules(t.Context(), []objstore.Rule{theirs}); err != nil {
				t.Fatal(err)
			}
			b.stack = startOn(t, localstack.Options{
				Dir: dir, Agents: 1, Bucket: b.url, Env: m.Env(), Args: []string{"--lifecycle-interval=1s", "--merge-after=1s", "--merge-rescan=200ms"},
			})

			// Rules and tags follow the topic; theirs stays.
			b.topic("topic", "create", "orders", "--config", "firn.bucket.lifecycle=mirror")
			b.produce("orders")
			b.awaitRules("class-d8 old-versions-data old-versions-topics theirs")
			b.awaitTags("d8")
			b.topic("config", "set", "topic", "orders", "retention.ms=2592000000")
			b.awaitRules("class-d31 old-versions-data old-versions-topics theirs")
			b.awaitTags("d31")
			if out, code := b.firn("check"); code != 0 || !strings.Contains(out, "nothing contradicts") {
				t.Errorf("check: exit code %d: %s", code, out)
			}
			if out, code := b.firn("apply", "--dry-run"); code != 0 || !strings.Contains(out, "nothing to change") || !strings.Contains(out, "1 foreign left") {
				t.Errorf("apply: exit code %d: %s", code, out)
			}

			// A rule of firn's that somebody edits is put right; one of theirs that takes records is told, and left.
			rules, err := b.rules.Rules(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			bad := objstore.Rule{ID: "tidy", Enabled: true, Filter: objstore.Filter{Prefix: "cluster-1/"}, Expiration: objstore.Expiration{Days: 2}}
			for i, r := range rules {
				if r.Expiration.Days == 31 {
					rules[i].Expiration.Days, rules[i].Raw = 1, nil
				}
			}
			if err := b.rules.SetRules(t.Context(), append(rules, bad)); err != nil {
				t.Fatal(err)
			}
			b.await("firn's rule is put right", func() (string, bool) {
				rules, err := b.rules.Rules(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return fmt.Sprint(rules), slices.ContainsFunc(rules, func(r objstore.Rule) bool { return r.Expiration.Days == 31 })
			})
			out, code := b.firn("check", "-o", "json")
			var checked struct {
				Failing  int                 `json:"failing"`
				Findings []lifecycle.Finding `json:"findings"`
			}
			if err := json.NewDecoder(strings.NewReader(out)).Decode(&checked); err != nil || code != 3 || checked.Failing < 4 {
				t.Errorf("check: exit code %d, %v: %s", code, err, out)
			}
			for _, f := range checked.Findings {
				if f.Rule != "tidy" || f.Mend == "" {
					t.Errorf("finding %v", f)
				}
			}
			b.awaitRules("class-d31 old-versions-data old-versions-topics theirs tidy")
			rules, err = b.rules.Rules(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := b.rules.SetRules(t.Context(), slices.DeleteFunc(rules, func(r objstore.Rule) bool { return r.ID == "tidy" })); err != nil {
				t.Fatal(err)
			}
			if out, code := b.firn("check"); code != 0 {
				t.Errorf("repaired: exit code %d: %s", code, out)
			}

			// The default retention is the cluster's.
			if out, code := b.firn("apply", "--default-retention", "3d", "--yes"); code != 0 || !strings.Contains(out, "applied") {
				t.Errorf("apply: exit code %d: %s", code, out)
			}
			if out, code := b.firn("show"); code != 0 || !strings.Contains(out, "3 d (set for the cluster)") || !strings.Contains(out, "d31") || !strings.Contains(out, "versions") {
				t.Errorf("show: exit code %d: %s", code, out)
			}

			// What is locked can be deleted by nobody, and the topic neither.
			b.topic("topic", "create", "books", "--config", "firn.object.lock.mode=governance", "--config", "firn.object.lock.days=1")
			b.produce("books")
			locked := ""
			b.await("a locked object", func() (string, bool) {
				infos, err := b.List(t.Context(), "", "", 1000)
				if err != nil {
					return err.Error(), false
				}
				for _, i := range infos {
					lock, err := b.locks.ObjectLock(t.Context(), i.Key)
					if err == nil && lock.Mode == objstore.LockGovernance && time.Until(lock.Until) > 23*time.Hour {
						locked = i.Key
					}
				}
				return fmt.Sprint(infos), locked != ""
			})
			versions, err := b.kept.ListVersions(t.Context(), locked, "", "", 10)
			if err != nil || len(versions) == 0 {
				t.Fatalf("versions of %s: %v, %v", locked, versions, err)
			}
			for _, v := range versions {
				if v.DeleteMarker {
					continue
				}
				if err := b.kept.DeleteVersion(t.Context(), v.Key, v.ID); !errors.Is(err, objstore.ErrRetained) {
					t.Errorf("%s is deleted: %v", v.Key, err)
				}
			}
			deletion, err := exec.CommandContext(t.Context(), firnBin, "topic", "delete", "books", "--yes", "--brokers", b.stack.Brokers()).CombinedOutput()
			if err == nil || !strings.Contains(string(deletion), "under an object lock (governance, 1 days)") {
				t.Errorf("the topic is deleted: %v: %s", err, deletion)
			}

			// A class to move to that the store's rules do not know keeps no other rule away, and no other topic is given it.
			moving := []string{"--config", "firn.bucket.lifecycle=mirror", "--config", "retention.ms=-1", "--config", "firn.storage.transition.days=30",
				"--config", "firn.storage.transition.class=NO-SUCH-TIER"}
			b.topic(append([]string{"topic", "create", "moved"}, moving...)...)
			b.topic("config", "set", "topic", "orders", "retention.ms=2505600000")
			b.awaitRules("class-d30 old-versions-data old-versions-topics theirs")
			if out, code := b.firn("apply", "--yes", "-o", "json"); code != 3 || !strings.Contains(out, `"left_out"`) {
				t.Errorf("apply: exit code %d: %s", code, out)
			}
			again := append([]string{"topic", "create", "moved-too", "--brokers", b.stack.Brokers()}, moving...)
			if out, err := exec.CommandContext(t.Context(), firnBin, again...).CombinedOutput(); err == nil || !strings.Contains(string(out), "do not know storage class NO-SUCH-TIER") {
				t.Errorf("a topic is given the class: %v: %s", err, out)
			}
		})
	}
}

// TestALockNeedsABucketWithLocks: a topic whose lock the bucket would not keep is not made.
func TestALockNeedsABucketWithLocks(t *testing.T) {
	dir := t.TempDir()
	m := startMinIO(t, dir, false)
	b := &bucketOf{t: t, url: m.URL("minio", "logs", ""), Bucket: openMinIO(t, m, "minio", "logs", false)}
	b.stack = startOn(t, localstack.Options{Dir: dir, Agents: 1, Bucket: b.url, Env: m.Env(), Args: []string{"--lifecycle-interval=1s"}})
	b.await("the lock is refused", func() (string, bool) {
		out, err := exec.CommandContext(t.Context(), firnBin, "topic", "create", fmt.Sprint("books-", time.Now().UnixNano()), "--config", "firn.object.lock.mode=compliance",
			"--config", "firn.object.lock.days=1", "--brokers", b.stack.Brokers()).CombinedOutput()
		return string(out), err != nil && strings.Contains(string(out), "has no object lock")
	})
}

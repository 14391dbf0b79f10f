//go:build interop

package interop

import (
	"strings"
	"testing"

	"github.com/firnlog/firn/localstack"
	"github.com/firnlog/firn/objstore"
)

// TestClassesAndCostOnMinIO: a storage class that the store does not know is found before and after its topic is written to, by check and by
// rules; and what a bucket with versions keeps of deleted objects is priced.
func TestClassesAndCostOnMinIO(t *testing.T) {
	dir := t.TempDir()
	m := startMinIO(t, dir, false)
	b := &bucketOf{t: t, url: m.URL("s3", "logs", "cluster-1"), Bucket: openMinIO(t, m, "s3", "logs", true)} // with versions
	b.stack = startOn(t, localstack.Options{Dir: dir, Agents: 1, Bucket: b.url, Env: m.Env(), Args: []string{"--lifecycle-interval=1s"}})
	b.topic("topic", "create", "cold", "--config", "firn.storage.class=NO-SUCH-CLASS")
	b.topic("topic", "create", "mild", "--config", "firn.storage.class=STANDARD")
	out, code := b.firn("check")
	if code != 3 || !strings.Contains(out, "stops:") || !strings.Contains(out, "topic cold: the store takes no object in storage class NO-SUCH-CLASS") {
		t.Errorf("check: exit code %d: %s", code, out)
	}
	b.topic("config", "set", "topic", "cold", "firn.storage.class=REDUCED_REDUNDANCY") // the other one that MinIO knows
	if out, code := b.firn("check"); code != 0 || strings.Contains(out, "stops:") {
		t.Errorf("check of what was mended: exit code %d: %s", code, out)
	}

	if out, code := b.firn("apply", "--versions", "--default-retention", "3d", "--yes"); code != 0 || !strings.Contains(out, "applied") {
		t.Errorf("apply: exit code %d: %s", code, out)
	}
	b.produce("mild")
	deleted := "data/00/0000000000000000/left"
	if err := b.Put(t.Context(), deleted, make([]byte, 3<<20), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	cost := string(run(t, firnBin, "bucket", "cost", "--metrics", b.stack.Agents[0].HTTP, "--versions-of", b.url))
	if !strings.Contains(cost, "STANDARD, old versions  3.0 MiB") || !strings.Contains(cost, "mild") {
		t.Errorf("cost:\n%s", cost)
	}
}

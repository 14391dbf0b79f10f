//go:build interop

package interop

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/minio"
	"github.com/firnlog/firn/objstore/objstoretest"
	"github.com/firnlog/firn/objstore/open"
	"github.com/firnlog/firn/objstore/s3compat"
)

// startMinIO starts a MinIO server and gives the environment of this process its credentials.
func startMinIO(t *testing.T, dir string, tls bool) *localstack.MinIO {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bin, err := filepath.Abs(minioBin)
	if err != nil {
		t.Fatal(err)
	}
	m, err := localstack.StartMinIO(ctx, localstack.MinIOOptions{Dir: dir, Binary: bin, TLS: tls})
	if err != nil {
		dumpLogs(t, dir)
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	for _, pair := range m.Env() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	return m
}

func createBucket(t *testing.T, m *localstack.MinIO, name string) {
	t.Helper()
	b, err := minio.New(s3compat.Options{Bucket: name, Endpoint: m.Endpoint, PathStyle: true, CAFile: m.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 2 { // the second finds its own
		if err := b.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDriversOnMinIO runs the acceptance suite of buckets through both drivers against a real server.
func TestDriversOnMinIO(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", tls), func(t *testing.T) {
			m := startMinIO(t, t.TempDir(), tls)
			var made atomic.Int64
			for _, driver := range []string{"s3", "minio"} {
				for _, checksum := range []string{"when_required", "when_supported"} {
					t.Run(driver+"/"+checksum, func(t *testing.T) {
						objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
							name := fmt.Sprintf("bucket-%d", made.Add(1))
							createBucket(t, m, name)
							b, err := open.Open(t.Context(), m.URL(driver, name, "")+"&checksum="+checksum, open.Options{})
							if err != nil {
								t.Fatal(err)
							}
							return b
						})
					})
				}
			}
		})
	}
}

// TestProbeOfMinIO: a real store has all that firn asks for, and what is wrong with a bucket or a secret is said.
func TestProbeOfMinIO(t *testing.T) {
	m := startMinIO(t, t.TempDir(), true)
	createBucket(t, m, "logs")
	for _, driver := range []string{"s3", "minio"} {
		out := string(run(t, firnBin, "bucket", "probe", "--bucket", m.URL(driver, "logs", "cluster-1")))
		if n := strings.Count(out, "  ok"); n != 12 || !strings.Contains(out, "is fit") {
			t.Errorf("%s: %d checks passed:\n%s", driver, n, out)
		}
		for _, c := range []struct{ bucket, secret, says string }{
			{"no-such-bucket", m.SecretKey, "NoSuchBucket"},
			{"logs", "wrong", "SignatureDoesNotMatch"},
		} {
			cmd := exec.Command(firnBin, "bucket", "probe", "--bucket", m.URL(driver, c.bucket, ""))
			cmd.Env = append(cmd.Environ(), "AWS_SECRET_ACCESS_KEY="+c.secret)
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(string(out), "denied") || !strings.Contains(string(out), c.says) {
				t.Errorf("%s with %s: %v, want one that says %s\n%s", driver, c.bucket, err, c.says, out)
			}
			if strings.Contains(string(out), m.SecretKey) || strings.Contains(string(out), m.AccessKey) {
				t.Errorf("the report gives credentials away:\n%s", out)
			}
		}
	}
	const rule = "<LifecycleConfiguration><Rule><ID>tidy</ID><Status>Enabled</Status><Filter><Prefix>cluster</Prefix></Filter>" +
		"<Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>"
	putLifecycle(t, m, "logs", rule)
	for _, driver := range []string{"s3", "minio"} {
		out, err := exec.Command(firnBin, "bucket", "probe", "--bucket", m.URL(driver, "logs", "cluster-1")).CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(string(out), `rule "tidy" on prefix "cluster" deletes after 30 days`) {
			t.Errorf("%s: %v, want one that names the rule\n%s", driver, err, out)
		}
		run(t, firnBin, "bucket", "probe", "--bucket", m.URL(driver, "logs", "elsewhere")) // the rule does not touch that
	}
}

// putLifecycle gives a bucket lifecycle rules, which firn itself never does: one request, signed by hand.
func putLifecycle(t *testing.T, m *localstack.MinIO, bucket, rules string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, m.Endpoint+"/"+bucket+"?lifecycle=", strings.NewReader(rules))
	if err != nil {
		t.Fatal(err)
	}
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		_, _ = io.WriteString(h, text)
		return h.Sum(nil)
	}
	hash := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
	sum := md5.Sum([]byte(rules)) // the protocol asks for it
	now := time.Now().UTC()
	day, at := now.Format("20060102"), now.Format("20060102T150405Z")
	scope := day + "/us-east-1/s3/aws4_request"
	signed := "content-md5;host;x-amz-content-sha256;x-amz-date"
	request.Header.Set("Content-MD5", base64.StdEncoding.EncodeToString(sum[:]))
	request.Header.Set("X-Amz-Content-Sha256", hash(rules))
	request.Header.Set("X-Amz-Date", at)
	canonical := strings.Join([]string{http.MethodPut, "/" + bucket, "lifecycle=", "content-md5:" + request.Header.Get("Content-MD5"), "host:" + request.Host,
		"x-amz-content-sha256:" + hash(rules), "x-amz-date:" + at, "", signed, hash(rules)}, "\n")
	key := []byte("AWS4" + m.SecretKey)
	for _, part := range []string{day, "us-east-1", "s3", "aws4_request"} {
		key = mac(key, part)
	}
	request.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		m.AccessKey, scope, signed, mac(key, strings.Join([]string{"AWS4-HMAC-SHA256", at, scope, hash(canonical)}, "\n"))))
	transport, err := s3compat.Options{CAFile: m.CAFile}.Transport()
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		t.Fatalf("put lifecycle rules: %s\n%s", response.Status, body)
	}
}

// TestRecordsOnMinIO is the main job on a real store: real records through three clients, over TLS once.
func TestRecordsOnMinIO(t *testing.T) {
	root := filepath.Join(goSource(t), "net")
	for _, c := range []struct {
		driver string
		tls    bool
	}{{"s3", true}, {"minio", false}} {
		t.Run(fmt.Sprintf("%s,tls=%v", c.driver, c.tls), func(t *testing.T) {
			dir := t.TempDir()
			m := startMinIO(t, dir, c.tls)
			createBucket(t, m, "logs")
			stack := startOn(t, localstack.Options{Dir: dir, Agents: 1, Bucket: m.URL(c.driver, "logs", "cluster-1"), Env: m.Env()})
			for producer, produce := range map[string]func(*testing.T, string, string, string, string) *digests{"kcat": produceKcat, "go": produceGo} {
				topic := "source-" + producer
				run(t, firnBin, "topic", "create", topic, "--partitions", fmt.Sprint(partitions),
					"--config", fmt.Sprintf("max.message.bytes=%d", 2*longestLine), "--brokers", stack.Brokers())
				want := produce(t, stack.Brokers(), topic, "zstd", root)
				sums := want.sums()
				for reader, read := range map[string]func(*testing.T, string, string) (map[string]string, int){
					"kafka-python": readPython, "kcat": readKcat, "go": readGo,
				} {
					got, n := read(t, stack.Brokers(), topic)
					t.Logf("%s read %d records of %s", reader, n, producer)
					compare(t, reader, sums, got, want.records, n)
				}
			}
			// A fresh agent has nothing but the bucket and etcd, and reads the same.
			if err := stack.Agents[0].Stop(30 * time.Second); err != nil {
				t.Fatal(err)
			}
			if err := stack.Agents[0].Start(); err != nil {
				t.Fatal(err)
			}
			if err := awaitReady(t.Context(), stack.Agents[0]); err != nil {
				t.Fatal(err)
			}
			before := newDigests()
			if err := forEachLine(root, func(key string, line []byte) error { before.add(key, line); return nil }); err != nil {
				t.Fatal(err)
			}
			got, n := readGo(t, stack.Brokers(), "source-go")
			compare(t, "go after a restart", before.sums(), got, before.records, n)
		})
	}
}

// TestKillOnMinIO kills agents while they write to a real store.
func TestKillOnMinIO(t *testing.T) {
	dir := t.TempDir()
	m := startMinIO(t, dir, false)
	createBucket(t, m, "logs")
	verifyUnderKills(t, startOn(t, localstack.Options{Dir: dir, Agents: 3, Bucket: m.URL("minio", "logs", "cluster-1"), Env: m.Env()}), 30*time.Second)
}

// TestKillOfMinIO kills the store itself, again and again, under `firn verify`: nothing acknowledged may be lost, and no agent
// is started again.
func TestKillOfMinIO(t *testing.T) {
	const duration = 30 * time.Second
	dir := t.TempDir()
	m := startMinIO(t, dir, false)
	createBucket(t, m, "logs")
	stack := startOn(t, localstack.Options{Dir: dir, Agents: 2, Bucket: m.URL("s3", "logs", "cluster-1"), Env: m.Env()})
	ctx, cancel := context.WithTimeout(t.Context(), duration+3*time.Minute)
	defer cancel()
	pids := []int{stack.Agents[0].PID(), stack.Agents[1].PID()}
	cmd := exec.CommandContext(ctx, firnBin, "verify", "--brokers", stack.Brokers(), "--duration", duration.String(),
		"--producers", "4", "--partitions", "6", "--rate", "2000", "--json")
	out := new(limited)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	kills := 0
	for begun := time.Now(); time.Since(begun) < duration-8*time.Second; kills++ {
		for _, step := range []struct {
			then func() error
			wait time.Duration // before it
		}{{m.Kill, 4 * time.Second}, {m.Start, 2 * time.Second}, {func() error { return m.AwaitReady(ctx) }, 0}} {
			select {
			case <-ctx.Done():
			case <-time.After(step.wait):
			}
			if err := step.then(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err := <-ended
	t.Logf("%d kills of the store\n%s", kills, out.b)
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	for i, a := range stack.Agents {
		if a.PID() != pids[i] {
			t.Errorf("agent %d is not the one that was started", i)
		}
	}
}

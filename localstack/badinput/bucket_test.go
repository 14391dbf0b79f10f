package badinput_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/faulty"
	objopen "github.com/firnlog/firn/objstore/open"
)

// remote is an S3 server that can be told how to misbehave.
type remote struct {
	url string

	mu      sync.Mutex // guards the rest
	trouble func(w http.ResponseWriter, r *http.Request, store http.Handler)
	struck  int
}

// Troubles of a store, as they look from the other end of an HTTP connection.
var troubles = []struct {
	name string
	run  func(w http.ResponseWriter, r *http.Request, store http.Handler)
	says string // in /readyz, while it lasts
}{
	{"unreachable", func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }, "unavailable"},
	{"forbidden", refusal(http.StatusForbidden, "AccessDenied"), "denied"},
	{"asking for less load", refusal(http.StatusServiceUnavailable, "SlowDown"), "SlowDown"},
	{"without its bucket", refusal(http.StatusNotFound, "NoSuchBucket"), "NoSuchBucket"},
	{"behind a proxy that lost it", func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<html>no such site</html>")
	}, "unavailable"},
	{"silent", func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}, "unavailable"},
}

func refusal(status int, code string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code><Message>no</Message></Error>")
	}
}

// remoteBucket is a bucket in a store of its own, through one of the drivers.
func remoteBucket(t *testing.T, driver string) (*remote, objstore.Bucket) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("snow"); err != nil {
		t.Fatal(err)
	}
	store := gofakes3.New(backend).Server()
	r := &remote{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.mu.Lock()
		trouble := r.trouble
		if trouble != nil {
			r.struck++
		}
		r.mu.Unlock()
		if trouble != nil {
			trouble(w, request, store)
			return
		}
		store.ServeHTTP(w, request)
	}))
	t.Cleanup(server.Close)
	r.url = driver + "://snow/firn?path_style=true&region=us-east-1&anonymous=true&max_attempts=2&max_backoff=20ms&attempt_timeout=2s&endpoint=" + server.URL
	b, err := objopen.Open(t.Context(), r.url, objopen.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return r, b
}

// set starts or, with nil, ends a trouble, and returns how often the one before has struck.
func (r *remote) set(trouble func(http.ResponseWriter, *http.Request, http.Handler)) (struck int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble, struck, r.struck = trouble, r.struck, 0
	return struck
}

// fill produces n records to a topic of one partition and waits for each batch's acknowledgement.
func (c *cluster) fill(topic string, from, n int) {
	c.t.Helper()
	cl := c.client(kgo.DefaultProduceTopic(topic), kgo.AllowAutoTopicCreation())
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := from; i < from+n; i++ {
		if err := cl.ProduceSync(ctx, kgo.StringRecord(fmt.Sprintf("%s %d", topic, i))).FirstErr(); err != nil {
			c.t.Fatalf("produce %d to %s: %v", i, topic, err)
		}
	}
}

// reader consumes a topic of one partition from its start, and does not hide what an agent answers.
type reader struct {
	c     *cluster
	topic string
	cl    *kgo.Client
	next  int
}

func (c *cluster) reader(topic string, at int) *reader {
	return &reader{c: c, topic: topic, next: at, cl: c.client(kgo.KeepRetryableFetchErrors(), kgo.FetchMaxWait(500*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(int64(at))}}))}
}

// fails polls until an answer has an error, and returns it. Records before it are a failure of the test.
func (r *reader) fails() error {
	r.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		fetches := r.cl.PollFetches(ctx)
		if ctx.Err() != nil {
			r.c.t.Fatalf("%s: no error ever came", r.topic)
		}
		if n := fetches.NumRecords(); n > 0 {
			r.c.t.Fatalf("%s: %d records came where none can be read", r.topic, n)
		}
		for _, e := range fetches.Errors() {
			return e.Err
		}
	}
}

// reads polls, over errors, until every record up to want has come, each in its place.
func (r *reader) reads(want int) {
	r.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for r.next < want {
		fetches := r.cl.PollFetches(ctx)
		if ctx.Err() != nil {
			r.c.t.Fatalf("%s: %d of %d records came", r.topic, r.next, want)
		}
		fetches.EachRecord(func(got *kgo.Record) {
			if got.Offset != int64(r.next) || string(got.Value) != fmt.Sprintf("%s %d", r.topic, r.next) {
				r.c.t.Fatalf("%s: %q at offset %d where %d was due", r.topic, got.Value, got.Offset, r.next)
			}
			r.next++
		})
	}
}

// restart ends the agent and starts one whose cache is empty.
func (c *cluster) restart() {
	c.t.Helper()
	c.stop()
	if err := c.start(); err != nil {
		c.t.Fatalf("start again: %v\n%s", err, c.logs)
	}
}

// A store that does not answer as it should, while an agent runs on it: who produces is told to try again and who reads what
// only the store has is told that it cannot be had now; what is in memory is read on; readiness stays, with the cause; and when the
// store is well all goes on, with no restart and nothing lost, doubled or skipped.
func TestBucketInTrouble(t *testing.T) {
	t.Parallel()
	for i, trouble := range troubles {
		driver := []string{"minio", "s3"}[i%2]
		t.Run(trouble.name+"/"+driver, func(t *testing.T) {
			t.Parallel()
			store, bucket := remoteBucket(t, driver)
			c := open(t, options{bucket: bucket, config: func(config *agent.Config) { config.FetchReadTimeout = time.Second }})
			c.create("cold", 1, nil)
			c.create("new", 1, nil)
			c.fill("cold", 0, 20)
			c.restart()
			c.fill("hot", 0, 5)
			b := c.bystander(true)
			b.progress()

			store.set(trouble.run)
			raw := built(t, 0, sent{time.Now().UnixMilli(), nil, "x"})
			if code, _ := c.produceRaw(c.client(), "new", raw, 1500*time.Millisecond); !kerr.IsRetriable(kerr.ErrorForCode(code)) {
				t.Errorf("produce: code %d, want one that clients retry", code)
			}
			cold := c.reader("cold", 0)
			if err := cold.fails(); !kerr.IsRetriable(err) {
				t.Errorf("read of what only the store has: %v, want one that clients retry", err)
			}
			c.reader("hot", 0).reads(5)
			until(t, "readiness tells the cause", func() bool {
				status, body := c.get("/readyz")
				if status != http.StatusOK {
					t.Fatalf("not ready: %s", body)
				}
				return strings.Contains(body, "bucket_write") && strings.Contains(body, trouble.says)
			})

			if store.set(nil) == 0 {
				t.Fatal("the store was never asked: the test proves nothing")
			}
			cold.reads(20)
			c.fill("cold", 20, 5)
			cold.reads(25)
			until(t, "the cause goes", func() bool {
				_, body := c.get("/readyz")
				return !strings.Contains(body, trouble.says)
			})
			b.check()
		})
	}
}

// A store that is slow is waited for, and nobody gets an error.
func TestBucketThatIsSlow(t *testing.T) {
	t.Parallel()
	store, bucket := remoteBucket(t, "minio")
	c := open(t, options{bucket: bucket})
	c.create("cold", 1, nil)
	c.fill("cold", 0, 20)
	c.restart()
	b := c.bystander(false) // an impatient one: slowness is no error
	store.set(func(w http.ResponseWriter, r *http.Request, store http.Handler) {
		select {
		case <-time.After(200 * time.Millisecond): // how slow it is, not a wait for anything
			store.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	c.reader("cold", 0).reads(20)
	c.fill("cold", 20, 2)
	b.check()
	if store.set(nil) == 0 {
		t.Fatal("the store was never asked")
	}
}

// A store that does what it is told and then says that it failed, or says nothing.
func TestBucketThatSucceedsAndSaysItFailed(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(http.ResponseWriter){
		"500":                   func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"the connection is cut": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		for _, driver := range []string{"minio", "s3"} {
			t.Run(name+"/"+driver, func(t *testing.T) {
				t.Parallel()
				store, bucket := remoteBucket(t, driver)
				c := open(t, options{bucket: bucket})
				b := c.bystander(false) // an impatient one: the agent finds out by itself
				var mu sync.Mutex
				put := make(map[string]bool)
				store.set(func(w http.ResponseWriter, r *http.Request, store http.Handler) {
					mu.Lock()
					again := r.Method != http.MethodPut || put[r.URL.Path]
					put[r.URL.Path] = true
					mu.Unlock()
					if again {
						store.ServeHTTP(w, r)
						return
					}
					store.ServeHTTP(httptest.NewRecorder(), r)
					say(w)
				})
				c.fill("events", 0, 10)
				c.reader("events", 0).reads(10)
				b.check()
				mu.Lock()
				defer mu.Unlock()
				if len(put) < 3 {
					t.Errorf("only %d puts met it", len(put))
				}
			})
		}
	}
}

// A put that fails and takes effect later, over what came in between.
func TestBucketWhosePutsComeLate(t *testing.T) {
	t.Parallel()
	c := open(t, options{})
	b := c.bystander(false)
	if err := c.bucket.SetConfig(faulty.Config{Late: 0.5, LateMax: 200 * time.Millisecond, Ambiguous: 0.3, Unavailable: 0.1}); err != nil {
		t.Fatal(err)
	}
	c.fill("events", 0, 20)
	c.reader("events", 0).reads(20)
	b.check()
	for _, fault := range []faulty.Fault{faulty.Late, faulty.Ambiguous} {
		if c.bucket.Counts()[fault] == 0 {
			t.Errorf("%s never struck", fault)
		}
	}
}

// segments returns the segments that the bucket holds.
func (c *cluster) segments() map[string][]byte {
	c.t.Helper()
	all := make(map[string][]byte)
	for after := ""; ; {
		infos, err := c.inner.List(c.t.Context(), "data/", after, 1000)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(infos) == 0 {
			return all
		}
		for _, info := range infos {
			if all[info.Key], err = c.inner.Get(c.t.Context(), info.Key); err != nil {
				c.t.Fatal(err)
			}
			after = info.Key
		}
	}
}

// An object that is gone: its records are an error, over and over, and never skipped; what lies behind them is read, others notice
// nothing, and when the object is back they are read without a restart.
func TestObjectThatIsMissing(t *testing.T) {
	t.Parallel()
	lost(t, kerr.KafkaStorageError, func(c *cluster, key string, _ []byte) {
		if err := c.inner.Delete(c.t.Context(), key); err != nil {
			c.t.Fatal(err)
		}
	})
}

// An object in which one bit has changed.
func TestObjectThatIsCorrupt(t *testing.T) {
	t.Parallel()
	lost(t, kerr.CorruptMessage, func(c *cluster, key string, body []byte) {
		damaged := bytes.Clone(body)
		damaged[len(damaged)/8] ^= 1 // in a record, far from the footer
		if err := c.inner.Put(c.t.Context(), key, damaged, objstore.PutOptions{}); err != nil {
			c.t.Fatal(err)
		}
	})
}

// An object that was cut short.
func TestObjectThatIsCutShort(t *testing.T) {
	t.Parallel()
	lost(t, kerr.CorruptMessage, func(c *cluster, key string, body []byte) {
		if err := c.inner.Put(c.t.Context(), key, body[:len(body)/2], objstore.PutOptions{}); err != nil {
			c.t.Fatal(err)
		}
	})
}

// lost damages the objects of the first records of a topic and holds the agent to want.
func lost(t *testing.T, want error, damage func(c *cluster, key string, body []byte)) {
	c := open(t, options{})
	c.create("victim", 1, nil)
	c.fill("victim", 0, 20)
	whole := c.segments()
	c.fill("victim", 20, 20)
	c.restart()
	if len(whole) == 0 {
		t.Fatal("no segments")
	}
	b := c.bystander(false)
	for key, body := range whole {
		damage(c, key, body)
	}
	r := c.reader("victim", 0)
	for range 3 {
		if err := r.fails(); !errors.Is(err, want) {
			t.Fatalf("read of the lost records: %v, want %v", err, want)
		}
	}
	c.fill("victim", 40, 5) // goes on behind them
	c.reader("victim", 20).reads(45)
	if err := r.fails(); !errors.Is(err, want) {
		t.Fatalf("read of the lost records again: %v, want %v", err, want)
	}
	for key, body := range whole {
		if err := c.inner.Put(t.Context(), key, body, objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r.reads(45)
	b.check()
}

// A bit that changes on the way, now and then: the read is repeated, and nobody notices.
func TestBitsThatChangeOnTheWay(t *testing.T) {
	t.Parallel()
	c := open(t, options{})
	c.create("cold", 1, nil)
	c.fill("cold", 0, 30)
	for range 5 {
		c.restart()
		if err := c.bucket.SetConfig(faulty.Config{BitFlip: 0.2}); err != nil {
			t.Fatal(err)
		}
		c.reader("cold", 0).reads(30)
		if err := c.bucket.SetConfig(faulty.Config{}); err != nil {
			t.Fatal(err)
		}
	}
	if c.bucket.Counts()[faulty.BitFlip] == 0 {
		t.Error("no bit changed")
	}
}

//go:build interop

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const partitions = 12

// longestLine is what clients must be let to send: one line of the corpus has 1.4 MB. Topics take batches of twice that, since
// the default of max.message.bytes is less.
const longestLine = 4 << 20

// TestRealInput produces the Go source with each codec through kcat (librdkafka) and through a Go client, and reads it back
// with kafka-python, kcat and Go. zstd carries the whole corpus; the others the standard library's crypto and net trees, which
// hold every oddity of the whole. With INTEROP_FULL set every codec and producer carries the whole corpus.
func TestRealInput(t *testing.T) {
	stack := start(t, 0)
	root := goSource(t)
	for _, tt := range []struct{ codec, root string }{
		{"zstd", root},
		{"none", filepath.Join(root, "net")},
		{"gzip", filepath.Join(root, "net")},
		{"snappy", filepath.Join(root, "crypto")},
		{"lz4", filepath.Join(root, "crypto")},
	} {
		for producer, produce := range map[string]func(*testing.T, string, string, string, string) *digests{
			"kcat": produceKcat, "go": produceGo,
		} {
			lines := tt.root
			if os.Getenv("INTEROP_FULL") != "" {
				lines = root
			} else if tt.codec == "zstd" && producer == "kcat" {
				lines = filepath.Join(root, "cmd") // over a million lines; the Go client carries the whole
			}
			t.Run(tt.codec+"/"+producer, func(t *testing.T) {
				topic := "source-" + tt.codec + "-" + producer
				run(t, firnBin, "topic", "create", topic, "--partitions", fmt.Sprint(partitions),
					"--config", fmt.Sprintf("max.message.bytes=%d", 2*longestLine), "--brokers", stack.Brokers())
				began := time.Now()
				want := produce(t, stack.Brokers(), topic, tt.codec, lines)
				t.Logf("%s produced %d records in %v", producer, want.records, time.Since(began).Round(time.Millisecond))
				sums := want.sums()
				for reader, read := range map[string]func(*testing.T, string, string) (map[string]string, int){
					"kafka-python": readPython, "kcat": readKcat, "go": readGo,
				} {
					began := time.Now()
					got, n := read(t, stack.Brokers(), topic)
					t.Logf("%s read %d records in %v", reader, n, time.Since(began).Round(time.Millisecond))
					compare(t, reader, sums, got, want.records, n)
				}
			})
		}
	}
}

func produceKcat(t *testing.T, brokers, topic, codec, root string) *digests {
	t.Helper()
	cmd := exec.Command("kcat", "-P", "-b", brokers, "-t", topic, "-z", codec, "-K", ":", "-X", "enable.idempotence=true", "-X", "linger.ms=20", "-X", fmt.Sprintf("message.max.bytes=%d", longestLine))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := new(limited)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	want := newDigests()
	w := bufio.NewWriterSize(in, 1<<20)
	err = forEachLine(root, func(key string, line []byte) error {
		want.add(key, line)
		_, _ = w.WriteString(key)
		_ = w.WriteByte(':')
		_, _ = w.Write(line)
		return w.WriteByte('\n')
	})
	if err == nil {
		err = w.Flush()
	}
	_ = in.Close()
	if waitErr := cmd.Wait(); waitErr != nil || err != nil {
		t.Fatalf("kcat: %v %v\n%s", err, waitErr, out.b)
	}
	return want
}

// limited keeps the beginning of what is written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	if room := 4096 - len(l.b); room > 0 {
		l.b = append(l.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func produceGo(t *testing.T, brokers, topic, codec, root string) *digests {
	t.Helper()
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codecs[codec]),
		kgo.ProducerLinger(20*time.Millisecond), kgo.ProducerBatchMaxBytes(longestLine))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	want := newDigests()
	failures := make(chan error, 1)
	err = forEachLine(root, func(key string, line []byte) error {
		want.add(key, line)
		cl.Produce(context.Background(), &kgo.Record{Key: []byte(key), Value: line}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failures <- err:
				default:
				}
			}
		})
		return nil
	})
	if err == nil {
		err = cl.Flush(t.Context())
	}
	select {
	case err = <-failures:
	default:
	}
	if err != nil {
		t.Fatal(err)
	}
	return want
}

func readKcat(t *testing.T, brokers, topic string) (map[string]string, int) {
	t.Helper()
	cmd := exec.Command("kcat", "-C", "-b", brokers, "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%K %S %k%s")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := new(limited)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := newDigests()
	err = parseKcat(out, got.add)
	if waitErr := cmd.Wait(); err != nil || waitErr != nil {
		t.Fatalf("kcat: %v %v\n%s", err, waitErr, stderr.b)
	}
	return got.sums(), got.records
}

func readPython(t *testing.T, brokers, topic string) (map[string]string, int) {
	t.Helper()
	cmd := exec.Command(pythonBin, "read.py", brokers, topic)
	stderr := new(limited)
	cmd.Stderr = stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kafka-python: %v\n%s", err, stderr.b)
	}
	var answer struct {
		Records int
		Digests map[string]string
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Digests, answer.Records
}

func readGo(t *testing.T, brokers, topic string) (map[string]string, int) {
	t.Helper()
	offsets := make(map[int32]kgo.Offset)
	for p := range int32(partitions) {
		offsets[p] = kgo.NewOffset().AtStart()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	got := newDigests()
	done := make(map[int32]bool)
	ends := endOffsets(t, brokers, topic)
	for p := range int32(partitions) {
		if ends[p] == 0 {
			done[p] = true
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for len(done) < partitions {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			got.add(string(r.Key), r.Value)
			if r.Offset+1 >= ends[r.Partition] {
				done[r.Partition] = true
			}
		})
	}
	return got.sums(), got.records
}

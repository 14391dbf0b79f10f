package kafka_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// instant answers at once: what is left is the protocol's own cost.
type instant struct {
	*agent
	raw []byte
}

func (i *instant) Stage(_ context.Context, parts []*ingest.Part, done func()) error {
	for _, p := range parts {
		p.Release()
	}
	done()
	return nil
}

func (i *instant) ReadTo(
	_ context.Context, _ entry.UUID, _ int32, _ int64, most int, out *fetch.Out, _ bool,
) (fetch.Result, error) {
	for n := 0; n+len(i.raw) <= most; n += len(i.raw) {
		out.Own = append(out.Own, i.raw...)
	}
	return fetch.Result{HighWatermark: 1 << 40, LastStable: 1 << 40}, nil
}

// Offer takes a commit of one offset.
func (i *instant) Offer(_ entry.Op, done func(state.OpResult, error)) (withdraw func()) {
	taken := [1]state.Code{state.OK}
	done(state.OpResult{Code: state.OK, Offsets: taken[:]}, nil)
	return func() {}
}

// loop sends one request again and again over a socket and reads the answers.
func loop(b *testing.B, req kmsg.Request, i *instant, size int64) {
	b.Helper()
	s, err := kafka.New(kafka.Config{}, i.agent, i, i, groups(b, i))
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = s.Serve("kafka", ln) }()
	defer s.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	out := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
	head, body := make([]byte, 4), make([]byte, 0, 4<<20)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nc.Write(out); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(nc, head); err != nil {
			b.Fatal(err)
		}
		n := int(head[0])<<24 | int(head[1])<<16 | int(head[2])<<8 | int(head[3])
		if _, err := io.ReadFull(nc, body[:n]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProduce(b *testing.B) {
	for name, size := range map[string]int{"1KiB": 1 << 10, "64KiB": 60 << 10, "1MiB": 1000 << 10} {
		b.Run(name, func(b *testing.B) {
			i := &instant{agent: newCluster(b).join("a")}
			i.topic("t", 1)
			raw := records(b, batch.BuildOptions{}, string(make([]byte, size)))
			loop(b, produceRequest(9, "t", 0, raw), i, int64(len(raw)))
		})
	}
}

// What validation costs of a request: batches of 200 byte log lines, and beside each a batch of as many bytes that is one
// uncompressed record, so that there is nothing to walk.
func BenchmarkProduceCompressed(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"16KiB", 16 << 10}, {"1MiB", 1 << 20}} {
		for codec := batch.CodecNone; codec.Valid(); codec++ {
			b.Run(fmt.Sprintf("size=%s/codec=%s", size.name, codec), func(b *testing.B) {
				i := &instant{agent: newCluster(b).join("a")}
				i.topic("t", 1, entry.Config{Name: "max.message.bytes", Value: "16777216"})
				build := batch.NewBuilder(batch.BuildOptions{Codec: codec})
				for n := range size.bytes / 200 {
					line := fmt.Sprintf(`{"time":%d,"level":"info","msg":"request served","path":"/items/%d","status":200,"took_us":%d,"user":"u%d"}`,
						n, n*7919%10_000, n*104_729%100_000, n*31%977)
					build.Add(time.Now().UnixMilli(), nil, append([]byte(line), line[:200-len(line)]...))
				}
				raw, err := build.Build(nil)
				if err != nil {
					b.Fatal(err)
				}
				b.Run("what=walked", func(b *testing.B) { loop(b, produceRequest(9, "t", 0, raw), i, int64(size.bytes)) })
				one := batch.NewBuilder(batch.BuildOptions{})
				one.Add(time.Now().UnixMilli(), nil, make([]byte, len(raw)-80))
				if raw, err = one.Build(nil); err != nil {
					b.Fatal(err)
				}
				b.Run("what=not", func(b *testing.B) { loop(b, produceRequest(9, "t", 0, raw), i, int64(size.bytes)) })
			})
		}
	}
}

// A commit of one offset by a group without members, taken at once.
func BenchmarkOffsetCommit(b *testing.B) {
	c := newCluster(b)
	i := &instant{agent: c.join("a")}
	c.coordinate(i.agent)
	id := i.topic("t", 1)
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = 9, "a-consumer-group", -1
	t, p := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitRequestTopicPartition()
	t.Topic, t.TopicID, p.Offset = "t", id, 1<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	loop(b, req, i, 0)
}

func BenchmarkFetch(b *testing.B) {
	for name, partitions := range map[string]int32{"1x1MiB": 1, "16x1KiB": 16} {
		b.Run(name, func(b *testing.B) {
			a := newCluster(b).join("a")
			id := a.topic("t", uint32(partitions))
			size := 1000 << 10
			if partitions > 1 {
				size = 1 << 10
			}
			i := &instant{agent: a, raw: records(b, batch.BuildOptions{}, string(make([]byte, size)))}
			req := fetchRequest(13, "", id, 0, 0)
			req.Topics = nil
			for p := range partitions {
				part := &ingest.Part{Topic: id, Partition: p, Records: i.raw, Release: func() {}}
				part.Header, _ = batch.ParseHeader(i.raw)
				a.append(part) // so that there is something below the high watermark
				addFetch(req, "", id, p, 0)
				req.Topics[p].Partitions[0].PartitionMaxBytes = int32(len(i.raw))
			}
			req.MaxBytes = 16 << 20
			loop(b, req, i, int64(len(i.raw))*int64(partitions))
		})
	}
}

// What checking a batch costs, the max timestamp in its header included: right, as nearly always, or wrong each time.
func BenchmarkCheckBatch(b *testing.B) {
	s, err := kafka.New(kafka.Config{}, newCluster(b).join("a"), &instant{}, &instant{}, groups(b, newCluster(b).join("b")))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for _, size := range []struct {
		name  string
		bytes int
	}{{"1KiB", 1 << 10}, {"16KiB", 16 << 10}, {"1MiB", 1000 << 10}} {
		for _, n := range []int{1, 64} {
			values := make([]string, n)
			for i := range values {
				values[i] = string(make([]byte, size.bytes/n))
			}
			raw := records(b, batch.BuildOptions{}, values...)
			for _, header := range []string{"right", "wrong"} {
				b.Run(fmt.Sprintf("size=%s/records=%d/header=%s", size.name, n, header), func(b *testing.B) {
					v := batch.NewValidator()
					b.SetBytes(int64(len(raw)))
					b.ReportAllocs()
					for i := int64(0); b.Loop(); i++ {
						if header == "wrong" {
							batch.StampMaxTimestamp(raw, i)
						}
						if err := s.CheckBatch(v, raw, batch.Limits{}); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

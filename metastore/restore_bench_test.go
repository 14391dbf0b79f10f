package metastore

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
	"github.com/firnlog/firn/objstore/file"
	"github.com/firnlog/firn/objstore/segment"
)

// BenchmarkRestore measures a restore from a bucket in a directory into an etcd with fsync, by how much of the history lies behind
// the newest snapshot and how many segments were not archived. Each run is one restore: -benchtime 1x.
func BenchmarkRestore(b *testing.B) {
	for _, c := range []struct {
		name            string
		snapshot, tail  int // entries
		rows            int // an entry
		segments, batch int // lost, and batches in each
	}{
		{"100k entries and 1M rows in the snapshot", 100_000, 100, 10, 0, 0},
		{"100k entries and 1M rows behind it", 100, 100_000, 10, 0, 0},
		{"1M rows in the snapshot and 10k entries behind it and 1k segments of 100 batches", 100_000, 10_000, 10, 1000, 100},
	} {
		b.Run(strings.ReplaceAll(c.name, " ", "_"), func(b *testing.B) {
			bucket, err := file.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = bucket.Close() }()
			a := newAuthor(b, bucket)
			const partitions = 1000
			topic := entry.UUID{0x77}
			a.seal(1, func() entry.Op { return &entry.CreateTopic{Name: "t", ID: topic, Partitions: partitions} })
			seq, at := uint64(0), 0
			appendOp := func() entry.Op {
				seq++
				op := &entry.Append{Object: entry.ObjectID{Incarnation: [16]byte{1}, Seq: seq, CollectionEpoch: 1}, ObjectSize: 1 << 20}
				for i := range c.rows {
					at++
					block := entry.Block{Topic: topic, Partition: uint32(at % partitions), Index: uint32(i)}
					block.AddBatch(100_000, 100, 1000, entry.NoProducer())
					op.Blocks = append(op.Blocks, block)
				}
				return op
			}
			for n := c.snapshot; n > 0; n -= 1000 {
				a.seal(min(n, 1000), appendOp)
			}
			a.snapshot()
			for n := c.tail; n > 0; n -= 1000 {
				a.seal(min(n, 1000), appendOp)
			}
			for i := range c.segments {
				a.put(lostObject(b, entry.ObjectID{Incarnation: [16]byte{2}, Seq: uint64(i + 1), CollectionEpoch: 1}, topic, c.batch))
			}
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				server, err := etcdembed.Start(b.Context(), etcdembed.Options{Dir: b.TempDir()})
				if err != nil {
					b.Fatal(err)
				}
				l, err := etcdlog.Open(b.Context(), etcdlog.Options{Endpoints: server.Endpoints(), Cluster: "b"})
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				r, err := Restore(b.Context(), l, bucket, RestoreOptions{EtcdIsLost: true})
				b.StopTimer()
				if err != nil || r.Batches.Appended != int64(c.segments*c.batch) {
					b.Fatalf("%v\n%s", err, strings.Join(r.Lines(), "\n"))
				}
				for _, s := range r.Steps {
					b.ReportMetric(s.Seconds, s.Name+"_s")
				}
				_ = l.Close()
				if err := server.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// lostObject is a segment of as many batches of 1 KiB, and its key.
func lostObject(b *testing.B, id entry.ObjectID, topic entry.UUID, batches int) (string, []byte) {
	builder := segment.NewBuilder(segment.Options{})
	op := &entry.Append{Object: id, ObjectSize: 1}
	for i := range batches {
		builder.Add(topic, int32(i), bytes.Repeat([]byte{byte(i)}, 1024), 10, 1000)
		block := entry.Block{Topic: topic, Partition: uint32(i), Index: uint32(i)}
		block.AddBatch(1024, 10, 1000, entry.Producer{ID: 7, BaseSequence: int32(id.Seq-1) * 10})
		op.Blocks = append(op.Blocks, block)
	}
	value := (&entry.Entry{Incarnation: id.Incarnation, Seq: id.Seq, Ops: []entry.Op{op}}).AppendTo(nil)
	body, _, err := builder.Finish(nil, entry.AppendObjectID(nil, id), append(binary.BigEndian.AppendUint32(nil, uint32(len(value))), value...))
	if err != nil {
		b.Fatal(err)
	}
	return id.Key(), body
}

// Package rewritetest is a cluster's data for the tests of compaction: a metastore on a log in memory, a bucket in memory, producers that
// flush objects of level 0, and a check that everything produced can still be read, byte for byte.
package rewritetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/segment"
)

// Kit is one cluster of one agent or several.
type Kit struct {
	T      testing.TB
	Meta   *metastore.Client // of the first agent
	Bucket *mem.Bucket
	Rand   *rand.Rand
	Clock  int64 // ms: of the next batch's first record; it moves by a second a flush

	store  *memlog.Store
	agents int
	seq    uint64
	merged rewrite.Sequence
	// produced holds what every partition should hold, in order.
	produced map[state.PartitionRef][]Produced
	builder  *batch.Builder
}

// Produced is a batch with its place.
type Produced struct {
	Base, End int64
	Raw       []byte
	AppendMS  int64 // LogAppendTime, -1 where the producer's counts
}

// New opens a cluster; it is closed with the test.
func New(t testing.TB, seed uint64) *Kit {
	t.Helper()
	k := &Kit{
		T: t, Bucket: mem.New(), Rand: rand.New(rand.NewPCG(seed, 1)), Clock: time.Now().UnixMilli(),
		store:    memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(seed, 2))}),
		produced: make(map[state.PartitionRef][]Produced), builder: batch.NewBuilder(batch.BuildOptions{}),
	}
	t.Cleanup(func() { _ = k.store.Close() })
	k.Meta = k.Join()
	return k
}

// Join opens one more agent's client.
func (k *Kit) Join() *metastore.Client {
	k.T.Helper()
	k.agents++
	name := fmt.Sprint("agent-", k.agents)
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], k.Rand.Uint64())
	l := k.store.Open(name)
	c, err := metastore.Open(context.Background(), metastore.Config{
		Name: name, Listeners: []entry.Listener{{Name: "kafka", Host: name, Port: 9092}}, Rand: rand.NewChaCha8(key),
	}, l, k.Bucket)
	if err != nil {
		k.T.Fatal(err)
	}
	k.T.Cleanup(func() {
		_ = c.Close(context.Background())
		_ = l.Close()
	})
	return c
}

// Env is a rewriting Env of the first agent with scratch space in memory; change may replace parts of it.
func (k *Kit) Env(cfg rewrite.Config, change ...func(*rewrite.Deps)) *rewrite.Env {
	k.T.Helper()
	deps := rewrite.Deps{Meta: k.Meta, Bucket: k.Bucket, Scratch: duty.InMemory(1 << 30), Sequence: &k.merged}
	for _, f := range change {
		f(&deps)
	}
	env, err := rewrite.New(cfg, deps)
	if err != nil {
		k.T.Fatal(err)
	}
	return env
}

// Propose proposes an op that has to be accepted.
func (k *Kit) Propose(op entry.Op) state.OpResult {
	k.T.Helper()
	r, err := k.Meta.Propose(context.Background(), op)
	if err != nil || r.Code != state.OK {
		k.T.Fatalf("%T: %v, %v", op, r.Code, err)
	}
	return r
}

// Topic makes a topic.
func (k *Kit) Topic(name string, partitions int, configs ...entry.Config) entry.UUID {
	k.T.Helper()
	id := entry.UUID{0xaa}
	copy(id[1:], name)
	k.Propose(&entry.CreateTopic{Name: name, ID: id, Partitions: uint32(partitions), ReplicationFactor: 1, Configs: configs})
	return id
}

// Batch builds a batch of random records of about so many bytes.
func (k *Kit) Batch(size int) []byte {
	k.T.Helper()
	k.builder.Reset(batch.BuildOptions{})
	for left := size; ; {
		value := make([]byte, max(1, min(left, 1<<10)))
		for i := range value {
			value[i] = byte(k.Rand.Uint32())
		}
		k.builder.Add(k.Clock+int64(k.builder.Len()), fmt.Append(nil, "key-", k.Rand.IntN(1000)), value)
		if left -= len(value); left <= 0 {
			break
		}
	}
	raw, err := k.builder.Build(nil)
	if err != nil {
		k.T.Fatal(err)
	}
	return raw
}

// Flushed is one batch of a partition.
type Flushed struct {
	Topic     entry.UUID
	Partition int32
	Raw       []byte
}

// Flush uploads the batches as one object of level 0 and appends them. Those of pieces beyond the first of a partition make rows of their
// own, as where a batch between them was refused.
func (k *Kit) Flush(opts segment.Options, batches ...Flushed) entry.ObjectID {
	k.T.Helper()
	op := k.Upload(opts, batches...)
	k.Commit(op, batches)
	return op.Object
}

// Upload uploads an object of level 0 and returns the op that appends it.
func (k *Kit) Upload(opts segment.Options, batches ...Flushed) *entry.Append {
	k.T.Helper()
	k.seq++
	id := entry.ObjectID{Incarnation: k.Meta.Incarnation(), Seq: k.seq}
	k.Meta.View(func(st *state.State) { id.CollectionEpoch = st.CollectionEpoch() })
	op := &entry.Append{Object: id}
	b := segment.NewBuilder(opts)
	slices.SortStableFunc(batches, func(x, y Flushed) int {
		if c := slices.Compare(x.Topic[:], y.Topic[:]); c != 0 {
			return c
		}
		return int(x.Partition - y.Partition)
	})
	for i, x := range batches {
		h, err := batch.ParseHeader(x.Raw)
		if err != nil {
			k.T.Fatal(err)
		}
		b.Add(x.Topic, x.Partition, x.Raw, h.Span(), h.MaxTimestamp)
		if i == 0 || batches[i-1].Topic != x.Topic || batches[i-1].Partition != x.Partition {
			op.Blocks = append(op.Blocks, entry.Block{Topic: x.Topic, Partition: uint32(x.Partition), Index: uint32(len(op.Blocks))})
		}
		op.Blocks[len(op.Blocks)-1].AddBatch(uint64(len(x.Raw)), uint64(h.Span()), h.MaxTimestamp, entry.Producer{
			ID: h.ProducerID, Epoch: h.ProducerEpoch, BaseSequence: h.BaseSequence,
		})
	}
	body, _, err := b.Finish(nil, entry.AppendObjectID(nil, id), nil)
	if err != nil {
		k.T.Fatal(err)
	}
	if err := k.Bucket.Put(context.Background(), id.Key(), body, objstore.PutOptions{}); err != nil {
		k.T.Fatal(err)
	}
	op.ObjectSize = uint64(len(body))
	return op
}

// Commit appends an object and remembers what its batches became.
func (k *Kit) Commit(op *entry.Append, batches []Flushed) {
	k.T.Helper()
	k.Clock += 1000
	r := k.Propose(op)
	for i, b := range r.Batches {
		x := batches[i]
		h, _ := batch.ParseHeader(x.Raw)
		if b.Code != state.OK {
			continue
		}
		ref := state.PartitionRef{Topic: x.Topic, Partition: x.Partition}
		k.produced[ref] = append(k.produced[ref], Produced{Base: b.BaseOffset, End: b.BaseOffset + h.Span(), Raw: x.Raw, AppendMS: b.Timestamp})
	}
}

// Produced is what a partition was given.
func (k *Kit) Produced(topic entry.UUID, partition int32) []Produced {
	return k.produced[state.PartitionRef{Topic: topic, Partition: partition}]
}

// Rows are all rows of a partition.
func (k *Kit) Rows(topic entry.UUID, partition int32) (rows []state.Row) {
	k.Meta.View(func(st *state.State) {
		if t := st.TopicByID(topic); t != nil {
			rows = t.Partition(int(partition)).Rows(0, 1<<30, nil)
		}
	})
	return rows
}

// Verify reads everything that was produced and not deleted, and compares it with what was produced.
func (k *Kit) Verify() {
	k.T.Helper()
	src := k.Env(rewrite.Config{}).NewSource()
	defer src.Close()
	for ref, want := range k.produced {
		in := rewrite.Input{Topic: ref.Topic, Partition: ref.Partition}
		exists := false
		k.Meta.View(func(st *state.State) {
			if t := st.TopicByID(ref.Topic); t != nil {
				p := t.Partition(int(ref.Partition))
				exists, in.Epochs, in.LogStart = true, p.Epochs(nil), p.LogStart()
			}
		})
		if !exists {
			continue
		}
		rows := k.Rows(ref.Topic, ref.Partition)
		for len(want) > 0 && want[0].End <= in.LogStart {
			want = want[1:]
		}
		r := src.Read(in, rows)
		for r.Next(context.Background()) {
			if len(want) == 0 {
				k.T.Fatalf("topic %s partition %d: a batch at %d that nobody produced", ref.Topic, ref.Partition, r.Batch().Header.BaseOffset)
			}
			k.same(ref, &want[0], r.Batch())
			want = want[1:]
		}
		if r.Err() != nil || len(want) > 0 {
			k.T.Fatalf("topic %s partition %d: %d batches are missing: %v", ref.Topic, ref.Partition, len(want), r.Err())
		}
	}
}

func (k *Kit) same(ref state.PartitionRef, want *Produced, got *rewrite.Batch) {
	k.T.Helper()
	raw := bytes.Clone(want.Raw)
	batch.StampBase(raw, want.Base, got.Header.LeaderEpoch)
	if want.AppendMS >= 0 {
		batch.StampLogAppendTime(raw, want.AppendMS)
	}
	if got.Header.BaseOffset != want.Base || got.End() != want.End || !bytes.Equal(raw, got.Raw) {
		k.T.Fatalf("topic %s partition %d: batch [%d, %d) is not the one produced at [%d, %d), or other bytes",
			ref.Topic, ref.Partition, got.Header.BaseOffset, got.End(), want.Base, want.End)
	}
}

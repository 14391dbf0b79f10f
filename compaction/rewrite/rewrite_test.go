package rewrite_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/compaction/rewrite/rewritetest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// input is what a reader of the partition needs.
func input(k *rewritetest.Kit, topic entry.UUID, partition int32) (in rewrite.Input) {
	in = rewrite.Input{Topic: topic, Partition: partition}
	k.Meta.View(func(st *state.State) {
		p := st.TopicByID(topic).Partition(int(partition))
		in.Epochs, in.LogStart = p.Epochs(nil), p.LogStart()
	})
	return in
}

// upload copies the rows of partitions 0 to n-1 of a topic into one object, and returns the parts that put it in their place.
func upload(t *testing.T, k *rewritetest.Kit, env *rewrite.Env, topic entry.UUID, n int32) (rewrite.Object, []rewrite.Part) {
	t.Helper()
	src := env.NewSource()
	defer src.Close()
	out, err := env.NewOutput(topic)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var parts []rewrite.Part
	for p := range n {
		rows := k.Rows(topic, p)
		if len(rows) == 0 {
			continue
		}
		part := rewrite.PartOf(p, rows)
		if err := out.Begin(p); err != nil {
			t.Fatal(err)
		}
		r := src.Read(input(k, topic, p), rows)
		for r.Next(t.Context()) {
			if err := out.Add(t.Context(), r.Batch().Raw, &r.Batch().Header); err != nil {
				t.Fatal(err)
			}
		}
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		row, ok := out.End()
		if !ok {
			t.Fatal("nothing was copied")
		}
		part.Replacement = []rewrite.Row{row}
		parts = append(parts, part)
	}
	object, err := out.Upload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return object, parts
}

func commit(t *testing.T, env *rewrite.Env, topic entry.UUID, object rewrite.Object, parts []rewrite.Part) []rewrite.Outcome {
	t.Helper()
	outcomes, err := env.Commit(t.Context(), topic, []rewrite.Object{object}, parts)
	if err != nil {
		t.Fatal(err)
	}
	return outcomes
}

func TestWhatIsRewrittenReadsAsItWas(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprint("compress ", compress), func(t *testing.T) {
			k := rewritetest.New(t, 1)
			plain := k.Topic("plain", 3)
			logged := k.Topic("logged", 3, entry.Config{Name: "message.timestamp.type", Value: "LogAppendTime"})
			for range 5 {
				var batches []rewritetest.Flushed
				for _, topic := range []entry.UUID{plain, logged} {
					for p := range int32(3) {
						for range 1 + k.Rand.IntN(4) {
							batches = append(batches, rewritetest.Flushed{Topic: topic, Partition: p, Raw: k.Batch(1 + k.Rand.IntN(9000))})
						}
					}
				}
				k.Flush(segment.Options{ChunkBytes: 8 << 10, Compress: compress}, batches...)
			}
			k.Verify()
			env := k.Env(rewrite.Config{ChunkBytes: 16 << 10, RunBytes: 40 << 10, Compress: compress})
			for round := range 2 { // from level 0, and from merged objects
				for _, topic := range []entry.UUID{plain, logged} {
					object, parts := upload(t, k, env, topic, 3)
					for i, o := range commit(t, env, topic, object, parts) {
						if o != rewrite.Applied {
							t.Fatalf("round %d, part %d: %v", round, i, o)
						}
					}
					for p := range int32(3) {
						rows := k.Rows(topic, p)
						if len(rows) != 1 || rows[0].Object != object.ID || rows[0].LogAppendTime || rows[0].Position != 0 || rows[0].Base != 0 {
							t.Fatalf("rows %+v", rows)
						}
					}
				}
				k.Verify()
			}
		})
	}
}

// TestARowMayStartAndEndInsideAChunk: batches that were refused lie between the rows of a block.
func TestARowMayStartAndEndInsideAChunk(t *testing.T) {
	k := rewritetest.New(t, 2)
	topic := k.Topic("t", 1)
	of := func(sequence int32) rewritetest.Flushed {
		b := batch.NewBuilder(batch.BuildOptions{Producer: &batch.Producer{ID: 7, BaseSequence: sequence}})
		b.Add(k.Clock+int64(sequence), nil, fmt.Append(nil, "value ", sequence))
		raw, err := b.Build(nil)
		if err != nil {
			t.Fatal(err)
		}
		return rewritetest.Flushed{Topic: topic, Raw: raw}
	}
	k.Flush(segment.Options{}, of(0), of(1), of(0), of(2), of(1), of(3), of(4))
	if rows := k.Rows(topic, 0); len(rows) != 3 {
		t.Fatalf("%d rows: the duplicates should split them", len(rows))
	}
	if n := len(k.Produced(topic, 0)); n != 5 {
		t.Fatalf("%d batches", n)
	}
	k.Verify()
	env := k.Env(rewrite.Config{})
	object, parts := upload(t, k, env, topic, 1)
	commit(t, env, topic, object, parts)
	k.Verify()
}

// TestATimestampThatAProducerLiedAboutIsCorrected: time look-ups go by the max timestamps of rows and chunks, which are true.
func TestATimestampThatAProducerLiedAboutIsCorrected(t *testing.T) {
	for _, lie := range []int64{-1000, 1000} {
		k := rewritetest.New(t, 3)
		topic := k.Topic("t", 1)
		honest, liar := k.Batch(100), k.Batch(100)
		h, _ := batch.ParseHeader(liar)
		truth := h.MaxTimestamp
		batch.StampMaxTimestamp(liar, truth+lie)
		b := segment.NewBuilder(segment.Options{ChunkBytes: 1})
		op := &entry.Append{Object: entry.ObjectID{Incarnation: k.Meta.Incarnation(), Seq: 1, CollectionEpoch: 1}, Blocks: []entry.Block{{Topic: topic}}}
		for _, raw := range [][]byte{honest, liar} {
			h, _ := batch.ParseHeader(raw)
			b.Add(topic, 0, raw, h.Span(), truth) // as agents do, by what they found in the records
			op.Blocks[0].AddBatch(uint64(len(raw)), uint64(h.Span()), truth, entry.NoProducer())
		}
		body, _, err := b.Finish(nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		op.ObjectSize = uint64(len(body))
		if err := k.Bucket.Put(t.Context(), op.Object.Key(), body, objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		k.Propose(op)
		src := k.Env(rewrite.Config{}).NewSource()
		r := src.Read(input(k, topic, 0), k.Rows(topic, 0))
		n := 0
		for ; r.Next(t.Context()); n++ {
			if got := r.Batch().Header.MaxTimestamp; got != truth && n == 1 {
				t.Errorf("lie %d: max timestamp %d, true %d", lie, got, truth)
			}
			if err := batch.VerifyCRC(r.Batch().Raw); err != nil {
				t.Error(err)
			}
		}
		if n != 2 || r.Err() != nil {
			t.Errorf("%d batches, %v", n, r.Err())
		}
		src.Close()
	}
}

// damaged hands out other bytes than were put.
type damaged struct {
	objstore.Bucket
	flip int64 // position in the object
	key  string
	once bool
}

func (d *damaged) spoil(key string, position int64, body []byte) []byte {
	if at := d.flip - position; key == d.key && at >= 0 && at < int64(len(body)) {
		body[at] ^= 0x40
		if d.once {
			d.key = ""
		}
	}
	return body
}

func (d *damaged) Get(ctx context.Context, key string) ([]byte, error) {
	body, err := d.Bucket.Get(ctx, key)
	return d.spoil(key, 0, body), err
}

func (d *damaged) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	body, err := d.Bucket.GetRange(ctx, key, position, size)
	return d.spoil(key, position, body), err
}

func read(ctx context.Context, k *rewritetest.Kit, env *rewrite.Env, topic entry.UUID, partition int32) (batches int, err error) {
	src := env.NewSource()
	defer src.Close()
	r := src.Read(input(k, topic, partition), k.Rows(topic, partition))
	for r.Next(ctx) {
		batches++
	}
	return batches, r.Err()
}

func TestDamage(t *testing.T) {
	k := rewritetest.New(t, 4)
	topic := k.Topic("t", 2)
	id := k.Flush(segment.Options{ChunkBytes: 1},
		rewritetest.Flushed{Topic: topic, Raw: k.Batch(5000)}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(5000)},
		rewritetest.Flushed{Topic: topic, Partition: 1, Raw: k.Batch(5000)})
	info, err := k.Bucket.Head(t.Context(), id.Key())
	if err != nil {
		t.Fatal(err)
	}
	first := int64(len(k.Produced(topic, 0)[0].Raw))
	for name, c := range map[string]struct {
		flip    int64
		once    bool
		run     int64
		batches [2]int
		err     bool
	}{
		"second chunk, always":                    {flip: 16 + first + 100, run: 8 << 20, batches: [2]int{1, 1}, err: true},
		"second chunk, always, by runs":           {flip: 16 + first + 100, run: 3 << 10, batches: [2]int{1, 1}, err: true},
		"second chunk, on the way":                {flip: 16 + first + 100, run: 3 << 10, once: true, batches: [2]int{2, 1}},
		"first byte of the table's trailer":       {flip: info.Size - 30, run: 8 << 20, batches: [2]int{0, 0}, err: true},
		"footer, once":                            {flip: info.Size - 40, run: 8 << 20, once: true, batches: [2]int{2, 1}},
		"footer, once, of an object read by runs": {flip: info.Size - 40, run: 3 << 10, once: true, batches: [2]int{2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			bucket := &damaged{Bucket: k.Bucket, flip: c.flip, key: id.Key(), once: c.once}
			env := k.Env(rewrite.Config{RunBytes: c.run}, func(d *rewrite.Deps) { d.Bucket = bucket })
			for p := range int32(2) {
				n, err := read(t.Context(), k, env, topic, p)
				var in *rewrite.InputError
				if want := c.err && c.batches[p] < 2-int(p); want != errors.As(err, &in) || !want && err != nil || n != c.batches[p] {
					t.Fatalf("partition %d: %d batches, %v", p, n, err)
				}
				if in != nil && (!errors.Is(err, rewrite.ErrCorrupt) || in.Object != id || in.Topic != topic || in.Partition != p || in.End <= in.Start) {
					t.Errorf("%+v", in)
				}
			}
		})
	}
}

// TestABatchThatIsNotWhatWasProducedIsFound: the chunk was damaged before it had a checksum.
func TestABatchThatIsNotWhatWasProducedIsFound(t *testing.T) {
	k := rewritetest.New(t, 5)
	topic := k.Topic("t", 1)
	raw := k.Batch(500)
	raw[len(raw)-1]++
	k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: raw})
	if _, err := read(t.Context(), k, k.Env(rewrite.Config{}), topic, 0); !errors.Is(err, rewrite.ErrCorrupt) {
		t.Error(err)
	}
}

func TestMissingAndCollectedObjects(t *testing.T) {
	k := rewritetest.New(t, 6)
	topic := k.Topic("t", 1)
	id := k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(500)})
	env := k.Env(rewrite.Config{RetryMin: time.Microsecond})
	rows := k.Rows(topic, 0)
	if err := k.Bucket.Delete(t.Context(), id.Key()); err != nil {
		t.Fatal(err)
	}
	_, err := read(t.Context(), k, env, topic, 0)
	var in *rewrite.InputError
	if !errors.As(err, &in) || !errors.Is(err, rewrite.ErrMissing) || in.Start != 0 || in.End != rows[0].End {
		t.Errorf("%v", err)
	}
	k.Propose(&entry.DeleteRecords{Topic: topic, BeforeOffset: -1}) // nothing names it now
	src := env.NewSource()
	defer src.Close()
	if r := src.Read(rewrite.Input{Topic: topic}, rows); r.Next(t.Context()) || !errors.Is(r.Err(), rewrite.ErrChanged) {
		t.Error(r.Err())
	}
}

// broken answers nothing for a while.
type broken struct {
	objstore.Bucket
	left int
}

func (b *broken) Get(ctx context.Context, key string) ([]byte, error) {
	if b.left--; b.left >= 0 {
		return nil, objstore.ErrUnavailable
	}
	return b.Bucket.Get(ctx, key)
}

func TestABucketThatIsAway(t *testing.T) {
	k := rewritetest.New(t, 7)
	topic := k.Topic("t", 1)
	k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(500)})
	for _, c := range []struct {
		fails int
		want  error
	}{{2, nil}, {3, rewrite.ErrUnavailable}} {
		env := k.Env(rewrite.Config{Attempts: 3, RetryMin: time.Microsecond, RetryMax: time.Microsecond}, func(d *rewrite.Deps) {
			d.Bucket = &broken{Bucket: k.Bucket, left: c.fails}
		})
		if _, err := read(t.Context(), k, env, topic, 0); !errors.Is(err, c.want) {
			t.Errorf("%d failures: %v", c.fails, err)
		}
	}
}

// strict refuses to put objects of topics, and with all puts anything.
type strict struct {
	objstore.Bucket
	err error
	all bool
	n   *int // puts that were refused
}

func (s strict) PutFrom(context.Context, string, io.ReaderAt, int64, objstore.PutOptions) error {
	*s.n++
	return s.err
}

func (s strict) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	if s.all {
		*s.n++
		return s.err
	}
	return s.Bucket.Put(ctx, key, body, opts)
}

// What a store refuses for what one topic asks for names the topic and the mend, and does not count as the bucket being away: other topics go on.
func TestAPutThatIsRefusedForWhatATopicAsksFor(t *testing.T) {
	k := rewritetest.New(t, 9)
	topic := k.Topic("t", 1)
	k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(500)})
	tagged := objstore.PutOptions{Tags: []objstore.Tag{{Key: "firn-class", Value: "d8"}}}
	locked := objstore.PutOptions{Lock: objstore.Lock{Mode: objstore.LockGovernance, Until: time.Now().Add(time.Hour)}}
	for _, c := range []struct {
		opts objstore.PutOptions
		err  error
		all  bool
		away bool
		want []string
		puts int // that are refused
	}{
		{opts: objstore.PutOptions{StorageClass: "COLD"}, err: objstore.ErrStorageClass, want: []string{"storage class COLD of topic t", "set firn.storage.class"}, puts: 1},
		{opts: tagged, err: objstore.ErrDenied, want: []string{"topic t", "access denied", "s3:PutObjectTagging"}, puts: 1},
		{opts: locked, err: objstore.ErrDenied, want: []string{"topic t", "access denied", "s3:PutObjectRetention"}, puts: 1},
		{opts: tagged, err: objstore.ErrDenied, all: true, away: true, want: []string{"access denied", "s3:PutObject"}, puts: 2},
		{opts: locked, err: objstore.ErrDenied, all: true, away: true, want: []string{"access denied", "s3:PutObject"}, puts: 2},
		{err: objstore.ErrDenied, away: true, want: []string{"access denied"}, puts: 4},
	} {
		n := 0
		env := k.Env(rewrite.Config{Attempts: 4, RetryMin: time.Microsecond, RetryMax: time.Microsecond}, func(d *rewrite.Deps) {
			d.Bucket = strict{k.Bucket, c.err, c.all, &n}
			d.PutOptions = func(entry.UUID) objstore.PutOptions { return c.opts }
		})
		out, err := env.NewOutput(topic)
		if err != nil {
			t.Fatal(err)
		}
		_, err = out.Upload(t.Context())
		out.Close()
		if !errors.Is(err, c.err) || errors.Is(err, rewrite.ErrUnavailable) != c.away || n != c.puts {
			t.Errorf("%+v: %d puts, %v", c.opts, n, err)
		}
		for _, words := range c.want {
			if !strings.Contains(fmt.Sprint(err), words) {
				t.Errorf("%+v: %v, want %q", c.opts, err, words)
			}
		}
	}
}

func TestCommitSortsWhatBecameOfParts(t *testing.T) {
	k := rewritetest.New(t, 8)
	topic := k.Topic("t", 40)
	flush := func() {
		var batches []rewritetest.Flushed
		for p := range int32(40) {
			batches = append(batches, rewritetest.Flushed{Topic: topic, Partition: p, Raw: k.Batch(50)})
		}
		k.Flush(segment.Options{}, batches...)
	}
	flush()
	flush()
	env := k.Env(rewrite.Config{OpBytes: 400}) // several ops
	object, parts := upload(t, k, env, topic, 40)
	k.Propose(&entry.DeleteRecords{Topic: topic, Partition: 3, BeforeOffset: parts[3].Replacement[0].End - 1})
	k.Propose(&entry.DeleteRecords{Topic: topic, Partition: 4, BeforeOffset: -1})
	for i, o := range commit(t, env, topic, object, parts) {
		want := rewrite.Applied
		if i == 3 || i == 4 {
			want = rewrite.Conflict
		}
		if o != want {
			t.Errorf("part %d: %v", i, o)
		}
	}
	k.Verify()
	for i, o := range commit(t, env, topic, object, parts) { // as after an answer that was lost
		if o != rewrite.Conflict {
			t.Errorf("part %d once more: %v", i, o)
		}
	}
	k.Verify()

	flush()
	object, parts = upload(t, k, env, topic, 40)
	for from := range uint64(2) {
		k.Propose(&entry.BumpCollectionEpoch{From: from + 1})
	}
	for i, o := range commit(t, env, topic, object, parts) {
		if o != rewrite.Stale {
			t.Errorf("part %d with an object that is too old: %v", i, o)
		}
	}
	k.Verify()
	object, parts = upload(t, k, env, topic, 40)
	k.Propose(&entry.DeleteTopic{ID: topic})
	for i, o := range commit(t, env, topic, object, parts) {
		if o != rewrite.Gone {
			t.Errorf("part %d of a topic that is gone: %v", i, o)
		}
	}
}

func TestBatchesBelowTheLogStartAreLeftOut(t *testing.T) {
	k := rewritetest.New(t, 9)
	topic := k.Topic("t", 1)
	k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(50)}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(50)}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(50)})
	start := k.Produced(topic, 0)[1].Base
	k.Propose(&entry.DeleteRecords{Topic: topic, BeforeOffset: start})
	env := k.Env(rewrite.Config{})
	object, parts := upload(t, k, env, topic, 1)
	commit(t, env, topic, object, parts)
	if rows := k.Rows(topic, 0); len(rows) != 1 || rows[0].Base != start {
		t.Errorf("%+v", rows)
	}
	k.Verify()
}

// lying is scratch space on a disk that loses what it was given.
type lying struct{ duty.Scratch }

type lyingFile struct{ duty.File }

func (s lying) Create() (duty.File, error) {
	f, err := s.Scratch.Create()
	return lyingFile{f}, err
}

func (f lyingFile) ReadAt(b []byte, position int64) (int, error) {
	n, err := f.File.ReadAt(b, position)
	if at := 100 - position; at >= 0 && at < int64(n) {
		b[at] ^= 1
	}
	return n, err
}

func TestAScratchDiskThatLiesIsFoundOut(t *testing.T) {
	k := rewritetest.New(t, 10)
	topic := k.Topic("t", 1)
	k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(5000)})
	env := k.Env(rewrite.Config{}, func(d *rewrite.Deps) { d.Scratch = lying{d.Scratch} })
	src := env.NewSource()
	defer src.Close()
	if _, err := src.Stage(t.Context(), rewrite.Want{ID: k.Rows(topic, 0)[0].Object, Size: k.Rows(topic, 0)[0].ObjectSize}); err != nil {
		t.Fatal(err)
	}
	out, err := env.NewOutput(topic)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Begin(0); err != nil {
		t.Fatal(err)
	}
	r := src.Read(input(k, topic, 0), k.Rows(topic, 0))
	for r.Next(t.Context()) {
		if err := out.Add(t.Context(), r.Batch().Raw, &r.Batch().Header); err != nil {
			t.Fatal(err)
		}
	}
	if r.Err() != nil { // the input was read again, from the bucket
		t.Fatal(r.Err())
	}
	out.End()
	if _, err := out.Upload(t.Context()); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("%v", err)
	}
	if list, err := k.Bucket.List(t.Context(), "topics/", "", 10); err != nil || len(list) > 0 {
		t.Errorf("%v was uploaded, %v", list, err)
	}
}

func TestMergedObjectsKnowTheirOffsets(t *testing.T) {
	k := rewritetest.New(t, 11)
	topic := k.Topic("t", 1)
	for range 3 {
		k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(5000)})
	}
	env := k.Env(rewrite.Config{})
	object, _ := upload(t, k, env, topic, 1)
	body, err := k.Bucket.Get(t.Context(), object.ID.Key())
	if err != nil {
		t.Fatal(err)
	}
	footer, err := segment.Open(body)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(footer.ObjectID, entry.AppendObjectID(nil, object.ID)) {
		t.Errorf("object id % x", footer.ObjectID)
	}
	want := k.Produced(topic, 0)
	for _, c := range footer.Blocks[0].Chunks {
		raw, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, nil)
		if err != nil {
			t.Fatal(err)
		}
		for s := batch.Split(raw); s.Next(); want = want[1:] {
			if s.Header().BaseOffset != want[0].Base || s.Header().LeaderEpoch != 0 ||
				crc32.Checksum(s.Raw()[21:], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(s.Raw()[17:]) {
				t.Errorf("%+v, want offset %d", s.Header(), want[0].Base)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("%d batches are missing", len(want))
	}
}

func TestConfig(t *testing.T) {
	k := rewritetest.New(t, 12)
	for _, cfg := range []rewrite.Config{
		{RunBytes: -1}, {ChunkBytes: -1}, {Parallel: -1}, {Attempts: -1}, {RetryMin: time.Minute, RetryMax: time.Second}, {OpBytes: 1 << 20},
	} {
		if _, err := rewrite.New(cfg, rewrite.Deps{Meta: k.Meta, Bucket: k.Bucket, Scratch: duty.InMemory(1)}); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	if _, err := rewrite.New(rewrite.Config{}, rewrite.Deps{}); err == nil {
		t.Error("nothing to work with, and no complaint")
	}
}

func TestTwoEnvsOfOneProcessDoNotShareKeys(t *testing.T) {
	k := rewritetest.New(t, 13)
	topic := k.Topic("t", 1)
	k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(500)})
	own := func(d *rewrite.Deps) { d.Sequence = nil }
	upload(t, k, k.Env(rewrite.Config{}, own), topic, 1)
	k.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: k.Batch(500)})
	out, err := k.Env(rewrite.Config{}, own).NewOutput(topic)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	raw := k.Batch(900)
	h, _ := batch.ParseHeader(raw)
	if err := errors.Join(out.Begin(0), out.Add(t.Context(), raw, &h)); err != nil {
		t.Fatal(err)
	}
	out.End()
	if _, err := out.Upload(t.Context()); err == nil {
		t.Error("another object's bytes were taken for its own")
	}
}

// proposals keeps the ops that are proposed, and answers each part with a conflict.
type proposals struct {
	rewrite.Meta
	ops []*entry.Rewrite
}

func (p *proposals) Propose(_ context.Context, op entry.Op) (state.OpResult, error) {
	r := op.(*entry.Rewrite)
	p.ops = append(p.ops, r)
	return state.OpResult{Parts: slices.Repeat([]state.Code{state.Conflict}, len(r.Parts))}, nil
}

// Rows that are replaced take no place in an op, and time of every agent: they are bounded too.
func TestOpsAreBoundedByTheRowsTheyReplace(t *testing.T) {
	k := rewritetest.New(t, 9)
	meta := &proposals{Meta: k.Meta}
	env := k.Env(rewrite.Config{}, func(d *rewrite.Deps) { d.Meta = meta })
	var parts []rewrite.Part
	for i := range int32(10) {
		rows := entry.RewriteRowsMax / 4
		if i == 5 {
			rows = 3 * entry.RewriteRowsMax // alone, for it cannot be cut here
		}
		parts = append(parts, rewrite.Part{Partition: i, End: 1, Rows: rows, Cleaned: true})
	}
	if _, err := env.Commit(t.Context(), entry.UUID{1}, nil, parts); err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, op := range meta.ops {
		got = append(got, len(op.Parts))
	}
	if !slices.Equal(got, []int{4, 1, 1, 4}) {
		t.Errorf("parts of each op: %v", got)
	}
}

package metastore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/objstoretest"
	"github.com/firnlog/firn/objstore/segment"
)

// piece is a batch on its way into a segment.
type piece struct {
	topic     entry.UUID
	partition int32
	records   uint64
	producer  entry.Producer
}

// uploader names objects as an agent does.
type uploader struct {
	c   *cluster
	cl  *metastore.Client
	seq uint64
}

// upload puts a segment into the bucket and returns the ops for it, each of at most perOp batches.
func (u *uploader) upload(perOp int, pieces ...piece) []*entry.Append {
	u.c.t.Helper()
	u.seq++
	id := entry.ObjectID{Incarnation: u.cl.Incarnation(), Seq: u.seq}
	u.cl.View(func(st *state.State) { id.CollectionEpoch = st.CollectionEpoch() })
	pieces = slices.Clone(pieces)
	slices.SortStableFunc(pieces, func(a, b piece) int {
		if c := bytes.Compare(a.topic[:], b.topic[:]); c != 0 {
			return c
		}
		return int(a.partition - b.partition)
	})
	b := segment.NewBuilder(segment.Options{})
	var ops []*entry.Append
	block, position := -1, uint64(0)
	for i, p := range pieces {
		raw := bytes.Repeat([]byte{byte(u.seq), byte(i)}, 50+i)
		b.Add(p.topic, p.partition, raw, int64(p.records), 1000)
		fresh := i == 0 || p.topic != pieces[i-1].topic || p.partition != pieces[i-1].partition
		if fresh {
			block, position = block+1, 0
		}
		if i%perOp == 0 {
			ops, fresh = append(ops, &entry.Append{Object: id, ObjectSize: 1}), true
		}
		op := ops[len(ops)-1]
		if fresh {
			op.Blocks = append(op.Blocks, entry.Block{Topic: p.topic, Partition: uint32(p.partition), Index: uint32(block), FirstPosition: position})
		}
		op.Blocks[len(op.Blocks)-1].AddBatch(uint64(len(raw)), p.records, 1000, p.producer)
		position += uint64(len(raw))
	}
	var intended []byte
	for _, op := range ops {
		value := (&entry.Entry{Incarnation: id.Incarnation, Seq: id.Seq, Ops: []entry.Op{op}}).AppendTo(nil)
		intended = append(binary.BigEndian.AppendUint32(intended, uint32(len(value))), value...)
	}
	body, _, err := b.Finish(nil, entry.AppendObjectID(nil, id), intended)
	if err != nil {
		u.c.t.Fatal(err)
	}
	if err := u.c.bucket.Put(u.c.t.Context(), id.Key(), body, objstore.PutOptions{IfAbsent: true}); err != nil {
		u.c.t.Fatal(err)
	}
	for _, op := range ops {
		op.ObjectSize = uint64(len(body))
	}
	return ops
}

// commit has ops ordered and returns how many batches were accepted.
func (u *uploader) commit(ops ...*entry.Append) (accepted int) {
	u.c.t.Helper()
	for _, op := range ops {
		for _, b := range u.c.propose(u.cl, op).Batches {
			if b.Code == state.OK {
				accepted++
			}
		}
	}
	return accepted
}

func plainPiece(t entry.UUID, p int32, records uint64) piece {
	return piece{t, p, records, entry.NoProducer()}
}

func sentPiece(t entry.UUID, p int32, records uint64, id int64, sequence int32) piece {
	return piece{t, p, records, entry.Producer{ID: id, BaseSequence: sequence}}
}

// quiet keeps an agent from archiving by itself.
func quiet(cfg *metastore.Config) { cfg.ArchiveInterval = 100 * time.Hour }

// offsets lists a partition's rows as base, end, object seq.
func rowsOf(cl *metastore.Client, name string, partition int) (rows []state.Row, next int64, epochs []state.EpochStart) {
	cl.View(func(st *state.State) {
		t := st.TopicByName(name)
		if t == nil {
			return
		}
		p := t.Partition(partition)
		rows, next, epochs = p.Rows(0, 1<<20, nil), p.Next(), p.Epochs(nil)
	})
	return rows, next, epochs
}

// loseEtcd gives the cluster a new, empty store; the bucket stays.
func (c *cluster) loseEtcd(cls ...*metastore.Client) {
	c.t.Helper()
	c.store.SetFaults(memlog.Faults{Partitioned: true, PartitionRefuses: true})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, cl := range cls {
		_ = cl.Close(ctx)
		_ = c.logs[cl].Close()
	}
	_ = c.store.Close()
	c.seed++
	c.store = memlog.NewStore(memlog.Config{Empty: true, Rand: rand.New(rand.NewPCG(c.seed, 2))})
}

// restore restores with a log of its own.
func (c *cluster) restore(opts metastore.RestoreOptions) (*metastore.RestoreReport, error) {
	c.t.Helper()
	l := c.store.Open("restore")
	defer func() { _ = l.Close() }()
	opts.EtcdIsLost = true
	return metastore.Restore(c.t.Context(), l, c.bucket, opts)
}

// busyLife is a cluster that was archived half way, went on, and lost its etcd. It returns what was acknowledged after the
// last archived entry.
type busyLife struct {
	t1, t2, young entry.UUID
	archivedNext  map[string]int64 // by topic/partition
	archivedRows  map[string][]state.Row
	lostRecords   int64 // acknowledged and not archived
	orphanRecords int64 // uploaded, never ordered
	firstPID      int64
}

func live(t *testing.T, c *cluster) *busyLife {
	t.Helper()
	a, b := c.open("a", quiet), c.open("b", quiet)
	ua, ub := &uploader{c: c, cl: a}, &uploader{c: c, cl: b}
	l := &busyLife{archivedNext: make(map[string]int64), archivedRows: make(map[string][]state.Row)}
	make1 := func(name string, partitions uint32) entry.UUID {
		op := topic(name)
		op.Partitions = partitions
		if r := c.propose(a, op); r.Code != state.OK {
			t.Fatal(r.Code)
		}
		return op.ID
	}
	l.t1, l.t2 = make1("t1", 2), make1("t2", 1)
	pid := c.propose(a, &entry.ReserveProducerIDs{Count: 10}).FirstProducerID
	l.firstPID = pid
	for i := range int32(8) {
		ua.commit(ua.upload(2, sentPiece(l.t1, 0, 5, pid, i*10), sentPiece(l.t1, 0, 5, pid, i*10+5), plainPiece(l.t2, 0, 3), sentPiece(l.t1, 1, 2, pid+1, i*2))...)
		ub.commit(ub.upload(9, plainPiece(l.t2, 0, 4))...)
	}
	// A segment of two ops, the second of which is not archived.
	straddling := ua.upload(2, sentPiece(l.t1, 0, 5, pid, 80), plainPiece(l.t1, 1, 1), plainPiece(l.t2, 0, 7))
	ua.commit(straddling[0])
	tool := c.store.Open("tool")
	if _, err := metastore.TakeSnapshot(t.Context(), tool, c.bucket); err != nil {
		t.Fatal(err)
	}
	_ = tool.Close()
	for name, parts := range map[string]int{"t1": 2, "t2": 1} {
		for p := range parts {
			rows, next, _ := rowsOf(a, name, p)
			l.archivedRows[fmt.Sprint(name, "/", p)], l.archivedNext[fmt.Sprint(name, "/", p)] = rows, next
		}
	}

	ua.commit(straddling[1])
	l.lostRecords += 7
	// A producer that goes from one agent to the other and back; the incarnations' order is not its order.
	for i := range int32(6) {
		u := []*uploader{ua, ub}[i%2]
		u.commit(u.upload(9, sentPiece(l.t1, 0, 5, pid, 85+i*5), plainPiece(l.t2, 0, 1))...)
		l.lostRecords += 6
	}
	// A new producer likewise: Apply takes any first sequence, so its first must come first.
	fresh := pid + 5
	for i := range int32(4) {
		u := []*uploader{ub, ua}[i%2]
		u.commit(u.upload(9, sentPiece(l.t1, 1, 3, fresh, i*3))...)
		l.lostRecords += 3
	}
	// A repeat, through the other agent: in the bucket twice, in the log once.
	if n := ub.commit(ub.upload(9, sentPiece(l.t1, 1, 3, fresh, 9))...); n != 0 {
		t.Fatalf("%d of a repeated batch", n)
	}
	// A batch that is overtaken: refused at first, accepted when its predecessor has come.
	overtaken := ua.upload(9, sentPiece(l.t1, 1, 3, fresh, 15))
	if n := ua.commit(overtaken...); n != 0 {
		t.Fatalf("%d of an overtaken batch", n)
	}
	ub.commit(ub.upload(9, sentPiece(l.t1, 1, 3, fresh, 12))...)
	if n := ua.commit(overtaken...); n != 1 {
		t.Fatalf("%d of a batch that is not overtaken any more", n)
	}
	l.lostRecords += 6
	// A topic whose creation is lost.
	l.young = make1("young", 3)
	ua.commit(ua.upload(9, plainPiece(l.young, 1, 11), sentPiece(l.young, 2, 4, fresh, 0))...)
	l.lostRecords += 15
	// An upload that nobody had ordered when the lights went out.
	ub.upload(9, plainPiece(l.t2, 0, 2))
	l.orphanRecords = 2
	c.loseEtcd(a, b)
	return l
}

// check holds a restored cluster against the life before.
func (l *busyLife) check(t *testing.T, c *cluster, cl *metastore.Client) {
	t.Helper()
	var total, archived int64
	for key, before := range l.archivedRows {
		name, p, _ := strings.Cut(key, "/")
		rows, next, epochs := rowsOf(cl, name, int(p[0]-'0'))
		base := l.archivedNext[key]
		if next < base || len(rows) < len(before) || !slices.Equal(rows[:len(before)], before) {
			t.Errorf("%s: what was archived is not where it was: %d rows, next %d; %d rows, next %d before", key, len(rows), next, len(before), base)
		}
		want := []state.EpochStart{{Epoch: 0, Start: 0}, {Epoch: 1, Start: base}}
		if !slices.Equal(epochs, want) {
			t.Errorf("%s: leader epochs %+v, want %+v", key, epochs, want)
		}
		total, archived = total+next, archived+base
	}
	restored := "firn-restored-" + l.young.String()
	for p := range 3 {
		_, next, epochs := rowsOf(cl, restored, p)
		if !slices.Equal(epochs, []state.EpochStart{{Epoch: 1}}) {
			t.Errorf("%s: leader epochs %+v", restored, epochs)
		}
		total += next
	}
	if got, want := total-archived, l.lostRecords+l.orphanRecords; got != want {
		t.Errorf("%d records appended again, want %d", got, want)
	}
	// Producers go on where they were: the next sequence is accepted, and nothing before it is missing.
	u := &uploader{c: c, cl: cl}
	for _, next := range []piece{sentPiece(l.t1, 0, 1, l.firstPID, 115), sentPiece(l.t1, 1, 1, l.firstPID+5, 18), sentPiece(l.young, 2, 1, l.firstPID+5, 4)} {
		if n := u.commit(u.upload(9, next)...); n != 1 {
			t.Errorf("producer %d goes on at %d: %d batches accepted", next.producer.ID, next.producer.BaseSequence, n)
		}
	}
	if first := c.propose(cl, &entry.ReserveProducerIDs{Count: 1}).FirstProducerID; first < l.firstPID+10 {
		t.Errorf("producer id %d after %d", first, l.firstPID)
	}
}

func TestRestoreFromTheBucketAlone(t *testing.T) {
	for _, fromStart := range []bool{false, true} {
		t.Run(fmt.Sprint("from start=", fromStart), func(t *testing.T) {
			bubble(t, 70, func(t *testing.T, c *cluster) {
				defer func() { _ = c.store.Close() }()
				l := live(t, c)
				dry, err := c.restore(metastore.RestoreOptions{DryRun: true, FromStart: fromStart})
				if err != nil {
					t.Fatal(err)
				}
				r, err := c.restore(metastore.RestoreOptions{FromStart: fromStart})
				if err != nil {
					t.Fatalf("%v\n%s", err, strings.Join(r.Lines(), "\n"))
				}
				t.Log("\n" + strings.Join(r.Lines(), "\n"))
				if r.Epoch != 2 || len(r.Damage) > 0 || r.Resumed || len(r.RestoredTopics) != 1 {
					t.Errorf("%+v", r)
				}
				if r.Records.Appended != l.lostRecords+l.orphanRecords || r.Batches.Duplicate != 1 || r.Batches.Refused != 0 {
					t.Errorf("records %+v, batches %+v, want %d appended; refused %v", r.Records, r.Batches, l.lostRecords+l.orphanRecords, r.Refused)
				}
				if dry.Records != r.Records || dry.Batches != r.Batches || dry.Segments != r.Segments || dry.BaseN != r.BaseN || dry.Epoch != r.Epoch {
					t.Errorf("a dry run says\n%s\nand a restore\n%s", strings.Join(dry.Lines(), "\n"), strings.Join(r.Lines(), "\n"))
				}
				cl := c.open("a")
				defer c.close(cl)
				l.check(t, c, cl)
				time.Sleep(20 * time.Second) // archived again
				look := c.store.Open("look")
				defer func() { _ = look.Close() }()
				report, err := metastore.Verify(t.Context(), look, c.bucket)
				if err != nil || len(report.Problems) > 0 {
					t.Fatalf("%v, %+v", err, report)
				}
				if report.ArchivedTo <= r.BaseN || report.Epoch != 2 {
					t.Errorf("%+v", report)
				}
				if _, err := c.restore(metastore.RestoreOptions{}); !errors.Is(err, metastore.ErrNotEmpty) {
					t.Errorf("restored twice: %v", err)
				}
			})
		})
	}
}

// etcd is lost a second time before anything was archived. In between a producer sent a batch again that the first restore had appended: its
// copy, in a segment of much later, holds up none of those behind it, which were acknowledged and are there once.
func TestRestoringTwiceWithABatchThatWasSentAgain(t *testing.T) {
	bubble(t, 78, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		a := c.open("a", quiet)
		op := topic("t")
		if r := c.propose(a, op); r.Code != state.OK {
			t.Fatal(r.Code)
		}
		pid := c.propose(a, &entry.ReserveProducerIDs{Count: 1}).FirstProducerID
		tool := c.store.Open("tool")
		if _, err := metastore.TakeSnapshot(t.Context(), tool, c.bucket); err != nil {
			t.Fatal(err)
		}
		_ = tool.Close()
		u := &uploader{c: c, cl: a}
		for i := range int32(4) {
			if n := u.commit(u.upload(9, sentPiece(op.ID, 0, 5, pid, i*5))...); n != 1 {
				t.Fatalf("batch %d: %d accepted", i, n)
			}
		}
		last := a
		for round := range 2 {
			c.loseEtcd(last)
			r, err := c.restore(metastore.RestoreOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Records.Appended != 20 || r.Batches.Duplicate != int64(round) || r.Batches.Refused != 0 {
				t.Errorf("round %d:\n%s", round, strings.Join(r.Lines(), "\n"))
			}
			last = c.open("a", quiet)
			u = &uploader{c: c, cl: last}
			if n := u.commit(u.upload(9, sentPiece(op.ID, 0, 5, pid, 5))...); n != 0 {
				t.Fatalf("round %d: a batch that was sent again is accepted", round)
			}
		}
		if _, next, _ := rowsOf(last, "t", 0); next != 20 {
			t.Errorf("the log ends at %d", next)
		}
		c.close(last)
	})
}

// Groups and their offsets come back from snapshot and archive. Their slots have no live owner then, and are claimed anew.
func TestRestoreBringsGroupsBack(t *testing.T) {
	bubble(t, 76, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		a := c.open("a")
		slot := state.SlotOf("g")
		tt := topic("t")
		tt.Partitions = 3
		op := claim(a, slot)
		for _, op := range []entry.Op{tt, op} {
			if r := c.propose(a, op); r.Code != state.OK {
				t.Fatal(r.Code)
			}
		}
		commit := func(cl *metastore.Client, partition uint32, offset int64) state.OpResult {
			return c.propose(cl, &entry.CommitOffsets{
				Slot: uint32(slot), Epoch: claim(cl, slot).Epoch, Group: "g", Generation: 7,
				Offsets: []entry.GroupOffset{{Topic: tt.ID, Partition: partition, Offset: offset, Metadata: "here", ExpireMs: -1}},
			})
		}
		update := &entry.UpdateGroup{
			Slot: uint32(slot), Epoch: claim(a, slot).Epoch, Group: "g", Generation: 7, Kind: entry.GroupConsumer, Record: []byte("record"),
			Puts: []entry.GroupMember{{ID: "m", Record: []byte("member")}}, Complete: true,
		}
		if r := c.propose(a, update); r.Code != state.OK {
			t.Fatal(r.Code)
		}
		commit(a, 0, 10)
		tool := c.store.Open("tool")
		if _, err := metastore.TakeSnapshot(t.Context(), tool, c.bucket); err != nil {
			t.Fatal(err)
		}
		_ = tool.Close()
		commit(a, 0, 20)
		commit(a, 1, 5)
		time.Sleep(10 * time.Second) // archived
		var owner state.Slot
		a.View(func(st *state.State) { owner = st.Slot(slot) })
		c.loseEtcd(a)
		if r, err := c.restore(metastore.RestoreOptions{}); err != nil || len(r.Damage) > 0 {
			t.Fatalf("%v, %+v", err, r)
		}

		b := c.open("b")
		defer c.close(b)
		b.View(func(st *state.State) {
			g := st.Group("g")
			if g == nil {
				t.Fatal("the group is gone")
			}
			member, _ := g.Member("m")
			if g.Generation != 7 || g.Kind != entry.GroupConsumer || string(g.Record) != "record" || !g.Complete || string(member) != "member" || st.FeatureLevel() != state.MaxFeatureLevel {
				t.Errorf("%+v at level %d", g, st.FeatureLevel())
			}
			for partition, want := range []int64{20, 5} {
				if o, ok := g.Offset(tt.ID, int32(partition)); !ok || o.Offset != want || o.Metadata != "here" {
					t.Errorf("partition %d: %+v, %v", partition, o, ok)
				}
			}
			if st.Slot(slot) != owner {
				t.Errorf("slot %+v, was %+v", st.Slot(slot), owner)
			}
			if _, live := st.AgentByIncarnation(owner.Owner); live {
				t.Error("an agent of the lost log is live")
			}
		})
		if r := commit(b, 0, 30); r.Code != state.StaleCoordinator {
			t.Errorf("without a claim: %v", r.Code)
		}
		if r := c.propose(b, claim(b, slot)); r.Code != state.OK {
			t.Fatal(r.Code)
		}
		if r := commit(b, 0, 30); r.Code != state.OK {
			t.Error(r.Code)
		}
		look := c.store.Open("look")
		defer func() { _ = look.Close() }()
		if report, err := metastore.Status(t.Context(), look, c.bucket); err != nil || report.Groups != 1 || report.Offsets != 2 {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// Etcd is lost again, before and after something of the new epoch was archived.
func TestRestoreAgain(t *testing.T) {
	for _, archived := range []bool{false, true} {
		t.Run(fmt.Sprint("archived=", archived), func(t *testing.T) {
			bubble(t, 71, func(t *testing.T, c *cluster) {
				defer func() { _ = c.store.Close() }()
				l := live(t, c)
				if _, err := c.restore(metastore.RestoreOptions{}); err != nil {
					t.Fatal(err)
				}
				cl := c.open("a", quiet)
				u := &uploader{c: c, cl: cl}
				u.commit(u.upload(9, sentPiece(l.t1, 0, 10, l.firstPID, 115))...)
				if archived {
					tool := c.store.Open("tool")
					if _, err := metastore.TakeSnapshot(t.Context(), tool, c.bucket); err != nil {
						t.Fatal(err)
					}
					_ = tool.Close()
				}
				u.commit(u.upload(9, sentPiece(l.t1, 0, 10, l.firstPID, 125))...)
				_, next, _ := rowsOf(cl, "t1", 0)
				c.loseEtcd(cl)
				r, err := c.restore(metastore.RestoreOptions{})
				if err != nil {
					t.Fatalf("%v\n%s", err, strings.Join(r.Lines(), "\n"))
				}
				if r.Epoch != 3 {
					t.Errorf("epoch %d", r.Epoch)
				}
				cl = c.open("a")
				defer c.close(cl)
				if _, again, epochs := rowsOf(cl, "t1", 0); again != next || epochs[len(epochs)-1].Epoch != 2 {
					t.Errorf("next offset %d, was %d; leader epochs %+v", again, next, epochs)
				}
				u = &uploader{c: c, cl: cl}
				if n := u.commit(u.upload(9, sentPiece(l.t1, 0, 1, l.firstPID, 135))...); n != 1 {
					t.Error("the producer cannot go on")
				}
				time.Sleep(20 * time.Second)
				look := c.store.Open("look")
				defer func() { _ = look.Close() }()
				report, err := metastore.Verify(t.Context(), look, c.bucket)
				if err != nil || len(report.Problems) > 0 {
					t.Fatalf("%v, %+v", err, report)
				}
			})
		})
	}
}

// mortal ends everything a restore does at one step: from the given call on, nothing reaches the log or the bucket.
type mortal struct {
	log.Founder
	left   *atomic.Int64
	during bool // the call that is cut off takes effect
}

var errKilled = errors.New("killed")

// step counts a call; cut: it has no answer.
func (m *mortal) step() (cut, dead bool) {
	left := m.left.Add(-1)
	return left == 0, left < 0
}

func call[T any](m *mortal, do func() (T, error)) (T, error) {
	var none T
	cut, dead := m.step()
	if dead || cut && !m.during {
		return none, errKilled
	}
	v, err := do()
	if cut {
		return none, errKilled
	}
	return v, err
}

func (m *mortal) Commit(ctx context.Context, i log.Identity, k log.Key, v []byte) (log.Outcome, error) {
	return call(m, func() (log.Outcome, error) { return m.Founder.Commit(ctx, i, k, v) })
}

func (m *mortal) Found(ctx context.Context, i log.Identity, cells map[string][]byte) (log.Identity, error) {
	return call(m, func() (log.Identity, error) { return m.Founder.Found(ctx, i, cells) })
}

func (m *mortal) Swap(ctx context.Context, name string, version uint64, v []byte, o log.Registration) (log.Cell, error) {
	return call(m, func() (log.Cell, error) { return m.Founder.Swap(ctx, name, version, v, o) })
}

func (m *mortal) Register(ctx context.Context, i log.Incarnation, info []byte, ttl time.Duration) (log.Registration, error) {
	return call(m, func() (log.Registration, error) { return m.Founder.Register(ctx, i, info, ttl) })
}

func (m *mortal) Read(ctx context.Context, after uint64, l map[log.Incarnation]uint64, most int) (e []log.Entry, c log.Cursor, more bool, err error) {
	_, err = call(m, func() (struct{}, error) {
		e, c, more, err = m.Founder.Read(ctx, after, l, most)
		return struct{}{}, err
	})
	return e, c, more, err
}

// mortalBucket is the bucket of a mortal.
type mortalBucket struct {
	objstore.Bucket
	m *mortal
}

func (b mortalBucket) Put(ctx context.Context, key string, body []byte, o objstore.PutOptions) error {
	_, err := call(b.m, func() (struct{}, error) { return struct{}{}, b.Bucket.Put(ctx, key, body, o) })
	return err
}

func (b mortalBucket) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, o objstore.PutOptions) error {
	return objstoretest.PutFrom(ctx, b, key, body, size, o)
}

// copyOf is a bucket with the same objects.
func copyOf(t *testing.T, from *mem.Bucket) *mem.Bucket {
	t.Helper()
	to := mem.New()
	for after := ""; ; {
		infos, err := from.List(t.Context(), "", after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(infos) == 0 {
			return to
		}
		for _, info := range infos {
			after = info.Key
			body, err := from.Get(t.Context(), after)
			if err == nil {
				err = to.Put(t.Context(), after, body, objstore.PutOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// content is all that clients can see of a cluster's topics.
func content(cl *metastore.Client) (out []string) {
	cl.View(func(st *state.State) {
		for t := range st.Topics() {
			for i := range t.Partitions() {
				p := t.Partition(i)
				out = append(out, fmt.Sprintf("%s/%d %+v %+v %d %+v", t.Name, i, p.Rows(0, 1<<20, nil), p.Epochs(nil), p.Next(), p.Producers(nil)))
			}
		}
	})
	return out
}

// A restore that is killed at any step, and then started again, gives what one gives that was not killed. Agents refuse to
// start in between.
func TestRestoreKilledAnywhere(t *testing.T) {
	bubble(t, 72, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		live(t, c)
		original := c.bucket
		now := func() time.Time { return time.UnixMilli(1_900_000_000_000) }
		fresh := func() {
			_ = c.store.Close()
			c.bucket = copyOf(t, original)
			c.store = memlog.NewStore(memlog.Config{Empty: true})
		}
		result := func() []string {
			cl := c.open("a", quiet)
			defer c.close(cl)
			return content(cl)
		}
		fresh()
		if _, err := c.restore(metastore.RestoreOptions{Now: now}); err != nil {
			t.Fatal(err)
		}
		want := result()
		kills, resumed, refusals := 0, 0, 0
		for _, during := range []bool{false, true} {
			for n := int64(1); ; n++ {
				fresh()
				l := c.store.Open("mortal")
				m := &mortal{Founder: l, left: new(atomic.Int64), during: during}
				m.left.Store(n)
				_, err := metastore.Restore(t.Context(), m, mortalBucket{c.bucket, m}, metastore.RestoreOptions{EtcdIsLost: true, Now: now})
				if err == nil {
					_ = l.Close()
					break
				}
				if !errors.Is(err, errKilled) {
					t.Fatalf("killed at step %d: %v", n, err)
				}
				kills++
				// An agent that starts now. Where nothing was founded it must not found a log of its own.
				other := c.store.Open("early")
				if cl, err := metastore.Open(t.Context(), c.config("early"), other, c.bucket); err == nil {
					_ = cl.Close(t.Context())
					if n < 3 {
						t.Fatalf("killed at step %d: an agent started", n)
					}
				} else if !errors.Is(err, metastore.ErrNeedsRestore) {
					t.Fatalf("killed at step %d: an agent that starts: %v", n, err)
				} else {
					refusals++
				}
				_ = other.Close()
				if n%2 == 0 {
					time.Sleep(time.Minute) // its registration lapses
				}
				r, err := c.restore(metastore.RestoreOptions{Now: now})
				_ = l.Close()
				switch {
				case errors.Is(err, metastore.ErrNotEmpty): // killed after the last step
				case err != nil:
					t.Fatalf("killed at step %d, during=%v, and again: %v\n%s", n, during, err, strings.Join(r.Lines(), "\n"))
				case r.Resumed:
					resumed++
				}
				if got := result(); !slices.Equal(got, want) {
					t.Fatalf("killed at step %d, during=%v:\n%s\nwant\n%s", n, during, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
		}
		t.Logf("%d kills, %d resumed, %d refusals to start", kills, resumed, refusals)
		if kills < 10 || resumed < 8 || refusals < 10 {
			t.Error("too few: the test proves little")
		}
	})
}

func TestRestoreRefuses(t *testing.T) {
	bubble(t, 73, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		live(t, c)
		l := c.store.Open("restore")
		defer func() { _ = l.Close() }()
		r, err := metastore.Restore(t.Context(), l, c.bucket, metastore.RestoreOptions{})
		if !errors.Is(err, metastore.ErrNotConfirmed) || !strings.Contains(err.Error(), "metastore/archive/") {
			t.Errorf("unconfirmed: %v", err)
		}
		if r.LogID == "" {
			t.Error("no report with the error")
		}
		if _, err := metastore.Restore(t.Context(), l, mem.New(), metastore.RestoreOptions{EtcdIsLost: true}); !errors.Is(err, metastore.ErrForeign) {
			t.Errorf("a bucket without a cluster: %v", err)
		}
		if _, err := metastore.Open(t.Context(), c.config("a"), l, c.bucket); !errors.Is(err, metastore.ErrNeedsRestore) {
			t.Errorf("an agent on the empty etcd: %v", err)
		}
		if st, err := l.Standing(t.Context()); err != nil || st.Keys != 0 {
			t.Errorf("something was left in the empty etcd: %+v, %v", st, err)
		}
		if _, err := l.Swap(t.Context(), "of/somebody", 0, nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := c.restore(metastore.RestoreOptions{}); !errors.Is(err, metastore.ErrNotEmpty) || !strings.Contains(err.Error(), "of/somebody") {
			t.Errorf("beside other keys: %v", err)
		}
	})
}

// An agent that lost its registration and joined again still commits what it had uploaded under the incarnation before: that the
// snapshot knows that one as departed does not make its uploads nobody's. Minutes later nobody waits for them any more.
func TestRestoreOfADepartedIncarnationsUploads(t *testing.T) {
	for _, late := range []bool{false, true} {
		for _, fromStart := range []bool{false, true} {
			t.Run(fmt.Sprintf("late=%v, from start=%v", late, fromStart), func(t *testing.T) {
				bubble(t, 78, func(t *testing.T, c *cluster) {
					defer func() { _ = c.store.Close() }()
					a, b := c.open("a", quiet), c.open("b", quiet)
					ua := &uploader{c: c, cl: a}
					op := topic("t")
					c.propose(a, op)
					ua.commit(ua.upload(9, plainPiece(op.ID, 0, 3))...)
					uploaded := ua.upload(9, plainPiece(op.ID, 0, 5))
					first := a.Incarnation()
					c.propose(b, &entry.Leave{Incarnation: first})
					for a.Incarnation() == first {
						time.Sleep(10 * time.Millisecond)
					}
					c.propose(a, &entry.Tick{})
					if late {
						time.Sleep(10 * time.Minute)
					}
					tool := c.store.Open("tool")
					if _, err := metastore.TakeSnapshot(t.Context(), tool, c.bucket); err != nil {
						t.Fatal(err)
					}
					_ = tool.Close()
					records, abandoned := int64(3), 1
					if !late {
						records, abandoned = 8, 0
						if n := ua.commit(uploaded...); n != 1 {
							t.Fatalf("%d batches acknowledged", n)
						}
					}
					c.loseEtcd(a, b)
					r, err := c.restore(metastore.RestoreOptions{FromStart: fromStart})
					if err != nil {
						t.Fatal(err)
					}
					cl := c.open("a")
					defer c.close(cl)
					if _, next, _ := rowsOf(cl, "t", 0); next != records || r.Abandoned != abandoned {
						t.Errorf("%d records, want %d; %d segments given up", next, records, r.Abandoned)
					}
				})
			})
		}
	}
}

// What was on its way into a topic when that was deleted makes no new one.
func TestRestoreOfATopicDeletedBeforeTheSnapshot(t *testing.T) {
	bubble(t, 82, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		a := c.open("a", quiet)
		op := topic("t")
		c.propose(a, op)
		u := &uploader{c: c, cl: a}
		u.upload(9, plainPiece(op.ID, 0, 5))
		c.propose(a, &entry.DeleteTopic{ID: op.ID})
		tool := c.store.Open("tool")
		if _, err := metastore.TakeSnapshot(t.Context(), tool, c.bucket); err != nil {
			t.Fatal(err)
		}
		_ = tool.Close()
		c.loseEtcd(a)
		r, err := c.restore(metastore.RestoreOptions{})
		if err != nil || len(r.RestoredTopics) > 0 || r.Records.Appended > 0 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// Where nothing but a snapshot was left to restore from, the history that follows it is verified from there.
func TestVerifyAfterARestoreWithoutAnArchive(t *testing.T) {
	bubble(t, 83, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		a := c.open("a", quiet)
		c.propose(a, topic("t"))
		look := c.store.Open("look")
		if _, err := metastore.TakeSnapshot(t.Context(), look, c.bucket); err != nil {
			t.Fatal(err)
		}
		_ = look.Close()
		infos, err := c.bucket.List(t.Context(), "metastore/archive/", "", 100)
		if err != nil || len(infos) == 0 {
			t.Fatal(infos, err)
		}
		for _, o := range infos {
			if err := c.bucket.Delete(t.Context(), o.Key); err != nil {
				t.Fatal(err)
			}
		}
		c.loseEtcd(a)
		if _, err := c.restore(metastore.RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		a = c.open("a")
		defer c.close(a)
		c.propose(a, topic("u"))
		time.Sleep(10 * time.Second)
		look = c.store.Open("look")
		defer func() { _ = look.Close() }()
		r, err := metastore.Verify(t.Context(), look, c.bucket)
		if err != nil || len(r.Problems) > 0 {
			t.Fatalf("%v, %+v", err, r)
		}
	})
}

// A batch that waits for its predecessor hides neither itself nor what comes behind it in its segment, wherever the archive and
// the newest snapshot end.
func TestRestoreOfBatchesThatWaited(t *testing.T) {
	for _, fromStart := range []bool{false, true} {
		for name, live := range map[string]func(*cluster, *uploader, entry.UUID, func()){
			"another op behind it": func(_ *cluster, u *uploader, id entry.UUID, archive func()) {
				u.commit(u.upload(9, sentPiece(id, 0, 3, 7, 0))...)
				ops := u.upload(1, sentPiece(id, 0, 3, 7, 6), plainPiece(id, 1, 5))
				if u.commit(ops[0]) != 0 {
					t.Fatal("not overtaken")
				}
				archive()
				u.commit(ops[1])
				u.commit(u.upload(9, sentPiece(id, 0, 3, 7, 3))...)
				u.commit(ops[0])
			},
			"another object behind it": func(_ *cluster, u *uploader, id entry.UUID, archive func()) {
				u.commit(u.upload(9, sentPiece(id, 0, 3, 7, 0))...)
				waits := u.upload(9, sentPiece(id, 0, 3, 7, 6))
				if u.commit(waits...) != 0 {
					t.Fatal("not overtaken")
				}
				u.commit(u.upload(9, plainPiece(id, 1, 5))...)
				archive()
				u.commit(u.upload(9, sentPiece(id, 0, 3, 7, 3))...)
				u.commit(waits...)
			},
		} {
			t.Run(fmt.Sprint(name, ", from start=", fromStart), func(t *testing.T) {
				bubble(t, 79, func(t *testing.T, c *cluster) {
					defer func() { _ = c.store.Close() }()
					a := c.open("a", quiet)
					op := topic("t")
					op.Partitions = 2
					c.propose(a, op)
					live(c, &uploader{c: c, cl: a}, op.ID, func() {
						tool := c.store.Open("tool")
						defer func() { _ = tool.Close() }()
						if _, err := metastore.TakeSnapshot(t.Context(), tool, c.bucket); err != nil {
							t.Fatal(err)
						}
					})
					c.loseEtcd(a)
					if _, err := c.restore(metastore.RestoreOptions{FromStart: fromStart}); err != nil {
						t.Fatal(err)
					}
					cl := c.open("a")
					defer c.close(cl)
					_, waited, _ := rowsOf(cl, "t", 0)
					_, behind, _ := rowsOf(cl, "t", 1)
					if waited != 9 || behind != 5 {
						t.Errorf("%d of 9 and %d of 5 acknowledged records", waited, behind)
					}
				})
			})
		}
	}
}

// Agents of a log that was given up end when they find out, and new ones refuse to start on it.
func TestTheOldLogIsGivenUp(t *testing.T) {
	bubble(t, 74, func(t *testing.T, c *cluster) {
		old := c.store
		a := c.open("a", func(cfg *metastore.Config) { cfg.ArchiveInterval = time.Second })
		c.propose(a, topic("t"))
		time.Sleep(10 * time.Second)
		c.store = memlog.NewStore(memlog.Config{Empty: true})
		defer func() { _ = c.store.Close() }()
		if _, err := c.restore(metastore.RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Propose(t.Context(), topic("late")); err != nil {
			t.Fatal(err)
		}
		<-a.Failed()
		if err := a.Err(); !errors.Is(err, metastore.ErrForeign) || !strings.Contains(err.Error(), "given up") {
			t.Errorf("the old agent ended with %v", err)
		}
		l := old.Open("b")
		if _, err := metastore.Open(t.Context(), c.config("b"), l, c.bucket); !errors.Is(err, metastore.ErrForeign) || !strings.Contains(err.Error(), "given up") {
			t.Errorf("a new agent on the old log: %v", err)
		}
		_ = l.Close()
		c.close(a)
		b := c.open("b")
		defer c.close(b)
		if !has(b, "t") || has(b, "late") {
			t.Error("the restored log has the wrong topics")
		}
		_ = old.Close()
	})
}

package metastore_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// compactor rewrites rows as an agent's compaction does: its objects have numbers of their own.
type compactor struct {
	c   *cluster
	cl  *metastore.Client
	seq uint64
}

// object puts a merged object into the bucket. No restore reads one, so it holds anything.
func (x *compactor) object(topic entry.UUID) entry.ObjectID {
	x.c.t.Helper()
	x.seq++
	id := entry.ObjectID{Incarnation: x.cl.Incarnation(), Seq: x.seq, Topic: topic}
	x.cl.View(func(st *state.State) { id.CollectionEpoch = st.CollectionEpoch() })
	if err := x.c.bucket.Put(x.c.t.Context(), id.Key(), []byte("merged"), objstore.PutOptions{IfAbsent: true}); err != nil {
		x.c.t.Fatal(err)
	}
	return id
}

// rewrite moves all rows of partitions of a topic into a merged object, and returns that and what it replaced.
func (x *compactor) rewrite(topic entry.UUID, partitions ...int) (into entry.ObjectID, old []entry.ObjectID) {
	x.c.t.Helper()
	into = x.object(topic)
	op := &entry.Rewrite{Topic: topic, Objects: []entry.RewrittenObject{{ID: into, Size: 6}}}
	for i, p := range partitions {
		var rows []state.Row
		x.cl.View(func(st *state.State) { rows = st.TopicByID(topic).Partition(p).Rows(0, 1<<20, nil) })
		for _, r := range rows {
			old = append(old, r.Object)
		}
		first, last := rows[0], rows[len(rows)-1]
		op.Parts = append(op.Parts, entry.RewrittenPart{
			Partition: uint32(p), Start: first.Base, End: last.End, Rows: uint32(len(rows)), Digest: state.RowsDigest(rows),
			Replacement: []entry.RewrittenRow{{Block: uint32(i), Base: first.Base, End: last.End, MaxTimestamp: last.MaxTimestamp, Size: 10}},
		})
	}
	r := x.c.propose(x.cl, op)
	if r.Code != state.OK || slices.ContainsFunc(r.Parts, func(c state.Code) bool { return c != state.OK }) {
		x.c.t.Fatalf("rewrite: %v, parts %v", r.Code, r.Parts)
	}
	return into, old
}

// bump moves the collection epoch on.
func (x *compactor) bump(times int) {
	x.c.t.Helper()
	for range times {
		var from uint64
		x.cl.View(func(st *state.State) { from = st.CollectionEpoch() })
		x.c.propose(x.cl, &entry.BumpCollectionEpoch{From: from})
	}
}

// collect deletes objects, as the collector does once the entry that retired them is archived and their epoch is two behind.
func (x *compactor) collect(ids ...entry.ObjectID) {
	x.c.t.Helper()
	for _, id := range ids {
		if err := x.c.bucket.Delete(x.c.t.Context(), id.Key()); err != nil {
			x.c.t.Fatal(err)
		}
	}
}

// archived has everything so far archived, and a snapshot of it.
func (c *cluster) archived() {
	c.t.Helper()
	tool := c.store.Open("tool")
	defer func() { _ = tool.Close() }()
	if _, err := metastore.TakeSnapshot(c.t.Context(), tool, c.bucket); err != nil {
		c.t.Fatal(err)
	}
}

// merging is a cluster of one agent that produces, compacts, and archives only when told to.
type merging struct {
	*compactor
	*uploader
	one, two entry.UUID
}

func newMerging(t *testing.T, c *cluster) *merging {
	a := c.open("a", quiet)
	m := &merging{compactor: &compactor{c: c, cl: a, seq: 1000}, uploader: &uploader{c: c, cl: a}}
	for name, id := range map[string]*entry.UUID{"one": &m.one, "two": &m.two} {
		op := topic(name)
		op.Partitions = 2
		if r := c.propose(a, op); r.Code != state.OK {
			t.Fatal(r.Code)
		}
		*id = op.ID
	}
	return m
}

// lose loses etcd, and restores. The restored cluster must have what want says of each topic's partition 0: rows, by the numbers of
// their objects, and the next offset.
func (m *merging) lose(t *testing.T, want map[string]string) *metastore.RestoreReport {
	t.Helper()
	c := m.uploader.c
	c.loseEtcd(m.uploader.cl)
	r, err := c.restore(metastore.RestoreOptions{})
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(r.Lines(), "\n"))
	}
	b := c.open("b")
	defer c.close(b)
	for name, want := range want {
		rows, next, _ := rowsOf(b, name, 0)
		got := ""
		for _, row := range rows {
			kind := ""
			if row.Object.Merged() {
				kind = "merged "
			}
			got += fmt.Sprintf("%d-%d %s%d, ", row.Base, row.End, kind, row.Object.Seq)
		}
		if got += fmt.Sprint("next ", next); got != want {
			t.Errorf("topic %s: %s; want %s\n%s", name, got, want, strings.Join(r.Lines(), "\n"))
		}
	}
	return r
}

// The numbers of merged objects say nothing of an agent's uploads: those that were not archived are appended again, however many
// objects its compaction has written.
func TestRestoreTellsMergedObjectsFromUploads(t *testing.T) {
	bubble(t, 320, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		m := newMerging(t, c)
		for range 3 {
			m.commit(m.upload(9, plainPiece(m.one, 0, 5))...)
		}
		m.rewrite(m.one, 0)
		c.archived()
		m.commit(m.upload(9, plainPiece(m.one, 0, 7))...)
		m.rewrite(m.one, 0) // an orphan: its entry is lost
		m.commit(m.upload(9, plainPiece(m.one, 0, 9))...)
		r := m.lose(t, map[string]string{"one": "0-15 merged 1001, 15-22 4, 22-31 5, next 31"})
		if r.Segments != 2 || r.Records.Appended != 16 || r.MissingObjects != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// An agent's last upload was rewritten in part, and in whole, before the snapshot, and longer ago than the look back at it: nothing of
// it is appended again, though no row names it any more, and no producer would be found out.
func TestRestoreOfAnUploadThatWasRewritten(t *testing.T) {
	for name, idle := range map[string]time.Duration{"a moment ago": time.Second, "long ago": 30 * time.Minute} {
		for _, partly := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", partly=", partly), func(t *testing.T) {
				bubble(t, 321, func(t *testing.T, c *cluster) {
					defer func() { _ = c.store.Close() }()
					m := newMerging(t, c)
					m.commit(m.upload(1, plainPiece(m.one, 0, 5), plainPiece(m.two, 0, 6))...) // two ops
					order := []entry.UUID{m.one, m.two}
					if slices.Compare(m.one[:], m.two[:]) > 0 {
						slices.Reverse(order)
					}
					m.rewrite(order[1], 0) // what the second op named
					second := fmt.Sprint("merged ", m.compactor.seq)
					first := "1"
					if !partly {
						m.rewrite(order[0], 0)
						first = fmt.Sprint("merged ", m.compactor.seq)
					}
					for range 3 { // a range each
						c.archived()
						time.Sleep(idle)
					}
					c.archived()
					want := map[string]string{"one": "0-5 " + first + ", next 5", "two": "0-6 " + second + ", next 6"}
					if order[1] == m.one {
						want = map[string]string{"one": "0-5 " + second + ", next 5", "two": "0-6 " + first + ", next 6"}
					}
					if r := m.lose(t, want); r.Segments != 0 || r.Records != (metastore.Tally{}) {
						t.Errorf("%+v", r)
					}
				})
			})
		}
	}
}

// The second op of an upload is lost with etcd after the rows of the first were rewritten: it is appended again, and only it.
func TestRestoreOfAnUploadThatWasRewrittenHalfWay(t *testing.T) {
	bubble(t, 322, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		m := newMerging(t, c)
		ops := m.upload(1, plainPiece(m.one, 0, 5), plainPiece(m.one, 0, 6))
		m.commit(ops[0])
		m.rewrite(m.one, 0) // retires it
		c.archived()
		m.commit(ops[1])
		if r := m.lose(t, map[string]string{"one": "0-5 merged 1001, 5-11 1, next 11"}); r.Records.Appended != 6 {
			t.Errorf("%+v", r)
		}
	})
}

// A merge whose entry was not archived never happened: the uploads are still there, for nothing may be deleted before the entry that
// retired it is archived.
func TestRestoreUndoesAMergeThatWasNotArchived(t *testing.T) {
	bubble(t, 323, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		m := newMerging(t, c)
		for range 3 {
			m.commit(m.upload(9, plainPiece(m.one, 0, 5), plainPiece(m.two, 0, 1))...)
		}
		c.archived()
		orphan, _ := m.rewrite(m.one, 0)
		archived, err := m.uploader.cl.ArchivedThrough(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m.uploader.cl.View(func(st *state.State) {
			if o, ok := st.ObjectByID(orphan); !ok || o.Born <= archived {
				t.Errorf("%+v, archived through %d", o, archived)
			}
		})
		r := m.lose(t, map[string]string{"one": "0-5 1, 5-10 2, 10-15 3, next 15", "two": "0-1 1, 1-2 2, 2-3 3, next 3"})
		if r.MissingObjects != 0 || r.Segments != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// A merge that was archived stands, be the uploads collected or not, and their collection epoch long past.
func TestRestoreKeepsAMergeThatWasArchived(t *testing.T) {
	for _, collected := range []bool{false, true} {
		t.Run(fmt.Sprint("collected=", collected), func(t *testing.T) {
			bubble(t, 324, func(t *testing.T, c *cluster) {
				defer func() { _ = c.store.Close() }()
				m := newMerging(t, c)
				for range 3 {
					m.commit(m.upload(9, plainPiece(m.one, 0, 5))...)
				}
				_, old := m.rewrite(m.one, 0)
				m.commit(m.upload(9, plainPiece(m.one, 0, 1))...)
				if collected {
					m.bump(2)
				}
				c.archived()
				if collected {
					m.collect(old...)
				}
				r := m.lose(t, map[string]string{"one": "0-15 merged 1001, 15-16 4, next 16"})
				if r.MissingObjects != 0 || r.Segments != 0 {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// What rows name and is not in the bucket is told before agents meet it.
func TestRestoreTellsWhatIsMissing(t *testing.T) {
	bubble(t, 325, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		m := newMerging(t, c)
		m.commit(m.upload(9, plainPiece(m.one, 0, 5), plainPiece(m.two, 0, 1))...)
		into, _ := m.rewrite(m.one, 0)
		m.commit(m.upload(9, plainPiece(m.one, 0, 5))...)
		var gone entry.ObjectID
		m.uploader.cl.View(func(st *state.State) { gone = st.TopicByID(m.two).Partition(0).Rows(0, 1, nil)[0].Object })
		c.archived()
		m.collect(into, gone)
		r := m.lose(t, nil)
		if r.MissingObjects != 2 || len(r.Missing) != 2 || !strings.Contains(strings.Join(r.Lines(), "\n"), into.Key()) || !strings.Contains(strings.Join(r.Missing, "\n"), gone.Key()) {
			t.Errorf("%+v", r)
		}
	})
}

// Collection epochs went on after what was archived: uploads of the later ones are appended again, and after the restore nothing that
// is in the bucket can be named, merged objects of the lost time included.
func TestRestoreAfterCollectionEpochsMoved(t *testing.T) {
	bubble(t, 326, func(t *testing.T, c *cluster) {
		defer func() { _ = c.store.Close() }()
		m := newMerging(t, c)
		m.commit(m.upload(9, plainPiece(m.one, 0, 5))...)
		c.archived()
		m.bump(1)
		m.commit(m.upload(9, plainPiece(m.one, 0, 2))...)
		m.bump(2)
		orphan, _ := m.rewrite(m.one, 0)
		if r := m.lose(t, map[string]string{"one": "0-5 1, 5-7 2, next 7"}); r.Records.Appended != 2 || r.MissingObjects != 0 {
			t.Errorf("%+v", r)
		}
		d := c.open("d")
		defer c.close(d)
		rows, _, _ := rowsOf(d, "one", 0)
		r := c.propose(d, &entry.Rewrite{
			Topic: m.one, Objects: []entry.RewrittenObject{{ID: orphan, Size: 6}},
			Parts: []entry.RewrittenPart{{Start: 0, End: 7, Rows: 2, Digest: state.RowsDigest(rows), Replacement: []entry.RewrittenRow{{End: 7, Size: 10}}}},
		})
		if r.Code != state.StaleCollectionEpoch {
			t.Errorf("an object of the lost time is named again: %v, %v", r.Code, r.Parts)
		}
	})
}

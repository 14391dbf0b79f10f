package metastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

// author writes a log's history into a bucket by hand, so that it can be wrong in every way.
type author struct {
	t      testing.TB
	bucket objstore.Bucket
	id     log.Identity
	st     *state.State
	seq    uint64
	keys   []string // of archive objects
	tag    byte     // of the incarnation and the writer
}

func newAuthor(t testing.TB, buckets ...objstore.Bucket) *author {
	t.Helper()
	a := &author{t: t, bucket: append(buckets, mem.New())[0], id: log.Identity{ID: [16]byte{7}, Epoch: 1}, tag: 1}
	a.st = state.New(state.Identity{ID: a.id.ID, Epoch: 1})
	if _, err := takeMarker(t.Context(), a.bucket, a.id, true); err != nil {
		t.Fatal(err)
	}
	return a
}

// fork is another author at the same place.
func (a *author) fork(tag byte) *author {
	st, err := state.Load(a.st.AppendSnapshot(nil))
	if err != nil {
		a.t.Fatal(err)
	}
	b := *a
	b.st, b.tag, b.keys = st, tag, slices.Clone(a.keys)
	return &b
}

// write seals a range of n entries, each of which makes a topic.
func (a *author) write(n int, name string) {
	a.t.Helper()
	a.seal(n, func() entry.Op {
		id := entry.UUID{0x99, byte(a.st.N()), byte(a.st.N() >> 8), a.tag}
		return &entry.CreateTopic{Name: fmt.Sprintf("%s-%d", name, a.st.N()), ID: id, Partitions: 1}
	})
}

// seal writes a range of n entries with an op each.
func (a *author) seal(n int, op func() entry.Op) {
	a.t.Helper()
	r := &archiveRange{identity: a.id, before: a.st.ChainHash()}
	if len(a.keys) > 0 {
		r.previous = a.keys[len(a.keys)-1]
	}
	for range n {
		a.seq++
		e := entry.Entry{Format: 1, Incarnation: [16]byte{1}, Seq: a.seq, ClockMs: 1000}
		if a.st.N() == 0 {
			e.Ops = append(e.Ops, &entry.Join{Name: "a", MaxFeatureLevel: 1})
		}
		e.Ops = append(e.Ops, op())
		value := e.AppendTo(nil)
		r.entries = append(r.entries, log.Entry{N: a.st.N() + 1, Key: log.Key{Incarnation: [16]byte{1}, Seq: a.seq}, Value: value})
		if err := a.st.Apply(a.st.N()+1, value, &e, nil); err != nil {
			a.t.Fatal(err)
		}
	}
	r.after = a.st.ChainHash()
	a.put(archiveKey(a.id.Epoch, r.first(), r.last(), log.Incarnation{a.tag}), r.encode())
	a.keys = append(a.keys, archiveKey(a.id.Epoch, r.first(), r.last(), log.Incarnation{a.tag}))
}

func (a *author) put(key string, body []byte) {
	a.t.Helper()
	if err := a.bucket.Put(a.t.Context(), key, body, objstore.PutOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *author) snapshot() string {
	key := snapshotKey(a.id.Epoch, a.st.N(), log.Incarnation{a.tag})
	a.put(key, a.st.AppendSnapshot(nil))
	return key
}

func (a *author) damage(key string) {
	a.t.Helper()
	body, err := a.bucket.Get(a.t.Context(), key)
	if err != nil {
		a.t.Fatal(err)
	}
	body[len(body)/2] ^= 4
	a.put(key, body)
}

func (a *author) remove(key string) {
	a.t.Helper()
	if err := a.bucket.Delete(a.t.Context(), key); err != nil {
		a.t.Fatal(err)
	}
}

// restore tries, and says where a restore would begin.
func (a *author) restore(opts RestoreOptions) (*RestoreReport, error) {
	a.t.Helper()
	s := memlog.NewStore(memlog.Config{Empty: true})
	defer func() { _ = s.Close() }()
	l := s.Open("restore")
	defer func() { _ = l.Close() }()
	opts.DryRun = true
	r, err := Restore(a.t.Context(), l, a.bucket, opts)
	if st, standErr := l.Standing(context.Background()); standErr != nil || st.Keys != 0 {
		a.t.Errorf("a dry run left %+v, %v", st, standErr)
	}
	return r, err
}

// gives asserts that the bucket gives the author's state.
func (a *author) gives(opts RestoreOptions) *RestoreReport {
	a.t.Helper()
	r, err := a.restore(opts)
	hash := a.st.ChainHash()
	if err != nil || r.BaseN != a.st.N() || r.ChainHash != fmt.Sprintf("%x", hash) {
		a.t.Fatalf("%v: base n=%d, hash %s; want n=%d, %x\n%s", err, r.BaseN, r.ChainHash, a.st.N(), hash, strings.Join(r.Lines(), "\n"))
	}
	return r
}

// refuses asserts that a restore names what is wrong, and that accepting the damage gives n.
func (a *author) refuses(n uint64, names ...string) {
	a.t.Helper()
	r, err := a.restore(RestoreOptions{})
	if !errors.Is(err, ErrDamaged) {
		a.t.Fatalf("not refused: %v\n%s", err, strings.Join(r.Lines(), "\n"))
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			a.t.Errorf("%q does not name %s", err, name)
		}
	}
	r, err = a.restore(RestoreOptions{AcceptDamage: true})
	if err != nil || r.BaseN != n || len(r.Damage) == 0 {
		a.t.Errorf("accepted: %v, n=%d, want %d; %v", err, r.BaseN, n, r.Damage)
	}
}

func TestHistoryIsFoundWithoutCells(t *testing.T) {
	t.Run("nothing archived", func(t *testing.T) {
		newAuthor(t).gives(RestoreOptions{})
	})
	t.Run("ranges", func(t *testing.T) {
		a := newAuthor(t)
		for range 30 {
			a.write(7, "t")
		}
		if r := a.gives(RestoreOptions{}); r.Ranges != 30 || r.Entries != 210 || r.From != "" || r.Epoch != 2 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("the newest snapshot and what follows", func(t *testing.T) {
		a := newAuthor(t)
		a.write(5, "t")
		a.snapshot()
		a.write(5, "t")
		newest := a.snapshot()
		a.write(5, "t")
		if r := a.gives(RestoreOptions{}); r.From != newest || r.Entries != 5 {
			t.Errorf("%+v", r)
		}
		if r := a.gives(RestoreOptions{FromStart: true}); r.From != "" || r.Entries != 15 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a snapshot at the end", func(t *testing.T) {
		a := newAuthor(t)
		a.write(5, "t")
		key := a.snapshot()
		if r := a.gives(RestoreOptions{}); r.From != key || r.Entries != 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("strange objects are left alone", func(t *testing.T) {
		a := newAuthor(t)
		a.write(5, "t")
		a.put("metastore/archive/notes.txt", []byte("x"))
		a.put("metastore/snapshot/"+strings.Repeat("0", 16)+"/x", []byte("x"))
		if r := a.gives(RestoreOptions{}); len(r.Notes) < 2 {
			t.Errorf("notes %v", r.Notes)
		}
	})
}

// Archivers that lost a race leave ranges that overlap, with the same entries: any of them will do.
func TestHistoryOfTwoArchivers(t *testing.T) {
	a := newAuthor(t)
	a.write(10, "t")
	loser := a.fork(2)
	loser.tag = 1 // the same entries
	write := func(a *author, n int, writer byte) {
		a.write(n, "t")
		last := len(a.keys) - 1
		body, err := a.bucket.Get(t.Context(), a.keys[last])
		if err != nil {
			t.Fatal(err)
		}
		a.remove(a.keys[last])
		a.keys[last] = strings.TrimSuffix(a.keys[last], log.Incarnation{1}.String()) + log.Incarnation{writer}.String()
		a.put(a.keys[last], body)
	}
	write(loser, 25, 2) // 11 to 35, and the cell went to the other
	write(a, 8, 3)      // 11 to 18
	write(a, 9, 3)      // 19 to 27
	write(a, 20, 3)     // 28 to 47: overlaps the loser's end
	a.gives(RestoreOptions{})

	t.Run("either may be damaged", func(t *testing.T) {
		for _, key := range slices.Concat(a.keys[1:3], loser.keys[1:]) {
			body, err := a.bucket.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			a.damage(key)
			if r := a.gives(RestoreOptions{}); !strings.Contains(strings.Join(r.Notes, "\n"), key) {
				t.Errorf("%s is damaged, and the notes say %v", key, r.Notes)
			}
			a.put(key, body)
		}
	})
	t.Run("not both", func(t *testing.T) {
		a.damage(loser.keys[1])
		a.remove(a.keys[2])
		a.refuses(18, loser.keys[1])
	})
}

func TestDamagedHistoryIsNamed(t *testing.T) {
	write := func(t *testing.T) *author {
		a := newAuthor(t)
		for range 6 {
			a.write(10, "t")
		}
		return a
	}
	t.Run("a range in the middle", func(t *testing.T) {
		a := write(t)
		a.damage(a.keys[2])
		a.refuses(20, a.keys[2])
	})
	t.Run("the last range", func(t *testing.T) {
		a := write(t)
		a.damage(a.keys[5])
		a.refuses(50, a.keys[5])
	})
	t.Run("a range is missing", func(t *testing.T) {
		a := write(t)
		a.remove(a.keys[3])
		a.refuses(30, "n=31 to 40", a.keys[4])
	})
	t.Run("the first range is missing", func(t *testing.T) {
		a := write(t)
		a.remove(a.keys[0])
		a.refuses(0, a.keys[1])
	})
	t.Run("before a snapshot nothing is needed", func(t *testing.T) {
		a := write(t)
		a.snapshot()
		a.write(3, "t")
		a.damage(a.keys[2])
		a.remove(a.keys[0])
		a.gives(RestoreOptions{})
	})
	t.Run("the newest snapshot", func(t *testing.T) {
		a := write(t)
		older := a.snapshot()
		a.write(3, "t")
		newest := a.snapshot()
		a.write(3, "t")
		a.damage(newest)
		if r := a.gives(RestoreOptions{}); r.From != older || !strings.Contains(strings.Join(r.Notes, "\n"), newest) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a snapshot of another history", func(t *testing.T) {
		a := write(t)
		wrong := a.fork(9)
		wrong.write(2, "wrong")
		a.remove(wrong.keys[6])
		a.write(2, "t")
		key := wrong.snapshot()
		a.write(5, "t")
		if r := a.gives(RestoreOptions{}); !strings.Contains(strings.Join(r.Notes, "\n"), key) {
			t.Errorf("notes %v", r.Notes)
		}
	})
	t.Run("all snapshots and the archive's start", func(t *testing.T) {
		a := write(t)
		a.damage(a.snapshot())
		a.remove(a.keys[0])
		a.refuses(0, a.keys[1])
	})
	t.Run("two histories", func(t *testing.T) {
		a := write(t)
		other := a.fork(9)
		other.write(4, "other")
		a.write(6, "t")
		r, err := a.restore(RestoreOptions{})
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), other.keys[6]) {
			t.Fatalf("not refused: %v\n%s", err, strings.Join(r.Lines(), "\n"))
		}
		a.gives(RestoreOptions{Head: a.keys[6]})
		other.gives(RestoreOptions{Head: other.keys[6]})
		if _, err := a.restore(RestoreOptions{Head: "metastore/archive/none"}); !errors.Is(err, ErrDamaged) {
			t.Errorf("a head that is not there: %v", err)
		}
	})
	t.Run("no marker", func(t *testing.T) {
		a := write(t)
		a.remove(MarkerKey)
		if _, err := a.restore(RestoreOptions{}); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), MarkerKey) {
			t.Error(err)
		}
	})
	t.Run("a newer archive", func(t *testing.T) {
		a := write(t)
		body, err := a.bucket.Get(t.Context(), a.keys[3])
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.Clone(body)
		body[9]++
		a.put(a.keys[3], body)
		if _, err := a.restore(RestoreOptions{AcceptDamage: true}); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), a.keys[3]) {
			t.Error(err)
		}
	})
}

// What agents of a log that was given up still archive does not count.
func TestHistoryOfALogThatWasGivenUp(t *testing.T) {
	a := newAuthor(t)
	a.write(10, "t")
	old := a.fork(9)
	s := memlog.NewStore(memlog.Config{Empty: true})
	defer func() { _ = s.Close() }()
	l := s.Open("restore")
	defer func() { _ = l.Close() }()
	if r, err := Restore(t.Context(), l, a.bucket, RestoreOptions{EtcdIsLost: true}); err != nil || r.BaseN != 10 {
		t.Fatal(err, r)
	}
	old.write(50, "late")
	old.snapshot()
	r, err := a.restore(RestoreOptions{})
	if err != nil || r.BaseN != 10 || r.Epoch != 3 || len(r.Damage) > 0 {
		t.Fatalf("%v\n%s", err, strings.Join(r.Lines(), "\n"))
	}
}

func TestParseHistoryKey(t *testing.T) {
	writer := log.Incarnation{1, 2, 3}
	for _, key := range []string{archiveKey(3, 5, 9, writer), snapshotKey(1<<60, 77, writer)} {
		if o, ok := parseHistoryKey(key); !ok || o.key != key || o.epoch == 0 || o.last < o.first {
			t.Errorf("%s: %+v, %v", key, o, ok)
		}
		for i := range key {
			for _, wrong := range []string{key[:i], key[:i] + "/" + key[i:], key[:i] + "G" + key[i+1:], key[:i] + "-" + key[i+1:]} {
				if _, ok := parseHistoryKey(wrong); ok && wrong != key {
					t.Errorf("%s is taken", wrong)
				}
			}
		}
	}
	if _, ok := parseHistoryKey(archiveKey(1, 9, 5, writer)); ok {
		t.Error("a range that ends before it starts")
	}
}

package metastore_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// mark names a batch by where it was uploaded to.
type mark struct {
	object   entry.ObjectID
	block    uint32
	position uint64
}

// given is a batch that was acknowledged.
type given struct {
	topic     entry.UUID
	partition int
	end       int64 // offset behind it
}

// wholeBlock is one block of a merged object.
type wholeBlock struct {
	object entry.ObjectID
	block  uint32
}

// lives is a cluster under a random life: uploads whose ops come late or never, merges, deletions, collection, archiving now and then.
type lives struct {
	*cluster
	rng    *rand.Rand
	topics []entry.UUID
	agents []*livingAgent
	ids    int64
	seqs   map[string]int32 // next sequence by producer and partition

	sizes  map[mark]uint64       // of every batch uploaded
	where  map[mark]given        // topic and partition of every batch uploaded
	acked  map[mark]given        // of what was acknowledged
	merged map[wholeBlock][]mark // what a merged block holds
}

const livingParts = 2

// livingAgent produces and compacts.
type livingAgent struct {
	name string
	cl   *metastore.Client
	up   *uploader
	comp *compactor
	late []*entry.Append // uploaded, not proposed yet, in order
	// producer is one of two that send to this agent, for as long as it runs: what one sends again is the same batch.
	producer int64
}

func (l *lives) open(name string) *livingAgent {
	l.t.Helper()
	tune := quiet
	if name == "a" {
		tune = func(*metastore.Config) {}
	}
	cl := l.cluster.open(name, tune)
	l.ids += 2
	return &livingAgent{name: name, cl: cl, producer: l.ids, up: &uploader{c: l.cluster, cl: cl}, comp: &compactor{c: l.cluster, cl: cl}}
}

// upload uploads a segment; its ops wait.
func (l *lives) upload(a *livingAgent) {
	var pieces []piece
	for range 1 + l.rng.IntN(5) {
		topic, p := l.topics[l.rng.IntN(len(l.topics))], int32(l.rng.IntN(livingParts))
		records := uint64(1 + l.rng.IntN(3))
		if l.rng.IntN(2) == 0 {
			pieces = append(pieces, plainPiece(topic, p, records))
			continue
		}
		id := a.producer + int64(l.rng.IntN(2))
		key := fmt.Sprint(id, topic, p)
		pieces = append(pieces, sentPiece(topic, p, records, id, l.seqs[key]))
		l.seqs[key] += int32(records)
	}
	ops := a.up.upload(1+l.rng.IntN(3), pieces...)
	for _, op := range ops {
		for i := range op.Blocks {
			b := &op.Blocks[i]
			at := b.FirstPosition
			for _, size := range b.Sizes {
				m := mark{op.Object, b.Index, at}
				l.sizes[m], l.where[m] = size, given{topic: b.Topic, partition: int(b.Partition)}
				at += size
			}
		}
	}
	a.late = append(a.late, ops...)
}

// commit proposes up to n of the ops that wait.
func (l *lives) commit(a *livingAgent, n int) {
	for range min(n, len(a.late)) {
		op := a.late[0]
		a.late = a.late[1:]
		results := l.propose(a.cl, op).Batches
		for i := range op.Blocks {
			b := &op.Blocks[i]
			at := b.FirstPosition
			for j, size := range b.Sizes {
				if r := results[0]; r.Code == state.OK {
					l.acked[mark{op.Object, b.Index, at}] = given{b.Topic, int(b.Partition), r.BaseOffset + int64(b.Spans[j])}
				}
				results = results[1:]
				at += size
			}
		}
	}
}

// holds lists the batches of a row.
func (l *lives) holds(r state.Row) (marks []mark) {
	if r.Object.Merged() {
		return l.merged[wholeBlock{r.Object, r.Block}]
	}
	for at := uint64(r.Position); at < uint64(r.Position+r.Size); {
		m := mark{r.Object, r.Block, at}
		if l.sizes[m] == 0 {
			l.t.Fatalf("row %+v names bytes that are no batch", r)
		}
		marks = append(marks, m)
		at += l.sizes[m]
	}
	return marks
}

// merge rewrites some rows of a topic.
func (l *lives) merge(a *livingAgent) {
	topic := l.topics[l.rng.IntN(len(l.topics))]
	var parts []entry.RewrittenPart
	var content [][]mark
	for p := range livingParts {
		var rows []state.Row
		a.cl.View(func(st *state.State) { rows = st.TopicByID(topic).Partition(p).Rows(0, 1<<20, nil) })
		if len(rows) == 0 || l.rng.IntN(4) == 0 {
			continue
		}
		from := l.rng.IntN(len(rows))
		if l.rng.IntN(2) == 0 {
			from = 0
		}
		rows = rows[from : from+1+l.rng.IntN(len(rows)-from)]
		first, last := rows[0], rows[len(rows)-1]
		var marks []mark
		for _, r := range rows {
			marks = append(marks, l.holds(r)...)
		}
		parts = append(parts, entry.RewrittenPart{
			Partition: uint32(p), Start: first.Base, End: last.End, Rows: uint32(len(rows)), Digest: state.RowsDigest(rows),
			Replacement: []entry.RewrittenRow{{Block: uint32(len(parts)), Base: first.Base, End: last.End, MaxTimestamp: 1000, Size: 10}},
		})
		content = append(content, marks)
	}
	if len(parts) == 0 {
		return
	}
	into := a.comp.object(topic)
	for i, marks := range content {
		l.merged[wholeBlock{into, uint32(i)}] = marks
	}
	r := l.propose(a.cl, &entry.Rewrite{Topic: topic, Objects: []entry.RewrittenObject{{ID: into, Size: 6}}, Parts: parts})
	if r.Code != state.OK || slices.ContainsFunc(r.Parts, func(c state.Code) bool { return c != state.OK }) {
		l.t.Fatalf("rewrite: %v, %v", r.Code, r.Parts)
	}
}

// collect deletes what may be deleted, by the rules of compaction/gc.
func (l *lives) collect(a *livingAgent) {
	archived, err := a.cl.ArchivedThrough(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	var gone []entry.ObjectID
	for _, prefix := range []string{entry.DataPrefix, entry.TopicsPrefix} {
		for after := ""; ; {
			infos, err := l.bucket.List(l.t.Context(), prefix, after, 1000)
			if err != nil {
				l.t.Fatal(err)
			}
			if len(infos) == 0 {
				break
			}
			a.cl.View(func(st *state.State) {
				retired := make(map[entry.ObjectID]uint64)
				for _, r := range st.Retired() {
					retired[r.Object] = r.N
				}
				for _, info := range infos {
					after = info.Key
					id, err := entry.ParseObjectKey(after)
					if err != nil {
						l.t.Fatal(err)
					}
					n, known := retired[id]
					switch {
					case st.Named(id) || id.CollectionEpoch+2 > st.CollectionEpoch():
					case known && n <= archived, !known && st.N() <= archived: // what is seen now is in the archive
						gone = append(gone, id)
					}
				}
			})
		}
	}
	a.comp.collect(gone...)
}

// step does one thing.
func (l *lives) step() {
	a := l.agents[l.rng.IntN(len(l.agents))]
	if err := a.cl.Barrier(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	switch k := l.rng.IntN(40); {
	case k < 12:
		l.upload(a)
		l.commit(a, l.rng.IntN(4))
	case k < 18:
		l.commit(a, 1+l.rng.IntN(5))
	case k < 26:
		l.merge(a)
	case k < 29:
		topic, p := l.topics[l.rng.IntN(len(l.topics))], l.rng.IntN(livingParts)
		var start, next int64
		a.cl.View(func(st *state.State) {
			start, next = st.TopicByID(topic).Partition(p).LogStart(), st.TopicByID(topic).Partition(p).Next()
		})
		l.propose(a.cl, &entry.DeleteRecords{Topic: topic, Partition: uint32(p), BeforeOffset: start + l.rng.Int64N(next-start+1)/2})
	case k < 31:
		a.comp.bump(1)
	case k < 33:
		l.archived()
	case k < 35:
		time.Sleep(10 * time.Second) // a archives
	case k < 36:
		time.Sleep(time.Duration(1+l.rng.IntN(15)) * time.Minute)
	case k < 39:
		l.collect(a)
	default: // it restarts; what it had not proposed nobody ever will
		if a.name == "b" {
			l.close(a.cl)
			*a = *l.open("b")
		}
	}
}

// check holds the restored cluster against what was acknowledged.
func (l *lives) check(cl *metastore.Client, starts map[string]int64, report string) {
	l.t.Helper()
	seen := make(map[mark]int)
	cl.View(func(st *state.State) {
		for _, topic := range l.topics {
			for p := range livingParts {
				for _, r := range st.TopicByID(topic).Partition(p).Rows(0, 1<<20, nil) {
					if _, err := l.bucket.Head(l.t.Context(), r.Object.Key()); err != nil {
						l.t.Errorf("row %d-%d of %s: %v", r.Base, r.End, r.Object, err)
					}
					for _, m := range l.holds(r) {
						seen[m]++
						if w := l.where[m]; w.topic != topic || w.partition != p {
							l.t.Errorf("%+v is in another partition", m)
						}
					}
				}
			}
		}
	})
	bad := 0
	for m, n := range seen {
		if n > 1 {
			l.t.Errorf("%s block %d position %d is there %d times", m.object, m.block, m.position, n)
			bad++
		}
	}
	for m, g := range l.acked {
		if seen[m] == 0 && g.end > starts[fmt.Sprint(g.topic, g.partition)] {
			l.t.Errorf("%s block %d position %d, which ended at offset %d, is lost", m.object, m.block, m.position, g.end)
			bad++
		}
	}
	if bad > 0 {
		l.t.Log("\n" + report)
	}
}

// TestRestoreOfRandomLives loses etcd at the end of random lives, some of them twice over: every acknowledged batch is there once after it,
// in an object that is there, be it in what agents uploaded or in what compaction made of that.
func TestRestoreOfRandomLives(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, 1000+10*seed, func(t *testing.T, c *cluster) {
				defer func() { _ = c.store.Close() }()
				l := &lives{
					cluster: c, rng: rand.New(rand.NewPCG(seed, 3)), seqs: make(map[string]int32), sizes: make(map[mark]uint64), where: make(map[mark]given),
					acked: make(map[mark]given), merged: make(map[wholeBlock][]mark),
				}
				l.agents = []*livingAgent{l.open("a"), l.open("b")}
				for _, name := range []string{"one", "two"} {
					op := topic(name)
					op.Partitions = livingParts
					l.propose(l.agents[0].cl, op)
					l.topics = append(l.topics, op.ID)
				}
				time.Sleep(10 * time.Second)
				for range 1 + l.rng.IntN(2) {
					for range 20 + l.rng.IntN(80) {
						l.step()
					}
					starts := make(map[string]int64)
					l.agents[0].cl.View(func(st *state.State) {
						for _, topic := range l.topics {
							for p := range livingParts {
								starts[fmt.Sprint(topic, p)] = st.TopicByID(topic).Partition(p).LogStart()
							}
						}
					})
					l.loseEtcd(l.agents[0].cl, l.agents[1].cl)
					r, err := l.restore(metastore.RestoreOptions{})
					if err != nil || r.MissingObjects != 0 {
						t.Fatalf("%v\n%s", err, strings.Join(r.Lines(), "\n"))
					}
					l.agents = []*livingAgent{l.open("a"), l.open("b")}
					l.check(l.agents[0].cl, starts, strings.Join(r.Lines(), "\n"))
					if t.Failed() {
						return
					}
					l.acked = make(map[mark]given) // offsets may be others now: what is there is acknowledged anew
					l.agents[0].cl.View(func(st *state.State) {
						for _, topic := range l.topics {
							for p := range livingParts {
								for _, row := range st.TopicByID(topic).Partition(p).Rows(0, 1<<20, nil) {
									for _, m := range l.holds(row) {
										l.acked[m] = given{topic, p, row.Base + 1} // at least
									}
								}
							}
						}
					})
				}
				l.close(l.agents[0].cl, l.agents[1].cl)
			})
		})
	}
}

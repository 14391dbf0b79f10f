package badinput_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

// second is what another agent of the cluster stands on; the zero value of each is what works.
type second struct {
	name   string
	log    log.Log
	bucket objstore.Bucket
	disk   wal.FS
	dir    *agent.DataDir // with disk wal.OS()
}

// join starts another agent in the cluster, which ends with the test. The first one must go on whatever becomes of it.
func (c *cluster) join(s second) (*agent.Agent, error) {
	c.t.Helper()
	kafka, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	if s.log == nil {
		way := c.store.Open(first(s.name, "a2"))
		c.t.Cleanup(func() { _ = way.Close() })
		s.log = way
	}
	if s.bucket == nil {
		s.bucket = c.inner
	}
	if s.disk == nil {
		s.disk = walfs.New(rand.New(rand.NewPCG(3, 3)))
	}
	parts := agent.Components{Log: s.log, Bucket: unclosed{s.bucket}, FS: s.disk, WALDir: "/wal", Dir: s.dir, Kafka: kafka,
		Logger: slog.New(slog.NewTextHandler(c.logs, nil))}
	if s.dir != nil {
		parts.WALDir = filepath.Join(s.dir.Path, "wal")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := agent.Start(ctx, agent.Config{Name: first(s.name, "a2"), Advertise: kafka.Addr().String(), WALBytes: 64 << 20, DrainTimeout: 10 * time.Second}, parts)
	if err != nil {
		_ = kafka.Close()
		return nil, err
	}
	c.t.Cleanup(func() { drain(a) })
	return a, nil
}

func drain(a *agent.Agent) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = a.Drain(ctx)
}

// names fails the test where a message lacks a word that an operator needs.
func names(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in: %v", w, err)
		}
	}
}

const walFile = "/wal/0000000000000001.wal"

// frames is a disk whose write-ahead log holds three durable frames, closed in order.
func frames(t *testing.T) *walfs.FS {
	t.Helper()
	disk := walfs.New(rand.New(rand.NewPCG(4, 4)))
	l, err := wal.Open(t.Context(), disk, wal.Options{Dir: "/wal", MaxBytes: 64 << 20, FileBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for i := range byte(3) {
		if _, err := l.Append(t.Context(), wal.Durable, []byte{i}, bytes.Repeat([]byte{i}, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return disk
}

// edit changes a file of the disk.
func edit(t *testing.T, disk *walfs.FS, name string, change func(b []byte) []byte) {
	t.Helper()
	b, err := disk.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	disk.WriteFile(name, change(b))
}

// content is every file of the log.
func content(t *testing.T, disk *walfs.FS) map[string]string {
	t.Helper()
	all := map[string]string{}
	list, err := disk.ReadDir("/wal")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		b, err := disk.ReadFile("/wal/" + name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(b)
	}
	return all
}

// A damaged write-ahead log stops the start of its agent, which names file, position and what to do, and changes nothing.
func TestDamagedWALStopsTheStart(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	flip := func(at int) func([]byte) []byte { return func(b []byte) []byte { b[at] ^= 1; return b } }
	for name, tt := range map[string]struct {
		damage func(t *testing.T, disk *walfs.FS)
		words  []string
	}{
		"before the tail": {
			func(t *testing.T, d *walfs.FS) { edit(t, d, walFile, flip(4096+40)) },
			[]string{"0000000000000001.wal", "position 4096", "synced", "firn inspect wal /wal", "move the directory away"},
		},
		"header": {
			func(t *testing.T, d *walfs.FS) { edit(t, d, walFile, flip(40)) },
			[]string{"0000000000000001.wal", "position 64", "checksum", "firn inspect wal /wal"},
		},
		"newer version": {
			func(t *testing.T, d *walfs.FS) { edit(t, d, walFile, flip(8)) },
			[]string{"0000000000000001.wal", "version", "run the newer firn"},
		},
		"a file of another log": {
			func(t *testing.T, d *walfs.FS) {
				other := walfs.New(rand.New(rand.NewPCG(5, 5)))
				l, err := wal.Open(t.Context(), other, wal.Options{Dir: "/wal", MaxBytes: 64 << 20, FileBytes: 8 << 20})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				b, err := other.ReadFile(walFile)
				if err != nil {
					t.Fatal(err)
				}
				d.WriteFile(walFile, b)
			},
			[]string{"0000000000000001.wal", "belongs to", "firn inspect wal /wal"},
		},
		"no VOLUME": {
			func(t *testing.T, d *walfs.FS) {
				if err := d.Remove("/wal/VOLUME"); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"no file VOLUME", "firn inspect wal /wal"},
		},
		"damaged VOLUME": {
			func(t *testing.T, d *walfs.FS) { edit(t, d, "/wal/VOLUME", flip(30)) },
			[]string{"/wal/VOLUME", "identity or its checksum differs", "firn inspect wal /wal"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk := frames(t)
			tt.damage(t, disk)
			before := content(t, disk)
			_, err := c.join(second{disk: disk})
			names(t, err, tt.words...)
			after := content(t, disk)
			delete(after, "LOCK")
			delete(before, "LOCK")
			if len(before) != len(after) {
				t.Errorf("%d files before, %d after", len(before), len(after))
			}
			for name := range before {
				if before[name] != after[name] {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}
	b.check()
}

// A torn tail, which nobody was told is safe, is copied aside and cut off; the agent starts and says so.
func TestTornWALTailIsCut(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	disk := frames(t)
	edit(t, disk, walFile, func(b []byte) []byte {
		info, err := wal.InspectFile(t.Context(), walFile, bytes.NewReader(b), int64(len(b)), nil)
		if err != nil || info.Err != nil {
			t.Fatal(err, info.Err)
		}
		copy(b[info.End:], bytes.Repeat([]byte("torn"), 9))
		return b
	})
	a, err := c.join(second{disk: disk})
	if err != nil {
		t.Fatal(err)
	}
	if said := c.logs.with("torn tail", "0000000000000001.wal", "position=", ".broken"); len(said) != 1 {
		t.Errorf("the agent said %q", said)
	}
	broken := 0
	for name, body := range content(t, disk) {
		if strings.HasSuffix(name, ".broken") {
			broken++
			if body != strings.Repeat("torn", 9) {
				t.Errorf("%s holds %q", name, body)
			}
		}
	}
	if broken != 1 || a.Err() != nil {
		t.Errorf("%d copies, %v", broken, a.Err())
	}
	b.check()
}

// Two agents on one directory, and an agent on the log of another, are refused.
func TestWALOfAnotherAgent(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	if _, err := c.join(second{disk: c.disk}); !errors.Is(err, wal.ErrLocked) {
		t.Error(err)
	} else {
		names(t, err, "/wal", "another agent is at work", "--data-dir")
	}
	root := t.TempDir()
	dirOf := func(name string) *agent.DataDir {
		d, err := agent.OpenDataDir(filepath.Join(root, name), name)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, name := range []string{"x", "y"} {
		a, err := c.join(second{name: name, disk: wal.OS(), dir: dirOf(name)})
		if err != nil {
			t.Fatal(err)
		}
		drain(a)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(root, "x", "wal")), os.Rename(filepath.Join(root, "y", "wal"), filepath.Join(root, "x", "wal"))); err != nil {
		t.Fatal(err)
	}
	_, err := c.join(second{name: "x", disk: wal.OS(), dir: dirOf("x")})
	names(t, err, filepath.Join(root, "x"), "of another agent", "move this one away")
	if err := os.RemoveAll(filepath.Join(root, "x", "wal")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.join(second{name: "x", disk: wal.OS(), dir: dirOf("x")}); err != nil { // as the message said
		t.Error(err)
	}
	b.check()
}

// spoiled is a bucket with objects that are not what was put.
type spoiled struct {
	objstore.Bucket
	prefix string
	spoil  func(key string, body []byte) ([]byte, error)
}

func (s spoiled) Get(ctx context.Context, key string) ([]byte, error) {
	body, err := s.Bucket.Get(ctx, key)
	if err == nil && strings.HasPrefix(key, s.prefix) {
		return s.spoil(key, body)
	}
	return body, err
}

// pointing is a metastore log whose snapshot pointer is not what was swapped in.
type pointing struct {
	log.Log
	change func(p map[string]any) map[string]any // nil: there is no pointer
}

func (p pointing) Load(ctx context.Context, name string) (log.Cell, error) {
	cell, err := p.Log.Load(ctx, name)
	if err != nil || name != "snapshot" || cell.Version == 0 {
		return cell, err
	}
	if p.change == nil {
		return log.Cell{}, nil
	}
	var v map[string]any
	if err := json.Unmarshal(cell.Value, &v); err != nil {
		return cell, err
	}
	cell.Value, err = json.Marshal(p.change(v))
	return cell, err
}

// often makes an agent archive, snapshot and trim all the time.
func often(c *metastore.Config) {
	c.SnapshotEntries, c.TrimMargin, c.ArchiveInterval = 5, 1, 20*time.Millisecond
}

// way opens a log of the cluster for the test itself.
func (c *cluster) look() log.Log {
	l := c.store.Open("look")
	c.t.Cleanup(func() { _ = l.Close() })
	return l
}

// snapshots waits until the log was trimmed behind a snapshot.
func (c *cluster) snapshots() {
	c.t.Helper()
	l := c.look()
	until(c.t, "a snapshot is made and the log trimmed", func() bool {
		cell, err := l.Load(context.Background(), "snapshot")
		var p struct{ N, Deleted uint64 }
		return err == nil && cell.Version > 0 && json.Unmarshal(cell.Value, &p) == nil && p.Deleted > 0
	})
}

func gone(string, []byte) ([]byte, error) { return nil, objstore.ErrNotFound }

// A damaged snapshot stops the start of the agent that reads it, which names the object and what to do. Agents that run do not
// read it and go on.
func TestDamagedSnapshotStopsTheStart(t *testing.T) {
	c := open(t, options{tune: often})
	b := c.bystander(false)
	c.snapshots()
	flip := func(part, of int) func(string, []byte) ([]byte, error) {
		return func(_ string, b []byte) ([]byte, error) {
			b = bytes.Clone(b)
			b[(len(b)-1)*part/of] ^= 0x20
			return b, nil
		}
	}
	words := []string{"metastore/snapshot/", "SHA-256", "firn inspect snapshot", "put it back"}
	type damage struct {
		name  string
		spoil func(string, []byte) ([]byte, error)
		words []string
	}
	all := []damage{
		{"cut", func(_ string, b []byte) ([]byte, error) { return b[:len(b)/2], nil }, words},
		{"empty", func(string, []byte) ([]byte, error) { return nil, nil }, words},
		{"missing", gone, []string{"metastore/snapshot/", "not found", "firn inspect snapshot"}},
	}
	for part := range 16 { // header, agents, objects, topics, rows, producers, checksum
		all = append(all, damage{fmt.Sprintf("flip %d of 15", part), flip(part, 15), words})
	}
	for _, tt := range all {
		_, err := c.join(second{bucket: spoiled{c.inner, "metastore/snapshot/", tt.spoil}})
		if err == nil {
			t.Errorf("%s: the agent starts", tt.name)
			continue
		}
		names(t, err, tt.words...)
	}
	// With a digest that fits: what the bytes themselves say counts.
	for _, tt := range []damage{
		{"newer version", func(_ string, b []byte) ([]byte, error) { b = bytes.Clone(b); b[8] = 99; return b, nil }, []string{"metastore/snapshot/", "99", "run a newer firn"}},
		{"of another cluster", func(string, []byte) ([]byte, error) {
			return state.New(state.Identity{ID: [16]byte{9}, Epoch: 1}).AppendSnapshot(nil), nil
		},
			[]string{"metastore/snapshot/", "another cluster's data", "0900000000000000"}},
		{"flip", flip(1, 2), []string{"metastore/snapshot/", "corrupt", "position", "firn inspect snapshot"}},
	} {
		spoil := tt.spoil
		pointer := pointing{c.look(), func(p map[string]any) map[string]any {
			body, err := c.inner.Get(context.Background(), p["object"].(string))
			if err == nil {
				body, _ = spoil("", body)
				sum := sha256.Sum256(body)
				p["sha256"] = hex.EncodeToString(sum[:])
			}
			return p
		}}
		_, err := c.join(second{log: pointer, bucket: spoiled{c.inner, "metastore/snapshot/", spoil}})
		if err == nil {
			t.Errorf("%s: the agent starts", tt.name)
			continue
		}
		names(t, err, tt.words...)
	}
	b.check()
}

// A snapshot of which there is no copy costs a restore from the start of the archive, as docs/operations.md says, and no record.
func TestLostSnapshotIsMadeAgainFromTheArchive(t *testing.T) {
	c := open(t, options{tune: often})
	b := c.bystander(true)
	c.snapshots()
	b.progress()
	b.end()
	acked := b.acked
	c.stop()
	infos, err := c.inner.List(t.Context(), "metastore/snapshot/", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos { // every one, so that no older one helps
		if err := c.inner.Put(t.Context(), i.Key, []byte("FIRNSNAP\x01 damaged"), objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	names(t, c.start(), "metastore/snapshot/", "docs/operations.md")

	old := c.store
	c.store = memlog.NewStore(memlog.Config{Empty: true})
	t.Cleanup(func() { _ = c.store.Close() })
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	founder, ok := log.FounderOf(c.look())
	if !ok {
		t.Fatal("no founder")
	}
	report, err := metastore.Restore(t.Context(), founder, c.inner, metastore.RestoreOptions{EtcdIsLost: true, FromStart: true})
	if err != nil {
		t.Fatalf("%v: %+v", err, report)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	values, err := c.read(bystanderTopic, 0, int(acked))
	if err != nil || int64(len(values)) < acked || values[acked-1] != fmt.Sprint(acked-1) {
		t.Errorf("%d records of %d, %v", len(values), acked, err)
	}
}

// An agent that needs the archive stops where an object of it is damaged or missing, and names it; `firn metastore verify` does too.
func TestDamagedArchiveStopsTheStart(t *testing.T) {
	c := open(t, options{tune: often})
	b := c.bystander(false)
	c.snapshots()
	var keys []string
	until(t, "there are four archive objects", func() bool {
		infos, err := c.inner.List(context.Background(), "metastore/archive/", "", 100)
		keys = keys[:0]
		for _, i := range infos {
			keys = append(keys, i.Key)
		}
		return err == nil && len(keys) >= 4
	})
	victim := keys[1] // in the middle of the chain
	for _, tt := range []struct {
		name  string
		spoil func(string, []byte) ([]byte, error)
		words []string
	}{
		{"flip in the header", func(_ string, b []byte) ([]byte, error) { b = bytes.Clone(b); b[60] ^= 1; return b, nil }, []string{"CRC32C", "position"}},
		{"flip in the entries", func(_ string, b []byte) ([]byte, error) { b = bytes.Clone(b); b[len(b)-9] ^= 1; return b, nil }, []string{"CRC32C", "position"}},
		{"cut", func(_ string, b []byte) ([]byte, error) { return b[:len(b)/2], nil }, []string{"position"}},
		{"missing link", gone, []string{"not found"}},
		{"newer version", func(_ string, b []byte) ([]byte, error) { b = bytes.Clone(b); b[9] = 7; return b, nil }, []string{"version 7"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad := spoiled{c.inner, victim, tt.spoil}
			_, err := c.join(second{log: pointing{c.look(), nil}, bucket: bad})
			names(t, err, append(tt.words, victim)...)
			if tt.name != "newer version" {
				names(t, err, "firn inspect archive", "put it back")
			}
			report, err := metastore.Verify(t.Context(), c.look(), bad)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(report.Problems, func(p string) bool { return strings.Contains(p, victim) }) {
				t.Errorf("verify reports %q", report.Problems)
			}
		})
	}
	b.check()
}

// `firn metastore verify` says what differs, with both sides; an outage of the bucket is an error and no damage.
func TestVerifyNamesWhatDiffers(t *testing.T) {
	c := open(t, options{tune: often})
	b := c.bystander(false)
	c.snapshots()
	// reseal changes a byte of an archive object and makes its checksum right again.
	reseal := func(at int) func(string, []byte) ([]byte, error) {
		return func(_ string, b []byte) ([]byte, error) {
			b = bytes.Clone(b)
			b[at] ^= 1
			body := b[:len(b)-4]
			return binary.BigEndian.AppendUint32(body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))), nil
		}
	}
	var victim string
	until(t, "there is an archive object", func() bool {
		infos, err := c.inner.List(context.Background(), "metastore/archive/", "", 100)
		if err != nil || len(infos) < 2 {
			return false
		}
		victim = infos[1].Key
		return true
	})
	for _, tt := range []struct {
		name   string
		bucket objstore.Bucket
		words  []string
	}{
		{"hash before", spoiled{c.inner, victim, reseal(50)}, []string{victim, "continues another history", "the objects before it give"}},
		{"hash after", spoiled{c.inner, victim, reseal(82)}, []string{victim, "records chain hash", "its entries give"}},
		{"snapshot", spoiled{c.inner, "metastore/snapshot/", gone}, []string{"metastore/snapshot/", "not found", "firn inspect snapshot"}},
	} {
		report, err := metastore.Verify(t.Context(), c.look(), tt.bucket)
		if err != nil || len(report.Problems) == 0 {
			t.Errorf("%s: %v, %+v", tt.name, err, report)
			continue
		}
		names(t, errors.New(report.Problems[0]), tt.words...)
	}
	for _, prefix := range []string{victim, "metastore/snapshot/"} {
		down := func(string, []byte) ([]byte, error) { return nil, objstore.ErrUnavailable }
		if report, err := metastore.Verify(t.Context(), c.look(), spoiled{c.inner, prefix, down}); !errors.Is(err, objstore.ErrUnavailable) {
			t.Errorf("an outage at %s: %v, %+v", prefix, err, report)
		}
	}
	b.check()
}

// An entry that cannot be decoded stops every agent before it, with a message; none skips it, and none starts again.
func TestEntryThatCannotBeDecoded(t *testing.T) {
	incarnation := log.Incarnation{7, 7, 7}
	head := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	head = protowire.AppendBytes(protowire.AppendTag(head, 3, protowire.BytesType), incarnation[:])
	head = protowire.AppendVarint(protowire.AppendTag(head, 4, protowire.VarintType), 1)
	op := protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), nil)
	for name, tt := range map[string]struct {
		value []byte
		words []string
		newer bool
	}{
		"garbage":      {[]byte("GET / HTTP/1.1\r\n"), []string{"corrupt entry", "firn inspect entry"}, false},
		"cut":          {head[:len(head)-4], []string{"corrupt entry", "firn inspect entry"}, false},
		"unknown op":   {protowire.AppendBytes(protowire.AppendTag(bytes.Clone(head), 8, protowire.BytesType), op), []string{"unknown op", "kind 99", "run a newer firn"}, true},
		"newer format": {[]byte{8, 9}, []string{"format 9", "run a newer firn"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, options{})
			b := c.bystander(true)
			l := c.look()
			identity, err := l.Identity(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Register(t.Context(), incarnation, nil, time.Minute); err != nil {
				t.Fatal(err)
			}
			b.progress()
			if outcome, err := l.Commit(t.Context(), identity, log.Key{Incarnation: incarnation, Seq: 1}, tt.value); err != nil || outcome != log.Committed {
				t.Fatal(outcome, err)
			}
			select {
			case <-c.agent.Failed():
			case <-time.After(patience):
				t.Fatal("the agent goes on")
			}
			stopped := c.agent.Err()
			names(t, stopped, append(tt.words, "entry n=")...)
			if errors.Is(stopped, metastore.ErrNewer) != tt.newer {
				t.Errorf("of a newer version: %v", stopped)
			}
			if said := c.logs.with("agent leaves service"); len(said) != 1 {
				t.Errorf("the agent said %q", said)
			}
			n := c.agent.Metastore().Applied() + 1
			names(t, stopped, fmt.Sprintf("entry n=%d ", n)) // everything before it was applied, and nothing else
			b.end()
			c.kill()
			names(t, c.start(), append(tt.words, fmt.Sprintf("entry n=%d ", n))...)
			if found, source, err := metastore.FindEntry(t.Context(), l, c.inner, n); err != nil || !bytes.Equal(found.Value, tt.value) || source == "" {
				t.Errorf("firn inspect entry finds %q in %q, %v", found.Value, source, err)
			}
		})
	}
}

// read consumes a partition from offset on until it has n records or an error.
func (c *cluster) read(topic string, offset int64, n int) (values []string, err error) {
	c.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.kafka), kgo.KeepRetryableFetchErrors(), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(offset)}}))
	if err != nil {
		c.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(values) < n {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return values, err
		}
		for _, r := range fetches.Records() {
			values = append(values, string(r.Value))
		}
	}
	return values, nil
}

// Damage in an object costs the records that it hits, and no others: those in sound chunks of the same object are served.
func TestDamagedSegment(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil             func(b []byte, victim segment.Chunk) []byte // nil: the object is deleted
		victim, neighbour error
		logged            []string
	}{
		"chunk": {
			spoil:  func(b []byte, v segment.Chunk) []byte { b[v.Position+v.StoredSize/2] ^= 1; return b },
			victim: kerr.CorruptMessage, logged: []string{"records cannot be read", "victim", "chunk at position"},
		},
		"header": {
			spoil:  func(b []byte, _ segment.Chunk) []byte { b[0] ^= 1; return b },
			logged: []string{"header of a segment is damaged"},
		},
		"footer": {
			spoil:  func(b []byte, _ segment.Chunk) []byte { b[len(b)-segment.TrailerSize-5] ^= 1; return b },
			victim: kerr.CorruptMessage, neighbour: kerr.CorruptMessage, logged: []string{"records cannot be read", "footer", "CRC32C"},
		},
		"trailer": {
			spoil:  func(b []byte, _ segment.Chunk) []byte { b[len(b)-30] ^= 1; return b },
			victim: kerr.CorruptMessage, neighbour: kerr.CorruptMessage, logged: []string{"records cannot be read", "trailer"},
		},
		"cut": {
			spoil:  func(b []byte, _ segment.Chunk) []byte { return b[:len(b)-1] },
			victim: kerr.CorruptMessage, neighbour: kerr.CorruptMessage, logged: []string{"records cannot be read"},
		},
		"missing": {victim: kerr.KafkaStorageError, neighbour: kerr.KafkaStorageError, logged: []string{"records cannot be read", "not found"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, options{})
			c.create("victim", 1, nil)
			c.create("neighbour", 1, nil)
			cl := c.client()
			produce := func(values ...string) { // one request: one object
				t.Helper()
				var records []sent
				for _, v := range values {
					records = append(records, sent{nowMs(), nil, v})
				}
				raw := built(t, batch.CodecNone, records...)
				for topic, code := range c.produceAll(cl, map[string][]byte{"victim": raw, "neighbour": raw}, patience) {
					if code != 0 {
						t.Fatalf("produce to %s: code %d", topic, code)
					}
				}
			}
			produce("0", "1", "2")
			produce("3", "4")
			key, chunk := c.firstObject("victim", "neighbour")
			c.kill() // and with it its cache
			if err := c.start(); err != nil {
				t.Fatal(err)
			}
			b := c.bystander(false)
			if tt.spoil == nil {
				if err := c.inner.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			} else {
				body, err := c.inner.Get(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.inner.Put(t.Context(), key, tt.spoil(body, chunk), objstore.PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			for topic, want := range map[string]error{"victim": tt.victim, "neighbour": tt.neighbour} {
				values, err := c.read(topic, 0, 5)
				if !errors.Is(err, want) || want != nil && len(values) > 0 || want == nil && fmt.Sprint(values) != "[0 1 2 3 4]" {
					t.Errorf("%s from the start: %q, %v; want %v", topic, values, err, want)
				}
				if values, err := c.read(topic, 3, 2); err != nil || fmt.Sprint(values) != "[3 4]" {
					t.Errorf("%s after the damage: %q, %v", topic, values, err)
				}
			}
			if said := c.logs.with(append(tt.logged, key)...); len(said) == 0 || len(said) > 4 {
				t.Errorf("the agent said %q", said)
			}
			b.check()
		})
	}
}

// firstObject finds the object with the first records of two topics, and the chunk of the first one's.
func (c *cluster) firstObject(victim, neighbour string) (key string, chunk segment.Chunk) {
	c.t.Helper()
	find := func(topic string) (row state.Row, id [16]byte) {
		c.agent.Metastore().View(func(st *state.State) {
			t := st.TopicByName(topic)
			row, id = t.Partition(0).Rows(0, 1, nil)[0], t.ID
		})
		return row, id
	}
	row, id := find(victim)
	if other, _ := find(neighbour); other.Object != row.Object {
		c.t.Fatalf("%s and %s do not share an object", victim, neighbour)
	}
	body, err := c.inner.Get(context.Background(), row.Object.Key())
	if err != nil {
		c.t.Fatal(err)
	}
	f, err := segment.Open(body)
	if err != nil {
		c.t.Fatal(err)
	}
	block, ok := f.Find(id, 0)
	if !ok {
		c.t.Fatal("no block")
	}
	return row.Object.Key(), block.Chunks[0]
}

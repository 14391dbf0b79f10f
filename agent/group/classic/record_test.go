package classic_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/record"
)

var rewrite = flag.Bool("rewrite", false, "write golden records anew")

func one(id string, record []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) { yield(id, record) }
}

// Records as this version writes them, kept for ever.
func TestGoldenRecords(t *testing.T) {
	w := newWorld(t)
	s := w.static("s")
	s.req.Protocols = append(s.req.Protocols, classic.Protocol{Name: "sticky", Metadata: []byte{1, 2, 3}})
	w.form(s)
	for name, got := range map[string][]byte{"group.v1.hex": w.record, "member.v1.hex": w.members[s.id]} {
		path := filepath.Join("testdata", name)
		if *rewrite {
			if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x", name, got)
		}
	}
	group, member := golden(t, "group.v1.hex"), golden(t, "member.v1.hex")
	g, err := classic.Load("g", w.cfg, 1, group, true, one("s-1", member), w.now)
	if err != nil {
		t.Fatal(err)
	}
	d := g.Describe()
	m := d.Members[0]
	if d.State != classic.Stable || d.ProtocolType != "consumer" || d.Protocol != "range" || d.Leader != "s-1" || m.InstanceID != "instance-s" ||
		m.ClientID != "s" || m.Host != "/127.0.0.1" || m.SessionTimeout != 10*time.Second || m.RebalanceTimeout != time.Minute ||
		string(m.Metadata) != "meta-s" || len(m.Protocols) != 2 || string(m.Assignment) != "s-1@1" {
		t.Errorf("%+v", d)
	}
}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordsOfANewerVersion(t *testing.T) {
	w := newWorld(t)
	group, member := golden(t, "group.v1.hex"), golden(t, "member.v1.hex")
	for _, part := range [][]byte{group, member} {
		part[0] = 2
		if _, err := classic.Load("g", w.cfg, 1, group, true, one("s-1", member), w.now); !errors.Is(err, record.ErrVersion) {
			t.Errorf("%v", err)
		}
		part[0] = 0
		if _, err := classic.Load("g", w.cfg, 1, group, true, one("s-1", member), w.now); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%v", err)
		}
		part[0] = 1
	}
}

// Any bytes make a group or an error, in memory that is in proportion; a group that is made goes on.
func FuzzRecords(f *testing.F) {
	f.Add(golden(f, "group.v1.hex"), golden(f, "member.v1.hex"), true)
	f.Add([]byte{1, 2, 0, 0, 0}, []byte{1, 0, 0, 0, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, group, member []byte, complete bool) {
		w := newWorld(t)
		g, err := classic.Load("g", w.cfg, 1, group, complete, one("m", member), w.now)
		if err != nil {
			if !errors.Is(err, record.ErrCorrupt) && !errors.Is(err, record.ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		w.g, w.exists, w.generation, w.record = g, true, 1, group
		w.members["m"] = member
		for range 100 {
			if g.Deadline().IsZero() {
				break
			}
			w.now = g.Deadline()
			eff := g.Tick(w.now)
			if eff.Write != nil && len(eff.Write.Removes) > 0 {
				return
			}
		}
	})
}

package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/firnlog/firn/agent"
)

func TestDataDirKeepsTheAgentsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "data")
	first, err := agent.OpenDataDir(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if first.Agent == "" {
		t.Fatal("no name was made")
	}
	second, err := agent.OpenDataDir(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if second.Agent != first.Agent {
		t.Fatalf("name changed from %q to %q", first.Agent, second.Agent)
	}
}

func TestDataDirRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, content, agent, want string
	}{
		{"newer format", `{"format":99,"agent":"a"}`, "", "newer firn"},
		{"not ours", `hello`, "", "not firn's"},
		{"empty", "", "", "damaged"},
		{"cut", `{"format":1,"ag`, "", "damaged"},
		{"null", `null`, "", "names no format"},
		{"no agent", `{"format":1}`, "", "names no format or no agent"},
		{"no format", `{"agent":"a"}`, "", "names no format"},
		{"a format below any", `{"format":-1,"agent":"a"}`, "", "names no format"},
		{"of the wrong kind", `{"format":"1","agent":"a"}`, "", "damaged"},
		{"another agent's", `{"format":1,"agent":"a"}`, "b", `belongs to agent "a"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "firn.json"), []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := agent.OpenDataDir(dir, tt.agent)
			if !errors.Is(err, agent.ErrDataDir) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want one with %q", err, tt.want)
			}
		})
	}
	t.Run("a file in the way", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := agent.OpenDataDir(path, ""); !errors.Is(err, agent.ErrDataDir) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("another cluster's", func(t *testing.T) {
		dir := t.TempDir()
		d, err := agent.OpenDataDir(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Claim("log-1"); err != nil {
			t.Fatal(err)
		}
		again, err := agent.OpenDataDir(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Claim("log-1"); err != nil {
			t.Fatal(err)
		}
		if err := again.Claim("log-2"); !errors.Is(err, agent.ErrDataDir) {
			t.Fatalf("got %v", err)
		}
	})
}

// FuzzIdentity: whatever stands in firn.json, the directory is taken with a name and a format that we know, or refused by name.
func FuzzIdentity(f *testing.F) {
	f.Add([]byte(`{"format":1,"agent":"a","log_id":"00","wal_id":"00"}`))
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`{"format":9,"agent":"a"}`))
	f.Add([]byte(`null`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body []byte) {
		path := filepath.Join(dir, "firn.json")
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		name, err := agent.CheckDataDir(dir, "")
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(1<<20+4*len(body)) {
			t.Fatalf("allocated %d bytes for a file of %d", got, len(body))
		}
		if err != nil && !errors.Is(err, agent.ErrDataDir) {
			t.Fatal(err)
		}
		if err == nil && name == "" {
			t.Fatalf("%q was taken without a name", body)
		}
	})
}

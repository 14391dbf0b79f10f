package docs_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/firnlog/firn/"

// rooms says which of the project's packages a package may import, by prefix, most specific rule first. Test files may
// import more (fakes, suites); a package below a room may always import the room it lies in and the packages below it.
var rooms = []struct {
	room string
	may  []string
}{
	{"metastore/state", []string{"metastore/entry", "objstore/batch"}},
	{"metastore/entry", nil},
	{"metastore/topicconfig", []string{"metastore/state", "metastore/entry"}},
	{"metastore/log", []string{"metastore/log"}},
	{"metastore", []string{"metastore", "objstore"}},
	{"objstore", []string{"objstore"}},
	{"wal", []string{"wal"}},
	{"compaction", []string{"compaction", "metastore", "objstore"}},
	{"agent", []string{"agent", "compaction", "metastore", "objstore", "wal"}},
	{"localstack", []string{"localstack", "agent", "compaction", "metastore", "objstore", "wal"}},
	{"cmd", []string{"cmd", "localstack", "agent", "compaction", "metastore", "objstore", "wal"}},
	{"docs", nil},
}

// forbidden are imports from outside with the one place that may have them.
var forbidden = []struct{ path, only string }{
	{"github.com/aws/", "objstore/s3"},
	{"github.com/minio/", "objstore/minio"},
	{"go.etcd.io/", "metastore/log"},
	{"github.com/twmb/franz-go/pkg/kmsg", "agent/kafka,cmd,localstack"},
	{"github.com/twmb/franz-go/pkg/kgo", "cmd,localstack"},
	{"github.com/spf13/", "cmd"},
	{"flag", "cmd"},
	{"os/signal", "cmd"},
}

type pkg struct {
	ImportPath, Doc, Dir      string
	Imports, GoFiles          []string
	TestImports, XTestImports []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Dir,Imports,GoFiles,TestImports,XTestImports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages listed", len(all))
	}
	return all
}

func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func TestWhoMayImportWhom(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		i := slices.IndexFunc(rooms, func(r struct {
			room string
			may  []string
		}) bool {
			return within(name, r.room)
		})
		if i < 0 {
			t.Errorf("package %s lies in no room", name)
			continue
		}
		for _, imp := range p.Imports {
			own, ours := strings.CutPrefix(imp, module)
			if ours {
				if !within(own, rooms[i].room) && !slices.ContainsFunc(rooms[i].may, func(r string) bool { return within(own, r) }) {
					t.Errorf("%s imports %s: the room %s may import only %v", name, own, rooms[i].room, rooms[i].may)
				}
				if strings.HasSuffix(own, "test") {
					t.Errorf("%s imports the test package %s", name, own)
				}
				continue
			}
			for _, f := range forbidden {
				matches := imp == f.path || strings.HasSuffix(f.path, "/") && strings.HasPrefix(imp, f.path) || within(imp, f.path)
				allowed := slices.ContainsFunc(strings.Split(f.only, ","), func(r string) bool { return within(name, r) })
				if matches && !allowed && !strings.HasSuffix(name, "test") {
					t.Errorf("%s imports %s, which belongs in %s", name, imp, f.only)
				}
			}
		}
	}
}

// Under the race detector a bubble with two processors can end the process: see package faketime.
func TestFakeTimeIsFromFaketime(t *testing.T) {
	for _, p := range packages(t) {
		if imports := slices.Concat(p.Imports, p.TestImports, p.XTestImports); p.ImportPath != module+"localstack/faketime" && slices.Contains(imports, "testing/synctest") {
			t.Errorf("%s imports testing/synctest: its tests run under localstack/faketime", p.ImportPath)
		}
	}
}

func TestEveryPackageExplainsItself(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		switch base := filepath.Base(p.ImportPath); base {
		case "util", "utils", "common", "helpers", "misc", "types":
			t.Errorf("%s: a package is named after what it is for", p.ImportPath)
		}
	}
}

func TestTopLevelIsTheDesignCard(t *testing.T) {
	out, err := exec.Command("git", "-C", "..", "ls-files").Output()
	if err != nil {
		entries, err := os.ReadDir("..") // not a checkout: a source archive
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, e.Name()+"\n"...)
		}
	}
	allowed := strings.Fields("agent metastore objstore wal compaction cmd localstack docs go.mod go.sum Makefile README.md LICENSE bin firn-data")
	for _, path := range strings.Fields(string(out)) {
		top, _, _ := strings.Cut(path, "/")
		if !strings.HasPrefix(top, ".") && !slices.Contains(allowed, top) {
			t.Errorf("%s lies at the top level", top)
		}
	}
}

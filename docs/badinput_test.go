package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var testName = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9_]+)`")

// Every row of bad-input.md names a test, and every test that is named exists where it is said to be.
func TestBadInputRowsNameTests(t *testing.T) {
	body, err := os.ReadFile("bad-input.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for i, line := range strings.Split(string(body), "\n") {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| input |") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 3 {
			t.Errorf("bad-input.md line %d: %d cells, not input, what it gets, test", i+1, len(cells))
			continue
		}
		named := testName.FindAllStringSubmatch(cells[2], -1)
		if len(named) == 0 {
			t.Errorf("bad-input.md line %d names no test as `package/path.TestName`", i+1)
		}
		for _, m := range named {
			if !hasTest(t, filepath.Join("..", m[1]), m[2]) {
				t.Errorf("bad-input.md line %d: %s has no %s", i+1, m[1], m[2])
			}
		}
	}
	t.Logf("%d rows", rows)
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}

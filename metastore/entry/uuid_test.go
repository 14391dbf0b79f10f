package entry_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
)

// An id is text in JSON, and nothing but 32 digits is one.
func TestUUIDAsText(t *testing.T) {
	id := entry.UUID{0xab, 15: 0x01}
	b, err := json.Marshal(id)
	if want := `"ab` + strings.Repeat("0", 28) + `01"`; err != nil || string(b) != want {
		t.Fatalf("%s, %v", b, err)
	}
	var back entry.UUID
	if err := json.Unmarshal(b, &back); err != nil || back != id {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range []string{`""`, `"ab"`, `"` + strings.Repeat("x", 32) + `"`, `"` + strings.Repeat("0", 34) + `"`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s is taken for %v", bad, back)
		}
	}
}

package gc_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
)

// What builds wrote on the desk is read for ever; testdata has a file for each way in which they did.
func TestAnswersOfOlderBuildsAreRead(t *testing.T) {
	for _, file := range []string{"testdata/desk-1-ids-as-numbers.json", "testdata/desk-1.json"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d, err := gc.ParseDesk(b)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		want := gc.Loss{
			Topic: "kept", TopicID: entry.UUID{0xab, 0xcd, 15: 0x01}, Partition: 3, Object: d.Request.Objects[0], Start: 5, End: 9, Bytes: 70, LogStart: true,
		}
		if len(d.Answer.Lost) != 1 {
			t.Fatalf("%s: %+v", file, d.Answer)
		}
		got, _ := json.Marshal(d.Answer.Lost[0])
		if text, _ := json.Marshal(want); string(got) != string(text) {
			t.Errorf("%s: %s, want %s", file, got, text)
		}
	}
}

// What cannot be read stops neither the collector nor the next request; a newer firn's stays.
func TestADeskThatCannotBeRead(t *testing.T) {
	for _, value := range []string{"", "{", `[1]`, `{"format":0}`, `{"format":1,"answer":{"lost":[{"topic_id":"zz"}]}}`, `{"format":1,"answer":{"lost":[{"topic_id":true}]}}`} {
		w := newWorld(t)
		w.cells[gc.DeskCell] = log.Cell{Value: []byte(value), Version: 7}
		if _, err := gc.ParseDesk([]byte(value)); err == nil || !strings.Contains(err.Error(), "ask again") {
			t.Errorf("%q: %v", value, err)
		}
		c := w.collector(noScrub)
		if c.settle(); !strings.Contains(c.logged.String(), "cannot be read") {
			t.Errorf("%q: logged %s", value, c.logged)
		}
		if err := gc.Ask(t.Context(), w, gc.Request{ID: "r", Kind: gc.AskRun}, false); err != nil {
			t.Errorf("%q keeps a request off: %v", value, err)
		}
		c.settle()
		if a, err := gc.Answered(t.Context(), w, "r"); err != nil || a == nil {
			t.Errorf("%q: answer %+v, %v", value, a, err)
		}
	}
	w := newWorld(t)
	w.cells[gc.DeskCell] = log.Cell{Value: []byte(`{"format":2,"request":"of another kind"}`), Version: 1}
	if err := gc.Ask(t.Context(), w, gc.Request{ID: "r", Kind: gc.AskRun}, false); !errors.Is(err, gc.ErrNewerDesk) {
		t.Errorf("a newer firn's: %v", err)
	}
}

func FuzzParseDesk(f *testing.F) {
	for _, file := range []string{"testdata/desk-1-ids-as-numbers.json", "testdata/desk-1.json"} {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := gc.ParseDesk(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gc.ParseDesk(again); err != nil {
			t.Error(err)
		}
	})
}

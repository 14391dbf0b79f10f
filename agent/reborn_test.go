package agent_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/metastore/state"
)

// TestATopicMadeAgainNeverSeesOldData gives a topic three lives, each of which has the same offsets in objects of level 0 and in
// merged ones: whoever reads one life sees nothing of another, and the paths of merged objects say why.
func TestATopicMadeAgainNeverSeesOldData(t *testing.T) {
	n := start(t, func(s *setup) {
		s.cfg.MergeAfter, s.cfg.MergeRescan = time.Second, 10*time.Millisecond
		s.cfg.MergeWindowMin, s.cfg.MergeWindowMax = 64<<10, 64<<10
		s.cfg.LevelPatience = time.Second
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const topic, records = "reborn", 200
	admin := kadm.NewClient(n.kafkaClient())
	objects := map[string]int{} // of which life
	for life := range 3 {
		r, err := admin.CreateTopic(ctx, 1, 1, nil, topic)
		if err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
		// A client of its own: one that knows the topic's former id would be told so, and that is another test.
		c := n.kafkaClient(kgo.ProducerLinger(0))
		say := func() {
			value := fmt.Sprintf("life %d %s", life, strings.Repeat("snow", 200))
			if err := c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		said := 0
		for ; said < records; said++ {
			say()
		}
		merged := func() (found int) {
			n.rows(topic, func(rows []state.Row) {
				for _, row := range rows {
					if row.Object.Merged() {
						found++
					}
				}
			})
			return found
		}
		for merged() == 0 { // what is young is not merged: something is said now and then
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("nothing was merged: %s", n.describe(topic))
			}
			say()
			said++
		}
		var id string
		n.View(func(st *state.State) {
			for found := range st.Topics() {
				if found.Name == topic {
					id = fmt.Sprintf("%x", found.ID[:])
				}
			}
		})
		n.rows(topic, func(rows []state.Row) {
			for _, row := range rows {
				key := row.Object.Key()
				if row.Object.Merged() && !strings.HasPrefix(key, "topics/"+id+"/") {
					t.Errorf("life %d with id %s lies in %s", life, id, key)
				}
				if other, taken := objects[key]; taken && other != life && row.Object.Merged() {
					t.Errorf("%s is of lives %d and %d", key, other, life)
				}
				objects[key] = life
			}
		})
		reader := n.kafkaClient(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		next := int64(0)
		for next < int64(said) {
			f := reader.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatalf("life %d: %d of %d records", life, next, said)
			}
			f.EachRecord(func(r *kgo.Record) {
				if r.Offset != next || !strings.HasPrefix(string(r.Value), fmt.Sprintf("life %d ", life)) {
					t.Fatalf("life %d has at offset %d, want %d: %.20q", life, r.Offset, next, r.Value)
				}
				next++
			})
		}
		reader.Close()
		c.Close()
		if d, err := admin.DeleteTopic(ctx, topic); err != nil || d.Err != nil {
			t.Fatal(err, d.Err)
		}
	}
}

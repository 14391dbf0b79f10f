package gc_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
)

// observe reads the world from outside.
func (w *world) observe(context.Context) (*metastore.Observed, error) {
	return &metastore.Observed{State: w.copy(w.head.N()), Archived: w.archive, EpochN: w.archive}, nil
}

func TestAPlanSaysWhatGoesAndWhatIsHeldBack(t *testing.T) {
	w := newWorld(t)
	w.named(topicA, 0)
	w.named(topicB, 0)
	w.empty(topicB, 0)
	orphan := w.upload(topicB)
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	w.named(topicA, 1)
	w.empty(topicA, 1)
	w.upload(entry.UUID{})
	if err := w.bucket.Put(t.Context(), "data/x", []byte("x"), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	w.now += 8 * 24 * time.Hour.Milliseconds()
	w.ok(&entry.Tick{})
	p, err := gc.Survey(t.Context(), w.observe, w.bucket, 10)
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]int{"named": 1, "retired": 1, "orphan": 1, "young": 2, "waiting for the archive": 0} {
		if got := p.Objects[what].Objects; got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	if len(p.Delete) != 2 || p.Delete[1].Key != orphan.Key() || p.Foreign != 1 || len(p.Retention) != 1 || p.Retention[0].Topic != "a" || p.Retention[0].Rows != 1 {
		t.Errorf("%+v", p)
	}
	text := strings.Join(p.Lines(), "\n")
	for _, want := range []string{"collection epoch 3", "1, 10 bytes: orphans, would be deleted", orphan.Key(), "retention     a:", "data/x"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if len(w.keys()) != 6 {
		t.Error("a plan deleted something")
	}
}

func TestAPlanDoesNotCountWhatALockKeeps(t *testing.T) {
	for _, plain := range []int{0, 1001} {
		w := newWorld(t)
		put := w.locking(t)
		w.named(topicA, 0)
		for range 1100 {
			put(time.Hour)
		}
		for range plain {
			w.upload(entry.UUID{})
		}
		w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
		w.archiveAll()
		p, err := gc.Survey(t.Context(), w.observe, w.bucket, 10)
		if err != nil {
			t.Fatal(err)
		}
		if (p.Breaker != "") != (plain > 0) || p.Locked < 100 || !strings.Contains(strings.Join(p.Lines(), "\n"), "kept by an object lock") {
			t.Errorf("beside %d orphans: %d of 1100 locked, breaker %q", plain, p.Locked, p.Breaker)
		}
	}
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	sound, _ := w.segment(t)
	gone, _ := w.segment(t)
	short, body := w.segment(t)
	flipped, whole := w.segment(t)
	w.upload(entry.UUID{})
	verify := func(deep bool) *gc.VerifyReport {
		t.Helper()
		r, err := gc.Verify(t.Context(), w.observe, w.bucket, gc.VerifyOptions{Deep: deep})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := verify(true); len(r.Damage) != 0 || r.Objects != 4 || r.Listed != 5 || r.Read == 0 {
		t.Fatalf("%+v", r)
	}
	if err := w.bucket.Bucket.Delete(t.Context(), gone.Key()); err != nil {
		t.Fatal(err)
	}
	w.put(short, body[:len(body)-1])
	whole = bytes.Clone(whole)
	whole[100] ^= 1
	w.put(flipped, whole)
	if r := verify(false); len(r.Damage) != 2 || r.Read != 0 || r.Damage[0].Kind != gc.KindMissing || r.Damage[1].Kind != gc.KindSize {
		t.Errorf("%+v", r)
	}
	r := verify(true)
	if len(r.Damage) != 3 || r.Damage[0].Kind != gc.KindChunk || r.Damage[0].Object != flipped.Key() {
		t.Errorf("%+v", r)
	}
	if text := strings.Join(r.Lines(), "\n"); !strings.Contains(text, gone.Key()) || strings.Contains(text, sound.Key()) {
		t.Error(text)
	}
	w.bucket.fail["get"] = objstore.ErrDenied
	if _, err := gc.Verify(t.Context(), w.observe, w.bucket, gc.VerifyOptions{Deep: true}); err == nil || !strings.Contains(err.Error(), "s3:GetObject") {
		t.Errorf("a read that is refused: %v", err)
	}
	w.bucket.fail["list"] = objstore.ErrDenied
	if _, err := gc.Verify(t.Context(), w.observe, w.bucket, gc.VerifyOptions{}); err == nil || !strings.Contains(err.Error(), "s3:ListBucket") {
		t.Errorf("a listing that is refused: %v", err)
	}
}

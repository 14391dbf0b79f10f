package classic_test

import (
	"testing"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// A machine of another protocol takes over: members that know that they are some, and nobody who waits is forgotten.
func TestAGroupIsHandedToAnotherProtocolAndComesBack(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	generation := a.generation
	stranger := w.client("stranger")
	stranger.req.KnownIDs = false // waits under an id that it has not heard
	waits := stranger.sendJoin()

	d, gone := w.g.Handover()
	if len(d.Members) != 2 || len(gone) != 0 || d.Generation != generation || d.ProtocolType != "consumer" {
		t.Fatalf("handed over: %+v, without %v", d, gone)
	}
	var eff step.Effects
	w.g.Dismiss(&eff)
	w.did(eff)
	if answer, ok := w.answers[waits]; !ok || answer.Code != step.RebalanceInProgress {
		t.Fatalf("who waited was answered %+v", answer)
	}

	back, eff := classic.From("g", w.cfg, d, w.now)
	w.g = back
	w.did(eff)
	if w.g.State() != classic.PreparingRebalance || len(w.members) != 2 || w.generation != generation {
		t.Fatalf("back: %v with %d members written at generation %d", w.g.State(), len(w.members), w.generation)
	}
	w.failOver() // what was written says all
	if code := w.g.Heartbeat(a.id, "", generation, w.now); code != step.RebalanceInProgress {
		t.Errorf("a member hears %d", code)
	}
	w.form(a, b)
	if a.generation != generation+1 || w.g.State() != classic.Stable {
		t.Errorf("generation %d after %d, %v", a.generation, generation, w.g.State())
	}
}

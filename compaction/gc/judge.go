package gc

import (
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/rendezvous"
	"github.com/firnlog/firn/metastore/state"
)

// ripe reports whether Apply refuses ops that would name the object anew.
func ripe(id entry.ObjectID, collectionEpoch uint64) bool {
	return id.CollectionEpoch+1 < collectionEpoch
}

// fate is what the rules say of an object that lies in the bucket.
type fate int

const (
	named   fate = iota // rows name it
	young               // nothing does, but an op may yet
	waiting             // a restore from the bucket may still name it
	retired             // may go: the log says so
	orphan              // may go: no row of the log names it, nor does anything that a restore could bring back
	fates
)

func (f fate) String() string {
	return [fates]string{"named", "young", "waiting for the archive", "retired", "orphan"}[f]
}

// epochView is what a collector knows of the collection epoch.
type epochView struct {
	epoch uint64
	seenN uint64 // an n at which the state had this epoch already
}

// judge says what may become of an object. archived is how far the bucket alone gives the log.
//
// What a restore brings back is the state at archived or a later one. In it, too, the object has to be so old that nothing can name it
// anew: the archive has to hold the move of the collection epoch. A retired object is then named by nothing if the archive holds what retired
// it. An orphan is named by nothing that is remembered; had it been named after archived and retired since, it would be among the retired, which
// are forgotten only by moves of the epoch, and where there are very many of them: then orphans wait until there are fewer.
func judge(st *state.State, id entry.ObjectID, seen epochView, archived uint64) fate {
	if st.Named(id) {
		return named
	}
	if !ripe(id, st.CollectionEpoch()) {
		return young
	}
	r, known := st.RetiredByID(id)
	switch {
	case seen.epoch != st.CollectionEpoch() || seen.seenN > archived:
		return waiting
	case known && r.N <= archived:
		return retired
	case !known && st.RetiredCount() < state.MaxRetired/2:
		return orphan
	}
	return waiting
}

// fingerprint stands for an object where there are too many to keep their ids. Two that share one are as unlikely as they are harmless:
// one of the two is deleted, or missed, a day later.
func fingerprint(id entry.ObjectID) uint64 {
	return rendezvous.Key(id.Incarnation, id.Seq, id.CollectionEpoch, rendezvous.Key(id.Topic))
}

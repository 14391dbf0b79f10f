package state

import (
	"cmp"
	"iter"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// objects are the objects that rows name, and those that they named until lately.
type objects struct {
	objectTable
	pending map[uint32]*pendingObject // by slot
	retired map[entry.ObjectID]retired
}

// Object is an object that rows name.
type Object struct {
	ID      entry.ObjectID
	Size    int64  // bytes
	Born    uint64 // n of the entry that first named it; 0 where that was below feature level 3
	Pending bool   // not yet in the bucket but in a WAL
}

// pendingObject is what is known of an object that is still in a WAL.
type pendingObject struct {
	holder [16]byte // the incarnation that appended it
	// parts are the partitions whose rows move when the object is bound; some may be gone by then, some come twice.
	parts []PartitionRef
}

// retired is an object that no row names any more.
type retired struct {
	size  int64
	n     uint64 // of the entry that took the last row away
	epoch uint64 // collection epoch then
}

// RetiredObject is an object that rows named and none names any more. It may be deleted once its collection epoch is
// before CollectionEpoch()-1: until then an Append could name it again.
type RetiredObject struct {
	Object entry.ObjectID
	Size   int64
	N      uint64 // of the entry that took the last row away
}

func newObjects() objects {
	return objects{objectTable: newObjectTable(), pending: make(map[uint32]*pendingObject), retired: make(map[entry.ObjectID]retired)}
}

// admit says whether rows may name the object: it is live with this size, or young enough not to have been collected.
func (s *State) admit(id entry.ObjectID, size int64) Code {
	if slot, live := s.objects.find(&id); live && s.objects.at(slot).size != size || id.CollectionEpoch > s.collectionEpoch {
		return InvalidObject
	}
	return OK
}

// fresh says whether the object is young enough to be named by an op: the collector leaves alone what passes.
func (s *State) fresh(id entry.ObjectID) bool { return id.CollectionEpoch >= s.collectionEpoch-1 }

// acquire adds a reference to the object, making it live where it was not.
func (s *State) acquire(id entry.ObjectID, size int64) uint32 {
	x := &s.objects
	slot, live := x.find(&id)
	if !live {
		delete(x.retired, id)
		born := uint64(0)
		if s.featureLevel >= rewriteLevel {
			born = s.n
		}
		slot = x.add(&id, size, born)
	}
	x.at(slot).refs++
	return slot
}

// release drops a reference; the last one retires the object.
func (s *State) release(slot uint32) {
	x := &s.objects
	o := x.at(slot)
	if o.refs--; o.refs > 0 {
		return
	}
	x.retired[x.id(o)] = retired{size: o.size, n: s.n, epoch: s.collectionEpoch}
	delete(x.pending, slot)
	x.remove(slot)
	if len(x.retired) > MaxRetired {
		for _, old := range s.Retired()[:MaxRetired/2] {
			delete(x.retired, old.Object)
		}
	}
}

// bind takes a pending object out of its WAL: from now on its rows are read from the bucket.
func (s *State) bind(slot uint32, r *Results) {
	parts := s.objects.pending[slot].parts
	delete(s.objects.pending, slot)
	slices.SortFunc(parts, func(a, b PartitionRef) int {
		return cmp.Or(slices.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Partition, b.Partition))
	})
	for _, ref := range parts {
		if p, code := s.partition(ref.Topic, uint32(ref.Partition)); code == OK {
			s.changed(p, r)
		}
	}
}

// forgetRetired drops what retired RetiredEpochs or more before the collection epoch.
func (x *objects) forgetRetired(epoch uint64) {
	for id, gone := range x.retired {
		if gone.epoch+RetiredEpochs <= epoch {
			delete(x.retired, id)
		}
	}
}

// Retired lists the objects that retired in the last RetiredEpochs collection epochs, in order of N and then id.
func (s *State) Retired() []RetiredObject {
	list := make([]RetiredObject, 0, len(s.objects.retired))
	for id, gone := range s.objects.retired {
		list = append(list, RetiredObject{Object: id, Size: gone.size, N: gone.n})
	}
	slices.SortFunc(list, func(a, b RetiredObject) int { return cmp.Or(cmp.Compare(a.N, b.N), a.Object.Compare(b.Object)) })
	return list
}

// RetiredTable yields what Retired lists, in no order that means anything, without making a list of it.
func (s *State) RetiredTable() iter.Seq[RetiredObject] {
	return func(yield func(RetiredObject) bool) {
		for id, gone := range s.objects.retired {
			if !yield(RetiredObject{Object: id, Size: gone.size, N: gone.n}) {
				return
			}
		}
	}
}

// RetiredByID reports an object that Retired lists.
func (s *State) RetiredByID(id entry.ObjectID) (RetiredObject, bool) {
	gone, known := s.objects.retired[id]
	return RetiredObject{Object: id, Size: gone.size, N: gone.n}, known
}

// RetiredCount is how many objects Retired lists.
func (s *State) RetiredCount() int { return len(s.objects.retired) }

// Named reports whether rows name the object: the collector asks before it deletes anything.
func (s *State) Named(id entry.ObjectID) bool {
	_, live := s.objects.find(&id)
	return live
}

// ObjectCount is the number of objects that rows name, and how many of them are still in a WAL.
func (s *State) ObjectCount() (live, pending int) { return s.objects.live, len(s.objects.pending) }

// Objects yields the objects that rows name, in no order that means anything.
func (s *State) Objects() iter.Seq[entry.ObjectID] {
	return func(yield func(entry.ObjectID) bool) {
		for _, o := range s.objects.all() {
			if !yield(s.objects.id(o)) {
				return
			}
		}
	}
}

// ObjectTable yields the objects that rows name with what is known of them, in no order that means anything.
func (s *State) ObjectTable() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for slot := range s.objects.all() {
			if !yield(s.object(slot)) {
				return
			}
		}
	}
}

// ObjectsFrom appends to dst the objects at up to most places of the table, from place on, and returns the place to go on from;
// more is false at the table's end. Who reads on under another lock may miss or repeat what was named or retired in between, and
// nothing else: an object keeps its place while rows name it.
func (s *State) ObjectsFrom(place, most int, dst []Object) (objects []Object, next int, more bool) {
	end := min(place+most, s.objects.made)
	for slot := place; slot < end; slot++ {
		if s.objects.at(uint32(slot)).refs > 0 {
			dst = append(dst, s.object(uint32(slot)))
		}
	}
	return dst, end, end < s.objects.made
}

// ObjectByID reports an object that rows name.
func (s *State) ObjectByID(id entry.ObjectID) (Object, bool) {
	slot, live := s.objects.find(&id)
	if !live {
		return Object{}, false
	}
	return s.object(slot), true
}

func (s *State) object(slot uint32) Object {
	o := s.objects.at(slot)
	return Object{ID: s.objects.id(o), Size: o.size, Born: o.born, Pending: s.objects.pending[slot] != nil}
}

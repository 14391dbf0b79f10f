// Package probe asks a bucket what it can do before an agent relies on it, and says it so that an operator can act. Callers
// are the start of an agent and `firn bucket probe`.
//
// A probe is a dozen small requests, one after the other, on two objects of its own below probe/, which it deletes again. It
// ends by itself after Options.Timeout.
//
// # What is asked
//
//	put, get, get range    required   an object comes back as it was put, whole and in part
//	overwrite              required   a put is repeated where its answer was lost
//	list                   required   restoring a cluster from its bucket alone starts with a listing
//	list after put         optional   nothing is decided by a listing that is fresh
//	head                   optional   nothing is decided by it
//	conditional put        optional   a tripwire, never a lock; without it firn puts unconditionally (see Fit)
//	delete, delete many    optional   without them the bucket only grows
//	absence                required   an object that is not there must read as not found: an agent tells lost data by it
//	expiry rules           required   no rule of the store's own may delete what firn still needs; where the store
//	                                  does not let us read its rules the report says so, and that is all
//
// A check that is required and has not passed makes Report.Err. A check that could not be made because one before it failed
// is reported as not made.
package probe

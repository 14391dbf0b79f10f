// Package log is the seam between the metastore and what orders it: a log of immutable values with dense numbers,
// registrations that fence, and a few compare-and-swap cells. metastore/log/etcdlog is etcd; metastore/log/memlog is an
// in-memory log that is nastier than etcd. Both pass metastore/log/logtest.
//
// The commit protocol (DESIGN.md section 1). A commit is one transaction:
//
//	IF    the entry key does not exist
//	  AND the proposer's registration exists
//	  AND the log's identity is unchanged
//	THEN  put the entry and touch the head, whose version is the entry's number n
//	ELSE  read back all three
//
// Why a retry is harmless: the key carries (incarnation, seq), so the same attempt either finds its own entry or creates
// it once; after a trim the guard is re-armed, and the state machine, which takes (incarnation, seq) only in sequence,
// drops the late copy. Why a zombie is harmless: deleting a registration makes every later commit of that incarnation fail
// in etcd itself. Why a gap shows: n is dense, so whoever applies n+1 after n has missed nothing.
package log

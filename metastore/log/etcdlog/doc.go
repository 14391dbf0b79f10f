// Package etcdlog is the metastore's log on etcd: metastore/log says what it promises, metastore/log/DESIGN.md what it
// assumes of etcd.
//
// # Keys
//
// All keys lie below one prefix, /firn/<cluster> unless Options say otherwise. Numbers are lower-case hex.
//
//	<prefix>/meta                            the identity, JSON with a format number, created once
//	<prefix>/agents/<incarnation>            a registration, on its agent's lease; the value is for other agents
//	<prefix>/log/<incarnation>/<seq, 16x>    an entry
//	<prefix>/log/~n                          the head, empty; n = base + its version ('~' sorts after every hex digit)
//	<prefix>/cells/<name>                    a cell; its version is its mod revision, which never comes back
//
// # Numbers
//
// A commit puts an entry and the head in one revision, so the version that the head had at the revision of an entry is
// that entry's place. A watch sees both puts together. A range read sees only the head's latest version, so Read numbers
// by counting and proves the count: the head's version at the revision of the first and of the last entry returned must be
// their numbers. Trim never compacts beyond the newest entry that it deleted, so those versions can be asked for every
// entry that is still in the log.
package etcdlog

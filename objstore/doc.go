// Package objstore is the bucket: immutable objects under flat keys, put whole, read whole or by range.
//
// Callers are agent/ingest (puts segments), agent/fetch (reads them), metastore (archive and snapshots) and compaction.
// Drivers live below: mem, file, s3; open picks one from a URL. Decorators are buckets too: metered reports every call
// to an observer, faulty misbehaves on purpose. Every driver and every decorator passes the suite in objstoretest.
//
// What firn relies on, and nothing more: a Put that returned nil is durable and visible to every later Get, whole or
// not at all; an object that was never deleted does not change. Correctness never depends on conditional puts, on
// listing being fresh, or on a failed Put having had no effect: keys are unique and order lives in the metastore.
//
// # A conditional put that meets itself
//
// A driver retries a put whose answer was lost, and so does its caller. With IfAbsent the second attempt may then find
// the object that the first one left, and ErrExists comes back for a put that took effect. A caller whose keys are unique
// therefore treats ErrExists as success; one whose keys are not has to read the object to learn whose it is. When a
// driver answers ErrExists, what lies under the key is as durable as after a nil.
//
// # When the caller's context ends
//
// The error then wraps ctx.Err() and none of the sentinels: the caller gave up, nobody refused. As after ErrUnavailable,
// the outcome of a Put or Delete is unknown.
package objstore

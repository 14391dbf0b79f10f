// Package lifecycle holds what topics promise and what the bucket does by itself together: lifecycle rules, versions, locks.
//
// agent runs the duty (Duty.Step) on one agent at a time and logs findings at its start; `firn bucket show|check|apply` read and
// write through the same functions; compaction/merge and compaction/clean put objects with what PutOptions says; compaction/gc
// asks Covered whether a rule explains a missing object. What is decided here is decided in pure functions (Labels, Rules,
// NewPlan, Check, Follow); the Duty is the shell around them.
//
// # What a rule may touch
//
// Level-0 objects (data/) hold many topics, and what the metastore keeps (metastore/ and the rest) is the cluster itself: no rule of
// firn's expires anything there, and a foreign rule that does is a finding. Merged objects (topics/TOPIC/…) hold one topic. With
// firn.bucket.lifecycle=mirror they carry the tag firn-class=CLASS; the class follows from what the topic promises:
//
//	dN       the bucket may delete the object N days after its upload; N = ceil(retention in days) + 1
//	…-tN-C   the bucket moves it to storage class C after N days
//	kept     nothing
//
// An object is never older than its newest record, so N days after its upload every record in it is past its retention; the day
// on top leaves firn the time to delete first, and covers records that are stamped up to half a day ahead. Topics that are compacted, that are bounded by size alone or kept
// for ever get no expiry, and neither do those with less than a day: firn deletes these itself, days before a rule could.
//
// A rule is named firn/CLUSTER/…; all others in the bucket are foreign. Stores replace the whole set at once, so a change is read,
// merged and written, and foreign rules go back as they came. There is no condition on that write: whoever edits rules by hand at the same
// moment may undo the other's work, which the next Step finds.
//
// With authoritative it is the other way round: the operator writes rules, by prefix or by the tag firn-topic=NAME, and retention.ms
// follows the shortest that covers the topic; where none does, records are kept for ever.
//
// # Why a rule never reaches what a topic has come to keep for longer
//
// A class is a tag on objects that are there already. When a topic's retention grows, its objects still carry the old class, whose
// rule would delete them too early. So:
//
//	(1) The ledger (object lifecycle/ledger.json) says for each topic what its objects may carry (Bears), what they should (Wants),
//	    and up to which n of the log every live merged object named until then has been seen to carry exactly that (Verified).
//	(2) A class is held, which is to say its rule is not in the bucket, while some topic bears it, does not want it and
//	    must keep records for longer than its rule would. The ledger is written before rules are, rules before tags.
//	(3) Every live merged object is looked at once after it was named, whatever made its tags: a stale writer, one that slept
//	    with a topic's old settings, settings that changed twice between two Steps.
//	(4) Rules expire after two days at the earliest, and a run follows the last within half a day; where it did not, or where there is no
//	    ledger, every expiry of ours is held until all objects were looked at.
//
// Suppose a rule of ours deletes a live object o of a topic earlier than the topic's settings allow. Then o carries a class c that
// is not the topic's, and c's rule was in the bucket when o was at least two days old. By (4) the last run before that began when
// o was more than a day old, so o had been named. If the settings were those of now, that run had looked at o (3) or held c (2).
// Else they changed less than half a day ago. Either c was the topic's until then: o's records were past their retention before
// the change, and nothing is owed. Or it was not, and the run had retagged o. What is left is an object named more than a day
// after its upload, which collection epochs exclude where the collector works; and a set of rules that was computed before a
// change and written after it by a process that slept in between: the next Step of whoever has the duty takes it back, while
// stores act on rules once a day.
//
// # Versions and locks
//
// In a bucket with versions a deletion hides an object and keeps it. Where any topic is mirrored firn keeps two more rules, on data/ and topics/:
// versions that are no longer current go after a week, so do delete markers with nothing behind them, and so do uploads in parts that
// nobody finished. They touch nothing live: firn never overwrites a segment object. (The rule for uploads never stands alone: MinIO
// refuses that.)
//
// A locked topic's objects are put with a lock of its days, from the upload on. What merging replaces stays in the bucket until its lock has run
// out, so a locked topic takes up to twice its size for that long; the collector waits for it.
package lifecycle

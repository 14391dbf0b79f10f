// Package compaction runs an agent's background duties on the data in the bucket: merging small objects into few large ones, key
// compaction, retention, the collection of what nothing names any more, and the bucket's own rules. The duties are rooms of their own:
//
//	duty       who does what, budgets, scratch files
//	rewrite    reading the batches of rows, writing merged objects, committing them
//	merge      windows of level-0 objects, and tiers of merged ones
//	clean      cleanup.policy=compact
//	retention  records that are too old or too many
//	gc         objects that nothing names; the scrubber
//	lifecycle  rules, tags and locks of the bucket
//
// A duty is a Step: one bounded piece of work, or none. The Runner calls each duty's Step on a goroutine of its own, at once again where
// there was work, after the duty's interval where there was none, and later and later where it fails. What fails is told once when it
// begins and once when it is over, and shows as the agent's condition (Faults) and in metrics meanwhile: no duty ever ends an agent.
//
// Nothing is proposed while the cluster's feature level is below the one that knows these ops.
//
// Correctness never rests on the Runner: two agents may do the same piece at once, one may stop at any point, and what moves
// data is judged by Apply (op Rewrite). See the rooms.
package compaction

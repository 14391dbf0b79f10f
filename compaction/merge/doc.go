// Package merge makes few large objects of many small ones. It has two kinds of work, between which Merger.Step
// takes turns.
//
// # Windows
//
// Agents flush objects of level 0: a few MiB, batches of many topics. A window is a run of them in the order in which the log first
// named them (Windows). Each of its objects is read once, whole, into scratch space; the footers say which partitions are in it;
// topic by topic and partition by partition the rows are copied into merged objects, one a topic, cut between partitions past
// Config.ObjectBytes, and one for itself where a partition has OwnBytes. An object is committed as soon as it is uploaded.
//
// When a window is due (Patience) is what keeps merging cheaper than producing: it makes a PUT a topic.
//
// # Tiers
//
// Merged rows of one partition that lie side by side become one when they are many enough and none dwarfs the rest (TierRules), until
// they are Full. So a partition has a number of rows that grows with the logarithm of its size, and past Full with size/Full; a byte is
// copied about log(Full/first size)/log(Growth) times. The partitions of a territory (duty.Territory) are looked at together, so that
// their rows move together and share an object as long as they are small.
//
// A row covers a bounded span of log time, so that retention can drop whole rows; rows that key compaction has been over never mix with
// others; rows that are in a WAL, or cannot be read, are in nobody's way: what lies before and behind them is merged without them.
//
// # Who, and what may go wrong
//
// A window belongs to one agent (duty.Mine of its first object's id), a territory to one. Where two think it is theirs, one of them
// works in vain: see package rewrite, also for what a crash leaves. An object that a window could not empty, for whatever reason, stays,
// and is tried again later and later (Config.BackoffMin to BackoffMax). An input that is missing or damaged is told once, counted for
// as long as it lasts, and left as it is.
package merge

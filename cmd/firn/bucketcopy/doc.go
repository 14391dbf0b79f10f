// Package bucketcopy moves a cluster's objects to another bucket or prefix: `firn bucket copy`.
//
// Objects of a cluster do not change once they are there, but for a few small ones; so a copy is a walk through both listings at
// once, and of what the target has in the same size nothing is copied again. A copy that was interrupted is resumed by
// starting it again, and a second one brings what is new since.
//
// # Whose the target is
//
// The target must be empty, or of the same cluster. It is claimed first, with a marker on which no agent starts. Only a final run
// (Options.Final), after which nothing new may appear in the source, gives it the source's own marker; with Options.Retire the
// source then gets one on which no agent starts, so that one with the old address cannot write where nobody reads.
package bucketcopy

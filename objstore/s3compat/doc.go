// Package s3compat is what the drivers of S3-compatible stores have in common, so that a URL, an answer and an error mean
// the same whichever of them is used: the options and their checks, the HTTP transport with its TLS, the reading of
// answers, and what a bucket can be asked beside objects. Callers are objstore/s3, objstore/minio and objstore/open.
//
// # Answers
//
// A code in a store's answer decides what an error means, else its HTTP status: ClassOf is the one table. Answers are
// checked before they are believed: the length of a body against a bound before anything is allocated, the range of a
// part, prefix and order of a listing.
//
// # Abilities
//
// Abilities asks for lifecycle rules, versions, locks, tags and the store's clock, in requests of its own that the driver signs.
// The client libraries are not asked, because their types drop what they do not know: a rule that somebody else wrote goes back
// byte for byte as it came, and one with parts that firn does not know is never written otherwise. A refusal for want of a
// permission names it.
//
// # TLS
//
// An https endpoint is checked against the system's roots, or against CAFile alone where it is given: an operator who
// names the authority of a store does not want every public one beside it. InsecureSkipVerify switches the check off and
// is reported by Warnings, which the probe logs at every start.
package s3compat

// Package s3compat is what the drivers of S3-compatible stores have in common, so that a URL, an answer and an error mean
// the same whichever of them is used: the options and their checks, the HTTP transport with its TLS, and the reading of
// answers. It sends no request itself. Callers are objstore/s3, objstore/minio and objstore/open.
//
// # Answers
//
// A code in a store's answer decides what an error means, else its HTTP status: ClassOf is the one table. Answers are
// checked before they are believed: the length of a body against a bound before anything is allocated, the range of a
// part, prefix and order of a listing.
//
// # TLS
//
// An https endpoint is checked against the system's roots, or against CAFile alone where it is given: an operator who
// names the authority of a store does not want every public one beside it. InsecureSkipVerify switches the check off and
// is reported by Warnings, which the probe logs at every start.
package s3compat

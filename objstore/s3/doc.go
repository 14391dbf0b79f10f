// Package s3 is a bucket in an S3-compatible object store, through the AWS SDK. No other package imports the SDK.
//
// # Requests
//
// One request a call: PutObject (never multipart), GetObject, HeadObject, ListObjectsV2, DeleteObject for one key and
// DeleteObjects for several. The SDK's standard retryer repeats what is worth repeating, up to Options.MaxAttempts and
// within its retry quota; a body that breaks off while it is read is left to the caller's own retry.
//
// # A put that answers ErrExists
//
// With IfAbsent a put whose answer was lost is repeated, and the repetition meets its own object: the store says 412 and
// the caller gets objstore.ErrExists for a put that took effect. Callers with unique keys treat ErrExists as success.
// Some stores ignore the condition, or break it under load; firn uses it as a tripwire and never relies on it.
//
// # Checksums
//
// By default the SDK adds a CRC to every request, in a form that many S3-compatible stores refuse. With the mode
// "when_required", the default for any endpoint of one's own, it does not, and DeleteObjects carries the Content-MD5
// that those stores know. Over TLS the body is then not hashed for the signature either. Firn's own checksums in
// segments and entries are what integrity rests on, in both modes.
//
// # Errors
//
// The code in the answer decides, else its HTTP status: see classify. A missing bucket is objstore.ErrDenied, never
// ErrNotFound: a typing error must not look like lost objects. The exception is Head, whose answer has no body to tell
// the two apart.
package s3

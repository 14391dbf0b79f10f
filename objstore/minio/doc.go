// Package minio is a bucket in an S3-compatible object store, through the MinIO client library: the other driver beside
// objstore/s3, with the same options and the same meaning of every answer (objstore/s3compat). No other package imports the
// library.
//
// # Requests
//
// One request a call: PutObject (never multipart, never chunked signatures), GetObject, HeadObject, ListObjectsV2, DeleteObject
// for one key and DeleteObjects for several. The region is given, never looked up. The library's own retries are off:
// this package repeats what is objstore.ErrUnavailable, up to Options.MaxAttempts, each attempt within Options.AttemptTimeout.
//
// # What the store itself said
//
// The library fills in what an answer lacks: any 404 without a body it can read becomes NoSuchKey, so that a proxy's
// error page would look like lost data. It also sleeps once more after its last attempt, and ends a listing silently when the
// context does. So the transport below it notes status and code of every answer that is no success, from the store's own
// words, and ends the attempt; errors are judged by that note (see answer), and the context is looked at after every listing.
//
// # Checksums
//
// Over http the body's SHA-256 is signed; over https it is not hashed. With the mode "when_supported" a put also carries
// x-amz-checksum-crc32c as a header, not as a trailer, which the store compares before it answers. DeleteObjects carries Content-MD5
// in both modes.
//
// # Credentials
//
// In this order: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; MINIO_ROOT_USER and MINIO_ROOT_PASSWORD, or MINIO_ACCESS_KEY and
// MINIO_SECRET_KEY; the AWS shared files; the MinIO client's config.json; web identity, container and instance roles. With
// Options.Profile the AWS shared files alone. Where nothing is found the call fails: requests are unsigned only with
// Options.Anonymous.
package minio

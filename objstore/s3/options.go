package s3

import "github.com/firnlog/firn/objstore/s3compat"

// Options are those of every driver of an S3-compatible store. Credentials come from the SDK's default chain: environment,
// shared files, web identity, container, instance.
type Options = s3compat.Options

// ChecksumMode says when the SDK adds checksums of its own to requests and verifies them in responses.
type ChecksumMode = s3compat.ChecksumMode

// The modes.
const (
	ChecksumWhenSupported = s3compat.ChecksumWhenSupported
	ChecksumWhenRequired  = s3compat.ChecksumWhenRequired
)

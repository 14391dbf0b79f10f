// Package open makes a bucket from the URL that an operator writes: the one place that knows all drivers.
//
//	mem://                                             objects live and die with the process
//	file:///var/lib/firn/bucket                        a directory, absolute
//	file://./bucket, file://../bucket                  a directory, relative to the working directory
//	s3://name                                          AWS
//	s3://name/some/prefix?endpoint=http://10.0.0.1:9000&path_style=true
//	minio://name/some/prefix?endpoint=http://10.0.0.1:9000
//
// s3 and minio speak the same protocol through two client libraries and take the same parameters:
//
//	endpoint               where the store listens
//	region                 of the bucket
//	path_style             the bucket's name in the path, not in the host name
//	profile, anonymous     who asks; credentials themselves are never part of a URL
//	checksum               when_required, or when_supported as AWS does
//	ca_file, client_cert, client_key, insecure_skip_verify
//	                       TLS, where the endpoint is https
//	connect_timeout, attempt_timeout, max_attempts, max_backoff
//	                       how long and how often to try
//
// Parameters is the table with values and defaults; docs/buckets.md shows it.
package open

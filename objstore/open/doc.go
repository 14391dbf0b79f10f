// Package open makes a bucket from the URL that an operator writes: the one place that knows all drivers.
//
//	mem://                                             objects live and die with the process
//	file:///var/lib/firn/bucket                        a directory, absolute
//	file://./bucket, file://../bucket                  a directory, relative to the working directory
//	s3://name                                          AWS
//	s3://name/some/prefix?endpoint=http://10.0.0.1:9000&path_style=true
//
// Parameters of s3: endpoint (URL), region, path_style (true or false), checksum (when_required or when_supported),
// attempt_timeout and connect_timeout (durations such as 30s), max_attempts. Credentials are never part of a URL.
package open

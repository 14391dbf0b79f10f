// Package s3compattest is the acceptance suite of drivers of S3-compatible stores, beside objstoretest: what each answer of a
// store, of a proxy before it, or of nobody means, and how TLS options work. Every answer is given by a server in the test.
// Only tests may import this package.
package s3compattest

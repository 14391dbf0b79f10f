// Package badinput holds firn to docs/bad-input.md: one test a row, against a whole agent, beside a bystander. It is a
// package of tests.
//
// A test opens a cluster of one agent in this process: the real agent on real sockets, over a metastore log, a bucket and a
// disk that can be made to fail. The bystander is another client that produces and consumes all the while. After the bad
// input a test calls its check: every record that was acknowledged was read, once, in order, at the offset of the
// acknowledgement, and neither an error nor a closed connection was seen. Where the bad input is a part that everybody
// shares, such as the bucket, the bystander is a patient one: errors that clients retry are no finding, all else is.
package badinput

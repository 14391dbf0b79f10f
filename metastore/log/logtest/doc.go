// Package logtest is the acceptance suite of package log: what every implementation must do while nothing goes wrong around
// it, and at the ends of registrations, watches and calls. It is run on etcdlog, over a socket and in process, and on memlog,
// so that what tests learn from memlog holds for etcd.
package logtest

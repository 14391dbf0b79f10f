// Package metered counts and times the calls of a log, for metrics.
//
// It decorates any log.Log and reports each call to an Observer when it returns. Registrations are passed through as they
// are: the log below knows its own again.
package metered

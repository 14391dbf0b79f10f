// Package metered decorates a bucket so that an observer learns of every call: operation, outcome, seconds, bytes. It
// knows no metrics library; the agent's observer turns the reports into one.
package metered

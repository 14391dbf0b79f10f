//go:build race

package kafka_test

// raced: the race detector makes some allocations twice as large, and everything slow.
const raced = true

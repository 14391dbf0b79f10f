// Package sim simulates whole clusters from seeds. It has no code but its tests.
package sim

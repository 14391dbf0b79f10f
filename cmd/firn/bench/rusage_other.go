//go:build !unix

package bench

// cpuSeconds is not known here.
func cpuSeconds() (seconds float64, ok bool) { return 0, false }

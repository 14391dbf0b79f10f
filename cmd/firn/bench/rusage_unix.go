//go:build unix

package bench

import "syscall"

// cpuSeconds returns the processor time this process has used, user and system; ok is false where the system does not
// say.
func cpuSeconds() (seconds float64, ok bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, true
}

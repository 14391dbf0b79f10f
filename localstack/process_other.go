//go:build !linux

package localstack

import "syscall"

// There is no pause here: 0 only asks whether the process is there.
const pauseSignal, resumeSignal = syscall.Signal(0), syscall.Signal(0)

// endsWithUs does nothing here: a child that its Stack did not close outlives it.
func endsWithUs() *syscall.SysProcAttr { return nil }

func endGroup(int) {}

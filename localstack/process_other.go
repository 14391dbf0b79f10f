//go:build !linux

package localstack

import "syscall"

// endsWithUs does nothing here: a child that its Stack did not close outlives it.
func endsWithUs() *syscall.SysProcAttr { return nil }

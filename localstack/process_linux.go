package localstack

import "syscall"

// endsWithUs has the kernel end a child with its parent, whatever happens to that.
func endsWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

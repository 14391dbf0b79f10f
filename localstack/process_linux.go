package localstack

import "syscall"

const pauseSignal, resumeSignal = syscall.SIGSTOP, syscall.SIGCONT

// endsWithUs has the kernel end a child with its parent, whatever happens to that, and gives it a process group of its own.
func endsWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// endGroup ends what a leader that is gone left behind in its group. The kernel keeps the number while the group has members.
func endGroup(leader int) { _ = syscall.Kill(-leader, syscall.SIGKILL) }

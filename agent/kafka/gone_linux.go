package kafka

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// look asks the system for the state of nc's socket and takes nothing from it. A connection that is none of the system's is
// open as far as is known.
func look(nc net.Conn) lineState {
	if p, ok := nc.(*proxied); ok {
		nc = p.Conn
	}
	s, ok := nc.(syscall.Conn)
	if !ok {
		return lineOpen
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return lineOpen
	}
	state := lineOpen
	// An error means that it is closed on our side, which its goroutines know.
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(p, 0); err != nil || n == 0 {
			return
		}
		switch {
		case p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0:
			state = lineBroken
		case p[0].Revents&unix.POLLRDHUP != 0:
			state = lineHalf
		}
	})
	return state
}

package localstack

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

// owner names the part whose process holds the other end of a connection over loopback, Client where none does. It is asked
// once, when the connection comes.
func owner(c net.Conn, parts map[string]int) string {
	remote, local := c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr)
	ip := remote.IP.To4()
	if ip == nil {
		return Client
	}
	socket := socketOf(ip, remote.Port, local.Port)
	if socket == "" {
		return Client
	}
	for name, pid := range parts {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			if to, err := os.Readlink(dir + "/" + fd.Name()); err == nil && to == socket {
				return name
			}
		}
	}
	return Client
}

// socketOf is the kernel's name of the socket at ip:port that is connected to a port of loopback; "" where there is none.
func socketOf(ip net.IP, port, to int) (name string) {
	local, remote := kernelAddr(ip, port), fmt.Sprintf(":%04X", to)
	sockets(func(fields []string) bool {
		if fields[1] == local && strings.HasSuffix(fields[2], remote) {
			name = "socket:[" + fields[9] + "]"
		}
		return name == ""
	})
	return name
}

// listens says whether somebody listens at an address, without troubling whoever that is.
func listens(addr string) (yes bool) {
	at, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return false
	}
	const listen = "0A"
	local := kernelAddr(at.IP.To4(), at.Port)
	sockets(func(fields []string) bool {
		yes = yes || fields[1] == local && fields[3] == listen
		return !yes
	})
	return yes
}

// kernelAddr is an address as the kernel's table has it: an integer of the machine, little-endian on what we run on.
func kernelAddr(ip net.IP, port int) string {
	return fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], port)
}

// sockets shows every TCP socket's line of the kernel's table to f, until that says no.
func sockets(f func(fields []string) bool) {
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		return
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 9 && !f(fields) {
			return
		}
	}
}

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
func socketOf(ip net.IP, port, to int) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	// Addresses stand there as the machine's integers: little-endian on what we run on.
	local := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], port)
	remote := fmt.Sprintf(":%04X", to)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && fields[1] == local && strings.HasSuffix(fields[2], remote) {
			return "socket:[" + fields[9] + "]"
		}
	}
	return ""
}

package localstack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// ports gives out loopback addresses that nobody listens on. A part that is ended and started again must find its own free, so
// they come from below the range from which the kernel takes the near ends of connections, wherever that leaves room.
type ports struct {
	asked map[string]string // addresses asked for, by what listens there

	mu    sync.Mutex // guards given
	given map[string]bool
}

const portsFrom = 10_000

// take returns an address for what is named; one that was asked for and is taken is an error that says so.
func (p *ports) take(name string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.given == nil {
		p.given = make(map[string]bool)
	}
	if addr := p.asked[name]; addr != "" {
		if p.given[addr] {
			return "", fmt.Errorf("%s: %s is asked for twice", name, addr)
		}
		if err := free(addr); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		p.given[addr] = true
		return addr, nil
	}
	below := ephemeralFrom()
	for range 1000 {
		addr := "127.0.0.1:0"
		if below > portsFrom+2000 {
			addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(portsFrom+rand.IntN(below-portsFrom)))
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		addr = l.Addr().String()
		_ = l.Close()
		if !p.given[addr] {
			p.given[addr] = true
			return addr, nil
		}
	}
	return "", fmt.Errorf("%s: no free port on loopback", name)
}

// FreeAddr returns a loopback address that nobody listens on, for a program that a test starts itself.
func FreeAddr() (string, error) { return new(ports).take("a port") }

// free says why addr cannot be listened on, if so.
func free(addr string) error {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is taken by another program; end it, or choose another port", addr)
	case err != nil:
		return err
	}
	return l.Close()
}

// ephemeralFrom is the lowest port that the kernel takes by itself, 0 where it does not say.
func ephemeralFrom() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0
	}
	low, err := strconv.Atoi(strings.Fields(string(text) + " 0")[0])
	if err != nil {
		return 0
	}
	return low
}

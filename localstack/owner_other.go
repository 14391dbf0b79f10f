//go:build !linux

package localstack

import "net"

// owner knows nobody here: rules that name the part that connects do not apply, those that name the part connected to do.
func owner(net.Conn, map[string]int) string { return Client }

// listens says whether somebody listens at an address.
func listens(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

//go:build !linux

package localstack

import "net"

// owner knows nobody here: rules that name the part that connects do not apply, those that name the part connected to do.
func owner(net.Conn, map[string]int) string { return Client }

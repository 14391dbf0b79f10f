package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/metastore/entry"
)

// Kafka clients come by listeners. Each has a name that is the same on all agents, and on each agent an address that its clients
// are sent to: who comes by the listener of a network is told the addresses of that network, of all agents that have one.

// DefaultListener is what the listener without a name is called.
const DefaultListener = "kafka"

// ListenersMax bounds the listeners of an agent; the cluster's state takes a few more.
const ListenersMax = 16

// Listener is one way in for Kafka clients.
type Listener struct {
	// Name is what agents call it: small letters, digits, '-', '_' and '.', at most 32.
	Name string
	// Advertise is the host:port that its clients are sent to.
	Advertise string
}

// listeners are all of them, the one without a name first.
func (c *Config) listeners() []Listener {
	var list []Listener
	if c.Advertise != "" || len(c.Listeners) == 0 {
		list = append(list, Listener{DefaultListener, c.Advertise})
	}
	return append(list, c.Listeners...)
}

// trustedProxies are the networks of TrustedProxies.
func (c *Config) trustedProxies() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, v := range c.TrustedProxies {
		p, err := kafka.ParsePrefix(v)
		if err != nil {
			return nil, fmt.Errorf("agent: trusted proxy %q %w", v, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// clientZones are ClientZones, taken apart.
func (c *Config) clientZones() ([]kafka.ClientZone, error) {
	var list []kafka.ClientZone
	for _, v := range c.ClientZones {
		z, err := kafka.ParseClientZone(v)
		if err != nil {
			return nil, fmt.Errorf("agent: client zone %q %w", v, err)
		}
		list = append(list, z)
	}
	return list, nil
}

// Addresses are the listeners for people: the address alone of one without a name, name=address with commas between else.
func (c *Config) Addresses() string {
	var parts []string
	for _, l := range c.listeners() {
		if l.Name == DefaultListener {
			parts = append(parts, l.Advertise)
		} else {
			parts = append(parts, l.Name+"="+l.Advertise)
		}
	}
	return strings.Join(parts, ",")
}

var listenerNames = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)

// ValidateListenerName says what is wrong with a listener's name.
func ValidateListenerName(name string) error {
	switch {
	case !listenerNames.MatchString(name):
		return fmt.Errorf("listener name %q is not 1 to 32 of a-z, 0-9, '-', '_' and '.', the first a letter or a digit", name)
	case name == peer.ListenerName:
		return fmt.Errorf("listener name %q is the agents' own; choose another", name)
	}
	return nil
}

func validateListeners(list []Listener) (errs []error) {
	names, addresses := make(map[string]bool), make(map[string]string)
	if len(list) > ListenersMax {
		errs = append(errs, fmt.Errorf("agent: %d listeners, at most %d are possible", len(list), ListenersMax))
	}
	for _, l := range list {
		if err := ValidateListenerName(l.Name); err != nil {
			errs = append(errs, fmt.Errorf("agent: %w", err))
			continue
		}
		if names[l.Name] {
			errs = append(errs, fmt.Errorf("agent: listener %s is there twice", l.Name))
		}
		names[l.Name] = true
		if err := ValidateAddress(l.Advertise); err != nil {
			errs = append(errs, fmt.Errorf("agent: advertised address %w", err))
		} else if other, taken := addresses[l.Advertise]; taken {
			errs = append(errs, fmt.Errorf("agent: listeners %s and %s advertise the same address %s, which leads to one of them only", other, l.Name, l.Advertise))
		}
		addresses[l.Advertise] = l.Name
	}
	return errs
}

// advertised is what the cluster is told of them.
func advertised(list []Listener) ([]entry.Listener, error) {
	told := make([]entry.Listener, 0, len(list))
	for _, l := range list {
		host, port, err := net.SplitHostPort(l.Advertise)
		if err != nil {
			return nil, err
		}
		p, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, err
		}
		told = append(told, entry.Listener{Name: l.Name, Host: host, Port: uint32(p)})
	}
	return told, nil
}

// open are the sockets of the listeners, by name. Every listener has one, and every socket is of a listener.
func (p *Components) open(list []Listener) (map[string]net.Listener, error) {
	sockets := make(map[string]net.Listener, len(list))
	for name, socket := range p.Listeners {
		sockets[name] = socket
	}
	if p.Kafka != nil {
		sockets[DefaultListener] = p.Kafka
	}
	for _, l := range list {
		if sockets[l.Name] == nil {
			return nil, fmt.Errorf("agent: listener %s has no socket", l.Name)
		}
	}
	if len(sockets) != len(list) {
		return nil, errors.New("agent: there are more sockets than listeners")
	}
	return sockets, nil
}

// ValidateAddress says what is wrong with an address that others are to reach.
func ValidateAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("%q is not host:port", address)
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		return fmt.Errorf("%q: port %q is not a number from 1 to 65535", address, port)
	}
	return nil
}

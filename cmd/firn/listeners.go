package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/agent/kafka"
)

// socket is one listener for Kafka clients.
type socket struct {
	name      string
	listen    string
	advertise string // "": what it listens on
}

// given is how an operator writes a value of the listener.
func (s socket) given(address string) string {
	if s.name == agent.DefaultListener {
		return address
	}
	return s.name + "=" + address
}

// splitNamed takes apart name=host:port; the name is optional.
func splitNamed(v string) (name, address string) {
	if name, address, named := strings.Cut(v, "="); named {
		return name, address
	}
	return agent.DefaultListener, v
}

// checkNamed is a rule for an address that may have a listener's name before it.
func checkNamed(rule func(string) error) func(string) error {
	return func(v string) error {
		name, address := splitNamed(v)
		if err := agent.ValidateListenerName(name); err != nil {
			return fmt.Errorf("has a bad name: %w", err)
		}
		return rule(address)
	}
}

// checkNetwork judges an address or a network.
func checkNetwork(v string) error {
	_, err := kafka.ParsePrefix(v)
	return err
}

// checkClientZone judges network=zone.
func checkClientZone(v string) error {
	_, err := kafka.ParseClientZone(v)
	return err
}

// listeners puts --kafka and --advertise together and returns every problem of the two.
func (s *serving) listeners() (list []socket, problems []error) {
	at := make(map[string]int)
	bound := make(map[string]string)
	for _, v := range s.kafka {
		name, address := splitNamed(v)
		if _, twice := at[name]; twice {
			problems = append(problems, s.set.Problem("kafka", "%s is given twice; give each listener a name of its own: name=host:port", listenerWords(name)))
			continue
		}
		if other, taken := bound[address]; taken && !strings.HasSuffix(address, ":0") {
			problems = append(problems, s.set.Problem("kafka", "%s and %s listen at the same address %s", other, listenerWords(name), address))
		}
		bound[address] = listenerWords(name)
		at[name] = len(list)
		list = append(list, socket{name: name, listen: address})
	}
	for _, v := range s.reach {
		name, address := splitNamed(v)
		i, known := at[name]
		switch {
		case !known:
			problems = append(problems, s.set.Problem("advertise", "names %s, which --kafka does not; it has %s", listenerWords(name), s.names(list)))
		case list[i].advertise != "":
			problems = append(problems, s.set.Problem("advertise", "%s is given twice; clients are sent to one address", listenerWords(name)))
		default:
			list[i].advertise = address
		}
	}
	reached := make(map[string]string)
	for _, l := range list {
		if other, taken := reached[l.advertise]; taken && l.advertise != "" {
			problems = append(problems, s.set.Problem("advertise", "%s and %s have the same address %s, which leads to one of them only", other, listenerWords(l.name), l.advertise))
		}
		reached[l.advertise] = listenerWords(l.name)
		why := ""
		switch host, _, err := net.SplitHostPort(l.listen); {
		case s.agent.AdvertiseMode == agent.AdvertiseProxy:
			why = "--advertise-mode proxy sends clients to a load balancer"
		case err == nil && everywhere(host):
			why = fmt.Sprintf("--kafka %s is every address of this host, and clients must be sent to one", l.given(l.listen))
		}
		if l.advertise == "" && why != "" {
			switch {
			case !s.set.Given("advertise"):
				problems = append(problems, s.set.Missing("advertise", why)...)
			case len(s.reach) > 0: // else what was given is a problem already
				problems = append(problems, s.set.Problem("advertise", "has no address for %s: %s", listenerWords(l.name), why))
			}
		}
	}
	if len(list) > agent.ListenersMax {
		problems = append(problems, s.set.Problem("kafka", "names %d listeners, at most %d are possible", len(list), agent.ListenersMax))
	}
	return list, problems
}

func listenerWords(name string) string {
	if name == agent.DefaultListener {
		return "the listener without a name"
	}
	return "listener " + name
}

func (s *serving) names(list []socket) string {
	words := make([]string, len(list))
	for i, l := range list {
		words[i] = listenerWords(l.name)
	}
	return strings.Join(words, ", ")
}

// openSockets listens, and tells the agent where its clients are sent.
func (s *serving) openSockets(parts *agent.Components, started *closers) error {
	parts.Listeners = make(map[string]net.Listener)
	for i := range s.sockets {
		l := &s.sockets[i]
		ln, err := listen("kafka", l.listen)
		if err != nil {
			return err
		}
		started.add(func() error { return ignoreClosed(ln.Close()) })
		if l.advertise == "" {
			l.advertise = ln.Addr().String()
		}
		if l.name == agent.DefaultListener {
			parts.Kafka, s.agent.Advertise = ln, l.advertise
		} else {
			parts.Listeners[l.name] = ln
			s.agent.Listeners = append(s.agent.Listeners, agent.Listener{Name: l.name, Advertise: l.advertise})
		}
	}
	return nil
}

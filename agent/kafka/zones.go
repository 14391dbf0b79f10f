package kafka

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/metastore/state"
)

// Traffic between zones costs money and time, and any agent serves any partition: so each client is given leaders in its own
// zone, where one of the live agents is. The protocol lets a producer say nothing about where it is, and a consumer only in
// Fetch. Other systems without leaders read it from the client.id, and their clients need not be configured anew:
//
//	warpstream_az, ws_az        WarpStream
//	automq_az                   AutoMQ; the value is encoded as in a URL
//	diskless_az, inkless_az     Inkless, Aiven
//	zone                        Bufstream
//
// They stand as key=value anywhere in the id, with ',' ';' '&' or blanks between. The first that is there counts. Some clients
// append to their id ("-StreamThread-1"), so it had better not stand last. Else the client's address is looked up in a table of
// networks (Config.ClientZones), of which the smallest counts. A client whose zone is not known, or has no live agent, is
// spread over all.

// zoneKeys are the keys of a client.id; true where the value is encoded as in a URL.
var zoneKeys = map[string]bool{
	"warpstream_az": false, "ws_az": false, "automq_az": true, "diskless_az": false, "inkless_az": false, "zone": false,
}

// zoneOfClientID is the zone that a client.id names, "" where it names none.
func zoneOfClientID(id string) string {
	if !strings.Contains(id, "=") {
		return ""
	}
	for pair := range strings.FieldsFuncSeq(id, func(r rune) bool { return r == ',' || r == ';' || r == '&' || r == ' ' }) {
		key, value, ok := strings.Cut(pair, "=")
		encoded, known := zoneKeys[key]
		if !ok || !known || value == "" {
			continue
		}
		if encoded {
			if plain, err := url.QueryUnescape(value); err == nil {
				value = plain
			}
		}
		return value
	}
	return ""
}

// ClientZone says that the clients of a network are in a zone.
type ClientZone struct {
	Network netip.Prefix
	Zone    string
}

// ParseClientZone reads network=zone.
func ParseClientZone(v string) (ClientZone, error) {
	network, zone, ok := strings.Cut(v, "=")
	if !ok || zone == "" {
		return ClientZone{}, errors.New("is not network=zone; write 10.0.1.0/24=eu-1a")
	}
	p, err := ParsePrefix(network)
	return ClientZone{p, zone}, err
}

// sortClientZones puts smaller networks first. A network that is there twice is an error.
func sortClientZones(list []ClientZone) ([]ClientZone, error) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b ClientZone) int {
		return cmp.Or(cmp.Compare(b.Network.Bits(), a.Network.Bits()), a.Network.Addr().Compare(b.Network.Addr()))
	})
	for i := 1; i < len(list); i++ {
		if list[i].Network == list[i-1].Network {
			return nil, fmt.Errorf("network %s is in zone %s and in zone %s; keep one", list[i].Network, list[i-1].Zone, list[i].Zone)
		}
	}
	return list, nil
}

// zone is where the client of a request is, "" where that is not known.
func (r *request) zone() string {
	if zone := zoneOfClientID(r.clientID); zone != "" {
		return zone
	}
	if len(r.conn.s.cfg.ClientZones) > 0 {
		if addr := r.conn.address(); addr.IsValid() {
			for _, z := range r.conn.s.cfg.ClientZones {
				if z.Network.Contains(addr) {
					return z.Zone
				}
			}
		}
	}
	return ""
}

// address is the client's; invalid where it is not known.
func (c *conn) address() netip.Addr {
	a := c.nc.RemoteAddr()
	if p, ok := c.nc.(*proxied); ok {
		client := p.client.Load()
		if client == nil { // the proxy's says nothing
			return netip.Addr{}
		}
		a = client
	}
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// in is a filter for rendezvous.
func in(zone string) func(node) bool { return func(n node) bool { return n.zone == zone } }

// A consumer may say in Fetch where it is (client.rack) without saying so in its client.id: its Metadata then name leaders
// anywhere. Such a leader sends it on, as KIP-392 has it: a partition that has a replica in the consumer's zone is answered with
// that replica's id and no records. Replicas are spread over zones, so a topic needs as many as there are zones, as in Kafka.
// A consumer that finds nobody there comes back; it is then served here, or it would be sent to and fro until that agent's
// registration lapses. So a connection sends on for redirectTime, and not again before redirectPause is over.
const (
	redirectTime  = 2 * time.Second
	redirectPause = time.Minute
)

// redirects is when a connection sent its client elsewhere. Of the executor.
type redirects struct{ since time.Time }

// open reports whether the client may be sent on now.
func (r *redirects) open(now time.Time) bool {
	switch past := now.Sub(r.since); {
	case r.since.IsZero() || past >= redirectPause:
		r.since = now
		return true
	default:
		return past < redirectTime
	}
}

// redirect finds, for partitions that could be read here, an agent that is nearer to the client.
func (f *fetching) redirect(c *conn) (any bool) {
	if f.rack == "" || f.who.balancer != nil {
		return false
	}
	f.s.meta.View(func(st *state.State) {
		nodes, self := f.who.nodes(st), f.s.meta.NodeID()
		at := slices.IndexFunc(nodes, func(n node) bool { return n.id == self })
		if at < 0 || nodes[at].zone == f.rack || !slices.ContainsFunc(nodes, in(f.rack)) {
			return
		}
		for i := range f.plan.parts {
			p := &f.plan.parts[i]
			t := st.TopicByID(p.now.topic)
			if p.now.code != codeNone || p.now.diverging || t == nil {
				continue
			}
			view := viewTopic(st, t)
			_, replicas := view.replicas(p.partition, nodes, f.who.zone)
			near, ok := choose(partitionKey(t.ID, p.partition), nodes, func(n node) bool {
				return n.zone == f.rack && slices.Contains(replicas, n.id)
			})
			if ok && c.redirects.open(time.Now()) {
				p.elsewhere, p.ready, any = near.id, false, true
			}
		}
	})
	return any
}

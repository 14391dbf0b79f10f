package agent

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// AdvertiseMode says how clients see the agents.
type AdvertiseMode string

const (
	// AdvertiseDirect: each agent at an address of its own.
	AdvertiseDirect AdvertiseMode = "direct"
	// AdvertiseProxy: all agents as one broker, at the address of a load balancer.
	AdvertiseProxy AdvertiseMode = "proxy"
)

// openPeers makes this agent's side of what agents are to each other: the internal listener, which says hello from now on,
// and the client. The cluster's secret comes from the metastore.
func (a *Agent) openPeers(ctx context.Context, metrics *peer.Metrics) error {
	if a.parts.Internal == nil {
		return nil
	}
	raw, err := metastore.ClusterSecret(ctx, a.log)
	if err != nil {
		return err
	}
	secret, err := peer.NewSecret(raw)
	if err != nil {
		return err
	}
	cfg := peer.Config{Secret: secret, RequestBytesMax: a.cfg.OtherRequestBytes, Logger: a.parts.Logger, Metrics: metrics}
	if a.peers, err = peer.NewClient(cfg, a.internalAddress, a.parts.Dial); err != nil {
		return err
	}
	if a.internal, err = peer.NewServer(cfg, a.process); err != nil {
		return err
	}
	a.wg.Go(func() {
		err := a.internal.Serve(a.parts.Internal)
		if a.state.Load() < draining && !errors.Is(err, http.ErrServerClosed) { // closed by us, also where the start comes to nothing
			a.fail(fmt.Errorf("serve the internal listener: %w", err))
		}
	})
	return nil
}

// servePeers lets other agents ask for more than hello.
func (a *Agent) servePeers() {
	if a.internal == nil {
		return
	}
	a.internal.Handle(peer.Handlers{
		Self:        a.meta.NodeID,
		Incarnation: func() string { return a.meta.Incarnation().String() },
		Status:      func() any { return a.Status() },
		Kafka:       a.kafka.Forwarded,
		Segments:    a.serveSegment,
	})
}

func (a *Agent) closePeers() {
	if a.internal != nil {
		a.internal.Close()
		a.peers.Close()
	} else if a.parts.Internal != nil {
		_ = a.parts.Internal.Close()
	}
}

// internalAddress is where a live agent's internal listener is.
func (a *Agent) internalAddress(node int32) (address string, ok bool) {
	if a.meta == nil {
		return "", false
	}
	a.meta.View(func(st *state.State) {
		for _, other := range st.Agents() {
			if other.NodeID != node {
				continue
			}
			for _, l := range other.Listeners {
				if l.Name == peer.ListenerName {
					address, ok = net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port))), true
				}
			}
		}
	})
	return address, ok
}

// registration is what an agent writes at its registration: who it is, for agents that are about to start.
type registration struct {
	Format   int    `json:"format"`
	Name     string `json:"name"`
	Process  string `json:"process"`            // made anew at each start of a process
	Volume   string `json:"volume"`             // of its write-ahead log, which one process at a time can have open
	Internal string `json:"internal,omitempty"` // advertised address of its internal listener
	// Advertise are the addresses that it alone sends clients to; none behind a load balancer.
	Advertise []string `json:"advertise,omitempty"`
}

// registrationFormat is what this build writes. Later ones add fields; a reader takes what it knows.
const registrationFormat = 1

func (a *Agent) registration() registration {
	id := a.wal.ID()
	r := registration{
		Format: registrationFormat, Name: a.cfg.Name, Process: a.process, Volume: hex.EncodeToString(id[:]), Internal: a.cfg.Internal,
	}
	if a.cfg.AdvertiseMode == AdvertiseDirect {
		for _, l := range a.cfg.listeners() {
			r.Advertise = append(r.Advertise, l.Advertise)
		}
	}
	return r
}

// parseRegistration reads what an agent wrote. Earlier agents wrote their name alone.
func parseRegistration(info []byte) registration {
	var r registration
	if json.Unmarshal(info, &r) != nil || r.Format < registrationFormat {
		return registration{Name: string(info)}
	}
	return r
}

// newProcess names a process.
func newProcess() string {
	var b [16]byte
	_, _ = crand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ErrRival: another live agent has the name or an address that this one is to have.
var ErrRival = errors.New("another agent has it")

// rivalPoll is how often a registration is looked at whose agent may be alive.
const rivalPoll = 200 * time.Millisecond

// rivalGrace is how much longer than its time to live a registration may stay of an agent that is gone: etcd looks at leases
// every now and then.
const rivalGrace = 3 * time.Second

// admit looks for live agents that have this agent's name or one of its addresses, before it registers. An agent that was
// killed leaves its registration behind for a while: who starts again in its place must not wait for that, and two that are
// both alive must not take the name from each other in turns. So who holds a registration is asked; where nobody can be
// asked, the one that has the same write-ahead log is this one's former self, since a live one would hold its lock, and any
// other has as long as its lease lasts to show that it is alive.
func (a *Agent) admit(ctx context.Context) error {
	self := a.registration()
	for began := time.Now(); ; {
		members, err := a.log.Members(ctx)
		if err != nil {
			return fmt.Errorf("look for agents of the same name or address: %w", err)
		}
		waiting := ""
		for _, m := range members {
			other := parseRegistration(m.Info)
			what := self.shares(other)
			if what == "" {
				continue
			}
			switch life := a.alive(ctx, other); {
			case life == alive, life == unclear && time.Since(began) > a.cfg.RegistrationTTL+rivalGrace:
				return fmt.Errorf("%w: agent %q is alive and has %s (incarnation %s, internal listener %q); give each agent a name, a --data-dir and addresses of its own, or stop that one",
					ErrRival, other.Name, what, m.Incarnation, other.Internal)
			case other.Name != self.Name && life == gone:
			case life == gone, other.Name == self.Name && other.Volume == self.Volume:
				a.parts.Logger.Info("taking the place of an agent that is gone", "agent", other.Name, "incarnation", m.Incarnation, "has", what)
				// Nothing that it still has under way may take effect after this agent's first entry.
				if err := a.log.Unregister(ctx, m.Incarnation); err != nil && !errors.Is(err, log.ErrUnavailable) {
					return fmt.Errorf("end the registration of incarnation %s: %w", m.Incarnation, err)
				}
			default:
				waiting = what
			}
		}
		if waiting == "" {
			return nil
		}
		select {
		case <-time.After(rivalPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// shares says what two agents have in common that only one can have; "" where nothing is.
func (r registration) shares(other registration) string {
	if r.Name == other.Name {
		return fmt.Sprintf("the name %q", r.Name)
	}
	if r.Internal != "" && r.Internal == other.Internal {
		return "the internal address " + r.Internal
	}
	for _, mine := range r.Advertise {
		for _, theirs := range other.Advertise {
			if mine == theirs {
				return "the advertised address " + mine
			}
		}
	}
	return ""
}

// life is whether the process behind a registration is there.
type life int8

const (
	unclear life = iota
	alive
	gone
)

// alive asks the process behind a registration whether it is there.
func (a *Agent) alive(ctx context.Context, other registration) life {
	if other.Process == a.process {
		return gone // an attempt of this very start
	}
	if a.peers == nil || other.Internal == "" {
		return unclear
	}
	h, err := a.peers.Hello(ctx, other.Internal)
	switch {
	case err == nil && h.Process == other.Process:
		return alive
	case err == nil && h.Process == a.process && other.Name != a.cfg.Name:
		return unclear // our own listener answers at its address; it may be on another machine
	case err == nil, errors.Is(err, syscall.ECONNREFUSED):
		return gone
	}
	return unclear
}

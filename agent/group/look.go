package group

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Types of group, as Kafka's coordinator writes them.
const (
	TypeClassic  = "classic"
	TypeConsumer = "consumer"
)

// consumerProtocol is the protocol type of members that say what topics they read, in a form that this package knows.
const consumerProtocol = "consumer"

// Listing is a group as a list has it.
type Listing struct {
	ID           string
	Type         string
	ProtocolType string // empty: nobody ever joined
	State        string // as Kafka writes it
	Members      int
}

// Description is a group of the classic protocol, or one of offsets only, as tools are shown it.
type Description struct {
	Listing
	Protocol string // of a stable group, as what members bring along is
	Members  []classic.MemberDescription
}

// empty is a group of which there is nothing but offsets.
func empty(id string) Listing {
	return Listing{ID: id, Type: TypeClassic, State: classic.Empty.String()}
}

// Describe describes a group of the classic protocol; one of another, or that is not there, is GroupIDNotFound.
func (c *Coordinator) Describe(id string) (Description, Code) {
	g, code := c.acquire(id)
	if code != step.None {
		return Description{}, code
	}
	defer g.release()
	switch m := g.machine.(type) {
	case *classic.Group:
		if m.Idle() && m.Generation() == 0 && !g.exists() { // a member that never came back with its id
			return Description{}, step.GroupIDNotFound
		}
		return describe(id, m), step.None
	case nil:
		if g.exists() {
			return Description{Listing: empty(id)}, step.None
		}
	}
	return Description{}, step.GroupIDNotFound
}

func describe(id string, m *classic.Group) Description {
	of := m.Describe()
	d := Description{Listing: listClassic(id, &of), Members: of.Members}
	if of.State == classic.Stable {
		d.Protocol = of.Protocol
		return d
	}
	for i := range d.Members {
		d.Members[i].Metadata, d.Members[i].Assignment = nil, nil
	}
	return d
}

func listClassic(id string, of *classic.Description) Listing {
	return Listing{ID: id, Type: TypeClassic, ProtocolType: of.ProtocolType, State: of.State.String(), Members: len(of.Members)}
}

// List lists the groups that this agent coordinates, by id. Each is listed by one agent, but for moments when a slot goes from one
// to another. Where the code is NotAvailable some may be missing, or another's: the agent is unsure, or what was proposed about a group
// is not settled.
func (c *Coordinator) List() ([]Listing, Code) {
	missing := step.None
	if c.unheard() {
		missing = step.NotAvailable
	}
	me := c.meta.Incarnation()
	var list []Listing
	var loaded []*Group
	listed := make(map[string]bool)
	var others []string // with members, or what is left of them
	for i := range state.Slots {
		c.mu.Lock()
		for _, g := range c.slots[i].groups {
			loaded = append(loaded, g)
		}
		c.mu.Unlock()
	}
	for _, g := range loaded {
		g.mu.Lock()
		if l, ok := g.listing(); ok {
			list = append(list, l)
			listed[g.id] = true
		}
		g.mu.Unlock()
	}
	for i := range state.Slots {
		c.meta.View(func(st *state.State) {
			if st.Slot(i).Owner != me {
				return
			}
			for g := range st.GroupsOf(i) {
				switch {
				case listed[g.ID]:
				case g.Kind == entry.GroupSimple:
					list = append(list, empty(g.ID))
				default:
					others = append(others, g.ID)
				}
			}
		})
	}
	for _, id := range others {
		g, code := c.acquire(id)
		switch code {
		case step.None:
			if l, ok := g.listing(); ok {
				list = append(list, l)
			}
			g.release()
		case step.NotAvailable:
			missing = code
		default: // it is not ours any more, or was logged
		}
	}
	slices.SortFunc(list, func(a, b Listing) int { return strings.Compare(a.ID, b.ID) })
	return slices.CompactFunc(list, func(a, b Listing) bool { return a.ID == b.ID }), missing
}

// listing says what there is of the group, if it has a machine. Requires: it is locked.
func (g *Group) listing() (Listing, bool) {
	switch m := g.machine.(type) {
	case *classic.Group:
		of := m.Describe()
		return listClassic(g.id, &of), true
	case *consumer.Group:
		return Listing{ID: g.id, Type: TypeConsumer, ProtocolType: consumerProtocol, State: m.State(), Members: m.Members()}, true
	}
	return Listing{}, false
}

// subscriptions are the names of the topics that the members of a classic group read; ok is false where they do not say.
func subscriptions(m *classic.Group) (names map[string]bool, ok bool) {
	of := m.Describe()
	if of.ProtocolType != consumerProtocol {
		return nil, false
	}
	names = make(map[string]bool)
	for i := range of.Members {
		metadata := of.Members[i].Metadata
		if metadata == nil && len(of.Members[i].Protocols) > 0 { // no protocol is chosen yet
			metadata = of.Members[i].Protocols[0].Metadata
		}
		if !subscribed(metadata, names) {
			return nil, false
		}
	}
	return names, true
}

// subscribed adds the topics of a member's metadata as consumers send it: int16 version, array of names, and more.
func subscribed(b []byte, names map[string]bool) bool {
	if len(b) < 6 {
		return false
	}
	n := binary.BigEndian.Uint32(b[2:])
	for b = b[6:]; n > 0; n-- {
		if len(b) < 2 {
			return false
		}
		size := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; len(b) < size {
			return false
		}
		names[string(b[:size])] = true
		b = b[size:]
	}
	return true
}

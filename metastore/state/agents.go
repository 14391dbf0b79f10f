package state

import (
	"cmp"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// Agent is one joined agent.
type Agent struct {
	NodeID          int32 // stable per Name
	Incarnation     [16]byte
	Name            string
	Listeners       []entry.Listener
	Zone            string
	Version         string
	MaxFeatureLevel uint32
	ClockMs         int64  // of its last entry
	LastSeq         uint64 // of its last entry
	JoinedN         uint64
}

type agent struct {
	Agent
	left bool
}

type agents struct {
	joined map[[16]byte]*agent
	clocks []int64 // ClockMs of the joined, sorted
	nodes  []node  // sorted by id
	// departed incarnations in the order they left: a late copy of their first entry must not join them again.
	departed []departed
	gone     map[[16]byte]struct{} // the same, for look-ups
}

// node is a name that holds a node id, joined or not.
type node struct {
	id    int32
	name  string
	leftN uint64 // when the agent of this name left; 0 while it is joined
}

type departed struct {
	incarnation [16]byte
	lastSeq     uint64
}

func newAgents() agents {
	return agents{joined: make(map[[16]byte]*agent), gone: make(map[[16]byte]struct{})}
}

// joinFirst takes the first entry of an incarnation, which has to begin with a Join.
func (s *State) joinFirst(e *entry.Entry, r *Results) (*agent, Code) {
	if _, left := s.agents.gone[e.Incarnation]; left || e.Seq != 1 || len(e.Ops) == 0 {
		return nil, NotJoined
	}
	join, ok := e.Ops[0].(*entry.Join)
	if !ok {
		return nil, NotJoined
	}
	switch {
	case join.Name == "" || len(join.Name) > MaxAgentName || len(join.Listeners) > MaxListeners:
		return nil, InvalidRequest
	case join.MaxFeatureLevel < s.featureLevel:
		return nil, FeatureLevelUnsupported
	}
	x := &s.agents
	for _, old := range x.joined { // at most one has the name
		if old.Name == join.Name {
			s.depart(old)
			break
		}
	}
	if len(x.joined) >= MaxAgents {
		return nil, LimitExceeded // nobody left above: then there would be room
	}
	a := &agent{Agent: Agent{
		NodeID: x.nodeID(join.Name), Incarnation: e.Incarnation,
		Name: join.Name, Listeners: slices.Clone(join.Listeners), Zone: join.Zone, Version: join.Version,
		MaxFeatureLevel: join.MaxFeatureLevel, ClockMs: e.ClockMs, JoinedN: s.n,
	}}
	x.joined[e.Incarnation] = a
	x.addClock(a.ClockMs)
	r.AgentsChanged = true
	res := rejected(OK)
	res.NodeID = a.NodeID
	r.add(res)
	return a, OK
}

// nodeID finds the id that name has, or gives it the smallest one free.
func (x *agents) nodeID(name string) int32 {
	free := int32(firstNodeID)
	for i := range x.nodes {
		if x.nodes[i].name == name {
			x.nodes[i].leftN = 0
			return x.nodes[i].id
		}
		if x.nodes[i].id == free {
			free++
		}
	}
	at, _ := slices.BinarySearchFunc(x.nodes, free, func(n node, id int32) int { return cmp.Compare(n.id, id) })
	x.nodes = slices.Insert(x.nodes, at, node{id: free, name: name})
	return free
}

func (s *State) leave(op *entry.Leave, r *Results) Code {
	a := s.agents.joined[op.Incarnation]
	if a == nil {
		return NotJoined
	}
	s.depart(a)
	r.AgentsChanged = true
	return OK
}

func (s *State) depart(a *agent) {
	x := &s.agents
	a.left = true
	delete(x.joined, a.Incarnation)
	x.removeClock(a.ClockMs)

	x.gone[a.Incarnation] = struct{}{}
	x.departed = append(x.departed, departed{a.Incarnation, a.LastSeq})
	if len(x.departed) > MaxDeparted {
		delete(x.gone, x.departed[0].incarnation)
		x.departed = slices.Delete(x.departed, 0, 1)
	}

	away, oldest := 0, -1
	for i := range x.nodes {
		if x.nodes[i].id == a.NodeID {
			x.nodes[i].leftN = s.n
		}
		if left := x.nodes[i].leftN; left != 0 {
			away++
			if oldest < 0 || left < x.nodes[oldest].leftN {
				oldest = i
			}
		}
	}
	if away > MaxDepartedNames {
		x.nodes = slices.Delete(x.nodes, oldest, oldest+1)
	}
}

func (x *agents) addClock(c int64) {
	at, _ := slices.BinarySearch(x.clocks, c)
	x.clocks = slices.Insert(x.clocks, at, c)
}

func (x *agents) removeClock(c int64) {
	at, _ := slices.BinarySearch(x.clocks, c)
	x.clocks = slices.Delete(x.clocks, at, at+1)
}

// advanceTime takes the clock of an entry. The median of an even number is the lower middle one: late is safer than early.
func (s *State) advanceTime(a *agent, clockMs int64) {
	x := &s.agents
	x.removeClock(a.ClockMs)
	a.ClockMs = clockMs
	x.addClock(clockMs)
	median := x.clocks[(len(x.clocks)-1)/2]
	s.logTime = max(s.logTime, min(max(clockMs, median-clockSlackMs), median+clockSlackMs))
}

// Agents are the joined agents in order of node id: copies whose Listeners are never modified.
func (s *State) Agents() []Agent {
	list := make([]Agent, 0, len(s.agents.joined))
	for _, a := range s.agents.joined {
		list = append(list, a.Agent)
	}
	slices.SortFunc(list, func(a, b Agent) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return list
}

// AgentByIncarnation reports a joined agent.
func (s *State) AgentByIncarnation(incarnation [16]byte) (Agent, bool) {
	if a := s.agents.joined[incarnation]; a != nil {
		return a.Agent, true
	}
	return Agent{}, false
}

// LastSeqs is the last seq taken of every incarnation that is joined or remembered, for whoever catches up by reading
// the log per incarnation.
func (s *State) LastSeqs() map[[16]byte]uint64 {
	seqs := make(map[[16]byte]uint64, len(s.agents.joined)+len(s.agents.departed))
	for _, d := range s.agents.departed {
		seqs[d.incarnation] = d.lastSeq
	}
	for _, a := range s.agents.joined {
		seqs[a.Incarnation] = a.LastSeq
	}
	return seqs
}

// Departed are the incarnations that left, in that order, as far back as they are remembered.
func (s *State) Departed() [][16]byte {
	list := make([][16]byte, len(s.agents.departed))
	for i := range s.agents.departed {
		list[i] = s.agents.departed[i].incarnation
	}
	return list
}

package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// modes is how the other agents show themselves to clients. Where agents differ in it, a client is told of one broker by some and of all by
// others, and what it asks the one of may be another's to answer. That must pass while a cluster changes from one mode to the other, agent by
// agent, so it ends no start: it is a condition that the agents, `firn cluster status` and the metrics tell of.
type modes struct {
	mu     sync.Mutex // guards the rest
	others map[int32]modeOf
}

// modeOf is what an agent said of itself.
type modeOf struct {
	name string
	mode AdvertiseMode
}

// saw takes what agents said, and forgets those that are not there any more.
func (m *modes) saw(there []int32, answers []Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range answers {
		if s := &answers[i]; s.Agent != "" && s.AdvertiseMode != "" { // older agents do not say
			if m.others == nil {
				m.others = make(map[int32]modeOf)
			}
			m.others[s.NodeID] = modeOf{s.Agent, s.AdvertiseMode}
		}
	}
	maps.DeleteFunc(m.others, func(node int32, _ modeOf) bool { return !slices.Contains(there, node) })
}

// modesNamed bounds how many agents are named.
const modesNamed = 5

// cause says which agents show themselves otherwise than this one, or "".
func (m *modes) cause(own AdvertiseMode) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, node := range slices.Sorted(maps.Keys(m.others)) {
		if o := m.others[node]; o.mode != own {
			names = append(names, fmt.Sprintf("%q", o.name))
		}
	}
	if len(names) == 0 {
		return ""
	}
	more := ""
	if n := len(names) - modesNamed; n > 0 {
		names, more = names[:modesNamed], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("this agent runs with --advertise-mode %s, and %s%s in the other: clients are told of different brokers, depending on whom they ask; start all agents in one mode",
		own, strings.Join(names, ", "), more)
}

package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore/state"
)

// names of the agents that one knows of.
func names(m *mate) (all []string) {
	m.Metastore().View(func(st *state.State) {
		for _, a := range st.Agents() {
			all = append(all, a.Name)
		}
	})
	return all
}

// The others remove an agent that was killed, long before its registration lapses.
func TestKilledAgentIsMissedAtOnce(t *testing.T) {
	c := newTeam(t)
	long := func(m *mate) { m.cfg.RegistrationTTL = 10 * time.Minute }
	a, b := c.join("a", long), c.join("b", long)
	third := c.join("c", long)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	until := func(what string, f func() bool) {
		t.Helper()
		for !f() {
			select {
			case <-ctx.Done():
				t.Fatal(what)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	until("they do not know each other", func() bool { return len(names(a)) == 3 && len(names(b)) == 3 && a.Met() == 2 && b.Met() == 2 })
	third.log.SetFaults(partitioned) // or Kill would take the registration along
	third.Kill()
	until("it is still there", func() bool { return len(names(a)) == 2 && len(names(b)) == 2 })
}

func TestWhoIsTakenForGone(t *testing.T) {
	const nothing, it, nobody = agent.SawNothing, agent.SawIt, agent.SawNobody
	for _, c := range []struct {
		what string
		saw  []agent.Sight
		want bool
	}{
		{"refused twice", []agent.Sight{it, nobody, nobody}, true},
		{"refused twice, silent between", []agent.Sight{it, nobody, nothing, nobody}, true},
		{"refused once", []agent.Sight{it, nobody}, false},
		{"back before the second look", []agent.Sight{it, nobody, it, nobody}, false},
		{"silent", []agent.Sight{it, nothing, nothing, nothing, nothing}, false},
		{"never met: something on the way refuses", []agent.Sight{nobody, nobody, nobody, nobody}, false},
	} {
		if got := agent.Gone(c.saw); got != c.want {
			t.Errorf("%s: gone is %v", c.what, got)
		}
	}
}

// Each looks after the next two, so every agent has two who do, and nobody has to look after all.
func TestWhoLooksAfterWhom(t *testing.T) {
	watchers := make(map[int32]int)
	for me := range int32(7) {
		after := agent.Charges([]int32{3, 0, 6, 1, 5, 2, 4}, me)
		if len(after) != 2 || after[0] != (me+1)%7 || after[1] != (me+2)%7 {
			t.Errorf("%d looks after %v", me, after)
		}
		for _, n := range after {
			watchers[n]++
		}
	}
	for n, k := range watchers {
		if k != 2 {
			t.Errorf("%d is looked after by %d", n, k)
		}
	}
	if after := agent.Charges([]int32{4}, 4); len(after) != 0 {
		t.Errorf("one alone looks after %v", after)
	}
}

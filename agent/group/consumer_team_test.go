package group_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
)

// modern is a consumer of KIP-848 as a client library would be one. Its rounds run one after the other.
type modern struct {
	w      *team
	id     string
	epoch  int32
	holds  map[string]consumer.TopicPartitions // what it works on, by name
	wanted consumer.Assignment
	say    bool // what it holds has changed since it last said so
	whole  bool // its last heartbeat has no answer: the next says everything
	heard  time.Time
}

// owned is what it holds, as it says so.
func (p *modern) owned() consumer.Assignment {
	var list []consumer.TopicPartitions
	for _, tp := range p.holds {
		list = append(list, tp)
	}
	if a := consumer.NewAssignment(list); len(a) > 0 {
		return a
	}
	return consumer.Assignment{}
}

func (p *modern) take(a consumer.Assignment) {
	for _, tp := range a {
		for _, n := range tp.Partitions {
			p.holds[fmt.Sprintf("%x-%d", tp.Topic[:2], n)] = consumer.TopicPartitions{Topic: tp.Topic, Partitions: []int32{n}}
		}
	}
}

// round is a heartbeat to whoever coordinates the group, if anybody does.
func (p *modern) round(t *testing.T, group string) {
	m := p.w.owner(group)
	if m == nil {
		return
	}
	h := consumer.Heartbeat{Version: 1, MemberID: p.id, MemberEpoch: p.epoch, RebalanceMs: -1}
	if p.epoch == 0 || p.whole {
		h.RebalanceMs, h.Names = 20_000, []string{"t"}
	}
	if p.epoch == 0 || p.whole || p.say {
		h.Owned = p.owned()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	a, code, err := m.ConsumerHeartbeat(ctx, group, h)
	switch {
	case err != nil && !errors.Is(err, context.DeadlineExceeded):
		t.Errorf("heartbeat of %s: %v", p.id, err)
	case err != nil || elsewhere(code):
		p.whole = true
	case code == step.UnknownMemberID || code == step.FencedMemberEpoch:
		clear(p.holds)
		p.wanted, p.epoch, p.say, p.whole = nil, 0, false, false
	case code != step.None:
		t.Errorf("heartbeat of %s: code %d %s", p.id, code, a.Message)
	default:
		p.epoch, p.say, p.whole, p.heard = a.MemberEpoch, false, false, time.Now()
		if a.Assigned {
			p.take(a.Assignment)
			p.wanted, p.say = a.Assignment, true
		}
	}
}

// giveUp lets go of what it was told to.
func (p *modern) giveUp() {
	clear(p.holds)
	p.take(p.wanted)
	p.say = true
}

// Members of the consumer protocol go on while agents are killed, cut off, drained and started, members come and go, and the topic grows:
// at no time do two of them own one partition, and in the end they share all.
func TestNoTwoMembersOwnAPartitionWhateverHappensToAgents(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			withTeam(t, func(t *testing.T, w *team) { ownOnce(t, w, rand.New(rand.NewPCG(seed, 848))) })
		})
	}
}

func ownOnce(t *testing.T, w *team, random *rand.Rand) {
	first, second := w.join("a"), w.join("b")
	w.settled(first, second)
	topic := w.topic(first, "t")
	partitions := uint32(4)
	var people []*modern
	born := 0
	arrive := func() {
		born++
		people = append(people, &modern{w: w, id: fmt.Sprint("m", born), holds: map[string]consumer.TopicPartitions{}})
	}
	check := func() {
		holder := map[string]string{}
		for _, p := range people {
			if time.Since(p.heard) > 19*time.Second {
				continue // it may have had something to give up within its rebalance timeout, and was not told
			}
			for name := range p.holds {
				if other, ok := holder[name]; ok {
					t.Fatalf("%s is owned by %s and by %s", name, other, p.id)
				}
				holder[name] = p.id
			}
		}
	}
	live := func() (list []*mate) {
		for _, m := range w.members {
			if !m.gone {
				list = append(list, m)
			}
		}
		return list
	}
	var cutOff *mate
	heal := func() {
		if cutOff != nil && !cutOff.gone {
			cutOff.log.SetFaults(memlog.Faults{})
		}
		cutOff = nil
	}
	agents := 2
	for range 3 {
		arrive()
	}
	for turn := range 150 {
		for _, p := range people {
			p.round(t, "g")
			check()
			if random.IntN(3) > 0 {
				p.giveUp()
			}
		}
		time.Sleep(time.Duration(100+random.IntN(900)) * time.Millisecond)
		switch random.IntN(12) {
		case 0:
			if len(people) < 6 {
				arrive()
			}
		case 1:
			if len(people) > 1 { // leaves in good order, if anybody hears it
				p := people[random.IntN(len(people))]
				clear(p.holds)
				if m := w.owner("g"); m != nil {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, _, _ = m.ConsumerHeartbeat(ctx, "g", consumer.Heartbeat{Version: 1, MemberID: p.id, MemberEpoch: -1, RebalanceMs: -1})
					cancel()
				}
				for i := range people {
					if people[i] == p {
						people = append(people[:i], people[i+1:]...)
						break
					}
				}
			}
		case 2:
			heal()
			if list := live(); len(list) > 1 {
				w.kill(list[random.IntN(len(list))])
			}
		case 3:
			heal()
			if list := live(); len(list) > 1 && turn > 20 {
				w.drain(list[random.IntN(len(list))])
			}
		case 4:
			heal()
			if len(live()) < 3 {
				agents++
				w.join(fmt.Sprint("agent-", agents))
			}
		case 5: // whoever coordinates is cut off from the log for a few turns
			heal()
			if m := w.owner("g"); m != nil && len(live()) > 1 {
				cutOff = m
				m.log.SetFaults(memlog.Faults{Partitioned: true})
			}
		case 6:
			if m := w.owner("g"); m != nil && cutOff == nil && partitions < 9 {
				partitions++
				if r, err := m.meta.Propose(t.Context(), &entry.CreatePartitions{ID: topic, Total: partitions}); err != nil || r.Code != state.OK {
					t.Fatalf("the topic grows: %v, %v", r.Code, err)
				}
			}
		default:
			if random.IntN(4) == 0 {
				heal()
			}
		}
	}
	heal()
	for range 120 { // those who left unheard are missed, and everybody else settles
		for _, p := range people {
			p.round(t, "g")
			check()
			p.giveUp()
		}
		time.Sleep(time.Second)
	}
	total := 0
	for _, p := range people {
		n := len(p.holds)
		if total += n; n < int(partitions)/len(people) || n > int(partitions)/len(people)+1 {
			t.Errorf("%s has %d of %d partitions among %d members", p.id, n, partitions, len(people))
		}
	}
	if total != int(partitions) {
		t.Errorf("the members have %d partitions of %d", total, partitions)
	}
}

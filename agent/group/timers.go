package group

import (
	"container/heap"
	"sync"
	"time"
)

// timers is a heap of the groups that have a deadline. It wakes a group never later than its machine has something to do;
// the machine knows whether it really has. So a heartbeat, which puts a deadline off, costs nothing here.
type timers struct {
	wake chan struct{} // the first deadline has changed

	mu   sync.Mutex // guards the rest, and due and timer of the groups in there
	list byDue
}

// set makes sure that the group is woken at due; zero is never.
func (t *timers) set(g *Group, due time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case due.IsZero():
		return // where it is in there it is woken in vain, once
	case g.timer < 0:
		g.due = due
		heap.Push(&t.list, g)
	case due.Before(g.due):
		g.due = due
		heap.Fix(&t.list, g.timer)
	default:
		return
	}
	if g.timer == 0 {
		wake(t.wake)
	}
}

// remove takes the group out.
func (t *timers) remove(g *Group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.timer >= 0 {
		heap.Remove(&t.list, g.timer)
	}
}

// pop takes out a group that is due, or says when the next is; zero: there is none.
func (t *timers) pop(now time.Time) (g *Group, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) == 0 {
		return nil, next
	}
	if first := t.list[0]; now.Before(first.due) {
		return nil, first.due
	}
	g, _ = heap.Pop(&t.list).(*Group)
	return g, g.due
}

// keepTime wakes groups.
func (c *Coordinator) keepTime() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		g, next := c.timers.pop(now)
		if g != nil {
			g.tick(now, now.Sub(next))
			if c.ctx.Err() != nil {
				return
			}
			continue
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(next.Sub(now))
		}
		select {
		case <-timer.C:
		case <-c.timers.wake:
		case <-c.ctx.Done():
			return
		}
	}
}

// byDue implements heap.Interface.
type byDue []*Group

func (l byDue) Len() int           { return len(l) }
func (l byDue) Less(i, j int) bool { return l[i].due.Before(l[j].due) }
func (l byDue) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].timer, l[j].timer = i, j
}

func (l *byDue) Push(x any) {
	g, _ := x.(*Group)
	g.timer = len(*l)
	*l = append(*l, g)
}

func (l *byDue) Pop() any {
	last := len(*l) - 1
	g := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	g.timer = -1
	return g
}

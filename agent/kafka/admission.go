package kafka

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// admission counts connections by the address they come from. Addresses of IPv6 count by their /64, which is what one
// client is given.
type admission struct {
	most int           // connections of one address
	rate time.Duration // between connections of one address, in the long run
	// budgets are shared between addresses. Set before the first connection.
	budgets []*budget

	mu   sync.Mutex // guards from
	from map[netip.Addr]*visitor
}

type visitor struct {
	open int
	// due is when the next connection would come if all came at the rate. It may lie admissionBurst ahead before any waits.
	due time.Time
	// shares are what is left to it of each budget.
	shares [kinds]*semaphore.Weighted
}

// share is the address's part of a budget; nil where there is none.
func (v *visitor) share(b *budget) *semaphore.Weighted {
	if v == nil || b.kind == kinds {
		return nil
	}
	return v.shares[b.kind]
}

// admissionBurst is for how long's worth of connections nobody waits.
const admissionBurst = time.Second

// visitorsMax bounds those that are remembered without a connection.
const visitorsMax = 10_000

func newAdmission(most, perSecond int) *admission {
	return &admission{most: most, rate: time.Second / time.Duration(perSecond), from: make(map[netip.Addr]*visitor)}
}

// addressOf is what counts as one client; zero where there is no address.
func addressOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	if addr.Is6() {
		prefix, _ := addr.Prefix(64)
		return prefix.Addr()
	}
	return addr
}

// enter counts a connection in, which has to wait first where its address makes too many; ok is false where it has too many.
func (a *admission) enter(addr netip.Addr, now time.Time) (v *visitor, wait time.Duration, ok bool) {
	if !addr.IsValid() {
		return nil, 0, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	v = a.from[addr]
	if v == nil {
		if len(a.from) >= visitorsMax {
			a.pruneLocked(now)
		}
		v = &visitor{}
		for _, b := range a.budgets {
			v.shares[b.kind] = semaphore.NewWeighted(b.share())
		}
		a.from[addr] = v
	}
	if v.open >= a.most {
		return nil, 0, false
	}
	v.open++
	if v.due.Before(now) {
		v.due = now
	}
	wait = v.due.Sub(now) - admissionBurst
	v.due = v.due.Add(a.rate)
	return v, max(wait, 0), true
}

func (a *admission) leave(addr netip.Addr, now time.Time) {
	if !addr.IsValid() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if v := a.from[addr]; v != nil {
		if v.open--; v.open == 0 && !v.due.After(now) {
			delete(a.from, addr)
		}
	}
}

func (a *admission) pruneLocked(now time.Time) {
	for addr, v := range a.from {
		if v.open == 0 && !v.due.After(now) {
			delete(a.from, addr)
		}
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// shareReads lets the read cache get from other agents what they have, where there is a way to them.
func (a *Agent) shareReads() {
	if a.peers == nil {
		return
	}
	a.cache.Share(fetch.Sharing{Peers: segments{a.peers}, Agents: a.sharers, Self: a.meta.NodeID})
}

// sharers are the live agents that can be asked for bytes.
func (a *Agent) sharers() (list []fetch.Agent) {
	a.meta.View(func(st *state.State) {
		for _, other := range st.Agents() {
			for _, l := range other.Listeners {
				if l.Name == peer.ListenerName {
					list = append(list, fetch.Agent{Node: other.NodeID, Incarnation: other.Incarnation, Zone: other.Zone})
					break
				}
			}
		}
	})
	return list
}

// segments asks other agents' caches.
type segments struct{ peers *peer.Client }

func (s segments) Read(ctx context.Context, node int32, ask fetch.Ask) ([]byte, error) {
	body, err := s.peers.ReadRange(ctx, node, peer.Range{
		Key: ask.Object.Key(), ObjectSize: ask.ObjectSize, Position: ask.Position, Size: ask.Size, Held: ask.Held, Cold: ask.Cold,
	})
	var none *peer.NotHeld
	switch {
	case errors.As(err, &none):
		return nil, &fetch.NotHeld{Below: none.Below}
	case errors.Is(err, peer.ErrBusy):
		return nil, fmt.Errorf("%w: %w", fetch.ErrBusy, err)
	case errors.Is(err, peer.ErrRefused):
		return nil, fmt.Errorf("%w: %w", fetch.ErrRefused, err)
	}
	return body, err
}

// serveSegment gives another agent a range of an object out of the read cache.
func (a *Agent) serveSegment(ctx context.Context, q peer.Range) ([]byte, func(), error) {
	id, err := entry.ParseObjectKey(q.Key)
	if err != nil {
		return nil, nil, err
	}
	body, done, err := a.cache.Serve(ctx, fetch.Ask{
		Object: id, ObjectSize: q.ObjectSize, Position: q.Position, Size: q.Size, Held: q.Held, Cold: q.Cold,
	})
	var none *fetch.NotHeld
	switch {
	case errors.As(err, &none):
		return nil, nil, &peer.NotHeld{Below: none.Below}
	case errors.Is(err, fetch.ErrBusy):
		return nil, nil, fmt.Errorf("%w: %w", peer.ErrBusy, err)
	}
	return body, done, err
}

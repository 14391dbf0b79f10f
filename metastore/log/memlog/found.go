package memlog

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/firnlog/firn/metastore/log"
)

var _ log.Founder = (*Log)(nil)

// Standing implements log.Founder.
func (l *Log) Standing(ctx context.Context) (out log.Standing, err error) {
	err = l.call(ctx, "standing", func(s *Store) error {
		out = log.Standing{Identity: s.identity}
		for _, k := range s.keysLocked() {
			if out.Keys++; len(out.Some) < 5 {
				out.Some = append(out.Some, k)
			}
		}
		return nil
	})
	return out, err
}

// keysLocked names everything that a store would have a key for.
func (s *Store) keysLocked() (keys []string) {
	for i := range s.registrations {
		if s.liveLocked(i) {
			keys = append(keys, "agents/"+i.String())
		}
	}
	for name := range s.cells {
		if s.cellLocked(name).Version > 0 {
			keys = append(keys, "cells/"+name)
		}
	}
	for k := range s.keys {
		keys = append(keys, "log/"+k.String())
	}
	if s.identity.Epoch > 0 {
		keys = append(keys, "meta")
	}
	slices.Sort(keys)
	return keys
}

// Found implements log.Founder.
func (l *Log) Found(ctx context.Context, identity log.Identity, cells map[string][]byte) (out log.Identity, err error) {
	cells = maps.Clone(cells)
	err = l.call(ctx, "found", func(s *Store) error {
		if len(s.keysLocked()) > 0 {
			return fmt.Errorf("%w: the store is not empty", log.ErrConflict)
		}
		s.identity = identity
		s.identity.Cluster = cluster
		for name, value := range cells {
			s.revision++
			s.cells[name] = &cell{Cell: log.Cell{Value: slices.Clone(value), Version: uint64(s.revision)}}
		}
		out = s.identity
		return nil
	})
	return out, err
}

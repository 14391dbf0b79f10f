package metastore

import (
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// foundingLevel moves a new log to the newest level that this build knows, in the entry of its first agent's join: there is
// nobody yet who could not follow. Where another agent was first after all, the op is refused or says what is so already.
func (c *Client) foundingLevel() []proposal {
	if c.applied.Load() > c.identity.Base {
		return nil
	}
	op := &entry.SetFeatureLevel{Level: state.MaxFeatureLevel}
	value, err := c.encoder.encode(op, false)
	if err != nil { // it has a few bytes
		panic(err)
	}
	return []proposal{{value: value, level: entry.Level(op), at: time.Now(), done: func(state.OpResult, error) {}}}
}

// levelWatch is since when a level is one that every joined agent supports.
type levelWatch struct {
	level uint32
	since time.Time
}

// raiseLevel moves the cluster to the highest feature level that every joined agent supports, once that has been so for a
// while. It is the duty of the joined agent with the lowest node id; an op of another one would do no harm.
func (c *Client) raiseLevel(w *levelWatch) {
	level, ours := uint32(0), false
	c.View(func(st *state.State) {
		agents := st.Agents()
		if ours = len(agents) > 0 && agents[0].Incarnation == [16]byte(c.Incarnation()); !ours {
			return
		}
		for level = state.MaxFeatureLevel; len(agents) > 0; agents = agents[1:] {
			level = min(level, agents[0].MaxFeatureLevel)
		}
	})
	switch now := c.clockNow(); {
	case !ours || level <= c.level.Load():
		*w = levelWatch{}
	case level != w.level:
		*w = levelWatch{level: level, since: now}
	case now.Sub(w.since) >= c.cfg.LevelPatience:
		w.since = now // what comes of it shows below; where nothing does, it is tried again
		c.Submit(&entry.SetFeatureLevel{Level: level}, func(r state.OpResult, err error) {
			if err == nil && r.Code == state.OK {
				c.cfg.Logger.Info("moved the cluster to a higher feature level: agents of builds that do not know it cannot join any more", "level", level)
			}
		})
	}
}
